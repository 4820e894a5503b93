//! The gateway itself.

use super::SectionBuilder;
use crate::auth::settings::Auth;
use crate::config::fault::Place;
use crate::config::keys;
use crate::net::identity::Identity;
use crate::platform::settings::Device;

/// What a machine is called that nobody has given a name, by the kernel and by distributions. Gateways of
/// one id throw each other out.
const NAMES_OF_NOBODY: [&str; 3] = ["(none)", "localhost", "localhost.localdomain"];

/// Bytes of the supported operations. What the platform takes in a packet (16,184 bytes) also has to
/// hold adit's own operation and the topic with its prefix.
const OPERATIONS_LIMIT: usize = 15_000;

impl SectionBuilder<'_> {
    pub(in crate::config) fn device(&mut self, auth: Option<&Auth>) -> Option<Device> {
        let is_set = self.place(&keys::DEVICE_ID.key).is_some();
        let id = match auth {
            Some(Auth::Certificate(identity)) => self.certified_device_id(identity),
            // It is the same device, unless it is to become another one.
            Some(Auth::Unenrolled(Some(expired))) if !is_set => self.certified_device_id(expired),
            _ => self.device_id(),
        };
        let name = self.get(&keys::DEVICE_NAME).or_else(|| id.clone());
        let device_type = self.get(&keys::DEVICE_TYPE);
        let required_interval = self.get(&keys::DEVICE_REQUIRED_INTERVAL);
        let children = self.children(id.as_deref());
        let supported_operations = self.supported_operations();
        let announce = self.get(&keys::DEVICE_ANNOUNCE);
        let service = self.get(&keys::DEVICE_SERVICE);
        Some(Device {
            id: id?,
            name: name?,
            device_type: device_type?,
            required_interval: required_interval?,
            children: children?,
            supported_operations: supported_operations?,
            announce: announce?,
            service: service?,
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

    fn supported_operations(&mut self) -> Option<Vec<String>> {
        let operations = self.list(&keys::DEVICE_SUPPORTED_OPERATIONS)?;
        let bytes: usize = operations.iter().map(|name| name.len() + 1).sum();
        if bytes <= OPERATIONS_LIMIT {
            return Some(operations);
        }
        let place = self.place(&keys::DEVICE_SUPPORTED_OPERATIONS.key)?;
        let words = format!(
            "has {bytes} bytes; they go to the platform in one row of at most {OPERATIONS_LIMIT}"
        );
        self.refuse(&place, words);
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
        if NAMES_OF_NOBODY.contains(&name) {
            let words = format!("the host name {name:?} is that of every machine without one");
            self.refuse_missing(&keys::DEVICE_ID.key, &words);
            return None;
        }
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
            let place = self.place(&keys::AUTH_CERT_FILE.key);
            let file = &identity.files().certificate;
            let place = place.unwrap_or_else(|| Place::File(file.clone()));
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
}
