//! Everything between two sockets: the machine on the LAN and the cloud's WebSocket.

pub mod manager;
pub mod policy;
pub mod relay;
pub mod target;

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use smartrest::{ConnectionKey, Target};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::debug;

use crate::cloud::endpoint::{self, EndpointError};
use crate::cloud::transport::{Endpoint, Stream, Transport};
use crate::config::{Auth, Config};
use crate::secret::Secret;
use policy::{Denied, Policy};
use relay::{CloudSocket, DRAIN_LIMIT, Limits, Traffic};
pub use relay::{EndReason, Ended};
use target::DialError;

use crate::reason::failure_reason;

/// How long the cloud may take to answer the Close frame of a tunnel that does not come about.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What every tunnel of an agent needs besides its request.
pub struct Opener {
    policy: Policy,
    transport: Transport,
    cloud: Endpoint,
    /// The whole value of the `Authorization` header. There is none without a user, and no other
    /// way in yet.
    authorization: Option<Secret>,
    connect_timeout: Duration,
    limits: Limits,
}

/// A tunnel whose both ends stand. Bytes that came early wait in its sockets.
#[derive(Debug)]
pub struct OpenTunnel<'a> {
    lan: TcpStream,
    cloud: CloudSocket<Stream>,
    limits: &'a Limits,
}

/// Why a tunnel did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The machine was not reached, or may not be.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The cloud did not open the WebSocket.
    #[error(transparent)]
    Cloud(#[from] EndpointError),
    /// Without a user and a password the cloud opens no WebSocket.
    #[error("adit has no user and password to open the WebSocket with")]
    NoCredentials,
}

impl From<Denied> for OpenError {
    fn from(denied: Denied) -> Self {
        Self::Dial(denied.into())
    }
}

impl OpenError {
    /// Returns the HTTP status of a refusal by the cloud.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Dial(_) | Self::NoCredentials => None,
            Self::Cloud(error) => error.status(),
        }
    }
}

impl Opener {
    /// Takes what the configuration says of tunnels.
    pub fn new(config: &Config, transport: Transport) -> Self {
        let settings = &config.remote_access;
        Self {
            policy: settings.policy.clone(),
            transport: transport.through(config.cloud.proxy.clone()),
            cloud: config.cloud.endpoint.clone(),
            authorization: match &config.auth {
                Auth::Password { user, password } => Some(endpoint::basic(user, password)),
                Auth::Certificate(_) | Auth::None => None,
            },
            connect_timeout: settings.connect_timeout,
            limits: Limits {
                keep_alive: settings.keep_alive,
                drain: DRAIN_LIMIT,
                idle: settings.idle_timeout,
                max_duration: settings.max_duration,
            },
        }
    }

    /// Connects to the machine and to the cloud at the same time; the first failure is the answer.
    ///
    /// Nothing is read from either side, so what comes early waits in the sockets. Dropping the
    /// future closes both.
    pub async fn open(
        &self,
        target: &Target,
        key: &ConnectionKey,
    ) -> Result<OpenTunnel<'_>, OpenError> {
        let limit = self.connect_timeout;
        self.policy.check_name(target)?;
        let authorization = self.authorization.as_ref();
        let authorization = authorization.ok_or(OpenError::NoCredentials)?;
        let lan = pin!(target::connect(target, &self.policy, limit));
        let cloud = pin!(endpoint::connect(
            &self.transport,
            &self.cloud,
            key,
            authorization,
            limit
        ));
        let (lan, cloud) = match select(lan, cloud).await {
            Either::Left((lan, cloud)) => (lan?, cloud.await?),
            Either::Right((cloud, lan)) => {
                let cloud = cloud?;
                match lan.await {
                    Ok(lan) => (lan, cloud),
                    Err(error) => {
                        dismiss(cloud, &failure_reason(&error, usize::MAX)).await;
                        return Err(error.into());
                    }
                }
            }
        };
        Ok(OpenTunnel {
            lan,
            cloud,
            limits: &self.limits,
        })
    }
}

impl OpenTunnel<'_> {
    /// Carries bytes until one side ends, a limit is reached or `stop` completes.
    pub async fn relay(self, stop: impl Future) -> Ended {
        let traffic = Traffic::default();
        relay::relay(self.lan, self.cloud, self.limits, &traffic, stop).await
    }
}

/// Closes a WebSocket that nobody needs, and says why.
async fn dismiss<S: AsyncRead + AsyncWrite + Unpin>(mut cloud: CloudSocket<S>, reason: &str) {
    let frame = relay::close_frame(CloseCode::Error, reason);
    let goodbye = async {
        cloud.send(Message::Close(Some(frame))).await?;
        while let Some(Ok(message)) = cloud.next().await {
            if message.is_close() {
                break;
            }
        }
        // To the end of the stream, or closing it would become a reset that eats the Close frame.
        let link = cloud.get_mut();
        link.shutdown().await?;
        let mut scratch = [0; 1 << 10];
        while link.read(&mut scratch).await? > 0 {}
        Ok::<_, tungstenite::Error>(())
    };
    match timeout(CLOSE_LIMIT, goodbye).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "the cloud was not told"),
        Err(_) => debug!("the cloud did not answer the Close frame"),
    }
}
