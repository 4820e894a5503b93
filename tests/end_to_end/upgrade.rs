//! `adit upgrade` and SIGUSR2: another process takes over, and nobody is thrown out.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use simulated_cloud::{OperationId, Tunnel};
use tokio::net::{TcpListener, UnixDatagram};
use tokio::time::{sleep, timeout};

use crate::support::http::get;
use crate::support::transfer::{Progress, content, read, receive, send, write};
use crate::support::{
    Adit, BlackHole, Directory, FarEnd, ID_SOURCES, LIMIT, Lan, NO_SANDBOX, Site, Sshd,
    Surroundings, Watcher,
};

const MIB: usize = 1 << 20;
const BULK: usize = 64 * MIB;
/// What an operator's side sends in one message.
const MESSAGE: usize = 64 << 10;
/// What a process says that has taken over.
const IN_CHARGE: &str = "this process is in charge now";
/// What the old one says that goes on.
const GOES_ON: &str = "no upgrade: this process goes on";
/// What one says that has lost its way to the one in charge.
const MIDDLE_ENDED: &str = "a process between this one and the one in charge has ended";
/// What the old one says that only carries.
const CARRIES: &str = "another process has taken over; this one carries its tunnels";

/// A site with an adit that is asked at its socket.
struct Gateway {
    watcher: Watcher,
    adit: Adit,
    site: Site,
}

impl Gateway {
    async fn new(settings: &[&str]) -> Self {
        Self::started_in(&Surroundings::default(), settings).await
    }

    async fn started_in(surroundings: &Surroundings<'_>, settings: &[&str]) -> Self {
        let (site, watcher) = (Site::new().await, Watcher::new());
        let socket = watcher.setting();
        let settings: Vec<_> = settings.iter().copied().chain([socket.as_str()]).collect();
        let adit = site.adit_in(surroundings, &settings).await;
        Self {
            watcher,
            adit,
            site,
        }
    }

    /// Upgrades, and returns the id of the process that is in charge then.
    async fn upgrade(&self) -> u32 {
        let before = self.watcher.json().await["agent"]["process_id"].clone();
        let said = self.watcher.upgrade().await;
        assert_eq!(said.code, Some(0), "{said:?}");
        let json = self.watcher.json().await;
        let process = json["agent"]["process_id"].clone();
        assert_ne!(before, process);
        let words = format!("process {process}, has taken over; process {before} ");
        assert!(said.result.contains(&words), "{said:?}");
        process.as_u64().unwrap().try_into().unwrap()
    }

    /// Opens a tunnel, and sees it carry.
    async fn open(&self, port: u16) -> FarEnd {
        let (_, mut far_end) = self.site.open(port).await;
        far_end.echo("hello").await;
        far_end
    }

    async fn wait_for_no_predecessor(&self) -> Value {
        self.watcher
            .wait_for(|json| json["predecessor"].is_null())
            .await
    }
}

fn kill(signal: &str, process: u32) {
    let kill = format!("kill -{signal} {process}");
    let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success(), "{kill}");
}

#[tokio::test]
async fn carries_64_mib_each_way_through_an_upgrade() {
    let mut gateway = Gateway::new(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, FarEnd(socket)) = gateway.site.open(port).await;
    let (mut machine_in, mut machine_out) = machine.accept().await.into_split();
    let (mut cloud_out, mut cloud_in) = socket.split();
    let (up, down) = (content(1, BULK), content(2, BULK));
    let (sent_up, sent_down) = (Progress::default(), Progress::default());
    let (half_up, half_down) = (up.split_at(BULK / 2), down.split_at(BULK / 2));
    let upgrading = async {
        while sent_up.bytes() < BULK / 8 || sent_down.bytes() < BULK / 8 {
            sleep(Duration::from_millis(5)).await;
        }
        gateway.upgrade().await
    };
    // The second half waits for the new process, so that bytes flow before, during and after.
    let (process, ..) = tokio::join!(
        upgrading,
        write(&mut machine_out, half_up.0, &sent_up),
        receive(&mut cloud_in, half_up.0),
        send(&mut cloud_out, half_down.0, MESSAGE, &sent_down),
        read(&mut machine_in, half_down.0, MESSAGE),
    );
    assert_ne!(process, gateway.adit.process_id());
    tokio::join!(
        write(&mut machine_out, half_up.1, &sent_up),
        receive(&mut cloud_in, half_up.1),
        send(&mut cloud_out, half_down.1, MESSAGE, &sent_down),
        read(&mut machine_in, half_down.1, MESSAGE),
    );
    let json = gateway
        .watcher
        .wait_for(|json| json["predecessor"]["tunnels"][0]["up_bytes"] == BULK)
        .await;
    assert_eq!(json["predecessor"]["process_id"], gateway.adit.process_id());
    assert_eq!(json["tunnels"].as_array().unwrap().len(), 0);
    let text = gateway.watcher.ask(&[]).await.result;
    let words = format!("tunnels of process {} before it", gateway.adit.process_id());
    assert!(text.contains(&words), "{text}");
    FarEnd(cloud_out.reunite(cloud_in).unwrap()).close().await;
    drop((machine_in, machine_out));
    // The new process tells the platform what the old one has carried.
    let (_, text) = gateway.site.event(&gateway.site.gateway, 2).await;
    let counts = format!("{BULK} bytes to the cloud, {BULK} bytes to the device");
    assert!(text.ends_with(&counts), "{text}");
    gateway.adit.first_exit().await;
    gateway.wait_for_no_predecessor().await;
    gateway.site.assert_no_complaint();
}

#[tokio::test]
async fn serves_every_operation_once_before_during_and_after_an_upgrade() {
    for operation_ids in ID_SOURCES {
        let gateway = Gateway::new(&[operation_ids]).await;
        let lan = Lan::echo().await;
        let slow = BlackHole::new().await;
        let mut before = gateway.open(lan.port).await;
        // Opening when the new process is ready, so that it is waited for.
        let mut opening = gateway.site.request("127.0.0.1", slow.port);
        gateway.site.executing(opening.operation).await;
        let mut asked: Vec<Tunnel> = Vec::new();
        let asking = async {
            gateway.adit.wait_for_log("operations are left to it").await;
            let slow = slow.wake();
            for _ in 0..20 {
                asked.push(gateway.site.request("127.0.0.1", lan.port));
                sleep(Duration::from_millis(50)).await;
            }
            slow
        };
        let (_slow, _) = tokio::join!(asking, gateway.upgrade());
        let mut ids: Vec<OperationId> = vec![opening.operation];
        let mut far_ends = vec![FarEnd(opening.accept(LIMIT).await.unwrap())];
        for tunnel in &mut asked {
            ids.push(tunnel.operation);
            far_ends.push(FarEnd(tunnel.accept(LIMIT).await.unwrap()));
        }
        for id in ids {
            gateway.site.opened(id).await;
        }
        far_ends.push(gateway.open(lan.port).await);
        before.echo("still").await;
        for far_end in &mut far_ends {
            far_end.echo("hello").await;
        }
        let json = gateway.watcher.json().await;
        let carried = |tunnels: &Value| tunnels.as_array().unwrap().len();
        let all = carried(&json["tunnels"]) + carried(&json["predecessor"]["tunnels"]);
        assert_eq!(all, far_ends.len() + 1, "{json:#}");
        // What the old process has done is not forgotten.
        assert!(json["operations"].as_array().unwrap().len() >= all);
        gateway.site.assert_no_complaint();
    }
}

#[tokio::test]
async fn is_upgraded_twice_in_a_row_in_its_confinement_and_shows_them_all() {
    let mut gateway = Gateway::new(&[]).await;
    let lan = Lan::echo().await;
    let mut first = gateway.open(lan.port).await;
    let second_process = gateway.upgrade().await;
    let mut second = gateway.open(lan.port).await;
    kill("USR2", second_process);
    gateway.adit.wait_for_logs(2, IN_CHARGE).await;
    let mut third = gateway.open(lan.port).await;
    let json = gateway
        .watcher
        .wait_for(|json| !json["predecessor"]["predecessor"].is_null())
        .await;
    assert_eq!(json["predecessor"]["process_id"], second_process);
    assert_eq!(
        json["predecessor"]["predecessor"]["process_id"],
        gateway.adit.process_id()
    );
    for far_end in [&mut first, &mut second, &mut third] {
        far_end.echo("still").await;
    }
    let confined = gateway.adit.log().matches("adit is confined").count();
    assert!(confined == 0 || confined == 3, "{confined}");
    // The middle one waits for the first, which it knows.
    second.close().await;
    first.echo("still").await;
    first.close().await;
    gateway.adit.first_exit().await;
    gateway.wait_for_no_predecessor().await;
    third.echo("still").await;
    // Each of the three tunnels has left both of its events, but for the last.
    gateway.site.event(&gateway.site.gateway, 5).await;
    gateway.site.assert_no_complaint();
}

/// A directory with the program, which is replaced by a script.
struct Replaced {
    program: PathBuf,
}

impl Replaced {
    fn new(site_name: &str) -> Self {
        let name = format!("adit-upgrade-{}-{site_name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let program = directory.join("adit");
        fs::copy(env!("CARGO_BIN_EXE_adit"), &program).unwrap();
        Self { program }
    }

    /// As a package does it: the file behind the name is another one then.
    fn by(&self, content: impl AsRef<[u8]>) {
        let new = self.program.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &self.program).unwrap();
    }

    /// By the one under test.
    fn by_the_same(&self) {
        self.by(fs::read(env!("CARGO_BIN_EXE_adit")).unwrap());
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(self.program.parent().unwrap()));
    }
}

/// Upgrades in vain; returns what is said.
async fn upgrade_in_vain(gateway: &Gateway) -> String {
    let said = gateway.watcher.upgrade().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let words = "no upgrade, the running adit goes on: ";
    let reason = said.result.strip_prefix(words);
    let reason = reason.unwrap_or_else(|| panic!("{said:?}"));
    gateway.adit.wait_for_log(GOES_ON).await;
    reason.to_owned()
}

#[tokio::test]
async fn goes_on_with_its_connection_where_the_new_program_is_of_no_use() {
    let replaced = Replaced::new("useless");
    let surroundings = Surroundings {
        // A script needs a shell, which adit may not execute.
        variables: &[NO_SANDBOX],
        program: Some(&replaced.program),
        ..Surroundings::default()
    };
    let gateway = Gateway::started_in(&surroundings, &[]).await;
    let lan = Lan::echo().await;
    let mut before = gateway.open(lan.port).await;
    for (script, reason) in [
        ("exit 7", "the new process has ended (exit status: 7)"),
        (
            "exec sleep 100",
            "the new process was not ready within 30s (signal: 9 (SIGKILL))",
        ),
    ] {
        replaced.by(format!("#!/bin/sh\n{script}\n"));
        let said = upgrade_in_vain(&gateway).await;
        assert_eq!(said.trim_end(), reason);
        before.echo("still").await;
        drop(gateway.open(lan.port).await);
    }
    fs::remove_file(&replaced.program).unwrap();
    let said = upgrade_in_vain(&gateway).await;
    assert!(said.contains("cannot be started: No such file"), "{said}");
    // It never left the broker.
    let log = gateway.adit.log();
    assert_eq!(log.matches("announced and ready").count(), 1, "{log}");
    replaced.by_the_same();
    gateway.upgrade().await;
    before.echo("after").await;
    gateway.site.assert_no_complaint();
}

#[tokio::test]
async fn takes_everything_back_where_the_new_process_ends_before_it_is_in_charge() {
    let replaced = Replaced::new("dies");
    let surroundings = Surroundings {
        variables: &[NO_SANDBOX],
        program: Some(&replaced.program),
        ..Surroundings::default()
    };
    let listen = crate::support::Port::reserve();
    let listen = format!("admin.listen=127.0.0.1:{}", listen.number);
    let gateway = Gateway::started_in(&surroundings, &[&listen]).await;
    let lan = Lan::echo().await;
    let mut before = gateway.open(lan.port).await;
    let ready = format!(
        r#"{{"ready":{{"version":"9","device":"{}","places":"{}"}}}}"#,
        gateway.site.gateway,
        places(&listen, &gateway.watcher),
    );
    let script = format!("#!/bin/sh\nprintf '%s\\n' '{ready}' >&0\nread line <&0\nexit 3\n");
    replaced.by(&script);
    let reason = upgrade_in_vain(&gateway).await;
    assert_eq!(
        reason.trim_end(),
        "the new process has ended (exit status: 3)"
    );
    gateway.adit.wait_for_logs(2, "announced and ready").await;
    before.echo("still").await;
    drop(gateway.open(lan.port).await);
    let json = gateway.watcher.json().await;
    assert_eq!(json["agent"]["process_id"], gateway.adit.process_id());
    replaced.by_the_same();
    gateway.upgrade().await;
    before.echo("after").await;
    drop(gateway.open(lan.port).await);
    gateway.site.assert_no_complaint();
}

/// As adit compares them.
fn places(listen: &str, watcher: &Watcher) -> String {
    let listen = listen.strip_prefix("admin.listen=").unwrap();
    let places = format!("Some({listen}) Some({:?})", watcher.socket());
    places.replace('"', "\\\"")
}

#[tokio::test]
async fn refuses_a_configuration_that_cannot_be_followed_and_says_why() {
    let gateway = Gateway::new(&[]).await;
    let lan = Lan::echo().await;
    let mut before = gateway.open(lan.port).await;
    let config = gateway.site.config();
    let (id, elsewhere) = (&gateway.site.gateway, std::env::temp_dir());
    let elsewhere = elsewhere.join(format!("adit-upgrade-elsewhere-{id}"));
    fs::create_dir_all(&elsewhere).unwrap();
    let ca = elsewhere.join("ca.pem");
    fs::copy(&gateway.site.devices.file, &ca).unwrap();
    let with_ca = format!("[cloud]\nca_file = {:?}\n", ca.display().to_string());
    let mut cases = vec![
        (
            format!("{config}[remote_access]\nmax_tunnels = 0\n"),
            "max_tunnels: '0'",
        ),
        (config.replace(id, "another"), "device.id is another"),
        (
            format!("{config}[admin]\nlisten = \"127.0.0.1:0\"\n"),
            "admin.listen or admin.socket is another in the new configuration, which needs a restart",
        ),
    ];
    // A person would have to be waited for, with nobody there to serve meanwhile.
    let (but_auth, _) = config.split_once("[auth]\n").unwrap();
    let kept = gateway.site.credentials_file();
    for auth in [
        format!(
            "bootstrap_username = \"b\"\nbootstrap_password = \"hunter2\"\ncredentials_file = {kept:?}\n"
        ),
        format!(
            "certificate_authority = true\ncert_file = {:?}\nkey_file = {:?}\n",
            kept.with_extension("pem"),
            kept.with_extension("key")
        ),
    ] {
        cases.push((
            format!("{but_auth}[auth]\n{auth}"),
            "the new configuration has no credentials yet, which needs a restart",
        ));
    }
    if gateway.adit.log().contains("adit is confined") {
        let config = config.replace("[cloud]\n", &with_ca);
        cases.push((config, "a restart can read there"));
    }
    for (config, reason) in cases {
        gateway.adit.write_config(&config);
        let said = upgrade_in_vain(&gateway).await;
        assert!(said.contains(reason), "{said}");
        before.echo("still").await;
    }
    fs::remove_dir_all(&elsewhere).unwrap();
    drop(gateway.open(lan.port).await);
    // A key that a reload does not change.
    gateway.adit.write_config(&format!(
        "{config}[remote_access]\noperation_ids = \"none\"\n"
    ));
    gateway.upgrade().await;
    drop(gateway.open(lan.port).await);
    gateway.site.assert_no_complaint();
}

#[tokio::test]
async fn carries_on_whatever_becomes_of_the_process_that_took_over() {
    let mut gateway = Gateway::new(&[]).await;
    let lan = Lan::echo().await;
    let mut before = gateway.open(lan.port).await;
    let process = gateway.upgrade().await;
    gateway.adit.wait_for_log(CARRIES).await;
    for signal in ["HUP", "USR2"] {
        kill(signal, gateway.adit.process_id());
    }
    gateway.adit.wait_for_logs(2, "signal passed over").await;
    kill("KILL", process);
    gateway
        .adit
        .wait_for_log("the process that had taken over has ended")
        .await;
    before.echo("still").await;
    assert!(gateway.adit.is_running());
    // Whoever supervises adit starts it again.
    let _next = gateway.site.adit(&[]).await;
    drop(gateway.open(lan.port).await);
    before.echo("still").await;
    before.close().await;
    assert!(gateway.adit.exit().await.success());
}

/// What `/proc` tells of the processes whose parent is this one: their ids, and whether they are zombies.
fn children(parent: u32) -> Vec<(u32, bool)> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let child = |process: fs::DirEntry| {
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        let (front, behind) = stat.rsplit_once(')')?;
        let mut fields = behind.split_whitespace();
        let state = fields.next()?;
        let is_child = fields.next()? == parent.to_string();
        let id = front.split_whitespace().next()?.parse().ok()?;
        is_child.then_some((id, state == "Z"))
    };
    processes.filter_map(child).collect()
}

#[tokio::test]
async fn leaves_the_new_process_to_whoever_takes_in_orphans() {
    let mut gateway = Gateway::new(&[]).await;
    let lan = Lan::echo().await;
    let mut before = gateway.open(lan.port).await;
    let old = gateway.adit.process_id();
    let second = gateway.upgrade().await;
    assert_eq!(children(old), []);
    let third = gateway.upgrade().await;
    for process in [old, second, third] {
        assert_eq!(children(process), [], "{process}");
    }
    kill("KILL", third);
    gateway
        .adit
        .wait_for_log("has ended: nobody takes operations")
        .await;
    kill("KILL", second);
    gateway.adit.wait_for_log(MIDDLE_ENDED).await;
    assert_eq!(children(old), []);
    before.echo("still").await;
    before.close().await;
    assert!(gateway.adit.exit().await.success());
}

#[tokio::test]
async fn carries_on_without_the_process_in_the_middle_of_a_chain() {
    let lan = Lan::echo().await;
    for drain in ["0", "15s"] {
        let setting = format!("remote_access.drain={drain}");
        let mut gateway = Gateway::new(&[&setting]).await;
        let mut first = gateway.open(lan.port).await;
        let middle = gateway.upgrade().await;
        let _second = gateway.open(lan.port).await;
        let last = gateway.upgrade().await;
        let mut third = gateway.open(lan.port).await;
        kill("KILL", middle);
        gateway.adit.wait_for_log(MIDDLE_ENDED).await;
        let json = gateway.wait_for_no_predecessor().await;
        assert_eq!(json["agent"]["process_id"], last);
        // Nobody is told that operations are not taken.
        let log = gateway.adit.log();
        assert!(!log.contains("nobody takes operations"), "{log}");
        first.echo("still").await;
        if drain == "0" {
            first.close().await;
        } else {
            let (_, frame) = first.rest().await;
            assert_eq!(u16::from(frame.unwrap().code), 1001);
        }
        gateway.adit.first_exit().await;
        gateway.adit.wait_for_log("all tunnels have ended").await;
        // The one in charge goes on.
        third.echo("still").await;
        drop(gateway.open(lan.port).await);
        gateway.site.assert_no_complaint();
    }
}

#[tokio::test]
async fn ends_carried_tunnels_that_a_new_policy_denies() {
    let gateway = Gateway::new(&[]).await;
    let (kept, first, second) = (Lan::echo().await, Lan::echo().await, Lan::echo().await);
    let mut stays = gateway.open(kept.port).await;
    let goes_by_reload = gateway.open(first.port).await;
    let goes_by_upgrade = gateway.open(second.port).await;
    let config = gateway.site.config();
    let deny = |ports: &[u16]| {
        let patterns = ports.iter().map(|port| format!("127.0.0.1:{port}"));
        let patterns: Vec<_> = patterns.collect();
        format!("{config}[remote_access]\ndeny = {patterns:?}\n")
    };
    let ended = async |mut far_end: FarEnd, port: u16, event: usize| {
        let reason =
            format!("the policy denies 127.0.0.1:{port} (remote_access.deny: 127.0.0.1:{port})");
        let (_, frame) = far_end.rest().await;
        let frame = frame.unwrap();
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (1008, reason.as_str())
        );
        let (_, text) = gateway.site.event(&gateway.site.gateway, event).await;
        assert!(text.contains(&reason), "{text}");
    };
    // Through two processes then.
    gateway.upgrade().await;
    gateway.upgrade().await;
    gateway.adit.write_config(&deny(&[first.port]));
    let said = gateway.watcher.reload(&[]).await;
    assert_eq!(said.result, "changed: remote_access.deny\n", "{said:?}");
    ended(goes_by_reload, first.port, 4).await;
    gateway.adit.write_config(&deny(&[first.port, second.port]));
    gateway.upgrade().await;
    ended(goes_by_upgrade, second.port, 5).await;
    stays.echo("still").await;
    gateway.site.assert_no_complaint();
}

/// Waits until a process has a child, and returns its id.
async fn child(parent: u32) -> u32 {
    let looking = async {
        loop {
            match children(parent).first() {
                Some(&(child, false)) => return child,
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
    };
    timeout(LIMIT, looking).await.expect("a child")
}

/// Waits for the end of a process: it closes its files, which others see, a moment before.
async fn has_ended(process: u32) {
    let is_there = || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    let ending = async {
        while is_there() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, ending).await.expect("an end in time");
}

#[tokio::test]
async fn ends_both_of_the_processes_that_it_has_started_and_says_how_the_new_one_ended() {
    // Nobody reads what comes of the tunnel, and answers pings, for longer than adit stands.
    let gateway = Gateway::new(&["remote_access.keep_alive=0"]).await;
    let lan = Lan::echo().await;
    let mut before = gateway.open(lan.port).await;
    let old = gateway.adit.process_id();
    for (times, signal, reason) in [
        (1, "ABRT", "the new process has ended (signal: 6 (SIGABRT)"),
        (
            2,
            "STOP",
            "the new process did not take over within 30s (signal: 9 (SIGKILL))",
        ),
    ] {
        // Nobody takes over before it is known what becomes of this one.
        let silent = BlackHole::new().await;
        let opening = gateway.site.request("127.0.0.1", silent.port);
        gateway.site.executing(opening.operation).await;
        let upgrading = upgrade_in_vain(&gateway);
        let (said, new) = tokio::join!(upgrading, async {
            let new = child(child(old).await).await;
            // One that is stopped sooner notices only when it goes on that nobody is between.
            let is_ready = "the new process is ready";
            gateway.adit.wait_for_logs(times, is_ready).await;
            kill(signal, new);
            new
        });
        assert!(said.starts_with(reason), "{said}");
        assert_eq!(children(old), []);
        has_ended(new).await;
        gateway.site.failed(opening.operation).await;
        before.echo("still").await;
    }
    gateway.upgrade().await;
    before.echo("after").await;
    gateway.site.assert_no_complaint();
}

#[tokio::test]
async fn ends_the_process_before_it_too_when_it_is_stopped() {
    for drain in ["0", "10s"] {
        let setting = format!("remote_access.drain={drain}");
        let mut gateway = Gateway::new(&[&setting]).await;
        let lan = Lan::echo().await;
        let mut first = gateway.open(lan.port).await;
        gateway.upgrade().await;
        let process = gateway.upgrade().await;
        let mut last = gateway.open(lan.port).await;
        first.echo("still").await;
        kill("TERM", process);
        for far_end in [&mut first, &mut last] {
            let (_, frame) = far_end.rest().await;
            assert_eq!(u16::from(frame.unwrap().code), 1001, "{drain}");
        }
        // Of all of them, as their log has ended.
        assert!(gateway.adit.exit().await.success());
    }
}

#[tokio::test]
async fn ends_carried_tunnels_when_their_time_is_over_and_without_drain_when_they_end() {
    let lan = Lan::echo().await;
    let mut limited = Gateway::new(&["remote_access.drain=1s"]).await;
    let mut far_end = limited.open(lan.port).await;
    limited.upgrade().await;
    let (_, frame) = far_end.rest().await;
    assert_eq!(u16::from(frame.unwrap().code), 1001);
    limited.adit.first_exit().await;
    // With nothing to carry it ends at once.
    let mut idle = Gateway::new(&[]).await;
    idle.upgrade().await;
    idle.adit.first_exit().await;
    drop(idle.open(lan.port).await);
}

#[tokio::test]
async fn tells_systemd_which_process_is_the_main_one() {
    let directory = Directory::new();
    let path = directory.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    tell_which_process_is_the_main_one(socket, &path.display().to_string()).await;
}

#[tokio::test]
async fn tells_it_at_a_socket_that_is_in_no_file_system() {
    let name = format!("adit-upgrade-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UnixDatagram::from_std(socket).unwrap();
    tell_which_process_is_the_main_one(socket, &format!("@{name}")).await;
}

async fn tell_which_process_is_the_main_one(socket: UnixDatagram, place: &str) {
    let surroundings = Surroundings {
        variables: &[("NOTIFY_SOCKET", place), ("WATCHDOG_USEC", "400000")],
        ..Surroundings::default()
    };
    let listen = crate::support::Port::reserve();
    let address = format!("127.0.0.1:{}", listen.number);
    let listen = format!("admin.listen={address}");
    let gateway = Gateway::started_in(&surroundings, &[&listen]).await;
    let lan = Lan::echo().await;
    let mut said = Vec::new();
    let mut statuses = Vec::new();
    let listening = async {
        let mut alive = 0;
        while alive < 3 || statuses.len() < 7 {
            let mut buffer = [0; 256];
            let size = socket.recv(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            match text.as_str() {
                "WATCHDOG=1" if said.len() == 3 => alive += 1,
                "WATCHDOG=1" => {}
                text => match text.strip_prefix("STATUS=") {
                    Some(status) => statuses.push(status.to_owned()),
                    None => said.push(text.to_owned()),
                },
            }
        }
    };
    // Few wait for whoever listens.
    let (heard, process) = tokio::join!(timeout(LIMIT, listening), async {
        let far_end = gateway.open(lan.port).await;
        let process = gateway.upgrade().await;
        let metrics = get(&address, "/metrics", &[]).await.body;
        for name in [
            "adit_predecessor_tunnels 1.0",
            "adit_tunnels{state=\"open\"} 0.0",
            "process_cpu_seconds_total ",
            "process_max_fds ",
        ] {
            assert!(metrics.contains(&format!("\n{name}")), "{name}\n{metrics}");
        }
        far_end.close().await;
        process
    });
    heard.expect("in time");
    let main = format!("MAINPID={process}");
    assert_eq!(said, ["READY=1", &main, "READY=1"]);
    assert_eq!(
        statuses,
        [
            "not connected; tunnels: 0",
            "connected; tunnels: 0",
            "connected; tunnels: 1",
            "a new process is to take over; tunnels: 1",
            "connected; tunnels: 0",
            "connected; tunnels: 0, and 1 that processes before this one carry",
            "connected; tunnels: 0",
        ]
    );
}

#[tokio::test]
async fn lets_one_upgrade_be_under_way_at_a_time() {
    let replaced = Replaced::new("slow");
    let surroundings = Surroundings {
        variables: &[NO_SANDBOX],
        program: Some(&replaced.program),
        ..Surroundings::default()
    };
    let mut gateway = Gateway::started_in(&surroundings, &[]).await;
    replaced.by("#!/bin/sh\nexec sleep 100\n");
    let lan = Lan::echo().await;
    let (said, ()) = tokio::join!(gateway.watcher.upgrade(), async {
        gateway
            .adit
            .wait_for_log("a new process of adit is started")
            .await;
        let second = gateway.watcher.upgrade().await;
        assert_eq!(second.code, Some(1));
        let words = "an upgrade is under way already";
        assert!(second.result.contains(words), "{second:?}");
        // The new process has read its configuration, and would not know of another.
        let reload = gateway.watcher.reload(&[]).await;
        assert_eq!(reload.code, Some(2), "{reload:?}");
        let words = "an upgrade is under way";
        assert!(reload.result.contains(words), "{reload:?}");
        // It serves meanwhile.
        drop(gateway.open(lan.port).await);
    });
    assert_eq!(said.code, Some(1), "{said:?}");
    // A stop does not wait for a new process.
    let asked = gateway.watcher.upgrade();
    let stopping = async {
        gateway
            .adit
            .wait_for_logs(2, "a new process of adit is started")
            .await;
        kill("TERM", gateway.adit.process_id());
    };
    let (said, ()) = tokio::join!(asked, stopping);
    assert!(said.result.contains("adit is stopping"), "{said:?}");
    assert!(gateway.adit.exit().await.success());
}

#[tokio::test]
async fn refuses_a_reload_while_the_old_process_may_still_have_to_go_on() {
    let mut gateway = Gateway::new(&[]).await;
    let old = gateway.adit.process_id();
    // Nobody follows while something is still to be said.
    let id = gateway.site.gateway.clone();
    let shown = gateway.site.cloud.wait_until(LIMIT, |platform| {
        let fragments = &platform.device(&id)?.fragments;
        fragments.get("adit_RemoteAccess.open").map(drop)
    });
    shown.await.unwrap();
    gateway
        .watcher
        .wait_for(|json| json["connection"]["unsent_messages"] == 0)
        .await;
    gateway.site.broker.kill();
    gateway
        .adit
        .wait_for_log("connection to the broker lost")
        .await;
    let (watcher, broker) = (&gateway.watcher, &mut gateway.site.broker);
    let (said, ()) = tokio::join!(watcher.upgrade(), async {
        // The new process answers, and waits for the broker before it is in charge.
        watcher
            .wait_for(|json| json["agent"]["process_id"] != old)
            .await;
        let reload = watcher.reload(&[]).await;
        assert_eq!(reload.code, Some(2), "{reload:?}");
        let words = "an upgrade is under way";
        assert!(reload.result.contains(words), "{reload:?}");
        broker.restart().await;
    });
    assert_eq!(said.code, Some(0), "{said:?}");
    let reload = watcher.reload(&[]).await;
    assert_eq!(reload.code, Some(0), "{reload:?}");
}

#[tokio::test]
async fn says_that_nobody_runs() {
    let watcher = Watcher::new();
    let said = watcher.upgrade().await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.result.starts_with("no adit runs"), "{said:?}");
}

#[tokio::test]
async fn keeps_the_ssh_session_that_the_upgrade_is_called_in() {
    // The sessions of sshd end with their tunnels.
    let (sshd, gateway) = (Sshd::start().await, Gateway::new(&[]).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (cloud, id) = (&gateway.site.cloud, &gateway.site.gateway);
    cloud.forward(listener, id, "127.0.0.1", sshd.port);
    let mut shell = sshd.shell(port);
    assert_eq!(shell.run("echo before").await, ("before\n".to_owned(), 0));
    for processes in 1..=2 {
        let (said, code) = shell.run(&gateway.watcher.upgrade_line()).await;
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("has taken over; process "), "{said}");
        let after = shell.run("seq 100000 | sha256sum").await;
        assert!(after.0.contains(" -") && after.1 == 0, "{after:?}");
        gateway.adit.wait_for_logs(processes, IN_CHARGE).await;
    }
    let mut another = sshd.shell(port);
    assert_eq!(another.run("echo after").await, ("after\n".to_owned(), 0));
    let json = gateway.watcher.json().await;
    assert_eq!(json["tunnels"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn refuses_to_replace_the_first_process_of_a_container() {
    let wrapped = Replaced::new("first");
    let adit = env!("CARGO_BIN_EXE_adit");
    wrapped.by(format!(
        "#!/bin/sh\nexec unshare --pid --fork --kill-child {adit} \"$@\"\n"
    ));
    let surroundings = Surroundings {
        // Where unshare is.
        variables: &[("PATH", "/usr/bin:/bin")],
        program: Some(&wrapped.program),
        ..Surroundings::default()
    };
    let gateway = Gateway::started_in(&surroundings, &[]).await;
    assert_eq!(gateway.watcher.json().await["agent"]["process_id"], 1);
    let said = gateway.watcher.upgrade().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let words = "process 1 cannot be replaced: start the new container; see remote_access.drain";
    assert!(said.result.contains(words), "{said:?}");
}
