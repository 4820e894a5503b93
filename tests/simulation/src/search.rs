//! Plays schedules by the thousand, and tells of those that fail.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::faults::Strike;
use crate::runner::{Outcome, Run};

/// Schedules that fail after which no others are played.
const ENOUGH: usize = 20;
/// How long a smaller schedule that still fails is looked for.
const SHRINKING: Duration = Duration::from_secs(60);
/// One schedule in so many is played twice more, and has to bring the same trace.
const REPEATED: u64 = 500;
/// A schedule of some milliseconds that is not over by then never is.
const ENDLESS: Duration = Duration::from_secs(120);
/// How often is looked whether one is endless, or all are over.
const LOOK: Duration = Duration::from_millis(20);

/// What there was to find.
pub(crate) struct Found {
    /// The seeds that fail, each with the first thing that is wrong.
    failing: Vec<(u64, String)>,
    played: u64,
    took: Duration,
}

/// A schedule that is being played.
type Present = Mutex<Option<(u64, Instant)>>;

/// Plays all seeds on all processors. One that never ends ends the process.
pub(crate) fn search(seeds: Range<u64>, play: fn(&Run) -> Outcome) -> Found {
    let began = Instant::now();
    let (next, enough) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let failing = Mutex::new(Vec::new());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let present: Vec<Present> = (0..processors).map(|_| Mutex::default()).collect();
    let searching = AtomicUsize::new(processors);
    let search = |present: &Present| {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            *locked(present) = Some((seed, Instant::now()));
            if let Some(fault) = faults(seed, play).into_iter().next() {
                let mut failing = locked(&failing);
                failing.push((seed, fault));
                enough.store(failing.len() >= ENOUGH, Ordering::Relaxed);
            }
        }
        *locked(present) = None;
        searching.fetch_sub(1, Ordering::Relaxed);
    };
    let search = &search;
    thread::scope(|scope| {
        for present in &present {
            scope.spawn(move || search(present));
        }
        while searching.load(Ordering::Relaxed) > 0 {
            thread::sleep(LOOK);
            for (seed, since) in present.iter().filter_map(|present| *locked(present)) {
                if since.elapsed() > ENDLESS {
                    crate::finish(
                        &mut io::stdout(),
                        &format!("seed {seed} is not over after {ENDLESS:?}"),
                        1,
                    );
                    process::exit(1);
                }
            }
        }
    });
    let mut failing = failing.into_inner().unwrap_or_else(PoisonError::into_inner);
    failing.sort_unstable();
    Found {
        failing,
        played: next.into_inner().min(seeds.end) - seeds.start,
        took: began.elapsed(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays one schedule, and now and then looks whether it can be repeated.
fn faults(seed: u64, play: fn(&Run) -> Outcome) -> Vec<String> {
    let mut faults = play(&Run::of(seed)).faults;
    if cfg!(tokio_unstable) && seed.is_multiple_of(REPEATED) {
        faults.extend(different(seed, play));
    }
    faults
}

/// Returns where two traces of one seed differ.
fn different(seed: u64, play: fn(&Run) -> Outcome) -> Option<String> {
    let run = Run {
        is_traced: true,
        ..Run::of(seed)
    };
    let [first, second] = [(); 2].map(|()| play(&run).to_string());
    let (first, second) = (without_demolition(&first), without_demolition(&second));
    let mut lines = first.lines().zip(second.lines());
    let other = lines.find(|(one, other)| one != other);
    let is_other = first != second || !first.contains("adit starts");
    is_other.then(|| format!("it is not the same again: {other:?}"))
}

/// Leaves out what follows the last end of adit: the world is pulled down then, and which of its
/// connections goes first says nothing of adit.
fn without_demolition(trace: &str) -> &str {
    const END: &str = "adit has stopped";
    trace.rfind(END).map_or(trace, |end| &trace[..end])
}

impl Found {
    /// Returns one line for the log where nothing fails.
    ///
    /// # Errors
    /// All that somebody needs to find the fault: the seeds, and the smallest schedule of one of them
    /// with its trace.
    pub(crate) fn into_result(self, play: fn(&Run) -> Outcome) -> Result<String, String> {
        let Self {
            failing,
            played,
            took,
        } = self;
        let summary = format!(
            "{played} schedules in {:.1} s, {} fail",
            took.as_secs_f64(),
            failing.len()
        );
        let Some((seed, _)) = failing.first() else {
            return Ok(summary);
        };
        let mut words = format!("{}\n{summary}\n", smallest(*seed, play));
        for (seed, fault) in &failing {
            // A string takes everything.
            let _ = writeln!(words, "seed {seed}: {fault}");
        }
        Err(words)
    }
}

/// Leaves out one fault after the other, and returns the last schedule that still fails.
pub(crate) fn smallest(seed: u64, play: fn(&Run) -> Outcome) -> String {
    let began = Instant::now();
    let mut run = Run::of(seed);
    let mut outcome = play(&run);
    let mut size = outcome.struck.len();
    // Half of them at once, then a quarter, then each.
    while size > 0 && began.elapsed() < SHRINKING {
        let mut at = 0;
        while at < outcome.struck.len() && began.elapsed() < SHRINKING {
            let part: Vec<Strike> = outcome.struck.iter().skip(at).take(size).copied().collect();
            let mut smaller = run.clone();
            smaller.left_out.extend(part);
            let tried = play(&smaller);
            if tried.faults.is_empty() {
                at += size;
            } else {
                (run, outcome) = (smaller, tried);
            }
        }
        size /= 2;
    }
    run.is_traced = true;
    let outcome = play(&run);
    let mut words = format!("seed {seed}\n{outcome}");
    if !run.left_out.is_empty() {
        let _ = writeln!(
            words,
            "(without {} faults that it fails without)",
            run.left_out.len()
        );
    }
    words
}
