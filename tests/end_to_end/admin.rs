//! `admin.listen`: health, metrics and the page, for those who may look and against those who may not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::http::{Events, admin_address, get, send};
use crate::support::{
    Adit, LIMIT, Lan, Login, Port, Site, SiteOptions, Watcher, refused_configuration,
};

const LISTEN: &str = "admin.listen=127.0.0.1:0";
const TOKEN: &str = "a-token-of-22-letters";

async fn with_page() -> (Site, Adit, String) {
    let site = Site::new().await;
    let adit = site.adit(&[LISTEN]).await;
    let address = admin_address(&adit).await;
    (site, adit, address)
}

/// A site whose page wants a token.
async fn with_token() -> (Site, Adit, String) {
    let site = Site::new().await;
    let file = site.device_directory().write("token", TOKEN);
    let setting = format!("admin.token_file={}", file.display());
    let adit = site.adit(&["admin.listen=0.0.0.0:0", &setting]).await;
    let port = admin_address(&adit).await;
    let port = port.rsplit(':').next().unwrap().to_owned();
    (site, adit, format!("127.0.0.1:{port}"))
}

#[tokio::test]
async fn is_healthy_while_the_broker_is_connected() {
    let (mut site, adit, address) = with_page().await;
    let healthy = get(&address, "/healthz", &[]).await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    // What was seen a moment ago may still be shown.
    let deadline = Instant::now() + LIMIT;
    let ill = loop {
        let health = get(&address, "/healthz", &[]).await;
        if health.status != 200 || Instant::now() > deadline {
            break health;
        }
    };
    assert_eq!(ill.status, 503);
    let begin = format!("not connected to {} for ", site.mqtt_url());
    assert!(ill.body.starts_with(&begin), "{}", ill.body);
    assert!(ill.body.contains(" s: "), "{}", ill.body);
}

#[tokio::test]
async fn is_not_healthy_while_a_registration_waits() {
    let site = Site::with(SiteOptions {
        login: Login::Bootstrap,
        ..SiteOptions::default()
    })
    .await;
    let adit = site.start_adit(&[LISTEN]);
    let address = admin_address(&adit).await;
    let ill = get(&address, "/healthz", &[]).await;
    assert_eq!(ill.status, 503);
    assert!(
        ill.body.contains("has not accepted this device yet"),
        "{}",
        ill.body
    );
}

#[tokio::test]
async fn shows_the_same_in_metrics_json_and_on_the_page() {
    let (site, _adit, address) = with_page().await;
    let lan = Lan::echo().await;
    let target = format!("127.0.0.1:{}", lan.port);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let denied = site.request("8.8.8.8", 53);
    let reason = site.failed(denied.operation).await;

    let mut events = Events::watch(&address, &[]).await;
    events.wait_for(&target).await;
    let metrics = get(&address, "/metrics", &[]).await;
    assert_eq!(metrics.status, 200);
    assert_eq!(
        metrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    for line in [
        "adit_mqtt_connected 1.0",
        "adit_tunnels{state=\"open\"} 1.0",
        "adit_tunnel_traffic_bytes_total{direction=\"up\"} 5",
        "adit_operation_failures_total{reason=\"policy\"} 1",
        "adit_target_connect_seconds_count 1",
        // The thread of the page and that of the tunnels, also where adit may not read /proc any more.
        "process_threads 2.0",
    ] {
        assert!(
            metrics.body.lines().any(|it| it == line),
            "{line}\n{}",
            metrics.body
        );
    }
    for name in [
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
    ] {
        assert!(metrics.body.contains(&format!("\n{name}")), "{name}");
    }
    let json = get(&address, "/status.json", &[]).await;
    let json: Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(json["operations"][0]["reason"], reason.as_str());
    let page = get(&address, "/", &[]).await;
    assert_eq!(page.status, 200);
    for text in [&site.gateway, &target, &reason, "allow private"] {
        assert!(page.body.contains(text), "{text}\n{}", page.body);
    }
    let policy = &page.headers["content-security-policy"];
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"));
    for path in ["/style.css", "/script.js", "/icon.svg"] {
        assert!(page.body.contains(path), "{path}");
        assert_eq!(get(&address, path, &[]).await.status, 200, "{path}");
    }
    far_end.close().await;
    events.wait_for("closed by the cloud").await;
    assert_eq!(get(&address, "/nowhere", &[]).await.status, 404);
    assert_eq!(
        send(&address, "POST", "/metrics", &[], "x").await.status,
        405
    );
}

#[tokio::test]
async fn shows_nothing_but_its_health_without_the_token() {
    let (_site, adit, address) = with_token().await;
    assert_eq!(get(&address, "/healthz", &[]).await.status, 200);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let wrong = [
        "Authorization: Bearer a-token-of-22-letterS".to_owned(),
        "Authorization: Bearer ".to_owned(),
        format!("Authorization: Basic {TOKEN}"),
        format!("Cookie: {}={TOKEN}", cookie_name(&address)),
    ];
    for path in ["/metrics", "/status.json", "/", "/events", "/nowhere"] {
        let refused = get(&address, path, &[]).await;
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.headers["www-authenticate"], "Bearer realm=\"adit\"");
        assert!(!refused.body.contains("gw-"), "{path}");
    }
    for header in &wrong {
        assert_eq!(
            get(&address, "/metrics", &[header]).await.status,
            401,
            "{header}"
        );
    }
    assert_eq!(get(&address, "/metrics", &[&bearer]).await.status, 200);
    assert_eq!(get(&address, "/", &[&bearer]).await.status, 200);
    assert!(!adit.log().contains(TOKEN));
}

#[tokio::test]
async fn lets_people_log_in_with_a_form_and_out_again() {
    let (site, mut adit, address) = with_token().await;
    let form = get(&address, "/", &[]).await;
    assert!(
        form.body
            .contains("<form method=\"post\" action=\"/login\">")
    );
    let began = Instant::now();
    let refused = send(&address, "POST", "/login", &[], "token=guess").await;
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("That is not the token."));
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "guessing is fast"
    );
    let big = format!("token={}", "x".repeat(1 << 20));
    // It may be refused before all of it has come.
    let address_of_big = address.clone();
    let sent = tokio::spawn(async move {
        send(&address_of_big, "POST", "/login", &[], &big)
            .await
            .status
    });
    drop(sent.await);

    let entered = send(&address, "POST", "/login", &[], &format!("token={TOKEN}")).await;
    assert_eq!(
        (entered.status, entered.headers["location"].as_str()),
        (303, "/")
    );
    let cookie = &entered.headers["set-cookie"];
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert!(!cookie.contains(TOKEN));
    let cookie = format!("Cookie: {cookie}");
    let page = get(&address, "/", &[&cookie]).await;
    assert!(page.body.contains(&site.gateway) && page.body.contains("Log out"));
    let mut watched = Events::watch(&address, &[&cookie]).await;
    watched.wait_for(&site.gateway).await;

    let left = send(&address, "POST", "/logout", &[&cookie], "").await;
    assert_eq!(left.status, 303);
    watched.end().await;
    assert_eq!(get(&address, "/", &[&cookie]).await.status, 401);
    adit.terminate();
    assert!(adit.exit().await.success());
}

/// The cookie of the agent at an address.
fn cookie_name(address: &str) -> String {
    let port = address.rsplit(':').next().unwrap();
    format!("adit_session_{port}")
}

#[tokio::test]
async fn keeps_the_log_ins_of_two_agents_of_a_machine_apart() {
    let agents = [with_token().await, with_token().await];
    // A browser tells cookies apart by machine and name, and not by port.
    let mut cookies = BTreeMap::new();
    for (_, _, address) in &agents {
        let entered = send(address, "POST", "/login", &[], &format!("token={TOKEN}")).await;
        let cookie = entered.headers["set-cookie"].split(';').next().unwrap();
        let (name, value) = cookie.split_once('=').unwrap();
        assert_eq!(name, cookie_name(address));
        cookies.insert(name.to_owned(), value.to_owned());
    }
    let sent: Vec<_> = cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let cookie = format!("Cookie: {}", sent.join("; "));
    for (site, _, address) in &agents {
        let page = get(address, "/", &[&cookie]).await;
        assert_eq!(page.status, 200, "{cookie}");
        assert!(page.body.contains(&site.gateway));
    }
}

#[tokio::test]
async fn tells_whoever_guesses_nothing_sooner_by_not_waiting() {
    const PAUSE: Duration = Duration::from_secs(1);
    let (_site, _adit, address) = with_token().await;
    let right = format!("Authorization: Bearer {TOKEN}");
    let began = Instant::now();
    assert_eq!(get(&address, "/metrics", &[&right]).await.status, 200);
    assert!(began.elapsed() < PAUSE, "nobody has guessed");
    for (method, path, headers) in [
        ("GET", "/metrics", &["Authorization: Bearer guess"][..]),
        ("POST", "/login", &[]),
    ] {
        // Whoever guesses sees at once that the guess is not taken, and goes away.
        let guessing = send(&address, method, path, headers, "token=guess");
        assert!(timeout(PAUSE / 4, guessing).await.is_err(), "no pause");
        let began = Instant::now();
        assert_eq!(get(&address, "/metrics", &[&right]).await.status, 200);
        assert!(
            began.elapsed() >= PAUSE,
            "{method}: the right one is told by its haste"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn answers_whoever_has_the_token_while_somebody_guesses_and_floods() {
    let (_site, _adit, address) = with_token().await;
    let mut friend = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "HEAD /metrics HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    let mut ask = async || {
        friend.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            let byte = timeout(LIMIT, friend.read_u8()).await.expect("in time");
            answer.push(char::from(byte.expect("an answer")));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    ask().await;
    let guess = request.replace(TOKEN, "guess");
    for _ in 0..3 {
        let mut guessing = TcpStream::connect(&address).await.unwrap();
        guessing.write_all(guess.as_bytes()).await.unwrap();
        let flood = async {
            let mut held = Vec::new();
            for _ in 0..200 {
                held.push(TcpStream::connect(&address).await.unwrap());
            }
        };
        tokio::join!(ask(), flood);
    }
}

#[tokio::test]
async fn asks_for_a_token_where_others_can_reach_it() {
    let site = Site::new().await;
    let (code, said) = refused_configuration(&site.config(), &["admin.listen=0.0.0.0:9590"]).await;
    assert_eq!(code, Some(2));
    assert!(
        said.contains("set admin.token_file (ADIT_ADMIN_TOKEN_FILE)"),
        "{said}"
    );
}

#[tokio::test]
async fn tells_nothing_to_a_site_that_makes_a_browser_ask_for_it() {
    let (_site, _adit, address) = with_page().await;
    let rebound = get(&address, "/status.json", &["Host: evil.example.com"]).await;
    assert_eq!(rebound.status, 421);
    assert!(!rebound.body.contains("gw-"));
    assert_eq!(get(&address, "/", &["Host: localhost"]).await.status, 200);
    // A load balancer names whatever it wants, and learns nothing.
    let health = get(&address, "/healthz", &["Host: balancer"]).await;
    assert_eq!(health.status, 200);
}

#[tokio::test]
async fn goes_on_though_hundreds_come_with_nonsense() {
    let (site, adit, address) = with_page().await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("before").await;
    let before = adit.memory();
    let mut held = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let words: Vec<u8> = match number % 4 {
            0 => Vec::new(),
            1 => b"GET / HTTP/1.1\r\nHost: 127.0".to_vec(),
            2 => vec![b'x'; 100_000],
            _ => format!("GET / HTTP/1.1\r\n{}", "X-A: y\r\n".repeat(10_000)).into_bytes(),
        };
        // It may be thrown out before it has said all.
        drop(
            timeout(LIMIT, stream.write_all(&words))
                .await
                .expect("in time"),
        );
        held.push(stream);
    }
    assert_eq!(get(&address, "/healthz", &[]).await.status, 200);
    far_end.echo("meanwhile").await;
    let (_, mut another) = site.open(lan.port).await;
    another.echo("hello").await;
    // Those who say nothing are thrown out one day.
    for stream in &mut held {
        let mut rest = Vec::new();
        let end = timeout(LIMIT, stream.read_to_end(&mut rest)).await;
        drop(end.expect("an end"));
    }
    let grown = adit.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    assert!(!adit.log().contains("panicked"));
}

#[tokio::test]
async fn answers_others_while_some_take_no_answer() {
    let (_site, adit, address) = with_page().await;
    let mut lazy = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
        // As many as there is room for, and nothing is read.
        let asking = async {
            for _ in 0..1000 {
                if stream.write_all(request.as_bytes()).await.is_err() {
                    break;
                }
            }
        };
        drop(timeout(Duration::from_millis(20), asking).await);
        lazy.push(stream);
    }
    for _ in 0..10 {
        let began = Instant::now();
        assert_eq!(get(&address, "/healthz", &[]).await.status, 200);
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
    assert!(!adit.log().contains("panicked"));
}

#[tokio::test]
async fn goes_on_without_a_port_that_somebody_has() {
    let site = Site::new().await;
    let port = Port::reserve();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port.number)).unwrap();
    let setting = format!("admin.listen=127.0.0.1:{}", port.number);
    let adit = site.adit(&[&setting]).await;
    let line = adit.wait_for_log("cannot listen at admin.listen").await;
    assert!(line.contains("ERROR"), "{line}");
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    drop(taken);
}

#[tokio::test]
async fn is_asked_by_the_command_where_there_is_no_socket() {
    let (site, _adit, address) = with_token().await;
    let watcher = Watcher::new();
    let port = address.rsplit(':').next().unwrap();
    let listen = format!("admin.listen=0.0.0.0:{port}");
    let file = site.device_directory().path("token");
    let token = format!("admin.token_file={}", file.display());
    let settings = [listen.as_str(), &token, "admin.socket=none"];
    let said = watcher.ask_with(&settings, &["--json"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let json: Value = serde_json::from_str(&said.result).unwrap();
    assert_eq!(json["device"]["id"], site.gateway.as_str());
    site.device_directory()
        .write("token", "another-token-of-letters");
    let said = watcher.ask_with(&settings, &[]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.result.contains("wants another token"), "{said:?}");
}

#[tokio::test]
async fn tells_its_health_by_the_command_where_it_could_make_no_socket() {
    let mut site = Site::new().await;
    let directory = site.device_directory();
    let token = format!(
        "admin.token_file={}",
        directory.write("token", TOKEN).display()
    );
    let socket = directory.path("nowhere/at-all/adit.sock");
    let socket = format!("admin.socket={}", socket.display());
    let adit = site.adit(&[LISTEN, &token, &socket]).await;
    let listen = format!("admin.listen={}", admin_address(&adit).await);
    let watcher = Watcher::new();
    let settings = [listen.as_str(), &token, &socket];
    let ask = || watcher.ask_with(&settings, &[]);
    let said = ask().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let words = "adit runs and says \"ok\" at 127.0.0.1:";
    assert!(said.result.starts_with(words), "{said:?}");
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    // What was seen a moment ago may still be shown.
    let deadline = Instant::now() + LIMIT;
    let mut ill = ask().await;
    while ill.code == Some(0) && Instant::now() < deadline {
        ill = ask().await;
    }
    assert_eq!(ill.code, Some(1), "{ill:?}");
    assert!(ill.result.contains("not connected to "), "{ill:?}");
}
