//! What the kernel has booked for a process. Nothing is asked of the process itself.

use std::fs;
use std::thread;
use std::time::Duration;

/// A process between two pieces of work is asleep well within this time.
const SETTLING: Duration = Duration::from_millis(2);

/// Processor time of all threads so far, once the process has come to rest.
///
/// The scheduler books to the nanosecond, but only when a thread goes to sleep or at a tick, so
/// this waits until the figure stands still.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let mut before = booked(pid);
    loop {
        thread::sleep(SETTLING);
        let now = booked(pid);
        if now == before {
            return now;
        }
        before = now;
    }
}

fn booked(pid: u32) -> Duration {
    let nanos = |account: String| account.split(' ').next()?.parse().ok();
    let used = tasks(pid).filter_map(|task| fs::read_to_string(task + "/schedstat").ok());
    used.filter_map(nanos).map(Duration::from_nanos).sum()
}

/// Memory of the process, in bytes; what it shares with others counts in proportion.
pub(crate) fn memory(pid: u32) -> f64 {
    let kibibytes = value(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
    kibibytes.expect("the kernel tells the memory of a process that lives") * 1024.0
}

pub(crate) fn threads(pid: u32) -> usize {
    tasks(pid).count()
}

/// How often a thread has gone to sleep, and so has been woken.
pub(crate) fn wake_ups(pid: u32) -> f64 {
    let count = |task: String| value(&(task + "/status"), "voluntary_ctxt_switches:");
    tasks(pid).filter_map(count).sum()
}

fn tasks(pid: u32) -> impl Iterator<Item = String> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    entries.map(move |task| format!("{folder}/{}", task.file_name().display()))
}

/// The number behind `name` in a file of lines with a name each.
fn value(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
