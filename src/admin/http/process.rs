//! What the process costs, as the kernel tells it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Dir, DirEntry};
use rustix::process::{Resource, getrlimit};

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

/// Ticks of a second in `/proc/self/stat`: Linux's `USER_HZ`, the same wherever Rust runs.
const TICKS: f64 = 100.0;

/// What the kernel tells of this process. It is opened before adit confines itself, and read again
/// and again.
#[derive(Debug)]
pub(in crate::admin) struct Process {
    stat: Option<File>,
    status: Option<File>,
    files: Option<Mutex<Dir>>,
}

impl Process {
    pub(in crate::admin) fn open() -> Self {
        let files = File::open("/proc/self/fd").ok();
        let files = files.and_then(|directory| Dir::new(directory).ok());
        Self {
            stat: File::open("/proc/self/stat").ok(),
            status: File::open("/proc/self/status").ok(),
            files: files.map(Mutex::new),
        }
    }

    /// Asks the kernel.
    pub(in crate::admin) fn figures(&self) -> Figures {
        let read = |file: &Option<File>| whole(file.as_ref()?).ok();
        let (stat, status) = (read(&self.stat), read(&self.status));
        let field = |name| number(status.as_deref()?, name);
        Figures {
            cpu_seconds: stat.as_deref().and_then(cpu_seconds),
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

/// The 14th and 15th field (proc(5)), counted from behind the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        assert_eq!(number("A: 1\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(number("VmRSS: none", "VmRSS:"), None);
        let process = Process::open();
        let before = process.figures();
        let held: Vec<_> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let now = process.figures();
        assert!(now.resident_bytes.unwrap() > 1 << 20);
        assert!(now.threads.unwrap() >= 1 && now.cpu_seconds.is_some());
        // Other tests of this process open and close files meanwhile.
        assert!(now.open_files.unwrap() > before.open_files.unwrap() + 50);
        assert!(now.max_files.unwrap() >= now.open_files.unwrap());
        drop(held);
    }
}
