//! A new configuration while tunnels go on: by SIGHUP, by `adit reload`, and as systemd wants it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use smartrest::encode;
use tokio::io::AsyncReadExt;
use tokio::net::UnixDatagram as Datagrams;
use tokio::time::timeout;

use crate::support::http::{Events, admin_address, get};
use crate::support::{Adit, FarEnd, LIMIT, Lan, Login, Site, SiteOptions, Surroundings, Watcher};

/// Starts adit with more in its file, and what asks it.
async fn start(site: &Site, more: &str) -> (Adit, Watcher) {
    let watcher = Watcher::new();
    let config = format!("{}{more}", site.config());
    let adit = Adit::start(&config, &[&watcher.setting()]).ready().await;
    (adit, watcher)
}

/// Writes another file and has it read; returns what is said, which has to be good.
async fn reload(site: &Site, adit: &Adit, watcher: &Watcher, more: &str) -> String {
    adit.write_config(&format!("{}{more}", site.config()));
    let said = watcher.reload(&[]).await;
    assert_eq!((said.code, said.log.as_str()), (Some(0), ""), "{said:?}");
    said.result
}

#[tokio::test]
async fn ends_the_tunnels_that_the_new_policy_denies_and_no_other() {
    let site = Site::new().await;
    let (mut adit, watcher) = start(&site, "").await;
    let (kept, denied) = (Lan::echo().await, Lan::echo().await);
    let (_, mut stays) = site.open_to("localhost", kept.port).await;
    let (_, mut goes) = site.open(denied.port).await;
    stays.echo("before").await;
    goes.echo("before").await;
    let deny = format!(
        "[remote_access]\ndeny = [\"127.0.0.0/8:{}\"]\n",
        denied.port
    );
    assert_eq!(
        reload(&site, &adit, &watcher, &deny).await,
        "changed: remote_access.deny\n1 tunnel is ended, which the policy denies now\n"
    );
    let reason = format!(
        "the policy denies 127.0.0.1:{0} (remote_access.deny: 127.0.0.0/8:{0})",
        denied.port
    );
    let (bytes, frame) = goes.rest().await;
    let frame = frame.unwrap();
    assert_eq!((bytes.len(), u16::from(frame.code)), (0, 1008));
    assert_eq!(frame.reason.as_str(), reason);
    let (kind, text) = site.event(&site.gateway, 3).await;
    assert_eq!(kind, "c8y_RemoteAccessClosed");
    assert!(text.contains(&reason), "{text}");
    stays.echo("meanwhile").await;
    let refused = site.request("127.0.0.1", denied.port);
    assert_eq!(site.failed(refused.operation).await, reason);

    adit.write_config(&site.config());
    adit.hang_up();
    adit.wait_for_logs(2, "the configuration is read again")
        .await;
    let (_, mut again) = site.open(denied.port).await;
    again.echo("after").await;
    stays.echo("after").await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn changes_nothing_for_a_bad_file_and_says_every_fault() {
    let site = Site::new().await;
    let (adit, watcher) = start(&site, "").await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    let bad = "[remote_access]\nallow = []\nmax_tunnels = 0\nconnect_timeout = \"soon\"\n";
    adit.write_config(&format!("{}{bad}", site.config()));
    let said = watcher.reload(&[]).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    let lines: Vec<_> = said.result.lines().collect();
    assert_eq!(lines.len(), 3, "{said:?}");
    assert!(lines[0].starts_with("nothing is changed"), "{said:?}");
    assert!(
        lines[1].contains("remote_access.max_tunnels: '0' is not"),
        "{said:?}"
    );
    assert!(
        lines[2].contains("remote_access.connect_timeout: 'soon'"),
        "{said:?}"
    );
    adit.wait_for_log("the new configuration cannot be used; the old one goes on")
        .await;
    far_end.echo("hello").await;
    let (_, mut another) = site.open(lan.port).await;
    another.echo("hello").await;
    // No TOML at all.
    adit.write_config("[cloud");
    assert_eq!(watcher.reload(&[]).await.code, Some(2));
    assert_eq!(
        reload(&site, &adit, &watcher, "").await,
        "nothing has changed\n"
    );
}

#[tokio::test]
async fn says_what_holds_and_what_needs_a_restart() {
    let site = Site::new().await;
    let (adit, watcher) = start(&site, "").await;
    let more = "[remote_access]\nmax_tunnels = 1\noperation_ids = true\n[admin]\nlisten = \
                \"127.0.0.1:0\"\n";
    let restart = "needs a restart: remote_access.operation_ids, admin.listen\n";
    assert_eq!(
        reload(&site, &adit, &watcher, more).await,
        format!("changed: remote_access.max_tunnels\n{restart}")
    );
    assert_eq!(reload(&site, &adit, &watcher, more).await, restart);
    let lan = Lan::echo().await;
    let (_, _far_end) = site.open(lan.port).await;
    let refused = site.request("127.0.0.1", lan.port);
    assert_eq!(
        site.failed(refused.operation).await,
        "no more tunnels at a time than remote_access.max_tunnels, 1"
    );
    let json = watcher.json().await;
    assert_eq!(json["remote_access"]["max_tunnels"], 1);
}

#[tokio::test]
async fn needs_no_restart_once_the_one_time_password_has_done_its_work() {
    let site = Site::with(SiteOptions {
        login: Login::Issued,
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    site.issuer.register(&site.gateway, "one-time");
    let file = site.device_directory().write("once", "one-time");
    let more = format!("one_time_password_file = {file:?}\n");
    let (adit, watcher) = start(&site, &more).await;
    let nothing = "nothing has changed\n";
    assert_eq!(reload(&site, &adit, &watcher, &more).await, nothing);
    std::fs::remove_file(file).unwrap();
    assert_eq!(reload(&site, &adit, &watcher, &more).await, nothing);
}

#[tokio::test]
async fn announces_new_children_and_protocols_at_once() {
    let site = Site::new().await;
    let (adit, watcher) = start(&site, "").await;
    let child = format!("{}-press", site.gateway);
    let more = "[remote_access]\nprotocols = [\"SSH\"]\nevents = false\n";
    // The section of the device is there already.
    let config = site
        .config()
        .replace("[device]\n", &format!("[device]\nchildren = [{child:?}]\n"));
    adit.write_config(&format!("{config}{more}"));
    let said = watcher.reload(&[]).await;
    assert_eq!(
        said.result, "changed: device.children, remote_access.protocols, remote_access.events\n",
        "{said:?}"
    );
    site.wait_for_rows(1, "101").await;
    let found = site.cloud.wait_until(LIMIT, |platform| {
        let mut rows = platform.log().iter().map(|record| encode([&record.row]));
        rows.any(|row| row == "150,SSH").then_some(())
    });
    found.await.unwrap();
    assert_eq!(
        watcher.json().await["device"]["children"][0],
        child.as_str()
    );
    let lan = Lan::echo().await;
    let mut tunnel = site
        .cloud
        .open_tunnel(&child, "localhost", lan.port)
        .unwrap();
    FarEnd(tunnel.accept(LIMIT).await.unwrap())
        .echo("hello")
        .await;
    site.opened(tunnel.operation).await;
    assert_eq!(site.cloud.events(&child), []);
    site.assert_no_complaint();
}

#[tokio::test]
async fn shows_a_new_password_at_the_next_login_and_keeps_tunnels_over_it() {
    let mut site = Site::new().await;
    let (adit, watcher) = start(&site, "").await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("before").await;
    let (user, old) = site.user();
    let new = format!("{old}-changed");
    let config = site.config().replace(&old, &new);
    adit.write_config(&config);
    let said = watcher.reload(&[]).await;
    assert_eq!(
        said.result,
        "changed from the next login and tunnel on: auth.password\n"
    );
    assert!(!adit.log().contains(&new));
    // The broker knows the new one alone, and throws everybody out.
    site.set_users(&[&(user, new)]);
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    far_end.echo("after").await;
}

#[tokio::test]
async fn trusts_another_authority_after_it_is_told_to() {
    let site = Site::with(SiteOptions {
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    let watcher = Watcher::new();
    // One that has issued nothing here.
    let directory = site.device_directory();
    let ca = directory.write(
        "ca.pem",
        &std::fs::read_to_string(&site.devices.file).unwrap(),
    );
    let config = site.config().replace(
        &format!("{:?}", site.ca_file()),
        &format!("{:?}", ca.display().to_string()),
    );
    let adit = Adit::start(&config, &[&watcher.setting()]);
    adit.wait_for_log("no connection to the broker").await;
    std::fs::copy(site.ca_file(), &ca).unwrap();
    let said = watcher.reload(&[]).await;
    assert_eq!(
        said.result, "changed from the next login and tunnel on: cloud.ca_file\n",
        "{said:?}"
    );
    let adit = adit.ready().await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    drop(adit);
}

#[tokio::test]
async fn wants_another_token_and_logs_at_another_level() {
    let site = Site::new().await;
    let token = site
        .device_directory()
        .write("token", "the-first-of-two-tokens");
    let watcher = Watcher::new();
    let listen = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = {:?}\n",
        token.display().to_string()
    );
    let adit = Adit::start(&format!("{}{listen}", site.config()), &[&watcher.setting()]);
    let adit = adit.ready().await;
    let address = admin_address(&adit).await;
    let first = "Authorization: Bearer the-first-of-two-tokens";
    let mut watched = Events::watch(&address, &[first]).await;
    watched.wait_for(&site.gateway).await;
    site.device_directory()
        .write("token", "the-second-of-two-tokens");
    let said = watcher.reload(&["--log-level", "warn"]).await;
    assert_eq!(said.result, "changed: admin.token_file\n", "{said:?}");
    watched.end().await;
    for (token, status) in [
        ("the-first-of-two-tokens", 401),
        ("the-second-of-two-tokens", 200),
    ] {
        let header = format!("Authorization: Bearer {token}");
        assert_eq!(get(&address, "/metrics", &[&header]).await.status, status);
    }
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    assert!(!adit.log().contains("opened"), "it logs what is no warning");
    assert_eq!(
        watcher.reload(&["--log-level", "debug"]).await.code,
        Some(0)
    );
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    adit.wait_for_log("opened").await;
}

#[tokio::test]
async fn loses_no_byte_while_it_reloads_again_and_again() {
    const SIZE: usize = 16 << 20;
    let site = Site::new().await;
    let (adit, watcher) = start(&site, "").await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = machine.accept().await;
    let sent: Vec<u8> = (0..SIZE)
        .map(|i| i.to_le_bytes()[1] ^ i.to_le_bytes()[2])
        .collect();
    let reading = async {
        let mut received = vec![0; SIZE];
        machine.read_exact(&mut received).await.unwrap();
        received
    };
    let reloading = async {
        for number in 1..6 {
            let more = format!("[remote_access]\nmax_tunnels = {number}\n");
            let said = reload(&site, &adit, &watcher, &more).await;
            assert_eq!(said, "changed: remote_access.max_tunnels\n");
        }
    };
    let (received, (), ()) = tokio::join!(reading, far_end.send(sent.as_slice()), reloading);
    assert!(received == sent);
}

#[tokio::test]
async fn tells_systemd_that_it_is_ready_and_when_it_reloads() {
    let site = Site::new().await;
    let directory = site.device_directory();
    let path = directory.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = Datagrams::from_std(socket).unwrap();
    let place = path.display().to_string();
    let surroundings = Surroundings {
        variables: &[
            ("NOTIFY_SOCKET", place.as_str()),
            ("WATCHDOG_USEC", "400000"),
        ],
        ..Surroundings::default()
    };
    let mut adit = site.adit_in(&surroundings, &[]).await;
    assert_eq!(said(&socket, "READY").await, "READY=1");
    assert_eq!(said(&socket, "WATCHDOG").await, "WATCHDOG=1");
    assert_eq!(said(&socket, "WATCHDOG").await, "WATCHDOG=1");
    adit.hang_up();
    let reloading = said(&socket, "RELOADING").await;
    let time = reloading
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .unwrap();
    assert!(time.parse::<u64>().unwrap() > 0);
    assert_eq!(said(&socket, "READY").await, "READY=1");
    adit.write_config("[cloud");
    adit.hang_up();
    // Also where the new configuration is bad: it is not reloading any more.
    said(&socket, "RELOADING").await;
    said(&socket, "READY").await;
    adit.terminate();
    assert_eq!(said(&socket, "STOPPING").await, "STOPPING=1");
    assert!(adit.exit().await.success());
}

/// Waits for a datagram that begins with a word, and leaves out what is said of the watchdog and of how
/// adit stands.
async fn said(socket: &Datagrams, word: &str) -> String {
    let listening = async {
        loop {
            let mut buffer = [0; 256];
            let size = socket.recv(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            if text.starts_with(word) {
                return text;
            }
            assert!(
                text.starts_with("WATCHDOG") || text.starts_with("STATUS"),
                "{text} in the place of {word}"
            );
        }
    };
    timeout(LIMIT, listening).await.expect("in time")
}

#[tokio::test]
async fn says_that_a_file_in_another_directory_needs_a_restart_where_it_is_confined() {
    let site = Site::new().await;
    let (adit, watcher) = start(&site, "").await;
    if !adit.log().contains("adit is confined") {
        return;
    }
    // Not below any directory that was named at the start.
    let elsewhere = std::env::temp_dir().join(format!("adit-elsewhere-{}", site.gateway));
    std::fs::create_dir_all(&elsewhere).unwrap();
    let ca = elsewhere.join("ca.pem");
    std::fs::copy(&site.devices.file, &ca).unwrap();
    let url = "[cloud]\n";
    let config = site.config().replace(
        url,
        &format!("{url}ca_file = {:?}\n", ca.display().to_string()),
    );
    adit.write_config(&config);
    let said = watcher.reload(&[]).await;
    std::fs::remove_dir_all(&elsewhere).unwrap();
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.result.contains("a restart can read there"), "{said:?}");
}

/// How long a command is waited for that finds nobody.
#[tokio::test]
async fn says_that_nobody_runs() {
    let watcher = Watcher::new();
    let said = timeout(Duration::from_secs(10), watcher.reload(&[]))
        .await
        .unwrap();
    assert_eq!(said.code, Some(3));
    assert!(said.result.starts_with("no adit runs"), "{said:?}");
}
