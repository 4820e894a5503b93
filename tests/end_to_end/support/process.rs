//! A child process whose standard error is collected, line by line.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::sync::watch;
use tokio::time::timeout;

use super::LIMIT;

/// A process of the test's own. Dropping it kills it, and shows what it said if the test failed.
pub(crate) struct Process {
    name: String,
    child: Child,
    said: watch::Receiver<Said>,
    reader: Option<JoinHandle<()>>,
    /// Those that it starts end with it.
    has_group: bool,
}

/// Debian keeps servers and tools of the network where only root's path leads.
const EXTRA_PATH: &str = ":/usr/sbin:/usr/local/sbin:/sbin";

/// A program that may be where only root's path leads.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + EXTRA_PATH;
    command.env("PATH", path);
    command
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// The process has closed its standard error, which it does when it ends.
    ended: bool,
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        Self::start_with_pipes(name, command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// Starts a command that may start others, which are gone too when this is dropped.
    pub(crate) fn start_group(name: &str, command: &mut Command) -> Self {
        let mut process = Self::start(name, command.process_group(0));
        process.has_group = true;
        process
    }

    /// Starts a command whose standard input and output have been set.
    pub(crate) fn start_with_pipes(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stderr = child.stderr.take().expect("piped");
        let (sender, said) = watch::channel(Said::default());
        // A thread, so that the log is whole however the test ends.
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                sender.send_modify(|said| said.lines.push(line));
            }
            sender.send_modify(|said| said.ended = true);
        });
        Self {
            name: name.to_owned(),
            child,
            said,
            reader: Some(reader),
            has_group: false,
        }
    }

    /// Returns the most memory that the process has had so far, in bytes.
    pub(crate) fn peak_memory(&self) -> usize {
        let peak = self.status("VmHWM:");
        let kilobytes = peak.strip_suffix(" kB").unwrap();
        kilobytes.parse::<usize>().unwrap() << 10
    }

    /// Returns the memory that the process has now, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let now = self.status("VmRSS:");
        now.strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    /// Returns the numbers of the files that the process has open.
    pub(crate) fn open_files(&self) -> BTreeSet<u64> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let number = |file: io::Result<fs::DirEntry>| {
            let name = file.unwrap().file_name().into_string();
            name.unwrap().parse().unwrap()
        };
        files.map(number).collect()
    }

    /// Sets which number no file has that the process opens from now on, and none above it; no more than
    /// it was started with.
    pub(crate) fn limit_open_files(&self, limit: u64) {
        let limits = Rlimit {
            current: Some(limit),
            maximum: Some(self.open_files_limits()[1]),
        };
        let id = Pid::from_child(&self.child);
        prlimit(Some(id), Resource::Nofile, limits).unwrap();
    }

    /// Returns how many threads the process has.
    pub(crate) fn threads(&self) -> usize {
        self.status("Threads:").parse().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        value.unwrap().trim().to_owned()
    }

    /// Returns how many files the process may have open.
    pub(crate) fn open_files_limit(&self) -> u64 {
        self.open_files_limits()[0]
    }

    /// The limit of now, and how far it may be raised.
    fn open_files_limits(&self) -> [u64; 2] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let mut numbers = files.unwrap().split_whitespace();
        [(); 2].map(|()| numbers.next().unwrap().parse().unwrap())
    }

    /// Returns all lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said.borrow().lines.clone()
    }

    /// Waits for the `n`th line that contains `text`, and returns it. `None`: the process ended.
    pub(crate) async fn find_line(&self, n: usize, text: &str) -> Option<String> {
        let nth = |said: &Said| {
            let mut hits = said.lines.iter().filter(|line| line.contains(text));
            hits.nth(n - 1).cloned()
        };
        let mut receiver = self.said.clone();
        let found = receiver.wait_for(|said| said.ended || nth(said).is_some());
        let found = timeout(LIMIT, found).await.unwrap_or_else(|_| {
            panic!(
                "{} does not say {text:?} {n} times within {LIMIT:?}",
                self.name
            )
        });
        nth(&found.expect("the reader says so when it ends"))
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let ended = self.said.wait_for(|said| said.ended);
        let name = &self.name;
        timeout(limit, ended)
            .await
            .unwrap_or_else(|_| panic!("{name} does not end within {limit:?}"))
            .expect("the reader says so when it ends");
        self.child.wait().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal, as `TERM`, to a process that has not been waited for.
    pub(crate) fn signal(&mut self, signal: &str) {
        assert!(self.is_running(), "{} has ended", self.name);
        let kill = format!("kill -{signal} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
    }

    /// Kills the process, as a crash would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_group {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        if thread::panicking() {
            let lines = self.lines().join("\n");
            eprintln!("---- {} said:\n{lines}\n----", self.name);
        }
    }
}
