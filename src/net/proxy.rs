//! The way through an HTTP proxy: CONNECT, and a proxy's refusals in words.
//!
//! A proxy may be anything from a firewall's vendor; what it answers is hostile, and some repeat the
//! request in it. Which connection goes through which proxy is decided by the configuration.

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::address::Endpoint;
use crate::secret::Secret;
use crate::words::legible;

/// Bytes of an answer's head; a proxy's have some hundred.
const HEAD_LIMIT: usize = 16 << 10;
const HEADER_LIMIT: usize = 64;
/// Characters of a reason phrase that are repeated.
const PHRASE_LIMIT: usize = 60;
const HTTP: &[u8] = b"HTTP/1.";

/// An HTTP proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// Where it is, and whether it is spoken to with TLS.
    pub server: Endpoint,
    /// The value of the `Proxy-Authorization` header.
    authorization: Option<Secret>,
}

/// Why a proxy made no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// 407 without credentials, or 401, which some proxies say for it.
    #[error(
        "the proxy {proxy} wants a user name and a password (HTTP {status}): set cloud.proxy = \
         'http://user:password@host:port'"
    )]
    CredentialsWanted {
        /// Host and port.
        proxy: Endpoint,
        /// The HTTP status.
        status: u16,
    },
    /// The same in spite of credentials.
    #[error("the proxy {proxy} refused the user name and the password (HTTP {status})")]
    CredentialsRefused {
        /// Host and port.
        proxy: Endpoint,
        /// The HTTP status.
        status: u16,
    },
    /// Another status than success.
    #[error(
        "the proxy {proxy} refused a connection to {target} with HTTP {status}{}: {}",
        said(phrase), meaning(*status)
    )]
    Refused {
        /// Host and port.
        proxy: Endpoint,
        /// Host and port of the server that was asked for.
        target: Endpoint,
        /// The HTTP status.
        status: u16,
        /// The words beside the status, made legible; empty if none.
        phrase: String,
    },
    /// Whatever this is, it is no answer of a proxy.
    #[error("the proxy {proxy} does not answer as an HTTP proxy does: {fault}")]
    NoProxy {
        /// Host and port.
        proxy: Endpoint,
        /// What is wrong with the answer.
        fault: Fault,
    },
    /// The connection to the proxy broke.
    #[error("the connection to the proxy {proxy} broke before it answered")]
    Broken {
        /// Host and port.
        proxy: Endpoint,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong with a proxy's answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not HTTP at all.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// The stream ended before the head was complete.
    #[error("it closed the connection without an answer")]
    Closed,
    /// The head is longer than any that makes sense.
    #[error("the answer's head has no end")]
    Endless,
}

impl Proxy {
    /// Takes a proxy and, if it wants them, a user name without a colon and a password.
    pub fn new(server: Endpoint, credentials: Option<(&str, &Secret)>) -> Self {
        let authorization = credentials.map(|(user, password)| {
            let pair = format!("{user}:{}", password.expose());
            Secret::new(format!("Basic {}", BASE64.encode(pair)))
        });
        Self {
            server,
            authorization,
        }
    }

    /// Asks the proxy at the other end of `stream` for a connection to `target`.
    ///
    /// What the target sends stays in the stream: not a byte is read beyond the answer's head.
    pub(super) async fn open(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        target: &Endpoint,
    ) -> Result<(), ProxyError> {
        let proxy = || self.server.clone();
        let broken = |source| ProxyError::Broken {
            proxy: proxy(),
            source,
        };
        let no_proxy = |fault| ProxyError::NoProxy {
            proxy: proxy(),
            fault,
        };
        let request = self.request(target);
        stream
            .write_all(request.expose().as_bytes())
            .await
            .map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let head = match read_head(stream).await {
            Ok(head) => head.map_err(no_proxy)?,
            Err(source) => return Err(broken(source)),
        };
        let (status, phrase) = parse(&head).ok_or_else(|| no_proxy(Fault::NotHttp))?;
        match (status, &self.authorization) {
            (200..=299, _) => Ok(()),
            (407 | 401, None) => Err(ProxyError::CredentialsWanted {
                proxy: proxy(),
                status,
            }),
            (407 | 401, Some(_)) => Err(ProxyError::CredentialsRefused {
                proxy: proxy(),
                status,
            }),
            _ => Err(ProxyError::Refused {
                proxy: proxy(),
                target: target.clone(),
                status,
                phrase: self.without_secrets(phrase),
            }),
        }
    }

    fn request(&self, target: &Endpoint) -> Secret {
        let authorization = match &self.authorization {
            Some(value) => format!("Proxy-Authorization: {}\r\n", value.expose()),
            None => String::new(),
        };
        Secret::new(format!(
            "CONNECT {target} HTTP/1.1\r\n\
             Host: {target}\r\n\
             {authorization}\
             User-Agent: adit/{version}\r\n\
             \r\n",
            version = env!("CARGO_PKG_VERSION"),
        ))
    }

    fn without_secrets(&self, phrase: String) -> String {
        let encoded = self.authorization.as_ref().map_or("", Secret::expose);
        let encoded = encoded.rsplit(' ').next().unwrap_or_default();
        let decoded = BASE64.decode(encoded).unwrap_or_default();
        let decoded = String::from_utf8_lossy(&decoded);
        let password = decoded.split_once(':').map_or("", |pair| pair.1);
        let repeats = |secret: &str| !secret.is_empty() && phrase.contains(secret);
        if repeats(encoded) || repeats(password) {
            return String::new();
        }
        legible(&phrase).chars().take(PHRASE_LIMIT).collect()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

/// Reads to the blank line, byte by byte: what follows is for somebody else, and there is no way to
/// put it back.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<Vec<u8>, Fault>> {
    let mut head = Vec::new();
    while !(head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n")) {
        let begins = head.get(..HTTP.len()).unwrap_or(&head);
        if !HTTP.starts_with(begins) {
            return Ok(Err(Fault::NotHttp));
        }
        if head.len() >= HEAD_LIMIT {
            return Ok(Err(Fault::Endless));
        }
        match stream.read_buf(&mut (&mut head).limit(1)).await {
            Ok(0) => return Ok(Err(Fault::Closed)),
            Ok(_) => {}
            // TLS that ended without saying so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err(Fault::Closed));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(head))
}

/// Returns the status and the words beside it.
fn parse(head: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(head) {
        Ok(httparse::Status::Complete(_)) => {
            let phrase = answer.reason.unwrap_or_default();
            Some((answer.code?, phrase.to_owned()))
        }
        _ => None,
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        403 => "it does not allow this host or port",
        400 | 404 | 405 | 501 => "it is no proxy, or one that does not do CONNECT",
        502..=504 => "it could not reach the host",
        300..=399 => "it wants people to sign in with a browser, or is no proxy",
        _ => "it does not want the connection",
    }
}

fn said(phrase: &str) -> String {
    match phrase {
        "" => String::new(),
        phrase => format!(" ({phrase})"),
    }
}
