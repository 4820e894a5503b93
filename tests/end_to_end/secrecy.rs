//! Nothing that opens a door stands in a log, on an operation or in an event.

use std::io::{self, ErrorKind};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use simulated_cloud::{Misbehaviour, REMOTE_ACCESS, TokenAnswer};
use smartrest::{Row, encode};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{Adit, FarEnd, LIMIT, Lan, Login, Site, SiteOptions, memory, refusing_port};

/// A connection key where none belongs.
const MISPLACED: &str = "4f3a-misplaced-key";

/// What nobody may read of a whole run.
fn secrets(site: &Site) -> Vec<String> {
    let (user, password) = site.user();
    let basic = STANDARD.encode(format!("{user}:{password}"));
    let operations = site.cloud.operations();
    let keys = operations.iter().filter_map(|operation| operation.key());
    keys.map(|key| key.expose().to_owned())
        .chain([password, basic, MISPLACED.to_owned()])
        .collect()
}

fn assert_hidden(site: &Site, log: &str) {
    assert!(log.contains("TRACE"), "the log is not whole");
    let said: Vec<_> = site
        .cloud
        .log()
        .iter()
        .map(|record| encode([&record.row]))
        .collect();
    let said = said.join("\n");
    let (log, said) = (log.to_lowercase(), said.to_lowercase());
    for secret in secrets(site).iter().map(|secret| secret.to_lowercase()) {
        assert!(!log.contains(&secret), "{secret} stands in the log");
        assert!(!said.contains(&secret), "{secret} was published");
    }
}

#[tokio::test]
async fn does_not_repeat_a_key_that_the_cloud_closes_with() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (id, far_end) = site.open(lan.port).await;
    let key = site.cloud.operation(id).unwrap().key().unwrap();
    let mut socket = far_end.0;
    let frame = CloseFrame {
        code: CloseCode::Error,
        reason: format!("unknown key {}", key.expose()).into(),
    };
    socket.close(Some(frame)).await.unwrap();
    let (_, text) = site.event(&site.gateway, 2).await;
    assert!(
        text.contains("closed by the cloud with code 1011;"),
        "{text}"
    );
    adit.wait_for_log("closed by the cloud with code 1011")
        .await;
    assert_hidden(&site, &adit.log());
}

#[tokio::test]
async fn shows_no_secret_in_a_whole_life() {
    let mut site = Site::new().await;
    let mut adit = site.adit(&["remote_access.connect_timeout=500ms"]).await;
    let lan = Lan::echo().await;
    let refusing = refusing_port();
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;

    // Failures of every kind, and a server that repeats what it was sent.
    for misbehaviour in [
        Misbehaviour::status(401),
        Misbehaviour::NeverAnswer,
        Misbehaviour::Garbage,
        Misbehaviour::ResetAtAccept,
        Misbehaviour::CloseAfterUpgrade,
        Misbehaviour::ResetAfterUpgrade,
    ] {
        site.cloud.misbehave(misbehaviour);
        let tunnel = site.request("127.0.0.1", lan.port);
        site.executing(tunnel.operation).await;
        let ended = site.cloud.wait_until(LIMIT, |platform| {
            let operation = platform.operation(tunnel.operation)?;
            (operation.history.len() == 3).then_some(())
        });
        ended.await.unwrap();
    }
    let body = secrets(&site).join(" and ");
    for body in [body.to_uppercase(), body] {
        site.cloud
            .misbehave(Misbehaviour::Answer { status: 403, body });
        site.failed(site.request("127.0.0.1", lan.port).operation)
            .await;
    }
    site.cloud.misbehave(None);
    site.failed(site.request("127.0.0.1", refusing.number).operation)
        .await;
    site.failed(site.request("198.51.100.7", 22).operation)
        .await;
    let (_, password) = site.user();
    for fields in [
        vec!["plc", MISPLACED],
        vec![MISPLACED, "22"],
        vec!["plc", "22", MISPLACED, "too much"],
        vec!["plc", "22", &password, MISPLACED],
        vec!["plc", "22", "a key/that is none"],
    ] {
        let row = Row::new(["530", &site.gateway].into_iter().chain(fields));
        let id = site
            .cloud
            .create_operation(&site.gateway, REMOTE_ACCESS, row)
            .unwrap();
        let ended = site.cloud.wait_until(LIMIT, |platform| {
            (platform.operation(id)?.history.len() == 3).then_some(())
        });
        ended.await.unwrap();
    }

    // An outage, and the end.
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    adit.terminate();
    far_end.rest().await;
    assert!(adit.exit().await.success());
    assert_hidden(&site, &adit.log());
}

#[tokio::test]
async fn shows_no_secret_when_a_login_fails() {
    let site = Site::new().await;
    let password = "another-secret-7f";
    let section = format!("[mqtt]\nusername = \"local\"\npassword = \"{password}\"\n");
    let mut adit = Adit::start(&site.config().replace("[mqtt]\n", &section), &[]);
    adit.wait_for_log("no connection to the broker").await;
    adit.terminate();
    assert!(adit.exit().await.success());
    assert!(!adit.log().contains(password));
    assert!(!adit.log().contains(&site.user().1));
}

#[tokio::test]
async fn sends_the_password_to_the_websocket_and_nowhere_else() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let mut tunnel = site.request("127.0.0.1", lan.port);
    FarEnd(tunnel.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    let [handshake] = &site.cloud.handshakes()[..] else {
        panic!("one handshake")
    };
    assert_eq!(handshake.authorization.as_deref(), Some("Basic"));
    assert_eq!(handshake.protocols, ["binary"]);
    assert_eq!(handshake.host, Some(site.cloud.address().to_string()));
    assert_hidden(&site, &adit.log());
}

/// Counts how often a text lies in the memory of adit.
fn copies(adit: &Adit, text: &str) -> io::Result<usize> {
    memory::count(adit.process_id(), text)
}

/// Whether whoever runs the test may look into the memory of adit, as only root may.
fn can_look_into(adit: &Adit) -> bool {
    match copies(adit, "adit") {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            eprintln!("not tested: only root may read the memory of adit");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Waits until no more than `most` copies of a secret lie in the memory of adit.
async fn assert_copies(adit: &Adit, secret: &str, most: usize) {
    let give_up_at = Instant::now() + LIMIT;
    loop {
        let copies = copies(adit, secret).unwrap();
        if copies <= most {
            return;
        }
        assert!(
            Instant::now() < give_up_at,
            "{copies} copies of {secret} where {most} are needed"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// A site that is all TLS or not at all.
async fn site(login: Login, tls: bool) -> Site {
    Site::with(SiteOptions {
        login,
        tls,
        ..SiteOptions::default()
    })
    .await
}

#[tokio::test]
async fn keeps_no_connection_key_of_a_tunnel_that_has_ended() {
    for tls in [false, true] {
        let site = site(Login::User, tls).await;
        let adit = site.adit(&[]).await;
        if !can_look_into(&adit) {
            return;
        }
        let lan = Lan::echo().await;
        let mut keys = Vec::new();
        for n in 1..=2 {
            let (id, mut far_end) = site.open(lan.port).await;
            far_end.echo("hello").await;
            let key = site.cloud.operation(id).unwrap().key().unwrap();
            keys.push(key.expose().to_owned());
            // So one that is there is found.
            assert_ne!(copies(&adit, &keys[n - 1]).unwrap(), 0);
            far_end.close().await;
            site.event(&site.gateway, 2 * n).await;
        }
        let failed = site.request("127.0.0.1", refusing_port().number).operation;
        site.failed(failed).await;
        let key = site.cloud.operation(failed).unwrap().key().unwrap();
        keys.push(key.expose().to_owned());
        for key in keys {
            assert_copies(&adit, &key, 0).await;
        }
    }
}

#[tokio::test]
async fn keeps_its_password_in_one_place() {
    for tls in [false, true] {
        let mut site = site(Login::User, tls).await;
        let adit = site.adit(&[]).await;
        if !can_look_into(&adit) {
            return;
        }
        let lan = Lan::echo().await;
        let (_, far_end) = site.open(lan.port).await;
        site.broker.kill();
        site.broker.restart().await;
        site.wait_for_rows(2, "500").await;
        far_end.close().await;
        site.event(&site.gateway, 2).await;
        let (user, password) = site.user();
        assert_ne!(copies(&adit, &password).unwrap(), 0);
        assert_copies(&adit, &password, 1).await;
        let basic = STANDARD.encode(format!("{user}:{password}"));
        assert_copies(&adit, &basic, 0).await;
    }
}

#[tokio::test]
async fn keeps_no_token_whose_life_is_over() {
    for tls in [false, true] {
        let site = site(Login::LocalUser, tls).await;
        let life = Duration::from_secs(4);
        site.cloud.answer_token_requests(TokenAnswer::Good(life));
        let adit = site.adit(&[]).await;
        if !can_look_into(&adit) {
            return;
        }
        let lan = Lan::echo().await;
        let (_, far_end) = site.open(lan.port).await;
        // All tokens of the platform have the same signature.
        let signature = ".c2lnbmF0dXJl";
        assert_ne!(copies(&adit, signature).unwrap(), 0);
        far_end.close().await;
        assert_copies(&adit, signature, 0).await;
    }
}
