//! A Mosquitto that is frozen, ended and started again.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{Directory, LIMIT, Port, Process, command};

/// What it keeps its sessions in.
const DATABASE: &str = "mosquitto.db";

/// A broker that lets everybody in.
pub(crate) struct Broker {
    port: Port,
    directory: Directory,
    process: Process,
    /// Lets it go on.
    thaw: JoinSet<()>,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let directory = Directory::new();
        let port = Port::reserve();
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest stderr\n\
             log_type error\nlog_type warning\nlog_type information\npersistence true\n\
             persistence_location {}/\nautosave_interval 0\n",
            port.number,
            directory.path("").display(),
        );
        directory.write("mosquitto.conf", &config);
        let process = spawn(&directory).await;
        Self {
            port,
            directory,
            process,
            thaw: JoinSet::new(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    /// Makes it know its sessions and subscriptions of now again after a crash, as a broker in the
    /// cloud does: what adit publishes waits there until the platform is back too.
    pub(crate) async fn remember_sessions(&mut self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        let before = self.saved_at();
        self.process.signal("USR1");
        let saved = async {
            while self.saved_at() == before {
                sleep(LOOK_AGAIN).await;
            }
        };
        let saved = timeout(LIMIT, saved).await;
        saved.expect("mosquitto saves its sessions");
    }

    fn saved_at(&self) -> Option<SystemTime> {
        let file = fs::metadata(self.directory.path(DATABASE)).ok()?;
        file.modified().ok()
    }

    /// Stops it from doing anything for a while.
    pub(crate) fn freeze(&mut self, lasts: Duration) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        self.process.signal("STOP");
        self.thaw.spawn(async move {
            sleep(lasts).await;
            let _ = pid.map(|pid| kill_process(pid, Signal::CONT));
        });
    }

    /// Waits until it goes on.
    pub(crate) async fn thaws(&mut self) {
        while self.thaw.join_next().await.is_some() {}
    }

    /// Ends it, as a crash or as an administrator does.
    pub(crate) async fn end(&mut self, kill: bool) {
        // It may be frozen.
        self.thaw.shutdown().await;
        self.process.signal("CONT");
        if kill {
            self.process.kill();
        } else {
            self.process.signal("TERM");
            self.process.wait_for_exit(LIMIT).await;
        }
    }

    /// Starts it again at the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(&self.directory).await;
    }
}

async fn spawn(directory: &Directory) -> Process {
    let config = directory.path("mosquitto.conf");
    let process = Process::start("mosquitto", command("mosquitto").arg("-c").arg(config));
    let running = process.find_line(1, " running").await;
    assert!(running.is_some(), "{}", process.lines().join("\n"));
    process
}
