//! Everything that is said to the platform.

pub mod endpoint;
pub mod transport;
