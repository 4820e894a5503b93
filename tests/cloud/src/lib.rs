//! The platform as adit sees it: a simulated cloud for tests, benches and the demo.
//!
//! It is a client of a broker and a server of WebSockets. It keeps to the awkward habits of the
//! real platform (statuses that name no operation, keys that work once, a subprotocol that is
//! answered unasked) and misbehaves when it is told to. One [`Cloud`] serves one gateway, because
//! on a shared broker all devices publish to the same topics.
//!
//! What the platform makes of a row is decided in [`platform`], without I/O.

mod board;
mod cloud;
mod endpoint;
mod est;
mod forward;
mod handshake;
mod http;
mod misbehaviour;
mod mqtt;
mod options;
mod pipe;
pub mod platform;
mod rendezvous;
mod rest;
mod stream;
mod token_service;
mod tunnel;

pub use board::{Configuration, ConfigurationId};
pub use cloud::Cloud;
pub use est::{EstAnswer, EstAuthority, EstForm, EstRequest};
pub use handshake::Handshake;
pub use misbehaviour::Misbehaviour;
pub use options::{Broker, Login, Options};
pub use platform::{
    Complaint, Device, Event, Key, NOTIFICATIONS, Notifications, Operation, OperationId, Platform,
    REMOTE_ACCESS, Record, Service, Status, TokenAnswer,
};
pub use stream::Stream;
pub use token_service::TokenService;
pub use tunnel::{DeviceSocket, Tunnel, reset};
