//! A broker and a platform that know one gateway.

use std::sync::atomic::{AtomicUsize, Ordering};

use simulated_cloud::{Cloud, Operation, OperationId, Options, Record, Status, Tunnel};
use smartrest::encode;

use super::mosquitto::{Mosquitto, Subscriptions, User};
use super::pki::Pki;
use super::temporary::Directory;
use super::{Adit, FarEnd, LIMIT};

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
}

/// A broker and a platform for one gateway.
pub(crate) struct Site {
    /// External id, different in every test.
    pub(crate) gateway: String,
    pub(crate) broker: Mosquitto,
    pub(crate) cloud: Cloud,
    pub(crate) pki: Option<Pki>,
    /// Where the certificates are.
    _directory: Directory,
}

/// What the platform shows of a tunnel that opened.
const OPENED: [Status; 3] = [Status::Pending, Status::Executing, Status::Successful];
/// What the platform shows of a tunnel that did not open.
const FAILED: [Status; 3] = [Status::Pending, Status::Executing, Status::Failed];

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(SiteOptions::default()).await
    }

    pub(crate) async fn with(options: SiteOptions) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let gateway = format!("gw-{}-{number}", std::process::id());
        let directory = Directory::new();
        let pki = options.tls.then(|| Pki::new(&directory));

        let mut cloud = Options::new(&gateway, 0);
        cloud.device_login.password = format!("top-secret-{:x}", fastrand::u64(..));
        let platform = ("platform".to_owned(), "platform-password".to_owned());
        let user = mqtt_user(&cloud);
        let mut broker =
            Mosquitto::start(&platform, &user, pki.as_ref(), options.subscriptions).await;
        cloud.broker.port = broker.port();
        cloud.broker.login = Some(platform);
        cloud.broker.roots = pki.as_ref().map(|pki| pki.roots.clone());
        cloud.tls = pki.as_ref().map(|pki| pki.server.clone());
        cloud.offers_collections = !options.no_collections;
        cloud.topic_prefix = options.topic_prefix.to_owned();
        let cloud = Cloud::start(cloud).await.unwrap();
        broker.remember_sessions().await;
        Self {
            gateway,
            broker,
            cloud,
            pki,
            _directory: directory,
        }
    }

    /// Starts adit, and waits until it takes operations and the platform has heard all of its
    /// announcement.
    pub(crate) async fn adit(&self, settings: &[&str]) -> Adit {
        let before = self.count("500");
        let adit = self.start_adit(settings).ready().await;
        self.wait_for_rows(before + 1, "500").await;
        adit
    }

    /// Starts adit, and leaves it to itself.
    pub(crate) fn start_adit(&self, settings: &[&str]) -> Adit {
        Adit::start(&self.config(), settings)
    }

    /// Returns a configuration that suits this site.
    pub(crate) fn config(&self) -> String {
        let (scheme, ca) = match &self.pki {
            Some(pki) => ("mqtts", format!("ca_file = {:?}\n", pki.ca_file)),
            None => ("mqtt", String::new()),
        };
        let Options {
            device_login,
            topic_prefix,
            ..
        } = self.cloud.options();
        format!(
            "[device]\nid = {:?}\n[cloud]\nurl = {:?}\n{ca}[mqtt]\nurl = \"{scheme}://127.0.0.1:{}\"\n\
             topic_prefix = {topic_prefix:?}\n[auth]\ntenant = {:?}\nusername = {:?}\npassword = {:?}\n",
            self.gateway,
            self.cloud.url(),
            self.broker.port(),
            device_login.tenant,
            device_login.user,
            device_login.password,
        )
    }

    /// The user of the gateway, as the broker knows it.
    pub(crate) fn user(&self) -> User {
        mqtt_user(self.cloud.options())
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
        let mut tunnel = self.request("127.0.0.1", port);
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
        let found = self.cloud.wait_until(LIMIT, |platform| {
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
