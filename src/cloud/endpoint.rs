//! The device WebSocket: the handshake, and its failures in words.
//!
//! The URL holds the connection key and a header the credentials. Nothing of the request is ever
//! part of an error, not even where the server sends it back.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use smartrest::ConnectionKey;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::handshake::{self, Answer, ReceiveError};
use super::transport::{Endpoint, Stream, Transport, TransportError};
use crate::reason::legible;
use crate::secret::Secret;
use crate::tunnel::relay::{self, CloudSocket, Link};

const PATH: &str = "/service/remoteaccess/device/";
const SUBPROTOCOL: &str = "binary";

/// Characters of an answer that are repeated.
const HINT_LIMIT: usize = 120;
/// Unsent bytes that the kernel takes for a connection. A ping waits behind them, and on a slow
/// line the megabytes that the kernel would otherwise take delay it until the cloud seems dead.
const UNSENT_LIMIT: u32 = 128 << 10;

/// Why the WebSocket did not open.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// TCP, TLS or the name failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The cloud was reached and said nothing.
    #[error("{cloud} did not open the WebSocket within {}", humantime::format_duration(*limit))]
    Timeout {
        /// Host and port.
        cloud: String,
        /// The time it had.
        limit: Duration,
    },
    /// The cloud refused with an HTTP status.
    #[error("{cloud} refused the WebSocket with HTTP {status}: {}{}", meaning(*status), said(hint))]
    Refused {
        /// Host and port.
        cloud: String,
        /// The HTTP status.
        status: u16,
        /// What the server said in the answer, made legible; empty if nothing.
        hint: String,
    },
    /// An answer that does not open a WebSocket as RFC 6455 says.
    #[error("{cloud} does not speak WebSocket: {fault}")]
    NotWebSocket {
        /// Host and port.
        cloud: String,
        /// What is wrong with the answer.
        fault: Fault,
    },
    /// The connection broke between the request and the answer.
    #[error("the connection to {cloud} broke before the WebSocket was open")]
    Broken {
        /// Host and port.
        cloud: String,
        /// What the system said.
        source: io::Error,
    },
    /// The credentials would change the request.
    #[error("the credentials contain characters that cannot stand in an HTTP header")]
    Credentials,
}

pub use super::handshake::Fault;

impl EndpointError {
    /// Returns the HTTP status of a refusal; 401 may be worth another attempt with a new token.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Returns the value of an `Authorization` header for a user, named with the tenant, and a password.
pub fn basic(user: &str, password: &Secret) -> Secret {
    let pair = format!("{user}:{}", password.expose());
    Secret::new(format!("Basic {}", BASE64.encode(pair)))
}

/// Opens the device WebSocket of a connection key within `limit`.
///
/// `authorization` is the whole value of the header, such as [`basic`] makes. Dropping the future
/// closes what is half open.
pub async fn connect(
    transport: &Transport,
    cloud: &Endpoint,
    key: &ConnectionKey,
    authorization: &Secret,
    limit: Duration,
) -> Result<CloudSocket<Stream>, EndpointError> {
    let began = Instant::now();
    let stream = transport.connect(cloud, limit).await?;
    limit_unsent(&stream);
    let left = limit.saturating_sub(began.elapsed());
    timeout(left, open(stream, cloud, key, authorization))
        .await
        .map_err(|_| EndpointError::Timeout {
            cloud: cloud.to_string(),
            limit,
        })?
}

fn limit_unsent(stream: &Stream) {
    if let Err(error) = socket2::SockRef::from(stream.tcp()).set_tcp_notsent_lowat(UNSENT_LIMIT) {
        tracing::debug!(%error, "the kernel does not limit unsent bytes");
    }
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    cloud: &Endpoint,
    key: &ConnectionKey,
    authorization: &Secret,
) -> Result<CloudSocket<S>, EndpointError> {
    let nonce = generate_key();
    let request = request(cloud, key, authorization, &nonce)?;
    let place = cloud.to_string();
    let broken = |source| EndpointError::Broken {
        cloud: place.clone(),
        source,
    };
    let no_websocket = |fault| EndpointError::NotWebSocket {
        cloud: place.clone(),
        fault,
    };
    stream
        .write_all(request.expose().as_bytes())
        .await
        .map_err(broken)?;
    stream.flush().await.map_err(broken)?;

    let (answer, mut rest) = Answer::receive(&mut stream)
        .await
        .map_err(|error| match error {
            ReceiveError::Fault(fault) => no_websocket(fault),
            ReceiveError::Broken(source) => broken(source),
        })?;
    if answer.status != 101 {
        let body = answer.read_body(&mut stream, &mut rest).await;
        return Err(EndpointError::Refused {
            cloud: place,
            status: answer.status,
            hint: hint(&answer, body.as_deref(), key, authorization),
        });
    }
    answer
        .check(&nonce, SUBPROTOCOL)
        .map_err(|fault| no_websocket(without_secrets(fault, key, authorization)))?;
    let link = Link::new(stream);
    let config = Some(relay::config());
    Ok(WebSocketStream::from_partially_read(link, rest, Role::Client, config).await)
}

fn request(
    cloud: &Endpoint,
    key: &ConnectionKey,
    authorization: &Secret,
    nonce: &str,
) -> Result<Secret, EndpointError> {
    let authorization = authorization.expose();
    if !authorization.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(EndpointError::Credentials);
    }
    let path = format!("{PATH}{}", key.expose());
    let head = handshake::request(cloud, &path, SUBPROTOCOL, nonce);
    Ok(Secret::new(format!(
        "{head}Authorization: {authorization}\r\n\r\n"
    )))
}

fn meaning(status: u16) -> &'static str {
    match status {
        300..=399 => "the platform is somewhere else, check cloud.url",
        400 => "the request was not understood",
        401 => "the credentials are refused, or the connection key was used or has expired",
        403 => "the device's user may not open tunnels, or the connection key has expired",
        404 => "the connection key is unknown, was used or has expired",
        407 => "a proxy on the way wants credentials",
        429 => "the platform is asked too often",
        500..=599 => "the platform, or something in front of it, has a fault",
        200..=299 => "this is a web server, but not a WebSocket, check cloud.url",
        _ => "the platform does not want the tunnel",
    }
}

fn said(hint: &str) -> String {
    match hint {
        "" => String::new(),
        hint => format!(" ({hint})"),
    }
}

/// Returns what a refusal says, if that is short text for people, and nothing of what it repeats.
fn hint(
    answer: &Answer,
    body: Option<&str>,
    key: &ConnectionKey,
    authorization: &Secret,
) -> String {
    let text = match answer.status {
        300..=399 => answer.all("location").next(),
        _ => body.filter(|body| !body.trim_start().starts_with('<')),
    };
    let text = text.unwrap_or_default();
    if repeats_secret(text, key, authorization) {
        return String::new();
    }
    legible(text).chars().take(HINT_LIMIT).collect()
}

fn without_secrets(fault: Fault, key: &ConnectionKey, authorization: &Secret) -> Fault {
    match fault {
        Fault::Subprotocol { named, asked } => Fault::Subprotocol {
            named: match repeats_secret(&named, key, authorization) {
                true => "…".to_owned(),
                false => named.chars().take(HINT_LIMIT).collect(),
            },
            asked,
        },
        fault => fault,
    }
}

/// Whether a text repeats something that nobody may read, in JSON or broken over lines as well.
fn repeats_secret(text: &str, key: &ConnectionKey, authorization: &Secret) -> bool {
    let squeeze = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let credentials = authorization.expose();
    let token = credentials
        .split_once(' ')
        .map_or(credentials, |pair| pair.1);
    let decoded = BASE64.decode(token).ok();
    let password = decoded
        .as_deref()
        .and_then(|pair| std::str::from_utf8(pair).ok())
        .and_then(|pair| pair.split_once(':'))
        .map(|pair| pair.1);
    let squeezed = squeeze(text);
    [Some(key.expose()), Some(token), password]
        .into_iter()
        .flatten()
        .any(|secret| {
            let bare = squeeze(secret);
            (!secret.is_empty() && text.contains(secret))
                || (!bare.is_empty() && squeezed.contains(&bare))
        })
}
