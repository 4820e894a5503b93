//! What adit does when something runs out, or does not: files, memory, answers, time.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use simulated_cloud::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{
    Directory, FarEnd, Habits, LIMIT, Lan, Login, Middlebox, NO_SANDBOX, Network, Site,
    SiteOptions, Surroundings,
};

const MIB: usize = 1 << 20;
const IDS: &str = "remote_access.operation_ids=templates";

#[tokio::test]
async fn says_that_there_are_too_many_open_files_and_harms_nothing_else() {
    let site = Site::new().await;
    let wire = Middlebox::before(site.broker.gateway_port(), Habits::default()).await;
    // A name needs files too, for whatever says where it leads.
    let broker = format!("mqtt.url=mqtt://localhost:{}", wire.port);
    let adit = site.adit(&[&broker]).await;
    let lan = Lan::echo().await;
    let mut open = [site.open(lan.port).await.1, site.open(lan.port).await.1];

    let usual = adit.open_files_limit();
    for host in ["127.0.0.1", "localhost", "nowhere.invalid"] {
        // A file that was closed, now or before, leaves its number free.
        let files = adit.settled_open_files().await;
        let free = (0..).find(|number| !files.contains(number)).unwrap();
        adit.limit_open_files(free);
        let tunnel = site.request(host, lan.port);
        let reason = site.failed(tunnel.operation).await;
        assert!(reason.ends_with("too many open files"), "{host}: {reason}");
    }
    for far_end in &mut open {
        far_end.echo("hello").await;
    }
    let log = adit.log();
    assert!(!log.contains("connection to the broker lost"), "{log}");

    // What the lost connection leaves free is enough for the next.
    let files = adit.settled_open_files().await;
    adit.limit_open_files(files.last().unwrap() + 1);
    let before = site.count("500");
    wire.cut();
    site.wait_for_rows(before + 1, "500").await;
    for far_end in &mut open {
        far_end.echo("hello again").await;
    }

    adit.limit_open_files(usual);
    site.open(lan.port).await.1.echo("hello").await;
}

/// Operations that wait for adit at once; `ADIT_FLOOD=10000` takes more of them, and minutes.
fn flood() -> usize {
    let number = std::env::var("ADIT_FLOOD");
    number.map_or(1500, |number| number.parse().unwrap())
}

#[tokio::test]
async fn answers_a_flood_of_operations_in_little_memory_while_the_broker_is_slow() {
    /// Less than the statuses of all operations take.
    const GROWTH: usize = 12 * MIB;
    /// Messages that are on their way at a time.
    const WINDOW: usize = 32;
    let site = Site::new().await;
    let slow = Habits {
        delay: Duration::from_millis(5),
        ..Habits::default()
    };
    let wire = Middlebox::before(site.broker.gateway_port(), slow).await;
    let adit = site.adit(&[&wire.setting(), IDS]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    let before = adit.memory();

    site.cloud.set_live_delivery(false);
    let requested: Vec<_> = (0..flood())
        .map(|_| site.request("198.51.100.7", 22).operation)
        .collect();
    site.cloud.set_live_delivery(true);
    let began = Instant::now();
    wire.cut();
    let limit = LIMIT * u32::try_from(1 + requested.len() / 1000).unwrap();
    let all_failed = site.cloud.wait_until(limit, |platform| {
        let operations = platform.operations().iter().rev();
        let is_ended = |status| matches!(status, Status::Failed | Status::Successful);
        operations
            .map(|operation| operation.status())
            .all(is_ended)
            .then_some(())
    });
    let answered_meanwhile = async {
        // A user notices nothing.
        loop {
            far_end.echo("hello").await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        all_failed = all_failed => assert!(all_failed.is_ok(), "not all are answered in time"),
        () = answered_meanwhile => {}
    }
    for &id in &requested {
        let reason = site.failed(id).await;
        let known = [
            "the policy does not allow",
            "no more tunnels at a time than",
        ];
        assert!(
            known.iter().any(|words| reason.starts_with(words)),
            "{reason}"
        );
    }
    // What was on its way when the connection was cut may have been said twice, and nothing else.
    let complaints = site.cloud.errors().len();
    assert!(complaints <= WINDOW, "{complaints} complaints");
    let growth = adit.peak_memory().saturating_sub(before);
    assert!(growth < GROWTH, "{growth} bytes in {:?}", began.elapsed());
}

#[tokio::test]
async fn opens_to_addresses_at_once_while_no_name_is_resolved() {
    const NAMES: usize = 200;
    const SOON: Duration = Duration::from_secs(5);
    let network = Network::new();
    let gate = network.gate();
    let _silent = network.silence_names("127.0.0.1 localhost\n").await;
    let site = Site::with(SiteOptions {
        address: Some(gate),
        ..SiteOptions::default()
    })
    .await;
    let surroundings = Surroundings {
        network: Some(&network),
        variables: &[("RES_OPTIONS", "timeout:30 attempts:5")],
        ..Surroundings::default()
    };
    let allow = format!("remote_access.allow={gate},*.example");
    let settings = [
        allow.as_str(),
        "remote_access.connect_timeout=60s",
        "remote_access.max_tunnels=1000",
        // Without them a result waits for every older one.
        IDS,
    ];
    let _adit = site.adit_in(&surroundings, &settings).await;
    let lan = Lan::echo_at(gate).await;
    let names: Vec<_> = (0..NAMES)
        .map(|n| site.request(&format!("plc-{n}.example"), 22))
        .collect();
    for tunnel in &names {
        site.executing(tunnel.operation).await;
    }
    let began = Instant::now();
    for _ in 0..5 {
        let (_, mut far_end) = site.open_to(&gate.to_string(), lan.port).await;
        far_end.echo("hello").await;
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    for tunnel in &names {
        let operation = site.cloud.operation(tunnel.operation).unwrap();
        assert_eq!(operation.status(), Status::Executing);
    }
}

/// What a server sends for an answer once it has been asked.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// This, and then the same again and again for as many bytes.
    Repeats {
        first: &'static str,
        then: &'static str,
        bytes: usize,
    },
    /// A byte from time to time.
    Drips(&'static str, Duration),
}

/// A server that does not know when to stop, at a port of 127.0.0.1.
struct Tiresome {
    port: u16,
    serving: JoinHandle<()>,
}

impl Tiresome {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(tire(stream, answer));
            }
        });
        Self { port, serving }
    }
}

impl Drop for Tiresome {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn tire(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut request = [0; 4 << 10];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    match answer {
        Answer::Repeats { first, then, bytes } => {
            stream.write_all(first.as_bytes()).await?;
            let many = then.repeat(1 + (64 << 10) / then.len());
            for _ in 0..=bytes / many.len() {
                stream.write_all(many.as_bytes()).await?;
            }
        }
        Answer::Drips(text, pause) => {
            for byte in text.bytes() {
                stream.write_all(&[byte]).await?;
                sleep(pause).await;
            }
        }
    }
    // To the end, or closing it would become a reset that eats the answer.
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

#[tokio::test]
async fn does_not_listen_for_ever_to_a_cloud_that_says_too_much_or_too_slowly() {
    const LENGTH: usize = 16 * MIB;
    /// Of all answers together.
    const GROWTH: usize = 4 * MIB;
    const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\n";
    const CHUNKED: &str = "HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n";
    let repeats = |first, then| Answer::Repeats {
        first,
        then,
        bytes: LENGTH,
    };
    let second = Duration::from_secs(1);
    let fault = "refused the WebSocket with HTTP 502: the platform, or something in front of it, \
                 has a fault";
    let endless = "does not speak WebSocket: the answer's head has no end";
    for (answer, reason) in [
        (repeats(SWITCHING, "X-Header: of many\r\n"), endless),
        (
            repeats("HTTP/1.1 101 Switching Protocols\r\nX: ", "x"),
            endless,
        ),
        (
            repeats("SSH-2.0-", "x"),
            "does not speak WebSocket: the answer is not HTTP",
        ),
        (
            repeats("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
            "does not speak WebSocket: the answer is announced (HTTP 1xx) again and again, and \
             does not come",
        ),
        (repeats(CHUNKED, "1\r\nx\r\n"), fault),
        (repeats(CHUNKED, "0"), fault),
        (repeats("HTTP/1.1 502 Bad Gateway\r\n\r\n", "x"), fault),
        (
            repeats(
                "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 18446744073709551615\r\n\r\n",
                "x",
            ),
            fault,
        ),
        (
            Answer::Drips(SWITCHING, second),
            "did not open the WebSocket within 3s",
        ),
        (
            Answer::Drips(
                "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 100\r\n\r\nfor ever and ever",
                Duration::from_millis(20),
            ),
            fault,
        ),
    ] {
        let server = Tiresome::start(answer).await;
        let site = Site::new().await;
        let cloud = format!("cloud.url=http://127.0.0.1:{}", server.port);
        let settings = [cloud.as_str(), "remote_access.connect_timeout=3s"];
        let adit = site.adit(&settings).await;
        let lan = Lan::echo().await;
        let before = adit.memory();
        let began = Instant::now();
        let tunnel = site.request("127.0.0.1", lan.port);
        let said = site.failed(tunnel.operation).await;
        assert_eq!(
            said,
            format!("127.0.0.1:{} {reason}", server.port),
            "{answer:?}"
        );
        assert!(began.elapsed() < LIMIT / 3, "{answer:?}");
        let growth = adit.peak_memory().saturating_sub(before);
        assert!(growth < GROWTH, "{growth} bytes: {answer:?}");
        site.assert_no_complaint();
    }
}

/// A clock that a test sets for one process.
struct Clock {
    directory: Directory,
    library: String,
}

impl Clock {
    fn new() -> Self {
        let folders = fs::read_dir("/usr/lib").unwrap().flatten();
        let library = folders
            .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
            .find(|file| file.exists())
            .expect("tests of clocks need faketime");
        let clock = Self {
            directory: Directory::new(),
            library: library.display().to_string(),
        };
        clock.set("+0");
        clock
    }

    fn file(&self) -> PathBuf {
        self.directory.path("clock")
    }

    /// Sets how far the clock is from that of the machine, as `-1h`.
    fn set(&self, offset: &str) {
        // Nobody is to see half of it.
        let new = self.directory.write("new", offset);
        fs::rename(new, self.file()).unwrap();
    }
}

#[tokio::test]
async fn goes_on_when_the_clock_is_set() {
    let clock = Clock::new();
    let file = clock.file().display().to_string();
    let site = Site::with(SiteOptions {
        tls: true,
        login: Login::LocalUser,
        ..SiteOptions::default()
    })
    .await;
    let surroundings = Surroundings {
        variables: &[
            ("LD_PRELOAD", &clock.library),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            // The library reads that file within adit.
            NO_SANDBOX,
        ],
        ..Surroundings::default()
    };
    let adit = site.adit_in(&surroundings, &[]).await;
    let year = || -> i32 {
        let log = adit.log();
        let line = log.lines().last().unwrap();
        line.split('-').next().unwrap().parse().unwrap()
    };
    let this_year = year();
    let lan = Lan::echo().await;
    let (_, mut before) = site.open(lan.port).await;
    for offset in ["-1h", "+400d", "+0"] {
        clock.set(offset);
        before.echo("hello").await;
        // With the token of before, and with a new one.
        for _ in 0..2 {
            let mut tunnel = site.request("127.0.0.1", lan.port);
            let socket = tunnel.accept(LIMIT).await.unwrap();
            FarEnd(socket).echo("hello").await;
            site.opened(tunnel.operation).await;
            site.cloud.revoke_tokens();
        }
        if offset == "+400d" {
            assert!(year() > this_year, "the clock was set");
        }
    }
    let log = adit.log();
    assert!(!log.contains("connection to the broker lost"), "{log}");
    site.assert_no_complaint();
}
