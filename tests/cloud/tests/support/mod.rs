//! What the tests of the simulated platform need around it: a broker, and a device made by hand.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use rumqttc::{Codec, Connect, Packet, PubAck, Publish, QoS, Subscribe, SubscribeFilter};
use simulated_cloud::{Cloud, Login, Options, Tunnel};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::codec::Framed;

/// No step of a test takes this long unless something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A Mosquitto of the test's own.
pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    config: PathBuf,
    process: Child,
    _lock: UdpSocket,
}

impl Mosquitto {
    pub(crate) async fn start() -> Self {
        let (port, lock) = reserve_port();
        let config = std::env::temp_dir().join(format!(
            "simulated-cloud-{}-{port}.conf",
            std::process::id()
        ));
        std::fs::write(
            &config,
            format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"),
        )
        .unwrap();
        let process = spawn(&config);
        let broker = Self {
            port,
            config,
            process,
            _lock: lock,
        };
        broker.wait().await;
        broker
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.process = spawn(&self.config);
        self.wait().await;
    }

    async fn wait(&self) {
        let listening = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, listening).await.expect("mosquitto listens");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_file(&self.config));
    }
}

fn spawn(config: &PathBuf) -> Child {
    // Debian keeps it where only root's path leads.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    Command::new("mosquitto")
        .arg("-c")
        .arg(config)
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed")
}

/// A TCP port of 127.0.0.1 for a broker that may go away and come back: below what systems use for
/// outgoing connections, and the UDP port of the same number keeps other tests from it.
fn reserve_port() -> (u16, UdpSocket) {
    const PORTS: std::ops::Range<u16> = 12_000..20_000;
    let mut ports = PORTS;
    ports
        .find_map(|number| {
            let lock = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            Some((number, lock))
        })
        .expect("a free port")
}

/// The MQTT side of a gateway that acknowledges every step.
pub(crate) struct Device {
    connection: Framed<TcpStream, Codec>,
    arrived: Vec<(String, String)>,
}

impl Device {
    pub(crate) async fn connect(port: u16) -> Self {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let codec = Codec {
            max_incoming_size: 1 << 20,
            max_outgoing_size: 1 << 20,
        };
        let connection = Framed::new(tcp, codec);
        let mut device = Self {
            connection,
            arrived: Vec::new(),
        };
        device.send(Packet::Connect(Connect::new("gw"))).await;
        device
            .wait(|packet| matches!(packet, Packet::ConnAck(_)))
            .await;
        let filters =
            ["s/ds", "s/e"].map(|topic| SubscribeFilter::new(topic.to_owned(), QoS::AtLeastOnce));
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = 1;
        device.send(Packet::Subscribe(subscribe)).await;
        device
            .wait(|packet| matches!(packet, Packet::SubAck(_)))
            .await;
        device
    }

    /// Publishes rows and waits until the broker has them.
    pub(crate) async fn tell(&mut self, topic: &str, rows: &str) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, rows);
        publish.pkid = 2;
        self.send(Packet::Publish(publish)).await;
        self.wait(|packet| matches!(packet, Packet::PubAck(_)))
            .await;
    }

    /// Returns the topic and the payload of the next publish of the platform.
    pub(crate) async fn hear(&mut self) -> (String, String) {
        while self.arrived.is_empty() {
            self.wait(|packet| matches!(packet, Packet::Publish(_)))
                .await;
        }
        self.arrived.remove(0)
    }

    async fn send(&mut self, packet: Packet) {
        self.connection.send(packet).await.unwrap();
    }

    async fn wait(&mut self, wanted: impl Fn(&Packet) -> bool) {
        loop {
            let packet = timeout(LIMIT, self.connection.next()).await;
            let packet = packet
                .expect("a packet in time")
                .expect("a broker")
                .unwrap();
            if let Packet::Publish(publish) = &packet {
                let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                self.arrived.push((publish.topic.clone(), payload));
                let ack = PubAck::new(publish.pkid);
                self.connection.send(Packet::PubAck(ack)).await.unwrap();
            }
            if wanted(&packet) {
                return;
            }
        }
    }
}

/// A broker, a platform that knows the gateway `gw`, and the gateway's MQTT side.
pub(crate) async fn world() -> (Mosquitto, Cloud, Device) {
    let broker = Mosquitto::start().await;
    let (cloud, device) = world_at(Options::new("gw", broker.port)).await;
    (broker, cloud, device)
}

pub(crate) async fn world_at(options: Options) -> (Cloud, Device) {
    let port = options.broker.port;
    let cloud = Cloud::start(options).await.unwrap();
    let mut device = Device::connect(port).await;
    device.tell("s/us", "100,Gateway,adit_Gateway").await;
    cloud
        .wait_until(LIMIT, |platform| platform.device("gw").map(drop))
        .await
        .unwrap();
    (cloud, device)
}

pub(crate) type ClientSocket = WebSocketStream<TcpStream>;

/// Returns the path a device takes for a tunnel.
pub(crate) fn device_path(cloud: &Cloud, tunnel: &Tunnel) -> String {
    let key = cloud.operation(tunnel.operation).unwrap().key().unwrap();
    format!("/service/remoteaccess/device/{}", key.expose())
}

/// Opens a WebSocket at `url` as `login`; the HTTP status of a refusal is the error.
pub(crate) async fn web_socket(
    url: &str,
    login: &Login,
) -> Result<ClientSocket, tungstenite::Error> {
    let mut request = url.into_client_request()?;
    let Login {
        tenant,
        user,
        password,
    } = login;
    let credentials = STANDARD.encode(format!("{tenant}/{user}:{password}"));
    let headers = request.headers_mut();
    headers.insert(
        "authorization",
        format!("Basic {credentials}").parse().unwrap(),
    );
    headers.insert("sec-websocket-protocol", "binary".parse().unwrap());
    let address: SocketAddr = request.uri().authority().unwrap().as_str().parse().unwrap();
    let tcp = TcpStream::connect(address).await?;
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    let connected = client_async_with_config(request, tcp, Some(config));
    Ok(timeout(LIMIT, connected)
        .await
        .expect("an answer in time")?
        .0)
}

/// Opens the device's WebSocket of a tunnel.
pub(crate) async fn device_socket(
    cloud: &Cloud,
    tunnel: &Tunnel,
) -> Result<ClientSocket, tungstenite::Error> {
    let url = format!("ws://{}{}", cloud.address(), device_path(cloud, tunnel));
    web_socket(&url, &cloud.options().device_login).await
}

/// Connects an operator to a fresh configuration, and the device to the operator's tunnel.
pub(crate) async fn piped(cloud: &Cloud, device: &mut Device) -> (ClientSocket, ClientSocket) {
    let operator = operator(cloud).await;
    let socket = answer_row(cloud, device).await;
    (operator, socket)
}

pub(crate) async fn operator(cloud: &Cloud) -> ClientSocket {
    let configuration = cloud.add_configuration("gw", "host", 22);
    let url = cloud.operator_url("gw", configuration);
    web_socket(&url, &cloud.options().operator_login)
        .await
        .unwrap()
}

/// Opens the WebSocket that the next `530` asks for.
pub(crate) async fn answer_row(cloud: &Cloud, device: &mut Device) -> ClientSocket {
    let (_, row) = device.hear().await;
    let key = row.strip_prefix("530,gw,host,22,").expect("a tunnel's row");
    let url = format!("ws://{}/service/remoteaccess/device/{key}", cloud.address());
    web_socket(&url, &cloud.options().device_login)
        .await
        .unwrap()
}

/// Returns the next message that is no ping or pong.
pub(crate) async fn next(socket: &mut ClientSocket) -> Option<Message> {
    loop {
        match timeout(LIMIT, socket.next())
            .await
            .expect("a message in time")
        {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) => return Some(message),
            Some(Err(_)) | None => return None,
        }
    }
}

/// Returns the HTTP status of a refusal.
pub(crate) fn status<T>(result: Result<T, tungstenite::Error>) -> Option<u16> {
    match result {
        Err(tungstenite::Error::Http(response)) => Some(response.status().as_u16()),
        _ => None,
    }
}
