//! What may happen to a connection, drawn when it is made.

use std::time::Duration;

use super::{Answer, Zone};
use crate::faults::Faults;

/// What has happened to a connection. What is further down includes what is above.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fate {
    /// Every byte arrived in its usual time so far.
    Untouched,
    /// Bytes came late or slowly, and none was lost.
    Delayed,
    /// It was reset or went silent.
    Broken,
}

/// How a connection is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Break {
    /// A box on the way resets both ends.
    Reset,
    /// Nothing arrives any more, either way.
    Silence,
    /// Nothing arrives any more this way; what comes the other way does, unacknowledged.
    SilenceOneWay,
    /// A box on the way has forgotten the connection: whoever sends is reset, whoever waits waits.
    Forgotten,
}

/// Where one way of a connection is disturbed, counted in the bytes that it has carried.
#[derive(Clone, Copy, Debug)]
pub(super) enum Disturbance {
    Break(u64, Break),
    /// Nothing moves for so many milliseconds.
    Stall(u64, u64),
}

/// What becomes of the attempt to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// As whoever listens has it.
    Try,
    Refuse,
    Unreachable,
    Vanish,
}

/// The names of the faults of a zone.
struct Names {
    refuse: &'static str,
    unreachable: &'static str,
    vanish: &'static str,
    slow_connect: &'static str,
    breaks: &'static str,
    stalls: &'static str,
    slow: &'static str,
    fine: &'static str,
}

macro_rules! names {
    ($zone:literal) => {
        Names {
            refuse: concat!($zone, ": connection refused"),
            unreachable: concat!($zone, ": host unreachable"),
            vanish: concat!($zone, ": connect vanishes"),
            slow_connect: concat!($zone, ": connect takes long"),
            breaks: concat!($zone, ": connection breaks"),
            stalls: concat!($zone, ": connection stalls"),
            slow: concat!($zone, ": connection is slow"),
            fine: concat!($zone, ": segments are tiny"),
        }
    };
}

const BROKER: Names = names!("broker");
const CLOUD: Names = names!("cloud");
const LAN: Names = names!("lan");

fn names(zone: Zone) -> &'static Names {
    match zone {
        Zone::Broker => &BROKER,
        Zone::Cloud => &CLOUD,
        Zone::Lan => &LAN,
    }
}

/// Draws what becomes of an attempt, and how many milliseconds longer than usual it takes.
pub(super) fn attempt(faults: &Faults, zone: Zone) -> (Outcome, u64) {
    let names = names(zone);
    if faults.strike(names.refuse, 8).is_some() {
        return (Outcome::Refuse, 0);
    }
    if faults.strike(names.unreachable, 12).is_some() {
        return (Outcome::Unreachable, 0);
    }
    if faults.strike(names.vanish, 12).is_some() {
        return (Outcome::Vanish, 0);
    }
    match faults.strike(names.slow_connect, 6) {
        // The second, third, fourth SYN gets through.
        Some(mut dice) => (Outcome::Try, [1000, 3000, 7000, 15_000][dice.usize(..4)]),
        None => (Outcome::Try, 0),
    }
}

/// Draws what a name server answers instead of what it should.
pub(super) fn lookup(faults: &Faults) -> Option<Answer> {
    let silent = faults.strike("names: no answer", 5);
    let silent = silent.map(|mut dice| Duration::from_millis(1 << dice.u64(8..15)));
    let unknown = faults.strike("names: no such name", 10);
    let unknown = unknown.map(|mut dice| Duration::from_millis(1 << dice.u64(0..12)));
    silent
        .map(Answer::Silence)
        .or(unknown.map(Answer::NoSuchName))
}

/// How a connection that stands behaves.
pub(super) struct Character {
    /// Of the way from the gateway, and of the way to it.
    pub(super) disturbances: [Option<Disturbance>; 2],
    /// Bytes of a millisecond.
    pub(super) bandwidth: [Option<u64>; 2],
    /// Bytes at the beginning of each way that travel in pieces of a few.
    pub(super) fine: [u64; 2],
}

pub(super) fn character(faults: &Faults, zone: Zone) -> Character {
    let names = names(zone);
    let mut character = Character {
        disturbances: [None; 2],
        bandwidth: [None; 2],
        fine: [0; 2],
    };
    if let Some(mut dice) = faults.strike(names.breaks, 3) {
        let how = [
            Break::Reset,
            Break::Silence,
            Break::SilenceOneWay,
            Break::Forgotten,
        ];
        let how = how[dice.usize(..how.len())];
        character.disturbances[dice.usize(..2)] = Some(Disturbance::Break(place(&mut dice), how));
    }
    if let Some(mut dice) = faults.strike(names.stalls, 3) {
        let milliseconds = 1 << dice.u64(4..17);
        let stall = Disturbance::Stall(place(&mut dice), milliseconds);
        character.disturbances[dice.usize(..2)].get_or_insert(stall);
    }
    if let Some(mut dice) = faults.strike(names.slow, 3) {
        character.bandwidth[dice.usize(..2)] = Some(1 << dice.u64(0..9));
    }
    if let Some(mut dice) = faults.strike(names.fine, 2) {
        character.fine[dice.usize(..2)] = 1 << dice.u64(4..10);
    }
    character
}

/// After how many bytes something happens: as often in the first few as in the thousands behind.
fn place(dice: &mut fastrand::Rng) -> u64 {
    let below = 1 << dice.u64(1..18);
    dice.u64(0..below)
}

/// A time in which nothing gets through to some zones.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Outage {
    pub(super) zones: &'static [Zone],
    /// Milliseconds since the network began.
    pub(super) begins: u64,
    pub(super) ends: u64,
    pub(super) kind: OutageKind,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum OutageKind {
    /// Packets vanish. TCP sends them again, so that connections go on afterwards.
    Vanish,
    /// The same, and whoever connects is told at once.
    Unreachable,
    /// Afterwards the gateway has another address, and the connections it had are silent for ever.
    NewAddress,
}

impl Outage {
    pub(super) fn is_at(&self, time: u64) -> bool {
        (self.begins..self.ends).contains(&time)
    }
}

/// Outages of one kind in a schedule.
const OUTAGES: usize = 3;
/// The longest outage is this many times as long as a millisecond, as a power of two: two minutes.
const LONGEST: u64 = 17;

/// Draws the outages of a schedule in which faults strike for `time` milliseconds.
pub(super) fn outages(faults: &Faults, time: u64) -> Vec<Outage> {
    const NAMES: [(&str, &[Zone]); 3] = [
        ("uplink: outage", &[Zone::Broker, Zone::Cloud]),
        ("broker: outage", &[Zone::Broker]),
        ("lan: outage", &[Zone::Lan]),
    ];
    let mut outages = Vec::new();
    for (name, zones) in NAMES {
        for _ in 0..OUTAGES {
            let Some(mut dice) = faults.strike(name, 2) else {
                continue;
            };
            let kinds = [
                OutageKind::Vanish,
                OutageKind::Unreachable,
                OutageKind::NewAddress,
            ];
            // Half of them early, where most is done.
            let latest = time >> dice.u64(0..4);
            let begins = dice.u64(0..latest.max(1));
            let below = 1 << dice.u64(6..LONGEST);
            let length = dice.u64(1..below);
            outages.push(Outage {
                zones,
                begins,
                ends: (begins + length).min(time),
                kind: kinds[dice.usize(..kinds.len())],
            });
        }
    }
    outages
}
