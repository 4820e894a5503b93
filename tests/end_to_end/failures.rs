//! What the operator reads on an operation that failed.

use std::time::Duration;

use simulated_cloud::Misbehaviour;

use crate::support::{BlackHole, Lan, Site, SiteOptions, refusing_port};

#[tokio::test]
async fn names_the_target_and_the_cause_when_a_machine_is_not_reached() {
    let site = Site::new().await;
    let _adit = site.adit(&["remote_access.connect_timeout=700ms"]).await;
    let (refusing, black_hole) = (refusing_port(), BlackHole::new().await);
    for (host, port, reason) in [
        (
            "127.0.0.1",
            refusing.number,
            "cannot reach {}: connection refused",
        ),
        (
            "127.0.0.1",
            black_hole.port,
            "{} did not answer within 700ms",
        ),
        (
            "198.51.100.7",
            22,
            "the policy does not allow {} (remote_access.allow)",
        ),
        (
            "169.254.169.254",
            80,
            "169.254.169.254 is never reached: it is a link-local address",
        ),
        (
            "ff02::1",
            22,
            "ff02::1 is never reached: it is a multicast address",
        ),
    ] {
        let tunnel = site.request(host, port);
        let target = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        assert_eq!(
            site.failed(tunnel.operation).await,
            reason.replace("{}", &target)
        );
    }
    site.assert_no_complaint();
}

#[tokio::test]
async fn names_a_name_that_has_no_address() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let tunnel = site.request("nowhere.invalid", 22);
    let reason = site.failed(tunnel.operation).await;
    // Which of them depends on whether this machine has a name server.
    let known = [
        "Name or service not known",
        "Temporary failure in name resolution",
    ];
    let words = "cannot resolve nowhere.invalid: failed to lookup address information: ";
    let cause = reason.strip_prefix(words);
    assert!(
        cause.is_some_and(|cause| known.contains(&cause)),
        "{reason}"
    );
}

#[tokio::test]
async fn applies_the_policy_to_the_address_that_a_name_leads_to() {
    let site = Site::new().await;
    let lan = Lan::echo().await;
    let _adit = site.adit(&["remote_access.deny=127.0.0.0/8,::1"]).await;
    let tunnel = site.request("localhost", lan.port);
    let denied = [("127.0.0.1", "127.0.0.0/8"), ("::1", "::1")].map(|(address, pattern)| {
        let target = format!("localhost:{} at {address}", lan.port);
        format!("the policy denies {target} (remote_access.deny: {pattern})")
    });
    // The resolver decides which address comes first.
    let reason = site.failed(tunnel.operation).await;
    assert!(denied.contains(&reason), "{reason}");
}

#[tokio::test]
async fn says_how_the_cloud_refused_the_websocket() {
    let answer = |body: &str| Misbehaviour::Answer {
        status: 403,
        body: body.to_owned(),
    };
    let site = Site::new().await;
    let _adit = site.adit(&["remote_access.connect_timeout=700ms"]).await;
    let lan = Lan::echo().await;
    for (misbehaviour, reason) in [
        (
            Misbehaviour::status(401),
            "{} refused the WebSocket with HTTP 401: the credentials are refused, or the \
             connection key was used or has expired ({'error':'security/Unauthorized',\
             'message':'Invalid credentials! : Bad credentials'})",
        ),
        (
            answer(""),
            "{} refused the WebSocket with HTTP 403: the device's user may not open tunnels, or \
             the connection key has expired",
        ),
        (
            Misbehaviour::status(404),
            "{} refused the WebSocket with HTTP 404: the connection key is unknown, was used or \
             has expired ({'error':'remoteaccess/Not Found','message':'There is no such \
             connection'})",
        ),
        (
            Misbehaviour::status(500),
            "{} refused the WebSocket with HTTP 500: the platform, or something in front of it, \
             has a fault ({'error':'general/internalError','message':'Something went wrong'})",
        ),
        (
            Misbehaviour::Answer {
                status: 502,
                body: "<html>Bad Gateway</html>".to_owned(),
            },
            "{} refused the WebSocket with HTTP 502: the platform, or something in front of it, \
             has a fault",
        ),
        (
            Misbehaviour::NeverAnswer,
            "{} did not open the WebSocket within 700ms",
        ),
        (
            Misbehaviour::Delay(Duration::from_secs(60)),
            "{} did not open the WebSocket within 700ms",
        ),
        (
            Misbehaviour::Garbage,
            "{} does not speak WebSocket: the answer is not HTTP",
        ),
    ] {
        site.cloud.misbehave(misbehaviour.clone());
        let tunnel = site.request("127.0.0.1", lan.port);
        let reason = reason.replace("{}", &site.cloud.address().to_string());
        assert_eq!(
            site.failed(tunnel.operation).await,
            reason,
            "{misbehaviour:?}"
        );
    }
    site.cloud.misbehave(Misbehaviour::ResetAtAccept);
    let tunnel = site.request("127.0.0.1", lan.port);
    let reason = site.failed(tunnel.operation).await;
    // The reset is seen when the connection stands, or later.
    let cloud = site.cloud.address();
    let broken = format!("the connection to {cloud} broke before the WebSocket was open: ");
    let known = [
        format!("cannot reach {cloud}: connection reset by peer"),
        format!("{broken}connection reset by peer"),
        format!("{broken}broken pipe"),
    ];
    assert!(known.contains(&reason), "{reason}");
    site.assert_no_complaint();
}

#[tokio::test]
async fn does_not_trust_a_platform_whose_certificate_nobody_has_signed() {
    let site = Site::with(SiteOptions {
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    let adit = site.start_adit(&["cloud.ca_file="]);
    let line = adit.wait_for_log("no connection to the broker").await;
    let port = site.broker.port();
    assert!(
        line.contains(&format!("no TLS with 127.0.0.1:{port}: ")),
        "{line}"
    );
    assert!(line.contains("UnknownIssuer"), "{line}");
}

#[tokio::test]
async fn closes_the_cloud_side_when_the_machine_is_not_reached() {
    let site = Site::new().await;
    let _adit = site.adit(&["remote_access.connect_timeout=700ms"]).await;
    let black_hole = BlackHole::new().await;
    let mut tunnel = site.request("127.0.0.1", black_hole.port);
    // The WebSocket stands long before the machine is given up.
    let socket = tunnel.accept(crate::support::LIMIT).await.unwrap();
    let (bytes, frame) = crate::support::FarEnd(socket).rest().await;
    let frame = frame.unwrap();
    let reason = format!("127.0.0.1:{} did not answer within 700ms", black_hole.port);
    assert_eq!((bytes.len(), u16::from(frame.code)), (0, 1011));
    assert_eq!(frame.reason.as_str(), reason);
    assert_eq!(site.failed(tunnel.operation).await, reason);
}
