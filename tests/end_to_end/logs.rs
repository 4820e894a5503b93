//! The log never stands in the way of a tunnel, whoever reads it or does not.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join;
use serde_json::Value;

use crate::support::transfer::{Progress, content, receive, write};
use crate::support::{
    Adit, Directory, LIMIT, Lan, Site, Surroundings, command, command_in, refusing_port,
};

const MIB: usize = 1 << 20;
/// What a pipe of Linux holds.
const PIPE_CAPACITY: usize = 64 << 10;
/// The log takes this long at most to be written at the end, and adit a moment besides.
const SOON: Duration = Duration::from_secs(5);

/// Messages of one kind that are logged before the others are counted.
const FIRST: usize = 10;

/// `adit run` with everything in its log, which goes to a pipe that is full.
struct Unheard {
    child: Child,
    log: PipeReader,
    _directory: Directory,
}

impl Unheard {
    fn start(config: &str) -> Self {
        let directory = Directory::new();
        let file = directory.write("adit.toml", config);
        let (log, mut writer) = pipe().unwrap();
        writer.write_all(&vec![b'\n'; PIPE_CAPACITY]).unwrap();
        Self::start_with(command("run", &file), log, writer, directory)
    }

    /// Starts it with an empty pipe that is said to lead to the journal.
    fn start_for_the_journal(config: &str, format: &str) -> Self {
        let directory = Directory::new();
        let file = directory.write("adit.toml", config);
        let (log, writer) = pipe().unwrap();
        let metadata = File::from(OwnedFd::from(writer.try_clone().unwrap()))
            .metadata()
            .unwrap();
        let stream = format!("{}:{}", metadata.dev(), metadata.ino());
        let variables = [
            ("JOURNAL_STREAM", stream.as_str()),
            ("ADIT_LOG_FORMAT", format),
        ];
        let surroundings = Surroundings {
            variables: &variables,
            ..Surroundings::default()
        };
        let command = command_in(&surroundings, "run", &file);
        Self::start_with(command, log, writer, directory)
    }

    fn start_with(
        mut command: Command,
        log: PipeReader,
        writer: PipeWriter,
        directory: Directory,
    ) -> Self {
        let child = command
            .args(["--log-level", "trace"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap();
        Self {
            child,
            log,
            _directory: directory,
        }
    }

    fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let status = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap();
        assert!(status.success(), "{kill}");
    }

    /// Reads the log to its end, which comes with that of the process.
    fn rest(&self) -> thread::JoinHandle<String> {
        let mut log = self.log.try_clone().unwrap();
        thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        })
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Carries a megabyte from a machine to the cloud, through a tunnel that opens for it.
async fn carry_a_megabyte(site: &Site) {
    let (port, lan) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = lan.accept().await;
    let (content, progress) = (content(1, MIB), Progress::default());
    join(
        write(&mut machine, &content, &progress),
        receive(&mut far_end.0, &content),
    )
    .await;
}

#[tokio::test]
async fn carries_tunnels_while_nobody_reads_the_log() {
    let site = Site::new().await;
    let mut adit = Unheard::start(&site.config());
    site.wait_for_rows(1, "500").await;
    carry_a_megabyte(&site).await;

    // It also ends where nobody has read until then.
    let asked = Instant::now();
    adit.terminate();
    let log = adit.rest();
    let status = adit.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < LIMIT);
    let log = log.join().unwrap();
    for words in [
        "adit is starting",
        "ended reason=",
        "disconnected from the broker",
    ] {
        assert!(log.contains(words), "{words}\n{log}");
    }
}

#[tokio::test]
async fn ends_while_nobody_reads_the_log() {
    let site = Site::new().await;
    let mut adit = Unheard::start(&site.config());
    site.wait_for_rows(1, "500").await;
    let asked = Instant::now();
    adit.terminate();
    let status = tokio::task::spawn_blocking(move || adit.child.wait().unwrap());
    let status = tokio::time::timeout(LIMIT, status).await.expect("it ends");
    assert!(status.unwrap().success());
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn says_how_many_lines_of_the_log_nobody_took() {
    /// Each gets a line at this level.
    const ROWS: usize = 10_000;
    const ROWS_OF_A_MESSAGE: usize = 2000;
    let site = Site::new().await;
    let mut adit = Unheard::start(&site.config());
    site.wait_for_rows(1, "500").await;
    for _ in 0..ROWS / ROWS_OF_A_MESSAGE {
        site.cloud.publish("999\n".repeat(ROWS_OF_A_MESSAGE));
    }
    // Behind them in the same stream.
    carry_a_megabyte(&site).await;
    let log = adit.rest();
    adit.terminate();
    let status = adit.child.wait().unwrap();
    assert!(status.success(), "{status}");
    let log = log.join().unwrap();
    let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
    for line in &lines {
        let is_whole = line.contains("Z ") && line.starts_with("20");
        assert!(is_whole, "half a line: {line}");
    }
    let notice = lines
        .iter()
        .find(|line| line.contains("log lines dropped"))
        .unwrap_or_else(|| panic!("no word of what was dropped\n{log}"));
    assert!(notice.contains(" WARN "), "{notice}");
    let dropped: usize = notice
        .split_once("lines=")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap();
    let rows = lines
        .iter()
        .filter(|line| line.contains("row for another agent"));
    let rows = rows.count();
    assert!(rows < ROWS, "nothing had to be dropped");
    assert!(dropped + rows >= ROWS, "{dropped} dropped, {rows} logged");
}

fn objects(log: &str) -> Vec<Value> {
    let object = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    log.lines().map(object).collect()
}

#[tokio::test]
async fn writes_an_object_a_line_for_collectors() {
    let json = Surroundings {
        variables: &[("ADIT_LOG_FORMAT", "json")],
        ..Surroundings::default()
    };
    let site = Site::new().await;
    let mut adit = Adit::start_in(&json, &site.config(), &[]).ready().await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    drop(far_end);
    adit.wait_for_log("\"message\":\"ended\"").await;
    adit.terminate();
    assert!(adit.exit().await.success());
    let log = objects(&adit.log());
    let ended = log.iter().find(|line| line["fields"]["message"] == "ended");
    let ended = ended.expect("the tunnel has ended");
    assert!(ended["fields"]["lasted_s"].is_f64(), "{ended}");
    assert_eq!(ended["span"]["name"], "tunnel", "{ended}");
    assert_eq!(ended["spans"], Value::Null, "{ended}");

    let config = "[cloud]\nurl = \"ftp://x\"\n[auth]\nuser = \"x\"\n";
    let mut adit = Adit::start_in(&json, config, &[]);
    assert_eq!(adit.exit().await.code(), Some(2));
    let log = objects(&adit.log());
    for (line, end) in log.iter().zip([
        ", line 2, cloud.url: \"ftp://x\" does not begin with https:// or http://",
        ", line 4, auth.user: no such key",
        "auth.password: is not set",
    ]) {
        assert_eq!(line["level"], "ERROR", "{line}");
        let fields = &line["fields"];
        assert_eq!(fields["message"], "the configuration cannot be used");
        let fault = fields["fault"].as_str().unwrap();
        assert!(fault.contains(end), "{fault}\n{end}");
    }
}

#[tokio::test]
async fn tells_the_journal_how_important_each_line_is() {
    let site = Site::new().await;
    for (n, format) in [(1, "text"), (2, "json")] {
        let mut adit = Unheard::start_for_the_journal(&site.config(), format);
        let log = adit.rest();
        site.wait_for_rows(n, "500").await;
        site.cloud.publish("530\n");
        carry_a_megabyte(&site).await;
        adit.terminate();
        let status = tokio::task::spawn_blocking(move || adit.child.wait().unwrap());
        assert!(status.await.unwrap().success());
        let log = log.join().unwrap();
        for (words, mark) in [
            ("adit is starting", "<6>"),
            ("row dropped: nobody to answer", "<4>"),
            ("TRACE", "<7>"),
        ] {
            let line = log.lines().find(|line| line.contains(words));
            let line = line.unwrap_or_else(|| panic!("no {words}\n{log}"));
            let rest = line.strip_prefix(mark).expect(line);
            match format {
                "json" => drop(objects(rest)),
                _ => assert!(rest.starts_with("20"), "{line}"),
            }
        }
    }
}

#[tokio::test]
async fn sums_up_a_flood_of_the_same_warning() {
    const ROWS: usize = 300;
    let site = Site::new().await;
    let mut adit = site.adit(&[]).await;
    for _ in 0..3 {
        site.cloud.publish("530\n".repeat(ROWS / 3));
    }
    // Behind them in the same stream, and with a warning of its own.
    let refusing = refusing_port();
    site.failed(site.request("127.0.0.1", refusing.number).operation)
        .await;
    adit.wait_for_log("did not open").await;
    adit.terminate();
    assert!(adit.exit().await.success());
    let log = adit.log();
    let rows = |line: &&str| line.contains("row dropped: nobody to answer");
    let rows: Vec<_> = log.lines().filter(rows).collect();
    assert_eq!(rows.len(), FIRST + 1, "{rows:#?}");
    let sum = rows[FIRST];
    let words = format!(
        " WARN more of these in the last minute count={} of=\"row dropped: nobody to answer\"",
        ROWS - FIRST
    );
    assert!(sum.ends_with(&words), "{sum}");
}

#[tokio::test]
async fn says_every_fault_of_a_bad_configuration_however_many() {
    const FAULTS: usize = 40;
    let json = Surroundings {
        variables: &[("ADIT_LOG_FORMAT", "json")],
        ..Surroundings::default()
    };
    let keys: String = (0..FAULTS).map(|n| format!("no_key_{n} = 1\n")).collect();
    let mut adit = Adit::start_in(&json, &format!("[device]\n{keys}"), &[]);
    assert_eq!(adit.exit().await.code(), Some(2));
    let log = objects(&adit.log());
    let of_a_key = |line: &&Value| line["fields"]["fault"].to_string().contains("no_key_");
    assert_eq!(log.iter().filter(of_a_key).count(), FAULTS);
}
