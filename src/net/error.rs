//! Why a server could not be reached, and who let the time pass.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::pki_types::InvalidDnsNameError;

use super::address::Endpoint;
use super::proxy::ProxyError;
use super::tls::TlsFault;
use super::websocket::WebSocketError;

/// Whoever is at the other end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// The server that is wanted.
    Server(Endpoint),
    /// The proxy on the way to it.
    Proxy(Endpoint),
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The name has no address.
    #[error("cannot resolve {peer}")]
    Resolve {
        /// Whose name it is.
        peer: Peer,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address accepted the connection.
    #[error("cannot reach {peer}")]
    Dial {
        /// Whom it was for.
        peer: Peer,
        /// What the most telling attempt failed with.
        source: io::Error,
    },
    /// Somebody was silent for all the time that there was.
    #[error("{} within {}", awaited.words(peer), humantime::format_duration(*limit))]
    Timeout {
        /// Who was silent, or whose name it is about.
        peer: Peer,
        /// What was waited for.
        awaited: Awaited,
        /// The time for all of the connection.
        limit: Duration,
    },
    /// The proxy opened no way to the server.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The host cannot be the name of a certificate.
    #[error("{peer} has a name that no certificate can have")]
    Name {
        /// Whose name it is.
        peer: Peer,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The TLS handshake failed.
    #[error("no TLS with {peer}")]
    Tls {
        /// Whom it was with.
        peer: Peer,
        /// Why.
        source: TlsFault,
        /// The server has shown who it is, and has seen who adit is if it wanted to.
        has_met: bool,
    },
    /// The broker opened no WebSocket.
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
}

/// What a step of a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Awaited {
    /// The resolver's answer.
    Name,
    /// The end of TCP's handshake.
    Dial,
    /// A proxy's answer to CONNECT.
    Tunnel,
    /// The end of TLS's handshake.
    Tls,
    /// The end of the WebSocket's handshake.
    WebSocket,
}

impl TransportError {
    /// Returns with whom a connection failed, and at which step.
    pub fn step(&self) -> (Option<&Peer>, Awaited) {
        match self {
            Self::Resolve { peer, .. } => (Some(peer), Awaited::Name),
            Self::Dial { peer, .. } => (Some(peer), Awaited::Dial),
            Self::Timeout { peer, awaited, .. } => (Some(peer), *awaited),
            Self::Proxy(_) => (None, Awaited::Tunnel),
            Self::Name { peer, .. } | Self::Tls { peer, .. } => (Some(peer), Awaited::Tls),
            Self::WebSocket(_) => (None, Awaited::WebSocket),
        }
    }
}

impl Awaited {
    fn words(self, peer: &Peer) -> String {
        match self {
            Self::Name => format!("no answer about the name of {peer}"),
            Self::Dial => format!("{peer} did not answer"),
            Self::Tunnel => format!("{peer} was reached, but opened no way to the server"),
            Self::Tls => format!("{peer} was reached, but did not complete the TLS handshake"),
            Self::WebSocket => format!("{peer} was reached, but did not open the WebSocket"),
        }
    }
}

impl Peer {
    pub(super) fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Server(endpoint) | Self::Proxy(endpoint) => endpoint,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(endpoint) => endpoint.fmt(f),
            Self::Proxy(endpoint) => write!(f, "the proxy {endpoint}"),
        }
    }
}
