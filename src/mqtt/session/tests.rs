use std::net::Ipv4Addr;

use futures_util::{SinkExt, StreamExt};
use rumqttc::{
    Codec, ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode,
};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
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

/// A session that runs, and the broker's end.
struct Begun {
    listener: TcpListener,
    finish: CancellationToken,
    publisher: Publisher,
    running: JoinHandle<()>,
    /// Takes its events.
    listening: JoinHandle<()>,
}

async fn begin(options: fn(u16) -> Options) -> Begun {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let finish = CancellationToken::new();
    let transport = Transport::new(&[]).unwrap();
    let (session, publisher, mut events) = Session::new(options(port), transport, finish.clone());
    Begun {
        listener,
        finish,
        publisher,
        running: tokio::spawn(session.run()),
        listening: tokio::spawn(async move { while events.recv().await.is_some() {} }),
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

/// Answers everything until the session says goodbye; returns what it has published.
async fn until_disconnect(link: &mut Framed<TcpStream, Codec>) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        match link.next().await {
            Some(Ok(Packet::Publish(publish))) => {
                said.push(String::from_utf8_lossy(&publish.payload).into_owned());
                acknowledge(link, &publish).await;
            }
            Some(Ok(Packet::Subscribe(subscribe))) => grant(link, subscribe.pkid).await,
            Some(Ok(Packet::Disconnect)) => return said,
            other => panic!("{other:?}"),
        }
    }
}

async fn acknowledge(link: &mut Framed<TcpStream, Codec>, publish: &Publish) {
    let answer = Packet::PubAck(PubAck::new(publish.pkid));
    link.send(answer).await.unwrap();
}

/// Takes the wish for topics; returns what grants it.
async fn asked_for_topics(link: &mut Framed<TcpStream, Codec>) -> u16 {
    match link.next().await {
        Some(Ok(Packet::Subscribe(subscribe))) => subscribe.pkid,
        other => panic!("no SUBSCRIBE: {other:?}"),
    }
}

async fn grant(link: &mut Framed<TcpStream, Codec>, packet_id: u16) {
    let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
    let answer = Packet::SubAck(SubAck::new(packet_id, granted));
    link.send(answer).await.unwrap();
}

/// A session that says when it comes and when it goes.
fn polite(port: u16) -> Options {
    Options {
        subscribe: vec!["s/ds".to_owned()],
        greeting: vec![Message::new("s/us/gw_adit", "104,up")],
        farewell: vec![Message::new("s/us/gw_adit", "104,down")],
        ..silent(port)
    }
}

#[tokio::test]
async fn does_not_say_that_it_is_there_behind_the_word_that_it_goes() {
    let Begun {
        listener,
        finish,
        running,
        listening,
        ..
    } = begin(polite).await;
    let told = async {
        // It is to end while its topics are not granted.
        let mut link = accept(&listener).await;
        let asked = asked_for_topics(&mut link).await;
        finish.cancel();
        grant(&mut link, asked).await;
        until_disconnect(&mut link).await
    };
    let said = timeout(LIMIT, told).await.unwrap();
    assert_ne!(said.last().map(String::as_str), Some("104,up"), "{said:?}");
    running.await.unwrap();
    listening.abort();
}

#[tokio::test]
async fn says_on_its_next_connection_only_that_it_goes_where_the_last_one_broke_at_that() {
    let Begun {
        listener,
        finish,
        running,
        listening,
        ..
    } = begin(polite).await;
    let told = async {
        let mut link = accept(&listener).await;
        let asked = asked_for_topics(&mut link).await;
        grant(&mut link, asked).await;
        let up = published(&mut link).await;
        assert_eq!(up.payload, "104,up");
        acknowledge(&mut link, &up).await;
        finish.cancel();
        assert_eq!(published(&mut link).await.payload, "104,down");
        drop(link);
        let mut link = accept(&listener).await;
        until_disconnect(&mut link).await
    };
    let said = timeout(LIMIT, told).await.unwrap();
    assert_eq!(said, ["104,down"]);
    running.await.unwrap();
    listening.abort();
}

/// How a session leaves a broker that it has greeted, and comes again.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// To show another certificate.
    LogsInAgain,
    /// For another process, which fails.
    Rests,
}

/// When it is to end then.
#[derive(Clone, Copy, Debug)]
enum Stop {
    BeforeLogin,
    BeforeItsTopicsAreGranted,
}

#[tokio::test]
async fn says_that_it_goes_where_it_was_greeted_on_a_connection_that_it_has_left() {
    for (leave, stop) in [
        (Leave::LogsInAgain, Stop::BeforeLogin),
        (Leave::LogsInAgain, Stop::BeforeItsTopicsAreGranted),
        (Leave::Rests, Stop::BeforeLogin),
        (Leave::Rests, Stop::BeforeItsTopicsAreGranted),
    ] {
        let Begun {
            listener,
            finish,
            publisher,
            running,
            listening,
        } = begin(polite).await;
        let told = async {
            let mut link = accept(&listener).await;
            let asked = asked_for_topics(&mut link).await;
            grant(&mut link, asked).await;
            match leave {
                Leave::LogsInAgain => publisher.log_in_again(),
                Leave::Rests => {
                    let up = published(&mut link).await;
                    acknowledge(&mut link, &up).await;
                    publisher.rest();
                }
            }
            // That takes the will back.
            until_disconnect(&mut link).await;
            if matches!(stop, Stop::BeforeLogin) {
                finish.cancel();
            }
            publisher.go_on();
            let mut link = accept(&listener).await;
            let asked = asked_for_topics(&mut link).await;
            finish.cancel();
            let down = published(&mut link).await;
            assert_eq!(down.payload, "104,down", "{leave:?} {stop:?}");
            // Its topics are granted behind that.
            grant(&mut link, asked).await;
            acknowledge(&mut link, &down).await;
            until_disconnect(&mut link).await
        };
        let said = timeout(LIMIT, told).await.expect("in time");
        assert!(said.is_empty(), "{leave:?} {stop:?}: {said:?}");
        running.await.unwrap();
        listening.abort();
    }
}

#[tokio::test]
async fn says_that_it_goes_for_the_process_before_it_which_said_that_it_is_there() {
    let Begun {
        listener,
        finish,
        publisher,
        running,
        listening,
    } = begin(polite).await;
    publisher.standing().is_greeted = true;
    finish.cancel();
    let told = async {
        let mut link = accept(&listener).await;
        until_disconnect(&mut link).await
    };
    assert_eq!(timeout(LIMIT, told).await.unwrap(), ["104,down"]);
    running.await.unwrap();
    listening.abort();
}

#[tokio::test]
async fn says_nothing_again_that_was_acknowledged_before_a_write_failed() {
    let Begun {
        listener,
        publisher,
        running,
        listening,
        ..
    } = begin(silent).await;
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
