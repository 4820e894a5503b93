//! The templates that adit sends and receives, as types.
//!
//! [`request`] has those that a device sends, [`connect`] and [`credentials`] those that the
//! platform sends; which row is for which of them is told by [`Row::template`](crate::Row::template)
//! and the topic.
//!
//! [`collection`] has the templates that are adit's own, and the text that makes them known.

pub mod collection;
pub mod connect;
pub mod credentials;
pub mod operation;
pub mod request;
