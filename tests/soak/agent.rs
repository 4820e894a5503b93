//! The command under test, as a process whose resources are watched.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::time::sleep;

use crate::support::Directory;

/// Names another binary than the one that was built with the tests.
const BINARY: &str = "ADIT_SOAK_BINARY";
/// Stands before the log of each adit.
const START: &str = "----";
/// Longer than the longest that adit says it may take.
const EXIT_LIMIT: Duration = Duration::from_secs(20);

/// `adit run`. Dropping it kills it.
pub(crate) struct Agent {
    child: Child,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Figures {
    pub(crate) files: usize,
    pub(crate) threads: usize,
    /// The anonymous part of its PSS, in KiB. How much of the binary counts depends on how many
    /// others run it.
    pub(crate) memory: usize,
}

impl Figures {
    /// Takes the larger one of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
            memory: self.memory.max(other.memory),
        }
    }
}

/// Where the log goes, which is emptied before each schedule.
pub(crate) struct Log(PathBuf);

impl Log {
    pub(crate) fn new(directory: &Directory) -> Self {
        Self(directory.path("adit.log"))
    }

    /// Whether adit says anything. Before, its open files may still be those that it has from its
    /// parent: the kernel closes them late on the way into a new program.
    pub(crate) fn has_begun(&self) -> bool {
        let text = self.text();
        let last = text.rsplit(START).next();
        last.is_some_and(|last| last.contains("adit is starting"))
    }

    pub(crate) fn clear(&self) {
        drop(self.file().set_len(0));
    }

    pub(crate) fn text(&self) -> String {
        let text = fs::read(&self.0).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn file(&self) -> File {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(&self.0).unwrap()
    }
}

impl Agent {
    pub(crate) fn start(config: &Path, log: &Log) -> Self {
        let binary = std::env::var(BINARY);
        let binary = binary.unwrap_or_else(|_| env!("CARGO_BIN_EXE_adit").to_owned());
        let mut file = log.file();
        writeln!(file, "{START} {binary}").unwrap();
        let mut command = Command::new(binary);
        command.env_clear();
        if !geteuid().is_root() {
            // Confined, it shows what it holds to root alone.
            command.env("ADIT_NO_SANDBOX", "1");
        }
        let child = command
            .args(["run", "--log-level", "debug", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            memory: self.number("smaps_rollup", "Pss_Anon:"),
            ..self.light_figures()
        }
    }

    /// The same without memory, which costs the process time.
    pub(crate) fn light_figures(&self) -> Figures {
        let files = match fs::read_dir(self.path("fd")) {
            Ok(files) => files.count(),
            // That it has ended is told elsewhere.
            Err(_) if self.is_dead() => 0,
            Err(error) => panic!("cannot look at adit: {error}"),
        };
        Figures {
            files,
            threads: self.threads(),
            memory: 0,
        }
    }

    /// All but the one that sums up a flood of warnings, for a minute at most.
    fn threads(&self) -> usize {
        // One that has ended meanwhile has no name.
        let names = fs::read_dir(self.path("task")).into_iter().flatten();
        let names =
            names.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() != "log").count()
    }

    /// The most memory that it has had, in KiB.
    pub(crate) fn peak(&self) -> usize {
        self.number("status", "VmHWM:")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as a power failure does.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits. `None`: it does not.
    pub(crate) async fn stop(&mut self) -> Option<ExitStatus> {
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        // It may have ended by itself, which is seen below.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let mut waited = Duration::ZERO;
        while waited < EXIT_LIMIT {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            sleep(LOOK_AGAIN).await;
            waited += LOOK_AGAIN;
        }
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Whether it has ended, and nobody has waited for it.
    fn is_dead(&self) -> bool {
        let status = fs::read_to_string(self.path("status")).unwrap_or_default();
        status.contains("State:\tZ")
    }

    /// Reads a number of the kernel's about the process.
    fn number(&self, file: &str, field: &str) -> usize {
        let text = fs::read_to_string(self.path(file)).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(field));
        let number = value.and_then(|value| value.split_ascii_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}
