//! What the agent shows of itself when somebody asks.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Agent;
use crate::auth::settings::Auth;
use crate::auth::token::Tokens;
use crate::inquiry::Inquiry;
use crate::mqtt::publisher::Publisher;
use crate::net::Transport;
use crate::state::clock::Clock;
use crate::state::record::Record;
use crate::state::snapshot::{
    self, Authentication, Connection, Device, FORMAT, Failure, Phase, RemoteAccess, Snapshot,
};
use crate::tunnel::manager::Tunnels;
use crate::words::{date, seconds};

/// What does not change by itself while the agent runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// When the process began, by the clock of the agent.
    pub began: Instant,
    /// The gateway.
    pub device: Device,
    /// Scheme, host and port.
    pub broker: String,
    /// Scheme, host and port.
    pub cloud: String,
    /// What kind of credentials there are.
    pub authentication: &'static str,
    /// Knows the certificate in use.
    pub transport: Transport,
    /// What tunnels may do.
    pub remote_access: RemoteAccess,
}

/// What whoever supervises adit is told.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(crate) struct Told {
    phase: &'static str,
    tunnels: usize,
    carried: u64,
}

impl Agent {
    /// Tells whoever supervises adit how it stands, when that has changed.
    pub(super) fn tell_supervisor(&mut self) {
        let is_connected = self.publisher.standing().is_connected;
        let told = Told {
            phase: match (
                self.is_stopping,
                self.succession.is_followed(),
                is_connected,
            ) {
                (true, ..) => "stopping",
                (_, true, _) => "a new process is to take over",
                (.., true) => "connected",
                _ => "not connected",
            },
            tunnels: self.tunnels.len(),
            carried: self.succession.carried(),
        };
        if told == self.told || !self.succession.is_main() {
            return;
        }
        self.told = told;
        let Told {
            phase,
            tunnels,
            carried,
        } = told;
        let before = match carried {
            0 => String::new(),
            _ => format!(", and {carried} that processes before this one carry"),
        };
        self.supervisor
            .status(&format!("{phase}; tunnels: {tunnels}{before}"));
    }
}

/// Where what changes is looked up.
pub(super) struct Sights<'a> {
    pub(super) record: &'a Record,
    pub(super) tunnels: &'a Tunnels,
    pub(super) publisher: &'a Publisher,
    pub(super) tokens: &'a Arc<Tokens>,
    pub(super) unknown_templates: &'a [&'static str],
}

/// Names the kind of credentials, as the snapshot does.
pub(crate) fn kind(auth: &Auth) -> &'static str {
    match auth {
        Auth::Password { .. } => "password",
        Auth::Certificate(_) => "certificate",
        Auth::Unenrolled(_) => "enrolment",
        Auth::Bootstrap(_) => "registration",
        Auth::None => "none",
    }
}

impl Facts {
    /// Answers before there is an agent, while a registration waits to be accepted.
    pub(crate) fn answer(&self, inquiry: Inquiry) {
        match inquiry {
            Inquiry::Look(answer) => {
                let clock = clock();
                let mut snapshot = self.snapshot(Phase::Registering, &clock);
                snapshot.totals = Record::default().totals();
                snapshot.connection.since_at = clock.time_of(self.began);
                snapshot.connection.since_s = clock.age(self.began);
                // Who asked may have gone.
                let _ = answer.send(snapshot);
            }
        }
    }

    /// Returns what the agent does at this moment.
    pub(super) fn look(&self, sights: &Sights<'_>, is_stopping: bool) -> Snapshot {
        let clock = clock();
        let phase = match is_stopping {
            true => Phase::Stopping,
            false => Phase::Running,
        };
        let mut snapshot = self.snapshot(phase, &clock);
        let standing = sights.publisher.standing().clone();
        snapshot.connection = Connection {
            is_connected: standing.is_connected,
            is_ready: standing.is_ready,
            since_at: clock.time_of(standing.since),
            since_s: clock.age(standing.since),
            last_error: standing.last_error.map(|(reason, at)| Failure {
                reason,
                failed_at: clock.time_of(at),
                age_s: clock.age(at),
            }),
            unsent_messages: sights.publisher.waiting() as u64,
            unknown_templates: sights
                .unknown_templates
                .iter()
                .map(|&id| id.to_owned())
                .collect(),
            ..snapshot.connection
        };
        if let Some((age, left)) = sights.tokens.age() {
            snapshot.authentication.token_age_s = Some(seconds(age));
            snapshot.authentication.token_left_s = Some(seconds(left));
        }
        snapshot.tunnels = sights.tunnels.overview(&clock);
        snapshot.operations = sights.record.operations(&clock);
        snapshot.totals = sights.record.totals();
        let totals = &mut snapshot.totals;
        (totals.up_bytes, totals.down_bytes) = sights.tunnels.carried();
        snapshot.totals.logins = standing.logins;
        let losses = standing.losses.into_iter();
        snapshot.totals.losses = losses.map(|(why, n)| (why.to_owned(), n)).collect();
        snapshot
    }

    fn snapshot(&self, phase: Phase, clock: &Clock) -> Snapshot {
        let ends = self.transport.identity_ends();
        Snapshot {
            format: FORMAT,
            agent: snapshot::Agent {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                process_id: std::process::id(),
                started_at: clock.time_of(self.began),
                uptime_s: clock.age(self.began),
                phase,
            },
            device: self.device.clone(),
            connection: Connection {
                broker: self.broker.clone(),
                cloud: self.cloud.clone(),
                ..Connection::default()
            },
            authentication: Authentication {
                kind: self.authentication.to_owned(),
                certificate_expires_at: ends.map(date),
                certificate_left_s: ends.map(|ends| left(ends, clock.time)),
                ..Authentication::default()
            },
            remote_access: self.remote_access.clone(),
            ..Snapshot::default()
        }
    }
}

fn left(ends: SystemTime, now: SystemTime) -> f64 {
    match ends.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}

pub(super) fn clock() -> Clock {
    Clock {
        now: super::now(),
        time: SystemTime::now(),
    }
}
