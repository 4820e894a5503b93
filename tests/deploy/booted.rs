//! The unit under a real systemd, which `tests/deploy/boot` boots: what it makes of the words that adit
//! sends it, and whether adit lives within what the unit leaves it.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::container::{DEVICE, PASSWORD, Surroundings, descendant};
use crate::support::{Directory, LIMIT, Lan, Process, announced, command, open, repository};

/// Booting and each command, on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A systemd that runs. Dropping it ends all that it has started.
struct Booted {
    _process: Process,
    _directory: Directory,
    id: u32,
}

impl Booted {
    /// Boots; `None` where this machine cannot, which is said.
    async fn new(surroundings: &Surroundings) -> Option<Self> {
        let directory = Directory::new();
        let login = &surroundings.cloud.options().device_login;
        let config = format!(
            "[device]\nid = {DEVICE:?}\n\
             [mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\
             [cloud]\nurl = \"{}\"\n\
             [auth]\ntenant = {:?}\nusername = {:?}\npassword_file = \"/etc/adit/password\"\n",
            surroundings.port.number,
            surroundings.cloud.url(),
            login.tenant,
            login.user,
        );
        let mut boot = command("setpriv");
        boot.args(["--pdeathsig", "KILL"])
            .arg(repository("tests/deploy/boot"))
            .arg(env!("CARGO_BIN_EXE_adit"))
            .arg(directory.write("adit.toml", &config))
            .arg(directory.write("password", PASSWORD));
        let process = Process::start_group("systemd", &mut boot);
        if process.find_line(1, "boots").await.is_none() {
            let said = process.lines().join("\n");
            assert!(said.contains("left out: "), "{said}");
            // Past the test runner, which would keep it to itself.
            drop(writeln!(std::io::stderr(), "tests/deploy/boot: {said}"));
            return None;
        }
        let booted = Self {
            id: descendant(process.id(), "systemd").await,
            _process: process,
            _directory: directory,
        };
        let booting = async {
            loop {
                match booted.try_to("systemctl is-system-running").await {
                    (_, state) if ["running", "degraded"].contains(&state.as_str()) => break,
                    _ => sleep(ASK_AGAIN).await,
                }
            }
        };
        let booting = timeout(COMMAND_LIMIT, booting).await;
        booting.expect("systemd has started everything");
        Some(booted)
    }

    /// Runs a line of the shell there; returns whether it succeeds, and what it prints.
    async fn try_to(&self, line: &str) -> (bool, String) {
        let mut enter = tokio::process::Command::from(command("nsenter"));
        enter
            .arg(format!("--target={}", self.id))
            .args("--mount --pid --uts --ipc --cgroup --root --wd".split(' '))
            .args(["env", "--ignore-environment"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", line])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(COMMAND_LIMIT, enter.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{line}: no end")).unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    }

    async fn run(&self, line: &str) -> String {
        let (is_good, said) = self.try_to(line).await;
        assert!(is_good, "{line}: {said}\n{}", self.log().await);
        said
    }

    async fn log(&self) -> String {
        self.try_to("journalctl --no-pager").await.1
    }

    /// Returns what systemd knows of the unit.
    async fn property(&self, name: &str) -> String {
        let line = format!("systemctl show adit --property {name} --value");
        self.run(&line).await
    }

    async fn main_process(&self) -> String {
        self.property("MainPID").await
    }

    /// Asks until a property of the unit is as it should be, and returns it.
    async fn wait_for(&self, property: &str, fits: impl Fn(&str) -> bool) -> String {
        let found = async {
            loop {
                let value = self.property(property).await;
                if fits(&value) {
                    return value;
                }
                sleep(ASK_AGAIN).await;
            }
        };
        match timeout(LIMIT, found).await {
            Ok(value) => value,
            Err(_) => panic!("{property}\n{}", self.log().await),
        }
    }

    /// Waits until the unit is in a state, as "active".
    async fn comes_to(&self, state: &str) {
        self.wait_for("ActiveState", |now| now == state).await;
    }

    /// Waits for another main process than one.
    async fn successor(&self, of: &str) -> String {
        self.wait_for("MainPID", |id| id != "0" && id != of).await
    }

    /// Starts the unit once more, with further settings.
    async fn restart_with(&self, settings: &str) {
        let directory = "/run/systemd/system/adit.service.d";
        self.run(&format!(
            "mkdir -p {directory} && printf '[Service]\\n{settings}\\n' > {directory}/test.conf \
             && systemctl daemon-reload && systemctl restart adit"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_real_systemd_starts_it_reloads_it_and_keeps_its_log() {
    let surroundings = Surroundings::new().await;
    let Some(booted) = Booted::new(&surroundings).await else {
        return;
    };
    booted.run("systemctl start adit").await;
    announced(&surroundings.cloud).await;
    let main = booted.main_process().await;
    let warnings = "journalctl --identifier adit --priority warning --output cat --no-pager";
    assert_eq!(booted.run(warnings).await, "");
    booted
        .run("systemd-analyze security --no-pager --threshold=15 adit")
        .await;
    booted.run("adit status").await;
    booted.run("adit check --agent").await;
    booted.run("runuser -u adit -- adit check --no-login").await;

    booted.run("systemctl reload adit").await;
    booted.run("echo nonsense = 1 >> /etc/adit/adit.toml").await;
    let (is_good, _) = booted.try_to("systemctl reload adit").await;
    assert!(!is_good);
    assert_eq!(booted.property("ActiveState").await, "active");
    assert_eq!(booted.main_process().await, main);
    let errors = "journalctl --identifier adit --priority err --output json --no-pager";
    let errors = booted.run(errors).await;
    let [error]: [Value; 1] = errors
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert_eq!(error["PRIORITY"], "3", "{error}");
    assert_eq!(error["SYSLOG_IDENTIFIER"], "adit", "{error}");
    let message = error["MESSAGE"].as_str().unwrap();
    assert!(!message.starts_with('<'), "{message}");
    assert!(
        message.contains("the new configuration cannot be used"),
        "{message}"
    );

    // So is one that adit is started with, until it is good.
    let (is_good, _) = booted.try_to("systemctl restart adit").await;
    assert!(!is_good);
    booted
        .wait_for("ExecMainStatus", |status| status == "2")
        .await;
    booted.run("sed -i '$d' /etc/adit/adit.toml").await;
    booted.comes_to("active").await;
}

#[tokio::test]
async fn a_real_systemd_starts_it_once_a_file_is_there_that_came_late() {
    let surroundings = Surroundings::new().await;
    let Some(booted) = Booted::new(&surroundings).await else {
        return;
    };
    booted.run("mv /etc/adit/password /etc/adit/later").await;
    let (is_good, _) = booted.try_to("systemctl start adit").await;
    assert!(!is_good);
    booted
        .wait_for("ExecMainStatus", |status| status == "2")
        .await;
    booted.run("mv /etc/adit/later /etc/adit/password").await;
    booted.comes_to("active").await;
    announced(&surroundings.cloud).await;
}

#[tokio::test]
async fn a_real_systemd_follows_an_upgrade_and_lets_tunnels_end() {
    let surroundings = Surroundings::new().await;
    let Some(booted) = Booted::new(&surroundings).await else {
        return;
    };
    let cloud = &surroundings.cloud;
    booted
        .restart_with("Environment=ADIT_REMOTE_ACCESS_DRAIN=1m")
        .await;
    announced(cloud).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = open(cloud, DEVICE, lan.port).await;
    far_end.echo("before").await;

    let first = booted.main_process().await;
    booted
        .run("systemctl kill --kill-who main --signal USR2 adit")
        .await;
    let second = booted.successor(&first).await;
    booted
        .run("cp /usr/bin/adit /usr/bin/new && mv /usr/bin/new /usr/bin/adit")
        .await;
    let third = booted.run("adit upgrade").await;
    assert!(third.contains("has taken over"), "{third}");
    let third = booted.successor(&second).await;
    far_end.echo("in the first process").await;
    booted
        .run(&format!(
            "kill -0 {first} && test /usr/bin/adit -ef /proc/{third}/exe"
        ))
        .await;
    let (_, mut newer) = open(cloud, DEVICE, lan.port).await;
    newer.echo("in the third").await;
    assert_eq!(booted.property("ActiveState").await, "active");
    assert_eq!(booted.property("NRestarts").await, "0");

    booted.run("systemctl stop --no-block adit").await;
    booted.comes_to("deactivating").await;
    for tunnel in [&mut far_end, &mut newer] {
        tunnel.echo("while it stops").await;
    }
    drop((far_end, newer));
    booted.comes_to("inactive").await;
    assert_eq!(booted.property("Result").await, "success");
}

#[tokio::test]
async fn a_real_systemd_starts_it_again_when_it_is_killed_while_an_older_one_carries() {
    let surroundings = Surroundings::new().await;
    let Some(booted) = Booted::new(&surroundings).await else {
        return;
    };
    let cloud = &surroundings.cloud;
    booted.restart_with("RestartSec=100ms").await;
    announced(cloud).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = open(cloud, DEVICE, lan.port).await;
    let first = booted.main_process().await;
    booted.run("adit upgrade").await;
    let second = booted.successor(&first).await;
    far_end.echo("in the first process").await;
    booted.run(&format!("kill -KILL {second}")).await;
    let third = booted.successor(&second).await;
    assert_ne!(third, first);
    booted.comes_to("active").await;
    let (_, mut newer) = open(cloud, DEVICE, lan.port).await;
    newer.echo("in the third").await;
    let words = "connected; tunnels: 1";
    booted.wait_for("StatusText", |text| text == words).await;
}

#[tokio::test]
async fn a_real_systemd_starts_it_again_when_it_is_stuck_or_killed() {
    let surroundings = Surroundings::new().await;
    let Some(booted) = Booted::new(&surroundings).await else {
        return;
    };
    booted.run("systemctl start adit").await;
    assert_ne!(booted.property("WatchdogUSec").await, "infinity");
    booted
        .restart_with("WatchdogSec=2\\nRestartSec=100ms")
        .await;
    let first = booted.main_process().await;
    booted.run("adit upgrade").await;
    let second = booted.successor(&first).await;
    // It is the new process that is heard.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(booted.main_process().await, second);
    booted.run(&format!("kill -STOP {second}")).await;
    let third = booted.successor(&second).await;
    assert!(booted.log().await.contains("Watchdog timeout"));
    booted.comes_to("active").await;
    booted.run(&format!("kill -KILL {third}")).await;
    booted.successor(&third).await;
    booted.comes_to("active").await;
}
