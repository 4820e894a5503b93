//! Operations that come with their ids on `devicecontrol/notifications`, with nothing to set up.

use rumqttc::{Packet, Publish, QoS, SubAck, SubscribeReasonCode};
use simulated_cloud::{NOTIFICATIONS, Notifications, OperationId, REMOTE_ACCESS, Status};
use smartrest::{Row, encode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{
    BlackHole, FarEnd, LIMIT, Lan, ScriptedBroker, Site, SiteOptions, refusing_port, rows,
    usual_answer,
};

const WITHOUT: &str = "operations come without their ids";

/// How many statuses were sent by `501` to `503`, and by `504` to `506`.
fn statuses(site: &Site) -> (usize, usize) {
    let sum = |templates: [&str; 3]| templates.iter().map(|t| site.count(t)).sum();
    (sum(["501", "502", "503"]), sum(["504", "505", "506"]))
}

/// Creates an operation that is delivered by hand.
fn create(site: &Site, fields: &[&str]) -> OperationId {
    let fields = fields.iter().copied();
    let row = Row::new(["530", &site.gateway].into_iter().chain(fields));
    let created = site
        .cloud
        .create_operation(&site.gateway, REMOTE_ACCESS, row);
    created.unwrap()
}

#[tokio::test]
async fn reports_by_id_whichever_of_row_and_notification_comes_first() {
    for (notifications, topic_prefix) in [
        (Notifications::BehindRows, ""),
        (Notifications::BeforeRows, ""),
        (Notifications::BehindRows, "c8y/"),
    ] {
        let options = SiteOptions {
            topic_prefix,
            ..SiteOptions::default()
        };
        let site = Site::with(options).await;
        site.cloud.notify(notifications);
        let adit = site.adit(&[]).await;
        let lan = Lan::echo().await;
        let (id, mut far_end) = site.open(lan.port).await;
        far_end.echo("hello").await;
        assert_eq!(statuses(&site), (0, 2), "{notifications:?}");
        site.cloud.redeliver(id);
        adit.wait_for_logs(3, "operation is known already").await;
        assert_eq!(site.cloud.handshakes().len(), 1);
        assert_eq!(statuses(&site), (0, 2), "{notifications:?}");
        // Nothing had to be set up for that.
        let log = site.cloud.log();
        assert!(!log.iter().any(|record| record.topic.starts_with("s/ut")));
        assert!(!adit.log().contains(WITHOUT));
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn reports_a_fast_tunnel_before_an_older_slow_one() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let (slow, fast, refusing) = (BlackHole::new().await, Lan::echo().await, refusing_port());
    let child = site.child("plc");
    let mut older = site.request("127.0.0.1", slow.port);
    site.executing(older.operation).await;
    let (_, mut far_end) = site.open(fast.port).await;
    far_end.echo("hello").await;
    let refused = site.request("127.0.0.1", refusing.number);
    let reason = site.failed(refused.operation).await;
    assert!(reason.ends_with("connection refused"), "{reason}");
    let mut of_child = site
        .cloud
        .open_tunnel(&child, "127.0.0.1", fast.port)
        .unwrap();
    let _far_end = of_child.accept(LIMIT).await.unwrap();
    site.opened(of_child.operation).await;
    let waits = site.cloud.operation(older.operation).unwrap();
    assert_eq!(waits.status(), Status::Executing);
    let _slow = slow.wake();
    let _far_end = older.accept(LIMIT).await.unwrap();
    site.opened(older.operation).await;
    assert_eq!(statuses(&site).0, 0);
    site.assert_no_complaint();
}

#[tokio::test]
async fn takes_what_was_created_before_adit_came_with_its_id() {
    let site = Site::new().await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    let lan = Lan::echo().await;
    let mut pending = site.request("127.0.0.1", lan.port);
    let _adit = site.adit(&[]).await;
    FarEnd(pending.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(pending.operation).await;
    assert_eq!(statuses(&site), (0, 2));
    site.assert_no_complaint();
}

#[tokio::test]
async fn does_without_ids_that_do_not_come_and_takes_them_when_they_do() {
    let mut site = Site::new().await;
    site.cloud.notify(Notifications::Never);
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    for number in 1..=5 {
        let (_, mut far_end) = site.open(lan.port).await;
        far_end.echo("hello").await;
        assert_eq!(statuses(&site), (2 * number, 0));
        if number == 2 {
            // Over connections it is counted, too.
            site.broker.kill();
            site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
            site.broker.restart().await;
            site.wait_for_rows(2, "500").await;
        }
        let silent = if number < 3 { 0 } else { 1 };
        if silent > 0 {
            // What the platform has may be there before the line that was logged first.
            adit.wait_for_log(WITHOUT).await;
        }
        assert_eq!(adit.log().matches(WITHOUT).count(), silent, "{number}");
    }
    // The first is reported at once, and by its id as soon as that is known.
    site.cloud.notify(Notifications::BehindRows);
    site.open(lan.port).await;
    let (_, by_id) = statuses(&site);
    site.open(lan.port).await;
    assert_eq!(statuses(&site).1, by_id + 2);
    assert_eq!(adit.log().matches(WITHOUT).count(), 1);
    site.assert_no_complaint();
}

#[tokio::test]
async fn opens_nothing_for_a_notification_that_comes_late() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    site.cloud.set_live_delivery(false);
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let row = site.cloud.operation(tunnel.operation).unwrap().row;
    site.cloud.publish(encode([&row]));
    let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
    site.opened(tunnel.operation).await;
    site.cloud.send_notifications(&[tunnel.operation]);
    adit.wait_for_log("operation is known already").await;
    site.cloud.set_live_delivery(true);
    let (_, mut other) = site.open(lan.port).await;
    other.echo("hello").await;
    far_end.echo("hello").await;
    assert_eq!(statuses(&site), (2, 2));
    assert_eq!(site.cloud.handshakes().len(), 2);
    site.assert_no_complaint();
}

#[tokio::test]
async fn takes_several_operations_in_one_message_and_leaves_those_of_others_alone() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let child = site.child("plc");
    site.cloud.set_live_delivery(false);
    let mut tunnels = Vec::new();
    for device in [&site.gateway, &child, &site.gateway] {
        let tunnel = site.cloud.open_tunnel(device, "127.0.0.1", lan.port);
        tunnels.push(tunnel.unwrap());
    }
    let restart = Row::new(["510", &site.gateway]);
    let restart = site
        .cloud
        .create_operation(&site.gateway, "c8y_Restart", restart)
        .unwrap();
    let json = |id| site.cloud.operation(id).unwrap().to_json();
    let [a, b, c] = [&tunnels[0], &tunnels[1], &tunnels[2]].map(|t| json(t.operation));
    let cut = &a[..a.len() / 2];
    // Out of order, the first cut and then again, one of another agent, and no JSON at all.
    let message = format!("{c}\n{cut}\n\n[1,2\n{}\n{b}\n{a}\n{c}\n\"", json(restart));
    site.cloud.publish_on(NOTIFICATIONS, message);
    for tunnel in &mut tunnels {
        FarEnd(tunnel.accept(LIMIT).await.unwrap())
            .echo("hello")
            .await;
        site.opened(tunnel.operation).await;
    }
    assert_eq!(site.cloud.handshakes().len(), tunnels.len());
    let untouched = site.cloud.operation(restart).unwrap();
    assert_eq!(untouched.history, [Status::Pending]);
    assert_eq!(statuses(&site).0, 0);
    let key = site.cloud.operation(tunnels[0].operation).unwrap().key();
    assert!(!adit.log().contains(key.unwrap().expose()));
    site.assert_no_complaint();
}

#[tokio::test]
async fn opens_one_tunnel_for_an_id_or_a_key_that_comes_again() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    site.cloud.set_live_delivery(false);
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let other = site.request("127.0.0.1", lan.port);
    let [(first, key), (second, other_key)] = [&tunnel, &other].map(|tunnel| {
        let operation = site.cloud.operation(tunnel.operation).unwrap();
        (operation.to_json(), operation.key().unwrap())
    });
    site.cloud.publish_on(NOTIFICATIONS, first.clone());
    let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
    site.opened(tunnel.operation).await;
    let (key, other_key) = (key.expose(), other_key.expose());
    let same_id = first.replace(key, other_key);
    let same_key = second.replace(other_key, key);
    assert!(same_id != first && same_key != second);
    let message = format!("{same_id}\n{same_key}\n{first}");
    site.cloud.publish_on(NOTIFICATIONS, message);
    let reason = "the connection key is that of another operation";
    assert_eq!(site.failed(other.operation).await, reason);
    adit.wait_for_logs(2, "operation is known already").await;
    far_end.echo("hello").await;
    assert_eq!(site.cloud.handshakes().len(), 1);
    assert_eq!(statuses(&site), (0, 4));
    site.assert_no_complaint();
}

#[tokio::test]
async fn reads_a_notification_of_any_size_and_depth() {
    // With all that is around it, a packet of not quite 128 KiB, which is the largest of the platform.
    const SIZE: usize = 130_500;
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    site.cloud.set_live_delivery(false);
    for delivery in [
        format!("{}{}", "[".repeat(SIZE / 2), "]".repeat(SIZE / 2)),
        format!("\"{}\"", "x".repeat(SIZE)),
    ] {
        let mut tunnel = site.request("127.0.0.1", lan.port);
        let json = site.cloud.operation(tunnel.operation).unwrap().to_json();
        let json = json.replacen('{', &format!("{{\"x\":{delivery},"), 1);
        site.cloud.publish_on(NOTIFICATIONS, json);
        FarEnd(tunnel.accept(LIMIT).await.unwrap())
            .echo("hello")
            .await;
        site.opened(tunnel.operation).await;
    }
    // One that is larger than the platform sends is skipped, and harms nothing.
    site.cloud.publish_on(NOTIFICATIONS, "{".repeat(200_000));
    adit.wait_for_log("message skipped").await;
    assert_eq!(statuses(&site), (0, 4));
    site.assert_no_complaint();
}

#[tokio::test]
async fn fails_malformed_operations_by_their_ids() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let mut bad = Vec::new();
    let malformed: [(&[&str], &str); 5] = [
        (&["", "22", "key-1"], "the hostname is missing"),
        (&["plc", "", "key-2"], "the port is missing"),
        (&["plc", "22"], "the connection key is missing"),
        (&["plc", "22"], "the connection key is missing"),
        (&["plc", "0", "key-3"], "port 0 is not from 1 to 65535"),
    ];
    for (fields, reason) in malformed {
        bad.push((create(&site, fields), reason.to_owned()));
    }
    // What no row can say comes in the notification alone.
    site.cloud.set_live_delivery(false);
    for (request, reason) in [
        ("null", "the hostname is missing"),
        (
            r#"{"hostname":"plc","port":{"x":[]},"connectionKey":"key-4"}"#,
            "the port is not a number from 1 to 65535",
        ),
        (
            r#"{"hostname":["plc"],"port":22,"connectionKey":"key-5"}"#,
            "the hostname '[…]' is neither a name nor an address",
        ),
        (
            r#"{"hostname":"plc","port":22}"#,
            "the connection key is missing",
        ),
    ] {
        let id = create(&site, &["placeholder"]);
        let json = format!(
            "{{\"id\":{id},\"externalSource\":{{\"externalId\":\"{}\"}},\"{REMOTE_ACCESS}\":{request}}}",
            site.gateway
        );
        site.cloud.publish_on(NOTIFICATIONS, json);
        bad.push((id, reason.to_owned()));
    }
    site.cloud.set_live_delivery(true);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    for (id, reason) in &bad {
        assert_eq!(site.failed(*id).await, *reason, "{id}");
    }
    assert_eq!(statuses(&site), (0, 2 * bad.len() + 2));
    assert!(!adit.log().contains("key-"));
    site.assert_no_complaint();
}

#[tokio::test]
async fn takes_what_comes_with_the_subscription_once() {
    let site = Site::new().await;
    let operation = |id: u32| {
        format!(
            "{{\"id\":\"{id}\",\"externalSource\":{{\"externalId\":\"{}\"}},\
             \"{REMOTE_ACCESS}\":{{\"hostname\":\"plc\",\"port\":0,\"connectionKey\":\"k{id}\"}}}}",
            site.gateway
        )
    };
    let (early, late) = (operation(7), operation(8));
    let (said, mut heard) = mpsc::unbounded_channel();
    let broker = ScriptedBroker::start(move |_, packet| {
        let mut answers = usual_answer(packet);
        let tell =
            |text: String| Packet::Publish(Publish::new(NOTIFICATIONS, QoS::AtMostOnce, text));
        match packet {
            // What was not forwarded yet comes by itself, before anything is asked.
            Packet::Subscribe(subscribe) if subscribe.filters[0].path == NOTIFICATIONS => {
                answers.push(tell(early.clone()));
            }
            Packet::Publish(publish) => {
                let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                if payload == "500" {
                    answers.push(tell(format!("{early}\n{late}\n{early}")));
                }
                if payload.starts_with("50") && !payload.starts_with("507") {
                    said.send(payload).unwrap();
                }
            }
            _ => {}
        }
        answers
    })
    .await;
    let _adit = site.start_adit(&[&broker.setting()]);
    let mut statuses = Vec::new();
    while statuses
        .last()
        .is_none_or(|last: &String| !last.starts_with("505,8,"))
    {
        let heard = timeout(LIMIT, heard.recv())
            .await
            .expect("in time")
            .unwrap();
        statuses.push(heard);
    }
    statuses.retain(|status| status != "500");
    let reason = "port 0 is not from 1 to 65535";
    let failed = |id: u32| [format!("504,{id}"), format!("505,{id},{reason}")];
    assert_eq!(statuses, [failed(7), failed(8)].concat());
}

#[tokio::test]
async fn waits_for_no_id_where_the_broker_refuses_the_topic() {
    let site = Site::new().await;
    let row = format!("530,{},127.0.0.1,0,k", site.gateway);
    let (said, mut heard) = mpsc::unbounded_channel();
    let mut is_asked = false;
    let broker = ScriptedBroker::start(move |_, packet| match packet {
        Packet::Subscribe(subscribe) if subscribe.filters[0].path == NOTIFICATIONS => {
            let refused = vec![SubscribeReasonCode::Failure];
            vec![Packet::SubAck(SubAck::new(subscribe.pkid, refused))]
        }
        Packet::Publish(publish) => {
            let mut answers = usual_answer(packet);
            let payload = String::from_utf8_lossy(&publish.payload).into_owned();
            if payload == "500" && !std::mem::replace(&mut is_asked, true) {
                let operation = Publish::new("s/ds", QoS::AtMostOnce, row.as_bytes());
                answers.push(Packet::Publish(operation));
            }
            if payload.starts_with("50") {
                said.send(payload).unwrap();
            }
            answers
        }
        _ => usual_answer(packet),
    })
    .await;
    let adit = site.start_adit(&[&broker.setting()]);
    for status in [
        "507,c8y_RemoteAccessConnect,begun before adit started; connect again",
        "500",
        "501,c8y_RemoteAccessConnect",
        "502,c8y_RemoteAccessConnect,port 0 is not from 1 to 65535",
    ] {
        let heard = timeout(LIMIT, heard.recv()).await.expect("in time");
        assert_eq!(heard.unwrap(), status);
    }
    let log = adit.log();
    assert_eq!(log.matches(WITHOUT).count(), 1, "{log}");
    assert!(
        !log.contains("no notification brought the id in time"),
        "{log}"
    );
    let updates = rows(&site.cloud, "s/us");
    assert!(updates.is_empty(), "the platform of the site is not asked");
}
