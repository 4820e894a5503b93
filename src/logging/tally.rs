//! Keeps floods of warnings and errors from the log, and sums them up in time.
//!
//! A thread waits for the end of the minute, and lives as long as something is counted.

use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, error, warn};

use super::EACH;
use super::flood::{Counted, Flood};

/// Bytes of what a message said that is summed up.
const WORDS_LIMIT: usize = 200;
/// Bytes of the stack of the thread; it formats one line at most.
const STACK_SIZE: usize = 256 << 10;

static TALLY: LazyLock<Mutex<Tally>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Tally {
    flood: Flood<(Level, Identifier)>,
    is_watched: bool,
}

/// Whether an event is to be logged. One that is not is counted.
pub(super) fn allows(event: &Event<'_>) -> bool {
    let metadata = event.metadata();
    // The less important ones are asked for by whoever looks for something.
    if *metadata.level() > Level::WARN || metadata.target() == EACH {
        return true;
    }
    let kind = (*metadata.level(), metadata.callsite());
    let mut tally = tally();
    if tally.flood.allows(kind, Instant::now(), || words(event)) {
        return true;
    }
    if !tally.is_watched {
        let watching = thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(watch);
        // Without a thread it is tried again with the next one.
        tally.is_watched = watching.is_ok();
    }
    false
}

/// Tells what is counted and not told yet.
pub(super) fn flush() {
    let rest = tally().flood.rest();
    tell(rest);
}

fn watch() {
    loop {
        let mut tally = tally();
        let Some(due) = tally.flood.due() else {
            tally.is_watched = false;
            return;
        };
        drop(tally);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sums = self::tally().flood.sum_up(Instant::now());
        tell(sums);
    }
}

fn tell(sums: Vec<((Level, Identifier), Counted)>) {
    for ((level, _), Counted { count, words }) in sums {
        if level == Level::ERROR {
            error!(target: EACH, count, of = words, "more of these in the last minute");
        } else {
            warn!(target: EACH, count, of = words, "more of these in the last minute");
        }
    }
}

fn tally() -> MutexGuard<'static, Tally> {
    TALLY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an event says, without its fields.
fn words(event: &Event<'_>) -> String {
    struct Words(String);
    impl Visit for Words {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                // Writing to a text cannot fail.
                let _ = write!(self.0, "{value:?}");
            }
        }
    }
    let mut words = Words(String::new());
    event.record(&mut words);
    let Words(mut words) = words;
    words.truncate(words.floor_char_boundary(WORDS_LIMIT));
    words
}
