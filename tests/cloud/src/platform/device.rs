//! What the platform knows of a device.

use std::collections::BTreeMap;
use std::time::Instant;

/// The gateway or one of its children, as it announced itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// External id.
    pub id: String,
    /// Id of its managed object.
    pub object: u64,
    /// Name given with `100` or `101`.
    pub name: String,
    /// Type given with `100` or `101`.
    pub kind: String,
    /// External id of the gateway, for a child.
    pub parent: Option<String>,
    /// The list of the last `114`.
    pub supported_operations: Vec<String>,
    /// Minutes of the last `117`.
    pub required_minutes: Option<String>,
    /// Name, version, URL and maintainer of the last `122`.
    pub agent: Vec<String>,
    /// The list of the last `150`.
    pub protocols: Vec<String>,
    /// What rows of template collections and updates of the inventory have set, by the path, as
    /// `adit_RemoteAccess.limit`.
    pub fragments: BTreeMap<String, String>,
    /// The services of `102`, by their external ids.
    pub services: BTreeMap<String, Service>,
}

/// A program on a device, as the cloud shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Type given with `102`.
    pub kind: String,
    /// Name given with `102`.
    pub name: String,
    /// Every status it has had, the present one last: of `102` and of each `104`.
    pub history: Vec<String>,
}

/// What a device told with `400`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// When it arrived.
    pub at: Instant,
    /// External id of the device.
    pub device: String,
    /// Type, as `c8y_RemoteAccessOpened`.
    pub kind: String,
    /// Text for people.
    pub text: String,
}
