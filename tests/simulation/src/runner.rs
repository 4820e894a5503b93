//! Plays one schedule, and takes its trace.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    /// Those that strike and no others, where the dice have no say in it.
    pub(crate) chosen: Option<BTreeSet<Strike>>,
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
            chosen: None,
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
                let faults = match &self.chosen {
                    Some(strikes) => faults.exactly(strikes.clone()),
                    None => faults,
                };
                let network = Network::new(faults.clone(), trace.clone());
                let _log = self.is_traced.then(|| Log::into(trace.clone()));
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

thread_local! {
    static LOG: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// Has adit's log in a trace, in this thread, until it is dropped.
struct Log(());

impl Log {
    fn into(trace: Trace) -> Self {
        // One for all threads: what each of them wants would be remembered for the others, and lines
        // would be missing now and then.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .without_time()
                .with_target(false)
                .with_writer(|| Writer);
            let is_wanted = dynamic_filter_fn(|metadata, _| {
                *metadata.level() <= Level::DEBUG && LOG.with_borrow(Option::is_some)
            });
            let log = tracing_subscriber::registry().with(layer.with_filter(is_wanted));
            // Whoever was faster in this process has its own reasons, and then a trace has no log.
            let _ = log.try_init();
        });
        LOG.set(Some(trace));
        Self(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        LOG.set(None);
    }
}

/// Writes into the trace of its thread.
struct Writer;

/// A line comes in one write.
impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        LOG.with_borrow(|trace| {
            if let Some(trace) = trace {
                trace.write("adit", format_args!("{}", text.trim()));
            }
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
