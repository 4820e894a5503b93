//! One connection to the broker: log in, and the reasons why it ends, in words.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{Codec, Connect, ConnectReturnCode, Login, Packet};
use smartrest::row::PACKET_LIMIT;
use tokio::time::{Instant, timeout};
use tokio_util::codec::Framed;
use tracing::{debug, info};

use crate::net::{BrokerEndpoint, Stream, Transport, TransportError};
use crate::secret::Secret;

/// Everything from the broker's name to its answer to CONNECT.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long the network may take to accept one packet.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// How long the broker may take to answer a ping.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(20);
/// How long the broker may take to acknowledge a message before the connection counts as broken.
pub(super) const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(60);
/// What the codec says where the stream ends within a packet.
const HALF_A_PACKET: &str = "bytes remaining on stream";
/// Largest packet taken, four times what the platform sends (16,184 bytes).
const INCOMING_LIMIT: usize = 64 * 1024;

/// A broker, and as whom adit logs in.
#[derive(Clone, Debug)]
pub struct Account {
    /// The broker.
    pub broker: BrokerEndpoint,
    /// The MQTT client id.
    pub client_id: String,
    /// User name and password; none where a certificate says who the device is.
    pub login: Option<(String, Secret)>,
    /// Time between two pings.
    pub keep_alive: Duration,
}

/// A connection that carries MQTT packets.
pub struct Link {
    framed: Framed<Stream, Codec>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The broker's host was not reached.
    #[error(transparent)]
    Unreachable(#[from] TransportError),
    /// The log-in took too long.
    #[error("the broker did not answer CONNECT within {CONNECT_LIMIT:?}")]
    ConnectTimeout,
    /// The broker answered the log-in with a code.
    #[error("the broker refused the connection: {}", in_words(*.0))]
    Refused(ConnectReturnCode),
    /// A ping was not answered.
    #[error("the broker did not answer the ping within {PING_LIMIT:?}")]
    Silent,
    /// A message or a subscription was not acknowledged.
    #[error("the broker did not acknowledge a message within {ACKNOWLEDGE_LIMIT:?}")]
    Unacknowledged,
    /// A packet could not be sent.
    #[error("the network took no data for {WRITE_LIMIT:?}")]
    Blocked,
    /// The stream ended.
    #[error("the connection was closed by the broker")]
    Closed,
    /// A packet of adit's own is larger than the platform takes; its size in bytes.
    #[error(
        "a message of {0} bytes is larger than the {PACKET_LIMIT} bytes that the platform takes"
    )]
    TooLarge(usize),
    /// A packet makes no sense.
    #[error("the broker does not speak MQTT")]
    Protocol(#[source] PacketError),
    /// The log-in was answered by something else than its acknowledgement.
    #[error("the broker does not speak MQTT: it answered CONNECT with another packet")]
    NoConnAck,
    /// The stream failed.
    #[error(transparent)]
    Io(io::Error),
}

impl Account {
    /// Connects and logs in.
    ///
    /// # Errors
    /// The broker was not reached, or did not take the login.
    pub async fn log_in(&self, transport: &Transport) -> Result<Link, Lost> {
        let server = &self.broker.server;
        debug!(
            host = server.host,
            port = server.port,
            tls = server.tls,
            websocket = self.broker.websocket,
            "connecting to the broker"
        );
        let began = Instant::now();
        let stream = transport
            .connect_broker(&self.broker, CONNECT_LIMIT)
            .await?;
        let left = CONNECT_LIMIT.saturating_sub(began.elapsed());
        let link = timeout(left, self.introduce(stream))
            .await
            .unwrap_or(Err(Lost::ConnectTimeout))?;
        info!(
            host = server.host,
            port = server.port,
            self.client_id,
            "connected to the broker"
        );
        Ok(link)
    }

    async fn introduce(&self, stream: Stream) -> Result<Link, Lost> {
        let Self {
            client_id,
            login,
            keep_alive,
            ..
        } = self;
        let codec = Codec {
            max_incoming_size: INCOMING_LIMIT,
            max_outgoing_size: PACKET_LIMIT,
        };
        let mut link = Link {
            framed: Framed::new(stream, codec),
        };
        let packet = Packet::Connect(Connect {
            keep_alive: keep_alive.as_secs().try_into().unwrap_or(u16::MAX),
            login: login
                .as_ref()
                .map(|(user, password)| Login::new(user, password.expose())),
            ..Connect::new(client_id)
        });
        link.send(packet).await?;
        match link.next().await? {
            Packet::ConnAck(answer) if answer.code == ConnectReturnCode::Success => Ok(link),
            Packet::ConnAck(answer) => Err(Lost::Refused(answer.code)),
            _ => Err(Lost::NoConnAck),
        }
    }
}

impl Lost {
    /// Whether the broker ended a connection that worked.
    pub(crate) fn is_by_broker(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match self {
            Self::Closed => true,
            Self::Io(error) => {
                matches!(
                    error.kind(),
                    BrokenPipe | ConnectionAborted | ConnectionReset
                )
            }
            _ => false,
        }
    }
}

impl Link {
    /// Waits for the next packet. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Packet, Lost> {
        self.framed
            .next()
            .await
            .ok_or(Lost::Closed)?
            .map_err(broken)
    }

    /// Sends a packet. A future that is dropped may leave half of it unsent.
    pub async fn send(&mut self, packet: Packet) -> Result<(), Lost> {
        match timeout(WRITE_LIMIT, self.framed.send(packet)).await {
            Ok(sent) => sent.map_err(broken),
            Err(_) => Err(Lost::Blocked),
        }
    }

    /// Says good-bye; whether it arrives changes nothing.
    pub async fn disconnect(mut self) {
        if self.send(Packet::Disconnect).await.is_ok() {
            info!("disconnected from the broker");
        }
    }
}

fn broken(error: PacketError) -> Lost {
    match error {
        PacketError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Lost::Closed,
        PacketError::Io(error) if error.to_string() == HALF_A_PACKET => Lost::Closed,
        PacketError::Io(error) => Lost::Io(error),
        PacketError::OutgoingPacketTooLarge { pkt_size, .. } => Lost::TooLarge(pkt_size),
        other => Lost::Protocol(other),
    }
}

fn in_words(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it accepted it (CONNACK 0)",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1 (CONNACK 1)",
        ConnectReturnCode::BadClientId => "it does not take this client id (CONNACK 2)",
        ConnectReturnCode::ServiceUnavailable => "it is unavailable for now (CONNACK 3)",
        ConnectReturnCode::BadUserNamePassword => {
            "bad user name or password (CONNACK 4); the user name is tenant/user"
        }
        ConnectReturnCode::NotAuthorized => {
            "not authorised (CONNACK 5), which also happens under overload and just after a device \
             was deleted"
        }
    }
}
