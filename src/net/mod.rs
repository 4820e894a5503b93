//! The one way out, for MQTT and for the WebSocket: TCP, a proxy, TLS, and a WebSocket for MQTT.
//!
//! Whatever is between adit and a server is dealt with here, so that both get through wherever one
//! does.

pub mod address;
pub mod certificate;
mod ciphers;
pub(crate) mod credentials;
pub mod dial;
pub mod error;
pub(crate) mod head;
pub mod identity;
pub mod journal;
pub mod proxy;
pub mod resolve;
mod resumption;
pub mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
pub mod transport;
pub(crate) mod unbuffered;
pub mod upgrade;
mod websocket;

pub use address::{BrokerEndpoint, Endpoint};
pub(crate) use credentials::basic;
pub use error::{Awaited, Peer, TransportError};
pub use head::HeadFault;
pub use stream::Stream;
pub use tls::TlsFault;
pub use transport::Transport;
pub use unbuffered::{Socket, UnbufferedStream};
pub use websocket::{Messages, WebSocketError};
