//! `adit status`, `adit reload` and `adit upgrade` under test.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::temporary::Directory;
use super::{LIMIT, command};

/// Where a running adit is asked.
pub(crate) struct Watcher {
    directory: Directory,
    config: PathBuf,
}

/// What `adit status` has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) result: String,
    pub(crate) log: String,
}

/// How long an answer may take: an upgrade whose new process hangs is given up after half a minute.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How often an agent is asked for what is to come.
const ASK_AGAIN: Duration = Duration::from_millis(50);

impl Watcher {
    /// Watches a site that does not matter.
    pub(crate) fn new() -> Self {
        let directory = Directory::new();
        let config = directory.write("adit.toml", "");
        Self { directory, config }
    }

    /// The path of the socket, which is in a directory of its own.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path("adit.sock")
    }

    /// The setting for the agent.
    pub(crate) fn setting(&self) -> String {
        format!("admin.socket={}", self.socket().display())
    }

    /// Runs `adit status` at the socket.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Said {
        self.ask_with(&[&self.setting()], arguments).await
    }

    /// Runs `adit status` with settings.
    pub(crate) async fn ask_with(&self, settings: &[&str], arguments: &[&str]) -> Said {
        run("status", &self.config, settings, arguments).await
    }

    /// Runs `adit reload` at the socket.
    pub(crate) async fn reload(&self, arguments: &[&str]) -> Said {
        run("reload", &self.config, &[&self.setting()], arguments).await
    }

    /// Runs `adit check` with the socket.
    pub(crate) async fn check(&self, arguments: &[&str]) -> Said {
        run("check", &self.config, &[&self.setting()], arguments).await
    }

    /// Returns the line by which a shell runs `adit upgrade` at the socket.
    pub(crate) fn upgrade_line(&self) -> String {
        format!(
            "{} upgrade --config {} --set {}",
            env!("CARGO_BIN_EXE_adit"),
            self.config.display(),
            self.setting()
        )
    }

    /// Runs `adit upgrade` at the socket.
    pub(crate) async fn upgrade(&self) -> Said {
        run("upgrade", &self.config, &[&self.setting()], &[]).await
    }

    /// Returns what `adit status --json` says.
    pub(crate) async fn json(&self) -> Value {
        let said = self.ask(&["--json"]).await;
        serde_json::from_str(&said.result).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// Asks until what is said fits.
    pub(crate) async fn wait_for(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let json = self.json().await;
                if fits(&json) {
                    return json;
                }
                sleep(ASK_AGAIN).await;
            }
        };
        let found = timeout(LIMIT, asking).await;
        match found {
            Ok(json) => json,
            Err(_) => panic!("still {:#}", self.json().await),
        }
    }
}

async fn run(subcommand: &str, config: &Path, settings: &[&str], arguments: &[&str]) -> Said {
    let mut command = tokio::process::Command::from(command(subcommand, config));
    for setting in settings {
        command.args(["--set", setting]);
    }
    let command = command.args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(ANSWER_LIMIT, output).await;
    let output = output.expect("in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code(),
        result: text(output.stdout),
        log: text(output.stderr),
    }
}
