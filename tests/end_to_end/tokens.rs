//! Tunnels show a token that comes over MQTT, where there is no password for them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use simulated_cloud::TokenAnswer;
use tokio::time::sleep;

use crate::support::{
    Adit, Connect, FarEnd, LIMIT, Lan, Login, Proxy, Site, SiteOptions, Watcher, check, rows,
};

async fn site() -> Site {
    Site::with(SiteOptions {
        login: Login::LocalUser,
        ..SiteOptions::default()
    })
    .await
}

/// How often the platform was asked for a token.
fn requests(site: &Site) -> usize {
    rows(&site.cloud, "s/uat").len()
}

/// What the platform answered to each WebSocket, all of which showed a token.
fn answers(site: &Site) -> Vec<u16> {
    let handshakes = site.cloud.handshakes();
    assert!(
        handshakes
            .iter()
            .all(|handshake| handshake.authorization.as_deref() == Some("Bearer")),
        "{handshakes:?}"
    );
    handshakes.iter().filter_map(|asked| asked.answer).collect()
}

/// All tokens of the platform have the same head and the same signature.
fn assert_no_token(adit: &Adit) {
    let log = adit.log();
    assert!(log.contains("TRACE"), "the log is not whole");
    for part in ["eyJhbGci", "c2lnbmF0dXJl", "Bearer"] {
        assert!(!log.contains(part), "{part} stands in the log");
    }
}

#[tokio::test]
async fn asks_for_one_token_however_many_tunnels_open_at_once() {
    const TUNNELS: usize = 20;
    let site = site().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let tunnels: Vec<_> = (0..TUNNELS)
        .map(|_| site.request("127.0.0.1", lan.port))
        .collect();
    for mut tunnel in tunnels {
        let socket = tunnel.accept(LIMIT).await.unwrap();
        FarEnd(socket).echo("hello").await;
        site.opened(tunnel.operation).await;
    }
    assert_eq!(requests(&site), 1);
    assert_eq!(answers(&site), [101; TUNNELS]);
    assert_no_token(&adit);
    site.assert_no_complaint();
}

#[tokio::test]
async fn renews_a_token_when_half_of_its_life_has_passed() {
    const LIFE: Duration = Duration::from_secs(6);
    let site = site().await;
    site.cloud.answer_token_requests(TokenAnswer::Good(LIFE));
    let _adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut first) = site.open(lan.port).await;
    // Nothing but a tunnel that is needed makes adit ask.
    while requests(&site) < 2 {
        sleep(LIFE / 30).await;
        let (_, far_end) = site.open(lan.port).await;
        far_end.close().await;
    }
    // The first was good for its half, and the request for the second came in time.
    let log = site.cloud.log();
    let asked: Vec<_> = log
        .iter()
        .filter(|record| record.topic == "s/uat")
        .map(|record| record.at)
        .collect();
    let pause = asked[1] - asked[0];
    assert!(pause >= LIFE / 2, "{pause:?}");
    assert!(pause < LIFE, "{pause:?}");
    assert!(answers(&site).iter().all(|&status| status == 101));
    first.echo("still there").await;
}

#[tokio::test]
async fn fetches_a_token_anew_when_the_platform_has_taken_it_back() {
    let site = site().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut first) = site.open(lan.port).await;
    site.cloud.revoke_tokens();
    let (_, mut second) = site.open(lan.port).await;
    first.echo("first").await;
    second.echo("second").await;
    assert_eq!(answers(&site), [101, 401, 101]);
    assert_eq!(requests(&site), 2);
    assert_no_token(&adit);
    site.assert_no_complaint();
}

#[tokio::test]
async fn gives_up_when_a_fresh_token_is_refused_too() {
    let site = site().await;
    let refused = TokenAnswer::Refused(Duration::from_secs(60));
    site.cloud.answer_token_requests(refused);
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let tunnel = site.request("127.0.0.1", lan.port);
    assert_eq!(
        site.failed(tunnel.operation).await,
        format!(
            "{} refused the WebSocket with HTTP 401: the credentials are refused, or the \
             connection key was used or has expired ({{'error':'security/Unauthorized',\
             'message':'Invalid credentials! : Bad credentials'}})",
            site.cloud.address()
        )
    );
    assert_eq!(answers(&site), [401, 401]);
    assert_eq!(requests(&site), 2);
    assert_no_token(&adit);
}

#[tokio::test]
async fn says_that_no_token_came_and_asks_again_for_the_next_tunnel() {
    let site = site().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    for (answer, reason) in [
        (
            TokenAnswer::Silence,
            "the cloud sent no token for the WebSocket within 8s (asked on s/uat over MQTT)",
        ),
        (
            TokenAnswer::Text("rubbish, \"quoted\"\n".to_owned()),
            "what the cloud sent as a token for the WebSocket is none",
        ),
        (
            TokenAnswer::Text(String::new()),
            "what the cloud sent as a token for the WebSocket is none",
        ),
        (
            TokenAnswer::Text("x".repeat(12_000)),
            "what the cloud sent as a token for the WebSocket is none",
        ),
    ] {
        site.cloud.answer_token_requests(answer.clone());
        let tunnel = site.request("127.0.0.1", lan.port);
        assert_eq!(site.failed(tunnel.operation).await, reason, "{answer:?}");
    }
    assert!(answers(&site).is_empty());
    let good = TokenAnswer::Good(Duration::from_secs(60));
    site.cloud.answer_token_requests(good);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_no_token(&adit);
    site.assert_no_complaint();
}

#[tokio::test]
async fn asks_again_when_the_connection_is_lost_before_the_answer_comes() {
    let mut site = site().await;
    site.cloud.answer_token_requests(TokenAnswer::Silence);
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let mut tunnel = site.request("127.0.0.1", lan.port);
    site.cloud
        .wait_until(LIMIT, |platform| {
            platform
                .log()
                .iter()
                .any(|record| record.topic == "s/uat")
                .then_some(())
        })
        .await
        .unwrap();
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    let good = TokenAnswer::Good(Duration::from_secs(60));
    site.cloud.answer_token_requests(good);
    site.broker.restart().await;
    FarEnd(tunnel.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(tunnel.operation).await;
    assert_no_token(&adit);
}

#[tokio::test]
async fn gives_every_tunnel_its_own_time_for_a_token() {
    let site = site().await;
    site.cloud.answer_token_requests(TokenAnswer::Silence);
    let _adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let early = site.request("127.0.0.1", lan.port);
    // Nothing but time can bring the first one close to its end.
    sleep(Duration::from_secs(6)).await;
    let mut late = site.request("127.0.0.1", lan.port);
    site.executing(late.operation).await;
    // When the first has waited long enough, the second makes a request of its own.
    let good = TokenAnswer::Good(Duration::from_secs(60));
    site.cloud.answer_token_requests(good);
    let reason = site.failed(early.operation).await;
    assert!(reason.contains("sent no token"), "{reason}");
    FarEnd(late.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(late.operation).await;
}

/// A gateway with a certificate, at an address that no other test has: the port of the service is fixed.
async fn certified_site(last: u8) -> Site {
    Site::with(SiteOptions {
        tls: true,
        login: Login::Certificate,
        address: Some(Ipv4Addr::new(127, 84, 43, last)),
        token_service: true,
        ..SiteOptions::default()
    })
    .await
}

#[tokio::test]
async fn gets_a_token_over_mutual_tls_where_none_comes_over_mqtt() {
    let site = certified_site(1).await;
    let _adit = site.adit(&["remote_access.connect_timeout=10s"]).await;
    let lan = Lan::echo().await;
    // Silence leaves enough time; a refusal costs none.
    for (answer, soon) in [
        (TokenAnswer::Silence, Duration::from_secs(10)),
        (
            TokenAnswer::NoCertificate {
                among_errors: false,
            },
            Duration::from_secs(2),
        ),
        (
            TokenAnswer::NoCertificate { among_errors: true },
            Duration::from_secs(2),
        ),
        (
            TokenAnswer::Text("rubbish!".to_owned()),
            Duration::from_secs(2),
        ),
    ] {
        site.cloud.answer_token_requests(answer.clone());
        site.cloud.revoke_tokens();
        let began = Instant::now();
        let (_, mut far_end) = site.open(lan.port).await;
        far_end.echo("hello").await;
        assert!(began.elapsed() < soon, "{answer:?}: {:?}", began.elapsed());
    }
    assert!(answers(&site).contains(&101));
}

#[tokio::test]
async fn asks_the_service_in_the_way_of_a_reload() {
    let site = certified_site(5).await;
    site.cloud.answer_token_requests(TokenAnswer::Silence);
    let watcher = Watcher::new();
    let config = site.config();
    let adit = Adit::start(&config, &[&watcher.setting()]).ready().await;
    let lan = Lan::echo().await;

    // Nobody has issued anything here that is trusted now.
    let (old, new) = (site.ca_file(), &site.devices.file);
    adit.write_config(&config.replace(&format!("{old:?}"), &format!("{new:?}")));
    let said = watcher.reload(&[]).await;
    assert!(said.result.contains("cloud.ca_file"), "{said:?}");
    let tunnel = site.request("127.0.0.1", lan.port);
    let failed = site.failed(tunnel.operation).await;
    let untrusted = "no TLS with 127.84.43.5:8443: its certificate is refused";
    assert!(failed.contains(untrusted), "{failed}");

    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, "letmein").await;
    let through = format!("[cloud]\nproxy = {:?}\n", proxy.url("letmein"));
    // Longer than this a token may not take any more.
    let more = "[remote_access]\nconnect_timeout = \"4s\"\n";
    adit.write_config(&(config.replace("[cloud]\n", &through) + more));
    let said = watcher.reload(&[]).await;
    assert!(said.result.contains("cloud.proxy"), "{said:?}");
    let began = Instant::now();
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    proxy.wait_until_asked(1, "127.84.43.5:8443").await;
}

#[tokio::test]
async fn says_why_neither_way_brings_a_token() {
    let site = certified_site(2).await;
    let adit = site.adit(&["remote_access.connect_timeout=4s"]).await;
    let lan = Lan::echo().await;
    let refused = TokenAnswer::NoCertificate {
        among_errors: false,
    };
    site.cloud.answer_token_requests(refused);
    let over_mqtt = "the cloud gives no token over MQTT: the local broker's bridge logs in with a \
                     password, and the platform gives tokens only to certificates";
    for (answer, reason) in [
        (
            Err(401),
            "127.84.43.2:8443 gives no token for the certificate (HTTP 401)",
        ),
        (
            Err(302),
            "127.84.43.2:8443 gives no token for the certificate (HTTP 302)",
        ),
        (
            Ok(TokenAnswer::Text("x y".to_owned())),
            "what 127.84.43.2:8443 sent as a token is none",
        ),
        (
            Ok(TokenAnswer::Text("x".repeat(10 << 20))),
            "127.84.43.2:8443 answers with HTTP 200, but its body is longer than 16384 bytes",
        ),
    ] {
        site.cloud.answer_certified_requests(answer);
        let tunnel = site.request("127.0.0.1", lan.port);
        let failed = site.failed(tunnel.operation).await;
        assert_eq!(failed, format!("{over_mqtt}; {reason}"));
    }
    let silence = Ok(TokenAnswer::Silence);
    site.cloud.answer_certified_requests(silence);
    let tunnel = site.request("127.0.0.1", lan.port);
    let failed = site.failed(tunnel.operation).await;
    assert!(
        failed.contains("127.84.43.2:8443 did not answer the request within"),
        "{failed}"
    );
    assert_no_token(&adit);
}

#[tokio::test]
async fn says_that_a_bridge_with_a_password_gives_no_token() {
    let site = site().await;
    let _adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    for among_errors in [false, true] {
        let refused = TokenAnswer::NoCertificate { among_errors };
        site.cloud.answer_token_requests(refused);
        let tunnel = site.request("127.0.0.1", lan.port);
        assert_eq!(
            site.failed(tunnel.operation).await,
            "the cloud gives no token over MQTT: the local broker's bridge logs in with a password, \
             and the platform gives tokens only to certificates"
        );
    }
}

#[tokio::test]
async fn connects_without_mqtt_by_a_certificate() {
    let site = certified_site(3).await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    let lan = Lan::echo().await;
    let mut tunnel = site.request("127.0.0.1", lan.port);
    let row = site.cloud.operation(tunnel.operation).unwrap().row;
    let row = smartrest::encode([&row]);
    let _connect = Connect::start(&site.config(), &["-"], &row);
    FarEnd(tunnel.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    assert_eq!(answers(&site), [101]);
    assert_eq!(requests(&site), 0);
}

#[tokio::test]
async fn checks_both_ways_to_a_token() {
    let site = certified_site(4).await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    let refused = TokenAnswer::NoCertificate { among_errors: true };
    site.cloud.answer_token_requests(refused);
    let checked = check(&site.config(), &[]).await;
    let said = checked.result;
    assert_eq!(checked.code, Some(0), "{said}");
    let words = "✓ token: received from 127.84.43.4:8443 for the certificate, good for 1h; over MQTT: \
                 the cloud gives no token over MQTT";
    assert!(said.contains(words), "{said}");
    assert!(said.contains("✓ WebSocket endpoint: reached"), "{said}");
    let checked = check(&site.config(), &["--no-login"]).await;
    let said = checked.result;
    assert_eq!(checked.code, Some(0), "{said}");
    assert!(
        said.contains("✓ token: received from 127.84.43.4:8443"),
        "{said}"
    );
    site.cloud.answer_certified_requests(Err(401));
    let checked = check(&site.config(), &[]).await;
    let said = checked.result;
    assert_eq!(checked.code, Some(1), "{said}");
    assert!(
        said.contains("✗ token: the cloud gives no token over MQTT"),
        "{said}"
    );
    let words = "; 127.84.43.4:8443 gives no token for the certificate (HTTP 401) (";
    assert!(said.contains(words), "{said}");
    let advice = "let the bridge log in with the device's certificate";
    assert!(said.contains(advice), "{said}");
}
