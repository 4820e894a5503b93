//! What the tests stand on: a broker, the platform, adit as a process, and machines on its LAN.

mod adit;
mod check;
mod connect;
mod far_end;
pub(crate) mod http;
mod lan;
pub(crate) mod memory;
mod middlebox;
mod mosquitto;
mod network;
mod pki;
mod ports;
pub(crate) mod process;
mod proxy;
mod scripted;
mod servers;
mod service;
mod site;
mod sshd;
mod status;
mod temporary;
pub(crate) mod transfer;
mod wire;

use std::time::Duration;

pub(crate) use adit::{Adit, NO_SANDBOX, Surroundings, command, command_in, refused_configuration};
pub(crate) use check::{check, check_to_a_full_disk, interrupted_check, piped};
pub(crate) use connect::Connect;
pub(crate) use far_end::FarEnd;
pub(crate) use lan::{BlackHole, Lan, refusing_port};
pub(crate) use middlebox::{Habits, Middlebox};
pub(crate) use mosquitto::Subscriptions;
pub(crate) use network::Network;
pub(crate) use pki::{Authority, Flaw};
pub(crate) use ports::Port;
pub(crate) use proxy::Proxy;
pub(crate) use scripted::{ScriptedBroker, usual_answer};
pub(crate) use servers::{canned, tls_server};
pub(crate) use service::MqttService;
pub(crate) use site::{Login, Site, SiteOptions, publish_retained, rows};
pub(crate) use sshd::Sshd;
pub(crate) use status::Watcher;
pub(crate) use temporary::Directory;
pub(crate) use wire::Wire;

/// No step of a test takes this long unless something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Every way in which operations come by their ids, or do not.
pub(crate) const ID_SOURCES: [&str; 3] = [
    "remote_access.operation_ids=notifications",
    "remote_access.operation_ids=templates",
    "remote_access.operation_ids=none",
];
