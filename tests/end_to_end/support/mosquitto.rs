//! A real broker.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rumqttc::{Codec, Connect, Packet, Publish, QoS};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::codec::Framed;

use super::LIMIT;
use super::pki::Issued;
use super::ports::Port;
use super::process::{Process, command};
use super::temporary::Directory;

/// Who may subscribe.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Subscriptions {
    /// Everybody who may log in.
    #[default]
    Granted,
    /// The platform and not the gateway, until [`Mosquitto::grant_subscriptions`].
    Refused,
}

/// A user name and a password.
pub(crate) type User = (String, String);

/// A Mosquitto of the test's own.
pub(crate) struct Mosquitto {
    port: Port,
    /// With what keeps it from others.
    door: Option<(u16, Option<Port>)>,
    directory: Directory,
    process: Process,
}

/// The user who may change who may do what.
const ADMIN: [&str; 2] = ["admin", "admin-password"];

/// A broker and who may come to it.
pub(crate) struct Options<'a> {
    /// The user of the platform.
    pub(crate) platform: &'a User,
    /// The user of the gateway.
    pub(crate) gateway: &'a User,
    /// TLS for all who come to its port.
    pub(crate) tls: Option<&'a Issued>,
    pub(crate) subscriptions: Subscriptions,
    /// A second port, for the gateway alone.
    pub(crate) door: Option<Door<'a>>,
}

/// A port of a broker for the gateway alone.
pub(crate) struct Door<'a> {
    pub(crate) address: Ipv4Addr,
    /// Any that is free unless given.
    pub(crate) port: Option<u16>,
    pub(crate) tls: Option<&'a Issued>,
    /// The authority of devices' certificates, where one is demanded.
    pub(crate) devices: Option<&'a Path>,
    /// MQTT over WebSocket.
    pub(crate) websocket: bool,
}

impl Mosquitto {
    /// Starts a broker that knows the user of the platform and that of the gateway.
    pub(crate) async fn start(options: Options<'_>) -> Self {
        let Options {
            platform,
            gateway,
            tls,
            subscriptions,
            door,
        } = options;
        let directory = Directory::new();
        let port = Port::reserve();
        let mut config = format!(
            "listener {} 127.0.0.1\n{}user root\nlog_dest stderr\nlog_type all\n\
             persistence true\npersistence_location {}/\nautosave_interval 0\n",
            port.number,
            tls_lines(tls),
            directory.path("").display(),
        );
        match subscriptions {
            Subscriptions::Granted => {
                write_users(&directory, &[platform, gateway]);
                let users = directory.path("users");
                writeln!(config, "password_file {}", users.display()).unwrap();
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
        let door = door.map(|door| {
            // One that is given is free: the address is the test's own.
            let reserved = door.port.is_none().then(Port::reserve);
            let number = reserved.as_ref().map(|port| port.number);
            let number = number.or(door.port).expect("one of them");
            config += &door.lines(number);
            (number, reserved)
        });
        directory.write("mosquitto.conf", &config);
        let process = spawn(&directory).await;
        let broker = Self {
            port,
            door,
            directory,
            process,
        };
        if subscriptions == Subscriptions::Refused {
            broker.control(&roles(platform, gateway)).await;
        }
        broker
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    /// The port for the gateway.
    pub(crate) fn gateway_port(&self) -> u16 {
        self.door
            .as_ref()
            .map_or(self.port.number, |(number, _)| *number)
    }

    /// Waits for the `n`th line of its log that contains `text`, and returns it.
    pub(crate) async fn wait_for_logs(&self, n: usize, text: &str) -> String {
        let line = self.process.find_line(n, text).await;
        line.unwrap_or_else(|| panic!("mosquitto has ended without a word of {text:?}"))
    }

    /// Lets the gateway subscribe from now on.
    pub(crate) async fn grant_subscriptions(&self) {
        let command =
            r#"{"command":"setDefaultACLAccess","acls":[{"acltype":"subscribe","allow":true}]}"#;
        self.control(command).await;
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

    /// Waits for two publishes of a client, and returns the kinds of the packets that came from it,
    /// in order; `CONNECT` is not among them.
    pub(crate) async fn packets_of(&self, client_id: &str) -> Vec<String> {
        let from = format!(" from {client_id}");
        let publish = format!("Received PUBLISH{from}");
        assert!(self.process.find_line(2, &publish).await.is_some());
        let lines = self.process.lines();
        let packets = lines.iter().filter(|line| line.contains(&from));
        packets
            .filter_map(|line| line.split_once("Received ")?.1.split(' ').next())
            .map(str::to_owned)
            .collect()
    }

    /// Carries out commands of the plug-in for dynamic security.
    async fn control(&self, commands: &str) {
        const TOPIC: &str = "$CONTROL/dynamic-security/v1";
        let commands = format!("{{\"commands\":[{commands}]}}");
        let publish = Publish::new(TOPIC, QoS::AtLeastOnce, commands);
        self.publish(ADMIN, publish).await;
    }

    /// Publishes as a client of its own.
    pub(crate) async fn publish(&self, [user, password]: [&str; 2], mut publish: Publish) {
        let address = (Ipv4Addr::LOCALHOST, self.port());
        let codec = Codec {
            max_incoming_size: 1 << 16,
            max_outgoing_size: 2 << 20,
        };
        let mut link = Framed::new(TcpStream::connect(address).await.unwrap(), codec);
        let mut connect = Connect::new("publisher");
        connect.set_login(user, password);
        link.send(Packet::Connect(connect)).await.unwrap();
        publish.pkid = 1;
        link.send(Packet::Publish(publish)).await.unwrap();
        // A command is acknowledged when it has been carried out.
        let acknowledged =
            async { while !matches!(link.next().await.unwrap().unwrap(), Packet::PubAck(_)) {} };
        timeout(LIMIT, acknowledged)
            .await
            .expect("mosquitto takes commands");
    }
}

impl Door<'_> {
    fn lines(&self, port: u16) -> String {
        let mut lines = format!("listener {port} {}\n{}", self.address, tls_lines(self.tls));
        if let Some(devices) = self.devices {
            let file = devices.display();
            write!(
                lines,
                "cafile {file}\nrequire_certificate true\nuse_identity_as_username true\n"
            )
            .unwrap();
        }
        if self.websocket {
            lines += "protocol websockets\n";
        }
        lines
    }
}

fn tls_lines(tls: Option<&Issued>) -> String {
    tls.map_or_else(String::new, |issued| {
        let (cert, key) = (issued.cert_file.display(), issued.key_file.display());
        format!("certfile {cert}\nkeyfile {key}\n")
    })
}

/// The commands that let the platform do everything and the gateway everything but subscribe.
fn roles(platform: &User, gateway: &User) -> String {
    let rule = |what: &str| format!("{{\"acltype\":\"{what}\",\"topic\":\"#\",\"allow\":true}}");
    let role = |name: &str, rules: &[String]| {
        let rules = rules.join(",");
        format!("{{\"command\":\"createRole\",\"rolename\":\"{name}\",\"acls\":[{rules}]}}")
    };
    let client = |(name, password): &User, role: &str| {
        format!(
            "{{\"command\":\"createClient\",\"username\":\"{name}\",\"password\":\"{password}\",\
             \"roles\":[{{\"rolename\":\"{role}\"}}]}}"
        )
    };
    [
        role(
            "platform",
            &[rule("publishClientSend"), rule("subscribePattern")],
        ),
        role("gateway", &[rule("publishClientSend")]),
        client(platform, "platform"),
        client(gateway, "gateway"),
    ]
    .join(",")
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

fn run(program: &str, arguments: &[&str]) {
    let output = command(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
