//! SIGTERM: what is open is delivered and closed, what is due is told, and then adit goes. With
//! `remote_access.drain` what is open goes on, without a broker.

use std::time::{Duration, Instant};

use simulated_cloud::{Misbehaviour, Status};
use smartrest::encode;
use tokio::io::AsyncReadExt;

use crate::support::{BlackHole, FarEnd, ID_SOURCES, LIMIT, Lan, Site, Watcher};

/// How long adit tries to get rid of its last words.
const OUTBOX_END: Duration = Duration::from_secs(5);
/// At once, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn delivers_everything_and_says_good_bye_when_it_is_stopped() {
    const SIZE: usize = 1 << 20;
    let site = Site::new().await;
    let mut adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = machine.accept().await;
    let sent: Vec<u8> = (0..SIZE).map(|i| i.to_le_bytes()[1]).collect();
    // On its way, and the machine has not begun to read.
    far_end.send(sent.as_slice()).await;
    adit.terminate();
    adit.wait_for_log("adit is stopping").await;
    let read = async {
        let mut received = Vec::new();
        machine.read_to_end(&mut received).await.unwrap();
        received
    };
    let (received, (_, frame)) = tokio::join!(read, far_end.rest());
    assert!(received == sent, "{} bytes", received.len());
    let frame = frame.unwrap();
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1001, "adit is stopping")
    );
    assert!(adit.exit().await.success());
    let (kind, text) = site.event(&site.gateway, 2).await;
    assert_eq!(kind, "c8y_RemoteAccessClosed");
    assert!(
        text.contains("closed: adit is stopping; open for "),
        "{text}"
    );
    assert!(
        text.ends_with(&format!("{SIZE} bytes to the device")),
        "{text}"
    );
    site.assert_no_complaint();
}

#[tokio::test]
async fn fails_what_is_opening_when_it_is_stopped() {
    for ids in ID_SOURCES {
        fail_what_is_opening(ids).await;
    }
}

async fn fail_what_is_opening(ids: &str) {
    let site = Site::new().await;
    let mut adit = site.adit(&[ids]).await;
    let child = site.child("plc");
    let lan = Lan::echo().await;
    site.cloud.misbehave(Misbehaviour::NeverAnswer);
    let tunnels = [
        site.request("127.0.0.1", lan.port),
        site.request("127.0.0.1", lan.port),
        site.cloud
            .open_tunnel(&child, "127.0.0.1", lan.port)
            .unwrap(),
    ];
    for tunnel in &tunnels {
        site.executing(tunnel.operation).await;
    }
    adit.terminate();
    for tunnel in &tunnels {
        assert_eq!(site.failed(tunnel.operation).await, "adit is stopping");
    }
    assert!(adit.exit().await.success());
    site.assert_no_complaint();
}

#[tokio::test]
async fn leaves_operations_that_come_too_late_to_its_next_life() {
    for ids in ID_SOURCES {
        leave_operations_to_the_next_life(ids).await;
    }
}

async fn leave_operations_to_the_next_life(ids: &str) {
    let site = Site::new().await;
    let mut adit = site.adit(&[ids]).await;
    let lan = Lan::echo().await;
    adit.terminate();
    assert!(adit.exit().await.success());
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let _adit = site.adit(&[ids]).await;
    tunnel.accept(LIMIT).await.unwrap();
    site.opened(tunnel.operation).await;
}

#[tokio::test]
async fn stops_without_a_broker_too() {
    let mut site = Site::new().await;
    let mut adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    let began = Instant::now();
    adit.terminate();
    let (_, frame) = far_end.rest().await;
    assert_eq!(u16::from(frame.unwrap().code), 1001);
    assert!(adit.exit().await.success());
    // The event of the tunnel's end waits for a broker; the tunnel itself for nothing.
    assert!(began.elapsed() < OUTBOX_END + SOON, "{:?}", began.elapsed());
    assert!(
        adit.log()
            .contains("the broker did not take everything in time"),
        "it is not said"
    );
}

#[tokio::test]
async fn stops_at_once_when_there_is_nothing_to_do() {
    let site = Site::new().await;
    let mut adit = site.adit(&[]).await;
    let began = Instant::now();
    adit.terminate();
    assert!(adit.exit().await.success());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(adit.log().contains("disconnected from the broker"));
}

#[tokio::test]
async fn stops_as_soon_as_its_tunnels_have_ended() {
    let site = Site::new().await;
    // Nothing is said of the end that an acknowledgement could wake it with.
    let mut adit = site.adit(&["remote_access.events=false"]).await;
    let lan = Lan::echo().await;
    let mut far_ends = Vec::new();
    for _ in 0..3 {
        far_ends.push(site.open(lan.port).await.1);
    }
    let began = Instant::now();
    adit.terminate();
    for mut far_end in far_ends {
        let (_, frame) = far_end.rest().await;
        assert_eq!(u16::from(frame.unwrap().code), 1001);
    }
    assert!(adit.exit().await.success());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(!adit.log().contains("tunnels did not end in time"));
}

/// Lets open tunnels go on for longer than a test.
const DRAIN: &str = "remote_access.drain=1h";
/// What adit says once it has left the broker.
const GOES_ON: &str = "adit has left the broker; its tunnels go on";

#[tokio::test]
async fn carries_its_tunnels_on_while_the_next_adit_takes_the_operations() {
    let site = Site::new().await;
    let mut old = site.adit(&[DRAIN]).await;
    let lan = Lan::echo().await;
    let (first, mut kept) = site.open(lan.port).await;
    let (_, mut closed) = site.open(lan.port).await;
    kept.echo("before").await;
    old.terminate();
    let line = old.wait_for_log(GOES_ON).await;
    assert!(line.contains("tunnels=2"), "{line}");
    let service = format!("s/us/{}_adit", site.gateway);
    let down = site.cloud.wait_until(LIMIT, |platform| {
        let mut rows = platform.log().iter();
        rows.any(|record| record.topic == service && encode([&record.row]) == "104,down")
            .then_some(())
    });
    down.await.unwrap();
    // Nobody is there to take it.
    let mut between = site.request("127.0.0.1", lan.port);
    kept.echo("between").await;
    let _new = site.adit(&[DRAIN]).await;
    let mut taken = FarEnd(between.accept(LIMIT).await.unwrap());
    site.opened(between.operation).await;
    let (_, mut another) = site.open(lan.port).await;
    for tunnel in [&mut kept, &mut closed, &mut taken, &mut another] {
        tunnel.echo("after").await;
    }
    site.opened(first).await;
    assert!(!old.log().contains("another client"), "{}", old.log());
    closed.close().await;
    kept.echo("still").await;
    assert!(old.is_running());
    kept.close().await;
    assert!(old.exit().await.success());
    old.wait_for_log("all tunnels have ended").await;
    another.echo("on").await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn ends_its_tunnels_when_their_time_is_over() {
    let site = Site::new().await;
    let mut adit = site.adit(&["remote_access.drain=1s"]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    adit.terminate();
    adit.wait_for_log(GOES_ON).await;
    let (_, frame) = far_end.rest().await;
    assert_eq!(u16::from(frame.unwrap().code), 1001);
    assert!(adit.exit().await.success());
}

#[tokio::test]
async fn reports_what_is_opening_before_it_leaves_the_broker() {
    for operation_ids in ID_SOURCES {
        let site = Site::new().await;
        let mut adit = site.adit(&[DRAIN, operation_ids]).await;
        let machine = BlackHole::new().await;
        let mut tunnel = site.request("127.0.0.1", machine.port);
        site.executing(tunnel.operation).await;
        adit.terminate();
        adit.wait_for_log("lets its tunnels go on").await;
        let late = site.request("127.0.0.1", machine.port);
        let _lan = machine.wake();
        let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
        site.opened(tunnel.operation).await;
        adit.wait_for_log(GOES_ON).await;
        far_end.echo("hello").await;
        let pending = site.cloud.operation(late.operation).unwrap();
        assert_eq!(pending.history, [Status::Pending]);
        far_end.close().await;
        assert!(adit.exit().await.success());
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn goes_at_once_at_the_second_signal() {
    let site = Site::new().await;
    let mut adit = site.adit(&[DRAIN]).await;
    let lan = Lan::echo().await;
    let (_, _far_end) = site.open(lan.port).await;
    adit.terminate();
    adit.wait_for_log(GOES_ON).await;
    let began = Instant::now();
    adit.terminate();
    assert_eq!(adit.exit().await.code(), Some(1));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn leaves_its_socket_and_its_port_to_the_next_adit() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let mut old = site.adit(&[DRAIN, &watcher.setting()]).await;
    let lan = Lan::echo().await;
    let (_, far_end) = site.open(lan.port).await;
    old.terminate();
    old.wait_for_log(GOES_ON).await;
    let new = site.adit(&[&watcher.setting()]).await;
    let json = watcher.json().await;
    assert_eq!(json["agent"]["process_id"], new.process_id());
    far_end.close().await;
    assert!(old.exit().await.success());
    assert_eq!(watcher.json().await["connection"]["is_connected"], true);
}
