//! The one way out, for MQTT and for the WebSocket: TCP, a proxy, TLS, and a WebSocket for MQTT.
//!
//! Whatever is between adit and a server is dealt with here, so that both get through wherever one
//! does.

mod address;
pub(crate) mod certificate;
mod ciphers;
pub(crate) mod credentials;
pub(crate) mod dial;
mod error;
pub(crate) mod head;
pub(crate) mod identity;
pub(crate) mod journal;
pub(crate) mod masks;
pub(crate) mod proxy;
mod renewals;
pub(crate) mod request;
pub(crate) mod resolve;
mod resumption;
pub(crate) mod settings;
mod stream;
pub mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod trust;
pub(crate) mod unbuffered;
pub(crate) mod upgrade;
pub(crate) mod websocket;

pub use address::{BrokerEndpoint, Endpoint};
pub(crate) use credentials::{Hidden, basic};
pub(crate) use error::{Awaited, Peer, TransportError};
pub(crate) use renewals::Refusal;
pub(crate) use stream::Stream;
pub use tcp::Socket;
pub(crate) use tcp::Tcp;
pub(crate) use tls::{TlsFault, refusal_behind_handshake};
pub use transport::Transport;
pub(crate) use trust::Roots;
pub use unbuffered::UnbufferedStream;
