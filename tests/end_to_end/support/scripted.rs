//! A broker that answers as a test says.

use std::net::Ipv4Addr;

use futures_util::{SinkExt, StreamExt};
use rumqttc::{
    Codec, ConnAck, ConnectReturnCode, Packet, PubAck, QoS, SubAck, SubscribeReasonCode,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::codec::Framed;

/// A broker that answers as a test says, at a port of 127.0.0.1.
pub(crate) struct ScriptedBroker {
    pub(crate) port: u16,
    serving: JoinHandle<()>,
}

impl ScriptedBroker {
    /// Serves one connection after the other. `answer` gets the number of the connection, from 1,
    /// and each packet. A DISCONNECT, which no broker sends, stands for the end of the connection.
    pub(crate) async fn start(
        answer: impl FnMut(usize, &Packet) -> Vec<Packet> + Send + 'static,
    ) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0), answer).await
    }

    /// Serves at an address that is the test's own.
    pub(crate) async fn start_at(
        address: (Ipv4Addr, u16),
        mut answer: impl FnMut(usize, &Packet) -> Vec<Packet> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                let codec = Codec {
                    max_incoming_size: 1 << 16,
                    max_outgoing_size: 1 << 16,
                };
                let mut link = Framed::new(stream, codec);
                'connection: while let Some(Ok(packet)) = link.next().await {
                    for answer in answer(number, &packet) {
                        if answer == Packet::Disconnect {
                            break 'connection;
                        }
                        let _ = link.send(answer).await;
                    }
                }
            }
        });
        Self { port, serving }
    }

    /// The setting that leads adit to it.
    pub(crate) fn setting(&self) -> String {
        format!("mqtt.url=mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for ScriptedBroker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What any broker answers.
pub(crate) fn usual_answer(packet: &Packet) -> Vec<Packet> {
    match packet {
        Packet::Connect(_) => vec![Packet::ConnAck(ConnAck::new(
            ConnectReturnCode::Success,
            false,
        ))],
        Packet::Publish(publish) => vec![Packet::PubAck(PubAck::new(publish.pkid))],
        Packet::Subscribe(subscribe) => {
            let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
            let codes = vec![granted; subscribe.filters.len()];
            vec![Packet::SubAck(SubAck::new(subscribe.pkid, codes))]
        }
        Packet::PingReq => vec![Packet::PingResp],
        _ => Vec::new(),
    }
}
