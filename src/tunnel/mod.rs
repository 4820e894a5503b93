//! Everything between two sockets: the machine on the LAN and the cloud's WebSocket.

pub mod policy;
pub mod reason;
pub mod relay;
pub mod target;

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use smartrest::ConnectRequest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::debug;

use crate::cloud::endpoint::{self, EndpointError};
use crate::cloud::transport::{Endpoint, Stream, Transport};
use crate::secret::Secret;
use policy::{Denied, Policy};
use relay::CloudSocket;
use target::DialError;

pub use reason::failure_reason;

/// How long the cloud may take to answer the Close frame of a tunnel that does not come about.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What a tunnel needs besides the request.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// What may be reached.
    pub policy: &'a Policy,
    /// The way to the cloud.
    pub transport: &'a Transport,
    /// Where the cloud is.
    pub cloud: &'a Endpoint,
    /// The whole value of the `Authorization` header, see [`endpoint::basic`].
    pub authorization: &'a Secret,
    /// How long each side may take.
    pub connect_timeout: Duration,
}

/// A tunnel whose both ends stand, ready for [`relay::relay`].
#[derive(Debug)]
pub struct OpenTunnel {
    /// The machine on the LAN.
    pub lan: TcpStream,
    /// The cloud's WebSocket.
    pub cloud: CloudSocket<Stream>,
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
            Self::Dial(_) => None,
            Self::Cloud(error) => error.status(),
        }
    }
}

/// Connects to the machine and to the cloud at the same time; the first failure is the answer.
///
/// Nothing is read from either side, so what comes early waits in the sockets. Dropping the future
/// closes both.
pub async fn open(request: &ConnectRequest, means: Means<'_>) -> Result<OpenTunnel, OpenError> {
    let Means {
        policy,
        transport,
        cloud,
        authorization,
        connect_timeout,
    } = means;
    policy.check_name(&request.target)?;
    let lan = pin!(target::connect(&request.target, policy, connect_timeout));
    let cloud = pin!(endpoint::connect(
        transport,
        cloud,
        &request.key,
        authorization,
        connect_timeout
    ));
    match select(lan, cloud).await {
        Either::Left((lan, cloud)) => Ok(OpenTunnel {
            lan: lan?,
            cloud: cloud.await?,
        }),
        Either::Right((cloud, lan)) => {
            let cloud = cloud?;
            match lan.await {
                Ok(lan) => Ok(OpenTunnel { lan, cloud }),
                Err(error) => {
                    dismiss(cloud, &failure_reason(&error, usize::MAX)).await;
                    Err(error.into())
                }
            }
        }
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
