//! Tunnels outlive the broker, every status arrives, and the log says what is wrong.

use std::time::Duration;

use simulated_cloud::{Misbehaviour, REMOTE_ACCESS};
use smartrest::Row;

use crate::support::{BlackHole, FarEnd, ID_SOURCES, LIMIT, Lan, Site, Wire, refusing_port};

#[tokio::test]
async fn carries_bytes_on_while_the_broker_is_away() {
    let mut site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut stays) = site.open(lan.port).await;
    let (_, ends) = site.open(lan.port).await;
    site.event(&site.gateway, 2).await;

    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    stays.echo("during the outage").await;
    ends.close().await;
    adit.wait_for_log("closed by the cloud").await;

    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    // The last event before the outage comes twice where only its acknowledgement was lost.
    let mut last = site.event(&site.gateway, 3).await;
    if last.0 == "c8y_RemoteAccessOpened" {
        last = site.event(&site.gateway, 4).await;
    }
    let (kind, text) = last;
    assert_eq!(kind, "c8y_RemoteAccessClosed", "{text}");
    stays.echo("after the outage").await;
    let (_, mut fresh) = site.open(lan.port).await;
    fresh.echo("hello").await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn delivers_every_status_when_the_broker_is_killed_while_tunnels_open() {
    for ids in ID_SOURCES {
        deliver_every_status_when_the_broker_is_killed(ids).await;
    }
}

async fn deliver_every_status_when_the_broker_is_killed(ids: &str) {
    let mut site = Site::new().await;
    // A longer outage could draw a wait that is longer than the test has patience.
    let adit = site.adit(&[ids, "remote_access.connect_timeout=5s"]).await;
    let child = site.child("plc");
    let (slow, fast) = (BlackHole::new().await, Lan::echo().await);
    // The second has its result before the first; neither may be told before the broker is back.
    site.cloud.misbehave(Misbehaviour::NeverAnswer);
    let fails = site
        .cloud
        .open_tunnel(&child, "127.0.0.1", fast.port)
        .unwrap();
    site.executing(fails.operation).await;
    site.cloud.misbehave(None);
    let mut first = site.request("127.0.0.1", slow.port);
    site.executing(first.operation).await;
    let mut second = site.request("127.0.0.1", fast.port);
    site.executing(second.operation).await;
    adit.wait_for_log("opened").await;

    site.broker.kill();
    site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    adit.wait_for_log("connection to the broker lost").await;
    let _slow = slow.wake();
    let mut first = FarEnd(first.accept(LIMIT).await.unwrap());
    let mut second = FarEnd(second.accept(LIMIT).await.unwrap());
    first.echo("first").await;
    second.echo("second").await;
    adit.wait_for_log("did not open").await;

    site.broker.restart().await;
    assert_eq!(
        site.failed(fails.operation).await,
        format!(
            "{} did not open the WebSocket within 5s",
            site.cloud.address()
        )
    );
    for number in 1..=2 {
        let (kind, _) = site.event(&site.gateway, number).await;
        assert_eq!(kind, "c8y_RemoteAccessOpened");
    }
    first.echo("first").await;
    second.echo("second").await;
}

#[tokio::test]
async fn takes_operations_again_after_the_broker_was_away_for_long() {
    let mut site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    site.broker.kill();
    adit.wait_for_logs(2, "no connection to the broker").await;
    site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    // Lost with the broker: only the answer to 500 can bring it.
    site.cloud.set_live_delivery(false);
    let mut tunnel = site.request("127.0.0.1", lan.port);
    site.broker.restart().await;
    FarEnd(tunnel.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(tunnel.operation).await;
}

#[tokio::test]
async fn says_that_another_client_uses_the_same_id() {
    let site = Site::new().await;
    let one = site.adit(&[]).await;
    let other = site.start_adit(&[]);
    let words = "another client probably uses the same id";
    let line = tokio::select! {
        line = one.wait_for_log(words) => line,
        line = other.wait_for_log(words) => line,
    };
    assert!(
        line.contains(&format!(" client_id=\"{}\"", site.gateway)),
        "{line}"
    );
}

#[tokio::test]
async fn says_that_the_password_is_wrong_and_comes_back_when_it_is_right() {
    let mut site = Site::new().await;
    let (name, password) = site.user();
    let platform = ("platform".to_owned(), "platform-password".to_owned());
    site.broker
        .set_users(&[&platform, &(name.clone(), "another".to_owned())]);
    let mut adit = site.start_adit(&[]);
    let line = adit.wait_for_logs(2, "no connection to the broker").await;
    assert!(line.contains(" WARN "), "{line}");
    assert!(
        line.contains("the broker refused the connection: not authorised (CONNACK 5)"),
        "{line}"
    );
    assert!(adit.is_running());
    site.broker.set_users(&[&platform, &(name, password)]);
    adit.ready().await;
}

#[tokio::test]
async fn waits_for_a_broker_that_is_not_there_yet() {
    let site = Site::new().await;
    let nobody = refusing_port();
    let adit = site.start_adit(&[&format!("mqtt.url=mqtt://127.0.0.1:{}", nobody.number)]);
    let line = adit.wait_for_logs(2, "no connection to the broker").await;
    let error = format!(
        "cannot reach 127.0.0.1:{}: connection refused",
        nobody.number
    );
    assert!(line.contains(&error), "{line}");
    // Full jitter: from nothing to two seconds.
    let retry = line.split_once("retry_in=").unwrap().1;
    let retry = retry.split(' ').next().unwrap();
    let millis: f64 = match retry.strip_suffix("ms") {
        Some(millis) => millis.parse().unwrap(),
        None => 1e3 * retry.trim_end_matches('s').parse::<f64>().unwrap(),
    };
    assert!(
        millis <= Duration::from_secs(2).as_secs_f64() * 1e3,
        "{line}"
    );
}

#[tokio::test]
async fn fails_a_row_without_a_key_once_though_an_outage_holds_what_is_said_of_it() {
    /// Before it, so that it comes again before anything is said of it.
    const OLDER: usize = 10;
    let site = Site::new().await;
    let wire = Wire::to(site.broker.gateway_port()).await;
    let url = format!("mqtt.url=mqtt://127.0.0.1:{}", wire.port);
    let adit = site.adit(&[&url, "remote_access.operation_ids=none"]).await;
    let lan = Lan::echo().await;
    let create = |fields: &[&str]| {
        let fields = fields.iter().copied();
        let row = Row::new(["530", &site.gateway].into_iter().chain(fields));
        let created = site
            .cloud
            .create_operation(&site.gateway, REMOTE_ACCESS, row);
        created.unwrap()
    };
    wire.hold();
    let mut malformed = Vec::new();
    for number in 0..OLDER {
        let key = format!("key-{number}");
        malformed.push((create(&["plc", "0", &key]), "port 0 is not from 1 to 65535"));
    }
    malformed.push((create(&["plc", "22"]), "the connection key is missing"));
    let mut good = site.request("127.0.0.1", lan.port);
    adit.wait_for_log("operation received").await;
    wire.cut();
    adit.wait_for_log("connection to the broker lost").await;
    wire.mend();
    for (id, reason) in malformed {
        assert_eq!(site.failed(id).await, reason);
    }
    FarEnd(good.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(good.operation).await;
    // Whatever a second pair of statuses had done would be before this.
    let (_, mut later) = site.open(lan.port).await;
    later.echo("hello").await;
    assert_eq!(
        (site.count("501"), site.count("502"), site.count("503")),
        (OLDER + 3, OLDER + 1, 2)
    );
    // The youngest rows came again, that without a key among them.
    adit.wait_for_logs(2, "operation is known already").await;
    site.assert_no_complaint();
}
