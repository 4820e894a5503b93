//! `530`: the platform asks for a tunnel.

use std::fmt;
use std::num::NonZeroU16;

use crate::row::{FieldError, Row};

/// What a `530` row asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectRequest {
    /// The gateway's own external id, or that of one of its children; statuses go to its topic.
    pub device: String,
    /// The machine to reach.
    pub target: Target,
    /// Whoever holds the key can take the tunnel. It also tells a repeated row from a new one.
    pub key: ConnectionKey,
}

/// A machine and a port on the gateway's side.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    host: String,
    port: NonZeroU16,
}

/// The shared secret of one tunnel; its `Debug` shows nothing of it.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct ConnectionKey(String);

/// Why a `530` row cannot be carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// A value is missing.
    #[error(transparent)]
    Missing(#[from] FieldError),
    /// The hostname has characters that no name or address has, or is too long.
    #[error("the hostname {0:?} is neither a name nor an address")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("port {0} is not from 1 to 65535")]
    Port(String),
    /// The connection key has characters that cannot stand in a URL, or is too long.
    #[error("the connection key is not of letters, digits and .-_~")]
    Key,
}

/// Characters of a DNS name, and one byte more for the dot at its end.
const HOST_LIMIT: usize = 254;
/// Far beyond the 36 characters of a UUID, far below what makes a URL too long.
const KEY_LIMIT: usize = 512;

impl ConnectRequest {
    /// Reads a row whose template id is `530`.
    pub fn from_row(row: &Row) -> Result<Self, RequestError> {
        Ok(Self {
            device: row.required(1, "device id")?.to_owned(),
            target: Target::parse(row.required(2, "hostname")?, row.required(3, "port")?)?,
            key: ConnectionKey::parse(row.required(4, "connection key")?)?,
        })
    }
}

impl Target {
    /// Reads a hostname (name, IPv4 or IPv6 address, with or without brackets) and a port.
    pub fn parse(host: &str, port: &str) -> Result<Self, RequestError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if bare.is_empty() || bare.len() > HOST_LIMIT || !bare.chars().all(fits) {
            return Err(RequestError::Host(host.to_owned()));
        }
        let port = port
            .trim()
            .parse()
            .map_err(|_| RequestError::Port(port.to_owned()))?;
        Ok(Self {
            host: bare.to_owned(),
            port,
        })
    }

    /// The name or the address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl ConnectionKey {
    /// Takes a key that can stand in the path of a URL as it is.
    pub fn parse(key: &str) -> Result<Self, RequestError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let dots = key.chars().all(|c| c == '.');
        if dots || key.len() > KEY_LIMIT || !key.chars().all(fits) {
            return Err(RequestError::Key);
        }
        Ok(Self(key.to_owned()))
    }

    /// The key itself, for the URL of the tunnel and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionKey(..)")
    }
}
