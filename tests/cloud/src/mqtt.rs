//! The platform as a client of the broker that it shares with the gateway.
//!
//! The session is persistent and a publish is acknowledged only when it has been applied, so that
//! the platform loses nothing itself. A broker without persistence that is killed forgets the
//! session: rows that it accepts before the platform is back reach nobody. The platform therefore
//! comes back within [`RETRY`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use rumqttc::{
    Codec, Connect, ConnectReturnCode, Packet, PubAck, Publish, QoS, Subscribe, SubscribeFilter,
    SubscribeReasonCode,
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, interval, sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::codec::Framed;
use tracing::{debug, info};

use crate::board::Board;
use crate::options::{Broker, Options};
use crate::platform::Delivery;
use crate::stream::Stream;

/// The pause before the next attempt to connect.
const RETRY: Duration = Duration::from_millis(50);
/// How long the broker may take for one step of the connection.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// Between two pings; the broker is given up when one was not answered before the next.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Publishes sent and not yet acknowledged.
const MAX_UNACKNOWLEDGED: usize = 16;
/// The broker's limit for packets, not the platform's, so that a test can send any size.
const MAX_PACKET: usize = 16 * 1024 * 1024;
const SUBSCRIBE_ID: u16 = u16::MAX;
/// Where a gateway publishes, without prefix.
const TOPICS: [&str; 7] = [
    "s/us",
    "s/us/+",
    "s/uat",
    "s/ut/+",
    "s/uc/+",
    "s/ucr",
    "inventory/managedObjects/update/+",
];

/// Whether the platform is subscribed at the broker, and if not, why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Link {
    Down(String),
    Up,
}

/// The platform's client.
pub(crate) struct Client {
    broker: Broker,
    prefix: String,
    board: Arc<Board>,
    deliveries: mpsc::Receiver<Delivery>,
    link: watch::Sender<Link>,
    unacknowledged: VecDeque<Publish>,
    last_id: u16,
}

type Connection = Framed<Stream, Codec>;

impl Client {
    pub(crate) fn new(
        options: &Options,
        board: Arc<Board>,
        deliveries: mpsc::Receiver<Delivery>,
        link: watch::Sender<Link>,
    ) -> Self {
        Self {
            broker: options.broker.clone(),
            prefix: options.topic_prefix.clone(),
            board,
            deliveries,
            link,
            unacknowledged: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Stays connected until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let Err(error) = self.session().await;
            debug!(error = format!("{error:#}"), "not connected to the broker");
            self.link.send_replace(Link::Down(format!("{error:#}")));
            sleep(RETRY).await;
        }
    }

    async fn session(&mut self) -> anyhow::Result<Infallible> {
        let mut connection = timeout(STEP_LIMIT, self.connect())
            .await
            .context("the broker does not answer")??;
        let filters = TOPICS
            .iter()
            .map(|topic| SubscribeFilter::new(format!("{}{topic}", self.prefix), QoS::AtLeastOnce));
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = SUBSCRIBE_ID;
        send(&mut connection, Packet::Subscribe(subscribe)).await?;
        for publish in &mut self.unacknowledged {
            publish.dup = true;
            send(&mut connection, Packet::Publish(publish.clone())).await?;
        }
        let mut pings = pings();
        let mut ping_open = false;
        loop {
            let room = self.unacknowledged.len() < MAX_UNACKNOWLEDGED;
            tokio::select! {
                packet = connection.next() => match packet.context("the broker hung up")?? {
                    Packet::Publish(publish) => self.take(&mut connection, &publish).await?,
                    Packet::PubAck(ack) => self.unacknowledged.retain(|p| p.pkid != ack.pkid),
                    Packet::SubAck(ack) => {
                        if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                            bail!("the broker refuses the subscription");
                        }
                        info!("connected to the broker");
                        self.link.send_replace(Link::Up);
                    }
                    Packet::PingResp => ping_open = false,
                    other => debug!(?other, "unexpected packet"),
                },
                Some(delivery) = self.deliveries.recv(), if room => {
                    let publish = self.publish(delivery);
                    self.unacknowledged.push_back(publish.clone());
                    send(&mut connection, Packet::Publish(publish)).await?;
                }
                _ = pings.tick() => {
                    if ping_open {
                        bail!("the broker has stopped answering");
                    }
                    ping_open = true;
                    send(&mut connection, Packet::PingReq).await?;
                }
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let Broker { host, port, .. } = &self.broker;
        let tcp = TcpStream::connect((host.as_str(), *port))
            .await
            .with_context(|| format!("cannot reach the broker at {host}:{port}"))?;
        tcp.set_nodelay(true)?;
        let stream = match &self.broker.roots {
            None => Stream::Plain(tcp),
            Some(roots) => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
                let name = ServerName::try_from(host.clone())?;
                let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
                Stream::Tls(Box::new(TlsStream::from(tls.await?)))
            }
        };
        let codec = Codec {
            max_incoming_size: MAX_PACKET,
            max_outgoing_size: MAX_PACKET,
        };
        let mut connection = Framed::new(stream, codec);
        let mut connect = Connect::new(&self.broker.client_id);
        connect.clean_session = false;
        connect.keep_alive = u16::try_from(3 * PING_INTERVAL.as_secs())?;
        if let Some((user, password)) = &self.broker.login {
            connect.set_login(user, password);
        }
        send(&mut connection, Packet::Connect(connect)).await?;
        match connection.next().await.context("the broker hung up")?? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(connection),
            Packet::ConnAck(ack) => Err(anyhow!("the broker refuses: {:?}", ack.code)),
            _ => Err(anyhow!("the broker does not speak MQTT")),
        }
    }

    async fn take(&self, connection: &mut Connection, publish: &Publish) -> anyhow::Result<()> {
        if let Some(topic) = publish.topic.strip_prefix(&self.prefix) {
            self.board.receive(topic, &publish.payload);
        }
        if publish.qos == QoS::AtLeastOnce {
            send(connection, Packet::PubAck(PubAck::new(publish.pkid))).await?;
        }
        Ok(())
    }

    fn publish(&mut self, delivery: Delivery) -> Publish {
        // Ids from 1 to below the one of the subscription; far fewer are in use at a time.
        self.last_id = self.last_id % (SUBSCRIBE_ID - 1) + 1;
        let topic = format!("{}{}", self.prefix, delivery.topic);
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, delivery.payload);
        publish.pkid = self.last_id;
        publish
    }
}

fn pings() -> Interval {
    let mut pings = interval(PING_INTERVAL);
    pings.reset();
    pings
}

async fn send(connection: &mut Connection, packet: Packet) -> anyhow::Result<()> {
    timeout(STEP_LIMIT, connection.send(packet))
        .await
        .context("the broker takes nothing")??;
    Ok(())
}
