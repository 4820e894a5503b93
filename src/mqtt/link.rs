//! One connection to the broker: log in, and the reasons why it ends, in words.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{Connect, ConnectReturnCode, LastWill, Login, Packet, QoS};
use smartrest::row::PACKET_LIMIT;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tokio_util::codec::{Encoder, Framed};
use tracing::{debug, info};
use zeroize::Zeroize;

use super::conversation::{Conversation, ConversationError};
use super::framing::{Incoming, OtherProtocol, PacketCodec};
use super::outbox::Message;
use super::reconnect::{Life, Loss};
use crate::net::websocket::WebSocketError;
use crate::net::{
    BrokerEndpoint, Peer, Refusal, Stream, Transport, TransportError, refusal_behind_handshake,
};
use crate::password::Password;

/// Everything from the broker's name to its answer to CONNECT.
pub(crate) const LOGIN_LIMIT: Duration = Duration::from_secs(30);
/// The port of the platform's MQTT Service, which takes certificates and tokens, and refuses the password
/// of a device as not authorised. It speaks no WebSocket.
pub(crate) const SERVICE_PORT: u16 = 9883;
/// How long the network may take to accept one packet.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// What the codec says where the stream ends within a packet.
const HALF_A_PACKET: &str = "bytes remaining on stream";

/// A broker, and as whom adit logs in.
#[derive(Clone, Debug)]
pub struct Account {
    /// The broker.
    pub broker: BrokerEndpoint,
    /// The MQTT client id.
    pub client_id: String,
    /// User name and password; none where a certificate says who the device is.
    pub login: Option<(String, Password)>,
    /// Time between two pings.
    pub keep_alive: Duration,
    /// What the broker publishes where the connection is lost.
    pub will: Option<Message>,
}

/// A connection that carries MQTT packets.
pub struct Link {
    framed: Framed<Stream, PacketCodec>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The broker's host was not reached.
    #[error(transparent)]
    Unreachable(#[from] TransportError),
    /// The log-in took too long.
    #[error("the broker did not answer CONNECT within {0:?}")]
    ConnectTimeout(Duration),
    /// A login without TLS ended without an answer; the scheme that TLS would have.
    #[error(
        "the broker closed the connection before it answered CONNECT: this port probably speaks \
         TLS (write {0}:// in mqtt.url)"
    )]
    ClosedWithoutTls(&'static str),
    /// A login without TLS was answered in TLS; the scheme of that.
    #[error("this port speaks TLS (write {0}:// in mqtt.url)")]
    SpeaksTls(&'static str),
    /// The broker answered the log-in with a code.
    #[error("the broker refused the connection: {}", in_words(*.0))]
    Refused(ConnectReturnCode),
    /// The MQTT Service refused a password.
    #[error(
        "the broker refused the connection: not authorised (CONNACK 5); port {SERVICE_PORT} is the \
         platform's MQTT Service, which takes a certificate or a token and no password of a device \
         (set auth.cert_file, or write port 8883 in mqtt.url)"
    )]
    PasswordAtService,
    /// The broker did not answer in time, or ended it.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    /// The broker is a web server.
    #[error("the broker does not speak MQTT: it answers in HTTP")]
    SpeaksHttp,
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
    /// Connects and logs in, all in the time of `limit`.
    ///
    /// # Errors
    /// The broker was not reached, or did not take the login.
    pub(crate) async fn log_in(
        &self,
        transport: &Transport,
        limit: Duration,
    ) -> Result<Link, Lost> {
        let logged_in = self.try_to_log_in(transport, limit).await;
        match &logged_in {
            Ok(_) => transport.login_accepted(&self.broker).await,
            Err(lost) => {
                // Without TLS nobody has seen a certificate.
                if self.broker.server.tls
                    && let Some(refusal) = lost.refusal()
                {
                    transport.login_refused(refusal);
                }
            }
        }
        logged_in
    }

    async fn try_to_log_in(&self, transport: &Transport, limit: Duration) -> Result<Link, Lost> {
        let server = &self.broker.server;
        debug!(
            host = server.host,
            port = server.port,
            tls = server.tls,
            websocket = self.broker.websocket,
            "connecting to the broker"
        );
        let began = Instant::now();
        let stream = transport.connect_broker(&self.broker, limit).await?;
        let left = limit.saturating_sub(began.elapsed());
        let link = timeout(left, self.introduce(stream))
            .await
            .unwrap_or(Err(Lost::ConnectTimeout(limit)))
            .map_err(|lost| self.at_service(self.without_tls(lost)))?;
        info!(
            host = server.host,
            port = server.port,
            client_id = self.client_id,
            "connected to the broker"
        );
        Ok(link)
    }

    /// Says what a port that speaks TLS does to a login that does not.
    fn without_tls(&self, lost: Lost) -> Lost {
        let scheme = match self.broker.websocket {
            None => "mqtts",
            Some(_) => "wss",
        };
        match lost {
            Lost::SpeaksTls(_) => Lost::SpeaksTls(scheme),
            lost if !self.broker.server.tls && lost.is_by_broker() => {
                Lost::ClosedWithoutTls(scheme)
            }
            lost => lost,
        }
    }

    /// Says what the MQTT Service does to a login with a password.
    fn at_service(&self, lost: Lost) -> Lost {
        match lost {
            Lost::Refused(ConnectReturnCode::NotAuthorized)
                if self.broker.server.port == SERVICE_PORT && self.login.is_some() =>
            {
                Lost::PasswordAtService
            }
            lost => lost,
        }
    }

    async fn introduce(&self, stream: Stream) -> Result<Link, Lost> {
        let Self {
            client_id,
            login,
            keep_alive,
            will,
            ..
        } = self;
        let mut link = Link {
            framed: Framed::new(stream, PacketCodec::default()),
        };
        let login = match login {
            Some((user, password)) => Some(Login::new(user, password.read().await.expose())),
            None => None,
        };
        let packet = Packet::Connect(Connect {
            keep_alive: keep_alive.as_secs().try_into().unwrap_or(u16::MAX),
            login,
            last_will: will.as_ref().map(|Message { topic, payload, .. }| {
                LastWill::new(topic, payload.as_bytes(), QoS::AtLeastOnce, false)
            }),
            ..Connect::new(client_id)
        });
        link.send_alone(packet).await?;
        let answer = loop {
            match link.next().await? {
                Incoming::Part => {}
                answer => break answer,
            }
        };
        match answer {
            Incoming::Packet(Packet::ConnAck(answer)) => match answer.code {
                ConnectReturnCode::Success => Ok(link),
                code => Err(Lost::Refused(code)),
            },
            _ => Err(Lost::NoConnAck),
        }
    }
}

impl Lost {
    /// Whether a login may have failed for who adit is.
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(
                ConnectReturnCode::BadClientId
                | ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::NotAuthorized,
            ) => Some(Refusal::Certain),
            Self::Unreachable(TransportError::Tls {
                peer: Peer::Server(_),
                source,
                has_met,
            }) => source.refusal(*has_met),
            // In TLS 1.3 a certificate is refused behind the handshake.
            Self::Io(source)
            | Self::Unreachable(TransportError::WebSocket(WebSocketError::Broken {
                source, ..
            })) => refusal_behind_handshake(source),
            Self::Closed => Some(Refusal::Perhaps),
            _ => None,
        }
    }

    /// Whether the broker ended a connection that worked.
    pub(crate) fn is_by_broker(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match self {
            Self::Closed | Self::Conversation(ConversationError::SecondConnAck) => true,
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

impl Lost {
    /// What the loss is to the next attempt where the login had not succeeded.
    pub(crate) fn before_login(&self) -> Loss {
        match self {
            Self::Refused(code) if *code != ConnectReturnCode::ServiceUnavailable => Loss::Refused,
            Self::PasswordAtService => Loss::Refused,
            _ => Loss::NeverStood,
        }
    }

    /// What the loss is to the next attempt where the login had succeeded.
    pub(crate) fn after_login(
        &self,
        conversation: &Conversation,
        stood: Duration,
        now: std::time::Instant,
    ) -> Loss {
        let life = Life {
            stood,
            silence: conversation.silence(now),
            survived: conversation.survived(),
        };
        match self {
            lost if lost.is_by_broker() => Loss::Closed(Life {
                silence: conversation.silence_before_close(now),
                ..life
            }),
            Self::Conversation(ConversationError::NoPong(_)) if !conversation.has_ponged() => {
                Loss::NoPong(life)
            }
            _ => Loss::Failed(life),
        }
    }
}

impl Link {
    /// Waits for what comes next. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Incoming, Lost> {
        self.framed
            .next()
            .await
            .ok_or(Lost::Closed)?
            .map_err(broken)
    }

    /// Sends a packet. A future that is dropped may leave half of it unsent.
    pub(crate) async fn send(&mut self, packet: Packet) -> Result<(), Lost> {
        self.send_all([packet]).await
    }

    /// Sends packets, together where they are small. A future that is dropped may leave half of them
    /// unsent.
    pub(crate) async fn send_all(
        &mut self,
        packets: impl IntoIterator<Item = Packet>,
    ) -> Result<(), Lost> {
        for packet in packets {
            within_limit(self.framed.feed(packet)).await?;
        }
        within_limit(SinkExt::<Packet>::flush(&mut self.framed)).await
    }

    /// Sends a packet that holds a secret, of which nothing is to stay in the buffer.
    async fn send_alone(&mut self, packet: Packet) -> Result<(), Lost> {
        let mut bytes = BytesMut::new();
        self.framed
            .codec_mut()
            .encode(packet, &mut bytes)
            .map_err(broken)?;
        let stream = self.framed.get_mut();
        let sent = within_limit(async {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            Ok(())
        })
        .await;
        bytes.zeroize();
        sent
    }

    /// Says good-bye; whether it arrives changes nothing.
    pub(crate) async fn disconnect(mut self) {
        if self.send(Packet::Disconnect).await.is_ok() {
            info!("disconnected from the broker");
        }
    }
}

async fn within_limit(sending: impl Future<Output = Result<(), PacketError>>) -> Result<(), Lost> {
    match timeout(WRITE_LIMIT, sending).await {
        Ok(sent) => sent.map_err(broken),
        Err(_) => Err(Lost::Blocked),
    }
}

fn broken(error: PacketError) -> Lost {
    match error {
        PacketError::Io(error)
            if error
                .get_ref()
                .is_some_and(|inner| inner.is::<OtherProtocol>()) =>
        {
            match error.downcast() {
                Ok(OtherProtocol::Tls) => Lost::SpeaksTls("mqtts"),
                Ok(OtherProtocol::Http) => Lost::SpeaksHttp,
                Err(error) => Lost::Io(error),
            }
        }
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
            "not authorised (CONNACK 5): the user name or the password may be wrong, the user name \
             is tenant/user; it also happens under overload and just after a device was deleted"
        }
    }
}
