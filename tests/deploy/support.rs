//! What these tests share with those from end to end, and what they need besides.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use simulated_cloud::{Cloud, OperationId, Status};
use smartrest::encode;

#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/adit.rs"]
mod adit;
#[path = "../end_to_end/support/far_end.rs"]
mod far_end;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/lan.rs"]
mod lan;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/network.rs"]
mod network;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/pki.rs"]
mod pki;
#[path = "../end_to_end/support/ports.rs"]
mod ports;
#[path = "../end_to_end/support/process.rs"]
mod process;
#[path = "../end_to_end/support/temporary.rs"]
mod temporary;

pub(crate) use adit::{Adit, EXIT_LIMIT};
pub(crate) use far_end::FarEnd;
pub(crate) use lan::{BlackHole, Lan, refusing_port};
pub(crate) use pki::{Authority, Flaw, Issued};
pub(crate) use ports::Port;
pub(crate) use process::{Process, command};
pub(crate) use temporary::Directory;

/// No step of a test takes this long unless something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Returns a path of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Reads a file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a script of `tests/deploy` to its end; `false` where it cannot do its work, which is said.
pub(crate) fn run_script(name: &str, arguments: &[&OsStr]) -> bool {
    /// The exit code of a script that cannot do its work on this machine.
    const LEFT_OUT: i32 = 77;
    let output = Command::new(repository("tests/deploy").join(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(LEFT_OUT) {
        // Past the test runner, which would keep it to itself.
        drop(writeln!(std::io::stderr(), "tests/deploy/{name}: {said}"));
        return false;
    }
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{said}");
    true
}

/// Replaces what stands in a text exactly once.
pub(crate) fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}\n{text}");
    text.replace(from, to)
}

/// Starts a Mosquitto in a directory, and waits until it listens.
pub(crate) async fn mosquitto(directory: &Directory, config: &str) -> Process {
    let config = directory.write("mosquitto.conf", config);
    let process = Process::start("mosquitto", command("mosquitto").arg("-c").arg(config));
    let running = process.find_line(1, " running").await;
    assert!(running.is_some(), "{}", process.lines().join("\n"));
    process
}

/// Writes the file of a Mosquitto's users, and returns its path.
pub(crate) fn users(directory: &Directory, users: &[(&str, &str)]) -> PathBuf {
    let text: String = users
        .iter()
        .map(|(name, password)| format!("{name}:{password}\n"))
        .collect();
    let file = directory.write("users", &text);
    let status = command("mosquitto_passwd").arg("-U").arg(&file).status();
    assert!(status.unwrap().success());
    file
}

/// Returns what a device published on a topic, row by row.
pub(crate) fn rows(cloud: &Cloud, topic: &str) -> Vec<String> {
    let log = cloud.log();
    let rows = log.iter().filter(|record| record.topic == topic);
    rows.map(|record| encode([&record.row])).collect()
}

/// Waits until adit has announced itself and asked for operations.
pub(crate) async fn announced(cloud: &Cloud) {
    let asked = cloud.wait_until(LIMIT, |platform| {
        let mut rows = platform.log().iter();
        rows.any(|record| record.row.template() == "500")
            .then_some(())
    });
    asked.await.unwrap();
}

/// Opens a tunnel to a port of 127.0.0.1, and waits until the platform shows that it has opened.
pub(crate) async fn open(cloud: &Cloud, device: &str, port: u16) -> (OperationId, FarEnd) {
    open_to(cloud, device, "127.0.0.1", port).await
}

/// Opens a tunnel, and waits until the platform shows that it has opened.
pub(crate) async fn open_to(
    cloud: &Cloud,
    device: &str,
    host: &str,
    port: u16,
) -> (OperationId, FarEnd) {
    let mut tunnel = cloud.open_tunnel(device, host, port).unwrap();
    let socket = tunnel.accept(LIMIT).await.unwrap();
    let opened = cloud.wait_for_status(tunnel.operation, Status::Successful, LIMIT);
    opened.await.unwrap();
    let history = cloud.operation(tunnel.operation).unwrap().history;
    assert_eq!(
        history,
        [Status::Pending, Status::Executing, Status::Successful]
    );
    (tunnel.operation, FarEnd(socket))
}

/// Waits for the `n`th event of a device, and returns its type and its text.
pub(crate) async fn event(cloud: &Cloud, device: &str, n: usize) -> (String, String) {
    let found = cloud.wait_until(LIMIT, |platform| {
        let events = platform.events().iter();
        let event = events.filter(|event| event.device == device).nth(n - 1)?;
        Some((event.kind.clone(), event.text.clone()))
    });
    found.await.unwrap()
}
