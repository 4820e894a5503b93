//! The way through an HTTP proxy: CONNECT, and a proxy's refusals in words.
//!
//! A proxy may be anything from a firewall's vendor; what it answers is hostile, and some repeat the
//! request in it. Which connection goes through which proxy is decided by the configuration.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::address::Endpoint;
use super::credentials::{Hidden, basic};
use super::head::{Head, HeadError, HeadFault, Step};
use crate::secret::Secret;

/// Bytes of a reason phrase, or of the names of ways to log in, that are repeated.
const PHRASE_LIMIT: usize = 60;

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
    /// 407 or 401, and the proxy takes no user name and password as they are.
    #[error(
        "the proxy {proxy} wants a login by {schemes} (HTTP {status}), and adit knows only Basic: \
         have it let this machine through by its address, or take a user by Basic"
    )]
    SchemeWanted {
        /// Host and port.
        proxy: Endpoint,
        /// The HTTP status.
        status: u16,
        /// The names of the schemes that it knows, made legible.
        schemes: String,
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
        fault: HeadFault,
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

impl Proxy {
    /// Takes a proxy and, if it wants them, a user name without a colon and a password.
    pub fn new(server: Endpoint, credentials: Option<(&str, &Secret)>) -> Self {
        Self {
            server,
            authorization: credentials.map(|(user, password)| basic(user, password)),
        }
    }

    /// Asks the proxy at the other end of `stream` for a connection to `target`.
    ///
    /// What the target sends stays in the stream: not a byte is read beyond the answer's head.
    pub(crate) async fn open(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        target: &Endpoint,
    ) -> Result<(), ProxyError> {
        let proxy = || self.server.clone();
        let broken = |source| ProxyError::Broken {
            proxy: proxy(),
            source,
        };
        let request = self.request(target);
        stream
            .write_all(request.expose().as_bytes())
            .await
            .map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let (head, _) = Head::receive(stream, Step::Byte)
            .await
            .map_err(|error| match error {
                HeadError::Fault(fault) => ProxyError::NoProxy {
                    proxy: proxy(),
                    fault,
                },
                HeadError::Broken(source) => broken(source),
            })?;
        self.judge(&head, target)
    }

    fn judge(&self, head: &Head, target: &Endpoint) -> Result<(), ProxyError> {
        let proxy = self.server.clone();
        let status = head.status;
        let hidden = match &self.authorization {
            Some(value) => Hidden::default().and_header(value),
            None => Hidden::default(),
        };
        match (status, &self.authorization) {
            (200..=299, _) => Ok(()),
            (407 | 401, authorization) => {
                let schemes = schemes(head);
                let is_basic = |scheme: &String| scheme.eq_ignore_ascii_case("basic");
                Err(if !schemes.is_empty() && !schemes.iter().any(is_basic) {
                    ProxyError::SchemeWanted {
                        proxy,
                        status,
                        schemes: match hidden.words(&schemes.join(" or "), PHRASE_LIMIT) {
                            names if names.is_empty() => "another scheme".to_owned(),
                            names => names,
                        },
                    }
                } else if authorization.is_some() {
                    ProxyError::CredentialsRefused { proxy, status }
                } else {
                    ProxyError::CredentialsWanted { proxy, status }
                })
            }
            _ => Err(ProxyError::Refused {
                proxy,
                target: target.clone(),
                status,
                phrase: hidden.words(&head.phrase, PHRASE_LIMIT),
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
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

/// Returns the names of the ways to log in that an answer offers (RFC 9110, 11.6.1).
fn schemes(head: &Head) -> Vec<String> {
    let mut schemes = Vec::new();
    // Where 401 stands for 407, so does its header.
    for name in ["proxy-authenticate", "www-authenticate"] {
        for value in head.all(name) {
            // Scheme and parameters are parted by commas alike; a parameter has an equals sign. What
            // is between quotes may hold either, and is left out.
            let bare: String = value.split('"').step_by(2).collect();
            let words = bare
                .split(',')
                .filter_map(|part| part.split_whitespace().next());
            for word in words.filter(|word| !word.contains('=')) {
                if !schemes
                    .iter()
                    .any(|known: &String| known.eq_ignore_ascii_case(word))
                {
                    schemes.push(word.to_owned());
                }
            }
        }
    }
    schemes
}

fn meaning(status: u16) -> &'static str {
    match status {
        403 => "it does not allow this host or port",
        400 | 404 | 405 | 501 => "it is no proxy, or one that does not do CONNECT",
        500 | 502..=504 => "it could not reach the host",
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
