//! `adit status`: what the running agent says of itself, and to whom.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::support::{LIMIT, Lan, Login, Site, SiteOptions, Watcher, command, refusing_port};

fn tunnels(json: &Value) -> &Vec<Value> {
    json["tunnels"].as_array().unwrap()
}

#[tokio::test]
async fn tells_of_the_connection_the_tunnels_and_the_last_operations() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let _adit = site.adit(&[&watcher.setting()]).await;
    let lan = Lan::echo().await;
    let target = format!("127.0.0.1:{}", lan.port);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let refusing = refusing_port();
    let refused = site.request("127.0.0.1", refusing.number);
    site.failed(refused.operation).await;

    let json = watcher.json().await;
    assert_eq!(json["format"], 1);
    assert_eq!(json["agent"]["phase"], "running");
    assert_eq!(json["device"]["id"], site.gateway.as_str());
    assert_eq!(json["connection"]["is_connected"], true);
    assert_eq!(json["connection"]["is_ready"], true);
    assert_eq!(json["connection"]["broker"], site.mqtt_url());
    assert_eq!(json["authentication"]["kind"], "password");
    let [tunnel] = tunnels(&json).as_slice() else {
        panic!("{json:#}");
    };
    assert_eq!(tunnel["target"], target.as_str());
    assert_eq!(tunnel["state"], "open");
    assert_eq!(
        (&tunnel["up_bytes"], &tunnel["down_bytes"]),
        (&5.into(), &5.into())
    );
    let operations = json["operations"].as_array().unwrap();
    assert_eq!(operations[0]["result"], "failed");
    assert_eq!(operations[0]["failure"], "unreachable");
    let reason = operations[0]["reason"].as_str().unwrap();
    assert!(reason.ends_with("connection refused"), "{reason}");
    assert_eq!(operations[1]["result"], "successful");

    far_end.close().await;
    let json = watcher.wait_for(|json| tunnels(json).is_empty()).await;
    assert_eq!(json["operations"][1]["reason"], "closed by the cloud");
    assert_eq!(json["totals"]["up_bytes"], 5, "counted once");
    assert_eq!(json["totals"]["tunnels_ended"], 1);
    assert_eq!(json["totals"]["operations_failed"]["unreachable"], 1);
    assert_eq!(json["totals"]["target_connect"]["count"], 1);

    let text = watcher.ask(&[]).await;
    assert_eq!((text.code, text.log.as_str()), (Some(0), ""));
    assert!(text.result.lines().all(|line| line.chars().count() <= 80));
    assert!(
        text.result.contains("  connected to mqtt://"),
        "{}",
        text.result
    );
    assert!(
        text.result
            .contains(&format!(" opened    {target} for gw-"))
    );
    assert!(!text.result.contains('\x1b'), "nobody at a terminal");
    let password = site.user().1;
    assert!(!json.to_string().contains(&password));
}

#[tokio::test]
async fn says_by_its_exit_code_whether_the_agent_is_connected() {
    let mut site = Site::new().await;
    let watcher = Watcher::new();
    let nobody = watcher.ask(&[]).await;
    assert_eq!(nobody.code, Some(3));
    assert!(
        nobody
            .result
            .starts_with("no adit runs: nobody answers at ")
    );
    let mut adit = site.adit(&[&watcher.setting()]).await;
    assert_eq!(watcher.ask(&[]).await.code, Some(0));
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    let away = watcher.ask(&[]).await;
    assert_eq!(away.code, Some(1));
    assert!(
        away.result.contains("  not connected to mqtt://"),
        "{}",
        away.result
    );
    assert!(away.result.contains("  error   "), "{}", away.result);
    adit.terminate();
    assert!(adit.exit().await.success());
    assert!(!watcher.socket().exists(), "it is left behind");
    let nobody = watcher.ask(&["--json"]).await;
    assert_eq!(nobody.code, Some(3));
    let json: Value = serde_json::from_str(&nobody.result).unwrap();
    assert!(json["error"].as_str().unwrap().starts_with("no adit runs"));
}

#[tokio::test]
async fn answers_while_a_registration_waits_to_be_accepted() {
    let site = Site::with(SiteOptions {
        login: Login::Bootstrap,
        ..SiteOptions::default()
    })
    .await;
    let watcher = Watcher::new();
    let _adit = site.start_adit(&[&watcher.setting()]);
    let phase = |json: &Value| json["agent"]["phase"] == "registering";
    let json = watcher.wait_for(phase).await;
    assert_eq!(json["connection"]["is_connected"], false);
    let text = watcher.ask(&[]).await;
    assert_eq!(text.code, Some(1));
    assert!(text.result.contains("waiting for the platform to accept"));
}

#[tokio::test]
async fn leaves_the_socket_to_a_living_adit_and_takes_it_from_a_dead_one() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    // A process that was killed leaves its socket behind.
    drop(UnixListener::bind(watcher.socket()).unwrap());
    let mut first = site.adit(&[&watcher.setting()]).await;
    let mode = watcher.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let process = |json: &Value| json["agent"]["process_id"].as_u64();
    let first_id = process(&watcher.json().await);
    assert_eq!(first_id, Some(first.process_id().into()));

    let second = site.start_adit(&[&watcher.setting(), "device.id=another"]);
    let line = second.wait_for_log("adit goes on without its socket").await;
    assert!(
        line.contains("WARN") && line.contains("another adit runs"),
        "{line}"
    );
    second.wait_for_log("connecting to the broker").await;
    assert_eq!(process(&watcher.json().await), first_id);
    drop(second);
    assert_eq!(
        process(&watcher.json().await),
        first_id,
        "it was taken away"
    );

    first.kill();
    assert!(watcher.socket().exists());
    let third = site.adit(&[&watcher.setting()]).await;
    let third_id = Some(third.process_id().into());
    assert_eq!(process(&watcher.json().await), third_id);
}

#[tokio::test]
async fn is_not_held_up_by_who_asks_nothing_or_nonsense() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let adit = site.adit(&[&watcher.setting()]).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(UnixStream::connect(watcher.socket()).await.unwrap());
    }
    for nonsense in [&b"\n"[..], b"\xff\xfe\n", &[b'x'; 100_000]] {
        let mut stream = UnixStream::connect(watcher.socket()).await.unwrap();
        // It may be gone before it has all.
        drop(stream.write_all(nonsense).await);
        let mut answer = Vec::new();
        let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        drop(read.expect("an end"));
    }
    assert_eq!(watcher.ask(&[]).await.code, Some(0));
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert!(!adit.log().contains("panicked"));
}

#[tokio::test]
async fn looks_again_and_again_with_watch() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let _adit = site.adit(&[&watcher.setting()]).await;
    let file = site.device_directory().write("none.toml", "");
    let mut status = tokio::process::Command::from(command("status", &file))
        .args(["--set", &watcher.setting(), "--watch", "--json"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(status.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        let json: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(json["connection"]["is_connected"], true);
    }
    // Nobody reads any more.
    drop(lines);
    let ended = timeout(LIMIT, status.wait()).await.expect("an end");
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[tokio::test]
async fn does_not_wait_long_for_an_agent_that_hangs() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let mut adit = site.adit(&[&watcher.setting()]).await;
    adit.freeze();
    let asked = timeout(Duration::from_secs(20), watcher.ask(&[])).await;
    let said = asked.expect("an end");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.result.ends_with(": it does not answer\n"), "{said:?}");
}
