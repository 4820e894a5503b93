//! adit in a world of dice: the whole agent against a simulated platform, broker, network and LAN,
//! in one thread, in virtual time, from one seed.
//!
//! `simulation SCHEDULES [FIRST_SEED]` plays schedules on all processors. docs/testing.md says what
//! of the world is simulated and how a seed is repeated.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]
#![expect(
    dead_code,
    reason = "names, a box that starts anew, and what `found.rs` writes out are not drawn yet"
)]

mod broker;
mod cloud;
mod events;
mod faults;
#[cfg(test)]
mod found;
mod gateway;
#[path = "../../judge/mod.rs"]
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

use std::io::{self, Write};
use std::process::ExitCode;

use runner::{Outcome, Run};

fn play(run: &Run) -> Outcome {
    run.play(world::play)
}

/// Plays the schedules that the command line names, and prints what came of it.
fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse());
    let (count, first) = (numbers.next(), numbers.next().unwrap_or(Ok(0)));
    let (Some(Ok(count)), Ok(first), None) = (count, first, numbers.next()) else {
        return finish(&mut io::stderr(), "simulation SCHEDULES [FIRST_SEED]", 2);
    };
    let first: u64 = first;
    let searched = search::search(first..first.saturating_add(count), play);
    match searched.into_result(play) {
        Ok(summary) => finish(&mut io::stdout(), &summary, 0),
        Err(words) => finish(&mut io::stdout(), &words, 1),
    }
}

/// A reader that has gone does not change what came of it.
fn finish(to: &mut dyn Write, words: &str, code: u8) -> ExitCode {
    let _ = writeln!(to, "{words}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a seed means differs from run to run without a seed for tokio; what is promised does not.
    #[test]
    fn keeps_its_promises_in_a_few_schedules() {
        let found = search::search(0..3, play).into_result(play);
        found.unwrap_or_else(|words| panic!("{words}"));
    }

    #[test]
    fn keeps_its_promises_over_a_websocket() {
        let over_websocket: fn(&Run) -> Outcome = |run| {
            run.play(async |network| {
                let mut schedule = schedule::Schedule::draw(network.faults());
                schedule.settings.over_websocket = true;
                world::play_schedule(network, schedule).await
            })
        };
        let found = search::search(0..10, over_websocket).into_result(over_websocket);
        found.unwrap_or_else(|words| panic!("{words}"));
    }
}
