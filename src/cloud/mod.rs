//! Everything that is said to the platform.

pub mod authorization;
pub mod broker;
pub mod endpoint;
mod handshake;
pub mod outbox;
pub mod publisher;
pub mod reconnect;
pub mod registration;
pub mod session;
pub mod token;
pub mod transport;
