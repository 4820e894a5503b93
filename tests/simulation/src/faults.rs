//! Which faults strike in a schedule, and everything else that falls by the dice.
//!
//! A fault is drawn where it could strike: "the n-th time that this could happen, it does". Whether
//! it does depends on the seed, the fault's name and n alone, so that one fault can be left out of
//! a schedule and the others stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::trace::Trace;

/// One in so many schedules has no fault at all.
const CALM: u64 = 12;
/// Of a hundred faults that there are, so many can strike in a schedule: few kinds at a time find
/// more than all of them at once.
const KINDS: u64 = 35;

/// A fault that struck: its name, and the how manieth chance of that name it was.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Strike(pub(crate) &'static str, pub(crate) u64);

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.0, self.1)
    }
}

/// The dice of one schedule. Clones share them.
#[derive(Clone)]
pub(crate) struct Faults {
    seed: u64,
    trace: Trace,
    ends_at: Instant,
    left_out: Arc<BTreeSet<Strike>>,
    /// Those that strike, where the dice have no say in it.
    chosen: Option<Arc<BTreeSet<Strike>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    chances: BTreeMap<&'static str, u64>,
    struck: Vec<Strike>,
    is_over: bool,
}

impl Faults {
    /// Faults strike for `time` from now on, but none of `left_out`.
    pub(crate) fn new(seed: u64, trace: Trace, time: Duration, left_out: BTreeSet<Strike>) -> Self {
        Self {
            seed,
            trace,
            ends_at: Instant::now() + time,
            left_out: Arc::new(left_out),
            chosen: None,
            state: Arc::default(),
        }
    }

    /// Lets exactly these faults strike, whatever the dice say.
    pub(crate) fn exactly(self, strikes: BTreeSet<Strike>) -> Self {
        Self {
            chosen: Some(Arc::new(strikes)),
            ..self
        }
    }

    /// Whether a fault strikes now, one time in `one_in` in a schedule that has such faults; if so,
    /// returns dice for whatever it takes.
    pub(crate) fn strike(&self, name: &'static str, one_in: u64) -> Option<fastrand::Rng> {
        let mut state = self.state();
        let chances = state.chances.entry(name).or_default();
        let strike = Strike(name, *chances);
        *chances += 1;
        let mut dice = self.dice(name, strike.1 + 1);
        let is_drawn = dice.u64(0..one_in.max(1)) == 0 && self.has(name);
        let is_chosen = self.chosen.as_ref().map(|chosen| chosen.contains(&strike));
        let strikes = is_chosen.unwrap_or(is_drawn)
            && !state.is_over
            && Instant::now() < self.ends_at
            && !self.left_out.contains(&strike);
        if !strikes {
            return None;
        }
        state.struck.push(strike);
        drop(state);
        self.trace.write("fault", format_args!("{strike}"));
        Some(dice)
    }

    /// Whether faults of this name can strike in this schedule.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.is_calm() && mix(self.seed ^ hash(name)) % 100 < KINDS
    }

    /// Whether none can.
    pub(crate) fn is_calm(&self) -> bool {
        mix(self.seed ^ hash("calm")).is_multiple_of(CALM)
    }

    /// Returns dice for what is no fault: what operators do, how much a machine says. The same name
    /// gives the same dice.
    pub(crate) fn rng(&self, name: &str) -> fastrand::Rng {
        self.dice(name, 0)
    }

    /// When the last fault has struck; what lasts has to be over by then, too.
    pub(crate) fn end(&self) -> Instant {
        self.ends_at
    }

    /// Lets no fault strike from now on.
    pub(crate) fn stop(&self) {
        self.state().is_over = true;
    }

    /// Returns what has struck so far.
    pub(crate) fn struck(&self) -> Vec<Strike> {
        self.state().struck.clone()
    }

    fn dice(&self, name: &str, count: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(mix(mix(self.seed ^ hash(name)).wrapping_add(count)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// FNV-1a: a hash that is the same in every process.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The last steps of SplitMix64: neighbouring seeds become strangers.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
