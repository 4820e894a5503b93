//! Runs schedules: one, with its trace; many, on all processors; and the smallest that still fails.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::faults::{Faults, Strike};
use crate::network::Network;
use crate::trace::Trace;

/// How long faults strike. What adit does about the last of them comes after that.
const FAULTY: Duration = Duration::from_secs(5 * 60);
/// How long an end may wait for what it has spawned.
const LEFTOVERS: Duration = Duration::from_secs(60);

/// One schedule.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    /// Faults that would strike and do not.
    pub(crate) left_out: BTreeSet<Strike>,
    pub(crate) is_traced: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What is wrong, a line each.
    pub(crate) faults: Vec<String>,
    pub(crate) struck: Vec<Strike>,
    pub(crate) trace: String,
}

impl Run {
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            seed,
            left_out: BTreeSet::new(),
            is_traced: false,
        }
    }

    /// Plays the schedule in a runtime, and with dice, of its own. `play` returns what is wrong.
    pub(crate) fn play(&self, play: impl AsyncFn(&Network) -> Vec<String>) -> Outcome {
        fastrand::seed(self.seed);
        let runtime = runtime(self.seed);
        let mut parts = None;
        let played = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let trace = Trace::new(self.is_traced);
                let left_out = self.left_out.clone();
                let faults = Faults::new(self.seed, trace.clone(), FAULTY, left_out);
                let network = Network::new(faults.clone(), trace.clone());
                parts = Some((faults, trace));
                network.spawn(network.clone().run());
                let mut found = play(&network).await;
                found.extend(left_behind(&network).await);
                if network.has_panicked() {
                    found.push("a party panicked".to_owned());
                }
                found
            })
        }));
        drop(runtime);
        let faults = played.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            vec![format!("somebody panicked: {}", words.unwrap_or("?"))]
        });
        let (struck, trace) = parts.map_or_else(Default::default, |(faults, trace)| {
            (faults.struck(), trace.text())
        });
        Outcome {
            faults,
            struck,
            trace,
        }
    }
}

/// Tokio draws the order in which `select!` looks at its branches, and only an unstable call has it
/// draw the same again.
fn runtime(seed: u64) -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = seed;
    builder
        .build()
        .expect("a runtime needs nothing of the system")
}

/// Returns whether tasks run that are none of the parties'.
async fn left_behind(network: &Network) -> Option<String> {
    let tasks = || {
        let alive = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        alive.saturating_sub(network.parties())
    };
    let step = Duration::from_secs(1);
    let mut waited = Duration::ZERO;
    while tasks() > 0 && waited < LEFTOVERS {
        tokio::time::sleep(step).await;
        waited += step;
    }
    let left = tasks();
    (left > 0).then(|| format!("{left} tasks of adit are left when it has ended"))
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.trace)?;
        for strike in &self.struck {
            writeln!(f, "struck: {strike}")?;
        }
        for fault in &self.faults {
            writeln!(f, "WRONG: {fault}")?;
        }
        Ok(())
    }
}
