//! adit in a world of dice: the whole agent against a simulated platform, broker, network and LAN,
//! in one thread, in virtual time, from one seed.
//!
//! docs/testing.md says what of the world is simulated and how a seed is repeated.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]
#![expect(
    dead_code,
    reason = "names and a box that starts anew are not drawn yet"
)]

mod broker;
mod cloud;
mod faults;
mod gateway;
#[path = "../judge/mod.rs"]
mod judge;
mod lan;
mod network;
mod places;
mod runner;
mod schedule;
mod search;
mod side;
mod trace;
mod verdict;
mod world;

use std::ops::Range;

use runner::{Outcome, Run};

/// Schedules that are played where nobody says how many.
const SEEDS: u64 = 200;

fn play(run: &Run) -> Outcome {
    run.play(world::play)
}

/// Reads a number from a variable of the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Plays schedules and returns a summary; what does not keep its promises fails the test.
fn played(seeds: Range<u64>) -> String {
    let searched = search::search(seeds, play).into_result(play);
    searched.unwrap_or_else(|words| panic!("{words}"))
}

/// What a seed means differs from run to run without a seed for tokio; what is promised does not.
#[test]
fn keeps_its_promises_in_a_few_schedules() {
    println!("{}", played(0..3));
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "just simulate has a seed for the dice of tokio"
)]
fn keeps_its_promises_whatever_happens() {
    let first = number("ADIT_SIMULATION_FIRST").unwrap_or(0);
    let seeds = number("ADIT_SIMULATION_SEEDS").unwrap_or(SEEDS);
    println!("{}", played(first..first + seeds));
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "just simulate has a seed for the dice of tokio"
)]
fn brings_the_same_trace_from_the_same_seed() {
    for seed in 0..40 {
        let run = Run {
            is_traced: true,
            ..Run::of(seed)
        };
        let [first, second] = [(); 2].map(|()| play(&run).to_string());
        assert!(first.contains("adit starts"), "{first}");
        let lines = first.lines().zip(second.lines());
        let before = lines.take_while(|(one, other)| one == other).count();
        assert!(
            first == second,
            "seed {seed}, after {before} same lines:\n{:?}\n{:?}",
            first.lines().nth(before),
            second.lines().nth(before)
        );
    }
}
