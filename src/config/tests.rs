//! The configuration as its operator meets it: texts in, values or complaints out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::files::{self, FileContent};
use crate::net::identity::{Files, Identity};
use crate::net::proxy::Proxy;
use crate::net::{BrokerEndpoint, Endpoint};
use crate::platform::settings::{OperationIds, Protocol};
use crate::secret::Secret;

/// What stands on the machine that a configuration is loaded on.
#[derive(Clone, Default)]
struct Machine {
    named_file: Option<&'static str>,
    files: BTreeMap<PathBuf, FileContent>,
    environment: Vec<(OsString, OsString)>,
    settings: Vec<String>,
    host_name: Option<String>,
}

const CLOUD: &str = "[cloud]\nurl = \"https://tenant.example.com\"\n";
const AUTH: &str = "[auth]\ntenant = \"t1\"\nusername = \"device_gw\"\npassword = \"hunter2\"\n";

impl Machine {
    /// A machine with all that is required, and with `more` in its file.
    fn with(more: &str) -> Self {
        Self::with_file(&format!("{CLOUD}{AUTH}{more}"))
    }

    fn with_file(text: &str) -> Self {
        let machine = Self {
            named_file: Some("adit.toml"),
            host_name: Some("box".to_owned()),
            ..Self::default()
        };
        machine.file("adit.toml", text)
    }

    fn file(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let content = FileContent {
            bytes: content.as_ref().to_owned(),
            world_readable: false,
        };
        self.files.insert(PathBuf::from(path), content);
        self
    }

    fn readable(mut self, path: &str) -> Self {
        let content = self.files.get_mut(Path::new(path)).unwrap();
        content.world_readable = true;
        self
    }

    fn variable(mut self, name: &str, text: &str) -> Self {
        self.environment.push((name.into(), text.into()));
        self
    }

    fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    fn load(&self) -> Result<Config, Faults> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        Config::load(&Sources {
            file: self.named_file.map(PathBuf::from),
            settings: self.settings.clone(),
            environment: self.environment.clone(),
            host_name: self.host_name.clone(),
            now: SystemTime::now(),
            read: &|path| self.files.get(path).cloned().ok_or_else(not_found),
        })
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn complaint(&self) -> String {
        self.load().map_or_else(
            |faults| faults.to_string(),
            |_| panic!("nothing was refused"),
        )
    }
}

/// The user and the password of a configuration that has them.
fn user(config: &Config) -> (&str, String) {
    match &config.auth {
        Auth::Password { user, password } => (user, password.last().expose().to_owned()),
        other => panic!("{other:?}"),
    }
}

/// The same, for the broker.
fn broker_user(config: &Config) -> (&str, String) {
    let (user, password) = config.mqtt.login.as_ref().unwrap();
    (user, password.last().expose().to_owned())
}

fn endpoint(tls: bool, host: &str, port: u16) -> Endpoint {
    let host = host.to_owned();
    Endpoint { tls, host, port }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn needs_little_more_than_a_cloud_and_a_user() {
    let config = Machine::with("").config();
    assert_eq!(config.device.id, "box");
    assert_eq!(config.device.name, "box");
    assert_eq!(config.device.device_type, "adit_Gateway");
    assert_eq!(config.device.required_interval, Some(seconds(600)));
    assert!(config.device.children.is_empty());
    assert!(config.device.supported_operations.is_empty());
    assert!(config.device.announce);
    assert_eq!(
        config.cloud.endpoint,
        endpoint(true, "tenant.example.com", 443)
    );
    assert!(config.cloud.ca.is_empty());
    assert_eq!(
        config.mqtt.endpoint,
        endpoint(true, "tenant.example.com", 8883).into()
    );
    assert_eq!(config.mqtt.topic_prefix, "");
    assert_eq!(config.mqtt.keep_alive, seconds(60));
    assert_eq!(broker_user(&config), ("t1/device_gw", "hunter2".to_owned()));
    assert_eq!(user(&config), ("t1/device_gw", "hunter2".to_owned()));
    assert_eq!((config.cloud.proxy, config.mqtt.proxy), (None, None));
    assert_eq!(config.remote_access.protocols, Protocol::ALL);
    assert_eq!(config.tunnels.policy.to_string(), "allow private");
    assert_eq!(config.tunnels.max_tunnels, 64);
    assert_eq!(config.tunnels.connect_timeout, seconds(15));
    assert_eq!(config.tunnels.keep_alive, seconds(20));
    assert_eq!(config.tunnels.idle_timeout, None);
    assert_eq!(config.tunnels.max_duration, None);
    assert_eq!(config.tunnels.drain, None);
    assert!(config.remote_access.events);
    assert_eq!(
        config.remote_access.operation_ids,
        OperationIds::Notifications
    );
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn reads_every_key_of_a_file() {
    let file = r#"
[device]
id = "gateway-7"
name = "Gateway 7"
type = "acme_Gateway"
required_interval = "0"
children = ["plc-1", "plc-2"]
supported_operations = ["c8y_Restart", "c8y_Software"]
announce = false
service = false

[cloud]
url = "http://127.0.0.1:8080/"
proxy = "http://user:hunter2@proxy:3128"

[mqtt]
url = "MQTT://[::1]"
topic_prefix = "c8y/"
keep_alive = "2m"
username = "local"
password = "secret-1"

[auth]
username = "t1/device_gateway-7"
password = "secret-2"

[remote_access]
protocols = ["SSH", "vnc", "SSH"]
allow = ["private", "plc-7:22"]
deny = ["10.0.0.0/24"]
max_tunnels = 3
connect_timeout = "500ms"
keep_alive = "1m"
idle_timeout = "1h 30m"
max_duration = "12h"
drain = "30m"
events = false
operation_ids = true
"#;
    let config = Machine::with_file(file).config();
    assert_eq!(config.device.id, "gateway-7");
    assert_eq!(config.device.name, "Gateway 7");
    assert_eq!(config.device.device_type, "acme_Gateway");
    assert_eq!(config.device.required_interval, None);
    assert_eq!(config.device.children, ["plc-1", "plc-2"]);
    let operations = ["c8y_Restart", "c8y_Software"];
    assert_eq!(config.device.supported_operations, operations);
    assert!(!config.device.announce);
    assert!(!config.device.service);
    assert_eq!(config.cloud.endpoint, endpoint(false, "127.0.0.1", 8080));
    assert_eq!(config.mqtt.endpoint, endpoint(false, "::1", 1883).into());
    assert_eq!(config.mqtt.topic_prefix, "c8y/");
    assert_eq!(config.mqtt.keep_alive, seconds(120));
    assert_eq!(broker_user(&config), ("local", "secret-1".to_owned()));
    assert_eq!(
        user(&config),
        ("t1/device_gateway-7", "secret-2".to_owned())
    );
    let proxies = [config.cloud.proxy, config.mqtt.proxy];
    let proxies = proxies.map(|proxy| proxy.map(|proxy| proxy.to_string()));
    assert_eq!(proxies, [Some("proxy:3128".to_owned()), None]);
    let (remote_access, tunnels) = (config.remote_access, config.tunnels);
    assert_eq!(remote_access.protocols, [Protocol::Ssh, Protocol::Vnc]);
    assert_eq!(
        tunnels.policy.to_string(),
        "allow private, plc-7:22; deny 10.0.0.0/24"
    );
    assert_eq!(tunnels.max_tunnels, 3);
    assert_eq!(tunnels.connect_timeout, Duration::from_millis(500));
    assert_eq!(tunnels.keep_alive, seconds(60));
    assert_eq!(tunnels.idle_timeout, Some(seconds(5400)));
    assert_eq!(tunnels.max_duration, Some(seconds(12 * 3600)));
    assert_eq!(tunnels.drain, Some(seconds(1800)));
    assert!(!remote_access.events);
    assert_eq!(remote_access.operation_ids, OperationIds::Templates);
}

#[test]
fn warns_of_a_password_at_the_port_of_the_mqtt_service() {
    let url = "[mqtt]\nurl = \"mqtts://cloud.example.com:9883\"\n";
    let warnings = Machine::with(url).config().warnings;
    assert_eq!(
        warnings,
        [
            "mqtt.url names port 9883, the platform's MQTT Service, which refuses the password of a \
             device: use a certificate (auth.cert_file), or port 8883"
        ]
    );
    // What it is given for itself may be a token.
    let token = format!("{url}username = \"t1\"\npassword = \"eyJh\"\n");
    assert_eq!(Machine::with(&token).config().warnings, [""; 0]);
}

#[test]
fn reads_where_ids_come_from_also_as_the_switch_that_it_was() {
    for (value, source) in [
        ("\"notifications\"", OperationIds::Notifications),
        ("\"Templates\"", OperationIds::Templates),
        ("\"none\"", OperationIds::None),
        ("true", OperationIds::Templates),
        ("false", OperationIds::None),
        ("\"\"", OperationIds::Notifications),
    ] {
        let machine = Machine::with(&format!("[remote_access]\noperation_ids = {value}"));
        let config = machine.config();
        assert_eq!(config.remote_access.operation_ids, source, "{value}");
    }
}

#[test]
fn puts_flags_over_environment_over_file_over_default() {
    let name = |machine: &Machine| machine.config().device.name;
    let machine = Machine::with("");
    assert_eq!(name(&machine), "box");
    let machine = Machine::with("[device]\nname = \"of the file\"\n");
    assert_eq!(name(&machine), "of the file");
    let machine = machine.variable("ADIT_DEVICE_NAME", "of the environment");
    assert_eq!(name(&machine), "of the environment");
    let machine = machine.set("device.name=of the = flag");
    assert_eq!(name(&machine), "of the = flag");
    let machine = machine.set("device.name=");
    assert_eq!(name(&machine), "box");
}

#[test]
fn takes_all_from_the_environment_where_there_is_no_file() {
    let mut machine = Machine {
        host_name: Some("box".to_owned()),
        ..Machine::default()
    };
    for (name, text) in [
        ("ADIT_CLOUD_URL", "https://tenant.example.com"),
        ("ADIT_AUTH_TENANT", "t1"),
        ("ADIT_AUTH_USERNAME", "device_gw"),
        ("ADIT_AUTH_PASSWORD", " hunter2 "),
        ("ADIT_DEVICE_ANNOUNCE", "False"),
        ("ADIT_REMOTE_ACCESS_MAX_TUNNELS", "7"),
        (
            "ADIT_REMOTE_ACCESS_ALLOW",
            "plc-7:22, 10.0.0.0/8 ,[fd00::7]:22",
        ),
        ("ADIT_REMOTE_ACCESS_DENY", ""),
        ("ADIT_MQTT_PASSWORD", ""),
        ("ADIT_LOG_LEVEL", "debug"),
        ("ADIT_LOG_FORMAT", "json"),
        ("EDITOR", "vi"),
    ] {
        machine = machine.variable(name, text);
    }
    let config = machine.config();
    assert_eq!(user(&config).1, " hunter2 ");
    assert!(!config.device.announce);
    assert_eq!(config.tunnels.max_tunnels, 7);
    assert_eq!(
        config.tunnels.policy.to_string(),
        "allow plc-7:22, 10.0.0.0/8, [fd00::7]:22"
    );
}

#[test]
fn reads_the_default_file_if_none_is_named() {
    let mut machine = Machine::with("");
    machine.named_file = None;
    assert_eq!(
        machine.complaint().lines().nth(1),
        Some(
            "auth.password: is not set (ADIT_AUTH_PASSWORD): password of that user; \
             auth.password_file (ADIT_AUTH_PASSWORD_FILE) may name a file that holds it"
        )
    );
    let machine = machine.file(DEFAULT_FILE, format!("{CLOUD}{AUTH}"));
    assert_eq!(user(&machine.config()).0, "t1/device_gw");
}

#[test]
fn says_what_is_wrong_with_a_value_of_the_file() {
    for (section, value, complaint) in [
        (
            "remote_access",
            "connect_timeout = \"10 parsecs\"",
            "\"10 parsecs\" is not a duration such as \"15s\" or \"2m\"",
        ),
        (
            "remote_access",
            "connect_timeout = \"\"",
            "\"\" is not a duration such as \"15s\" or \"2m\"",
        ),
        (
            "remote_access",
            "connect_timeout = 15",
            "15 is not a duration such as \"15s\" or \"2m\"",
        ),
        (
            "remote_access",
            "connect_timeout = \"15\"",
            "\"15\" is not a duration such as \"15s\" or \"2m\"",
        ),
        (
            "remote_access",
            "connect_timeout = \"-1s\"",
            "\"-1s\" is not a duration such as \"15s\" or \"2m\"",
        ),
        (
            "remote_access",
            "connect_timeout = \"0\"",
            "\"0\" is not a duration from \"10ms\" to \"1h\"",
        ),
        (
            "remote_access",
            "connect_timeout = \"1day\"",
            "\"1day\" is not a duration from \"10ms\" to \"1h\"",
        ),
        (
            "remote_access",
            "keep_alive = \"1ms\"",
            "\"1ms\" is not a duration from \"10ms\" to \"1h\", or \"0\" for never",
        ),
        (
            "remote_access",
            "idle_timeout = \"1ms\"",
            "\"1ms\" is not a duration from \"1s\" to \"30days\", or \"0\" for never",
        ),
        (
            "remote_access",
            "max_duration = \"9999999999999years\"",
            "\"9999999999999years\" is not a duration such as \"15s\" or \"2m\"",
        ),
        (
            "remote_access",
            "max_duration = \"1000years\"",
            "\"1000years\" is not a duration from \"1s\" to \"30days\", or \"0\" for never",
        ),
        (
            "remote_access",
            "max_tunnels = \"many\"",
            "\"many\" is not a whole number",
        ),
        (
            "remote_access",
            "max_tunnels = \"64\"",
            "\"64\" is not a whole number",
        ),
        (
            "remote_access",
            "max_tunnels = 6.4",
            "a fraction is not a whole number",
        ),
        (
            "remote_access",
            "max_tunnels = 0",
            "\"0\" is not a whole number from 1 to 10000",
        ),
        (
            "remote_access",
            "max_tunnels = -1",
            "\"-1\" is not a whole number from 1 to 10000",
        ),
        (
            "remote_access",
            "events = \"yes\"",
            "\"yes\" is not true or false",
        ),
        ("remote_access", "events = 1", "1 is not true or false"),
        (
            "remote_access",
            "allow = \"private\"",
            "\"private\" is not a list such as [\"a\", \"b\"]",
        ),
        ("remote_access", "allow = [5]", "5 is not a text in quotes"),
        (
            "remote_access",
            "allow = [[\"a\"]]",
            "a list is not a text in quotes",
        ),
        (
            "remote_access",
            "allow = [\"plc-7:ssh\"]",
            "\"plc-7:ssh\" does not end with a port from 1 to 65535 or a range of ports such as 5900-5910",
        ),
        (
            "remote_access",
            "allow = [\"\"]",
            "\"\" is not a pattern such as \"plc-7:22\", \"*.lan\", \"10.0.0.0/8:5900-5910\", \"[fd00::7]:22\" or \"private\"",
        ),
        (
            "remote_access",
            "allow = [\"169.254.169.254\"]",
            "\"169.254.169.254\" is never reached, whatever is allowed: it is a link-local address",
        ),
        (
            "remote_access",
            "deny = [\"10.0.0.5/24\"]",
            "\"10.0.0.5/24\" has address bits behind the prefix; the network is 10.0.0.0/24",
        ),
        (
            "remote_access",
            "protocols = [\"RDP\"]",
            "\"RDP\" is not one of SSH, TELNET, VNC, PASSTHROUGH",
        ),
        (
            "remote_access",
            "protocols = []",
            "is empty; it takes any of SSH, TELNET, VNC, PASSTHROUGH",
        ),
        (
            "device",
            "id = \"gw:7\"",
            "\"gw:7\" has one of the characters : / + # that a device id cannot have",
        ),
        (
            "device",
            "id = \"gw/7\"",
            "\"gw/7\" has one of the characters : / + # that a device id cannot have",
        ),
        (
            "device",
            "id = \"gw\\n7\"",
            "\"gw\\n7\" has a control character such as a line break",
        ),
        (
            "device",
            "id = \" gw\"",
            "\" gw\" begins or ends with a space",
        ),
        ("device", "id = 7", "7 is not a text in quotes"),
        (
            "device",
            "required_interval = \"90s\"",
            "\"90s\" is not in whole minutes, or \"0\" to leave it alone",
        ),
        (
            "device",
            "supported_operations = [\"a,b\"]",
            "\"a,b\" is not the name of an operation such as \"c8y_Restart\"",
        ),
        (
            "device",
            "children = [\"plc/1\"]",
            "\"plc/1\" has one of the characters : / + # that a device id cannot have",
        ),
        ("device", "children = [\"\"]", "\"\" is empty"),
        (
            "device",
            "children = [\"plc\\uFFFF\"]",
            "\"plc\\u{ffff}\" has a Unicode non-character, which no broker takes",
        ),
        (
            "device",
            "id = \"gw\\uFDD0\"",
            "\"gw\\u{fdd0}\" has a Unicode non-character, which no broker takes",
        ),
        (
            "mqtt",
            "keep_alive = \"0\"",
            "\"0\" is not a duration from \"1s\" to \"18h 12m 15s\"",
        ),
        (
            "mqtt",
            "keep_alive = \"65536s\"",
            "\"65536s\" is not a duration from \"1s\" to \"18h 12m 15s\"",
        ),
        (
            "mqtt",
            "keep_alive = \"1500ms\"",
            "\"1500ms\" is not in whole seconds",
        ),
        (
            "mqtt",
            "topic_prefix = \"c8y\"",
            "\"c8y\" does not end with /",
        ),
        (
            "mqtt",
            "topic_prefix = \"+/\"",
            "\"+/\" is not the beginning of a topic such as \"c8y/\"",
        ),
        (
            "mqtt",
            "username = \"local\"",
            "has no password: set mqtt.password or mqtt.password_file",
        ),
        (
            "mqtt",
            "password = \"local\"",
            "has no user: set mqtt.username",
        ),
        (
            "mqtt",
            "password = 12345",
            "the value is not a text in quotes",
        ),
        (
            "mqtt",
            "password = [\"hunter3\"]",
            "the value is not a text in quotes",
        ),
        (
            "mqtt",
            "password = \"hunter\\u0000\"",
            "the value has a control character such as a line break",
        ),
    ] {
        let machine = Machine::with(&format!("[{section}]\n\n{value}\n"));
        let key = value.split(' ').next().unwrap();
        // A password of the wrong kind also lacks a user, which is another matter.
        let found = machine.complaint();
        let expected = format!("adit.toml, line 9, {section}.{key}: {complaint}");
        assert!(
            found.lines().any(|line| line == expected),
            "{found}\nis not\n{expected}"
        );
    }
}

#[test]
fn says_what_is_wrong_with_a_url() {
    for (variable, url, complaint) in [
        (
            "ADIT_CLOUD_URL",
            "tenant.example.com",
            "\"tenant.example.com\" is not a URL such as \"https://tenant.example.com\"",
        ),
        (
            "ADIT_CLOUD_URL",
            "wss://a",
            "\"wss://a\" begins with wss://; write https://, adit opens the WebSocket",
        ),
        (
            "ADIT_CLOUD_URL",
            "ws://a",
            "\"ws://a\" begins with ws://; write http://, adit opens the WebSocket",
        ),
        (
            "ADIT_CLOUD_URL",
            "mqtts://a",
            "\"mqtts://a\" does not begin with https:// or http://",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://a/path",
            "\"https://a/path\" has something behind host and port, unlike \"https://tenant.example.com\"",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://a?q",
            "\"https://a?q\" has something behind host and port, unlike \"https://tenant.example.com\"",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://",
            "\"https://\" does not name a host as \"https://tenant.example.com\" does",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://a b",
            "\"https://a b\" does not name a host as \"https://tenant.example.com\" does",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://[10.0.0.1]",
            "\"https://[10.0.0.1]\" does not name a host as \"https://tenant.example.com\" does",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://::1",
            "\"https://::1\" has an IPv6 address without [ and ]",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://a:0",
            "\"https://a:0\" does not have a port from 1 to 65535",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://a:65536",
            "\"https://a:65536\" does not have a port from 1 to 65535",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://a:",
            "\"https://a:\" does not have a port from 1 to 65535",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://me:hunter2@a",
            "\"https://…\" has a user or a password, which belong in the section auth",
        ),
        (
            "ADIT_CLOUD_URL",
            "https://me:hun@ter2/@a",
            "\"https://…\" has a user or a password, which belong in the section auth",
        ),
        (
            "ADIT_CLOUD_URL",
            "me:hunter2@a",
            "\"…\" is not a URL such as \"https://tenant.example.com\"",
        ),
        (
            "ADIT_MQTT_URL",
            "wss://a/mqtt#x",
            "\"wss://a/mqtt#x\" has a character in its path that cannot stand there",
        ),
        (
            "ADIT_MQTT_URL",
            "wss://me:hunter2@a/mqtt",
            "\"wss://…\" has a user or a password, which belong in the section auth",
        ),
        (
            "ADIT_CLOUD_PROXY",
            "proxy:3128",
            "\"proxy:3128\" is neither \"none\" nor a URL such as \"http://user:password@proxy:3128\"",
        ),
        (
            "ADIT_CLOUD_PROXY",
            "socks5://proxy:1080",
            "\"socks5://proxy:1080\" does not begin with http:// or https://",
        ),
        (
            "ADIT_CLOUD_PROXY",
            "http://proxy",
            "\"http://proxy\" names no port, unlike \"http://user:password@proxy:3128\"",
        ),
        (
            "ADIT_CLOUD_PROXY",
            "http://me:hun/ter2@proxy:3128",
            "\"http://…\" has one of the characters / ? # in its user or password; write %2F, %3F, %23",
        ),
        (
            "ADIT_CLOUD_PROXY",
            "http://me:hunter2%@proxy:3128",
            "\"http://…\" has a % in its user or password that does not begin %25 or the like",
        ),
        (
            "ADIT_CLOUD_PROXY",
            "http://me:hunter2%0a@proxy:3128",
            "\"http://…\" has a control character such as a line break",
        ),
        (
            "ADIT_MQTT_URL",
            "ssl://a",
            "\"ssl://a\" does not begin with mqtts://, mqtt://, wss:// or ws://",
        ),
        (
            "ADIT_MQTT_URL",
            "mqtt://a/b",
            "\"mqtt://a/b\" has something behind host and port, unlike \"mqtts://tenant.example.com:8883\"",
        ),
    ] {
        let machine = Machine::with("").variable(variable, url);
        assert_eq!(machine.complaint(), format!("{variable}: {complaint}"));
    }
}

#[test]
fn reads_a_url() {
    for (url, expected) in [
        ("https://a.example", endpoint(true, "a.example", 443)),
        ("HTTPS://a.example:8443/", endpoint(true, "a.example", 8443)),
        ("http://10.0.0.1", endpoint(false, "10.0.0.1", 80)),
        ("https://[fd00::7]", endpoint(true, "fd00::7", 443)),
        ("https://[fd00::7]:8443", endpoint(true, "fd00::7", 8443)),
    ] {
        let machine = Machine::with("").variable("ADIT_CLOUD_URL", url);
        assert_eq!(machine.config().cloud.endpoint, expected, "{url}");
    }
}

#[test]
fn reads_the_url_of_a_broker() {
    for (url, server, path) in [
        ("mqtts://a", endpoint(true, "a", 8883), None),
        ("mqtt://a/", endpoint(false, "a", 1883), None),
        ("wss://a", endpoint(true, "a", 443), Some("/mqtt")),
        ("WSS://a/", endpoint(true, "a", 443), Some("/mqtt")),
        (
            "ws://[::1]:8080/x/y?z=1",
            endpoint(false, "::1", 8080),
            Some("/x/y?z=1"),
        ),
        ("ws://a?z=1", endpoint(false, "a", 80), Some("/mqtt?z=1")),
    ] {
        let machine = Machine::with("").variable("ADIT_MQTT_URL", url);
        let websocket = path.map(str::to_owned);
        let expected = BrokerEndpoint { server, websocket };
        assert_eq!(machine.config().mqtt.endpoint, expected, "{url}");
    }
}

#[test]
fn reads_the_url_of_a_proxy() {
    let server = |tls, port| endpoint(tls, "proxy", port);
    let secret = Secret::new("p@ss:1%");
    for (url, expected) in [
        (
            "http://proxy:3128",
            Some(Proxy::new(server(false, 3128), None)),
        ),
        ("HTTPS://proxy/", Some(Proxy::new(server(true, 443), None))),
        (
            "http://me:p%40ss:1%25@proxy:3128",
            Some(Proxy::new(server(false, 3128), Some(("me", &secret)))),
        ),
        (
            "http://me@proxy:3128",
            Some(Proxy::new(
                server(false, 3128),
                Some(("me", &Secret::new(""))),
            )),
        ),
        ("none", None),
    ] {
        let machine = Machine::with("")
            .variable("ADIT_CLOUD_PROXY", url)
            .variable("https_proxy", "http://other:1");
        let config = machine.config();
        assert_eq!(config.cloud.proxy, expected, "{url}");
        assert_eq!(config.mqtt.proxy, expected, "{url}");
    }
}

#[test]
fn decides_about_proxies_for_the_cloud_and_the_broker_apart() {
    let machine = Machine::with("[mqtt]\nurl = \"mqtts://broker.lan\"\n")
        .variable("HTTPS_PROXY", "proxy:3128");
    for (exception, cloud, broker) in [
        ("", true, true),
        ("lan", true, false),
        ("tenant.example.com", false, true),
    ] {
        for machine in [
            machine.clone(),
            machine
                .clone()
                .variable("ADIT_CLOUD_PROXY", "http://proxy:1"),
        ] {
            let config = machine.variable("no_proxy", exception).config();
            let ways = (config.cloud.proxy.is_some(), config.mqtt.proxy.is_some());
            assert_eq!(ways, (cloud, broker), "{exception}");
        }
    }
}

#[test]
fn goes_on_without_a_proxy_of_the_environment_that_it_cannot_use() {
    let machine = Machine::with("").variable("ALL_PROXY", "socks5://me:hunter2@proxy:1080");
    let config = machine.config();
    assert_eq!(config.cloud.proxy, None);
    let warning =
        "the proxy of ALL_PROXY is not used: the value does not begin with http:// or https://";
    assert_eq!(config.warnings, [warning]);
}

#[test]
fn goes_on_without_a_variable_about_proxies_that_is_no_text() {
    let illegible = |start: &str| OsString::from_vec([start.as_bytes(), b"\xff"].concat());
    let with = |name: &str, value: OsString| {
        let mut machine = Machine::with("");
        machine.environment.push((name.into(), value));
        machine
    };
    for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let config = with(name, illegible("http://me:hunter2@proxy:1080/")).config();
        assert_eq!((config.cloud.proxy, config.mqtt.proxy), (None, None));
        let warning = format!("the proxy of {name} is not used: the value is not UTF-8 text");
        assert_eq!(config.warnings, [warning]);
    }
    for name in ["no_proxy", "NO_PROXY"] {
        let machine = with(name, illegible("tenant.example.com,hunter2"));
        let config = machine.variable("HTTPS_PROXY", "proxy:3128").config();
        assert_eq!(config.cloud.proxy, None, "what can be read counts");
        let warning = format!("{name} is not UTF-8 text: what cannot be read excepts no host");
        assert_eq!(config.warnings, [warning]);
    }
}

/// A certificate for `name`, the PEM form of it and of its key.
fn certificate(name: &str, until: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 12, 31);
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    if !name.is_empty() {
        let common_name = rcgen::DnType::CommonName;
        parameters.distinguished_name.push(common_name, name);
    }
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A machine whose device has a certificate and no user.
fn certified((certificate, key): &(String, String)) -> Machine {
    Machine::with_file(CLOUD)
        .file("/device.pem", certificate)
        .file("/device.key", key)
        .variable("ADIT_AUTH_CERT_FILE", "/device.pem")
        .variable("ADIT_AUTH_KEY_FILE", "/device.key")
}

#[test]
fn says_what_is_wrong_with_a_certificate() {
    let good = certificate("gw-7", 4000);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n\
                     -----END ENCRYPTED PRIVATE KEY-----\n";
    let old_encrypted = good
        .1
        .replace("KEY-----\nM", "KEY-----\nProc-Type: 4,ENCRYPTED\n\nM");
    let hello = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    let broken = "-----BEGIN PRIVATE KEY-----\nhunter2 ü\n-----END PRIVATE KEY-----\n";
    let decrypt = "ADIT_AUTH_KEY_FILE: \"/device.key\" is encrypted, and nobody is there to type the \
                   pass phrase; decrypt it with: openssl pkey -in '/device.key' -out '/device.key.plain'";
    for (machine, complaint) in [
        (
            certified(&good).variable("ADIT_DEVICE_ID", "gw-8"),
            "ADIT_DEVICE_ID: \"gw-8\" is not \"gw-7\", the common name of the certificate in \
             auth.cert_file; the platform takes the certificate only from the device that it names",
        ),
        (
            certified(&certificate("a/b", 4000)),
            "ADIT_AUTH_CERT_FILE: the certificate's common name \"a/b\", the device id, has one of \
             the characters : / + # that a device id cannot have",
        ),
        (
            certified(&certificate("", 4000)),
            "ADIT_AUTH_CERT_FILE: \"/device.pem\" holds a certificate without a common name, which \
             must be the device id",
        ),
        (
            certified(&(good.0.clone(), certificate("gw-7", 4000).1)),
            "ADIT_AUTH_KEY_FILE: \"/device.key\" is not the key of the certificate 'gw-7' in \
             \"/device.pem\"",
        ),
        (certified(&(good.0.clone(), encrypted.to_owned())), decrypt),
        (certified(&(good.0.clone(), old_encrypted)), decrypt),
        (
            certified(&(good.0.clone(), no_key.to_owned())),
            "ADIT_AUTH_KEY_FILE: \"/device.key\" holds a key that adit cannot use; it can use P-256, \
             P-384, Ed25519 and RSA from 2048 bits",
        ),
        (
            certified(&(good.0.clone(), broken.to_owned())),
            "ADIT_AUTH_KEY_FILE: \"/device.key\" is not well-formed PEM",
        ),
        (
            certified(&(good.0.clone(), good.0.clone())),
            "ADIT_AUTH_KEY_FILE: \"/device.key\" holds no private key in PEM form (PKCS#8, SEC1 or \
             PKCS#1)",
        ),
        (
            certified(&(good.1.clone(), good.1.clone())),
            "ADIT_AUTH_CERT_FILE: \"/device.pem\" holds no certificate in PEM form",
        ),
        (
            certified(&(hello.to_owned(), good.1.clone())),
            "ADIT_AUTH_CERT_FILE: \"/device.pem\" holds a certificate that cannot be parsed",
        ),
        (
            certified(&good).variable("ADIT_AUTH_KEY_FILE", "/none"),
            "ADIT_AUTH_KEY_FILE: \"/none\" cannot be read: no such file",
        ),
        (
            certified(&good).variable("ADIT_MQTT_URL", "wss://tenant.example.com/mqtt"),
            "ADIT_MQTT_URL: names a WebSocket, and the platform takes no certificate over \
             MQTT-WebSocket; use mqtts:// or a user and a password",
        ),
        (
            certified(&good).set("auth.key_file="),
            "ADIT_AUTH_CERT_FILE: needs auth.key_file (ADIT_AUTH_KEY_FILE) too",
        ),
        (
            certified(&good).set("auth.cert_file="),
            "ADIT_AUTH_KEY_FILE: needs auth.cert_file (ADIT_AUTH_CERT_FILE) too",
        ),
        (
            certified(&good).variable("ADIT_AUTH_USERNAME", "device_gw"),
            "ADIT_AUTH_CERT_FILE: a user is set too (ADIT_AUTH_USERNAME); only one of them can be",
        ),
    ] {
        assert_eq!(machine.complaint(), complaint);
    }
}

#[test]
fn takes_the_device_id_from_the_certificate() {
    let sources = certified(&certificate("gw-7", 2020));
    let read = |path: &Path| Ok(sources.files[path].clone());
    let sources = Sources {
        file: sources.named_file.map(PathBuf::from),
        settings: Vec::new(),
        environment: sources.environment.clone(),
        host_name: None,
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        read: &read,
    };
    let mut builder = SectionBuilder {
        gathered: sources::gather(&sources),
        sources: &sources,
    };
    let (auth, _) = builder.auth().unwrap();
    assert_eq!(builder.device(Some(&auth)).unwrap().id, "gw-7");
    let proxies = builder.proxies();
    let cloud = builder.cloud(proxies.as_ref());
    let mqtt = builder.mqtt(cloud.as_ref(), proxies.as_ref(), Some(&auth));
    assert!(mqtt.unwrap().login.is_none());
    let warning = "the certificate in /device.pem expired at 2020-12-31T00:00:00Z, and now is \
                   2027-01-15T08:00:00Z; it is read again at each connect";
    assert_eq!(builder.gathered.warnings, [warning]);
}

#[test]
fn warns_of_a_certificate_to_trust_that_is_no_authority() {
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["cloud".to_owned()];
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), issuer_key);
    let leaf = parameters.signed_by(&key, &issuer).unwrap();
    let machine = Machine::with("")
        .variable("ADIT_CLOUD_CA_FILE", "/ca.pem")
        .file("/ca.pem", leaf.pem());
    assert_eq!(
        machine.config().warnings,
        [
            "certificate number 1 in /ca.pem makes nothing trusted: 'cloud' is no CA; the \
          certificate of its issuer, 'rcgen self signed cert', is needed"
        ]
    );
}

#[test]
fn reads_a_key_in_every_form() {
    for name in ["pkcs8", "sec1", "pkcs1"] {
        let directory = std::env::temp_dir().join(format!("adit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let make = match name {
            "pkcs8" => "openssl genpkey -algorithm ed25519 -out device.key",
            "sec1" => "openssl ecparam -name prime256v1 -genkey -out device.key",
            _ => "openssl genrsa -traditional -out device.key 2048",
        };
        let issue = "openssl req -x509 -new -key device.key -subj /O=Acme/CN=gw-7 -out device.pem";
        let made = std::process::Command::new("sh")
            .args(["-ec", &format!("{make} 2>&1; {issue} 2>&1")])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
        let files = Files {
            certificate: "device.pem".into(),
            key: "device.key".into(),
        };
        let identity = Identity::parse(files, &read("device.pem"), &read("device.key"));
        assert_eq!(identity.unwrap().name(), "gw-7", "{name}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn reports_all_faults_in_one_go() {
    let file = "url = \"x\"\n\
        [cloud]\nurl = \"wss://a\"\nca_file = \"/ca.pem\"\n\
        [remote_access]\nallow = [\n  \"private\",\n  \"*\",\n  7,\n]\nmax_tunnel = 3\n\
        [mqtts]\nurl = \"x\"\n\
        [device.children]\nx = 1\n";
    let machine = Machine::with_file(file)
        .variable("ADIT_REMOTE_ACCESS_CONNECT_TIMEOUT", "10 parsecs")
        .variable("ADIT_MQTT_KEEPALIVE", "1s")
        .variable("ADIT_LOG_LEVL", "debug")
        .set("remote_access.idle_timeout=soon")
        .set("cloud.tenant=t1")
        .set("auth.password=hunter2")
        .set("hunter2");
    let expected = "\
        adit.toml, line 1, url: no such key; did you mean cloud.url or mqtt.url?\n\
        adit.toml, line 3, cloud.url: \"wss://a\" begins with wss://; write https://, adit opens the WebSocket\n\
        adit.toml, line 4, cloud.ca_file: \"/ca.pem\" cannot be read: no such file\n\
        adit.toml, line 8, remote_access.allow: \"*\" does not say which hosts; \"0.0.0.0/0\" and \"::/0\" are all addresses\n\
        adit.toml, line 9, remote_access.allow: 7 is not a text in quotes\n\
        adit.toml, line 11, remote_access.max_tunnel: no such key; did you mean remote_access.max_tunnels?\n\
        adit.toml, line 12, mqtts: no such section; did you mean [mqtt]?\n\
        adit.toml, line 14, device.children: a table is not a list such as [\"a\", \"b\"]\n\
        ADIT_LOG_LEVL: no such key; did you mean ADIT_LOG_LEVEL?\n\
        ADIT_MQTT_KEEPALIVE: no such key; did you mean ADIT_MQTT_KEEP_ALIVE?\n\
        ADIT_REMOTE_ACCESS_CONNECT_TIMEOUT: \"10 parsecs\" is not a duration such as \"15s\" or \"2m\"\n\
        --set auth.password: every user of the machine sees a command line; use auth.password_file or ADIT_AUTH_PASSWORD\n\
        --set cloud.tenant: no such key; did you mean auth.tenant?\n\
        --set remote_access.idle_timeout: \"soon\" is not a duration such as \"15s\" or \"2m\"\n\
        --set …: is not of the form section.key=value\n\
        auth.password: is not set (ADIT_AUTH_PASSWORD): password of that user; auth.password_file (ADIT_AUTH_PASSWORD_FILE) may name a file that holds it\n\
        auth.username: is not set (ADIT_AUTH_USERNAME): user of the platform, as device_gateway-7 or t12345/device_gateway-7";
    assert_eq!(machine.complaint(), expected);
}

#[test]
fn shows_names_without_what_moves_a_cursor() {
    let escape = "\u{1b}[2K\u{8}";
    let machine = Machine::with("[\"a\\u001b[31mb\"]\nx = 1\n[device]\n\"c\\nd\" = 1\n")
        .variable(&format!("ADIT_MQTT_{escape}"), "1")
        .set(&format!("mqtt.{escape}\n=1"));
    let complaint = machine.complaint();
    let lines: Vec<_> = complaint.lines().collect();
    assert_eq!(lines.len(), 4, "{complaint:?}");
    for line in lines {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    let machine = Machine::with("").variable(&format!("ADIT_STRANGER{escape}"), "1");
    let warning = machine.load().unwrap().warnings.join("\n");
    assert!(warning.starts_with("ADIT_STRANGER"), "{warning:?}");
    assert!(!warning.contains(char::is_control), "{warning:?}");
}

#[test]
fn lets_nobody_look_from_outside_without_a_token() {
    let admin = Machine::with("").config().admin;
    assert_eq!((admin.listen, admin.token), (None, None));
    assert_eq!(admin.socket, Some("/run/adit/adit.sock".into()));
    assert!(!admin.is_socket_set);
    let token = "0123456789abcdef";
    let with_token = |listen: &str| {
        let section = format!("[admin]\nlisten = {listen:?}\ntoken_file = \"token\"\n");
        Machine::with(&section).file("token", format!("{token}\n"))
    };
    for listen in ["127.0.0.1:9590", "[::1]:9590", "127.9.9.9:0"] {
        let machine = Machine::with(&format!("[admin]\nlisten = {listen:?}\n"));
        assert_eq!(machine.config().admin.listen, Some(listen.parse().unwrap()));
    }
    for listen in ["0.0.0.0:9590", "[::]:9590", "10.0.0.7:9590"] {
        let machine = Machine::with(&format!("[admin]\nlisten = {listen:?}\n"));
        assert_eq!(
            machine.complaint(),
            format!(
                "adit.toml, line 8, admin.listen: everybody who reaches {listen} could look at \
                 this gateway: set admin.token_file (ADIT_ADMIN_TOKEN_FILE), or listen at a \
                 loopback address such as 127.0.0.1:9590"
            )
        );
        let config = with_token(listen).config();
        assert_eq!(config.admin.token.unwrap().expose(), token);
        assert_eq!(config.warnings, Vec::<String>::new());
    }
    let readable = with_token("0.0.0.0:1").readable("token").config();
    assert_eq!(
        readable.warnings,
        ["every user of this machine can read the token in token"]
    );
    let short = with_token("0.0.0.0:1")
        .file("token", "0123456789abcde")
        .config();
    assert_eq!(
        short.warnings,
        [
            "the token in token has less than 16 characters and can be guessed; make one with: \
          openssl rand -hex 16"
        ]
    );
}

#[test]
fn says_what_is_wrong_with_the_places_where_it_is_looked_at() {
    for (line, complaint) in [
        (
            "listen = \"localhost\"",
            "admin.listen: \"localhost\" is not an address and a port such as \"127.0.0.1:9590\"",
        ),
        (
            "socket = \"adit.sock\"",
            "admin.socket: \"adit.sock\" does not begin with /",
        ),
        (
            "token_file = \"missing\"",
            "admin.token_file: \"missing\" cannot be read: no such file",
        ),
        (
            "token_file = \"empty\"",
            "admin.token_file: the content of \"empty\" is empty",
        ),
        (
            "token_file = \"words\"",
            "admin.token_file: the content of \"words\" has a character that cannot stand in a \
             token: a space, or none of ASCII",
        ),
    ] {
        let machine = Machine::with(&format!("[admin]\n{line}\n"));
        let machine = machine.file("empty", "").file("words", "open sesame");
        let expected = format!("adit.toml, line 8, {complaint}");
        assert_eq!(machine.complaint(), expected);
    }
    let long = format!("/{}", "x".repeat(100));
    let machine = Machine::with("").set(&format!("admin.socket={long}"));
    assert!(machine.complaint().contains("is longer than the 100 bytes"));
    for none in ["none", "None"] {
        let machine = Machine::with("").variable("ADIT_ADMIN_SOCKET", none);
        assert_eq!(machine.config().admin.socket, None);
    }
    let machine = Machine::with("[admin]\nsocket = \"\"\n");
    assert_eq!(machine.config().admin.socket, None);
}

#[test]
fn reads_where_to_ask_though_all_else_is_faulty() {
    let admin = |machine: &Machine| {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        admin(&Sources {
            file: machine.named_file.map(PathBuf::from),
            settings: machine.settings.clone(),
            environment: machine.environment.clone(),
            host_name: None,
            now: SystemTime::now(),
            read: &|path| machine.files.get(path).cloned().ok_or_else(not_found),
        })
    };
    let faulty = "cloud.url = 7\nweather = 1\nadmin.socket = \"/s\"\n";
    let (settings, unread) = admin(&Machine::with_file(faulty)).unwrap();
    assert_eq!(settings.socket, Some("/s".into()));
    assert_eq!(unread, Vec::<String>::new());
    let (settings, unread) = admin(&Machine::with_file("admin.socket = \n")).unwrap();
    assert_eq!(settings.socket, Some("/run/adit/adit.sock".into()));
    assert_eq!(unread.len(), 1, "{unread:?}");
    let faults = admin(&Machine::with_file("admin.socket = 7\n")).unwrap_err();
    assert!(faults.to_string().contains("admin.socket"), "{faults}");
    let missing = Machine {
        named_file: Some("missing.toml"),
        ..Machine::default()
    };
    let faults = admin(&missing).unwrap_err().to_string();
    assert_eq!(faults, "missing.toml: cannot be read: no such file");
}

#[test]
fn shows_no_line_that_is_no_toml() {
    let file = "[cloud]\nurl = https\n[auth]\npassword = \"hunter2\nusername = hunter2\nhunter2\n";
    let machine = Machine::with_file(file).variable("ADIT_MQTT_URL", "ssl://a");
    assert_eq!(
        machine.complaint(),
        "adit.toml, line 2, column 7: string values must be quoted, expected literal string\n\
         adit.toml, line 4, column 20: invalid basic string, expected `\"`\n\
         adit.toml, line 5, column 12: string values must be quoted, expected literal string\n\
         adit.toml, line 6, column 8: key with no value, expected `=`\n\
         ADIT_MQTT_URL: \"ssl://a\" does not begin with mqtts://, mqtt://, wss:// or ws://"
    );
}

#[test]
fn says_why_a_file_cannot_be_used() {
    for (machine, complaint) in [
        (
            Machine {
                named_file: Some("missing.toml"),
                host_name: Some("box".to_owned()),
                ..Machine::default()
            },
            "missing.toml: cannot be read: no such file",
        ),
        (
            Machine::with("").file("adit.toml", b"\xff"),
            "adit.toml: is not UTF-8 text",
        ),
        (
            Machine::with("")
                .variable("ADIT_CLOUD_CA_FILE", "/ca.pem")
                .file("/ca.pem", "hello"),
            "ADIT_CLOUD_CA_FILE: \"/ca.pem\" holds no certificate in PEM form",
        ),
        (
            Machine::with("")
                .variable("ADIT_CLOUD_CA_FILE", "/ca.pem")
                .file(
                    "/ca.pem",
                    "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
                ),
            "ADIT_CLOUD_CA_FILE: \"/ca.pem\" has a certificate, number 1, that cannot be parsed: \
             invalid peer certificate: BadEncoding",
        ),
    ] {
        assert_eq!(machine.complaint(), complaint);
    }
}

#[test]
fn reads_the_certificates_to_trust() {
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.self_signed(&key).unwrap()
    };
    let (one, two) = (issue("one"), issue("two"));
    let machine = Machine::with("")
        .variable("ADIT_CLOUD_CA_FILE", "/ca.pem")
        .file("/ca.pem", format!("# ours\n{}\n{}", one.pem(), two.pem()));
    let ca = machine.config().cloud.ca;
    assert_eq!(ca, [one.der().clone(), two.der().clone()]);
}

const AUTH_WITH_FILE: &str =
    "[auth]\ntenant = \"t1\"\nusername = \"device_gw\"\npassword_file = \"/password\"\n";

#[test]
fn reads_a_password_from_a_file() {
    for (content, password) in [
        ("hunter2", "hunter2"),
        ("hunter2\n", "hunter2"),
        ("hunter2\r\n", "hunter2"),
        (" hunter 2 \n", " hunter 2 "),
    ] {
        let machine =
            Machine::with_file(&format!("{CLOUD}{AUTH_WITH_FILE}")).file("/password", content);
        let config = machine.config();
        assert_eq!(user(&config).1, password);
        assert_eq!(broker_user(&config).1, password);
    }
}

#[test]
fn says_what_is_wrong_with_a_password_file() {
    for (content, clause) in [
        (b"".as_slice(), "is empty"),
        (b"\n", "is empty"),
        (
            b"hunter2\nhunter3\n",
            "has a control character such as a line break",
        ),
        (b"\xff", "is not UTF-8 text"),
        (&[b'x'; 5000], "is longer than 4096 bytes"),
    ] {
        let machine =
            Machine::with_file(&format!("{CLOUD}{AUTH_WITH_FILE}")).file("/password", content);
        let place = "adit.toml, line 6, auth.password_file";
        assert_eq!(
            machine.complaint(),
            format!("{place}: the content of \"/password\" {clause}")
        );
    }
}

#[test]
fn refuses_what_does_not_go_together() {
    let too_long = "x".repeat(251);
    for (machine, complaint) in [
        (
            Machine::with("password_file = \"/password\"\n"),
            "adit.toml, line 7, auth.password_file: auth.password is set too \
             (adit.toml, line 6, auth.password); only one of them can be",
        ),
        (
            Machine::with("").variable("ADIT_AUTH_USERNAME", "t2/device_gw"),
            "adit.toml, line 4, auth.tenant: \"t1\" is not the tenant \"t2\" of auth.username",
        ),
        (
            Machine::with("").set("device.children=plc,box"),
            "--set device.children: \"box\" is the id of the gateway itself",
        ),
        (
            Machine::with("").set("device.children=plc,other,plc"),
            "--set device.children: \"plc\" is there twice",
        ),
        (
            Machine::with("").set("auth.tenant="),
            "auth.tenant: is not set (ADIT_AUTH_TENANT): tenant id, as t12345",
        ),
        (
            Machine::with("").variable("ADIT_AUTH_USERNAME", "a:b"),
            "ADIT_AUTH_USERNAME: \"a:b\" has a colon, which a user name cannot have",
        ),
        (
            Machine::with("").variable("ADIT_AUTH_USERNAME", "/b"),
            "ADIT_AUTH_USERNAME: \"/b\" is neither a user nor a tenant and a user with / between",
        ),
        (
            Machine::with("").variable("ADIT_DEVICE_ID", &too_long),
            &format!(
                "ADIT_DEVICE_ID: \"{}…\" is longer than 250 bytes",
                &too_long[..100]
            ),
        ),
        (
            Machine {
                host_name: None,
                ..Machine::with("")
            },
            "device.id: is not set (ADIT_DEVICE_ID): this machine has no host name to take instead",
        ),
        (
            Machine {
                host_name: Some("localhost".to_owned()),
                ..Machine::with("")
            },
            "device.id: is not set (ADIT_DEVICE_ID): the host name \"localhost\" is that of every \
             machine without one",
        ),
        (
            Machine {
                host_name: Some("a:b".to_owned()),
                ..Machine::with("")
            },
            "device.id: is not set (ADIT_DEVICE_ID): the host name \"a:b\" has one of the \
             characters : / + # that a device id cannot have",
        ),
    ] {
        assert_eq!(machine.complaint(), complaint);
    }
}

#[test]
fn refuses_a_variable_that_is_no_text() {
    let mut machine = Machine::with("");
    let text = OsString::from_vec(vec![0xff]);
    machine.environment.push(("ADIT_DEVICE_ID".into(), text));
    assert_eq!(machine.complaint(), "ADIT_DEVICE_ID: is not UTF-8 text");
}

#[test]
fn leaves_the_variables_of_kubernetes_alone() {
    // Of services that are named adit, adit-metrics and adit-cloud.
    for service in ["ADIT", "ADIT_METRICS", "ADIT_CLOUD"] {
        let mut machine = Machine::with("");
        for (name, text) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("PORT", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP_PROTO", "tcp"),
            ("PORT_80_TCP_PORT", "80"),
            ("PORT_80_TCP_ADDR", "10.0.0.1"),
            ("PORT_53_UDP", "udp://10.0.0.1:53"),
        ] {
            machine = machine.variable(&format!("{service}_{name}"), text);
        }
        assert_eq!(machine.config().warnings, Vec::<String>::new());
    }
}

#[test]
fn tells_a_variable_of_others_from_a_slip() {
    for (name, complaint) in [
        ("ADIT_AUTH_METHOD", "no such key"),
        ("ADIT_CLOUD_REGION", "no such key"),
        (
            "ADIT_CLUOD_URL",
            "no such key; did you mean ADIT_CLOUD_URL?",
        ),
        ("ADIT_LOG_LEVL", "no such key; did you mean ADIT_LOG_LEVEL?"),
    ] {
        let machine = Machine::with("").variable(name, "80");
        assert_eq!(machine.complaint(), format!("{name}: {complaint}"));
    }
    let machine = Machine::with("")
        .variable("ADIT_IMAGE_TAG", "7")
        .variable("ADIT_PORT", "80")
        .variable("ADITION", "7");
    let warning = "ADIT_IMAGE_TAG, ADIT_PORT: no part of the configuration has such a name, so \
                   it is left alone";
    assert_eq!(machine.config().warnings, [warning]);
}

#[test]
fn takes_an_empty_text_for_none() {
    let machine = Machine::with(
        "[mqtt]\nurl = \"\"\ntopic_prefix = \"\"\nusername = \"\"\npassword = \"\"\n",
    );
    assert_eq!(broker_user(&machine.config()).0, "t1/device_gw");
}

#[test]
fn allows_nothing_if_the_list_is_empty_wherever_it_is_set() {
    let open = || Machine::with("[remote_access]\nallow = [\"10.0.0.0/8\"]\n");
    for machine in [
        Machine::with("[remote_access]\nallow = []\n"),
        open().variable("ADIT_REMOTE_ACCESS_ALLOW", ""),
        open().variable("ADIT_REMOTE_ACCESS_ALLOW", " , "),
        open().set("remote_access.allow="),
    ] {
        let policy = machine.config().tunnels.policy;
        assert_eq!(policy.to_string(), "allow nothing");
    }
}

#[test]
fn takes_an_empty_variable_or_flag_that_is_no_list_for_none() {
    let machine = Machine::with("[remote_access]\nmax_tunnels = 7\n");
    let variable = machine
        .clone()
        .variable("ADIT_REMOTE_ACCESS_MAX_TUNNELS", "");
    assert_eq!(variable.config().tunnels.max_tunnels, 7);
    let flag = machine.set("remote_access.max_tunnels=");
    assert_eq!(flag.config().tunnels.max_tunnels, 64);
}

#[test]
fn says_which_key_a_name_was_meant_to_be() {
    for (setting, complaint) in [
        (
            "keep_alive=1s",
            "--set keep_alive: no such key; did you mean mqtt.keep_alive or \
             remote_access.keep_alive?",
        ),
        (
            "max_tunnel=1",
            "--set max_tunnel: no such key; did you mean remote_access.max_tunnels?",
        ),
        (
            "mqt.keep_alive=1s",
            "--set mqt.keep_alive: no such key; did you mean mqtt.keep_alive?",
        ),
        (
            "cloud.tenant=t1",
            "--set cloud.tenant: no such key; did you mean auth.tenant?",
        ),
        ("x.y=1", "--set x.y: no such key"),
    ] {
        assert_eq!(Machine::with("").set(setting).complaint(), complaint);
    }
}

#[test]
fn names_the_key_that_is_there_twice() {
    let machine = Machine::with("[device]\nname = \"a\"\nname = \"b\"\n");
    let complaint = machine.complaint();
    assert_eq!(complaint, "adit.toml, line 9, column 1: duplicate key name");
}

#[test]
fn says_that_the_default_file_is_not_there_where_something_is_missing() {
    let machine = Machine {
        host_name: Some("box".to_owned()),
        ..Machine::default()
    };
    let missing = "/etc/adit/adit.toml: does not exist, and --config names no other file\n";
    let complaint = machine.complaint();
    assert!(complaint.starts_with(missing), "{complaint}");
    assert!(complaint.contains("\ncloud.url: is not set"), "{complaint}");
}

#[test]
fn warns_of_passwords_that_others_can_read() {
    let file = format!("{CLOUD}{AUTH_WITH_FILE}");
    for (machine, warnings) in [
        (
            Machine::with("").readable("adit.toml"),
            vec!["every user of this machine can read the password in adit.toml"],
        ),
        (
            Machine::with_file(&file)
                .file("/password", "hunter2")
                .readable("adit.toml"),
            vec![],
        ),
        (
            Machine::with_file(&file)
                .file("/password", "hunter2")
                .readable("/password"),
            vec!["every user of this machine can read the password in /password"],
        ),
        (
            Machine::with("").variable("ADIT_CLOUD_URL", "http://cloud"),
            vec![
                "without TLS, everybody on the way to cloud can read the password of auth.username (cloud.url)",
            ],
        ),
        (
            Machine::with("[mqtt]\nurl = \"mqtt://broker\"\n"),
            vec![
                "without TLS, everybody on the way to broker can read the password of auth.username (mqtt.url)",
            ],
        ),
        (
            Machine::with("[mqtt]\nurl = \"mqtt://127.0.0.1\"\n"),
            vec![],
        ),
    ] {
        assert_eq!(machine.config().warnings, warnings);
    }
}

#[test]
fn shows_no_secret_of_a_configuration() {
    let config = Machine::with("[mqtt]\nusername = \"a\"\npassword = \"hunter3\"\n").config();
    assert!(!format!("{config:?} {config:#?}").contains("hunter"));
}

#[test]
fn reads_files_of_this_machine() {
    let path = std::env::temp_dir().join(format!("adit-{}-password", std::process::id()));
    std::fs::write(&path, "hunter2").unwrap();
    let readable = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let content = files::read(&path).unwrap();
        assert_eq!(content.bytes, b"hunter2");
        content.world_readable
    };
    assert!(readable(0o644));
    assert!(!readable(0o640));
    std::fs::remove_file(&path).unwrap();
    assert!(files::read(&path).is_err());
}

#[test]
fn declares_every_key_once_and_with_a_default_that_it_takes() {
    let mut names: Vec<_> = keys().iter().map(Key::variable).collect();
    assert!(names.contains(&"ADIT_REMOTE_ACCESS_MAX_TUNNELS".to_owned()));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), keys().len());
    // A key whose default is refused would make this fail.
    Machine::with("").config();
    for key in keys() {
        assert!(!key.about.is_empty(), "{}", key.full_name());
        assert!(!key.about.contains('|') && !key.default_text().contains('|'));
    }
}

proptest! {
    #[test]
    fn never_shows_a_secret_whatever_else_is_wrong(
        text in "[ -~\\n]{0,40}",
        position in 0..200usize,
    ) {
        let mut file = format!("{CLOUD}{AUTH}[mqtt]\nurl = \"mqtts://a\"\n");
        file.insert_str(position.min(file.len()), &text);
        let machine = Machine::with_file(&file);
        if let Err(faults) = machine.load() {
            prop_assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{}", faults);
        }
    }
}

const BOOTSTRAP: &str = "[auth]\nbootstrap_username = \"devicebootstrap\"\n\
                         bootstrap_password = \"hunter2\"\ncredentials_file = \"/kept.toml\"\n";

#[test]
fn registers_a_gateway_that_has_no_credentials_yet() {
    let config = Machine::with_file(&format!("{CLOUD}{BOOTSTRAP}")).config();
    let Auth::Bootstrap(bootstrap) = &config.auth else {
        panic!("{config:?}")
    };
    assert_eq!(bootstrap.user, "management/devicebootstrap");
    assert_eq!(bootstrap.credentials_file, Path::new("/kept.toml"));
    assert!(config.mqtt.login.is_none());
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn uses_the_credentials_of_an_earlier_registration() {
    let kept = "tenant = \"t1\"\nusername = \"device_box\"\npassword = \"s3cret\"\n";
    let machine = Machine::with_file(&format!("{CLOUD}{BOOTSTRAP}")).file("/kept.toml", kept);
    let config = machine.config();
    assert_eq!(user(&config), ("t1/device_box", "s3cret".to_owned()));
    assert_eq!(config.mqtt.login.unwrap().0, "t1/device_box");
}

#[test]
fn says_what_is_wrong_with_a_registration() {
    let machine = |more: &str| Machine::with_file(&format!("{CLOUD}{BOOTSTRAP}{more}"));
    for (machine, complaint) in [
        (
            machine("").file("/kept.toml", "half a fi"),
            "/kept.toml: does not hold tenant, username and password as adit writes them; remove \
             it to register again",
        ),
        (
            machine("username = \"device_box\"\n"),
            "adit.toml, line 7, auth.username: a registration is set too (adit.toml, line 4, \
             auth.bootstrap_username); only one of them can be",
        ),
        (
            machine("").set("auth.bootstrap_username="),
            "auth.bootstrap_username: is not set (ADIT_AUTH_BOOTSTRAP_USERNAME): user that all new \
             devices register with, as devicebootstrap, instead of a user of its own",
        ),
    ] {
        assert_eq!(machine.complaint(), complaint);
    }
}

const ISSUED: &str = "[auth]\ncertificate_authority = true\ncert_file = \"/device.pem\"\n\
                      key_file = \"/device.key\"\n";

/// A machine whose certificate comes from the platform's own authority.
fn issued(more: &str) -> Machine {
    Machine::with_file(&format!("{CLOUD}{ISSUED}{more}"))
}

#[test]
fn has_a_certificate_issued_where_there_is_none_that_lives() {
    let dead = certificate("gw-7", 2020);
    let expired = |more: &str| {
        let machine = issued(more).file("/device.pem", &dead.0);
        machine.file("/device.key", &dead.1)
    };
    let password = Some("hunter2".to_owned());
    for (machine, id, one_time_password) in [
        (issued(""), "box", None),
        (issued("").file("/device.key", &dead.1), "box", None),
        // The device is still the one that the certificate names, unless it is to become another.
        (expired(""), "gw-7", None),
        (expired("[device]\nid = \"gw-8\"\n"), "gw-8", None),
        (
            issued("one_time_password = \"hunter2\"\n"),
            "box",
            password.clone(),
        ),
        (
            issued("one_time_password_file = \"/once\"\n").file("/once", "hunter2\n"),
            "box",
            password.clone(),
        ),
        (
            expired("one_time_password_file = \"/once\"\n").file("/once", "hunter2\n"),
            "gw-7",
            password,
        ),
    ] {
        let config = machine.config();
        assert!(matches!(config.auth, Auth::Unenrolled(_)), "{config:?}");
        assert_eq!(config.device.id, id);
        assert!(config.mqtt.login.is_none());
        assert!(!format!("{config:?}").contains("hunter2"));
        let authority = config.authority.unwrap();
        let read = authority.one_time_password.map(|password| password.last());
        assert_eq!(
            read.map(|password| password.expose().to_owned()),
            one_time_password
        );
        assert_eq!(authority.renew_before, Duration::from_hours(30 * 24));
    }
    let places = Machine::with_file(&format!("{CLOUD}[auth]\ncertificate_authority = true\n"));
    let files = places.config().authority.unwrap().files;
    assert_eq!(files.certificate, Path::new("/var/lib/adit/device.pem"));
    assert_eq!(files.key, Path::new("/var/lib/adit/device.key"));
}

#[test]
fn starts_without_its_used_password_where_the_clock_says_that_the_certificate_has_expired() {
    let dead = certificate("gw-7", 2020);
    let config = issued("one_time_password_file = \"/once\"\n")
        .file("/device.pem", &dead.0)
        .file("/device.key", &dead.1)
        .config();
    assert!(matches!(config.auth, Auth::Unenrolled(_)), "{config:?}");
    assert!(config.authority.unwrap().one_time_password.is_none());
    let [expired, gone] = &config.warnings[..] else {
        panic!("{:?}", config.warnings)
    };
    assert!(expired.contains("unless the clock of this machine is wrong"));
    assert_eq!(
        gone,
        "auth.one_time_password_file names /once, which is not there: adit makes a one-time password \
         itself, and logs the link to open"
    );
}

#[test]
fn keeps_the_key_and_the_certificate_that_is_written_in_two_files() {
    let directory = std::env::temp_dir().join(format!("adit-one-file-{}", std::process::id()));
    let linked = directory.with_extension("link");
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(&directory, &linked).unwrap();
    let in_both = |name: &str| {
        let path = |directory: &Path| directory.join(name).display().to_string();
        [path(&directory), path(&linked)]
    };
    let [certificate, elsewhere] = in_both("device.pem");
    let default = "/var/lib/adit/device.key".to_owned();
    let same = "/device.pem".to_owned();
    for (certificate, key, place) in [
        (&same, Some(&same), "adit.toml, line 6, auth.key_file"),
        (
            &certificate,
            Some(&elsewhere),
            "adit.toml, line 6, auth.key_file",
        ),
        (&default, None, "auth.key_file"),
    ] {
        let mut file =
            format!("{CLOUD}[auth]\ncertificate_authority = true\ncert_file = {certificate:?}\n");
        if let Some(key) = key {
            file += &format!("key_file = {key:?}\n");
        }
        let key = key.unwrap_or(&default);
        let complaint = format!(
            "{place}: {key:?} is the file of auth.cert_file too, and adit would write the \
             certificate over the key; name another file, for the key alone"
        );
        assert_eq!(Machine::with_file(&file).complaint(), complaint);
    }
    std::fs::remove_file(linked).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn keeps_every_file_from_the_names_that_it_writes_to() {
    let issued = |more: &str| format!("{CLOUD}[auth]\ncertificate_authority = true\n{more}");
    let registered = |more: &str| {
        format!("{CLOUD}[auth]\nbootstrap_tenant = \"t\"\nbootstrap_username = \"u\"\n{more}")
    };
    for (file, key, path, of) in [
        (
            issued("cert_file = \"/d/device.pem\"\nkey_file = \"/d/device.new\"\n"),
            "key_file",
            "/d/device.new",
            "cert_file",
        ),
        (
            issued("cert_file = \"/d/device.new\"\nkey_file = \"/d/device.key\"\n"),
            "cert_file",
            "/d/device.new",
            "cert_file",
        ),
        (
            issued("cert_file = \"/d/a.pem\"\nkey_file = \"/d/a.renewed.pem\"\n"),
            "key_file",
            "/d/a.renewed.pem",
            "cert_file",
        ),
        (
            issued("cert_file = \"/d/a.pem\"\nkey_file = \"/d/a.renewed.new\"\n"),
            "key_file",
            "/d/a.renewed.new",
            "cert_file",
        ),
        (
            issued("cert_file = \"/d/a.pem\"\nkey_file = \"/d/a.refused.pem\"\n"),
            "key_file",
            "/d/a.refused.pem",
            "cert_file",
        ),
        (
            issued("cert_file = \"/d/a.pem\"\nkey_file = \"/d/a.one-time-password\"\n"),
            "key_file",
            "/d/a.one-time-password",
            "cert_file",
        ),
        (
            issued("cert_file = \"/d/b.new\"\nkey_file = \"/d/b.key\"\n"),
            "cert_file",
            "/d/b.new",
            "cert_file",
        ),
        (
            issued(
                "cert_file = \"/d/a.pem\"\nkey_file = \"/d/b.key\"\n\
                 one_time_password_file = \"/d/b.new\"\n",
            ),
            "one_time_password_file",
            "/d/b.new",
            "key_file",
        ),
        (
            registered("bootstrap_password_file = \"/d/c.new\"\ncredentials_file = \"/d/c\"\n"),
            "bootstrap_password_file",
            "/d/c.new",
            "credentials_file",
        ),
        (
            registered("bootstrap_password = \"p\"\ncredentials_file = \"/d/c.new\"\n"),
            "credentials_file",
            "/d/c.new",
            "credentials_file",
        ),
    ] {
        let machine = Machine::with_file(&file);
        let machine = match key.ends_with("password_file") {
            true => machine.file(path, "hunter2"),
            false => machine,
        };
        let complaint = format!(
            ", auth.{key}: {path:?} is the name of what adit writes for auth.{of}, so that the file \
             would be lost; name another file"
        );
        let said = machine.complaint();
        assert!(said.ends_with(&complaint), "{said}\n{complaint}");
    }
    // What it never writes to may have any name, and so may what somebody else gives.
    let own = "cert_file = \"/d/a.pem\"\nkey_file = \"/d/a.key\"\n\
               one_time_password_file = \"/d/a.one-time-password\"\n";
    let machine = Machine::with_file(&issued(own)).file("/d/a.one-time-password", "hunter2");
    assert!(matches!(machine.config().auth, Auth::Unenrolled(None)));
    let given = certificate("gw-7", 4000);
    let files = "[auth]\ncert_file = \"/d/a.pem\"\nkey_file = \"/d/a.new\"\n";
    let machine = Machine::with_file(&format!("{CLOUD}{files}"));
    let machine = machine
        .file("/d/a.pem", &given.0)
        .file("/d/a.new", &given.1);
    assert!(matches!(machine.config().auth, Auth::Certificate(_)));
}

#[test]
fn uses_the_certificate_that_was_issued() {
    let good = certificate("gw-7", 4000);
    // The password has done its work, and whoever has given it may have removed it.
    let more = "one_time_password_file = \"/once\"\nrenew_before = \"90d\"\n";
    let config = issued(more)
        .file("/device.pem", &good.0)
        .file("/device.key", &good.1)
        .config();
    assert!(matches!(config.auth, Auth::Certificate(_)), "{config:?}");
    assert_eq!(config.device.id, "gw-7");
    let renew_before = config.authority.unwrap().renew_before;
    assert_eq!(renew_before, Duration::from_hours(90 * 24));
}

#[test]
fn uses_a_renewed_certificate_where_the_one_in_use_has_expired() {
    let key = rcgen::KeyPair::generate().unwrap();
    let until = |year, name: &str| {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.not_after = rcgen::date_time_ymd(year, 12, 31);
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let common_name = rcgen::DnType::CommonName;
        parameters.distinguished_name.push(common_name, name);
        parameters.self_signed(&key).unwrap().pem()
    };
    for (renewed, is_used) in [
        (until(4000, "gw-7"), true),
        (until(2021, "gw-7"), false),
        (until(4000, "gw-8"), false),
        ("half a fi".to_owned(), false),
    ] {
        let machine = issued("")
            .file("/device.pem", until(2020, "gw-7"))
            .file("/device.renewed.pem", renewed)
            .file("/device.key", key.serialize_pem());
        let config = machine.config();
        assert_eq!(
            matches!(config.auth, Auth::Certificate(_)),
            is_used,
            "{config:?}"
        );
    }
}

#[test]
fn says_what_is_wrong_with_an_issued_certificate() {
    let good = certificate("gw-7", 4000);
    let again = "to have a new one issued, remove the certificate";
    for (machine, complaint) in [
        (
            issued("").file("/device.pem", &good.0),
            format!(
                "/device.key: cannot be read: no such file; it is the key of the certificate in \
                 /device.pem; {again}"
            ),
        ),
        (
            issued("")
                .file("/device.pem", "half a fi")
                .file("/device.key", &good.1),
            format!("/device.pem: holds no certificate in PEM form; {again}"),
        ),
        (
            issued("")
                .file("/device.pem", &good.0)
                .file("/device.key", certificate("gw-7", 4000).1),
            format!(
                "/device.key: is not the key of the certificate 'gw-7' in \"/device.pem\"; {again}"
            ),
        ),
        (
            issued("username = \"device_gw\"\n"),
            "adit.toml, line 4, auth.certificate_authority: a user is set too (adit.toml, line 7, \
             auth.username); only one of them can be"
                .to_owned(),
        ),
        (
            issued("one_time_password_file = \"/once\"\n"),
            "adit.toml, line 7, auth.one_time_password_file: \"/once\" cannot be read: no such file"
                .to_owned(),
        ),
        (
            issued(&format!("one_time_password = \"{}\"\n", "x".repeat(33))),
            "adit.toml, line 7, auth.one_time_password: the value is longer than 32 characters"
                .to_owned(),
        ),
        (
            issued("").set("auth.renew_before=1s"),
            "--set auth.renew_before: \"1s\" is not a duration from \"1m\" to \"10000years\"".to_owned(),
        ),
        (
            Machine::with("one_time_password = \"x\"\n"),
            "adit.toml, line 7, auth.one_time_password: needs auth.certificate_authority = true, \
             whose certificates it is for"
                .to_owned(),
        ),
    ] {
        assert_eq!(machine.complaint(), complaint);
    }
}

#[test]
fn takes_no_more_operations_than_one_row_can_carry() {
    let machine = |count: usize| {
        let names: Vec<_> = (0..count)
            .map(|n| format!("\"c8y_Operation{n:06}\""))
            .collect();
        let list = names.join(", ");
        Machine::with(&format!("[device]\nsupported_operations = [{list}]\n"))
    };
    machine(750).config();
    assert_eq!(
        machine(751).complaint(),
        "adit.toml, line 8, device.supported_operations: has 15020 bytes; they go to the platform \
         in one row of at most 15000"
    );
}

#[test]
fn needs_no_login_at_a_broker_of_its_own() {
    let bridge = format!("{CLOUD}[mqtt]\nurl = \"mqtt://127.0.0.1\"\ntopic_prefix = \"c8y/\"\n");
    let config = Machine::with_file(&bridge).config();
    assert!(matches!(config.auth, Auth::None), "{config:?}");
    assert!(config.mqtt.login.is_none());
    let config = certified(&certificate("gw-7", 4000)).config();
    assert!(matches!(config.auth, Auth::Certificate(_)), "{config:?}");
    assert!(config.mqtt.login.is_none());
}

#[test]
fn takes_a_keep_alive_of_nothing() {
    let machine = Machine::with("").set("remote_access.keep_alive=0");
    assert_eq!(machine.config().tunnels.keep_alive, Duration::ZERO);
}

/// Keys that are changed from one configuration to the next, with when they hold.
fn effects(old: &Config, new: &Config) -> Vec<(String, Effect)> {
    let changes = old.changes(new).into_iter();
    changes
        .map(|key| (key.full_name(), old.effect(key, new)))
        .collect()
}

#[test]
fn says_what_needs_a_restart_until_there_is_one() {
    let old = Machine::with("[remote_access]\nmax_tunnels = 1\n").config();
    let new =
        Machine::with("[remote_access]\nmax_tunnels = 2\n[device]\nname = \"other\"\n").config();
    let named = || ("device.name".to_owned(), Effect::Restart);
    let limited = ("remote_access.max_tunnels".to_owned(), Effect::Immediate);
    assert_eq!(effects(&old, &new), [named(), limited]);
    let renewed = old.renewed(&new);
    assert_eq!(effects(&renewed, &new), [named()]);
    let renewed = renewed.renewed(&new);
    assert_eq!(effects(&renewed, &new), [named()]);
    // It is as it was when adit was started.
    let back = Machine::with("[remote_access]\nmax_tunnels = 2\n").config();
    assert_eq!(effects(&renewed, &back), []);
}

#[test]
fn keeps_the_lock_of_a_door_that_stays_open() {
    let locked = "[admin]\nlisten = \"0.0.0.0:9590\"\ntoken_file = \"/token\"\n";
    let old = Machine::with(locked).file("/token", "a-token-of-22-letters");
    let old = old.config();
    let new = Machine::with("[admin]\nlisten = \"127.0.0.1:9590\"\n").config();
    let both = ["admin.listen", "admin.token_file"].map(|key| (key.to_owned(), Effect::Restart));
    assert_eq!(effects(&old, &new), both);
    let renewed = old.renewed(&new);
    assert_eq!(renewed.admin.token, old.admin.token);
    assert_eq!(effects(&renewed, &new), both);
}

#[test]
fn leads_to_the_servers_in_use_through_the_proxy_of_a_newer_configuration() {
    let away = "[mqtt]\nurl = \"mqtt://192.0.2.7\"\n";
    let here = "[mqtt]\nurl = \"mqtt://127.0.0.1\"\n";
    let proxied = |more: &str, proxy: &str| {
        let machine = Machine::with(more).variable("NO_PROXY", "other.example.com");
        machine.variable("ADIT_CLOUD_PROXY", proxy)
    };
    let proxy = |text: &str| Some(values::proxy(text).unwrap().unwrap());
    let old = proxied(away, "http://old:1").config();
    // The next broker needs no proxy, and the next cloud neither.
    let new = proxied(here, "http://old:1").set("cloud.url=https://other.example.com");
    let new = new.config();
    assert_eq!((&new.mqtt.proxy, &new.cloud.proxy), (&None, &None));
    let renewed = old.renewed(&new);
    assert_eq!(renewed.mqtt.endpoint, old.mqtt.endpoint);
    assert_eq!(renewed.mqtt.proxy, proxy("http://old:1"));
    assert_eq!(renewed.cloud.proxy, proxy("http://old:1"));
    // Another proxy leads to those that are in use.
    let newest = proxied(here, "http://new:2").config();
    let renewed = renewed.renewed(&newest);
    assert_eq!(renewed.mqtt.proxy, proxy("http://new:2"));
    assert_eq!(renewed.cloud.proxy, proxy("http://new:2"));
    let none = proxied(here, "none").config();
    assert_eq!(renewed.renewed(&none).mqtt.proxy, None);
    // And what the environment says of the one in use holds on.
    let by_environment = |more: &str| Machine::with(more).variable("ALL_PROXY", "http://old:1");
    let secure = "[mqtt]\nurl = \"mqtts://192.0.2.7\"\n";
    let old = by_environment(secure).config();
    let renewed = old.renewed(&by_environment(here).config());
    assert_eq!(renewed.mqtt.proxy, proxy("http://old:1"));
}

#[test]
fn needs_no_restart_for_a_one_time_password_that_has_done_its_work() {
    let good = certificate("gw-7", 4000);
    let machine = || issued("one_time_password_file = \"/once\"\n[device]\nid = \"gw-7\"\n");
    let start = machine().file("/once", "hunter2").config();
    assert!(matches!(start.auth, Auth::Unenrolled(None)), "{start:?}");
    let certified = || {
        let machine = machine().file("/device.pem", &good.0);
        machine.file("/device.key", &good.1)
    };
    for later in [
        certified(),
        certified().file("/once", "hunter2"),
        certified().file("/once", "another"),
    ] {
        let later = later.config();
        let running = start.with_auth(later.auth.clone());
        assert_eq!(effects(&running, &later), []);
    }
    let elsewhere = issued("one_time_password_file = \"/other\"\n[device]\nid = \"gw-7\"\n");
    let elsewhere = elsewhere.file("/device.pem", &good.0);
    let elsewhere = elsewhere.file("/device.key", &good.1).config();
    let running = start.with_auth(elsewhere.auth.clone());
    let key = "auth.one_time_password_file".to_owned();
    assert_eq!(effects(&running, &elsewhere), [(key, Effect::Restart)]);
}

#[test]
fn warns_of_what_it_has_read_last() {
    let exposed = || Machine::with("").readable("adit.toml");
    let (old, mended) = (exposed().config(), Machine::with("").config());
    assert_eq!(old.warnings.len(), 1, "{:?}", old.warnings);
    let renewed = old.renewed(&mended);
    assert!(renewed.warnings.is_empty(), "{:?}", renewed.warnings);
    assert_eq!(renewed.renewed(&old).warnings, old.warnings);
}

#[test]
fn keeps_to_the_kind_of_certificate_that_it_has_started_with() {
    let good = certificate("gw-7", 4000);
    let own = certified(&good).config();
    let issued = issued("").file("/device.pem", &good.0);
    let issued = issued.file("/device.key", &good.1).config();
    for (old, new) in [(&own, &issued), (&issued, &own)] {
        let found = effects(old, new);
        assert!(found.len() >= 3, "{found:?}");
        let needs_restart = |(_, effect): &(_, Effect)| *effect == Effect::Restart;
        assert!(found.iter().all(needs_restart), "{found:?}");
        let renewed = old.renewed(new);
        assert_eq!(effects(&renewed, new), found);
    }
}
