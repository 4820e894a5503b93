//! A real broker.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::LIMIT;
use super::pki::Pki;
use super::ports::Port;
use super::process::Process;
use super::temporary::Directory;

/// Who may subscribe.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Subscriptions {
    /// Everybody who may log in.
    #[default]
    Granted,
    /// Nobody but the platform, until [`Mosquitto::grant_subscriptions`].
    Refused,
}

/// A user name and a password.
pub(crate) type User = (String, String);

/// A Mosquitto of the test's own.
pub(crate) struct Mosquitto {
    port: Port,
    directory: Directory,
    process: Process,
}

/// Debian keeps the broker where only root's path leads.
const EXTRA_PATH: &str = ":/usr/sbin:/usr/local/sbin";
/// The user who may change who may do what.
const ADMIN: [&str; 2] = ["admin", "admin-password"];

impl Mosquitto {
    /// Starts a broker that knows the user of the platform and that of the gateway.
    pub(crate) async fn start(
        platform: &User,
        gateway: &User,
        tls: Option<&Pki>,
        subscriptions: Subscriptions,
    ) -> Self {
        let directory = Directory::new();
        let port = Port::reserve();
        let mut config = format!(
            "listener {} 127.0.0.1\nuser root\nlog_dest stderr\nlog_type all\n\
             persistence true\npersistence_location {}/\nautosave_interval 0\n",
            port.number,
            directory.path("").display(),
        );
        if let Some(Pki {
            cert_file,
            key_file,
            ..
        }) = tls
        {
            let (cert, key) = (cert_file.display(), key_file.display());
            write!(config, "certfile {cert}\nkeyfile {key}\n").unwrap();
        }
        match subscriptions {
            Subscriptions::Granted => {
                write_users(&directory, &[platform, gateway]);
                let users = directory.path("users");
                write!(config, "password_file {}\n", users.display()).unwrap();
            }
            Subscriptions::Refused => {
                let rights = directory.path("rights.json");
                let file = rights.display().to_string();
                run(
                    "mosquitto_ctrl",
                    &["dynsec", "init", &file, ADMIN[0], ADMIN[1]],
                );
                let plugin = dynamic_security();
                let plugin = plugin.display();
                write!(config, "plugin {plugin}\nplugin_opt_config_file {file}\n").unwrap();
            }
        }
        directory.write("mosquitto.conf", &config);
        let process = spawn(&directory).await;
        let broker = Self {
            port,
            directory,
            process,
        };
        if subscriptions == Subscriptions::Refused {
            broker.control(&["setDefaultACLAccess", "publishClientSend", "allow"]);
            broker.control(&["createRole", "platform"]);
            broker.control(&[
                "addRoleACL",
                "platform",
                "subscribePattern",
                "#",
                "allow",
                "1",
            ]);
            for (name, password) in [platform, gateway] {
                broker.control(&["createClient", name, "-p", password]);
            }
            broker.control(&["addClientRole", &platform.0, "platform", "1"]);
        }
        broker
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    /// Lets everybody subscribe from now on.
    pub(crate) fn grant_subscriptions(&self) {
        self.control(&["setDefaultACLAccess", "subscribe", "allow"]);
    }

    /// Replaces all users.
    pub(crate) fn set_users(&mut self, users: &[&User]) {
        write_users(&self.directory, users);
        self.process.signal("HUP");
    }

    /// Makes the broker know its sessions and subscriptions of now again after a crash, as a broker
    /// in the cloud does: what adit publishes waits there until the platform is back too.
    pub(crate) async fn remember_sessions(&mut self) {
        self.process.signal("USR1");
        let saved = self.directory.path("mosquitto.db");
        let exists = async {
            while !saved.exists() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, exists)
            .await
            .expect("mosquitto saves its sessions");
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again at the same port.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(&self.directory).await;
    }

    /// Returns the kinds of the packets that came from a client, in order, `CONNECT` excepted.
    pub(crate) fn packets_of(&self, client_id: &str) -> Vec<String> {
        let from = format!(" from {client_id}");
        let lines = self.process.lines();
        let packets = lines.iter().filter(|line| line.contains(&from));
        packets
            .filter_map(|line| line.split_once("Received ")?.1.split(' ').next())
            .map(str::to_owned)
            .collect()
    }

    fn control(&self, arguments: &[&str]) {
        let port = self.port().to_string();
        let mut all = vec![
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-u",
            ADMIN[0],
            "-P",
            ADMIN[1],
        ];
        all.push("dynsec");
        all.extend(arguments);
        run("mosquitto_ctrl", &all);
    }
}

async fn spawn(directory: &Directory) -> Process {
    let config = directory.path("mosquitto.conf");
    let process = Process::start("mosquitto", command("mosquitto").arg("-c").arg(config));
    let running = process.find_line(1, " running").await;
    assert!(running.is_some(), "{}", process.lines().join("\n"));
    process
}

fn write_users(directory: &Directory, users: &[&User]) {
    let text: String = users
        .iter()
        .map(|(name, password)| format!("{name}:{password}\n"))
        .collect();
    let file = directory.write("users", &text);
    run("mosquitto_passwd", &["-U", &file.display().to_string()]);
}

fn dynamic_security() -> PathBuf {
    let libraries = ["/usr/lib", "/usr/local/lib", "/usr/lib64"];
    let folders = libraries.iter().flat_map(|folder| {
        let within = std::fs::read_dir(folder).into_iter().flatten().flatten();
        within
            .map(|entry| entry.path())
            .chain([Path::new(folder).to_owned()])
    });
    folders
        .map(|folder| folder.join("mosquitto_dynamic_security.so"))
        .find(|file| file.exists())
        .expect("mosquitto has its plug-in for dynamic security")
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env(
        "PATH",
        std::env::var("PATH").unwrap_or_default() + EXTRA_PATH,
    );
    command
}

fn run(program: &str, arguments: &[&str]) {
    let output = command(program).args(arguments).output().unwrap();
    // mosquitto_ctrl ends with 0 also where the broker has refused.
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = !output.status.success() || said.contains("Error");
    assert!(!refused, "{program} {arguments:?}: {said}");
}
