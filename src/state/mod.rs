//! What adit does and has done, in one place: what status, metrics and page show is made from here.
//!
//! A record is kept as things happen, and a [`Snapshot`] is made of it when somebody looks. Pure: the
//! time comes in as an argument, and nobody who looks holds a lock that a tunnel waits for.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub(crate) mod clock;
pub(crate) mod histogram;
pub(crate) mod meter;
pub(crate) mod record;
pub mod reloaded;
pub mod snapshot;
pub mod upgraded;

pub use snapshot::Snapshot;
