//! `adit check` names the hop that is broken, and says what to do.
//!
//! A case gives the lines that differ from those of a site where everything works, and the whole text
//! is compared.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use simulated_cloud::{Misbehaviour, TokenAnswer};

use crate::enrolment::Enrol;
use crate::support::{
    Authority, BlackHole, Directory, Flaw, Lan, Login, Site, SiteOptions, Subscriptions, Watcher,
    canned, check, check_to_a_full_disk, interrupted_check, publish_retained, refusing_port,
    tls_server,
};

const WARNING: &str = "the MQTT login throws an agent that runs as 'GATEWAY' out for a moment; \
                       --no-login leaves it out";
const NOT_TRIED: &str = "not tried, because of what is broken before";

/// Where everything works: user and password, without TLS.
const GREEN: [&str; 11] = [
    "✓ configuration: FILE (T)",
    "✓ name of the broker: 127.0.0.1 is an address (T)",
    "✓ TCP to the broker: connected to 127.0.0.1:BROKER (T)",
    "– TLS with the broker: not needed: none is spoken, as mqtt.url says",
    "✓ MQTT login: the broker took the login as user t12345/device_GATEWAY, client id GATEWAY \
     (CONNACK 0) (T)",
    "✓ subscriptions: granted: s/ds (T)",
    "✓ name of the cloud: 127.0.0.1 is an address (T)",
    "✓ TCP to the cloud: connected to 127.0.0.1:CLOUD (T)",
    "– TLS with the cloud: not needed: none is spoken, as cloud.url says",
    "✓ WebSocket endpoint: reached, and the credentials are taken (HTTP 404 for a key that does \
     not exist) (T)",
    "✓ policy: allow private (T)",
];

/// What adit has to say: lines with others in place of those of the same hops. A hop that is named
/// alone is one that is not tried.
fn lines(usual: &[&str], changes: &[&str]) -> Vec<String> {
    let hop = |line: &str| {
        let name = line.split_once(' ').map_or(line, |(_, rest)| rest);
        name.split(':').next().unwrap_or_default().to_owned()
    };
    let mut changes: Vec<String> = changes
        .iter()
        .map(|line| match line.starts_with('–') && !line.contains(':') {
            true => format!("{line}: {NOT_TRIED}"),
            false => (*line).to_owned(),
        })
        .collect();
    let mut lines: Vec<String> = usual
        .iter()
        .map(|line| {
            let at = changes.iter().position(|change| hop(change) == hop(line));
            at.map_or_else(|| (*line).to_owned(), |at| changes.remove(at))
        })
        .collect();
    lines.append(&mut changes);
    lines
}

/// The whole text, with the last line.
fn text(first: &str, lines: &[String]) -> String {
    let lines = lines.join("\n");
    let count = |mark: char| lines.lines().filter(|line| line.starts_with(mark)).count();
    let broken = match count('✗') {
        0 => "nothing is broken".to_owned(),
        1 => "1 hop is broken".to_owned(),
        count => format!("{count} hops are broken"),
    };
    let not_needed = lines.matches(": not needed: ").count();
    let counted = |count: usize, words: &str| match count {
        0 => String::new(),
        count => format!(", {count} {words}"),
    };
    let skipped = counted(count('–') - not_needed, "skipped");
    let not_needed = counted(not_needed, "not needed");
    format!("{first}{lines}\n{broken}{skipped}{not_needed}\n")
}

/// Puts `T` for times and names for what differs from run to run, and leaves out what depends on the
/// kernel.
fn normal(text: &str, names: &[(String, &str)]) -> String {
    let of_kernel = ["✓ confinement", "– confinement", "    a later kernel could"];
    let is_of_kernel = |line: &&str| of_kernel.iter().any(|begin| line.starts_with(begin));
    let lines = text.lines().filter(|line| !is_of_kernel(line));
    let mut text: String = lines.flat_map(|line| [line, "\n"]).collect();
    for (value, name) in names {
        text = text.replace(value, name);
    }
    // Which of them depends on whether this machine has a name server.
    for cause in [
        "Name or service not known",
        "Temporary failure in name resolution",
        "No address associated with hostname",
    ] {
        text = text.replace(cause, "CAUSE");
    }
    // Its order depends on the processor.
    const CIPHER: &str = "TLS 1.3 with ";
    const INSTRUCTIONS: &str = " AES instructions";
    let mut from = 0;
    while let Some(begin) = text[from..].find(CIPHER) {
        from += begin + CIPHER.len();
        let end = text[from..]
            .find(INSTRUCTIONS)
            .expect("the order of the ciphers");
        text.replace_range(from..from + end + INSTRUCTIONS.len(), "CIPHER");
    }
    const CLOCK: &str = "now is ";
    if let Some(at) = text.find(CLOCK) {
        let at = at + CLOCK.len();
        text.replace_range(at..at + "2026-01-01T00:00:00Z".len(), "NOW");
    }
    let lines =
        text.lines().map(
            |line| match line.strip_suffix(" ms)").or(line.strip_suffix(" s)")) {
                Some(rest) => format!(
                    "{}(T)",
                    rest.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
                        .strip_suffix('(')
                        .expect("a time in brackets")
                ),
                None => line.to_owned(),
            },
        );
    lines.map(|line| line + "\n").collect()
}

/// A site, and what is to be put for its ports.
struct Scene {
    site: Site,
    names: Vec<(String, &'static str)>,
}

impl Scene {
    async fn with(options: SiteOptions) -> Self {
        let site = Site::with(options).await;
        let names = vec![
            (site.gateway.clone(), "GATEWAY"),
            (format!(":{}", site.broker.port()), ":BROKER"),
            (format!(":{}", site.cloud.address().port()), ":CLOUD"),
        ];
        Self { site, names }
    }

    fn name(&mut self, port: u16, name: &'static str) {
        self.names.push((format!(":{port}"), name));
    }

    /// Checks a configuration and compares all that is said with what has to be.
    async fn expect(&self, config: &str, settings: &[&str], arguments: &[&str], text: &str) {
        let mut all = arguments.to_vec();
        settings.iter().for_each(|set| all.extend(["--set", set]));
        let checked = check(config, &all).await;
        let result = normal(&checked.result, &self.names);
        assert!(
            result == text,
            "{settings:?}\n{result}\nin place of\n{text}\n{}",
            checked.log
        );
        let broken = text.contains("\n✗");
        assert_eq!(checked.code, Some(i32::from(broken)), "{result}");
        let password = &self.site.cloud.options().device_login.password;
        for said in [&checked.result, &checked.log] {
            assert!(!said.contains(password.as_str()), "{said}");
            assert!(!said.contains("adit-check-"), "{said}");
        }
    }

    /// The same for a configuration that suits the site but for some settings.
    async fn expect_changes(&self, settings: &[&str], arguments: &[&str], changes: &[&str]) {
        let text = text(&format!("{WARNING}\n"), &lines(&GREEN, changes));
        let config = self.site.config();
        self.expect(&config, settings, arguments, &text).await;
    }
}

/// Only where somebody is silent: a resolver and a busy machine may take longer.
const SOON: &str = "remote_access.connect_timeout=700ms";
/// Nothing of the broker but its name was reached.
const BROKER_AWAY: [&str; 2] = ["– MQTT login", "– subscriptions"];

#[tokio::test]
async fn shows_every_hop_where_all_is_well() {
    let mut scene = Scene::with(SiteOptions::default()).await;
    scene.expect_changes(&[], &[], &[]).await;

    let lan = Lan::echo().await;
    scene.name(lan.port, ":LAN");
    let target = format!("127.0.0.1:{}", lan.port);
    let hops = [
        "✓ policy: allows 127.0.0.1:LAN (T)",
        "✓ target: connected to 127.0.0.1:LAN (T)",
    ];
    scene
        .expect_changes(&[], &["--target", &target], &hops)
        .await;

    let left_out = [
        "– MQTT login: left out, since no login is made",
        "– subscriptions: left out, since no login is made",
    ];
    let text = text("", &lines(&GREEN, &left_out));
    let config = scene.site.config();
    scene.expect(&config, &[], &["--no-login"], &text).await;
}

#[tokio::test]
async fn tells_what_the_local_broker_says_of_its_bridge() {
    let scene = Scene::with(SiteOptions {
        topic_prefix: "c8y/",
        ..SiteOptions::default()
    })
    .await;
    let topic = "c8y/bridge/state";
    for (state, hop) in [
        (
            None,
            "– bridge: nothing is said on c8y/bridge/state: where a bridge tells, mqtt.topic_prefix is \
             not its\n",
        ),
        (
            Some("0"),
            "✗ bridge: it has no cloud, says the local broker on c8y/bridge/state (T)\n    look at the \
             local broker's log",
        ),
        (
            Some("1"),
            "✓ bridge: it has the cloud, says the local broker on c8y/bridge/state (T)\n",
        ),
    ] {
        if let Some(state) = state {
            publish_retained(&scene.site, topic, state).await;
        }
        let checked = check(&scene.site.config(), &[]).await;
        let result = normal(&checked.result, &scene.names);
        assert!(result.contains(hop), "{state:?}\n{result}");
        let code = i32::from(state == Some("0"));
        assert_eq!(checked.code, Some(code), "{result}");
    }
}

#[tokio::test]
async fn tells_scripts_the_same_as_people() {
    let scene = Scene::with(SiteOptions::default()).await;
    scene.site.cloud.misbehave(Misbehaviour::status(401));
    let checked = check(&scene.site.config(), &["--json"]).await;
    assert_eq!(checked.code, Some(1), "{}", checked.log);
    assert!(checked.log.contains("--no-login"), "{}", checked.log);
    let document: serde_json::Value = serde_json::from_str(&checked.result).unwrap();
    assert_eq!(document["ok"], false);
    let hops = document["hops"].as_array().unwrap().iter();
    let hops: Vec<_> = hops.filter(|hop| hop["name"] != "confinement").collect();
    let names: Vec<_> = hops
        .iter()
        .map(|hop| hop["name"].as_str().unwrap())
        .collect();
    let expected = GREEN.map(|line| {
        let (name, _) = line.split_once(':').unwrap();
        name.split_once(' ').unwrap().1
    });
    assert_eq!(names, expected);
    assert_eq!(hops[0]["outcome"], "passed");
    assert_eq!(hops[0]["detail"], "FILE");
    assert_eq!(hops[0]["advice"], serde_json::Value::Null);
    assert_eq!(hops[3]["outcome"], "not needed");
    let last = &hops[9];
    assert_eq!(last["outcome"], "failed");
    let words = "reached, but the credentials are refused (HTTP 401)";
    assert_eq!(last["detail"], words);
    let words = "check auth.tenant, auth.username and the password";
    assert_eq!(last["advice"], words);
    assert!(last["milliseconds"].is_u64());
}

#[tokio::test]
async fn refuses_a_bad_configuration_as_the_agent_does() {
    let checked = check(
        "[cloud]\nurl = \"ftp://a\"\n[mqtt]\nurl = \"mqtt://b\"\n",
        &[],
    )
    .await;
    assert_eq!((checked.code, checked.result.as_str()), (Some(2), ""));
    let place = "FILE, line 2, cloud.url:";
    assert!(checked.log.starts_with(place), "{}", checked.log);
}

#[tokio::test]
async fn names_the_broken_hop_to_the_broker() {
    let mut scene = Scene::with(SiteOptions::default()).await;
    let refusing = refusing_port();
    scene.name(refusing.number, ":REFUSING");
    let web = canned("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    scene.name(web.port, ":WEB");
    let at = |scheme: &str, port: u16| format!("mqtt.url={scheme}://127.0.0.1:{port}");
    let connected = "✓ TCP to the broker: connected to 127.0.0.1:WEB (T)";
    for (setting, changes) in [
        (
            "mqtt.url=mqtt://nowhere.invalid".to_owned(),
            vec![
                "✓ configuration: FILE (T)\n    without TLS, everybody on the way to \
                 nowhere.invalid can read the password of auth.username (mqtt.url)",
                "✗ name of the broker: cannot resolve nowhere.invalid:1883: failed to lookup \
                 address information: CAUSE (T)\n    check the host in mqtt.url, and the name \
                 servers in /etc/resolv.conf",
                "– TCP to the broker",
            ],
        ),
        (
            at("mqtt", refusing.number),
            vec![
                "✗ TCP to the broker: cannot reach 127.0.0.1:REFUSING: connection refused (T)\n    \
                 nobody listens there, or a firewall refuses it: check the port in mqtt.url; where only port 443 gets out, write wss://HOST/mqtt there",
            ],
        ),
        (
            at("mqtts", web.port),
            vec![
                connected,
                "✗ TLS with the broker: no TLS with 127.0.0.1:WEB: what it answers is not TLS; \
                 check the port, and whether TLS is to be spoken at all (T)\n    check the port in \
                 mqtt.url: TLS is spoken by MQTT at 8883 and by the cloud at 443; without TLS it \
                 is mqtt:// or http://",
            ],
        ),
        (
            at("mqtt", web.port),
            vec![
                connected,
                "✗ MQTT login: the broker does not speak MQTT: it answers in HTTP (T)\n    check \
                 the port in mqtt.url: something else than MQTT may be spoken there",
            ],
        ),
        (
            at("ws", web.port),
            vec![
                connected,
                "– TLS with the broker: not needed: none is spoken, as mqtt.url says\n\
                 ✗ WebSocket of the broker: 127.0.0.1:WEB refused the WebSocket at /mqtt with HTTP \
                 400: this is a web server, but no broker, check mqtt.url (T)\n    check the port and the path in mqtt.url; the platform's \
                 path is /mqtt",
            ],
        ),
    ] {
        let mut changes: Vec<_> = changes;
        let login_tried = changes.iter().any(|line| line.starts_with("✗ MQTT login"));
        changes.extend(&BROKER_AWAY[usize::from(login_tried)..]);
        scene.expect_changes(&[&setting], &[], &changes).await;
    }

    let Site { cloud, .. } = &scene.site;
    let password = &cloud.options().device_login.password;
    let config = scene.site.config().replace(password, "another");
    let changes = [
        "✗ MQTT login: the broker refused the connection: not authorised (CONNACK 5): the user \
         name or the password may be wrong, the user name is tenant/user; it also happens under \
         overload and just after a device was deleted (T)\n    check auth.tenant, auth.username \
         and the password, and whether the user is locked; after a device was deleted, wait some \
         minutes",
        "– subscriptions",
        "✗ WebSocket endpoint: reached, but the credentials are refused (HTTP 401) (T)\n    check \
         auth.tenant, auth.username and the password",
    ];
    let text = text(&format!("{WARNING}\n"), &lines(&GREEN, &changes));
    scene.expect(&config, &[], &[], &text).await;
}

#[tokio::test]
async fn says_that_the_broker_is_silent() {
    let scene = Scene::with(SiteOptions::default()).await;
    // Connected by the system, and never answered.
    let (port, _held) = Lan::held().await;
    let setting = format!("mqtt.url=mqtt://127.0.0.1:{port}");
    let began = Instant::now();
    let checked = check(&scene.site.config(), &["--set", &setting]).await;
    let words = "✗ MQTT login: the broker did not answer CONNECT within 10s";
    assert!(checked.result.contains(words), "{}", checked.result);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn names_a_refused_subscription() {
    let scene = Scene::with(SiteOptions {
        subscriptions: Subscriptions::Refused,
        ..SiteOptions::default()
    })
    .await;
    let changes = [
        "✗ subscriptions: the broker refuses s/ds (T)\n    if the device is new, start `adit run`, \
         which creates it; else give the device's user the rights of a device",
    ];
    scene.expect_changes(&[], &[], &changes).await;
}

#[tokio::test]
async fn ends_at_once_when_it_is_interrupted() {
    let scene = Scene::with(SiteOptions::default()).await;
    let black_hole = BlackHole::new().await;
    let setting = format!("mqtt.url=mqtt://127.0.0.1:{}", black_hole.port);
    let checked = interrupted_check(&scene.site.config(), &["--set", &setting]).await;
    let result = normal(&checked.result, &scene.names);
    let said = format!("{WARNING}\n{}\nstopped before the end\n", GREEN[0]);
    assert_eq!((checked.code, result), (Some(1), said), "{}", checked.log);
}

#[tokio::test]
async fn leaves_out_what_a_gateway_has_not_before_it_is_registered() {
    let scene = Scene::with(SiteOptions::default()).await;
    let directory = Directory::new();
    let config = scene.site.config();
    let (usual, _) = config.split_once("[auth]").unwrap();
    let login = &scene.site.cloud.options().device_login;
    let config = format!(
        "{usual}[auth]\nbootstrap_tenant = {:?}\nbootstrap_username = {:?}\n\
         bootstrap_password = {:?}\ncredentials_file = {:?}\n",
        login.tenant,
        login.user,
        login.password,
        directory.path("credentials.toml"),
    );
    let changes = [
        "✓ subscriptions: granted: s/dcr (T)",
        "– WebSocket endpoint: not tried: the gateway is not registered yet",
    ];
    let text = text(&format!("{WARNING}\n"), &lines(&GREEN, &changes));
    scene.expect(&config, &[], &[], &text).await;
}

#[tokio::test]
async fn names_the_broken_hop_to_the_cloud() {
    let mut scene = Scene::with(SiteOptions::default()).await;
    let (refusing, black_hole) = (refusing_port(), BlackHole::new().await);
    scene.name(refusing.number, ":REFUSING");
    scene.name(black_hole.port, ":HOLE");
    let garbage = canned("220 mail.example.com ESMTP\r\n").await;
    scene.name(garbage.port, ":MAIL");
    let at = |port: u16| format!("cloud.url=http://127.0.0.1:{port}");
    for (setting, changes) in [
        (
            "cloud.url=http://nowhere.invalid".to_owned(),
            vec![
                "✓ configuration: FILE (T)\n    without TLS, everybody on the way to \
                 nowhere.invalid can read the password of auth.username (cloud.url)\n    cloud.url \
                 names port 80, where the platform does no more than lead to HTTPS: write https://",
                "✗ name of the cloud: cannot resolve nowhere.invalid:80: failed to lookup address \
                 information: CAUSE (T)\n    check the host in cloud.url, and the name servers in \
                 /etc/resolv.conf",
                "– TCP to the cloud",
                "– WebSocket endpoint",
            ],
        ),
        (
            at(refusing.number),
            vec![
                "✗ TCP to the cloud: cannot reach 127.0.0.1:REFUSING: connection refused (T)\n    \
                 nobody listens there, or a firewall refuses it: check the port in cloud.url",
                "– WebSocket endpoint",
            ],
        ),
        (
            at(black_hole.port),
            vec![
                "✗ TCP to the cloud: 127.0.0.1:HOLE did not answer within 700ms (T)\n    check the \
                 host and the port in cloud.url; a firewall may drop it, and where only a proxy \
                 leads out, set cloud.proxy",
                "– WebSocket endpoint",
            ],
        ),
        (
            at(garbage.port),
            vec![
                "✓ TCP to the cloud: connected to 127.0.0.1:MAIL (T)",
                "✗ WebSocket endpoint: 127.0.0.1:MAIL does not speak WebSocket: the answer is not \
                 HTTP (T)\n    check cloud.url: what answers there is not the platform, or a proxy \
                 is in between",
            ],
        ),
    ] {
        let settings = [&*setting, SOON];
        let count = if setting == at(black_hole.port) { 2 } else { 1 };
        scene
            .expect_changes(&settings[..count], &[], &changes)
            .await;
    }
}

#[tokio::test]
async fn words_what_the_websocket_endpoint_answers() {
    let scene = Scene::with(SiteOptions::default()).await;
    for (misbehaviour, line) in [
        (
            Misbehaviour::status(401),
            "✗ WebSocket endpoint: reached, but the credentials are refused (HTTP 401) (T)\n    \
             check auth.tenant, auth.username and the password",
        ),
        (
            Misbehaviour::status(403),
            "✓ WebSocket endpoint: reached, and the credentials are taken (HTTP 403 for a key that \
             does not exist) (T)\n    if no tunnel opens, give the device's user the role for \
             remote access",
        ),
        (
            Misbehaviour::status(500),
            "✗ WebSocket endpoint: 127.0.0.1:CLOUD refused the WebSocket with HTTP 500: the \
             platform, or something in front of it, has a fault \
             ({'error':'general/internalError','message':'Something went wrong'}) (T)\n    try \
             again in some minutes, then ask who runs the platform",
        ),
        (
            Misbehaviour::Answer {
                status: 302,
                body: String::new(),
            },
            "✗ WebSocket endpoint: 127.0.0.1:CLOUD refused the WebSocket with HTTP 302: the \
             platform is somewhere else, check cloud.url (T)\n    set cloud.url to where the \
             platform is",
        ),
        (
            Misbehaviour::Answer {
                status: 404,
                body: "<html><title>404 Not Found</title></html>".to_owned(),
            },
            "✗ WebSocket endpoint: 127.0.0.1:CLOUD refused the WebSocket with HTTP 404: this is a \
             web page and no answer of the platform, check cloud.url and what is in between; if \
             both are right, the connection key is unknown, was used or has expired (T)\n    check \
             cloud.url: what answers there is not the platform, or a proxy is in between",
        ),
        (
            Misbehaviour::Answer {
                status: 401,
                body: "<html><title>Sign in</title></html>".to_owned(),
            },
            "✗ WebSocket endpoint: 127.0.0.1:CLOUD refused the WebSocket with HTTP 401: this is a \
             web page and no answer of the platform, check cloud.url and what is in between; if \
             both are right, the credentials are refused, or the connection key was used or has \
             expired (T)\n    check cloud.url: what answers there is not the platform, or a proxy \
             is in between",
        ),
        (
            Misbehaviour::Answer {
                status: 404,
                body: String::new(),
            },
            "✓ WebSocket endpoint: reached, and the credentials are taken (HTTP 404 for a key that \
             does not exist) (T)\n    the answer does not show that it is the platform's: if no \
             tunnel opens, check cloud.url",
        ),
        (
            Misbehaviour::NeverAnswer,
            "✗ WebSocket endpoint: 127.0.0.1:CLOUD did not open the WebSocket within 700ms (T)\n    \
             check cloud.url, and whether something on the way lets no WebSocket through",
        ),
    ] {
        let settings = match misbehaviour {
            Misbehaviour::NeverAnswer => &[SOON][..],
            _ => &[],
        };
        scene.site.cloud.misbehave(misbehaviour);
        scene.expect_changes(settings, &[], &[line]).await;
    }
}

#[tokio::test]
async fn names_what_is_wrong_with_a_proxy() {
    let mut scene = Scene::with(SiteOptions::default()).await;
    let name = "name of the proxy to the cloud: 127.0.0.1 is an address (T)";
    for (answer, line) in [
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            "the proxy 127.0.0.1:PROXY refused a connection to 127.0.0.1:CLOUD with HTTP 403 \
             (Forbidden): it does not allow this host or port (T)\n    have the proxy allow \
             CONNECT to 127.0.0.1:CLOUD, or check cloud.proxy (or HTTPS_PROXY)",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "the proxy 127.0.0.1:PROXY wants a user name and a password (HTTP 407): set \
             cloud.proxy = 'http://user:password@host:port' (T)\n    set cloud.proxy with a user \
             name and a password",
        ),
        (
            "220 mail.example.com ESMTP\r\n",
            "the proxy 127.0.0.1:PROXY does not answer as an HTTP proxy does: the answer is not \
             HTTP (T)\n    check the host, the port and http:// or https:// in cloud.proxy (or \
             HTTPS_PROXY)",
        ),
    ] {
        let proxy = canned(answer).await;
        scene.name(proxy.port, ":PROXY");
        let setting = format!("cloud.proxy=http://127.0.0.1:{}", proxy.port);
        let (name, line) = (format!("✓ {name}"), format!("✗ proxy to the cloud: {line}"));
        let mut usual = GREEN;
        (usual[6], usual[7]) = (&name, &line);
        let text = text(
            &format!("{WARNING}\n"),
            &lines(&usual, &["– WebSocket endpoint"]),
        );
        let config = scene.site.config();
        scene.expect(&config, &[&setting], &[], &text).await;
    }
}

#[tokio::test]
async fn judges_a_target_as_a_tunnel_would() {
    let mut scene = Scene::with(SiteOptions::default()).await;
    let (refusing, black_hole) = (refusing_port(), BlackHole::new().await);
    scene.name(refusing.number, ":REFUSING");
    scene.name(black_hole.port, ":HOLE");
    for (target, lines) in [
        (
            "198.51.100.7:22".to_owned(),
            [
                "✗ policy: the policy does not allow 198.51.100.7:22 (remote_access.allow) (T)\n    \
                 add it to remote_access.allow, if it may be reached",
                "– target",
            ],
        ),
        (
            "10.9.9.9:22".to_owned(),
            [
                "✗ policy: the policy denies 10.9.9.9:22 (remote_access.deny: 10.9.0.0/16) (T)\n    \
                 take the pattern out of remote_access.deny, if it may be reached",
                "– target",
            ],
        ),
        (
            format!("127.0.0.1:{}", refusing.number),
            [
                "✓ policy: allows 127.0.0.1:REFUSING (T)",
                "✗ target: cannot reach 127.0.0.1:REFUSING: connection refused (T)\n    the \
                 machine is on, but nobody listens at this port: check the port and the service",
            ],
        ),
        (
            format!("127.0.0.1:{}", black_hole.port),
            [
                "✓ policy: allows 127.0.0.1:HOLE (T)",
                "✗ target: 127.0.0.1:HOLE did not answer within 700ms (T)\n    check that the \
                 machine is on, its address, and the firewalls on the way",
            ],
        ),
        (
            "nowhere.invalid:22".to_owned(),
            [
                "– policy: not tried: there is no address",
                "✗ target: cannot resolve nowhere.invalid: failed to lookup address information: \
                 CAUSE (T)\n    check the name, and the name servers in /etc/resolv.conf",
            ],
        ),
    ] {
        let settings = ["remote_access.deny=10.9.0.0/16", SOON];
        let silent = target.ends_with(&black_hole.port.to_string());
        let count = if silent { 2 } else { 1 };
        let arguments = ["--target", &target];
        scene
            .expect_changes(&settings[..count], &arguments, &lines)
            .await;
    }
}

/// A site with TLS, where the device has a certificate, and a user at the broker besides.
const CERTIFIED: [&str; 13] = [
    "✓ configuration: FILE (T)",
    "✓ certificate: 'GATEWAY', valid from 1975-01-01 until 4096-01-01 (T)",
    "✓ name of the broker: 127.0.0.1 is an address (T)",
    "✓ TCP to the broker: connected to 127.0.0.1:BROKER (T)",
    "✓ TLS with the broker: 'the broker' for 127.0.0.1, issued by 'the authority of a \
     test', valid from 1975-01-01T00:00:00Z until 4096-01-01T00:00:00Z; TLS 1.3 with CIPHER (T)",
    "✓ MQTT login: the broker took the login as user t12345/device_GATEWAY, client id GATEWAY \
     (CONNACK 0) (T)",
    "✓ subscriptions: granted: s/ds, s/dat (T)",
    "✓ token: received, good for 1h (T)",
    "✓ name of the cloud: 127.0.0.1 is an address (T)",
    "✓ TCP to the cloud: connected to 127.0.0.1:CLOUD (T)",
    "✓ TLS with the cloud: 'the platform' for 127.0.0.1, issued by 'the authority of a \
     test', valid from 1975-01-01T00:00:00Z until 4096-01-01T00:00:00Z; TLS 1.3 with CIPHER (T)",
    "✓ WebSocket endpoint: reached, and the credentials are taken (HTTP 404 for a key that does \
     not exist) (T)",
    "✓ policy: allow private (T)",
];

/// Trusts another authority too, which has issued the certificate of the device.
async fn certified() -> (Scene, String, Authority, Directory) {
    let scene = Scene::with(SiteOptions {
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    let site = &scene.site;
    let directory = Directory::new();
    let authority = Authority::called(&directory, "another authority");
    let device = authority.device(&directory, &site.gateway);
    let (cert, key) = (device.cert_file, device.key_file);
    let read = |file| std::fs::read_to_string(file).unwrap();
    let ca_file = directory.write("both.pem", &(read(site.ca_file()) + &read(&authority.file)));
    let (user, password) = site.user();
    let config = format!(
        "[cloud]\nurl = {:?}\nca_file = {:?}\n[mqtt]\nurl = \"mqtts://127.0.0.1:{}\"\n\
         username = {user:?}\npassword = {password:?}\n\
         [auth]\ncert_file = {cert:?}\nkey_file = {key:?}\n",
        site.cloud.url(),
        ca_file,
        site.broker.port(),
    );
    (scene, config, authority, directory)
}

#[tokio::test]
async fn shows_certificates_and_the_token() {
    let (scene, config, _authority, _directory) = certified().await;
    for (answer, changes) in [
        (TokenAnswer::Good(Duration::from_secs(3600)), vec![]),
        (
            TokenAnswer::Refused(Duration::from_secs(3600)),
            vec![
                "✗ WebSocket endpoint: reached, but the credentials are refused (HTTP 401) (T)\n    \
                 check that cloud.url is the tenant that gave the token",
            ],
        ),
        (
            TokenAnswer::Text("no token at all".to_owned()),
            vec![
                "✗ token: what the cloud sent as a token for the WebSocket is none; cannot reach \
                 127.0.0.1:8443: connection refused (T)\n    look at what answers on s/dat: mqtt.url \
                 may not lead to the platform\n    over TLS, check that port 8443 of the host of \
                 cloud.url can be reached, and that the platform trusts the issuer of auth.cert_file",
                "– WebSocket endpoint: not tried: there is no token to show",
            ],
        ),
        (
            TokenAnswer::Silence,
            vec![
                "✗ token: the cloud sent no token for the WebSocket within 8s (asked on s/uat over \
                 MQTT); cannot reach 127.0.0.1:8443: connection refused (T)\n    behind a local \
                 broker, check that its bridge carries s/uat up and s/dat down, and \
                 mqtt.topic_prefix; a new device has to exist first: start `adit run`\n    over TLS, \
                 check that port 8443 of the host of cloud.url can be reached, and that the platform \
                 trusts the issuer of auth.cert_file",
                "– WebSocket endpoint: not tried: there is no token to show",
            ],
        ),
    ] {
        scene.site.cloud.answer_token_requests(answer);
        let text = text(&format!("{WARNING}\n"), &lines(&CERTIFIED, &changes));
        scene.expect(&config, &[], &[], &text).await;
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_a_servers_certificate() {
    let (mut scene, config, authority, directory) = certified().await;
    let mut expired = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    expired.not_after = date_time_ymd(2001, 1, 1);
    let expired = tls_server(authority.server_of(&expired)).await;
    let other = CertificateParams::new(vec!["broker.example.com".to_owned()]).unwrap();
    let other = tls_server(authority.server_of(&other)).await;
    let foreign = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let foreign = tls_server(Authority::called(&directory, "somebody").server_of(&foreign)).await;
    scene.name(expired.port, ":EXPIRED");
    scene.name(other.port, ":OTHER");
    scene.name(foreign.port, ":FOREIGN");
    let broker = |port: u16| format!("mqtt.url=mqtts://127.0.0.1:{port}");
    let away = [
        "– MQTT login",
        "– subscriptions",
        "– token",
        "– WebSocket endpoint: not tried: there is no token to show",
    ];
    for (setting, changes) in [
        (
            broker(expired.port),
            [
                "✓ TCP to the broker: connected to 127.0.0.1:EXPIRED (T)",
                "✗ TLS with the broker: no TLS with 127.0.0.1:EXPIRED: its certificate has \
                 expired, unless this machine's clock is wrong: now is NOW, and the certificate is \
                 'rcgen self signed cert' for 127.0.0.1, issued by 'another authority', \
                 valid from 1975-01-01T00:00:00Z until 2001-01-01T00:00:00Z (T)\n    set this \
                 machine's clock if it is wrong, or else have the server's certificate renewed",
            ],
        ),
        (
            broker(other.port),
            [
                "✓ TCP to the broker: connected to 127.0.0.1:OTHER (T)",
                "✗ TLS with the broker: no TLS with 127.0.0.1:OTHER: its certificate is not for \
                 127.0.0.1: it is 'rcgen self signed cert' for broker.example.com, issued by 'another authority', valid from 1975-01-01T00:00:00Z until \
                 4096-01-01T00:00:00Z (T)\n    use a name of the certificate in mqtt.url, or have \
                 one made that names 127.0.0.1",
            ],
        ),
        (
            broker(foreign.port),
            [
                "✓ TCP to the broker: connected to 127.0.0.1:FOREIGN (T)",
                "✗ TLS with the broker: no TLS with 127.0.0.1:FOREIGN: its certificate comes from an issuer that is not trusted: it is 'rcgen self signed cert' for 127.0.0.1, issued by 'somebody', valid from 1975-01-01T00:00:00Z until 4096-01-01T00:00:00Z; if it is the right one, put the issuer's certificate into cloud.ca_file (T)\n    put the \
                 issuer's certificate into cloud.ca_file, if you know and trust it; if not, \
                 somebody on the way reads along",
            ],
        ),
    ] {
        let changes = [&changes[..], &away].concat();
        let text = text(&format!("{WARNING}\n"), &lines(&CERTIFIED, &changes));
        scene.expect(&config, &[&setting], &[], &text).await;
    }
    let changes = [
        "✓ TCP to the cloud: connected to 127.0.0.1:FOREIGN (T)",
        "✗ TLS with the cloud: no TLS with 127.0.0.1:FOREIGN: its certificate comes from an issuer that is not trusted: it is 'rcgen self signed cert' for 127.0.0.1, issued by 'somebody', valid from 1975-01-01T00:00:00Z until 4096-01-01T00:00:00Z; if it is the right one, put the issuer's certificate into cloud.ca_file (T)\n    put the issuer's \
         certificate into cloud.ca_file, if you know and trust it; if not, somebody on the way \
         reads along",
        "– WebSocket endpoint",
    ];
    let text = text(&format!("{WARNING}\n"), &lines(&CERTIFIED, &changes));
    let setting = format!("cloud.url=https://127.0.0.1:{}", foreign.port);
    scene.expect(&config, &[&setting], &[], &text).await;
}

#[tokio::test]
async fn says_what_a_tenants_own_domain_needs_for_mqtt() {
    let site = Site::with(SiteOptions {
        tls: true,
        broker_flaw: Flaw::OtherName,
        ..SiteOptions::default()
    })
    .await;
    let (_, port) = site.mqtt_url().rsplit_once(':').map_or_else(
        || unreachable!("it names a port"),
        |(host, port)| (host.to_owned(), port.to_owned()),
    );
    let own_domain = format!("mqtt.url=mqtts://localhost:{port}");
    let checked = check(&site.config(), &["--set", &own_domain]).await;
    let said = checked.result;
    assert_eq!(checked.code, Some(1), "{said}");
    for words in [
        format!(
            "✗ TLS with the broker: no TLS with localhost:{port}: its certificate is not for \
             localhost: it is 'the broker' for other.example.com"
        ),
        "    use a name of the certificate in mqtt.url, or have one made that names localhost; under \
         a tenant's own domain, name the platform's main domain there: its certificate for MQTT is \
         for that one alone"
            .to_owned(),
        // The tenant's own domain is right for all else.
        "✓ WebSocket endpoint: reached, and the credentials are taken".to_owned(),
    ] {
        assert!(said.contains(&words), "{words}\n{said}");
    }
}

#[tokio::test]
async fn says_when_adit_renews_the_certificate_itself() {
    let site = Site::with(SiteOptions {
        tls: true,
        login: Login::Issued,
        ..SiteOptions::default()
    })
    .await;
    let certificate = |said: &str| {
        let mut lines = said
            .lines()
            .skip_while(|line| !line.contains("certificate: "));
        let line = lines.next().unwrap().to_owned();
        let advice = lines.next().filter(|line| line.starts_with("    "));
        (line, advice.unwrap_or_default().to_owned())
    };
    let said = check(&site.config(), &["--no-login"]).await.result;
    let (line, _) = certificate(&said);
    assert_eq!(line, "✗ certificate: none was issued yet (0 ms)");

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    for (life, before) in [(365, 30), (20, 3)] {
        site.issuer.issue_for(DAY * life);
        site.issuer.register(&site.gateway, "one-time");
        let config = format!("{}one_time_password = \"one-time\"\n", site.config());
        let enrolled = Enrol::start(&config, &[]).exit().await;
        assert_eq!(enrolled.code, Some(0), "{}", enrolled.log);
        let setting = format!("auth.renew_before={before}d");
        let said = check(&site.config(), &["--no-login", "--set", &setting])
            .await
            .result;
        let (line, advice) = certificate(&said);
        let (_, dates) = line.split_once(" until ").unwrap();
        let (until, due) = dates
            .split_once("; adit renews it on ")
            .unwrap_or_else(|| panic!("{line}"));
        let (due, rest) = due.split_at("YYYY-MM-DD".len());
        assert!(rest.starts_with(" or the day after ("), "{line}");
        let time = |day: &str| humantime::parse_rfc3339(&format!("{day}T00:00:00Z")).unwrap();
        assert_eq!(time(until).duration_since(time(due)).unwrap(), DAY * before);
        let lives = time(until).duration_since(SystemTime::now()).unwrap();
        assert!(lives > DAY * (life - 2) && lives < DAY * life, "{line}");
        assert_eq!(advice, "");
        if life < 30 {
            // The one to whom it is somebody else's business is told to do something.
            let others = site.config().replace("certificate_authority = true\n", "");
            let said = check(&others, &["--no-login"]).await.result;
            assert_eq!(
                certificate(&said).1,
                "    renew it soon: it ends in 19 days"
            );
            let said = check(&site.config(), &["--no-login"]).await.result;
            let advice = certificate(&said).1;
            assert!(
                advice.starts_with("    adit should have renewed it since "),
                "{advice}"
            );
        }
        std::fs::remove_file(site.issued_file()).unwrap();
    }
}

#[tokio::test]
async fn says_which_templates_the_platform_has_refused_to_the_adit_that_runs() {
    let site = Site::new().await;
    site.cloud.forget_templates(&["150", "507"]);
    let watcher = Watcher::new();
    let setting = watcher.setting();
    let arguments = ["--set", &*setting];
    let said = check(&site.config(), &arguments).await.result;
    assert!(!said.contains("templates"), "nobody runs: {said}");
    let adit = site.adit(&[&setting]).await;
    adit.wait_for_log("template=\"150\"").await;
    adit.wait_for_log("template=\"507\"").await;
    let logins = |json: &serde_json::Value| json["totals"]["logins"].as_u64();
    let before = logins(&watcher.json().await);
    // The state of the device comes a moment after all that.
    let asked = || {
        let mut log = site.cloud.log();
        log.retain(|record| record.topic.starts_with("s/us"));
        log.len()
    };
    let rows = asked();
    let checked = check(&site.config(), &[&arguments[..], &["--no-login"]].concat()).await;
    let said = checked.result;
    assert_eq!(checked.code, Some(0), "{said}");
    for words in [
        "✓ templates: the platform has refused 150, 507 to the adit that runs (",
        "    150 came with 10.20.325: until the platform is newer, it does not show which protocols \
         remote access takes\n",
        "    507 came with 10.18.114: until the platform is newer, what was executing when adit was \
         killed stays so\n",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    // Nothing was asked at the platform for that, and nobody was thrown out.
    assert_eq!(asked(), rows);
    assert_eq!(logins(&watcher.json().await), before);

    // The adit of another gateway says nothing of this one.
    let another = [&arguments[..], &["--no-login", "--set", "device.id=x"]].concat();
    let said = check(&site.config(), &another).await.result;
    assert!(!said.contains("templates"), "{said}");
}

#[tokio::test]
async fn says_that_a_server_wants_a_certificate() {
    let (mut scene, _, authority, _directory) = certified().await;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let strict = tls_server(authority.server_for_devices(&params)).await;
    scene.name(strict.port, ":STRICT");
    let config = format!(
        "[cloud]\nurl = \"https://127.0.0.1:{0}\"\nca_file = {1:?}\n[mqtt]\n\
         url = \"mqtts://127.0.0.1:{0}\"\n[auth]\ntenant = \"t1\"\nusername = \"u\"\n\
         password = \"p\"\n",
        strict.port,
        authority.file.display(),
    );
    let result = check(&config, &[]).await.result;
    let wanted = "the server wants a client certificate: set auth.cert_file and auth.key_file (T)\n    \
                  set auth.cert_file and auth.key_file\n";
    let result = normal(&result, &scene.names);
    for line in [
        format!("✗ MQTT login: {wanted}"),
        format!(
            "✗ WebSocket endpoint: the connection to 127.0.0.1:STRICT broke before the WebSocket \
             was open: {wanted}"
        ),
    ] {
        assert!(result.contains(&line), "{result}\ndoes not hold\n{line}");
    }
}

#[tokio::test]
async fn trusts_a_self_signed_certificate_that_is_named_itself() {
    let directory = Directory::new();
    let file = |name: &str| directory.path(name);
    // As OpenSSL makes it by default, with CA:TRUE.
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "9", "-subj", "/CN=box", "-addext"])
        .arg("subjectAltName=IP:127.0.0.1")
        .args([OsStr::new("-keyout"), file("box.key").as_os_str()])
        .args([OsStr::new("-out"), file("box.pem").as_os_str()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let cert = CertificateDer::from_pem_file(file("box.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("box.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let server = tls_server(Arc::new(config)).await;
    let trusting = |lines: &str| {
        format!(
            "[cloud]\nurl = \"https://127.0.0.1:{}\"\n{lines}[auth]\ntenant = \"t1\"\n\
             username = \"u\"\npassword = \"p\"\n",
            server.port
        )
    };
    let hop = "TLS with the cloud: 'box' for 127.0.0.1, issued by itself";
    let trusted = trusting(&format!("ca_file = {:?}\n", file("box.pem")));
    let result = check(&trusted, &["--no-login"]).await.result;
    assert!(result.contains(&format!("✓ {hop}")), "{result}");
    let result = check(&trusting(""), &["--no-login"]).await.result;
    let advice = "put this very certificate into cloud.ca_file, if you know and trust it";
    assert!(result.contains("✗ TLS with the cloud"), "{result}");
    assert!(result.contains(advice), "{result}");
}

#[tokio::test]
async fn tells_scripts_of_a_configuration_that_cannot_be_used() {
    let config = "[cloud]\nurl = \"ftp://x\"\n[auth]\nuser = \"x\"\n";
    let checked = check(config, &["--json"]).await;
    assert_eq!(checked.code, Some(2), "{}", checked.log);
    let document: serde_json::Value = serde_json::from_str(&checked.result).unwrap();
    assert_eq!(document["ok"], false);
    let [hop] = &document["hops"].as_array().unwrap()[..] else {
        panic!("{document}")
    };
    assert_eq!(hop["name"], "configuration");
    assert_eq!(hop["outcome"], "failed");
    let detail = hop["detail"].as_str().unwrap();
    for fault in [
        "FILE, line 2, cloud.url: 'ftp://x'",
        "; FILE, line 4, auth.user: no such key",
    ] {
        assert!(detail.contains(fault), "{detail}");
    }
    assert!(
        checked.log.contains("FILE, line 4, auth.user"),
        "{}",
        checked.log
    );
}

#[tokio::test]
async fn is_not_good_where_its_result_cannot_be_written() {
    let scene = Scene::with(SiteOptions::default()).await;
    for arguments in [&[][..], &["--json"]] {
        let (code, log) = check_to_a_full_disk(&scene.site.config(), arguments).await;
        assert_eq!(code, Some(1), "{log}");
        let words = "the result cannot be written error=\"no space left on device\"";
        assert!(log.contains(words), "{log}");
    }
}
