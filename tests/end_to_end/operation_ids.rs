//! Operations that come with their ids, by a template collection that adit installs.

use std::time::Duration;

use simulated_cloud::{OperationId, REMOTE_ACCESS};
use smartrest::{COLLECTION, COLLECTION_ID, Row, encode};

use crate::support::{
    BlackHole, FarEnd, ID_SOURCES, LIMIT, Lan, Site, SiteOptions, refusing_port, rows,
};

const BY_ID: &str = "remote_access.operation_ids=templates";
const FALLBACK: &str = "the platform does not answer for template collections";

/// What adit has published about the collection, with `CSV` for its text.
fn requests(site: &Site) -> Vec<String> {
    let published = rows(&site.cloud, &format!("s/ut/{COLLECTION_ID}"));
    let published = published.join("\n").replace(COLLECTION.trim_end(), "CSV");
    published.split('\n').map(str::to_owned).collect()
}

/// How many statuses were sent by `501` to `503`, and by `504` to `506`.
fn statuses(site: &Site) -> (usize, usize) {
    let sum = |templates: [&str; 3]| templates.iter().map(|t| site.count(t)).sum();
    (sum(["501", "502", "503"]), sum(["504", "505", "506"]))
}

/// Waits until the fragment of the gateway says how many tunnels are open.
async fn wait_for_active_tunnels(site: &Site, number: usize) {
    let found = site.cloud.wait_until(LIMIT, |platform| {
        let device = platform.device(&site.gateway)?;
        let active = device.fragments.get("adit_RemoteAccess.open")?;
        (*active == number.to_string()).then_some(())
    });
    found.await.unwrap();
}

#[tokio::test]
async fn reports_a_fast_tunnel_before_an_older_slow_one() {
    let site = Site::new().await;
    let _adit = site.adit(&[BY_ID]).await;
    let (slow, fast, refusing) = (BlackHole::new().await, Lan::echo().await, refusing_port());
    let child = site.child("plc");
    let mut older = site.request("127.0.0.1", slow.port);
    site.executing(older.operation).await;

    let (_, mut far_end) = site.open(fast.port).await;
    far_end.echo("hello").await;
    let refused = site.request("127.0.0.1", refusing.number);
    assert_eq!(
        site.failed(refused.operation).await,
        format!(
            "cannot reach 127.0.0.1:{}: connection refused",
            refusing.number
        )
    );
    let mut of_child = site
        .cloud
        .open_tunnel(&child, "127.0.0.1", fast.port)
        .unwrap();
    let _far_end = of_child.accept(LIMIT).await.unwrap();
    site.opened(of_child.operation).await;
    let waits = site.cloud.operation(older.operation).unwrap();
    assert_eq!(waits.status(), simulated_cloud::Status::Executing);

    let _slow = slow.wake();
    FarEnd(older.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(older.operation).await;
    assert_eq!(statuses(&site), (0, 6));
    let of_child = rows(&site.cloud, &format!("s/us/{child}"));
    let by_id = of_child
        .iter()
        .filter(|row| row.starts_with("504,"))
        .count();
    assert_eq!(by_id, 1, "{of_child:?}");
    site.assert_no_complaint();
}

#[tokio::test]
async fn creates_its_collection_once() {
    let mut site = Site::new().await;
    let mut adit = site.adit(&[BY_ID]).await;
    assert_eq!(requests(&site), ["", "CSV", ""]);
    site.broker.kill();
    site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    assert_eq!(requests(&site), ["", "CSV", "", ""]);
    adit.kill();
    let lan = Lan::echo().await;
    let mut pending = site.request("127.0.0.1", lan.port);
    let _adit = site.adit(&[BY_ID]).await;
    assert_eq!(requests(&site), ["", "CSV", "", "", ""]);
    // What was created meanwhile comes with its id.
    pending.accept(LIMIT).await.unwrap();
    site.opened(pending.operation).await;
    assert_eq!(statuses(&site), (0, 2));
    // Published behind the result, which the broker has therefore acknowledged: it would come a
    // second time otherwise.
    site.event(&site.gateway, 1).await;

    site.broker.kill();
    site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    site.cloud.delete_collection(COLLECTION_ID);
    site.broker.restart().await;
    site.wait_for_rows(4, "500").await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_eq!(requests(&site)[5..], ["", "CSV", ""]);
    site.assert_no_complaint();
}

#[tokio::test]
async fn asks_behind_a_topic_prefix() {
    let site = Site::with(SiteOptions {
        topic_prefix: "c8y/",
        ..SiteOptions::default()
    })
    .await;
    let _adit = site.adit(&[BY_ID]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_eq!(statuses(&site), (0, 2));
    wait_for_active_tunnels(&site, 1).await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn does_without_ids_where_the_platform_does_not_offer_them() {
    let mut site = Site::with(SiteOptions {
        no_collections: true,
        ..SiteOptions::default()
    })
    .await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    let lan = Lan::echo().await;
    let mut pending = site.request("127.0.0.1", lan.port);
    let adit = site.start_adit(&[BY_ID]);
    adit.wait_for_log(FALLBACK).await;
    FarEnd(pending.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(pending.operation).await;

    site.broker.kill();
    site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_eq!(statuses(&site), (4, 0));
    assert_eq!(adit.log().matches(FALLBACK).count(), 1);
    site.assert_no_complaint();
}

#[tokio::test]
async fn opens_one_tunnel_for_an_operation_that_comes_on_both_topics() {
    let site = Site::new().await;
    let adit = site.adit(&[BY_ID]).await;
    let lan = Lan::echo().await;
    let (id, mut far_end) = site.open(lan.port).await;
    site.cloud.redeliver(id);
    // The first copy in the static template, which had waited, and both of the second delivery.
    adit.wait_for_logs(3, "operation is known already").await;
    far_end.echo("hello").await;
    assert_eq!(statuses(&site), (0, 2));
    assert_eq!(site.cloud.handshakes().len(), 1);
    site.assert_no_complaint();
}

#[tokio::test]
async fn waits_for_the_id_of_an_operation() {
    let site = Site::new().await;
    let adit = site.adit(&[BY_ID]).await;
    let lan = Lan::echo().await;
    site.cloud.set_live_delivery(false);
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let operation = site.cloud.operation(tunnel.operation).unwrap();
    site.cloud.publish(encode([&operation.row]));
    adit.wait_for_log("received topic=\"s/ds\"").await;
    site.cloud.redeliver(tunnel.operation);
    tunnel.accept(LIMIT).await.unwrap();
    site.opened(tunnel.operation).await;
    assert_eq!(statuses(&site), (0, 2));
    assert!(!adit.log().contains(operation.key().unwrap().expose()));
    site.assert_no_complaint();
}

#[tokio::test]
async fn takes_an_operation_whose_id_does_not_come() {
    let site = Site::new().await;
    let _adit = site.adit(&[BY_ID]).await;
    let lan = Lan::echo().await;
    // Delivered by hand, in the static template only.
    site.cloud.set_live_delivery(false);
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let row = site.cloud.operation(tunnel.operation).unwrap().row;
    site.cloud.publish(encode([&row]));
    tunnel.accept(LIMIT).await.unwrap();
    site.opened(tunnel.operation).await;
    site.cloud.set_live_delivery(true);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_eq!(statuses(&site), (2, 2));
    site.assert_no_complaint();
}

#[tokio::test]
async fn fails_malformed_operations_by_their_ids() {
    let site = Site::new().await;
    let adit = site.adit(&[BY_ID]).await;
    let lan = Lan::echo().await;
    let device = site.gateway.as_str();
    let mut bad: Vec<(OperationId, &str)> = Vec::new();
    let malformed: [(&[&str], &str); 5] = [
        (&["", "22", "key-1"], "the hostname is missing"),
        (&["plc", "", "key-2"], "the port is missing"),
        (&["plc", "22"], "the connection key is missing"),
        (&["plc", "22"], "the connection key is missing"),
        (&["plc", "0", "key-3"], "port 0 is not from 1 to 65535"),
    ];
    for (fields, reason) in malformed {
        let row = Row::new(["530", device].iter().chain(fields).copied());
        let id = site
            .cloud
            .create_operation(device, REMOTE_ACCESS, row)
            .unwrap();
        bad.push((id, reason));
    }
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    for (id, reason) in bad {
        assert_eq!(site.failed(id).await, reason);
    }
    // The copies with a key are known, and of those without one nothing is left.
    adit.wait_for_logs(4, "operation is known already").await;
    assert_eq!(statuses(&site), (0, 12));
    assert!(!adit.log().contains("key-"));
    site.assert_no_complaint();
}

#[tokio::test]
async fn keeps_a_fragment_of_the_device_up_to_date_and_not_too_often() {
    for ids in ID_SOURCES {
        keep_a_fragment_up_to_date(ids).await;
    }
}

async fn keep_a_fragment_up_to_date(ids: &str) {
    const TUNNELS: usize = 6;
    let site = Site::new().await;
    let mut adit = site
        .adit(&[
            ids,
            "remote_access.max_tunnels=7",
            "remote_access.deny=10.0.0.0/8",
        ])
        .await;
    wait_for_active_tunnels(&site, 0).await;
    let device = site.cloud.device(&site.gateway).unwrap();
    let fragments: Vec<_> = device.fragments.iter().collect();
    assert_eq!(
        fragments
            .iter()
            .map(|(path, value)| format!("{path}={value}"))
            .collect::<Vec<_>>(),
        [
            "adit_RemoteAccess.free=7",
            "adit_RemoteAccess.limit=7",
            "adit_RemoteAccess.open=0",
            "adit_RemoteAccess.policy=allow private; deny 10.0.0.0/8",
        ]
    );
    let lan = Lan::echo().await;
    let mut far_ends = Vec::new();
    for _ in 0..TUNNELS {
        far_ends.push(site.open(lan.port).await.1);
    }
    let closed = far_ends.pop().unwrap();
    closed.close().await;
    site.event(&site.gateway, TUNNELS + 1).await;
    wait_for_active_tunnels(&site, TUNNELS - 1).await;

    let topic = format!("inventory/managedObjects/update/{}", site.gateway);
    let log = site.cloud.log();
    let times: Vec<_> = log
        .iter()
        .filter(|record| record.topic == topic)
        .map(|record| record.at)
        .collect();
    assert!(times.len() <= 3, "{}", rows(&site.cloud, &topic).join("\n"));
    for pair in times.windows(2) {
        // Less what the way to the platform may take now and then.
        assert!(pair[1] - pair[0] > Duration::from_secs(4));
    }

    adit.terminate();
    adit.exit().await;
    wait_for_active_tunnels(&site, 0).await;
    site.assert_no_complaint();
}
