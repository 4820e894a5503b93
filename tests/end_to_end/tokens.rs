//! Tunnels show a token that comes over MQTT, where there is no password for them.

use std::time::Duration;

use simulated_cloud::TokenAnswer;
use tokio::time::sleep;

use crate::support::{Adit, FarEnd, LIMIT, Lan, Login, Site, SiteOptions, rows};

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
