use std::net::Ipv4Addr;

use futures_util::{SinkExt, StreamExt};
use rumqttc::{Codec, ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::codec::Framed;

use super::*;
use crate::net::{BrokerEndpoint, Endpoint};

/// More than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A session that says nothing by itself.
fn silent(port: u16) -> Options {
    Options {
        account: Account {
            broker: BrokerEndpoint {
                server: Endpoint {
                    tls: false,
                    host: Ipv4Addr::LOCALHOST.to_string(),
                    port,
                },
                websocket: None,
            },
            client_id: "gw".to_owned(),
            login: None,
            keep_alive: Duration::from_secs(60),
            will: None,
        },
        create: Vec::new(),
        subscribe: Vec::new(),
        subscribe_if_granted: Vec::new(),
        announce: Vec::new(),
        once: Vec::new(),
        greeting: Vec::new(),
        resume: Vec::new(),
        farewell: Vec::new(),
    }
}

/// Takes a connection and its login.
async fn accept(listener: &TcpListener) -> Framed<TcpStream, Codec> {
    let (stream, _) = listener.accept().await.unwrap();
    let codec = Codec {
        max_incoming_size: 1 << 16,
        max_outgoing_size: 1 << 16,
    };
    let mut link = Framed::new(stream, codec);
    assert!(matches!(link.next().await, Some(Ok(Packet::Connect(_)))));
    let granted = ConnAck::new(ConnectReturnCode::Success, false);
    link.send(Packet::ConnAck(granted)).await.unwrap();
    link
}

async fn published(link: &mut Framed<TcpStream, Codec>) -> Publish {
    match link.next().await {
        Some(Ok(Packet::Publish(publish))) => publish,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn says_nothing_again_that_was_acknowledged_before_a_write_failed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let finish = CancellationToken::new();
    let transport = Transport::new(&[]).unwrap();
    let (session, publisher, mut events) = Session::new(silent(port), transport, finish);
    let running = tokio::spawn(session.run());
    let listening = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let told = async {
        publisher.publish(Message::new("s/us", "502,c8y_RemoteAccessConnect,first"));
        let mut link = accept(&listener).await;
        let first = published(&mut link).await;
        // A message that adit has to answer, and behind it the acknowledgement; then no more is taken.
        let mut row = Publish::new("s/ds", QoS::AtLeastOnce, "511,gw,reboot");
        row.pkid = 1;
        link.feed(Packet::Publish(row)).await.unwrap();
        link.feed(Packet::PubAck(PubAck::new(first.pkid)))
            .await
            .unwrap();
        SinkExt::<Packet>::flush(&mut link).await.unwrap();
        SockRef::from(link.get_ref())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(link);
        publisher.publish(Message::new("s/us", "502,c8y_RemoteAccessConnect,second"));
        let mut link = accept(&listener).await;
        published(&mut link).await.payload
    };
    let payload = timeout(LIMIT, told).await.unwrap();
    assert_eq!(payload, "502,c8y_RemoteAccessConnect,second");
    running.abort();
    listening.abort();
}
