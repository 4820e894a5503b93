//! Faults of adit that were found here, each by the schedule that shows it.
//!
//! A seed shows what it showed for as long as the world draws the same dice from it, and every kind of
//! fault that the world learns changes them. So a schedule stands here in full: what is asked for, what
//! the parties do, and which chances of which faults strike. What is left to the seed is how long each
//! packet takes, and how large the buffers are; each schedule is played with several.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::broker::GATEWAY;
use crate::cloud::{Answer, Style};
use crate::faults::Strike;
use crate::network::Zone;
use crate::runner::Run;
use crate::schedule::{Deed, Ids, Machine, Order, Schedule, Settings, Wish};
use crate::side::{End, Pace, Part};
use crate::world;

/// How many seeds each schedule is played with.
const SEEDS: u64 = 12;

/// adit as it is configured where nothing else is said.
fn settings(ids: Ids) -> Settings {
    Settings {
        ids,
        has_password: true,
        has_names: false,
        max_tunnels: 64,
        connect_timeout: Duration::from_secs(15),
        keep_alive: Duration::from_secs(20),
        mqtt_keep_alive: Duration::from_secs(60),
        over_websocket: false,
        events: true,
    }
}

/// Operations of the gateway, numbered as they come.
fn orders(wishes: impl IntoIterator<Item = Wish>) -> Vec<Order> {
    let order = |(number, wish)| Order {
        number,
        device: GATEWAY,
        wish,
        name: None,
    };
    wishes.into_iter().enumerate().map(order).collect()
}

/// A tunnel to a machine that does not answer, so that its failure comes by itself after a while.
fn unanswered() -> Wish {
    let part = Part {
        says: Vec::new(),
        pace: Pace::Fast,
        end: End::Stays,
        echoes: false,
    };
    let style = Style {
        frame: 1 << 10,
        is_text: false,
        fragments: false,
        pings: false,
    };
    let cloud = Answer::Opens(Duration::ZERO, part, style);
    Wish::Tunnel(Machine::Silent, Box::new(cloud))
}

/// Each deed some milliseconds after the one before.
fn deeds(deeds: impl IntoIterator<Item = (u64, Deed)>) -> Vec<(Duration, Deed)> {
    let deed = |(wait, deed)| (Duration::from_millis(wait), deed);
    deeds.into_iter().map(deed).collect()
}

/// Plays a schedule in which exactly these faults strike.
fn holds(schedule: &Schedule, strikes: &[Strike]) {
    for seed in 0..SEEDS {
        let mut run = Run {
            chosen: Some(strikes.iter().copied().collect()),
            ..Run::of(seed)
        };
        let play = |run: &Run| {
            run.play(async |network| world::play_schedule(network, schedule.clone()).await)
        };
        let outcome = play(&run);
        let struck: BTreeSet<_> = outcome.struck.iter().copied().collect();
        assert_eq!(Some(struck), run.chosen, "a fault had no chance to strike");
        if !outcome.faults.is_empty() {
            run.is_traced = true;
            panic!("seed {seed}: {:?}\n{}", outcome.faults, play(&run));
        }
    }
}

/// An acknowledgement that was read and not looked at was lost when a write failed: the status was sent
/// again, and where it names no operation it fell on another one.
#[test]
fn looks_at_what_it_has_read_when_a_write_fails() {
    for over_websocket in [false, true] {
        let schedule = Schedule {
            settings: Settings {
                over_websocket,
                ..settings(Ids::None)
            },
            orders: orders([unanswered(), Wish::Keyless]),
            deeds: deeds([
                (30_000, Deed::Order(0)),
                (14_000, Deed::Stall(Zone::Broker, Duration::from_secs(6))),
                // Its row comes first of all that is held back, and is answered by a packet; the
                // acknowledgement of the failure stands behind it, and a reset behind that.
                (300, Deed::Order(1)),
                (4700, Deed::ThrowOut),
            ]),
        };
        holds(&schedule, &[]);
    }
}

/// A broker that lost an acknowledgement and answered pings was waited for ten minutes more where pings
/// came every few seconds, and no operation was taken.
#[test]
fn gives_up_a_broker_that_only_answers_pings() {
    for ids in [Ids::None, Ids::Notifications] {
        let schedule = Schedule {
            settings: Settings {
                mqtt_keep_alive: Duration::from_secs(4),
                ..settings(ids)
            },
            orders: orders([Wish::Keyless, Wish::Keyless]),
            deeds: deeds([
                (30_000, Deed::LosePubAck),
                (0, Deed::Order(0)),
                (5000, Deed::Order(1)),
            ]),
        };
        holds(&schedule, &[]);
    }
}
