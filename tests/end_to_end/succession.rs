//! A stop and an upgrade at the same time.

use std::process::Command;

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::support::{Adit, BlackHole, Directory, LIMIT, Lan, Site, Surroundings, Watcher};

async fn gateway(surroundings: &Surroundings<'_>, settings: &[&str]) -> (Site, Watcher, Adit) {
    let (site, watcher) = (Site::new().await, Watcher::new());
    let socket = watcher.setting();
    let settings: Vec<_> = settings.iter().copied().chain([socket.as_str()]).collect();
    let adit = site.adit_in(surroundings, &settings).await;
    (site, watcher, adit)
}

async fn upgrade(watcher: &Watcher) -> u64 {
    let said = watcher.upgrade().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let json = watcher.json().await;
    json["agent"]["process_id"].as_u64().unwrap()
}

fn terminate(process: u64) {
    let process = process.to_string();
    let status = Command::new("kill").args(["-TERM", &process]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn starts_no_process_that_is_to_follow_while_it_stops() {
    let settings = [
        "remote_access.drain=60s",
        "remote_access.connect_timeout=5s",
    ];
    let (site, watcher, mut adit) = gateway(&Surroundings::default(), &settings).await;
    let lan = Lan::echo().await;
    let (_, mut open) = site.open(lan.port).await;
    let silent = BlackHole::new().await;
    let opening = site.request("127.0.0.1", silent.port);
    site.executing(opening.operation).await;
    adit.terminate();
    adit.wait_for_log("lets its tunnels go on").await;
    let said = watcher.upgrade().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.result.contains("adit is stopping"), "{said:?}");
    site.failed(opening.operation).await;
    adit.wait_for_log("its tunnels go on until they end").await;
    adit.hang_up();
    adit.wait_for_log("signal passed over").await;
    open.echo("still").await;
    open.close().await;
    assert!(adit.exit().await.success());
    let log = adit.log();
    assert!(!log.contains("a new process of adit is started"), "{log}");
    site.assert_no_complaint();
}

#[tokio::test]
async fn stays_for_as_long_as_the_process_before_it_may_carry_when_it_is_stopped() {
    let notified = Directory::new();
    let path = notified.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let place = path.display().to_string();
    let surroundings = Surroundings {
        variables: &[("NOTIFY_SOCKET", place.as_str())],
        ..Surroundings::default()
    };
    // Longer than what tunnels have without it.
    let settings = ["remote_access.drain=10s"];
    let (site, watcher, mut adit) = gateway(&surroundings, &settings).await;
    let lan = Lan::echo().await;
    let (_, mut carried) = site.open(lan.port).await;
    let process = upgrade(&watcher).await;
    terminate(process);
    let asks_for_time = async {
        loop {
            let mut buffer = [0; 256];
            let size = socket.recv(&mut buffer).await.unwrap();
            if buffer[..size] == *b"EXTEND_TIMEOUT_USEC=25000000" {
                return;
            }
        }
    };
    let in_time = timeout(LIMIT, asks_for_time).await;
    in_time.expect("systemd is asked for time");
    carried.echo("still").await;
    let (_, frame) = carried.rest().await;
    assert_eq!(u16::from(frame.unwrap().code), 1001);
    let main_process = format!("/proc/{process}/fd");
    assert!(std::fs::read_dir(main_process).is_ok(), "{}", adit.log());
    assert!(adit.exit().await.success());
}

#[tokio::test]
async fn tells_what_becomes_of_carried_tunnels_when_it_is_stopped() {
    let (site, watcher, mut adit) = gateway(&Surroundings::default(), &[]).await;
    let lan = Lan::echo().await;
    let (_, mut first) = site.open(lan.port).await;
    upgrade(&watcher).await;
    let (_, mut second) = site.open(lan.port).await;
    // They go through two processes then.
    let process = upgrade(&watcher).await;
    terminate(process);
    for far_end in [&mut first, &mut second] {
        let (_, frame) = far_end.rest().await;
        assert_eq!(u16::from(frame.unwrap().code), 1001);
    }
    for number in [3, 4] {
        let (_, text) = site.event(&site.gateway, number).await;
        assert!(text.contains("closed: "), "{text}");
    }
    assert!(adit.exit().await.success());
    site.assert_no_complaint();
}
