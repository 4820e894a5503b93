//! What adit says of itself when it connects, and that it waits for what the platform demands.

use crate::support::{LIMIT, Site, SiteOptions, Subscriptions, rows};

const ORPHANS: &str = "507,c8y_RemoteAccessConnect,begun before adit started; connect again";
const PROTOCOLS: &str = "150,SSH,TELNET,VNC,PASSTHROUGH";

fn agent_row() -> String {
    let (version, url) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_REPOSITORY"));
    let row = smartrest::Row::new(["122", "adit", version, url, ""]);
    smartrest::encode([&row])
}

/// Everything adit says at the first connect; at later ones it leaves out `507`.
fn announcement(gateway: &str) -> Vec<String> {
    vec![
        format!("100,{gateway},adit_Gateway"),
        "114,c8y_RemoteAccessConnect".to_owned(),
        PROTOCOLS.to_owned(),
        "117,10".to_owned(),
        agent_row(),
        ORPHANS.to_owned(),
        format!("102,{gateway}_adit,service,adit,up"),
        "500".to_owned(),
    ]
}

#[tokio::test]
async fn announces_itself_in_the_order_the_platform_needs() {
    for (tls, topic_prefix) in [(false, ""), (true, ""), (false, "c8y/")] {
        let options = SiteOptions {
            tls,
            topic_prefix,
            ..SiteOptions::default()
        };
        let site = Site::with(options).await;
        let _adit = site.adit(&[]).await;
        site.wait_for_rows(1, "500").await;
        assert_eq!(
            rows(&site.cloud, "s/us"),
            announcement(&site.gateway),
            "TLS: {tls}"
        );
        let device = site.cloud.device(&site.gateway).unwrap();
        assert_eq!(device.supported_operations, ["c8y_RemoteAccessConnect"]);
        site.assert_no_complaint();

        let packets = site.broker.packets_of(&site.gateway).await;
        // One topic in each SUBSCRIBE: the platform's MQTT Service refuses more. Behind a bridge its
        // state is one more.
        let subscribed = 3 + usize::from(!topic_prefix.is_empty());
        let mut expected = vec!["PUBLISH"];
        expected.extend(vec!["SUBSCRIBE"; subscribed]);
        expected.push("PUBLISH");
        assert_eq!(packets[..expected.len()], expected);
    }
}

#[tokio::test]
async fn announces_itself_again_after_a_reconnect_and_fails_orphans_only_once() {
    let mut site = Site::new().await;
    let _adit = site.adit(&[]).await;
    for _ in 0..2 {
        site.broker.kill();
        site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
        let before = rows(&site.cloud, "s/us").len();
        let known = site.count("500");
        site.broker.restart().await;
        site.wait_for_rows(known + 1, "500").await;
        let mut expected = announcement(&site.gateway);
        expected.retain(|row| row != ORPHANS && !row.starts_with("102,"));
        assert_eq!(rows(&site.cloud, "s/us")[before..], expected);
    }
}

#[tokio::test]
async fn announces_what_the_configuration_says() {
    let site = Site::new().await;
    let _adit = site
        .adit(&[
            "device.name=Line 7, left",
            "device.type=press",
            "device.required_interval=2h",
            "device.supported_operations=c8y_Restart,c8y_Software",
            "remote_access.protocols=VNC,SSH",
        ])
        .await;
    assert_eq!(
        rows(&site.cloud, "s/us")[..4],
        [
            "100,\"Line 7, left\",press",
            "114,c8y_RemoteAccessConnect,c8y_Restart,c8y_Software",
            "150,VNC,SSH",
            "117,120",
        ]
    );
}

#[tokio::test]
async fn leaves_an_interval_alone_that_somebody_has_set() {
    let site = Site::new().await;
    drop(site.adit(&["device.required_interval=30m"]).await);
    let _adit = site.adit(&["device.required_interval=10m"]).await;
    assert!(rows(&site.cloud, "s/us").contains(&"117,10".to_owned()));
    let device = site.cloud.device(&site.gateway).unwrap();
    assert_eq!(device.required_minutes.as_deref(), Some("30"));
}

#[tokio::test]
async fn leaves_the_device_alone_when_another_agent_announces_it() {
    let site = Site::new().await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "thin-edge");
    let _adit = site.adit(&["device.announce=false"]).await;
    let service = format!("102,{}_adit,service,adit,up", site.gateway);
    assert_eq!(rows(&site.cloud, "s/us"), [ORPHANS, &service, "500"]);
}

/// Waits until the service has had these statuses.
async fn wait_for_service(site: &Site, statuses: &[&str]) {
    let id = format!("{}_adit", site.gateway);
    let found = site.cloud.wait_until(LIMIT, |platform| {
        let service = platform.device(&site.gateway)?.services.get(&id)?;
        (service.history == statuses).then_some(())
    });
    found.await.unwrap();
}

#[tokio::test]
async fn is_a_service_of_the_device_that_is_up_or_down() {
    for topic_prefix in ["", "c8y/"] {
        let mut site = Site::with(SiteOptions {
            topic_prefix,
            ..SiteOptions::default()
        })
        .await;
        let mut adit = site.adit(&[]).await;
        wait_for_service(&site, &["up", "up"]).await;
        site.broker.kill();
        site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
        site.broker.restart().await;
        wait_for_service(&site, &["up", "up", "up"]).await;
        adit.terminate();
        assert!(adit.exit().await.success());
        wait_for_service(&site, &["up", "up", "up", "down"]).await;
        // A good end leaves the will unsaid; a bad one does not.
        let mut adit = site.adit(&[]).await;
        let again = ["up", "up", "up", "down", "up", "up"];
        wait_for_service(&site, &again).await;
        adit.kill();
        wait_for_service(&site, &[&again[..], &["down"]].concat()).await;
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn is_no_service_where_nobody_wants_it() {
    let site = Site::new().await;
    let mut adit = site.adit(&["device.service=false"]).await;
    adit.terminate();
    assert!(adit.exit().await.success());
    assert!(
        site.cloud
            .device(&site.gateway)
            .unwrap()
            .services
            .is_empty()
    );
    let log = site.cloud.log();
    assert!(!log.iter().any(|record| record.topic.ends_with("_adit")));
}

#[tokio::test]
async fn says_once_which_templates_the_platform_is_too_old_for() {
    let mut site = Site::new().await;
    site.cloud.forget_templates(&["150", "507"]);
    let adit = site.adit(&[]).await;
    for known in [1, 2] {
        site.broker.kill();
        site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
        site.broker.restart().await;
        site.wait_for_rows(known + 1, "500").await;
    }
    for template in ["150", "507"] {
        let line = adit.wait_for_log(&format!("template=\"{template}\"")).await;
        assert!(line.contains("WARN"), "{line}");
        let said = "the platform is too old for a template";
        let lines = adit.log();
        let lines = lines.lines().filter(|line| line.contains(said));
        let of_it = lines.filter(|line| line.contains(&format!("template=\"{template}\"")));
        assert_eq!(of_it.count(), 1);
    }
    // That the device exists is no fault.
    assert!(!adit.log().contains("the platform reports an error"));
}

#[tokio::test]
async fn asks_again_for_a_subscription_that_the_broker_refuses_while_the_device_is_new() {
    let options = SiteOptions {
        subscriptions: Subscriptions::Refused,
        ..SiteOptions::default()
    };
    let site = Site::with(options).await;
    let adit = site.start_adit(&[]);
    adit.wait_for_log("the broker refuses a subscription").await;
    site.wait_for_rows(1, "100").await;
    assert_eq!(
        rows(&site.cloud, "s/us"),
        [format!("100,{},adit_Gateway", site.gateway)]
    );
    site.broker.grant_subscriptions().await;
    let adit = adit.ready().await;
    site.wait_for_rows(1, "500").await;
    assert_eq!(rows(&site.cloud, "s/us"), announcement(&site.gateway));
    assert!(!adit.log().contains("connection to the broker lost"));
}
