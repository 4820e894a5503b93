//! What the process costs, as the kernel tells it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Dir, DirEntry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Figures of this process; those that cannot be had are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Seconds of processors, in user and kernel mode.
    pub(crate) cpu_seconds: Option<f64>,
    /// Memory in use.
    pub(crate) resident_bytes: Option<u64>,
    /// Threads.
    pub(crate) threads: Option<u64>,
    /// Open files.
    pub(crate) open_files: Option<u64>,
    /// How many files may be open.
    pub(crate) max_files: Option<u64>,
}

/// What the kernel tells of this process. It is opened before adit confines itself, and read again
/// and again.
#[derive(Debug)]
pub(in crate::admin) struct Process {
    status: Option<File>,
    files: Option<Mutex<Dir>>,
}

impl Process {
    pub(in crate::admin) fn open() -> Self {
        let files = File::open("/proc/self/fd").ok();
        let files = files.and_then(|directory| Dir::new(directory).ok());
        Self {
            status: File::open("/proc/self/status").ok(),
            files: files.map(Mutex::new),
        }
    }

    /// Asks the kernel.
    pub(in crate::admin) fn figures(&self) -> Figures {
        let status = self.status.as_ref().and_then(|file| whole(file).ok());
        let field = |name| number(status.as_deref()?, name);
        Figures {
            cpu_seconds: Some(cpu_time().as_secs_f64()),
            resident_bytes: field("VmRSS:").map(|kibibytes| kibibytes << 10),
            threads: field("Threads:"),
            open_files: self.files.as_ref().map(entries),
            max_files: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Reads a file of `/proc` from its beginning.
fn whole(mut file: &File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn entries(directory: &Mutex<Dir>) -> u64 {
    let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
    directory.rewind();
    let names = directory.by_ref().map_while(Result::ok);
    let is_dots = |entry: &DirEntry| entry.file_name().to_bytes().starts_with(b".");
    names.filter(|entry| !is_dots(entry)).count() as u64
}

/// The first number behind a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Needs nothing of `/proc`, which a process that lives in the confinement of another cannot open.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(number("A: 1\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(number("VmRSS: none", "VmRSS:"), None);
        let process = Process::open();
        let before = process.figures();
        let held: Vec<_> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let now = process.figures();
        assert!(now.resident_bytes.unwrap() > 1 << 20);
        assert!(now.threads.unwrap() >= 1 && now.cpu_seconds.unwrap() > 0.0);
        // Other tests of this process open and close files meanwhile.
        assert!(now.open_files.unwrap() > before.open_files.unwrap() + 50);
        assert!(now.max_files.unwrap() >= now.open_files.unwrap());
        drop(held);
    }
}
