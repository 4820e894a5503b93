//! The keys of the configuration: each is declared here, and nowhere else.
//!
//! From the declaration follow its place in the file, the name of its variable, how its value is
//! read, what it is when it is not set, and its row in `docs/configure.md`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::shape::Shape;
use super::values;
use crate::net::proxy::Proxy;
use crate::net::{BrokerEndpoint, Endpoint};
use crate::platform::settings::{OperationIds, Protocol};
use crate::secret::Secret;
use crate::tunnel::policy::Pattern;

/// A key of the configuration, as it is explained to the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key {
    /// The table of the file that the key stands in.
    pub section: &'static str,
    /// The key within its section.
    pub name: &'static str,
    /// What holds when it is not set.
    pub default: Fallback,
    /// What it is for: a clause in lower case without a full stop.
    pub about: &'static str,
    pub(super) shape: Shape,
}

/// What holds for a key that is not set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// Without it adit does not start.
    Required,
    /// This value, written as in a variable.
    Value(&'static str),
    /// Something that depends on the machine or on other keys, in words.
    Derived(&'static str),
}

/// A key and how its text, or each text of its list, becomes a value. A refusal is a clause to
/// stand behind the text.
pub(super) struct Setting<T: 'static> {
    pub(super) key: Key,
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl Key {
    /// Returns section and key, as `cloud.url`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Returns the name of the variable, as `ADIT_CLOUD_URL`.
    pub fn variable(&self) -> String {
        let name = format!("{PREFIX}{}_{}", self.section, self.name);
        name.to_ascii_uppercase()
    }

    /// Returns the key with what holds without it, as a line of the file that says nothing yet.
    pub fn commented_out(&self) -> String {
        let value = match self.default {
            Fallback::Value(text) => self.shape.written(text),
            Fallback::Required | Fallback::Derived(_) => self.shape.written(""),
        };
        format!("#{} = {value}", self.name)
    }

    /// Returns what holds when the key is not set, for a table.
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Fallback::Required => "required",
            Fallback::Value(text) | Fallback::Derived(text) => text,
        }
    }
}

/// What the names of all variables begin with.
pub(super) const PREFIX: &str = "ADIT_";

macro_rules! settings {
    ($($constant:ident: $type:ty = $section:ident.$name:ident
        as $shape:ident by $parse:path, $default:expr, $about:literal;)+) => {
        $(pub(super) const $constant: Setting<$type> = Setting {
            key: Key {
                section: stringify!($section),
                name: stringify!($name),
                default: $default,
                about: $about,
                shape: Shape::$shape,
            },
            parse: $parse,
        };)+

        /// All keys, in the order of the documentation.
        pub(super) const KEYS: &[Key] = &[$($constant.key),+];
    };
}

use Fallback::{Derived, Required, Value};

settings! {
    DEVICE_ID: String = device.id as Text by values::device_id,
        Derived("the certificate's common name, else the host name"),
        "external id of this gateway, and its MQTT client id";
    DEVICE_NAME: String = device.name as Text by values::label,
        Derived("the id"),
        "name of the device when it is created";
    DEVICE_TYPE: String = device.type as Text by values::label,
        Value("adit_Gateway"),
        "type of the device when it is created";
    DEVICE_REQUIRED_INTERVAL: Option<Duration> = device.required_interval
        as Duration by values::required_interval,
        Value("10m"),
        "silence after which the platform calls the device unavailable, in whole minutes; \
         0 leaves it alone";
    DEVICE_CHILDREN: String = device.children as List by values::child_id,
        Value(""),
        "external ids of the machines behind this gateway that are devices of their own";
    DEVICE_SUPPORTED_OPERATIONS: String = device.supported_operations
        as List by values::operation,
        Value(""),
        "further operations to announce, where another agent shares the device";
    DEVICE_ANNOUNCE: bool = device.announce as Switch by values::switch,
        Value("true"),
        "false: what the device is and supports is announced by somebody else";
    DEVICE_SERVICE: bool = device.service as Switch by values::switch,
        Value("true"),
        "show adit as a service of the device, up or down";

    CLOUD_URL: Endpoint = cloud.url as Url by values::cloud_url,
        Required,
        "address of the platform, as https://tenant.example.com";
    CLOUD_CA_FILE: PathBuf = cloud.ca_file as Text by values::path,
        Derived("none"),
        "PEM file of certificates to trust in addition to the system's";
    CLOUD_PROXY: Option<Proxy> = cloud.proxy as Url by values::proxy,
        Derived("HTTPS_PROXY, http_proxy, ALL_PROXY as curl reads them"),
        "HTTP proxy for MQTT and tunnels, as http://user:password@proxy:3128, or none; \
         what NO_PROXY names is reached directly";

    MQTT_URL: BrokerEndpoint = mqtt.url as Url by values::mqtt_url,
        Derived("mqtts at the cloud's host, port 8883"),
        "address of the broker, mqtts://, mqtt://, or wss:// and ws:// for MQTT over WebSocket";
    MQTT_TOPIC_PREFIX: String = mqtt.topic_prefix as Text by values::topic_prefix,
        Value(""),
        "what a bridging broker puts before every topic, as c8y/";
    MQTT_KEEP_ALIVE: Duration = mqtt.keep_alive as Duration by values::mqtt_keep_alive,
        Value("60s"),
        "silence after which adit pings the broker, in whole seconds";
    MQTT_USERNAME: String = mqtt.username as Text by values::user,
        Derived("as in auth"),
        "user of a local broker that has users of its own";
    MQTT_PASSWORD: Secret = mqtt.password as Secret by values::secret,
        Derived("as in auth"),
        "password of that user";
    MQTT_PASSWORD_FILE: PathBuf = mqtt.password_file as Text by values::path,
        Derived("none"),
        "file that holds that password";

    AUTH_TENANT: String = auth.tenant as Text by values::tenant,
        Derived("required, unless the user name begins with it"),
        "tenant id, as t12345";
    AUTH_USERNAME: String = auth.username as Text by values::platform_user,
        Derived("required"),
        "user of the platform, as device_gateway-7 or t12345/device_gateway-7";
    AUTH_PASSWORD: Secret = auth.password as Secret by values::secret,
        Derived("required, here or in a file"),
        "password of that user";
    AUTH_PASSWORD_FILE: PathBuf = auth.password_file as Text by values::path,
        Derived("none"),
        "file that holds that password";
    AUTH_CERT_FILE: PathBuf = auth.cert_file as Text by values::path,
        Derived("none, or `/var/lib/adit/device.pem` with `certificate_authority`"),
        "PEM file of the device's certificate and those of its issuers, instead of a user";
    AUTH_KEY_FILE: PathBuf = auth.key_file as Text by values::path,
        Derived("none, or `/var/lib/adit/device.key` with `certificate_authority`"),
        "PEM file of that certificate's key, not encrypted";
    AUTH_CERTIFICATE_AUTHORITY: bool = auth.certificate_authority as Switch by values::switch,
        Value("false"),
        "true: the platform's own authority issues and renews the certificate, and adit writes \
         its file and that of the key";
    AUTH_ONE_TIME_PASSWORD: Secret = auth.one_time_password
        as Secret by values::one_time_password,
        Derived("adit makes one and logs the link to open"),
        "password that the device was registered with, for its first certificate";
    AUTH_ONE_TIME_PASSWORD_FILE: PathBuf = auth.one_time_password_file as Text by values::path,
        Derived("none"),
        "file that holds that password";
    AUTH_RENEW_BEFORE: Duration = auth.renew_before as Duration by values::renew_before,
        Value("30d"),
        "how long before its end a certificate of that authority is renewed";

    AUTH_BOOTSTRAP_TENANT: String = auth.bootstrap_tenant as Text by values::tenant,
        Value("management"),
        "tenant of the user that registers new devices";
    AUTH_BOOTSTRAP_USERNAME: String = auth.bootstrap_username as Text by values::user,
        Derived("none"),
        "user that all new devices register with, as devicebootstrap, instead of a user of its own";
    AUTH_BOOTSTRAP_PASSWORD: Secret = auth.bootstrap_password as Secret by values::secret,
        Derived("none"),
        "password of that user";
    AUTH_BOOTSTRAP_PASSWORD_FILE: PathBuf = auth.bootstrap_password_file as Text by values::path,
        Derived("none"),
        "file that holds that password";
    AUTH_CREDENTIALS_FILE: PathBuf = auth.credentials_file as Text by values::path,
        Value("/var/lib/adit/credentials.toml"),
        "where the credentials of the registration are kept";

    REMOTE_ACCESS_PROTOCOLS: Protocol = remote_access.protocols as List by values::protocol,
        Value("SSH, TELNET, VNC, PASSTHROUGH"),
        "protocols to announce";
    REMOTE_ACCESS_ALLOW: Pattern = remote_access.allow as List by values::allowed_pattern,
        Value("private"),
        "what may be reached: host, host:port, host:from-to, *.domain, \
         CIDR, CIDR:port, [IPv6]:port, private";
    REMOTE_ACCESS_DENY: Pattern = remote_access.deny as List by values::pattern,
        Value(""),
        "what may not be reached; wins over allow";
    REMOTE_ACCESS_MAX_TUNNELS: usize = remote_access.max_tunnels as Number by values::max_tunnels,
        Value("64"),
        "tunnels at the same time";
    REMOTE_ACCESS_CONNECT_TIMEOUT: Duration = remote_access.connect_timeout
        as Duration by values::wait,
        Value("15s"),
        "how long either side of a tunnel may take to open";
    REMOTE_ACCESS_KEEP_ALIVE: Duration = remote_access.keep_alive as Duration by values::keep_alive,
        Value("20s"),
        "interval of WebSocket pings; two missed answers end the tunnel; 0 sends none";
    REMOTE_ACCESS_IDLE_TIMEOUT: Option<Duration> = remote_access.idle_timeout
        as Duration by values::limit,
        Value("0"),
        "silence after which a tunnel is closed; 0 is never";
    REMOTE_ACCESS_MAX_DURATION: Option<Duration> = remote_access.max_duration
        as Duration by values::limit,
        Value("0"),
        "age at which a tunnel is closed; 0 is never";
    REMOTE_ACCESS_DRAIN: Option<Duration> = remote_access.drain as Duration by values::limit,
        Value("0"),
        "how long open tunnels may still go on after SIGTERM, when adit has left the broker; 0 ends \
         them at once. Of the old process of an upgrade: the same, but 0 lets them go on until they end";
    REMOTE_ACCESS_EVENTS: bool = remote_access.events as Switch by values::switch,
        Value("true"),
        "tell the platform of each tunnel with events c8y_RemoteAccessOpened \
         and c8y_RemoteAccessClosed";
    REMOTE_ACCESS_OPERATION_IDS: OperationIds = remote_access.operation_ids
        as Choice by values::operation_ids,
        Value("notifications"),
        "where the ids come from by which operations are reported: notifications \
         (devicecontrol/notifications), templates (a collection of adit's own), or none";

    ADMIN_LISTEN: Option<SocketAddr> = admin.listen as Text by values::listen,
        Derived("nowhere"),
        "where to serve /healthz, /metrics and a status page, as 127.0.0.1:9590";
    ADMIN_TOKEN_FILE: PathBuf = admin.token_file as Text by values::path,
        Derived("none"),
        "file that holds the token to show there; needed where that is not a loopback address";
    ADMIN_SOCKET: Option<PathBuf> = admin.socket as Place by values::socket,
        Value("/run/adit/adit.sock"),
        "Unix socket for adit status; none makes none";
}
