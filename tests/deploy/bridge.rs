//! adit behind a local broker that bridges, with the configuration of `deploy/mosquitto/`.

use std::collections::BTreeSet;

use simulated_cloud::{Cloud, OperationId, Options, Status};
use smartrest::Topics;

use crate::cable::Cable;
use crate::support::{
    Adit, Authority, BlackHole, Directory, Flaw, Issued, LIMIT, Lan, Port, Process, announced,
    event, mosquitto, open, read, refusing_port, replace, rows, users,
};

/// As the bridge's configuration has them.
const GATEWAY: &str = "gateway-7";
const PASSWORD: &str = "the-password-of-the-device";
/// The user of the local broker.
const LOCAL: (&str, &str) = ("adit", "local-password");
/// The simulated platform's user at the broker in the cloud.
const PLATFORM: (&str, &str) = ("platform", "platform-password");

/// Two brokers, the platform at one and adit at the other.
struct Bridge {
    cloud: Cloud,
    cloud_broker: Process,
    cloud_config: String,
    directories: [Directory; 2],
    authority: Authority,
    local_port: Port,
    local_broker: Process,
    cable: Cable,
    _cloud_port: Port,
}

impl Bridge {
    async fn start() -> Self {
        let directories = [Directory::new(), Directory::new()];
        let [far, near] = &directories;
        let authority = Authority::new(far);
        let address = std::net::Ipv4Addr::LOCALHOST;
        let Issued {
            cert_file,
            key_file,
            server,
        } = authority.server(far, "the cloud", address, Flaw::None);
        let ports = [Port::reserve(), Port::reserve()];
        let [cloud_port, local_port] = &ports;

        let device = format!("t12345/device_{GATEWAY}");
        let cloud_config = format!(
            "listener {} 127.0.0.1\nuser root\nlog_dest stderr\nlog_type all\ncertfile {}\n\
             keyfile {}\npassword_file {}\npersistence true\npersistence_location {}/\n",
            cloud_port.number,
            cert_file.display(),
            key_file.display(),
            users(far, &[PLATFORM, (&device, PASSWORD)]).display(),
            far.path("").display(),
        );
        let cloud_broker = mosquitto(far, &cloud_config).await;
        let mut options = Options::new(GATEWAY, cloud_port.number);
        options.broker.login = Some((PLATFORM.0.to_owned(), PLATFORM.1.to_owned()));
        options.broker.roots = Some(authority.roots.clone());
        options.tls = Some(server);
        options.device_login.password = PASSWORD.to_owned();
        let cloud = Cloud::start(options).await.unwrap();

        let cable = Cable::lay(cloud_port.number).await;
        // Only addresses and files are other ones here.
        let users = users(near, &[LOCAL]).display().to_string();
        let mut config = read("deploy/mosquitto/cumulocity.conf");
        for (from, to) in [
            (
                "listener 1883 127.0.0.1\n",
                format!("listener {} 127.0.0.1\n", local_port.number),
            ),
            (
                "password_file /etc/mosquitto/passwd\n",
                format!("password_file {users}\n"),
            ),
            (
                "address tenant.example.com:8883\n",
                format!("address 127.0.0.1:{}\n", cable.port),
            ),
            (
                "bridge_capath /etc/ssl/certs\n",
                format!("bridge_cafile {}\n", authority.file.display()),
            ),
        ] {
            config = replace(&config, from, &to);
        }
        let local_broker = mosquitto(
            near,
            &format!("user root\nlog_dest stderr\nlog_type all\n{config}"),
        )
        .await;
        let [cloud_port, local_port] = ports;
        Self {
            cloud,
            cloud_broker,
            cloud_config,
            directories,
            authority,
            local_port,
            local_broker,
            cable,
            _cloud_port: cloud_port,
        }
    }

    /// Starts adit as the head of the bridge's configuration says, and waits until it is announced.
    async fn adit(&self) -> Adit {
        self.adit_with("").await
    }

    /// Starts it with another section.
    async fn adit_with(&self, section: &str) -> Adit {
        let config = format!(
            "[device]\nid = \"{GATEWAY}\"\n[cloud]\nurl = {:?}\nca_file = {:?}\n\
             [mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\ntopic_prefix = \"c8y/\"\n\
             username = {:?}\npassword = {:?}\n{section}",
            self.cloud.url(),
            self.authority.file,
            self.local_port.number,
            LOCAL.0,
            LOCAL.1,
        );
        let adit = Adit::start(&config, &[]).ready().await;
        announced(&self.cloud).await;
        adit
    }

    /// Waits until the cloud has acknowledged everything that the bridge has sent it.
    async fn delivered(&self) {
        let sent = || {
            let lines = self.local_broker.lines();
            let sent = format!("Sending PUBLISH to local.{GATEWAY}");
            lines.iter().filter(|line| line.contains(&sent)).count()
        };
        let acknowledged = format!("Received PUBACK from local.{GATEWAY}");
        loop {
            let so_far = sent();
            let last = self.local_broker.find_line(so_far, &acknowledged).await;
            assert!(last.is_some());
            if sent() == so_far {
                return;
            }
        }
    }
}

/// Waits until an operation has failed, and returns the reason.
async fn failed(cloud: &Cloud, id: OperationId) -> String {
    let failed = cloud.wait_for_status(id, Status::Failed, LIMIT).await;
    failed.unwrap().reason.unwrap_or_default()
}

#[tokio::test]
async fn announces_itself_and_opens_tunnels_across_a_bridge() {
    let bridge = Bridge::start().await;
    let _adit = bridge.adit().await;
    let Bridge { cloud, .. } = &bridge;
    let announced = rows(cloud, "s/us");
    let templates: Vec<_> = announced
        .iter()
        .filter_map(|row| row.split(',').next())
        .collect();
    assert_eq!(
        templates,
        ["100", "114", "150", "117", "122", "507", "102", "500"],
        "{announced:?}"
    );
    cloud.create_device("plc", "PLC", "machine");
    let lan = Lan::echo().await;
    for device in [GATEWAY, "plc"] {
        let (_, mut far_end) = open(cloud, device, lan.port).await;
        far_end.echo("hello").await;
        far_end.close().await;
        let (kind, _) = event(cloud, device, 2).await;
        assert_eq!(kind, "c8y_RemoteAccessClosed");
    }
    // By their ids: the bridge carries notifications.
    let to_child = rows(cloud, "s/us/plc");
    for status in ["504,", "506,"] {
        assert!(
            to_child.iter().any(|row| row.starts_with(status)),
            "{to_child:?}"
        );
    }
    let updates = rows(cloud, &format!("inventory/managedObjects/update/{GATEWAY}"));
    assert!(!updates.is_empty());
    // Nobody has told adit a user of the platform.
    for handshake in cloud.handshakes() {
        assert_eq!(handshake.authorization.as_deref(), Some("Bearer"));
    }
    assert_eq!(rows(cloud, "s/uat").len(), 1);
    assert_eq!(cloud.errors(), []);
}

#[tokio::test]
async fn shows_tunnels_the_user_of_the_platform_if_it_knows_one() {
    let bridge = Bridge::start().await;
    let auth = format!(
        "[auth]\ntenant = \"t12345\"\nusername = \"device_{GATEWAY}\"\npassword = {PASSWORD:?}\n"
    );
    let _adit = bridge.adit_with(&auth).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = open(&bridge.cloud, GATEWAY, lan.port).await;
    far_end.echo("hello").await;
    let [handshake] = &bridge.cloud.handshakes()[..] else {
        panic!("one handshake")
    };
    assert_eq!(handshake.authorization.as_deref(), Some("Basic"));
    assert_eq!(rows(&bridge.cloud, "s/uat").len(), 0);
}

#[tokio::test]
async fn loses_nothing_while_the_bridge_has_no_cloud() {
    let mut bridge = Bridge::start().await;
    let adit = bridge.adit().await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = open(&bridge.cloud, GATEWAY, lan.port).await;
    event(&bridge.cloud, GATEWAY, 1).await;
    // The broker in the cloud keeps its sessions, as the platform does.
    bridge.cloud_broker.signal("USR1");
    let saved = " Saving in-memory database to ";
    bridge.cloud_broker.find_line(1, saved).await.unwrap();
    bridge.cloud_broker.signal("TERM");
    bridge.cloud_broker.wait_for_exit(LIMIT).await;
    bridge.cloud.wait_for_broker_loss(LIMIT).await.unwrap();

    far_end.echo("the tunnel does not care").await;
    far_end.close().await;
    adit.wait_for_log("ended").await;
    // The local broker has taken the event, and adit thinks no more of it.
    let taken = "Received PUBLISH from gateway-7";
    let so_far = |broker: &Process| {
        let lines = broker.lines();
        lines.iter().filter(|line| line.contains(taken)).count()
    };
    assert!(so_far(&bridge.local_broker) > 0);

    bridge.cloud_broker = mosquitto(&bridge.directories[0], &bridge.cloud_config).await;
    // The first event may come twice: the broker ended before its acknowledgement.
    let closed = bridge.cloud.wait_until(LIMIT, |platform| {
        let mut events = platform.events().iter();
        events.find_map(|event| (event.kind == "c8y_RemoteAccessClosed").then_some(()))
    });
    closed.await.unwrap();
    let (_, mut far_end) = open(&bridge.cloud, GATEWAY, lan.port).await;
    far_end.echo("and again").await;
    assert!(!adit.log().contains("connection to the broker lost"));
}

#[tokio::test]
async fn lands_every_result_on_its_operation_after_the_bridge_was_away() {
    const ROUNDS: usize = 2;
    let bridge = Bridge::start().await;
    let _adit = bridge
        .adit_with("[remote_access]\nconnect_timeout = \"2s\"\n")
        .await;
    let Bridge { cloud, cable, .. } = &bridge;
    let lan = Lan::echo().await;
    // With a token from now on.
    open(cloud, GATEWAY, lan.port).await;
    let (gone, suback) = (
        format!("Client {GATEWAY} "),
        format!("Sending SUBACK to {GATEWAY}"),
    );
    for round in 1..=ROUNDS {
        let (silent, refusing) = (BlackHole::new().await, refusing_port());
        // Its result falls into the outage.
        let before = cloud
            .open_tunnel(GATEWAY, "127.0.0.1", silent.port)
            .unwrap();
        let executing = cloud.wait_for_status(before.operation, Status::Executing, LIMIT);
        executing.await.unwrap();
        bridge.delivered().await;
        cable.cut();
        assert!(bridge.cloud_broker.find_line(round, &gone).await.is_some());
        let lost = cloud
            .open_tunnel(GATEWAY, "127.0.0.1", refusing.number)
            .unwrap();
        cable.join();
        // One for each topic, at each connection.
        let subscribed = bridge
            .cloud_broker
            .find_line(5 * (round + 1), &suback)
            .await;
        assert!(subscribed.is_some());
        let reason = failed(cloud, lost.operation).await;
        let expected = format!(
            "cannot reach 127.0.0.1:{}: connection refused",
            refusing.number
        );
        assert_eq!(reason, expected);
        let reason = failed(cloud, before.operation).await;
        assert!(reason.contains("did not answer within"), "{reason}");
        let (_, mut far_end) = open(cloud, GATEWAY, lan.port).await;
        far_end.echo("hello").await;
        bridge.delivered().await;
    }
    assert_eq!(cloud.errors(), []);
}

#[tokio::test]
async fn has_one_message_on_its_way_to_the_cloud_at_a_time() {
    let bridge = Bridge::start().await;
    // It announces itself with many messages at once.
    let _adit = bridge.adit().await;
    bridge.delivered().await;
    let (mut on_their_way, mut most) = (0_usize, 0);
    for line in bridge.local_broker.lines() {
        if line.contains(&format!("Sending PUBLISH to local.{GATEWAY}")) {
            on_their_way += 1;
        } else if line.contains(&format!("Received PUBACK from local.{GATEWAY}")) {
            on_their_way -= 1;
        }
        most = most.max(on_their_way);
    }
    assert_eq!(most, 1);
}

#[test]
fn bridges_every_topic_that_adit_uses() {
    let topics = Topics::new("c8y/").unwrap();
    // Registration is not among them: a bridge has the credentials already.
    let (up, down) = (
        [
            topics.up(),
            topics.child_up("X").unwrap(),
            topics.token_request(),
            topics.templates_request("X").unwrap(),
            topics.inventory_update("X").unwrap(),
        ],
        [
            topics.down(),
            topics.errors(),
            topics.token(),
            topics.templates(),
            topics.custom_down("X").unwrap(),
            topics.notifications(),
        ],
    );
    let line = |direction: &str, topic: &String| {
        let topic = topic.strip_prefix("c8y/").unwrap().replace("/X", "/+");
        format!("topic {topic} {direction} 1 c8y/ \"\"")
    };
    let up = up.iter().map(|topic| line("out", topic));
    let expected: BTreeSet<_> = up
        .chain(down.iter().map(|topic| line("in", topic)))
        .collect();
    let config = read("deploy/mosquitto/cumulocity.conf");
    let bridged: BTreeSet<_> = config
        .lines()
        .filter(|line| line.starts_with("topic "))
        .map(str::to_owned)
        .collect();
    assert_eq!(bridged, expected);
}
