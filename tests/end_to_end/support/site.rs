//! A broker and a platform that know one gateway.

use std::time::Duration;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rumqttc::{Publish, QoS};
use simulated_cloud::{
    Cloud, EstAuthority, Operation, OperationId, Options, Record, Status, TokenService, Tunnel,
};
use smartrest::encode;
use tokio::net::TcpStream;

use super::mosquitto::{self, Door, Mosquitto, Subscriptions, User};
use super::pki::{Authority, Flaw, Issued};
use super::temporary::Directory;
use super::{Adit, FarEnd, LIMIT, Lan, Surroundings};

/// How a site differs from the usual one.
#[derive(Default)]
pub(crate) struct SiteOptions {
    /// TLS at the broker and at the platform, with an authority that no system knows.
    pub(crate) tls: bool,
    /// What stands before every topic.
    pub(crate) topic_prefix: &'static str,
    /// Who may subscribe.
    pub(crate) subscriptions: Subscriptions,
    /// The platform never answers for template collections.
    pub(crate) no_collections: bool,
    /// The tenant has no certificate authority.
    pub(crate) no_authority: bool,
    /// How the gateway shows the broker who it is.
    pub(crate) login: Login,
    /// MQTT over WebSocket.
    pub(crate) websocket: bool,
    /// Where the gateway finds the broker and the platform; 127.0.0.1 unless given.
    pub(crate) address: Option<Ipv4Addr>,
    /// The broker is where the gateway looks for it unless told, which is port 8883 of the address.
    pub(crate) default_port: bool,
    /// Tokens are given to certificates at port 8443 of the address, which has to be the test's own.
    pub(crate) token_service: bool,
    /// What is wrong with the certificate of the broker.
    pub(crate) broker_flaw: Flaw,
    /// What is wrong with the certificate of the platform.
    pub(crate) cloud_flaw: Flaw,
}

/// How the gateway shows the broker who it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Login {
    /// A user of the platform.
    #[default]
    User,
    /// A user that means nothing to the platform, as at a local broker that bridges.
    LocalUser,
    /// A certificate, which the broker demands.
    Certificate,
    /// One that the platform's own authority issues.
    Issued,
    /// The user that all new devices share.
    Bootstrap,
}

/// Of the platform's host.
const TOKEN_PORT: u16 = 8443;
const DEFAULT_PORT: u16 = 8883;
/// As the platform calls it.
const BOOTSTRAP_USER: &str = "devicebootstrap";

/// A broker and a platform for one gateway.
pub(crate) struct Site {
    /// External id, different in every test.
    pub(crate) gateway: String,
    pub(crate) broker: Mosquitto,
    pub(crate) cloud: Cloud,
    /// For the certificates of devices.
    pub(crate) devices: Authority,
    /// The tenant's own, where devices log in with what it issues.
    pub(crate) issuer: Arc<EstAuthority>,
    /// The gateway's.
    pub(crate) certificate: Issued,
    /// For those of the broker and of the platform.
    pub(crate) authority: Authority,
    options: SiteOptions,
    directories: [Directory; 2],
}

/// What the platform shows of a tunnel that opened.
const OPENED: [Status; 3] = [Status::Pending, Status::Executing, Status::Successful];
/// What the platform shows of a tunnel that did not open.
const FAILED: [Status; 3] = [Status::Pending, Status::Executing, Status::Failed];

impl Site {
    /// The certificate of the authority of the broker and of the platform.
    pub(crate) fn ca_file(&self) -> &Path {
        &self.authority.file
    }

    pub(crate) async fn new() -> Self {
        Self::with(SiteOptions::default()).await
    }

    pub(crate) async fn with(options: SiteOptions) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let gateway = format!("gw-{}-{number}", std::process::id());
        let directories = [Directory::new(), Directory::new()];
        let [servers, device] = &directories;
        let (authority, devices) = (Authority::new(servers), Authority::new(device));
        let certificate = devices.device(device, &gateway);
        let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let server = |name, flaw| {
            let issue = || authority.server(servers, name, address, flaw);
            options.tls.then(issue)
        };
        let broker_certificate = server("the broker", options.broker_flaw);
        let cloud_certificate = server("the platform", options.cloud_flaw);

        let mut cloud = Options::new(&gateway, 0);
        cloud.device_login.password = format!("top-secret-{:x}", fastrand::u64(..));
        let platform = platform_user();
        let user = match options.login {
            Login::Bootstrap => bootstrap_user(&cloud),
            _ => mqtt_user(&cloud),
        };
        let issuer = Arc::new(EstAuthority::new().unwrap());
        let issuer_file = servers.write("issuer.pem", issuer.pem());
        let trusted = match options.login {
            Login::Certificate => Some(&*devices.file),
            Login::Issued => Some(&*issuer_file),
            _ => None,
        };
        let is_certified = trusted.is_some();
        let has_door = is_certified
            || options.websocket
            || options.address.is_some()
            || options.broker_flaw != Flaw::None;
        let tls = broker_certificate.as_ref();
        let mut broker = Mosquitto::start(mosquitto::Options {
            platform: &platform,
            gateway: &user,
            tls: tls.filter(|_| !has_door),
            subscriptions: options.subscriptions,
            door: has_door.then_some(Door {
                address,
                port: options.default_port.then_some(DEFAULT_PORT),
                tls,
                devices: trusted,
                websocket: options.websocket,
            }),
        })
        .await;
        cloud.broker.port = broker.port();
        cloud.broker.login = Some(platform);
        cloud.broker.roots = (options.tls && !has_door).then(|| authority.roots.clone());
        cloud.listen = (address, 0).into();
        cloud.tls = cloud_certificate.map(|issued| issued.server);
        cloud.token_service = options.token_service.then(|| TokenService {
            listen: (address, TOKEN_PORT).into(),
            tls: authority.server_demanding(address, &devices.roots),
        });
        cloud.offers_collections = !options.no_collections;
        cloud.topic_prefix = options.topic_prefix.to_owned();
        cloud.authority = Some(Arc::clone(&issuer)).filter(|_| !options.no_authority);
        let cloud = Cloud::start(cloud).await.unwrap();
        broker.remember_sessions().await;
        Self {
            gateway,
            broker,
            cloud,
            devices,
            issuer,
            certificate,
            authority,
            options,
            directories,
        }
    }

    /// Makes a site, with TLS or without, and starts adit there.
    pub(crate) async fn with_adit(tls: bool, settings: &[&str]) -> (Self, Adit) {
        let options = SiteOptions {
            tls,
            ..SiteOptions::default()
        };
        let site = Self::with(options).await;
        let adit = site.adit(settings).await;
        (site, adit)
    }

    /// Starts adit, and waits until it takes operations and the platform has heard all of its
    /// announcement.
    pub(crate) async fn adit(&self, settings: &[&str]) -> Adit {
        self.adit_in(&Surroundings::default(), settings).await
    }

    /// Starts adit, and leaves it to itself.
    pub(crate) fn start_adit(&self, settings: &[&str]) -> Adit {
        Adit::start(&self.config(), settings)
    }

    /// Returns a configuration that suits this site.
    pub(crate) fn config(&self) -> String {
        let ca = match self.options.tls {
            true => format!("ca_file = {:?}\n", self.authority.file),
            false => String::new(),
        };
        let Options {
            device_login,
            topic_prefix,
            ..
        } = self.cloud.options();
        let (user, password) = self.user();
        let (id, login) = match self.options.login {
            Login::User => (
                self.gateway.as_str(),
                format!(
                    "[auth]\ntenant = {:?}\nusername = {:?}\npassword = {password:?}\n",
                    device_login.tenant, device_login.user
                ),
            ),
            Login::LocalUser => (
                self.gateway.as_str(),
                format!("username = {user:?}\npassword = {password:?}\n"),
            ),
            // The certificate has it.
            Login::Certificate => (
                "",
                format!(
                    "[auth]\ncert_file = {:?}\nkey_file = {:?}\n",
                    self.certificate.cert_file, self.certificate.key_file
                ),
            ),
            Login::Issued => (
                self.gateway.as_str(),
                format!(
                    "[auth]\ncertificate_authority = true\ncert_file = {:?}\nkey_file = {:?}\n",
                    self.issued_file(),
                    self.device_directory().path("issued.key")
                ),
            ),
            Login::Bootstrap => (
                self.gateway.as_str(),
                format!(
                    "[auth]\nbootstrap_username = {BOOTSTRAP_USER:?}\n\
                     bootstrap_password = {:?}\ncredentials_file = {:?}\n",
                    bootstrap_user(self.cloud.options()).1,
                    self.credentials_file()
                ),
            ),
        };
        let device = match id {
            "" => String::new(),
            id => format!("[device]\nid = {id:?}\n"),
        };
        let mqtt_url = match self.options.default_port {
            true => String::new(),
            false => format!("url = {:?}\n", self.mqtt_url()),
        };
        format!(
            "{device}[cloud]\nurl = {:?}\n{ca}[mqtt]\n{mqtt_url}\
             topic_prefix = {topic_prefix:?}\n{login}",
            self.cloud.url(),
        )
    }

    /// The address of the broker for the gateway.
    pub(crate) fn mqtt_url(&self) -> String {
        let scheme = match (self.options.websocket, self.options.tls) {
            (false, false) => "mqtt",
            (false, true) => "mqtts",
            (true, false) => "ws",
            (true, true) => "wss",
        };
        let path = if self.options.websocket { "/mqtt" } else { "" };
        format!("{scheme}://{}{path}", self.broker_place())
    }

    /// Host and port of the broker, as the gateway sees it.
    pub(crate) fn broker_place(&self) -> String {
        let address = self.options.address.unwrap_or(Ipv4Addr::LOCALHOST);
        format!("{address}:{}", self.broker.gateway_port())
    }

    /// Where the credentials of a registration are kept.
    pub(crate) fn credentials_file(&self) -> PathBuf {
        self.device_directory().path("credentials.toml")
    }

    /// Where the certificate is kept that the platform's authority issues.
    pub(crate) fn issued_file(&self) -> PathBuf {
        self.device_directory().path("issued.pem")
    }

    /// Where the gateway's files are.
    pub(crate) fn device_directory(&self) -> &Directory {
        &self.directories[1]
    }

    /// Starts adit in other surroundings, and waits as [`Site::adit`] does.
    pub(crate) async fn adit_in(&self, surroundings: &Surroundings<'_>, settings: &[&str]) -> Adit {
        let before = self.count("500");
        let adit = Adit::start_in(surroundings, &self.config(), settings);
        let adit = adit.ready().await;
        self.wait_for_rows(before + 1, "500").await;
        adit
    }

    /// The user of the gateway, as the broker knows it.
    pub(crate) fn user(&self) -> User {
        mqtt_user(self.cloud.options())
    }

    /// Replaces the users of the broker; the platform's stays.
    pub(crate) fn set_users(&mut self, users: &[&User]) {
        let platform = platform_user();
        let users: Vec<_> = [&platform]
            .into_iter()
            .chain(users.iter().copied())
            .collect();
        self.broker.set_users(&users);
    }

    /// The user that all new devices share, as the broker knows it.
    pub(crate) fn bootstrap_user(&self) -> User {
        bootstrap_user(self.cloud.options())
    }

    /// Creates a device behind the gateway, and returns its external id.
    pub(crate) fn child(&self, name: &str) -> String {
        let id = format!("{}-{name}", self.gateway);
        self.cloud.create_device(&id, name, "machine");
        id
    }

    /// Asks for a tunnel from the gateway.
    pub(crate) fn request(&self, host: &str, port: u16) -> Tunnel {
        self.cloud.open_tunnel(&self.gateway, host, port).unwrap()
    }

    /// Opens a tunnel to a port of 127.0.0.1.
    pub(crate) async fn open(&self, port: u16) -> (OperationId, FarEnd) {
        self.open_to("127.0.0.1", port).await
    }

    /// Opens a tunnel to a machine whose connection the test holds.
    pub(crate) async fn open_held(&self) -> (TcpStream, FarEnd) {
        let (port, machine) = Lan::held().await;
        let (_, far_end) = self.open(port).await;
        (machine.accept().await, far_end)
    }

    /// Opens a tunnel to a machine.
    pub(crate) async fn open_to(&self, host: &str, port: u16) -> (OperationId, FarEnd) {
        let mut tunnel = self.request(host, port);
        let socket = tunnel.accept(LIMIT).await.unwrap();
        self.opened(tunnel.operation).await;
        (tunnel.operation, FarEnd(socket))
    }

    /// Waits until an operation is executing.
    pub(crate) async fn executing(&self, id: OperationId) {
        let executing = self.cloud.wait_for_status(id, Status::Executing, LIMIT);
        executing.await.unwrap();
    }

    /// Waits until an operation has ended well, on the right way.
    pub(crate) async fn opened(&self, id: OperationId) {
        assert_eq!(self.ended(id).await.history, OPENED, "{id}");
    }

    /// Waits until an operation has failed on the right way, and returns the reason.
    pub(crate) async fn failed(&self, id: OperationId) -> String {
        let operation = self.ended(id).await;
        assert_eq!(operation.history, FAILED, "{id}");
        operation.reason.unwrap_or_default()
    }

    async fn ended(&self, id: OperationId) -> Operation {
        let ended = self.cloud.wait_until(LIMIT, |platform| {
            let operation = platform.operation(id)?;
            matches!(operation.status(), Status::Successful | Status::Failed)
                .then(|| operation.clone())
        });
        ended.await.unwrap()
    }

    /// How many rows with this template have come from the gateway.
    pub(crate) fn count(&self, template: &str) -> usize {
        let log = self.cloud.log();
        log.iter().filter(|record| is_row(record, template)).count()
    }

    /// Waits for the `n`th row with this template from the gateway.
    pub(crate) async fn wait_for_rows(&self, n: usize, template: &str) {
        let found = self.cloud.wait_until(LIMIT, |platform| {
            let rows = platform.log().iter();
            (rows.filter(|record| is_row(record, template)).count() >= n).then_some(())
        });
        found.await.unwrap();
    }

    /// Waits for the `n`th event of a device, and returns its type and its text.
    pub(crate) async fn event(&self, device: &str, n: usize) -> (String, String) {
        self.event_within(device, n, LIMIT).await
    }

    /// Waits longer for it.
    pub(crate) async fn event_within(
        &self,
        device: &str,
        n: usize,
        limit: Duration,
    ) -> (String, String) {
        let found = self.cloud.wait_until(limit, |platform| {
            let mut events = platform
                .events()
                .iter()
                .filter(|event| event.device == device);
            let event = events.nth(n - 1)?;
            Some((event.kind.clone(), event.text.clone()))
        });
        found.await.unwrap()
    }

    /// The platform has taken every row; it takes none that speaks of an operation that is not there.
    pub(crate) fn assert_no_complaint(&self) {
        assert_eq!(self.cloud.errors(), []);
    }
}

/// Leaves a message at the broker, for whoever subscribes.
pub(crate) async fn publish_retained(site: &Site, topic: &str, payload: impl Into<Vec<u8>>) {
    let (user, password) = platform_user();
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
    publish.retain = true;
    site.broker.publish([&user, &password], publish).await;
}

fn platform_user() -> User {
    ("platform".to_owned(), "platform-password".to_owned())
}

fn bootstrap_user(cloud: &Options) -> User {
    let password = format!("shared-{}", cloud.device_login.password);
    (format!("management/{BOOTSTRAP_USER}"), password)
}

fn mqtt_user(cloud: &Options) -> User {
    let login = &cloud.device_login;
    (
        format!("{}/{}", login.tenant, login.user),
        login.password.clone(),
    )
}

fn is_row(record: &Record, template: &str) -> bool {
    record.topic == "s/us" && record.row.template() == template
}

/// Returns the rows that arrived on a topic, as text.
pub(crate) fn rows(cloud: &Cloud, topic: &str) -> Vec<String> {
    let log = cloud.log();
    let rows = log.iter().filter(|record| record.topic == topic);
    rows.map(|record| encode([&record.row])).collect()
}
