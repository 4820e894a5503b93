//! The platform as adit sees it: a simulated cloud for tests, benches and the demo.
//!
//! What the platform makes of a row is decided in [`platform`], without I/O.

pub mod platform;
