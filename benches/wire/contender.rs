//! Who is measured: the agent, and the floor beside which it stands. Each is a process of its own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::geteuid;

use crate::broker::Broker;
use crate::site::Site;

/// The argument that makes the floor of this program.
pub(crate) const FLOOR: &str = "floor-process";
/// More than any figure opens at once.
const MAX_TUNNELS: usize = 6000;
/// Lines of the agent's log that are shown where it fails.
const LAST_LINES: usize = 20;

pub(crate) enum Contender {
    Adit(Agent),
    Floor(Floor),
}

impl Contender {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Adit(_) => "adit",
            Self::Floor(_) => "floor",
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Adit(agent) => agent.process.id(),
            Self::Floor(floor) => floor.process.id(),
        }
    }

    /// Asks for a tunnel from the site's cloud to its machine.
    pub(crate) fn request(&mut self, site: &Site, key: &str) {
        let (cloud, machine) = (site.cloud.port, site.lan_port);
        match self {
            Self::Adit(agent) => {
                let row = format!("530,bench-gateway,127.0.0.1,{machine},{key}");
                agent.broker.send(row);
            }
            Self::Floor(floor) => {
                let line = format!("{cloud} {machine} {key}\n");
                floor.input.write_all(line.as_bytes()).unwrap();
            }
        }
    }

    /// Ends the bench with what is known about the failure.
    pub(crate) fn give_up(&self, complaint: &str) -> ! {
        if let Self::Adit(agent) = self {
            let log = fs::read_to_string(&agent.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(LAST_LINES).collect();
            for line in lines.into_iter().rev() {
                eprintln!("{line}");
            }
        }
        panic!("{} {complaint}", self.name());
    }
}

/// `adit run`, with the broker that it is connected to.
pub(crate) struct Agent {
    process: Child,
    broker: Broker,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent and waits until it takes operations.
    pub(crate) fn start(site: &Site, program: &Path) -> Contender {
        let broker = Broker::start(&site.tls);
        let config = site.folder.join("adit.toml");
        fs::write(&config, configuration(site, broker.port)).unwrap();
        // It holds a password.
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        let log = site.folder.join("adit.log");
        let mut command = Command::new(program);
        command.args(["run", "--config"]).arg(config).env_clear();
        if !geteuid().is_root() {
            // Nobody but root may look at the memory of an adit that confines itself.
            command.env("ADIT_NO_SANDBOX", "1");
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let agent = Contender::Adit(Self {
            process,
            broker,
            log,
        });
        if let Contender::Adit(ready) = &agent
            && !ready.broker.wait_for("500")
        {
            agent.give_up("does not ask for operations");
        }
        agent
    }
}

/// What a user would write, but for the limit of tunnels, and pings that the cloud's end of this
/// bench does not answer.
fn configuration(site: &Site, broker: u16) -> String {
    format!(
        "[device]\n\
         id = \"bench-gateway\"\n\
         [cloud]\n\
         url = \"https://127.0.0.1:{cloud}\"\n\
         ca_file = \"{authority}\"\n\
         proxy = \"none\"\n\
         [mqtt]\n\
         url = \"mqtts://127.0.0.1:{broker}\"\n\
         [auth]\n\
         tenant = \"t1\"\n\
         username = \"bench\"\n\
         password = \"bench\"\n\
         [remote_access]\n\
         max_tunnels = {MAX_TUNNELS}\n\
         connect_timeout = \"1m\"\n\
         keep_alive = \"1h\"\n\
         operation_ids = \"none\"\n\
         [admin]\n\
         socket = \"{socket}\"\n",
        cloud = site.cloud.port,
        authority = site.authority().display(),
        socket = site.folder.join("adit.sock").display(),
    )
}

impl Drop for Agent {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// This program once more, as the floor.
pub(crate) struct Floor {
    process: Child,
    input: ChildStdin,
}

impl Floor {
    pub(crate) fn start(site: &Site) -> Contender {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(FLOOR)
            .arg(site.authority())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().expect("standard input is piped");
        Contender::Floor(Self { process, input })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}
