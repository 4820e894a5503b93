//! Everything that is said to the platform.

pub mod broker;
pub mod endpoint;
pub mod outbox;
pub mod publisher;
pub mod reconnect;
pub mod session;
pub mod token;
pub mod transport;
