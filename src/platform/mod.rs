//! What is said to the platform, and what its words mean. Knows no socket, no clock and no tokio.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub(crate) mod announcement;
pub(crate) mod bridge;
pub(crate) mod dialogue;
pub(crate) mod downlink;
pub(crate) mod fragment;
pub(crate) mod ids;
pub(crate) mod newer;
pub(crate) mod notification;
pub(crate) mod operations;
pub(crate) mod settings;
pub(crate) mod uplink;
