//! The certificate of the platform's own authority gets a successor before it ends.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use rcgen::{CertificateParams, SanType};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use simulated_cloud::{EstAnswer, EstRequest, TokenAnswer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::enrolment::Enrol;
use crate::support::{Adit, LIMIT, Lan, Login, Proxy, Site, SiteOptions, Watcher, rows};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const RENEWED: &str = "the certificate is renewed; the new one is tried at the next login";
const TAKEN: &str = "a login has worked; the renewed certificate is used from now on";

/// A site, and a gateway there that is not running and whose first certificate lives for so long.
async fn enrolled(life: Duration) -> Site {
    let site = Site::with(SiteOptions {
        login: Login::Issued,
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    site.issuer.issue_for(life);
    site.enrol().await;
    site
}

fn renewals(requests: &[EstRequest]) -> impl Iterator<Item = &EstRequest> {
    requests.iter().filter(|request| request.renewal)
}

impl Site {
    /// Has a certificate issued in the place of the one that is there.
    async fn enrol(&self) {
        drop(fs::remove_file(self.issued_file()));
        self.issuer.register(&self.gateway, "one-time");
        let config = format!("{}one_time_password = \"one-time\"\n", self.config());
        let ended = Enrol::start(&config, &[]).exit().await;
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }

    /// Waits until the authority has answered `n` requests for a renewal with a status.
    async fn renewals_answered(&self, n: usize, status: u16) {
        let answered = self.issuer.wait_for_requests(LIMIT, |requests| {
            let with_status = |asked: &&EstRequest| asked.status == Some(status);
            (renewals(requests).filter(with_status).count() >= n).then_some(())
        });
        answered.await.unwrap();
    }

    fn issued(&self) -> String {
        fs::read_to_string(self.issued_file()).unwrap()
    }

    fn refused_exists(&self) -> bool {
        self.device_directory().path("issued.refused.pem").exists()
    }

    fn renewed_exists(&self) -> bool {
        self.device_directory().path("issued.renewed.pem").exists()
    }

    /// Waits until the platform has heard a row of the gateway.
    async fn heard(&self, row: &str) {
        let heard = self.cloud.wait_until(LIMIT, |platform| {
            let mut log = platform.log().iter();
            log.any(|record| smartrest::encode([&record.row]).starts_with(row))
                .then_some(())
        });
        heard
            .await
            .unwrap_or_else(|error| panic!("no {row}: {error}"));
    }

    fn alarms(&self) -> Vec<String> {
        let mut rows = rows(&self.cloud, "s/us");
        rows.retain(|row| row.contains("c8y_CertificateExpiring"));
        rows
    }
}

#[tokio::test]
async fn renews_by_token_and_uses_the_new_certificate_once_a_login_has_worked() {
    let mut site = enrolled(10 * DAY).await;
    site.issuer.issue_for(YEAR);
    let first = site.issued();
    let adit = site.adit(&[]).await;
    adit.wait_for_log(RENEWED).await;
    site.renewals_answered(1, 200).await;
    assert_eq!(site.issued(), first, "the old one stays until then");
    assert!(site.renewed_exists());
    let requests = site.issuer.requests();
    let key = &requests[0].key;
    assert!(renewals(&requests).all(|asked| asked.key == *key));

    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("before").await;
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_log(TAKEN).await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    assert_ne!(site.issued(), first);
    assert!(!site.renewed_exists());
    far_end.echo("and after").await;
    let (_, mut other) = site.open(lan.port).await;
    other.echo("hello").await;
    // A certificate that lives for a year is left alone.
    assert_eq!(renewals(&site.issuer.requests()).count(), 1);
    drop(adit);
    site.adit(&[]).await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn uses_a_renewed_certificate_after_a_power_cut_before_the_login_with_it() {
    let site = enrolled(10 * DAY).await;
    site.issuer.issue_for(YEAR);
    let mut adit = site.adit(&[]).await;
    adit.wait_for_log(RENEWED).await;
    let first = site.issued();
    adit.kill();
    let adit = site.adit(&[]).await;
    adit.wait_for_log(TAKEN).await;
    assert_ne!(site.issued(), first);
    assert!(!site.renewed_exists());
}

#[tokio::test]
async fn logs_in_again_by_itself_while_there_is_a_way_back() {
    let site = enrolled(DAY / 2).await;
    site.issuer.issue_for(YEAR);
    let first = site.issued();
    // Longer than the tunnel takes to open.
    site.issuer.answer(EstAnswer::Http {
        status: 503,
        headers: vec!["Retry-After: 5".to_owned()],
        body: Vec::new(),
    });
    let mut adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("before").await;
    site.issuer.answer(None);
    adit.wait_for_log("logging in again").await;
    adit.wait_for_log(TAKEN).await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    assert_ne!(site.issued(), first);
    far_end.echo("and after").await;
    let log = adit.log();
    assert!(!log.contains("connection to the broker lost"), "{log}");
    assert_eq!(log.matches("logging in again").count(), 1);
    // The old one is not asked about any more.
    adit.terminate();
    assert!(adit.exit().await.success());
    site.assert_no_complaint();
}

#[tokio::test]
async fn renews_at_most_twice_in_a_row() {
    let mut site = enrolled(10 * DAY).await;
    let adit = site.adit(&[]).await;
    let words = "the authority's certificates live for less than auth.renew_before; the next \
                 renewal waits";
    let line = adit.wait_for_log(words).await;
    assert!(line.contains(" WARN ") && line.contains("next="), "{line}");
    assert_eq!(renewals(&site.issuer.requests()).count(), 2);
    // Another login is no reason to begin again.
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_log(TAKEN).await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(renewals(&site.issuer.requests()).count(), 2);
}

#[tokio::test]
async fn sets_a_certificate_aside_that_the_broker_refuses() {
    let mut site = enrolled(10 * DAY).await;
    site.issuer.answer(EstAnswer::OtherIssuer);
    site.issuer.issue_for(YEAR);
    let first = site.issued();
    let adit = site.adit(&[]).await;
    adit.wait_for_log(RENEWED).await;
    site.issuer.answer(EstAnswer::Silence);
    site.broker.kill();
    site.broker.restart().await;
    let line = adit
        .wait_for_log("the broker refuses the renewed certificate; it is set aside")
        .await;
    assert!(
        line.contains(" WARN ") && line.contains("issued.refused.pem"),
        "{line}"
    );
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    assert_eq!(site.issued(), first);
    assert!(!site.renewed_exists());
    // The old one still ends, so another is asked for.
    let asked = site.issuer.wait_for_requests(LIMIT, |requests| {
        (renewals(requests).count() >= 2).then_some(())
    });
    asked.await.unwrap();
}

/// Stands in the broker's place without one behind it, as a load balancer does, and ends the next
/// connections: before it has seen the gateway's certificate, or behind the handshake.
async fn outage(site: &mut Site, connections: usize, has_tls: bool) {
    site.broker.kill();
    let place = (Ipv4Addr::LOCALHOST, site.broker.gateway_port());
    let listener = TcpListener::bind(place).await.unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(place.0.into())];
    let mut clients = RootCertStore::empty();
    let pem = CertificateDer::from_pem_slice(site.issuer.pem().as_bytes());
    clients.add(pem.unwrap()).unwrap();
    let acceptor = TlsAcceptor::from(site.authority.server_for(&params, &clients));
    for _ in 0..connections {
        let accepted = timeout(LIMIT, listener.accept()).await;
        let (mut stream, _) = accepted.expect("a login").unwrap();
        match has_tls {
            true => drop(acceptor.accept(stream).await.unwrap()),
            false => drop(stream.read_u8().await),
        }
    }
    drop(listener);
    site.broker.restart().await;
}

#[tokio::test]
async fn takes_no_outage_before_the_broker_has_seen_the_certificate_for_a_refusal() {
    let mut site = enrolled(10 * DAY).await;
    site.issuer.issue_for(YEAR);
    let adit = site.adit(&[]).await;
    adit.wait_for_log(RENEWED).await;
    outage(&mut site, 3, false).await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    adit.wait_for_log(TAKEN).await;
    assert!(!site.refused_exists());
    let log = adit.log();
    assert!(
        !log.contains("the broker takes the old certificate"),
        "{log}"
    );
}

#[tokio::test]
async fn tries_the_renewed_certificate_again_after_an_outage_that_looked_like_a_refusal() {
    let mut site = enrolled(10 * DAY).await;
    site.issuer.issue_for(YEAR);
    let adit = site.adit(&[]).await;
    adit.wait_for_log(RENEWED).await;
    // It ends when it is the turn of the old one.
    outage(&mut site, 3, true).await;
    let doubt = "the broker takes the old certificate where logins with the renewed one ended";
    let line = adit.wait_for_log(doubt).await;
    assert!(line.contains(" WARN "), "{line}");
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    assert!(site.renewed_exists() && !site.refused_exists());
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_log(TAKEN).await;
    assert!(!site.renewed_exists() && !site.refused_exists());
}

#[tokio::test]
async fn raises_an_alarm_while_no_renewal_works_and_clears_it_afterwards() {
    let site = enrolled(6 * DAY).await;
    site.issuer.answer(EstAnswer::Http {
        status: 500,
        headers: Vec::new(),
        body: b"out of order".to_vec(),
    });
    let adit = site.adit(&[]).await;
    site.heard("301,c8y_CertificateExpiring,The certificate of this gateway expires on 20")
        .await;
    let line = adit
        .wait_for_log("the certificate is not renewed yet")
        .await;
    let error = "error=\"the platform issues no certificate (HTTP 500) (out of order)\"";
    assert!(line.contains(error) && line.contains(" WARN "), "{line}");
    site.renewals_answered(2, 500).await;
    site.issuer.answer(None);
    site.issuer.issue_for(YEAR);
    adit.wait_for_log(RENEWED).await;
    site.heard("306,c8y_CertificateExpiring").await;
    assert_eq!(site.alarms().len(), 2, "{:?}", site.alarms());
    assert_eq!(
        adit.log()
            .matches("the certificate is not renewed yet")
            .count(),
        1
    );
    site.assert_no_complaint();
}

#[tokio::test]
async fn clears_the_alarm_of_an_earlier_process() {
    let site = enrolled(6 * DAY).await;
    site.issuer.answer(EstAnswer::Silence);
    let mut adit = site.adit(&[]).await;
    site.heard("301,c8y_CertificateExpiring").await;
    adit.kill();
    site.issuer.answer(None);
    site.issuer.issue_for(YEAR);
    site.enrol().await;
    let _adit = site.adit(&[]).await;
    site.heard("306,c8y_CertificateExpiring").await;
}

#[tokio::test]
async fn clears_the_alarm_of_an_earlier_process_where_somebody_else_has_renewed() {
    let site = Site::with(SiteOptions {
        login: Login::Certificate,
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    let issue = |life| {
        let directory = site.device_directory();
        drop(site.devices.device_for(directory, &site.gateway, life));
    };
    issue(3 * DAY);
    let mut adit = site.adit(&[]).await;
    site.heard("301,c8y_CertificateExpiring").await;
    adit.terminate();
    assert!(adit.exit().await.success());
    issue(300 * DAY);
    let _adit = site.adit(&[]).await;
    site.heard("306,c8y_CertificateExpiring").await;
    assert_eq!(site.alarms().len(), 2, "{:?}", site.alarms());
    site.assert_no_complaint();
}

#[tokio::test]
async fn asks_again_with_another_token_when_the_platform_refuses_one() {
    let site = enrolled(10 * DAY).await;
    site.cloud.answer_token_requests(TokenAnswer::Refused(DAY));
    let adit = site.adit(&[]).await;
    let line = adit
        .wait_for_log("the certificate is not renewed yet")
        .await;
    assert!(
        line.contains("refuses the password or the token (HTTP 401)"),
        "{line}"
    );
    site.cloud.answer_token_requests(TokenAnswer::Good(DAY));
    site.issuer.issue_for(YEAR);
    adit.wait_for_log(RENEWED).await;
    let log = adit.log();
    assert!(
        !log.contains("eyJhbGci") && !log.contains("Bearer"),
        "a token stands in the log"
    );
}

/// The platform's port for whoever shows a certificate in the handshake; it gives out a token.
async fn token_port(site: &Site, address: Ipv4Addr) -> JoinHandle<()> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(address.into())];
    let mut clients = RootCertStore::empty();
    let pem = CertificateDer::from_pem_slice(site.issuer.pem().as_bytes());
    clients.add(pem.unwrap()).unwrap();
    let acceptor = TlsAcceptor::from(site.authority.server_for(&params, &clients));
    let listener = TcpListener::bind((address, 8443)).await.unwrap();
    let token = site.cloud.issue_token().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            assert!(request.starts_with(b"POST /devicecontrol/deviceAccessToken HTTP/1.1\r\n"));
            let body = format!(r#"{{"accessToken":"{token}"}}"#);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    })
}

#[tokio::test]
async fn renews_when_asked_to_beside_a_running_agent() {
    // The port is the platform's, so the address is this test's own.
    let address = Ipv4Addr::new(127, 8, 44, 3);
    let mut site = Site::with(SiteOptions {
        login: Login::Issued,
        tls: true,
        address: Some(address),
        ..SiteOptions::default()
    })
    .await;
    let none = Enrol::start(&site.config(), &["--renew"]).exit().await;
    assert_eq!(none.code, Some(1));
    assert!(
        none.log.contains("there is no certificate yet"),
        "{}",
        none.log
    );
    site.enrol().await;
    let adit = site.adit(&[]).await;
    let port = token_port(&site, address).await;
    let first = site.issued();
    let ended = Enrol::start(&site.config(), &["--renew"]).exit().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(
        ended.printed.contains("renewed: a certificate for"),
        "{}",
        ended.printed
    );
    assert!(!ended.log.contains("eyJhbGci"), "a token stands in the log");
    assert_eq!(site.issued(), first);
    assert!(site.renewed_exists());
    assert!(
        !adit.log().contains("connection to the broker lost"),
        "it was thrown out"
    );
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_log(TAKEN).await;
    assert_ne!(site.issued(), first);
    // Until it is gone the kernel still accepts, and then resets.
    port.abort();
    assert!(port.await.unwrap_err().is_cancelled());

    // Nobody listens at the port any more.
    let mut enrol = Enrol::start(&site.config(), &["--renew"]);
    enrol
        .wait_for_log("there is no token to ask with: cannot reach 127.8.44.3:8443")
        .await;
    enrol.interrupt();
    assert_eq!(enrol.exit().await.code, Some(1));
}

#[tokio::test]
async fn keeps_the_old_certificate_whatever_the_authority_sends() {
    let http = |status, headers: &[&str], body: &str| EstAnswer::Http {
        status,
        headers: headers.iter().map(|&header| header.to_owned()).collect(),
        body: body.as_bytes().to_vec(),
    };
    let answers = [
        (
            http(401, &[], "{}"),
            "refuses the password or the token (HTTP 401)",
        ),
        (http(200, &[], "rubbish"), "what it sends is not in base64"),
        (
            http(302, &["Location: https://evil.example.com/"], ""),
            "a redirect (HTTP 302), which adit does not follow",
        ),
        (EstAnswer::Huge, "its body is longer than 65536 bytes"),
        (EstAnswer::OtherName, "it is for 'somebody else'"),
        (EstAnswer::OtherKey, "it is not for this gateway's key"),
        (EstAnswer::Expired, "this machine's clock"),
        (EstAnswer::Silence, "did not answer the request within 20s"),
    ];
    join_all(answers.map(|(answer, words)| async move {
        let site = enrolled(10 * DAY).await;
        let first = site.issued();
        site.issuer.answer(answer);
        let mut adit = site.adit(&[]).await;
        let line = adit
            .wait_for_log("the certificate is not renewed yet")
            .await;
        assert!(line.contains(words) && line.contains(" WARN "), "{line}");
        assert!(adit.is_running());
        assert_eq!(site.issued(), first);
        assert!(!site.renewed_exists());
    }))
    .await;
}

#[tokio::test]
async fn goes_on_with_the_old_certificate_where_the_renewed_one_is_torn() {
    let site = enrolled(10 * DAY).await;
    let first = site.issued();
    let torn = &first[..first.len() / 2];
    site.device_directory().write("issued.renewed.pem", torn);
    site.issuer.issue_for(YEAR);
    let adit = site.adit(&[]).await;
    let line = adit
        .wait_for_log("the renewed certificate cannot be used; the last one goes on")
        .await;
    assert!(line.contains(" WARN "), "{line}");
    assert_eq!(site.issued(), first);
    // It is still due, and the next one takes the place of what is torn.
    adit.wait_for_log(RENEWED).await;
    let renewed = site.device_directory().path("issued.renewed.pem");
    assert_ne!(fs::read_to_string(renewed).unwrap(), torn);
}

#[tokio::test]
async fn goes_the_way_and_trusts_the_authority_of_a_reload() {
    let mut site = enrolled(10 * DAY).await;
    site.issuer.issue_for(YEAR);
    site.issuer.answer(EstAnswer::Http {
        status: 503,
        headers: vec!["Retry-After: 1".to_owned()],
        body: Vec::new(),
    });
    let watcher = Watcher::new();
    let directory = site.device_directory();
    let trusted = fs::read_to_string(site.ca_file()).unwrap();
    let ca = directory.write("trusted.pem", &trusted);
    let old = format!("{:?}", site.ca_file());
    let config = site.config().replace(&old, &format!("{ca:?}"));
    let adit = Adit::start(&config, &[&watcher.setting()]).ready().await;
    site.renewals_answered(1, 503).await;

    // Nobody has issued anything here that is trusted now.
    fs::copy(&site.devices.file, &ca).unwrap();
    let said = watcher.reload(&[]).await;
    assert!(said.result.contains("cloud.ca_file"), "{said:?}");
    let place = site.cloud.address().to_string();
    let untrusted = format!("no TLS with {place}: its certificate is refused");
    adit.wait_for_log(&untrusted).await;

    // What has failed is tried anew at once, whatever the time until the next attempt.
    site.issuer.answer(None);
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, "letmein").await;
    let through = format!("[cloud]\nproxy = {:?}\n", proxy.url("letmein"));
    fs::write(&ca, trusted).unwrap();
    adit.write_config(&config.replace("[cloud]\n", &through));
    let said = watcher.reload(&[]).await;
    assert!(said.result.contains("cloud.proxy"), "{said:?}");
    adit.wait_for_log(RENEWED).await;
    proxy.wait_until_asked(1, &place).await;

    // The login that proves it goes the new way, too.
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_log(TAKEN).await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    assert!(!site.renewed_exists());
}

#[tokio::test]
async fn renews_the_certificate_of_the_files_that_a_reload_names() {
    let mut site = enrolled(10 * DAY).await;
    let directory = site.device_directory();
    let [ends_soon, key] = ["other.pem", "other.key"].map(|name| directory.path(name));
    let first_key = directory.path("issued.key");
    fs::rename(site.issued_file(), &ends_soon).unwrap();
    fs::rename(&first_key, &key).unwrap();
    // It starts with another pair, which is not to be renewed for long.
    site.issuer.issue_for(60 * DAY);
    site.enrol().await;
    let watcher = Watcher::new();
    let adit = Adit::start(&site.config(), &[&watcher.setting()]);
    let adit = adit.ready().await;
    site.issuer.issue_for(YEAR);
    let config = site.config().replace("issued.", "other.");
    adit.write_config(&config);
    let said = watcher.reload(&[]).await;
    assert_eq!(
        said.result, "changed from the next login and tunnel on: auth.cert_file, auth.key_file\n",
        "{said:?}"
    );
    adit.wait_for_log(RENEWED).await;
    let renewed = site.device_directory().path("other.renewed.pem");
    assert!(renewed.exists() && !site.renewed_exists());
    let old = fs::read_to_string(&ends_soon).unwrap();
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_log(TAKEN).await;
    assert_ne!(fs::read_to_string(&ends_soon).unwrap(), old);
    assert!(!renewed.exists());
    assert_eq!(renewals(&site.issuer.requests()).count(), 1);
}

#[tokio::test]
async fn renews_after_a_reload_before_the_first_login() {
    let site = enrolled(10 * DAY).await;
    site.issuer.issue_for(YEAR);
    let watcher = Watcher::new();
    let strangers = fs::read_to_string(&site.devices.file).unwrap();
    let ca = site.device_directory().write("trusted.pem", &strangers);
    let old = format!("{:?}", site.ca_file());
    let config = site.config().replace(&old, &format!("{ca:?}"));
    let adit = Adit::start(&config, &[&watcher.setting()]);
    adit.wait_for_log("no connection to the broker").await;
    fs::copy(site.ca_file(), &ca).unwrap();
    let said = watcher.reload(&[]).await;
    assert!(said.result.contains("cloud.ca_file"), "{said:?}");
    adit.wait_for_log(RENEWED).await;
}

#[tokio::test]
async fn renews_no_certificate_that_it_did_not_have_issued() {
    let site = Site::with(SiteOptions {
        login: Login::Certificate,
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    let ended = Enrol::start(&site.config(), &["--renew"]).exit().await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.log.contains("auth.certificate_authority is not true"),
        "{}",
        ended.log
    );
    let ended = Enrol::start(&site.config(), &[]).exit().await;
    assert_eq!(ended.code, Some(0));
    assert!(
        ended
            .printed
            .contains("nothing to do: there is a certificate"),
        "{}",
        ended.printed
    );
}
