//! The command under test.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::network::Network;
use super::process::Process;
use super::temporary::Directory;

/// `adit run` with everything in its log.
pub(crate) struct Adit {
    process: Process,
    directory: Directory,
}

/// Where adit runs.
#[derive(Default)]
pub(crate) struct Surroundings<'a> {
    /// The machine's own unless given.
    pub(crate) network: Option<&'a Network>,
    /// Of the environment.
    pub(crate) variables: &'a [(&'a str, &'a str)],
    /// How many files may be open, and how far that may be raised.
    pub(crate) open_files: Option<(u32, u32)>,
    /// Another file than the one under test, which may be replaced.
    pub(crate) program: Option<&'a Path>,
}

/// The variable that leaves adit unconfined.
pub(crate) const NO_SANDBOX: (&str, &str) = ("ADIT_NO_SANDBOX", "1");

/// Longer than the longest that adit says it may take, shorter than what systemd waits.
pub(crate) const EXIT_LIMIT: Duration = Duration::from_secs(20);

impl Adit {
    /// Starts it with a configuration file and with values for `--set`.
    pub(crate) fn start(config: &str, settings: &[&str]) -> Self {
        Self::start_in(&Surroundings::default(), config, settings)
    }

    /// Starts it in a network of its own, or with variables.
    pub(crate) fn start_in(
        surroundings: &Surroundings<'_>,
        config: &str,
        settings: &[&str],
    ) -> Self {
        let directory = Directory::new();
        let file = directory.write("adit.toml", config);
        let mut command = command_in(surroundings, "run", &file);
        command.args(["--log-level", "trace"]);
        // All that run at the same time would have one place.
        command.args(["--set", "admin.socket=none"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Self {
            process: Process::start_group("adit", &mut command),
            directory,
        }
    }

    /// Waits until it has announced itself and takes operations.
    pub(crate) async fn ready(self) -> Self {
        self.wait_for_log("announced and ready for operations")
            .await;
        self
    }

    /// Waits for a line that contains `text`, and returns it.
    pub(crate) async fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_logs(1, text).await
    }

    /// Waits for the `n`th line that contains `text`, and returns it.
    pub(crate) async fn wait_for_logs(&self, n: usize, text: &str) -> String {
        let line = self.process.find_line(n, text).await;
        line.unwrap_or_else(|| panic!("adit has ended without a word of {text:?}"))
    }

    pub(crate) fn log(&self) -> String {
        self.process.lines().join("\n")
    }

    /// Returns the most memory that it has had so far, in bytes.
    pub(crate) fn peak_memory(&self) -> usize {
        self.process.peak_memory()
    }

    /// Returns the memory that it has now, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.process.memory()
    }

    /// Returns the numbers of the files that it has open, once they stay the same: some are open for a
    /// moment.
    pub(crate) async fn settled_open_files(&self) -> BTreeSet<u64> {
        const SAME: u32 = 20;
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        let (mut files, mut same) = (self.process.open_files(), 0);
        while same < SAME {
            tokio::time::sleep(LOOK_AGAIN).await;
            let now = self.process.open_files();
            same = if now == files { same + 1 } else { 0 };
            files = now;
        }
        files
    }

    /// Sets which number no file has that it opens from now on, and none above it; no more than when it
    /// was started.
    pub(crate) fn limit_open_files(&self, limit: u64) {
        self.process.limit_open_files(limit);
    }

    /// Returns how many threads it has.
    pub(crate) fn threads(&self) -> usize {
        self.process.threads()
    }

    /// Returns the id of its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Returns how many files may be open.
    pub(crate) fn open_files_limit(&self) -> u64 {
        self.process.open_files_limit()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Writes another configuration in the place of the one that it was started with.
    pub(crate) fn write_config(&self, config: &str) {
        self.directory.write("adit.toml", config);
    }

    /// Asks it to read its configuration again.
    pub(crate) fn hang_up(&mut self) {
        self.process.signal("HUP");
    }

    /// Lets it do nothing any more, as a fault might.
    pub(crate) fn freeze(&mut self) {
        self.process.signal("STOP");
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&mut self) {
        self.process.signal("TERM");
    }

    /// Waits until it has ended; the log is whole then.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        self.process.wait_for_exit(EXIT_LIMIT).await
    }

    /// Waits until the process that was started has ended; others that it has started may go on.
    pub(crate) async fn first_exit(&mut self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let ended = async {
            while self.process.is_running() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(EXIT_LIMIT, ended)
            .await
            .expect("it ends");
    }

    /// Ends it as a power failure does.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// Starts adit with a configuration that it refuses; returns the exit code and what it says, with
/// `FILE` for the path of the file.
pub(crate) async fn refused_configuration(
    config: &str,
    settings: &[&str],
) -> (Option<i32>, String) {
    let directory = Directory::new();
    let file = directory.write("adit.toml", config);
    let mut command = command("run", &file);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut process = Process::start("adit", &mut command);
    let status = process.wait_for_exit(EXIT_LIMIT).await;
    let said = process.lines().join("\n");
    let said = said.replace(&file.display().to_string(), "FILE");
    (status.code(), said)
}

/// Returns a command of adit with a configuration file.
pub(crate) fn command(subcommand: &str, config: &Path) -> Command {
    command_in(&Surroundings::default(), subcommand, config)
}

/// Returns it in surroundings of its own.
pub(crate) fn command_in(
    surroundings: &Surroundings<'_>,
    subcommand: &str,
    config: &Path,
) -> Command {
    let Surroundings {
        network,
        variables,
        open_files,
        program,
    } = surroundings;
    let mut command = match network {
        Some(network) => network.env(),
        None => Command::new("env"),
    };
    // Nothing of the environment of whoever runs the tests; a resolver that is not there is given
    // up soon.
    command.args(["-i", "RES_OPTIONS=timeout:1 attempts:1"]);
    for (name, value) in *variables {
        command.arg(format!("{name}={value}"));
    }
    if let Some((soft, hard)) = open_files {
        command.args(["/usr/bin/prlimit", &format!("--nofile={soft}:{hard}")]);
    }
    command
        .args(match program {
            Some(program) => vec![program.display().to_string()],
            None => usual_program(),
        })
        .args([subcommand, "--config"])
        .arg(config);
    command
}

/// The program and what stands before it. `ADIT_TEST_PROGRAM` has one of another architecture, behind its
/// emulator: tests/deploy/emulated.
fn usual_program() -> Vec<String> {
    let another = std::env::var("ADIT_TEST_PROGRAM").unwrap_or_default();
    let words: Vec<_> = another.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() {
        return vec![env!("CARGO_BIN_EXE_adit").to_owned()];
    }
    words
}
