//! What has changed from one configuration to the next, and what of it can be used without a restart.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::mem::discriminant;
use std::sync::OnceLock;

use super::Config;
use super::keys::{self, KEYS, Key};
use super::sources::{Content, Gathered, Given};
use crate::auth::settings::Auth;

/// When the new value of a key holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// With the reload.
    Immediate,
    /// With the next login at the broker, and with the next tunnel.
    NextLogin,
    /// With the next start: too much is built upon it.
    Restart,
}

/// What each key was set to, as hashes under a key of this process: values may be secrets. Those of
/// keys that name a file hold its content too, but for a one-time password: it has done its work before
/// anything can be reloaded, and its file is read no more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fingerprints(BTreeMap<String, u64>);

/// Hashes something so that nobody outside can tell what it was.
pub(super) fn hash(what: &(impl Hash + ?Sized)) -> u64 {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    STATE.get_or_init(RandomState::new).hash_one(what)
}

impl Fingerprints {
    pub(super) fn of(gathered: &Gathered) -> Self {
        let used_once = keys::AUTH_ONE_TIME_PASSWORD_FILE.key.full_name();
        let of_key = |(name, given): (&String, &Given)| {
            let file = gathered.contents.get(name);
            let file = file.filter(|_| *name != used_once);
            (name.clone(), hash(&(&given.content, file)))
        };
        Self(gathered.values.iter().map(of_key).collect())
    }

    /// Takes that of one key from others, also that it has none.
    fn take(&mut self, name: &str, others: &Self) {
        match others.0.get(name) {
            Some(hash) => self.0.insert(name.to_owned(), *hash),
            None => self.0.remove(name),
        };
    }
}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Self::Written(text) | Self::Text(text) | Self::Number(text) => text.hash(state),
            Self::Switch(switch) => switch.hash(state),
            Self::List(list) => {
                for given in list {
                    given.content.hash(state);
                }
            }
            Self::Other(words) => words.hash(state),
        }
    }
}

impl Key {
    /// Returns when a new value holds. What is not named here needs a restart.
    pub fn effect(&self) -> Effect {
        match (self.section, self.name) {
            ("device", "children" | "supported_operations" | "required_interval" | "announce")
            | (
                "remote_access",
                "protocols" | "allow" | "deny" | "max_tunnels" | "connect_timeout" | "keep_alive"
                | "idle_timeout" | "max_duration" | "drain" | "events",
            )
            | ("admin", "token_file") => Effect::Immediate,
            ("cloud", "ca_file" | "proxy")
            | ("mqtt", "username" | "password" | "password_file")
            | (
                "auth",
                "tenant" | "username" | "password" | "password_file" | "cert_file" | "key_file",
            ) => Effect::NextLogin,
            _ => Effect::Restart,
        }
    }
}

impl Config {
    /// Returns this configuration with the credentials that a registration has brought.
    pub(crate) fn with_auth(&self, auth: Auth) -> Self {
        Self {
            auth,
            ..self.clone()
        }
    }

    /// Returns the keys that a newer configuration sets otherwise, in the order of the documentation.
    pub(crate) fn changes(&self, newer: &Self) -> Vec<&'static Key> {
        let is_changed = |key: &&Key| {
            let name = key.full_name();
            self.fingerprints.0.get(&name) != newer.fingerprints.0.get(&name)
        };
        KEYS.iter().filter(is_changed).collect()
    }

    /// Returns when a key that a newer configuration sets otherwise holds.
    pub(crate) fn effect(&self, key: &Key, newer: &Self) -> Effect {
        let is_refused = match (key.section, key.name) {
            ("auth" | "mqtt", _) => !self.is_same_device(newer),
            ("admin", "token_file") => self.keeps_lock(newer),
            _ => false,
        };
        match is_refused {
            true => Effect::Restart,
            false => key.effect(),
        }
    }

    /// The door at an address that stays open must not lose its lock to one that comes later.
    fn keeps_lock(&self, newer: &Self) -> bool {
        newer.admin.token.is_none() && newer.admin.listen != self.admin.listen
    }

    /// Whether a newer configuration shows the platform the same device, by the same kind of
    /// credentials. A certificate that adit renews is another kind than one that somebody else does.
    fn is_same_device(&self, newer: &Self) -> bool {
        self.device.id == newer.device.id
            && discriminant(&self.auth) == discriminant(&newer.auth)
            && self.authority.is_some() == newer.authority.is_some()
    }

    /// Returns this configuration with all of a newer one that needs no restart.
    pub(crate) fn renewed(&self, newer: &Self) -> Self {
        let mut renewed = self.clone();
        renewed.warnings.clone_from(&newer.warnings);
        let (device, new_device) = (&mut renewed.device, &newer.device);
        device.children.clone_from(&new_device.children);
        device
            .supported_operations
            .clone_from(&new_device.supported_operations);
        device.required_interval = new_device.required_interval;
        device.announce = new_device.announce;
        renewed.tunnels = newer.tunnels.clone();
        let new_access = &newer.remote_access;
        renewed
            .remote_access
            .protocols
            .clone_from(&new_access.protocols);
        renewed.remote_access.events = new_access.events;
        renewed.cloud.ca.clone_from(&newer.cloud.ca);
        renewed.take_proxies(newer);
        if self.is_same_device(newer) {
            renewed.auth = newer.auth.clone();
            renewed.mqtt.login.clone_from(&newer.mqtt.login);
        }
        if !self.keeps_lock(newer) {
            renewed.admin.token.clone_from(&newer.admin.token);
        }
        for key in self.changes(newer) {
            // What needs a restart is said again until there is one, or until it is taken back.
            if self.effect(key, newer) != Effect::Restart {
                renewed
                    .fingerprints
                    .take(&key.full_name(), &newer.fingerprints);
            }
        }
        renewed
    }

    /// Other servers need a restart, and until then the proxies lead to those that are in use.
    fn take_proxies(&mut self, newer: &Self) {
        let proxies = newer.proxies.clone();
        // What cannot be used of the environment was said, and is left alone as at the start.
        let to_cloud = proxies.to_cloud(&self.cloud.endpoint);
        self.cloud.proxy = to_cloud.ok().flatten();
        let to_broker = proxies.to_broker(&self.mqtt.endpoint);
        self.mqtt.proxy = to_broker.ok().flatten();
        self.proxies = proxies;
    }
}
