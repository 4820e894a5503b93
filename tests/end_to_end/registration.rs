//! A new gateway that nobody knows.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Adit, Lan, Login, Site, SiteOptions, process, refused_configuration, rows};

const WAITING: &str = "waiting to be registered: in the cloud's device management, enter this id \
                       under device registration, then accept the device when it shows up";

async fn site() -> Site {
    Site::with(SiteOptions {
        login: Login::Bootstrap,
        ..SiteOptions::default()
    })
    .await
}

impl Site {
    /// Does what the platform does when an operator accepts the gateway.
    pub(crate) fn accept(&mut self) {
        let (bootstrap, device) = (self.bootstrap_user(), self.user());
        self.set_users(&[&bootstrap, &device]);
        let login = self.cloud.options().device_login.clone();
        self.cloud.accept_registration(login);
    }

    fn assert_no_secret(&self, adit: &Adit) {
        let log = adit.log();
        for secret in [self.bootstrap_user().1, self.user().1] {
            assert!(!log.contains(&secret), "{secret} stands in the log");
        }
    }
}

#[tokio::test]
async fn registers_keeps_what_it_is_given_and_uses_it_at_the_next_start() {
    let mut site = site().await;
    let mut adit = site.start_adit(&[]);
    let line = adit.wait_for_log(WAITING).await;
    assert!(line.contains(" INFO "), "{line}");
    assert!(line.contains(&format!("id=\"{}\"", site.gateway)), "{line}");
    site.accept();
    adit = adit.ready().await;
    site.wait_for_rows(1, "500").await;
    let file = site.credentials_file();
    let login = site.cloud.options().device_login.clone();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!(
            "tenant = {:?}\nusername = {:?}\npassword = {:?}\n",
            login.tenant, login.user, login.password
        )
    );
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let handshakes = site.cloud.handshakes();
    assert_eq!(handshakes[0].authorization.as_deref(), Some("Basic"));
    adit.terminate();
    assert!(adit.exit().await.success());
    site.assert_no_secret(&adit);

    // The user that all new devices share is not needed any more.
    let device = site.user();
    site.set_users(&[&device]);
    let requests = rows(&site.cloud, "s/ucr").len();
    let adit = site.adit(&[]).await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert_eq!(rows(&site.cloud, "s/ucr").len(), requests);
    assert!(!adit.log().contains(WAITING));
    site.assert_no_secret(&adit);
    site.assert_no_complaint();
}

#[tokio::test]
async fn says_that_the_shared_user_is_refused_and_goes_on_trying() {
    let mut site = site().await;
    site.set_users(&[]);
    let adit = site.start_adit(&[]);
    let refused = "the platform refuses to register; look at auth.bootstrap_username and its \
                   password";
    let line = adit.wait_for_logs(2, refused).await;
    assert!(line.contains(" WARN "), "{line}");
    let error = "the broker refused the connection: not authorised (CONNACK 5)";
    assert!(line.contains(error), "{line}");
    site.accept();
    let adit = adit.ready().await;
    site.assert_no_secret(&adit);
}

#[tokio::test]
async fn goes_on_when_the_platform_ends_the_registration() {
    let mut site = site().await;
    let adit = site.start_adit(&[]);
    adit.wait_for_log("connected to the broker").await;
    // Whoever loses its user is thrown out.
    site.set_users(&[]);
    let ended = "the platform ended the registration, as it does when it was refused or deleted \
                 there";
    let line = adit.wait_for_log(ended).await;
    assert!(line.contains(" WARN "), "{line}");
    site.accept();
    let adit = adit.ready().await;
    site.assert_no_secret(&adit);
}

#[tokio::test]
async fn works_with_credentials_that_it_cannot_keep_and_keeps_trying() {
    let mut site = site().await;
    let adit = site.start_adit(&[]);
    adit.wait_for_log(WAITING).await;
    let file = site.credentials_file();
    fs::create_dir(&file).unwrap();
    site.accept();
    let words = "the credentials are not kept: after a restart, adit must register again";
    let line = adit.wait_for_log(words).await;
    // That it is a directory, or that adit may remove none.
    let error = format!("error=\"cannot write {}: ", file.display());
    assert!(line.contains(&error), "{line}");
    let adit = adit.ready().await;
    fs::remove_dir(&file).unwrap();
    adit.wait_for_log("credentials kept").await;
    assert!(file.is_file());
    site.assert_no_secret(&adit);
}

/// A small disk of the test's own, which goes with it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs"];
        let mut mount = process::command("mount");
        let status = mount.args(options).arg(&path).status().unwrap();
        assert!(status.success(), "the tests need root");
        Self(path)
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 1024]).is_ok() {}
        assert!(fs::write(self.0.join("more"), "more").is_err());
        fs::remove_file(self.0.join("more")).unwrap();
    }

    fn setting(&self) -> String {
        let file = self.0.join("credentials.toml");
        format!("auth.credentials_file={}", file.display())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(process::command("umount").arg(&self.0).status());
    }
}

#[tokio::test]
async fn keeps_what_it_is_given_though_the_disk_has_become_full() {
    let mut site = site().await;
    let disk = SmallDisk::mount(site.device_directory().path("disk"));
    let adit = site.start_adit(&[&disk.setting()]);
    adit.wait_for_log(WAITING).await;
    disk.fill();
    site.accept();
    adit.wait_for_log("credentials kept").await;
    let kept = fs::read_to_string(disk.0.join("credentials.toml")).unwrap();
    assert!(kept.contains(&format!("password = {:?}", site.user().1)));
    let adit = adit.ready().await;
    assert!(!adit.log().contains("the credentials are not kept"));
    site.assert_no_secret(&adit);
}

#[tokio::test]
async fn does_not_register_where_the_disk_is_full() {
    let site = site().await;
    let disk = SmallDisk::mount(site.device_directory().path("disk"));
    disk.fill();
    let mut adit = site.start_adit(&[&disk.setting()]);
    assert_eq!(adit.exit().await.code(), Some(1));
    let error = format!(
        "auth.credentials_file: cannot write {}: no space left on device",
        disk.0.join("credentials.new").display()
    );
    assert!(adit.log().contains(&error), "{}", adit.log());
    assert_eq!(rows(&site.cloud, "s/ucr").len(), 0);
    assert!(!disk.0.join("credentials.new").exists());
}

#[tokio::test]
async fn does_not_register_where_credentials_cannot_be_kept() {
    let site = site().await;
    let directory = site.device_directory().path("missing");
    let setting = format!(
        "auth.credentials_file={}",
        directory.join("credentials.toml").display()
    );
    let mut adit = site.start_adit(&[&setting]);
    assert_eq!(adit.exit().await.code(), Some(1));
    let error = format!(
        "auth.credentials_file: cannot write {}: no such file or directory",
        directory.join("credentials.new").display()
    );
    assert!(adit.log().contains(&error), "{}", adit.log());
    assert_eq!(rows(&site.cloud, "s/ucr").len(), 0);
    site.assert_no_secret(&adit);
}

#[tokio::test]
async fn ends_at_once_while_it_waits_to_be_registered() {
    const SOON: Duration = Duration::from_secs(2);
    let site = site().await;
    let mut adit = site.start_adit(&[]);
    adit.wait_for_log(WAITING).await;
    adit.wait_for_log("connected to the broker").await;
    let asked = Instant::now();
    adit.terminate();
    assert_eq!(adit.exit().await.code(), Some(0));
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert!(!site.credentials_file().exists());
    site.assert_no_secret(&adit);
}

#[tokio::test]
async fn refuses_half_a_credentials_file() {
    let site = site().await;
    let device = site.device_directory();
    let (_, password) = site.user();
    let half = format!("tenant = \"t12345\"\nusername = \"x\"\npassword = \"{password}");
    let file = device.write("credentials.toml", &half);
    let (code, said) = refused_configuration(&site.config(), &[]).await;
    assert_eq!(code, Some(2), "{said}");
    let complaint = format!(
        "{}: does not hold tenant, username and password as adit writes them; remove it to \
         register again",
        file.display()
    );
    assert!(said.contains(&complaint), "{said}");
    assert!(!said.contains(&password), "{said}");
}
