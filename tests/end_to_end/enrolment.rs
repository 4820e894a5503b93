//! A gateway whose certificate comes from the platform's own authority.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use simulated_cloud::{EstAnswer, EstForm, EstRequest};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use crate::support::{Adit, Directory, LIMIT, Lan, Login, Proxy, Site, SiteOptions, piped};

/// What the log says while a person has something to do.
const WAITING: &str = "waiting to be enrolled: open the link as a user of the tenant, and register \
                       the device";
const ENROLLED: &str = "enrolled: the platform has issued a certificate";

async fn site() -> Site {
    Site::with(options()).await
}

fn options() -> SiteOptions {
    SiteOptions {
        login: Login::Issued,
        tls: true,
        ..SiteOptions::default()
    }
}

impl Site {
    /// Waits until the authority has answered `n` requests.
    async fn answered(&self, n: usize) -> Vec<EstRequest> {
        let answered = self.issuer.wait_for_requests(LIMIT, |requests| {
            let answered = requests.iter().filter(|request| request.status.is_some());
            (answered.count() >= n).then(|| requests.to_vec())
        });
        answered.await.unwrap()
    }
}

/// Returns the link that a person has to open, and the one-time password in it.
async fn invitation(site: &Site, adit: &Adit) -> (String, String) {
    let line = adit.wait_for_log(WAITING).await;
    let link = line
        .split("link=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let link = link.expect("a link").to_owned();
    let page = format!(
        "{}/apps/devicemanagement/index.html#/deviceregistration?externalId={}&one-time-password=",
        site.cloud.url(),
        site.gateway
    );
    let password = link.strip_prefix(&page).unwrap_or_else(|| panic!("{link}"));
    (link.clone(), password.to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
    names.retain(|name| name.starts_with("issued"));
    names.sort();
    names
}

#[tokio::test]
async fn is_registered_by_a_link_and_uses_its_certificate_from_then_on() {
    let site = site().await;
    let mut adit = site.start_adit(&[]);
    let (_, password) = invitation(&site, &adit).await;
    assert_eq!(password.len(), 32);
    site.answered(1).await;
    adit.wait_for_log("not registered yet").await;
    site.issuer.register(&site.gateway, &password);
    adit.wait_for_log(ENROLLED).await;
    adit = adit.ready().await;
    site.wait_for_rows(1, "500").await;
    let requests = site.answered(2).await;
    let statuses: Vec<_> = requests.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(401), Some(200)]);
    let pause = requests[1].at - requests[0].at;
    let poll = Duration::from_secs(5)..Duration::from_secs(13);
    assert!(poll.contains(&pause), "{pause:?}");
    assert!(
        requests
            .iter()
            .all(|asked| asked.name.as_ref() == Some(&site.gateway))
    );
    assert_eq!(requests[0].key, requests[1].key);

    let directory = site.device_directory().path("");
    assert_eq!(names(&directory), ["issued.key", "issued.pem"]);
    assert_eq!(mode(&site.issued_file()), 0o600);
    assert_eq!(mode(&directory.join("issued.key")), 0o600);
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    adit.terminate();
    assert!(adit.exit().await.success());
    assert!(!adit.log().contains("PRIVATE KEY"));

    let adit = site.adit(&[]).await;
    assert_eq!(site.issuer.requests().len(), 2);
    assert!(!adit.log().contains(WAITING));
    site.assert_no_complaint();
}

#[tokio::test]
async fn uses_a_password_that_is_configured_and_never_shows_it() {
    const PASSWORD: &str = "given-by-the-factory";
    let site = site().await;
    site.issuer.register(&site.gateway, "another one");
    let file = site
        .device_directory()
        .write("once", &format!("{PASSWORD}\n"));
    let setting = format!("auth.one_time_password_file={}", file.display());
    let adit = site.start_adit(&[&setting]);
    let line = adit
        .wait_for_log("with the password of auth.one_time_password")
        .await;
    assert!(
        line.contains(&format!("externalId={}\"", site.gateway)),
        "{line}"
    );
    let wrong = "no certificate: is the device registered with this one-time password?";
    let line = adit.wait_for_log(wrong).await;
    assert!(line.contains("Invalid credentials"), "{line}");
    // The file is read again, so that a mistake can be mended.
    fs::write(&file, "another one").unwrap();
    let adit = adit.ready().await;
    let log = adit.log();
    assert!(
        !log.contains(PASSWORD) && !log.contains("another one"),
        "{log}"
    );
    // It is needed once.
    fs::remove_file(file).unwrap();
    drop(adit);
    site.adit(&[&setting]).await;
}

#[tokio::test]
async fn takes_a_certificate_in_every_form() {
    let site = site().await;
    let form = |indefinite, lines, chunked, issuer_first| EstForm {
        indefinite,
        lines,
        chunked,
        issuer_first,
    };
    for form in [
        form(false, false, false, false),
        form(true, false, false, true),
        form(false, true, true, true),
        form(true, true, true, false),
    ] {
        site.issuer.send_as(form);
        let password = "one-time";
        site.issuer.register(&site.gateway, password);
        let adit = site.start_adit(&[]);
        drop(adit);
        let config = format!("{}one_time_password = {password:?}\n", site.config());
        let adit = Adit::start(&config, &[]).ready().await;
        let issued = fs::read_to_string(site.issued_file()).unwrap();
        let blocks = issued.matches("BEGIN CERTIFICATE").count();
        assert_eq!(blocks, 1 + usize::from(form.issuer_first), "{form:?}");
        drop(adit);
        fs::remove_file(site.issued_file()).unwrap();
    }
}

#[tokio::test]
async fn says_once_what_is_wrong_with_an_answer_and_asks_again() {
    let site = site().await;
    let http = |status, headers: &[&str], body: &str| EstAnswer::Http {
        status,
        headers: headers.iter().map(|&header| header.to_owned()).collect(),
        body: body.as_bytes().to_vec(),
    };
    let json = "Content-Type: application/json";
    let now = "this machine's clock";
    for (answer, words) in [
        (
            http(500, &[json], r#"{"message":"out of order"}"#),
            "the platform issues no certificate (HTTP 500) (out of order)",
        ),
        (
            http(200, &[], "rubbish"),
            "the authority agrees, but what it sends is not in base64",
        ),
        (
            http(200, &[], "cnViYmlzaA=="),
            "is not a PKCS#7 message of certificates",
        ),
        (
            http(200, &["Content-Type: text/html"], "<html>"),
            "this is a web page",
        ),
        (
            http(302, &["Location: https://evil.example.com/est"], ""),
            "a redirect (HTTP 302), which adit does not follow (https://evil.example.com/est)",
        ),
        (
            http(409, &[json], r#"{"message":"x"}"#),
            "a device of this id is registered already",
        ),
        (EstAnswer::Huge, "but its body is longer than 65536 bytes"),
        (
            EstAnswer::OtherName,
            "it is for 'somebody else', and this device is",
        ),
        (EstAnswer::OtherKey, "it is not for this gateway's key"),
        (EstAnswer::Expired, now),
    ] {
        site.issuer.answer(answer.clone());
        site.issuer.register(&site.gateway, "one-time");
        let before = site.issuer.requests().len();
        let config = format!("{}one_time_password = \"one-time\"\n", site.config());
        let adit = Adit::start(&config, &[]);
        let line = adit.wait_for_log(words).await;
        assert!(
            line.contains(" WARN ") && line.contains("retry_in="),
            "{line}"
        );
        assert!(!site.issued_file().exists(), "{answer:?}");
        // The very same answer is not worth a second line.
        site.issuer.register(&site.gateway, "one-time");
        site.answered(before + 2).await;
        adit.wait_for_log("still without a certificate").await;
        let log = adit.log();
        assert_eq!(log.matches(" WARN ").count(), 1, "{log}");
        assert!(!log.contains("one-time\""), "{log}");
    }
}

#[tokio::test]
async fn gives_a_silent_authority_up_and_asks_again() {
    let site = site().await;
    site.issuer.answer(EstAnswer::Silence);
    let adit = site.start_adit(&[]);
    let (_, password) = invitation(&site, &adit).await;
    adit.wait_for_log("did not answer the request within 20s")
        .await;
    site.issuer.answer(None);
    site.issuer.register(&site.gateway, &password);
    adit.ready().await;
}

#[tokio::test]
async fn waits_as_long_as_the_authority_asks_for() {
    let site = site().await;
    site.issuer.answer(EstAnswer::Http {
        status: 202,
        headers: vec!["Retry-After: 2".to_owned()],
        body: Vec::new(),
    });
    let adit = site.start_adit(&[]);
    let (_, password) = invitation(&site, &adit).await;
    let requests = site.answered(3).await;
    for pair in requests.windows(2) {
        let pause = pair[1].at - pair[0].at;
        let told = Duration::from_secs(2)..Duration::from_secs(5);
        assert!(told.contains(&pause), "{pause:?}");
    }
    let words = "the authority has not decided yet (HTTP 202)";
    adit.wait_for_log(words).await;
    site.issuer.answer(None);
    site.issuer.register(&site.gateway, &password);
    adit.ready().await;
}

#[tokio::test]
async fn says_that_the_tenant_has_no_authority() {
    let options = SiteOptions {
        no_authority: true,
        ..options()
    };
    let site = Site::with(options).await;
    let adit = site.start_adit(&[]);
    let words = "this tenant has no certificate authority (HTTP 404) (Failed to retrieve tenant \
                 keypair): an administrator creates it in device management";
    let line = adit.wait_for_log(words).await;
    assert!(line.contains(" WARN "), "{line}");
}

#[tokio::test]
async fn keeps_its_key_and_its_link_over_a_power_cut() {
    let site = site().await;
    let mut adit = site.start_adit(&[]);
    let (link, password) = invitation(&site, &adit).await;
    let first = site.answered(1).await;
    adit.kill();
    // What was entered before the cut is still right after it.
    site.issuer.register(&site.gateway, &password);
    let adit = site.start_adit(&[]);
    assert_eq!(invitation(&site, &adit).await.0, link);
    let _adit = adit.ready().await;
    let requests = site.answered(2).await;
    assert_eq!(requests[1].key, first[0].key);
}

#[tokio::test]
async fn uses_its_certificate_after_a_power_cut_before_the_first_login() {
    let site = site().await;
    // Nobody listens there.
    let closed = "mqtt.url=mqtts://127.0.0.1:1";
    let mut adit = site.start_adit(&[closed]);
    let (_, password) = invitation(&site, &adit).await;
    site.issuer.register(&site.gateway, &password);
    adit.wait_for_log("no connection to the broker").await;
    adit.kill();
    let asked = site.issuer.requests().len();
    site.adit(&[]).await;
    assert_eq!(site.issuer.requests().len(), asked);
}

#[tokio::test]
async fn is_enrolled_through_a_proxy() {
    let site = site().await;
    let proxy = Proxy::start([127, 0, 0, 1].into(), "letmein").await;
    site.issuer.register(&site.gateway, "one-time");
    let url = format!("[cloud]\nproxy = {:?}\n", proxy.url("letmein"));
    let config = site.config().replace("[cloud]\n", &url);
    let config = format!("{config}one_time_password = \"one-time\"\n");
    let _adit = Adit::start(&config, &[]).ready().await;
    let place = site.cloud.address().to_string();
    proxy.wait_until_asked(1, &place).await;
}

#[tokio::test]
async fn says_that_an_id_may_be_taken() {
    let site = site().await;
    let adit = site.start_adit(&[]);
    let line = adit.wait_for_log("not registered yet").await;
    assert!(line.contains("It may already be registered"), "{line}");
    assert!(
        line.contains("if a device of this id exists already, delete it"),
        "{line}"
    );
}

#[tokio::test]
async fn says_what_to_do_when_an_answer_with_a_certificate_is_lost() {
    let site = site().await;
    let adit = site.start_adit(&[]);
    adit.wait_for_log("not registered yet").await;
    let (_, password) = invitation(&site, &adit).await;
    // It has issued one, which cannot be used, and that was all it does for a registration.
    site.issuer.answer(EstAnswer::OtherKey);
    site.issuer.register(&site.gateway, &password);
    adit.wait_for_log("it is not for this gateway's key").await;
    site.issuer.answer(None);
    let line = adit.wait_for_log("may be lost").await;
    assert!(
        line.contains(" WARN ") && line.contains("register it again"),
        "{line}"
    );
    // Which is of use, since key and password are the same.
    site.issuer.register(&site.gateway, &password);
    adit.ready().await;
    let keys: HashSet<_> = site
        .issuer
        .requests()
        .into_iter()
        .map(|it| it.key)
        .collect();
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn asks_nobody_where_nothing_can_be_kept() {
    let site = site().await;
    let key = site.device_directory().path("missing/issued.key");
    let setting = format!("auth.key_file={}", key.display());
    let mut adit = site.start_adit(&[&setting]);
    assert_eq!(adit.exit().await.code(), Some(1));
    let words = format!(
        "auth.certificate_authority: cannot write {}: no such file or directory",
        key.with_extension("new").display()
    );
    assert!(adit.log().contains(&words), "{}", adit.log());
    assert_eq!(site.issuer.requests(), []);
}

#[tokio::test]
async fn ends_at_once_while_it_waits_to_be_enrolled() {
    const SOON: Duration = Duration::from_secs(2);
    let site = site().await;
    site.issuer.answer(EstAnswer::Silence);
    let mut adit = site.start_adit(&[]);
    invitation(&site, &adit).await;
    let asked = site
        .issuer
        .wait_for_requests(LIMIT, |requests| requests.first().cloned());
    asked.await.unwrap();
    let began = Instant::now();
    adit.terminate();
    assert_eq!(adit.exit().await.code(), Some(0));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(!site.issued_file().exists());
}

/// How `adit enrol` ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) printed: String,
    pub(crate) log: String,
}

/// A running `adit enrol`.
pub(crate) struct Enrol {
    child: Child,
    printed: Lines<BufReader<ChildStdout>>,
    _directory: Directory,
}

impl Enrol {
    pub(crate) fn start(config: &str, arguments: &[&str]) -> Self {
        let directory = Directory::new();
        let file = directory.write("adit.toml", config);
        let mut child = piped("enrol", &file, arguments);
        let printed = child.stdout.take().expect("piped");
        Self {
            child,
            printed: BufReader::new(printed).lines(),
            _directory: directory,
        }
    }

    /// Waits for a line on standard output that contains `text`.
    async fn wait_for(&mut self, text: &str) -> String {
        let found = async {
            loop {
                let line = self.printed.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("it ended without a word of {text:?}"));
                if line.contains(text) {
                    return line;
                }
            }
        };
        timeout(LIMIT, found).await.expect("a line in time")
    }

    /// Waits for a line of the log that contains `text`.
    pub(crate) async fn wait_for_log(&mut self, text: &str) {
        let stderr = self.child.stderr.as_mut().expect("piped");
        let mut log = Vec::new();
        let found = async {
            while !String::from_utf8_lossy(&log).contains(text) {
                assert!(stderr.read_buf(&mut log).await.unwrap() > 0, "it ended");
            }
        };
        let found = timeout(LIMIT, found).await;
        assert!(found.is_ok(), "{}", String::from_utf8_lossy(&log));
    }

    pub(crate) fn interrupt(&self) {
        let kill = format!("kill -INT {}", self.child.id().expect("it runs"));
        let status = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        assert!(status.unwrap().success(), "{kill}");
    }

    pub(crate) async fn exit(mut self) -> Ended {
        let ended = async {
            let mut printed = String::new();
            while let Some(line) = self.printed.next_line().await.unwrap() {
                printed.push_str(&line);
                printed.push('\n');
            }
            (printed, self.child.wait_with_output().await.unwrap())
        };
        let (printed, output) = timeout(LIMIT, ended).await.expect("it ends in time");
        Ended {
            code: output.status.code(),
            printed,
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

#[tokio::test]
async fn enrols_and_exits_when_asked_to() {
    let site = site().await;
    let mut enrol = Enrol::start(&site.config(), &[]);
    let line = enrol.wait_for("&one-time-password=").await;
    let (_, password) = line.split_once("&one-time-password=").unwrap();
    enrol
        .wait_for("waiting until the platform issues a certificate")
        .await;
    site.issuer.register(&site.gateway, password);
    let Ended { code, printed, log } = enrol.exit().await;
    assert_eq!(code, Some(0), "{log}");
    let words = format!(
        "enrolled: a certificate for '{}', good until 20",
        site.gateway
    );
    assert!(printed.contains(&words), "{printed}");
    assert!(log.contains(WAITING) && log.contains(ENROLLED), "{log}");
    let asked = site.issuer.requests().len();

    let Ended { code, printed, .. } = Enrol::start(&site.config(), &[]).exit().await;
    assert_eq!(code, Some(0));
    assert!(
        printed.contains("nothing to do: there is a certificate for"),
        "{printed}"
    );
    assert_eq!(site.issuer.requests().len(), asked);
    site.adit(&[]).await;
}

#[tokio::test]
async fn uses_the_certificate_that_another_process_beside_it_was_given() {
    let site = site().await;
    let adit = site.start_adit(&[]);
    let (_, password) = invitation(&site, &adit).await;
    let mut enrol = Enrol::start(&site.config(), &[]);
    let line = enrol.wait_for("&one-time-password=").await;
    assert!(line.ends_with(&password), "{line}");
    enrol.wait_for("waiting until").await;
    site.issuer.register(&site.gateway, &password);
    // Whichever comes first.
    let Ended { code, log, .. } = enrol.exit().await;
    assert_eq!(code, Some(0), "{log}");
    drop(adit.ready().await);
    site.adit(&[]).await;
    let given = site.answered(2).await;
    let given = given.iter().filter(|asked| asked.status == Some(200));
    assert_eq!(given.count(), 1);
}

#[tokio::test]
async fn ends_with_a_fault_when_a_signal_comes_before_it_is_enrolled() {
    let site = site().await;
    let mut enrol = Enrol::start(&site.config(), &[]);
    enrol.wait_for("waiting until").await;
    enrol.interrupt();
    let Ended { code, printed, .. } = enrol.exit().await;
    assert_eq!(code, Some(1));
    assert!(
        printed.contains("stopped before the credentials were there"),
        "{printed}"
    );
    assert!(!site.issued_file().exists());
}

#[tokio::test]
async fn registers_and_exits_when_asked_to() {
    let mut site = Site::with(SiteOptions {
        login: Login::Bootstrap,
        ..SiteOptions::default()
    })
    .await;
    let mut enrol = Enrol::start(&site.config(), &[]);
    let line = enrol.wait_for("to register").await;
    assert!(line.contains(&format!("'{}'", site.gateway)), "{line}");
    site.accept();
    let Ended { code, printed, log } = enrol.exit().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(printed.contains("registered: "), "{printed}");
    assert!(site.credentials_file().exists());
    let again = Enrol::start(&site.config(), &[]).exit().await;
    assert_eq!(again.code, Some(0));
    assert!(
        again.printed.contains("nothing to do: there is the user"),
        "{}",
        again.printed
    );
}

#[tokio::test]
async fn says_that_no_way_to_credentials_is_configured() {
    let config = "[cloud]\nurl = \"http://127.0.0.1:1\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";
    let Ended { code, log, .. } = Enrol::start(config, &[]).exit().await;
    assert_eq!(code, Some(2));
    assert!(
        log.contains("set auth.certificate_authority, or auth.bootstrap_username"),
        "{log}"
    );
}
