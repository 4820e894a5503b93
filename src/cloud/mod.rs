//! Everything that is said to the platform.

pub mod transport;
