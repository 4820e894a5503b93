//! `adit check` under test.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::timeout;

use super::adit::{EXIT_LIMIT, command};
use super::temporary::Directory;

/// Longer than all hops of a check together.
const CHECK_LIMIT: Duration = Duration::from_secs(100);

/// What a check has said, with `FILE` for the path of the configuration.
pub(crate) struct Checked {
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) result: String,
    /// Standard error.
    pub(crate) log: String,
}

/// Runs `adit check` to its end.
pub(crate) async fn check(config: &str, arguments: &[&str]) -> Checked {
    run_check(config, arguments, false).await
}

/// Runs `adit check`, and sends SIGINT when the configuration is through.
pub(crate) async fn interrupted_check(config: &str, arguments: &[&str]) -> Checked {
    run_check(config, arguments, true).await
}

/// Starts a command of adit whose outputs are read; it ends with its handle.
pub(crate) fn piped(subcommand: &str, config: &Path, arguments: &[&str]) -> Child {
    tokio::process::Command::from(command(subcommand, config))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn run_check(config: &str, arguments: &[&str], interrupted: bool) -> Checked {
    let directory = Directory::new();
    let file = directory.write("adit.toml", config);
    let mut child = piped("check", &file, arguments);
    let mut stdout = child.stdout.take().expect("piped");
    let mut result = Vec::new();
    while interrupted && !String::from_utf8_lossy(&result).contains("configuration") {
        let read = timeout(CHECK_LIMIT, stdout.read_buf(&mut result));
        assert!(read.await.expect("a line in time").unwrap() > 0);
    }
    if interrupted {
        let kill = format!("kill -INT {}", child.id().expect("it runs"));
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
    }
    let ended = async { tokio::join!(stdout.read_to_end(&mut result), child.wait_with_output()) };
    let limit = if interrupted { EXIT_LIMIT } else { CHECK_LIMIT };
    let (_, output) = timeout(limit, ended).await.expect("a check ends in time");
    let output = output.unwrap();
    let text = |bytes: &[u8]| {
        let file = file.display().to_string();
        String::from_utf8_lossy(bytes).replace(&file, "FILE")
    };
    Checked {
        code: output.status.code(),
        result: text(&result),
        log: text(&output.stderr),
    }
}

/// Runs `adit check` with a standard output that takes nothing; returns its code and its log.
pub(crate) async fn check_to_a_full_disk(
    config: &str,
    arguments: &[&str],
) -> (Option<i32>, String) {
    let directory = Directory::new();
    let file = directory.write("adit.toml", config);
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = tokio::process::Command::from(command("check", &file))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
        .wait_with_output();
    let output = timeout(CHECK_LIMIT, output).await;
    let output = output.expect("a check ends in time").unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), log)
}
