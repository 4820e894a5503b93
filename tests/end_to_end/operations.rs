//! Every operation gets its own result, whatever else happens at the same time.

use futures_util::future::join_all;
use rumqttc::{Publish, QoS};
use simulated_cloud::{Misbehaviour, OperationId, REMOTE_ACCESS, Status, Tunnel};
use smartrest::Row;

use crate::support::{BlackHole, FarEnd, ID_SOURCES, LIMIT, Lan, Site, refusing_port, rows};

#[tokio::test]
async fn gives_every_operation_its_own_result_whatever_comes_first() {
    for ids in ID_SOURCES {
        give_every_operation_its_own_result(ids).await;
    }
}

async fn give_every_operation_its_own_result(ids: &str) {
    const ROUNDS: usize = 4;
    let site = Site::new().await;
    let _adit = site.adit(&[ids, "remote_access.connect_timeout=5s"]).await;
    let devices = [site.gateway.clone(), site.child("plc")];
    let fast = Lan::echo().await;
    let refusing = refusing_port();

    // Each target that fails has an address or a port of its own, so that a reason tells whose it
    // is.
    let (mut good, mut bad, mut slow, mut silent) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (number, device) in devices.iter().enumerate() {
            let open = |host: &str, port| site.cloud.open_tunnel(device, host, port).unwrap();
            let hole = BlackHole::new().await;
            let reason = format!("127.0.0.1:{} did not answer within 5s", hole.port);
            bad.push((open("127.0.0.1", hole.port), reason));
            silent.push(hole);
            good.push(open("127.0.0.1", fast.port));
            let hole = BlackHole::new().await;
            good.push(open("127.0.0.1", hole.port));
            slow.push(hole);
            let host = format!("127.1.{number}.{round}");
            let reason = format!(
                "cannot reach {host}:{}: connection refused",
                refusing.number
            );
            bad.push((open(&host, refusing.number), reason));
            let host = format!("198.51.{number}.{round}");
            let reason = format!("the policy does not allow {host}:22 (remote_access.allow)");
            bad.push((open(&host, 22), reason));
        }
    }
    for tunnel in &good {
        site.executing(tunnel.operation).await;
    }
    let _slow: Vec<_> = slow.into_iter().map(BlackHole::wake).collect();

    for (number, tunnel) in good.iter_mut().enumerate() {
        let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
        far_end.echo(format!("tunnel {number}")).await;
        site.opened(tunnel.operation).await;
    }
    for (tunnel, reason) in &bad {
        assert_eq!(site.failed(tunnel.operation).await, *reason);
    }
    site.assert_no_complaint();
}

#[tokio::test]
async fn serves_good_rows_among_a_hundred_malformed_ones() {
    for ids in ID_SOURCES {
        serve_good_rows_among_malformed_ones(ids).await;
    }
}

async fn serve_good_rows_among_malformed_ones(ids: &str) {
    const ROUNDS: usize = 10;
    let site = Site::new().await;
    let adit = site.adit(&[ids]).await;
    let lan = Lan::echo().await;
    let device = site.gateway.as_str();
    // `KEY` stands for a key that no other row has, as the platform's have not.
    let long_key = "KEY".repeat(200);
    let no_rows: [&[u8]; 6] = [
        b"",
        b"\n\r\n,,,\n\0\0\0",
        b"530",
        b"530,,127.0.0.1,22,key",
        b"\xff\xfe\x80,\xc3\x28,\"",
        b"511,\"unterminated",
    ];
    let malformed: [(&[&str], &str); 10] = [
        (&["", "22", "KEY"], "the hostname is missing"),
        (&["plc", "", "KEY"], "the port is missing"),
        (&["plc", "KEY"], "the connection key is missing"),
        (&["plc", "0", "KEY"], "port 0 is not from 1 to 65535"),
        (
            &["plc", "65536", "KEY"],
            "port 65536 is not from 1 to 65535",
        ),
        (
            &["plc", "ssh", "KEY"],
            "the port is not a number from 1 to 65535",
        ),
        (
            &["22", "plc", "KEY"],
            "the port is not a number from 1 to 65535",
        ),
        (
            &["a b\"c", "22", "KEY"],
            "the hostname 'a b'c' is neither a name nor an address",
        ),
        (
            &["plc", "22", "KEY/../../tenant"],
            "the connection key is not of at most 512 letters, digits and .-_~",
        ),
        (
            &["plc", "22", &long_key],
            "the connection key is not of at most 512 letters, digits and .-_~",
        ),
    ];
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for payload in no_rows {
            site.cloud.publish(payload);
        }
        for (number, (fields, reason)) in malformed.iter().enumerate() {
            let key = format!("key-{round}-{number}");
            let fields = fields.iter().map(|field| field.replace("KEY", &key));
            let fields = ["530".to_owned(), device.to_owned()]
                .into_iter()
                .chain(fields);
            let row = Row::new(fields);
            let id = site
                .cloud
                .create_operation(device, REMOTE_ACCESS, row)
                .unwrap();
            bad.push((id, (*reason).to_owned()));
        }
        good.push(site.request("127.0.0.1", lan.port));
    }
    for tunnel in &mut good {
        FarEnd(tunnel.accept(LIMIT).await.unwrap())
            .echo("hello")
            .await;
        site.opened(tunnel.operation).await;
    }
    for (id, reason) in bad {
        assert_eq!(site.failed(id).await, reason);
    }
    site.assert_no_complaint();
    let log = adit.log();
    let refused = format!(
        " WARN operation cannot be read device=\"{device}\" reason=\"the hostname is missing\""
    );
    assert!(log.contains(&refused), "{log}");
    assert!(!log.contains("key-0"));
}

#[tokio::test]
async fn opens_nothing_for_a_device_that_no_topic_can_name() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    // The last two end the connection at Mosquitto.
    for device in ["a/b", "+", "#", "../x", "plc-\u{fdd0}", "plc-\u{1ffff}"] {
        let row = format!("530,{device},127.0.0.1,{},key", lan.port);
        site.cloud.publish(row);
    }
    adit.wait_for_logs(6, "no topic can name its device").await;
    // The key of the rows that were dropped is still good for a row that can be answered.
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_eq!(site.cloud.handshakes().len(), 1, "{}", adit.log());
    site.assert_no_complaint();
}

#[tokio::test]
async fn fails_a_row_that_is_not_utf_8() {
    for ids in ID_SOURCES {
        fail_a_row_that_is_not_utf_8(ids).await;
    }
}

async fn fail_a_row_that_is_not_utf_8(ids: &str) {
    let site = Site::new().await;
    let _adit = site.adit(&[ids]).await;
    // The operation is delivered by hand, as bytes that no text can be.
    site.cloud.set_live_delivery(false);
    let tunnel = site.request("placeholder", 22);
    let device = site.gateway.as_bytes();
    site.cloud
        .publish([b"530,", device, b",pl\xffc,22,key"].concat());
    assert_eq!(
        site.failed(tunnel.operation).await,
        "the hostname 'pl\u{fffd}c' is neither a name nor an address"
    );
}

#[tokio::test]
async fn opens_one_tunnel_for_a_row_that_comes_again_and_again() {
    for ids in ID_SOURCES {
        open_one_tunnel_for_a_row_that_comes_again(ids).await;
    }
}

async fn open_one_tunnel_for_a_row_that_comes_again(ids: &str) {
    let site = Site::new().await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    let lan = Lan::echo().await;
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let adit = site.adit(&[ids]).await;
    let id = tunnel.operation;
    // The answer to 500, and live copies while it opens, while it is open, and when it is over.
    site.cloud.redeliver(id);
    let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
    site.opened(id).await;
    site.cloud.redeliver(id);
    far_end.echo("hello").await;
    adit.wait_for_logs(2, "operation is known already").await;
    far_end.close().await;
    site.event(&site.gateway, 2).await;
    site.cloud.redeliver(id);
    adit.wait_for_logs(3, "operation is known already").await;

    // Whatever the copies had led to would be before this.
    let (_, far_end) = site.open(lan.port).await;
    far_end.close().await;
    site.event(&site.gateway, 4).await;
    let count = |templates: [&str; 2]| templates.map(|template| site.count(template)).iter().sum();
    let [executing, failed, successful]: [usize; 3] =
        [["501", "504"], ["502", "505"], ["503", "506"]].map(count);
    assert_eq!((executing, failed, successful), (2, 0, 2), "{ids}");
    assert_eq!(site.cloud.handshakes().len(), 2);
    site.assert_no_complaint();
}

#[tokio::test]
async fn fails_an_operation_beyond_the_limit_of_tunnels() {
    for ids in ID_SOURCES {
        fail_an_operation_beyond_the_limit(ids).await;
    }
}

async fn fail_an_operation_beyond_the_limit(ids: &str) {
    let site = Site::new().await;
    let _adit = site.adit(&[ids, "remote_access.max_tunnels=2"]).await;
    let lan = Lan::echo().await;
    let (_, mut first) = site.open(lan.port).await;
    let (_, second) = site.open(lan.port).await;
    let third = site.request("127.0.0.1", lan.port);
    assert_eq!(
        site.failed(third.operation).await,
        "no more tunnels at a time than remote_access.max_tunnels, 2"
    );
    first.echo("still here").await;
    second.close().await;
    // Opened, opened, closed.
    site.event(&site.gateway, 3).await;
    let (_, mut fourth) = site.open(lan.port).await;
    fourth.echo("hello").await;
}

#[tokio::test]
async fn fails_what_a_former_life_left_executing() {
    for ids in ID_SOURCES {
        fail_what_a_former_life_left_executing(ids).await;
    }
}

async fn fail_what_a_former_life_left_executing(ids: &str) {
    const REASON: &str = "begun before adit started; connect again";
    let site = Site::new().await;
    let mut adit = site.adit(&[ids]).await;
    let lan = Lan::echo().await;
    let child = site.child("plc");
    let of_child = || {
        site.cloud
            .open_tunnel(&child, "127.0.0.1", lan.port)
            .unwrap()
    };
    site.cloud.misbehave(Misbehaviour::NeverAnswer);
    let orphan = site.request("127.0.0.1", lan.port);
    let orphan_of_child = of_child();
    site.executing(orphan.operation).await;
    site.executing(orphan_of_child.operation).await;
    adit.kill();
    site.cloud.misbehave(None);

    let _adit = site.adit(&[ids]).await;
    assert_eq!(site.failed(orphan.operation).await, REASON);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    // Nobody has told adit of its children: it learns of one when something is asked of it, and a
    // result must not land on what was left there.
    for _ in 0..2 {
        let mut tunnel = of_child();
        let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
        far_end.echo("hello").await;
        site.opened(tunnel.operation).await;
    }
    assert_eq!(site.failed(orphan_of_child.operation).await, REASON);
    // Each life has said so once.
    let rows = rows(&site.cloud, &format!("s/us/{child}"));
    assert_eq!(rows.iter().filter(|row| row.starts_with("507")).count(), 2);
    site.assert_no_complaint();
}

#[tokio::test]
async fn leaves_what_another_agent_of_the_device_executes_alone() {
    for ids in ID_SOURCES {
        leave_what_another_agent_executes(ids).await;
    }
}

async fn leave_what_another_agent_executes(ids: &str) {
    let site = Site::new().await;
    let mut adit = site.adit(&[ids]).await;
    let row = Row::new(["510", &site.gateway]);
    let created = site
        .cloud
        .create_operation(&site.gateway, "c8y_Restart", row);
    let restart = created.unwrap();
    // The other agent has the same user, and begins.
    let (user, password) = site.user();
    let begins = Publish::new("s/us", QoS::AtLeastOnce, "501,c8y_Restart");
    site.broker.publish([&user, &password], begins).await;
    site.executing(restart).await;
    let (lan, refusing) = (Lan::echo().await, refusing_port());
    site.open(lan.port).await;
    let refused = site.request("127.0.0.1", refusing.number);
    site.failed(refused.operation).await;
    // The next life fails what the former has left, and nothing else.
    site.cloud.misbehave(Misbehaviour::NeverAnswer);
    let orphan = site.request("127.0.0.1", lan.port);
    site.executing(orphan.operation).await;
    adit.kill();
    let _adit = site.adit(&[ids]).await;
    site.failed(orphan.operation).await;
    let untouched = site.cloud.operation(restart).unwrap();
    assert_eq!(untouched.history, [Status::Pending, Status::Executing]);
    site.assert_no_complaint();
}

#[tokio::test]
async fn opens_many_tunnels_at_once() {
    for ids in ID_SOURCES {
        open_many_tunnels_at_once(ids).await;
    }
}

async fn open_many_tunnels_at_once(ids: &str) {
    const TUNNELS: usize = 40;
    let site = Site::new().await;
    let _adit = site.adit(&[ids]).await;
    let lan = Lan::echo().await;
    let tunnels: Vec<Tunnel> = (0..TUNNELS)
        .map(|_| site.request("127.0.0.1", lan.port))
        .collect();
    let ids: Vec<OperationId> = tunnels.iter().map(|tunnel| tunnel.operation).collect();
    join_all(
        tunnels
            .into_iter()
            .enumerate()
            .map(|(number, mut tunnel)| async move {
                let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
                far_end.echo(format!("tunnel {number}")).await;
                far_end.close().await;
            }),
    )
    .await;
    for id in ids {
        site.opened(id).await;
    }
    site.event(&site.gateway, 2 * TUNNELS).await;
    site.assert_no_complaint();
}
