//! Everything that is shown of adit, at one moment. Its JSON is what `adit status --json` prints, and
//! is held stable: a field keeps its name and its meaning for as long as `format` stays the same.
//!
//! A name that ends in `_s` is a number of seconds, one that ends in `_bytes` a number of bytes, and
//! one that ends in `_at` a time of RFC 3339 in UTC. Nothing here is a secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Grows when a field goes or changes its meaning, and not when one is added.
pub(crate) const FORMAT: u32 = 1;

/// What adit does at one moment, and what it has done.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Snapshot {
    /// Grows when a field goes or changes its meaning.
    pub format: u32,
    /// The process.
    pub agent: Agent,
    /// The gateway.
    pub device: Device,
    /// That to the broker.
    pub connection: Connection,
    /// How adit shows who it is.
    pub authentication: Authentication,
    /// What tunnels may do.
    pub remote_access: RemoteAccess,
    /// Those that are opening or open, the oldest first.
    pub tunnels: Vec<Tunnel>,
    /// The last of them, the newest first.
    pub operations: Vec<Operation>,
    /// Since the start of the process.
    pub totals: Totals,
    /// The process that this one has taken over from, while it still carries tunnels.
    pub predecessor: Option<Box<Predecessor>>,
}

/// A process that carries its tunnels until they end, and nothing else.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Predecessor {
    /// As `0.1.0`.
    pub version: String,
    /// That of the system.
    pub process_id: u32,
    /// Those that it carries, the oldest first.
    pub tunnels: Vec<Tunnel>,
    /// In how many seconds it ends them; `None` where it lets them last.
    pub ends_in_s: Option<f64>,
    /// The one that it has taken over from, while that still carries tunnels.
    pub predecessor: Option<Box<Predecessor>>,
}

impl Predecessor {
    /// Returns how many tunnels it carries, and those before it.
    pub(crate) fn all_tunnels(&self) -> u64 {
        let before = self.predecessor.as_ref();
        self.tunnels.len() as u64 + before.map_or(0, |before| before.all_tunnels())
    }
}

/// A process of adit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Agent {
    /// As `0.1.0`.
    pub version: String,
    /// That of the system.
    pub process_id: u32,
    /// By the clock as it is now.
    pub started_at: String,
    /// How long the process runs.
    pub uptime_s: f64,
    /// What it is about.
    pub phase: Phase,
}

/// What a process of adit is about.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits for the platform to accept a new device.
    Registering,
    /// It is the agent.
    #[default]
    Running,
    /// It brings what is open to its end.
    Stopping,
}

/// The gateway.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Device {
    /// External id.
    pub id: String,
    /// External ids of the devices behind it that are configured.
    pub children: Vec<String>,
}

/// The connection to the broker.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Connection {
    /// The broker has accepted the login, and the connection stands.
    pub is_connected: bool,
    /// Everything is announced, and operations come.
    pub is_ready: bool,
    /// Scheme, host and port.
    pub broker: String,
    /// Scheme, host and port of the platform, for tunnels.
    pub cloud: String,
    /// Since when it is connected, or not.
    pub since_at: String,
    /// For how long it is connected, or not.
    pub since_s: f64,
    /// The last, also of a former connection.
    pub last_error: Option<Failure>,
    /// Messages that the broker has not acknowledged.
    pub unsent_messages: u64,
    /// Ids of templates that the platform is too old for, as it has said.
    pub unknown_templates: Vec<String>,
}

/// What went wrong, and when.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Failure {
    /// In words, as in the log.
    pub reason: String,
    /// When.
    pub failed_at: String,
    /// How long ago.
    pub age_s: f64,
}

/// How adit shows the platform who it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Authentication {
    /// `password`, `certificate`, `enrolment`, `registration`, or `none` where a local broker vouches
    /// for it.
    pub kind: String,
    /// How old the token is that tunnels show, where one is held.
    pub token_age_s: Option<f64>,
    /// How long it is still good.
    pub token_left_s: Option<f64>,
    /// When the certificate in use expires, where there is one.
    pub certificate_expires_at: Option<String>,
    /// How long it is still good; below zero when it has expired.
    pub certificate_left_s: Option<f64>,
}

/// What tunnels may do.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct RemoteAccess {
    /// In one line, as in the log.
    pub policy: String,
    /// Tunnels at the same time.
    pub max_tunnels: u64,
}

/// A tunnel that is opening or open.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Tunnel {
    /// Its number in this process, as in the log.
    pub id: u64,
    /// External id of the gateway or of the child that the operation names.
    pub device: String,
    /// Host and port.
    pub target: String,
    /// How far it has come.
    pub state: TunnelState,
    /// Since the operation came.
    pub age_s: f64,
    /// From the machine to the cloud.
    pub up_bytes: u64,
    /// From the cloud to the machine.
    pub down_bytes: u64,
    /// Of late, in bytes a second.
    pub up_bytes_per_s: u64,
    /// Of late, in bytes a second.
    pub down_bytes_per_s: u64,
    /// How long nothing was seen to move; it is looked at every few seconds.
    pub idle_s: f64,
}

/// How far a tunnel has come.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelState {
    /// One of its ends does not stand yet.
    #[default]
    Opening,
    /// Both ends stand.
    Open,
    /// Last bytes are delivered.
    Ending,
}

/// An operation of the platform.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Operation {
    /// The number of its tunnel in this process, as in the log.
    pub id: u64,
    /// External id of the gateway or of the child that it names.
    pub device: String,
    /// Host and port; empty where the operation did not say.
    pub target: String,
    /// What became of it.
    pub result: OperationResult,
    /// Why it failed, or why its tunnel has ended.
    pub reason: Option<String>,
    /// What kind of failure that is.
    pub failure: Option<FailureKind>,
    /// When it came.
    pub received_at: String,
    /// How long ago that is.
    pub age_s: f64,
    /// From when it came to its result.
    pub took_s: Option<f64>,
    /// How long its tunnel was open, if that has ended.
    pub open_s: Option<f64>,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationResult {
    /// Its tunnel is opening.
    #[default]
    Executing,
    /// Both ends stood.
    Successful,
    /// The tunnel did not open.
    Failed,
}

/// Why a tunnel did not open, in kinds that there is a fixed number of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The policy does not allow the target.
    Policy,
    /// As many tunnels are open as may be.
    Limit,
    /// The operation lacks something, or it makes no sense.
    Malformed,
    /// The name of the machine has no address.
    Name,
    /// The machine was not reached.
    Unreachable,
    /// The machine, or whoever knows its address, did not answer in time.
    TargetTimeout,
    /// The cloud was not reached, or does not speak as it should.
    Cloud,
    /// The cloud did not answer in time.
    CloudTimeout,
    /// The cloud refused the WebSocket.
    CloudRefused,
    /// There is nothing to show the cloud.
    Unauthorized,
    /// adit is stopping.
    Stopping,
    /// A fault in adit.
    Fault,
}

impl FailureKind {
    /// All that there are.
    pub const ALL: [Self; 12] = [
        Self::Policy,
        Self::Limit,
        Self::Malformed,
        Self::Name,
        Self::Unreachable,
        Self::TargetTimeout,
        Self::Cloud,
        Self::CloudTimeout,
        Self::CloudRefused,
        Self::Unauthorized,
        Self::Stopping,
        Self::Fault,
    ];

    /// Returns the word for it in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Limit => "limit",
            Self::Malformed => "malformed",
            Self::Name => "name",
            Self::Unreachable => "unreachable",
            Self::TargetTimeout => "target_timeout",
            Self::Cloud => "cloud",
            Self::CloudTimeout => "cloud_timeout",
            Self::CloudRefused => "cloud_refused",
            Self::Unauthorized => "unauthorized",
            Self::Stopping => "stopping",
            Self::Fault => "fault",
        }
    }
}

/// What was counted since the start of the process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Totals {
    /// Logins that the broker accepted.
    pub logins: u64,
    /// Attempts to connect that failed, and connections that were lost, by reason: `unreachable`,
    /// `refused`, `closed`, `silent`, `failed`.
    pub losses: BTreeMap<String, u64>,
    /// Operations whose tunnel opened.
    pub operations_successful: u64,
    /// Operations whose tunnel did not open, by kind of failure.
    pub operations_failed: BTreeMap<FailureKind, u64>,
    /// Tunnels that have ended.
    pub tunnels_ended: u64,
    /// What machines have said to the cloud, tunnels that are open included, and what did not arrive.
    pub up_bytes: u64,
    /// What the cloud has said to machines, likewise.
    pub down_bytes: u64,
    /// How long it took to reach a machine, its name included.
    pub target_connect: Histogram,
    /// How long it took to open the cloud's WebSocket.
    pub cloud_connect: Histogram,
    /// How long it took from an operation to its result.
    pub operation: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_same_word_for_a_failure_in_json_and_in_metrics() {
        for kind in FailureKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("{:?}", kind.as_str()));
        }
    }

    #[test]
    fn says_what_is_documented_and_nothing_else() {
        let document = include_str!("../../docs/status.md");
        let example = document.split("```json\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let documented: serde_json::Value = serde_json::from_str(example).unwrap();
        let snapshot: Snapshot = serde_json::from_str(example).unwrap();
        // Whatever is not documented would be left out of the first, and added to the second.
        assert_eq!(serde_json::to_value(&snapshot).unwrap(), documented);
        assert_eq!(snapshot.format, FORMAT);
    }

    #[test]
    fn reads_what_an_older_or_a_newer_adit_says() {
        let read: Snapshot = serde_json::from_str(
            r#"{"format":1,"agent":{"version":"9"},"weather":"fine","tunnels":[{"id":7}]}"#,
        )
        .unwrap();
        assert_eq!(read.agent.version, "9");
        assert_eq!(read.tunnels[0].id, 7);
    }
}
