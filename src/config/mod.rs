//! The configuration as types. A [`Config`] that exists can be used.
//!
//! Nothing else of adit reads files or the environment. All that is wrong is reported in one go:
//! whoever configures a thousand gateways does not want to learn it one start at a time.

mod fault;
mod keys;
mod proxy;
mod sources;
#[cfg(test)]
mod tests;
mod values;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::auth::credentials_file;
use crate::auth::settings::{Auth, Bootstrap, login_of};
use crate::files::FileContent;
use crate::mqtt;
use crate::net::certificate::{Certificate, date};
use crate::net::identity::{Files, Identity, IdentityError};
use crate::net::proxy::Proxy;
use crate::net::settings::Cloud;
use crate::net::{BrokerEndpoint, Endpoint};
use crate::platform::settings::{Device, Protocol, RemoteAccess};
use crate::secret::Secret;
use crate::tunnel;
use crate::tunnel::policy::Policy;
use crate::words::legible;
use fault::{Fault, Place};
use keys::Setting;
use proxy::{Proxies, Unusable, is_this_machine};
use sources::{Content, Gathered, Given, Item};

pub use fault::Faults;
pub use keys::{Fallback, Key};
pub use sources::{DEFAULT_FILE, LOG_FORMAT_VARIABLE, LOG_LEVEL_VARIABLE, Sources};

/// Everything adit is told, in the sections that each part is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this gateway is.
    pub device: Device,
    /// Where the platform is.
    pub cloud: Cloud,
    /// Where the broker is.
    pub mqtt: mqtt::Settings,
    /// Who adit is to the platform.
    pub auth: Auth,
    /// What the platform is told of remote access.
    pub remote_access: RemoteAccess,
    /// What tunnels may do.
    pub tunnels: tunnel::Settings,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What can be used and should be looked at, a clause each; for the log at the start.
    pub warnings: Vec<String>,
}

/// Returns all keys of the configuration, in the order of the documentation.
pub fn keys() -> &'static [Key] {
    keys::KEYS
}

impl Config {
    /// Reads flags over environment over file over default.
    ///
    /// # Errors
    /// All that is wrong, each with its place.
    pub fn load(sources: &Sources<'_>) -> Result<Self, Faults> {
        let mut reader = Reader {
            gathered: sources::gather(sources),
            sources,
            warnings: Vec::new(),
        };
        reader.warn_of_exposed_file();
        let auth = reader.auth();
        let device = reader.device(auth.as_ref().and_then(Auth::identity));
        let proxies = reader.proxies();
        let cloud = reader.cloud(proxies.as_ref());
        let mqtt = reader.mqtt(cloud.as_ref(), proxies.as_ref(), auth.as_ref());
        let remote_access = reader.remote_access();
        let tunnels = reader.tunnels();
        let Reader {
            gathered, warnings, ..
        } = reader;
        match (device, cloud, mqtt, auth, remote_access, tunnels) {
            (
                Some(device),
                Some(cloud),
                Some(mqtt),
                Some(auth),
                Some(remote_access),
                Some(tunnels),
            ) if gathered.faults.is_empty() => Ok(Self {
                device,
                cloud,
                mqtt,
                auth,
                remote_access,
                tunnels,
                file: gathered.file,
                warnings,
            }),
            _ => Err(Faults::new(gathered.faults)),
        }
    }
}

/// Makes the sections of the values. A `None` that is not the absence of an optional value always
/// comes with a fault, so that each section reads all its keys before it gives up.
struct Reader<'a> {
    gathered: Gathered,
    sources: &'a Sources<'a>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    fn device(&mut self, identity: Option<&Identity>) -> Option<Device> {
        let id = match identity {
            Some(identity) => self.certified_device_id(identity),
            None => self.device_id(),
        };
        let name = self.get(&keys::DEVICE_NAME).or_else(|| id.clone());
        let device_type = self.get(&keys::DEVICE_TYPE);
        let required_interval = self.get(&keys::DEVICE_REQUIRED_INTERVAL);
        let children = self.children(id.as_deref());
        let supported_operations = self.list(&keys::DEVICE_SUPPORTED_OPERATIONS);
        let announce = self.get(&keys::DEVICE_ANNOUNCE);
        Some(Device {
            id: id?,
            name: name?,
            device_type: device_type?,
            required_interval: required_interval?,
            children: children?,
            supported_operations: supported_operations?,
            announce: announce?,
        })
    }

    fn children(&mut self, gateway: Option<&str>) -> Option<Vec<String>> {
        let children = self.list(&keys::DEVICE_CHILDREN)?;
        let is_double = |(at, id): (usize, &String)| children[..at].contains(id);
        let own = children.iter().find(|id| gateway == Some(id.as_str()));
        let double = children.iter().enumerate().find(|&child| is_double(child));
        let complaint = match (own, double) {
            (None, None) => return Some(children),
            (Some(own), _) => format!("{own:?} is the id of the gateway itself"),
            (None, Some((_, double))) => format!("{double:?} is there twice"),
        };
        let place = self.place(&keys::DEVICE_CHILDREN.key)?;
        self.refuse(&place, complaint);
        None
    }

    fn device_id(&mut self) -> Option<String> {
        if self.place(&keys::DEVICE_ID.key).is_some() {
            return self.get(&keys::DEVICE_ID);
        }
        let Some(name) = self.sources.host_name.as_deref() else {
            let words = "this machine has no host name to take instead";
            self.refuse_missing(&keys::DEVICE_ID.key, words);
            return None;
        };
        match (keys::DEVICE_ID.parse)(name) {
            Ok(id) => Some(id),
            Err(clause) => {
                let words = format!("the host name {name:?} {clause}");
                self.refuse_missing(&keys::DEVICE_ID.key, &words);
                None
            }
        }
    }

    /// The platform takes a certificate only from the device that it names.
    fn certified_device_id(&mut self, identity: &Identity) -> Option<String> {
        let name = identity.name();
        if let Err(clause) = (keys::DEVICE_ID.parse)(name) {
            let place = self.place(&keys::AUTH_CERT_FILE.key)?;
            let words = format!("the certificate's common name {name:?}, the device id, {clause}");
            self.refuse(&place, words);
            return None;
        }
        let Some(place) = self.place(&keys::DEVICE_ID.key) else {
            return Some(name.to_owned());
        };
        let id = self.get(&keys::DEVICE_ID)?;
        if id == name {
            return Some(id);
        }
        let words = format!(
            "{id:?} is not {name:?}, the common name of the certificate in auth.cert_file; the \
             platform takes the certificate only from the device that it names"
        );
        self.refuse(&place, words);
        None
    }

    fn cloud(&mut self, proxies: Option<&Proxies<'_>>) -> Option<Cloud> {
        let endpoint = self.get(&keys::CLOUD_URL);
        let ca = self.certificates();
        let endpoint = endpoint?;
        self.warn_of_plain_text(&keys::CLOUD_URL.key, &endpoint);
        let proxy = self.usable(proxies?.to_cloud(&endpoint));
        Some(Cloud {
            endpoint,
            ca: ca?,
            proxy,
        })
    }

    /// What is said of proxies; `None` if `cloud.proxy` is faulty.
    fn proxies(&mut self) -> Option<Proxies<'a>> {
        let configured = match self.place(&keys::CLOUD_PROXY.key) {
            Some(_) => Some(self.get_optional(&keys::CLOUD_PROXY)?),
            None => None,
        };
        Some(Proxies {
            configured,
            environment: &self.sources.environment,
        })
    }

    /// Goes on without a proxy that adit does not speak: the variable is meant for others too.
    fn usable(&mut self, proxy: Result<Option<Proxy>, Unusable>) -> Option<Proxy> {
        proxy.unwrap_or_else(
            |Unusable {
                 variable,
                 complaint,
             }| {
                let words = format!("the proxy of {variable} is not used: the value {complaint}");
                if !self.warnings.contains(&words) {
                    self.warnings.push(words);
                }
                None
            },
        )
    }

    fn mqtt(
        &mut self,
        cloud: Option<&Cloud>,
        proxies: Option<&Proxies<'_>>,
        auth: Option<&Auth>,
    ) -> Option<mqtt::Settings> {
        let endpoint = match self.place(&keys::MQTT_URL.key) {
            Some(_) => self.get(&keys::MQTT_URL),
            None => cloud.map(|cloud| {
                let server = Endpoint {
                    tls: true,
                    host: cloud.endpoint.host.clone(),
                    port: values::MQTTS_PORT,
                };
                server.into()
            }),
        };
        if let (Some(Auth::Certificate(_)), Some(endpoint)) = (auth, &endpoint) {
            self.check_certified_broker(endpoint);
        }
        let topic_prefix = self.get(&keys::MQTT_TOPIC_PREFIX);
        let keep_alive = self.get(&keys::MQTT_KEEP_ALIVE);

        let user_place = self.place(&keys::MQTT_USERNAME.key);
        let user = self.get(&keys::MQTT_USERNAME);
        let password_place = self
            .place(&keys::MQTT_PASSWORD.key)
            .or_else(|| self.place(&keys::MQTT_PASSWORD_FILE.key));
        let password = self.password(&keys::MQTT_PASSWORD, &keys::MQTT_PASSWORD_FILE);
        let login = match (&user_place, &password_place) {
            (Some(place), None) => {
                self.refuse(
                    place,
                    "has no password: set mqtt.password or mqtt.password_file",
                );
                None
            }
            (None, Some(place)) => {
                self.refuse(place, "has no user: set mqtt.username");
                None
            }
            (Some(_), Some(_)) => user.zip(password).map(Some),
            (None, None) => match auth {
                Some(Auth::Password { user, password }) => {
                    if let Some(endpoint) = &endpoint {
                        self.warn_of_plain_text(&keys::MQTT_URL.key, &endpoint.server);
                    }
                    Some(Some((user.clone(), password.clone())))
                }
                Some(Auth::Certificate(_) | Auth::Bootstrap(_) | Auth::None) => Some(None),
                None => None,
            },
        };
        let endpoint = endpoint?;
        let proxy = self.usable(proxies?.to_broker(&endpoint));
        Some(mqtt::Settings {
            endpoint,
            proxy,
            topic_prefix: topic_prefix?,
            keep_alive: keep_alive?,
            login: login?,
        })
    }

    fn check_certified_broker(&mut self, broker: &BrokerEndpoint) {
        let Some(place) = self.place(&keys::MQTT_URL.key) else {
            return;
        };
        if broker.websocket.is_some() {
            let words = "names a WebSocket, and the platform takes no certificate over \
                         MQTT-WebSocket; use mqtts:// or a user and a password";
            self.refuse(&place, words);
        } else if !broker.server.tls {
            let words = "the certificate of auth.cert_file is not shown to the broker: mqtt.url \
                         is without TLS";
            self.warnings.push(words.to_owned());
        }
    }

    fn auth(&mut self) -> Option<Auth> {
        let place = |reader: &Self, keys: &[Key]| keys.iter().find_map(|key| reader.place(key));
        let certificate = [keys::AUTH_CERT_FILE.key, keys::AUTH_KEY_FILE.key];
        let login = [
            keys::AUTH_USERNAME.key,
            keys::AUTH_PASSWORD.key,
            keys::AUTH_PASSWORD_FILE.key,
        ];
        let bootstrap = [
            keys::AUTH_BOOTSTRAP_TENANT.key,
            keys::AUTH_BOOTSTRAP_USERNAME.key,
            keys::AUTH_BOOTSTRAP_PASSWORD.key,
            keys::AUTH_BOOTSTRAP_PASSWORD_FILE.key,
        ];
        let places = [
            (place(self, &certificate), "a certificate"),
            (place(self, &login), "a user"),
            (place(self, &bootstrap), "a registration"),
        ];
        let given: Vec<_> = places
            .iter()
            .filter_map(|(place, what)| Some((place.as_ref()?, what)))
            .collect();
        if let [(place, _), (other, what), ..] = given[..] {
            self.refuse(
                place,
                format!("{what} is set too ({other}); only one of them can be"),
            );
            return None;
        }
        match places {
            [(Some(_), _), ..] => self.identity().map(Auth::Certificate),
            [_, (Some(_), _), _] => self.login(),
            [.., (Some(_), _)] => self.bootstrap(),
            _ if self.place(&keys::MQTT_URL.key).is_some() => Some(Auth::None),
            // The platform itself takes nobody without a login; says what is missing.
            _ => self.login(),
        }
    }

    /// The credentials of an earlier registration, or else what it takes to register.
    fn bootstrap(&mut self) -> Option<Auth> {
        let tenant = self.get(&keys::AUTH_BOOTSTRAP_TENANT);
        let username_key = &keys::AUTH_BOOTSTRAP_USERNAME;
        if self.place(&username_key.key).is_none() {
            self.refuse_missing(&username_key.key, username_key.key.about);
        }
        let username = self.get(username_key);
        let password_key = &keys::AUTH_BOOTSTRAP_PASSWORD;
        let file_key = &keys::AUTH_BOOTSTRAP_PASSWORD_FILE;
        if self.place(&password_key.key).is_none() && self.place(&file_key.key).is_none() {
            self.refuse_missing(&password_key.key, password_key.key.about);
        }
        let password = self.password(password_key, file_key);
        let credentials_file = self.get(&keys::AUTH_CREDENTIALS_FILE);
        let (tenant, username, password) = (tenant?, username?, password?);
        let credentials_file = credentials_file?;
        match (self.sources.read)(&credentials_file) {
            Ok(content) => self.earlier_credentials(&credentials_file, &content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let user = format!("{tenant}/{username}");
                Some(Auth::Bootstrap(Bootstrap {
                    user,
                    password,
                    credentials_file,
                }))
            }
            Err(error) => {
                self.refuse(
                    &Place::File(credentials_file),
                    format!("cannot be read: {error}"),
                );
                None
            }
        }
    }

    fn earlier_credentials(&mut self, path: &Path, content: &FileContent) -> Option<Auth> {
        if content.world_readable {
            self.warn_of_readable("password", path);
        }
        match credentials_file::parse(&content.bytes) {
            Ok(credentials) => {
                let (user, password) = login_of(credentials);
                Some(Auth::Password { user, password })
            }
            Err(error) => {
                self.refuse(
                    &Place::File(path.to_owned()),
                    format!("{error}; remove it to register again"),
                );
                None
            }
        }
    }

    fn login(&mut self) -> Option<Auth> {
        let username_key = &keys::AUTH_USERNAME.key;
        let user = match self.place(username_key) {
            Some(_) => self.user(),
            None => {
                self.refuse_missing(username_key, username_key.about);
                None
            }
        };
        let password_key = &keys::AUTH_PASSWORD.key;
        let password_place = self
            .place(password_key)
            .or_else(|| self.place(&keys::AUTH_PASSWORD_FILE.key));
        if password_place.is_none() {
            let file = keys::AUTH_PASSWORD_FILE.key;
            let words = format!(
                "{}; {} ({}) may name a file that holds it",
                password_key.about,
                file.full_name(),
                file.variable()
            );
            self.refuse_missing(password_key, &words);
        }
        let password = self.password(&keys::AUTH_PASSWORD, &keys::AUTH_PASSWORD_FILE);
        Some(Auth::Password {
            user: user?,
            password: password?,
        })
    }

    /// The certificate and its key, which come in two files.
    fn identity(&mut self) -> Option<Identity> {
        for (key, other) in [
            (keys::AUTH_CERT_FILE.key, keys::AUTH_KEY_FILE.key),
            (keys::AUTH_KEY_FILE.key, keys::AUTH_CERT_FILE.key),
        ] {
            if let (Some(place), None) = (self.place(&key), self.place(&other)) {
                let words = format!("needs {} ({}) too", other.full_name(), other.variable());
                self.refuse(&place, words);
                return None;
            }
        }
        let certificate = self.file(&keys::AUTH_CERT_FILE);
        let key = self.file(&keys::AUTH_KEY_FILE);
        let (certificate_place, certificate_path, certificate) = certificate?;
        let (key_place, key_path, key) = key?;
        if key.world_readable {
            self.warn_of_readable("key", &key_path);
        }
        let files = Files {
            certificate: certificate_path.clone(),
            key: key_path.clone(),
        };
        match Identity::parse(files, &certificate.bytes, &key.bytes) {
            Ok(identity) => {
                self.warn_of_life(&certificate_path, identity.life);
                Some(identity)
            }
            Err(error) => {
                let (place, path) = match error {
                    IdentityError::Certificate(_) => (certificate_place, certificate_path),
                    IdentityError::Key(_) => (key_place, key_path),
                };
                self.refuse(&place, format!("{:?} {error}", path.display().to_string()));
                None
            }
        }
    }

    /// A certificate may be renewed while adit runs, and a clock may be set.
    fn warn_of_life(&mut self, path: &Path, (begins, ends): (SystemTime, SystemTime)) {
        let now = self.sources.now;
        let (path, clock) = (path.display(), date(now));
        if now > ends {
            let ended = date(ends);
            self.warnings.push(format!(
                "the certificate in {path} expired at {ended}, and now is {clock}; it is read \
                 again at each connect"
            ));
        } else if now < begins {
            let begins = date(begins);
            self.warnings.push(format!(
                "the certificate in {path} is valid from {begins}, and now is {clock}; is the \
                 clock of this machine right?"
            ));
        }
    }

    /// Tenant and user. The user name may begin with the tenant, as it does in MQTT.
    fn user(&mut self) -> Option<String> {
        let tenant_place = self.place(&keys::AUTH_TENANT.key);
        let tenant = self.get(&keys::AUTH_TENANT);
        let username = self.get(&keys::AUTH_USERNAME)?;
        match (username.split_once('/'), tenant_place) {
            (None, None) => {
                let key = keys::AUTH_TENANT.key;
                self.refuse_missing(&key, key.about);
                None
            }
            (None, Some(_)) => Some(format!("{}/{username}", tenant?)),
            (Some(_), None) => Some(username),
            (Some((named, _)), Some(place)) => {
                let tenant = tenant?;
                if named == tenant {
                    return Some(username);
                }
                let words = format!("{tenant:?} is not the tenant {named:?} of auth.username");
                self.refuse(&place, words);
                None
            }
        }
    }

    fn remote_access(&mut self) -> Option<RemoteAccess> {
        let protocols = self.protocols();
        let events = self.get(&keys::REMOTE_ACCESS_EVENTS);
        let operation_ids = self.get(&keys::REMOTE_ACCESS_OPERATION_IDS);
        Some(RemoteAccess {
            protocols: protocols?,
            events: events?,
            operation_ids: operation_ids?,
        })
    }

    fn tunnels(&mut self) -> Option<tunnel::Settings> {
        let allow = self.list(&keys::REMOTE_ACCESS_ALLOW);
        let deny = self.list(&keys::REMOTE_ACCESS_DENY);
        let max_tunnels = self.get(&keys::REMOTE_ACCESS_MAX_TUNNELS);
        let connect_timeout = self.get(&keys::REMOTE_ACCESS_CONNECT_TIMEOUT);
        let keep_alive = self.get(&keys::REMOTE_ACCESS_KEEP_ALIVE);
        let idle_timeout = self.get(&keys::REMOTE_ACCESS_IDLE_TIMEOUT);
        let max_duration = self.get(&keys::REMOTE_ACCESS_MAX_DURATION);
        Some(tunnel::Settings {
            policy: Policy::new(allow?, deny?),
            max_tunnels: max_tunnels?,
            connect_timeout: connect_timeout?,
            keep_alive: keep_alive?,
            idle_timeout: idle_timeout?,
            max_duration: max_duration?,
        })
    }

    fn protocols(&mut self) -> Option<Vec<Protocol>> {
        let mut protocols = Vec::new();
        for protocol in self.list(&keys::REMOTE_ACCESS_PROTOCOLS)? {
            if !protocols.contains(&protocol) {
                protocols.push(protocol);
            }
        }
        if !protocols.is_empty() {
            return Some(protocols);
        }
        let place = self.place(&keys::REMOTE_ACCESS_PROTOCOLS.key)?;
        let known = Protocol::ALL.map(Protocol::as_str).join(", ");
        self.refuse(&place, format!("is empty; it takes any of {known}"));
        None
    }

    /// A password that is given as it is, or in a file; `None` also if it is not given.
    fn password(&mut self, own: &Setting<Secret>, file: &Setting<PathBuf>) -> Option<Secret> {
        if let (Some(own_place), Some(file_place)) = (self.place(&own.key), self.place(&file.key)) {
            let words = format!(
                "{} is set too ({own_place}); only one of them can be",
                own.key.full_name()
            );
            self.refuse(&file_place, words);
            return None;
        }
        if self.place(&file.key).is_none() {
            return self.get_optional(own);
        }
        let (place, path, content) = self.file(file)?;
        if content.world_readable {
            self.warn_of_readable("password", &path);
        }
        let text = String::from_utf8(content.bytes).map_err(|_| "is not UTF-8 text".to_owned());
        let password = text.and_then(|text| {
            // An editor or `echo` ends the line.
            let line = text.strip_suffix('\n').unwrap_or(&text);
            let line = line.strip_suffix('\r').unwrap_or(line);
            (own.parse)(line)
        });
        match password {
            Ok(password) => Some(password),
            Err(clause) => {
                let words = format!("the content of {:?} {clause}", path.display().to_string());
                self.refuse(&place, words);
                None
            }
        }
    }

    fn certificates(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        if self.place(&keys::CLOUD_CA_FILE.key).is_none() {
            return Some(Vec::new());
        }
        let (place, path, content) = self.file(&keys::CLOUD_CA_FILE)?;
        let complaint = match parse_certificates(&content.bytes) {
            Ok(certificates) => {
                self.warn_of_no_authority(&path, &certificates);
                return Some(certificates);
            }
            Err(clause) => format!("{:?} {clause}", path.display().to_string()),
        };
        self.refuse(&place, complaint);
        None
    }

    /// A server's own certificate in the place of its issuer's is a common mistake. One that a
    /// server has issued for itself is trusted as it is.
    fn warn_of_no_authority(&mut self, path: &Path, certificates: &[CertificateDer<'static>]) {
        for (number, certificate) in (1..).zip(certificates) {
            match Certificate::read(certificate) {
                Some(read) if !read.is_ca && !read.is_self_issued => {
                    let issuer = read.issuer.as_deref().unwrap_or("somebody without a name");
                    self.warnings.push(format!(
                        "certificate number {number} in {} makes nothing trusted: {} is no CA; \
                         the certificate of its issuer, '{}', is needed",
                        path.display(),
                        read.title(),
                        legible(issuer)
                    ));
                }
                _ => {}
            }
        }
    }

    /// Reads a file that is named in the configuration.
    fn file(&mut self, setting: &Setting<PathBuf>) -> Option<(Place, PathBuf, FileContent)> {
        let place = self.place(&setting.key)?;
        let path = self.get(setting)?;
        match (self.sources.read)(&path) {
            Ok(content) => Some((place, path, content)),
            Err(error) => {
                let shown = path.display().to_string();
                self.refuse(&place, format!("{shown:?} cannot be read: {error}"));
                None
            }
        }
    }

    fn warn_of_exposed_file(&mut self) {
        if let Some(path) = self.gathered.exposed.take() {
            self.warn_of_readable("password", &path);
        }
    }

    fn warn_of_readable(&mut self, secret: &str, path: &Path) {
        self.warnings.push(format!(
            "every user of this machine can read the {secret} in {}",
            path.display()
        ));
    }

    /// The platform's password goes there as it is.
    fn warn_of_plain_text(&mut self, key: &Key, endpoint: &Endpoint) {
        let host = endpoint.host.as_str();
        if !endpoint.tls && !is_this_machine(host) {
            let name = key.full_name();
            let words = format!(
                "without TLS, everybody on the way to {host} can read the password of \
                 auth.username ({name})"
            );
            self.warnings.push(words);
        }
    }

    fn place(&self, key: &Key) -> Option<Place> {
        let given = self.gathered.values.get(&key.full_name())?;
        Some(given.place.clone())
    }

    /// Reads a value, or its default. A required key that is not set is a fault.
    fn get<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        let key = &setting.key;
        if key.default == Fallback::Required && self.place(key).is_none() {
            self.refuse_missing(key, key.about);
        }
        self.get_optional(setting)
    }

    fn get_optional<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        self.list(setting)?.into_iter().next()
    }

    /// Reads all values of a list, or those of its default.
    fn list<T>(&mut self, setting: &Setting<T>) -> Option<Vec<T>> {
        let key = &setting.key;
        let default = |text: &str| Given {
            place: Place::Key(key.full_name()),
            content: Content::Written(text.to_owned()),
        };
        let items = match (self.gathered.values.get(&key.full_name()), key.default) {
            (Some(given), _) => given.items(key),
            (None, Fallback::Value(text)) => default(text).items(key),
            (None, _) => return None,
        };
        let (mut values, mut faults) = (Vec::new(), Vec::new());
        for item in items {
            let value = item.and_then(|Item { place, text }| {
                (setting.parse)(&text).map_err(|clause| {
                    let shown = sources::shown(&text, key.shape);
                    Fault::new(&place, format!("{shown} {clause}"))
                })
            });
            match value {
                Ok(value) => values.push(value),
                Err(fault) => faults.push(fault),
            }
        }
        let complete = faults.is_empty();
        self.gathered.faults.append(&mut faults);
        complete.then_some(values)
    }

    fn refuse(&mut self, place: &Place, complaint: impl Into<String>) {
        self.gathered.faults.push(Fault::new(place, complaint));
    }

    /// Names a key that has to be set, and its variable, with a clause that says why or what it is.
    fn refuse_missing(&mut self, key: &Key, words: &str) {
        // In a file that was not understood it may well stand.
        if !self.gathered.incomplete {
            let complaint = format!("is not set ({}): {words}", key.variable());
            self.refuse(&Place::Key(key.full_name()), complaint);
        }
    }
}

fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let number = certificates.len() + 1;
        let refusal = |error: &dyn std::fmt::Display| {
            format!("has a certificate, number {number}, that cannot be parsed: {error}")
        };
        let certificate = certificate.map_err(|error| refusal(&error))?;
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| refusal(&error))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err("holds no certificate in PEM form".to_owned());
    }
    Ok(certificates)
}
