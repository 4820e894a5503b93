//! How messages get to the broker and back. Knows no tunnel and no template.

pub(crate) mod conversation;
#[cfg(test)]
mod fleet;
pub(crate) mod framing;
pub mod link;
pub mod outbox;
pub(crate) mod pace;
pub mod publisher;
pub(crate) mod reconnect;
pub mod session;
mod settings;
pub(crate) mod standing;

pub use settings::Settings;
