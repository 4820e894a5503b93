//! Certificates, MQTT over WebSocket and private authorities.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use rcgen::KeyPair;

use crate::support::{
    Adit, Authority, Directory, Flaw, Lan, Login, Proxy, Site, SiteOptions, refused_configuration,
    rows,
};

async fn certified() -> Site {
    Site::with(SiteOptions {
        tls: true,
        login: Login::Certificate,
        ..SiteOptions::default()
    })
    .await
}

/// A site where everything is where the gateway looks for it unless told, at an address of its own.
async fn at_the_default_port(last: u8, login: Login) -> Site {
    Site::with(SiteOptions {
        tls: true,
        login,
        address: Some(Ipv4Addr::new(127, 88, 83, last)),
        default_port: true,
        ..SiteOptions::default()
    })
    .await
}

/// How many statuses were sent by `501` to `503`, and by `504` to `506`.
fn statuses(site: &Site) -> (usize, usize) {
    let sum = |templates: [&str; 3]| templates.iter().map(|t| site.count(t)).sum();
    (sum(["501", "502", "503"]), sum(["504", "505", "506"]))
}

/// A tunnel opens and shows the platform who the device is in this way.
pub(crate) async fn opens_a_tunnel(site: &Site, scheme: &str) {
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let handshakes = site.cloud.handshakes();
    let last = handshakes.last().unwrap();
    assert_eq!(last.authorization.as_deref(), Some(scheme));
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn needs_no_more_than_the_cloud_and_a_password_or_a_certificate() {
    for (last, login, scheme) in [(1, Login::User, "Basic"), (2, Login::Certificate, "Bearer")] {
        let site = at_the_default_port(last, login).await;
        let mut adit = site.adit(&[]).await;
        opens_a_tunnel(&site, scheme).await;
        assert_eq!(statuses(&site), (0, 2), "{login:?}");
        site.assert_no_complaint();
        adit.terminate();
        assert!(adit.exit().await.success());

        // Through a proxy, both ways go through it.
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, "letmein").await;
        let through = format!("[cloud]\nproxy = {:?}\n", proxy.url("letmein"));
        let config = site.config().replace("[cloud]\n", &through);
        let _adit = Adit::start(&config, &[]).ready().await;
        opens_a_tunnel(&site, scheme).await;
        let cloud = site.cloud.address();
        for place in [format!("127.88.83.{last}:8883"), cloud.to_string()] {
            proxy.wait_until_asked(1, &place).await;
        }
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn needs_no_more_than_the_cloud_to_become_known_there() {
    let site = at_the_default_port(3, Login::Issued).await;
    site.issuer.register(&site.gateway, "one-time");
    let config = format!("{}one_time_password = \"one-time\"\n", site.config());
    let _adit = Adit::start(&config, &[]).ready().await;
    opens_a_tunnel(&site, "Bearer").await;
    assert_eq!(statuses(&site), (0, 2));
    site.assert_no_complaint();

    let mut site = at_the_default_port(4, Login::Bootstrap).await;
    let adit = site.start_adit(&[]);
    adit.wait_for_log("waiting to be registered").await;
    site.accept();
    let _adit = adit.ready().await;
    opens_a_tunnel(&site, "Basic").await;
    assert_eq!(statuses(&site), (0, 2));
    site.assert_no_complaint();
}

#[tokio::test]
async fn needs_no_credentials_behind_a_broker_that_bridges() {
    let site = Site::with(SiteOptions {
        topic_prefix: "c8y/",
        login: Login::LocalUser,
        ..SiteOptions::default()
    })
    .await;
    let _adit = site.adit(&[]).await;
    opens_a_tunnel(&site, "Bearer").await;
    assert_eq!(statuses(&site), (0, 2));
    assert_eq!(rows(&site.cloud, "s/uat").len(), 1);
    site.assert_no_complaint();
}

#[tokio::test]
async fn logs_in_with_a_certificate_and_opens_tunnels_with_a_token() {
    let site = certified().await;
    let adit = site.adit(&[]).await;
    opens_a_tunnel(&site, "Bearer").await;
    let device = site.cloud.device(&site.gateway).unwrap();
    assert_eq!(device.name, site.gateway);
    // The broker takes the user's name from the certificate.
    let login = format!("as {0} (p2, c1, k60, u'{0}')", site.gateway);
    site.broker.wait_for_logs(1, &login).await;
    let key = fs::read_to_string(&site.certificate.key_file).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!adit.log().contains(secret), "the key stands in the log");
    site.assert_no_complaint();
}

#[tokio::test]
async fn goes_on_with_its_certificate_where_nothing_can_be_read_in_its_place() {
    let mut site = certified().await;
    let adit = site.adit(&["remote_access.connect_timeout=5s"]).await;
    let key = &site.certificate.key_file;
    fs::remove_file(key).unwrap();
    let made = Command::new("mkfifo").arg(key).status().unwrap();
    assert!(made.success());
    opens_a_tunnel(&site, "Bearer").await;
    let line = adit
        .wait_for_log("the client certificate on the disk cannot be used")
        .await;
    assert!(line.contains("it is a pipe"), "{line}");
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    site.broker.restart().await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    opens_a_tunnel(&site, "Bearer").await;
}

#[tokio::test]
async fn takes_keys_in_every_form() {
    let site = certified().await;
    let device = site.device_directory();
    let curve = "ec_paramgen_curve:P-384";
    for (generate, convert, form) in [
        (
            ["EC", "-pkeyopt", curve].as_slice(),
            ["ec"].as_slice(),
            "-----BEGIN EC PRIVATE KEY-----",
        ),
        (
            &["RSA"],
            &["rsa", "-traditional"],
            "-----BEGIN RSA PRIVATE KEY-----",
        ),
        (&["ED25519"], &["pkey"], "-----BEGIN PRIVATE KEY-----"),
    ] {
        let generated = openssl(&[&["genpkey", "-algorithm"], generate].concat());
        let key = KeyPair::from_pem(&generated).unwrap();
        let issued = site.devices.device_with(device, &site.gateway, &key);
        let file = device.write("generated.key", &generated);
        let converted = openssl(&[convert, &["-in", file.to_str().unwrap()]].concat());
        assert!(converted.starts_with(form), "{generate:?}");
        fs::write(issued.key_file, converted).unwrap();
        let mut adit = site.adit(&[]).await;
        adit.terminate();
        assert!(adit.exit().await.success(), "{generate:?}");
    }
}

#[tokio::test]
async fn refuses_a_device_id_that_is_not_the_certificates_name() {
    let site = certified().await;
    let (code, said) = refused_configuration(&site.config(), &["device.id=gw-elsewhere"]).await;
    assert_eq!(code, Some(2), "{said}");
    let complaint = format!(
        "--set device.id: \"gw-elsewhere\" is not \"{}\", the common name of the certificate in \
         auth.cert_file; the platform takes the certificate only from the device that it names",
        site.gateway
    );
    assert!(said.contains(&complaint), "{said}");
}

#[tokio::test]
async fn uses_a_renewed_certificate_at_the_next_connect() {
    let mut site = certified().await;
    let adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;

    // From now on the broker knows another authority, which has issued the new certificate.
    let directory = Directory::new();
    let other = Authority::new(&directory);
    other.device(site.device_directory(), &site.gateway);
    fs::copy(&other.file, &site.devices.file).unwrap();
    site.broker.kill();
    site.broker.restart().await;
    let renewed = "the renewed client certificate is used from now on";
    let line = adit.wait_for_log(renewed).await;
    assert!(line.contains(" INFO "), "{line}");
    site.wait_for_rows(2, "500").await;
    far_end.echo("still there").await;
    opens_a_tunnel(&site, "Bearer").await;
}

#[tokio::test]
async fn goes_on_with_the_last_certificate_when_the_new_one_is_not_whole() {
    let mut site = certified().await;
    let adit = site.adit(&[]).await;
    let pem = fs::read_to_string(&site.certificate.cert_file).unwrap();
    let device = site.device_directory();
    let file = device.write("device.pem", &pem[..pem.len() / 2]);
    site.broker.kill();
    site.broker.restart().await;
    let words = "the client certificate on the disk cannot be used; the last one goes on";
    let line = adit.wait_for_log(words).await;
    assert!(line.contains(" WARN "), "{line}");
    assert!(line.contains(file.to_str().unwrap()), "{line}");
    site.wait_for_rows(2, "500").await;
    opens_a_tunnel(&site, "Bearer").await;
}

#[tokio::test]
async fn says_why_the_broker_does_not_take_the_certificate_and_goes_on_trying() {
    let site = certified().await;
    let (unknown, namesake) = (Directory::new(), Directory::new());
    for (directory, authority, cause) in [
        (
            &unknown,
            Authority::called(&unknown, "another authority"),
            "it does not know the issuer; is the whole chain in auth.cert_file?",
        ),
        // As after an authority got a new key.
        (
            &namesake,
            Authority::new(&namesake),
            "it knows an issuer of that name, but with another key; is the certificate, or what \
             the server trusts, from before a renewal?",
        ),
    ] {
        let stranger = authority.device(directory, &site.gateway);
        let settings = [
            format!("auth.cert_file={}", stranger.cert_file.display()),
            format!("auth.key_file={}", stranger.key_file.display()),
        ];
        let mut adit = site.start_adit(&settings.each_ref().map(String::as_str));
        let line = adit.wait_for_logs(2, "no connection to the broker").await;
        let error =
            format!("error=\"the server refused the client certificate of this device: {cause}\"");
        assert!(line.contains(&error), "{line}");
        assert!(adit.is_running());
    }
}

#[tokio::test]
async fn goes_over_a_websocket_where_only_that_gets_out() {
    for tls in [false, true] {
        let site = Site::with(SiteOptions {
            tls,
            websocket: true,
            ..SiteOptions::default()
        })
        .await;
        let _adit = site.adit(&[]).await;
        opens_a_tunnel(&site, "Basic").await;
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn comes_back_over_a_websocket_after_an_outage() {
    let mut site = Site::with(SiteOptions {
        tls: true,
        websocket: true,
        login: Login::LocalUser,
        ..SiteOptions::default()
    })
    .await;
    let adit = site.adit(&[]).await;
    opens_a_tunnel(&site, "Bearer").await;
    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    opens_a_tunnel(&site, "Bearer").await;
}

#[tokio::test]
async fn refuses_a_certificate_for_mqtt_over_a_websocket() {
    let site = certified().await;
    let setting = format!("mqtt.url=wss://{}/mqtt", site.broker_place());
    let (code, said) = refused_configuration(&site.config(), &[&setting]).await;
    assert_eq!(code, Some(2), "{said}");
    let complaint = "--set mqtt.url: names a WebSocket, and the platform takes no certificate over \
                     MQTT-WebSocket; use mqtts:// or a user and a password";
    assert!(said.contains(complaint), "{said}");
}

/// What is said of a certificate with a flaw, before and behind the time of this machine.
fn words(flaw: Flaw, server: &str) -> (String, String) {
    let issued = "issued by 'the authority of a test', valid from";
    match flaw {
        Flaw::Expired => (
            "its certificate has expired, unless this machine's clock is wrong: now is ".to_owned(),
            format!(
                ", and the certificate is '{server}' for 127.0.0.1, {issued} 2020-01-01T00:00:00Z \
                 until 2020-12-31T00:00:00Z"
            ),
        ),
        Flaw::OtherName => (
            "its certificate is not for 127.0.0.1: it is ".to_owned(),
            format!(
                "'{server}' for other.example.com, {issued} 1975-01-01T00:00:00Z until \
                 4096-01-01T00:00:00Z"
            ),
        ),
        Flaw::None => unreachable!("nothing is wrong with it"),
    }
}

#[tokio::test]
async fn tells_the_names_and_dates_of_a_brokers_certificate_that_it_does_not_take() {
    for flaw in [Flaw::Expired, Flaw::OtherName] {
        let site = Site::with(SiteOptions {
            tls: true,
            broker_flaw: flaw,
            ..SiteOptions::default()
        })
        .await;
        let mut adit = site.start_adit(&[]);
        let line = adit.wait_for_logs(2, "no connection to the broker").await;
        let (before, behind) = words(flaw, "the broker");
        let before = format!("no TLS with {}: {before}", site.broker_place());
        assert!(line.contains(&before), "{line}");
        assert!(line.contains(&behind), "{line}");
        assert!(adit.is_running());
    }
}

#[tokio::test]
async fn tells_the_names_and_dates_of_the_platforms_certificate_that_it_does_not_take() {
    for flaw in [Flaw::Expired, Flaw::OtherName] {
        let site = Site::with(SiteOptions {
            tls: true,
            cloud_flaw: flaw,
            ..SiteOptions::default()
        })
        .await;
        let _adit = site.adit(&[]).await;
        let lan = Lan::echo().await;
        let tunnel = site.request("127.0.0.1", lan.port);
        let reason = site.failed(tunnel.operation).await;
        let (before, behind) = words(flaw, "the platform");
        let before = format!("no TLS with {}: {before}", site.cloud.address());
        assert!(reason.starts_with(&before), "{reason}");
        assert!(reason.ends_with(&behind), "{reason}");
    }
}
