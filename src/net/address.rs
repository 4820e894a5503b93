//! Where a server is, and how it is spoken to.

use std::fmt;

/// A server and how it is spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or address, an IPv6 address without brackets. The server's certificate must name it.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A broker and how MQTT is spoken to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BrokerEndpoint {
    /// Where it is.
    pub server: Endpoint,
    /// The path, with `/` at its start, if MQTT goes over WebSocket.
    pub websocket: Option<String>,
}

impl Endpoint {
    /// Returns the host as it stands in a URL.
    pub fn bracketed_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// Returns the value of a `Host` header (RFC 9110, 7.2).
    pub(crate) fn host_header(&self) -> String {
        let default_port = if self.tls { 443 } else { 80 };
        match self.port == default_port {
            true => self.bracketed_host(),
            false => self.to_string(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bracketed_host(), self.port)
    }
}

impl From<Endpoint> for BrokerEndpoint {
    fn from(server: Endpoint) -> Self {
        Self {
            server,
            websocket: None,
        }
    }
}
