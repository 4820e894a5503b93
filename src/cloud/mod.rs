//! Everything that is said to the platform.

pub mod endpoint;
mod handshake;
pub mod outbox;
pub mod reconnect;
pub mod session;
pub mod transport;
