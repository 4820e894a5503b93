//! The configuration as types. A [`Config`] that exists can be used.
//!
//! Nothing else of adit reads files or the environment. All that is wrong is reported in one go:
//! whoever configures a thousand gateways does not want to learn it one start at a time.

mod changes;
mod fault;
mod keys;
mod proxy;
mod redaction;
mod sections;
mod shape;
mod sources;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;

use crate::admin;
use crate::auth::settings::{Auth, Authority};
use crate::mqtt;
use crate::net::settings::Cloud;
use crate::platform::settings::{Device, RemoteAccess};
use crate::tunnel;
use changes::Fingerprints;
use proxy::Proxies;
use sections::SectionBuilder;

pub use changes::Effect;
pub use fault::Faults;
pub use keys::{Fallback, Key};
pub(crate) use redaction::HIDDEN;
pub use redaction::{Known, Redacted, redacted};
pub use sources::{
    DEFAULT_FILE, LOG_FORMAT_VARIABLE, LOG_LEVEL_VARIABLE, NO_SANDBOX_VARIABLE, Sources,
};

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
    /// Who issues and renews its certificate, where that is the platform's own authority.
    pub authority: Option<Authority>,
    /// What the platform is told of remote access.
    pub remote_access: RemoteAccess,
    /// What tunnels may do.
    pub tunnels: tunnel::Settings,
    /// Where adit may be looked at.
    pub admin: admin::Settings,
    /// The files that it names and that were read, or may be there one day.
    pub named_files: Vec<PathBuf>,
    /// What leads to servers, whichever they are.
    proxies: Proxies,
    /// What each key was set to.
    fingerprints: Fingerprints,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What can be used and should be looked at, a clause each; for the log at the start.
    pub warnings: Vec<String>,
}

/// Returns all keys of the configuration, in the order of the documentation.
pub fn keys() -> &'static [Key] {
    keys::KEYS
}

/// Reads the section of `admin` alone: a command that asks the running agent has no use for the rest,
/// which may be faulty by now. What keeps that section from being read at all is among the warnings;
/// variables, flags and defaults are gone by then.
///
/// # Errors
/// The file cannot be read, or all that is wrong with that section, each with its place.
pub fn admin(sources: &Sources<'_>) -> Result<(admin::Settings, Vec<String>), Faults> {
    let mut builder = SectionBuilder {
        gathered: sources::gather(sources),
        sources,
    };
    // What is wrong elsewhere is for the agent to say.
    let faults = std::mem::take(&mut builder.gathered.faults);
    let incomplete = builder.gathered.incomplete;
    if incomplete && builder.gathered.file.is_none() {
        return Err(Faults::new(faults));
    }
    let admin = builder.admin();
    match admin {
        Some(admin) if builder.gathered.faults.is_empty() => {
            let unread = faults.iter().filter(|_| incomplete);
            Ok((admin, unread.map(ToString::to_string).collect()))
        }
        _ => Err(Faults::new(builder.gathered.faults)),
    }
}

impl Config {
    /// Reads flags over environment over file over default.
    ///
    /// # Errors
    /// All that is wrong, each with its place.
    pub fn load(sources: &Sources<'_>) -> Result<Self, Faults> {
        let mut builder = SectionBuilder {
            gathered: sources::gather(sources),
            sources,
        };
        builder.warn_of_exposed_file();
        let (auth, authority) = builder.auth().unzip();
        let device = builder.device(auth.as_ref());
        let proxies = builder.proxies();
        let cloud = builder.cloud(proxies.as_ref());
        let mqtt = builder.mqtt(cloud.as_ref(), proxies.as_ref(), auth.as_ref());
        let remote_access = builder.remote_access();
        let tunnels = builder.tunnels();
        let admin = builder.admin();
        let gathered = builder.gathered;
        match (
            device,
            proxies,
            cloud,
            mqtt,
            auth,
            remote_access,
            tunnels,
            admin,
        ) {
            (
                Some(device),
                Some(proxies),
                Some(cloud),
                Some(mqtt),
                Some(auth),
                Some(remote_access),
                Some(tunnels),
                Some(admin),
            ) if gathered.faults.is_empty() => Ok(Self {
                device,
                cloud,
                mqtt,
                auth,
                authority: authority.flatten(),
                remote_access,
                tunnels,
                admin,
                proxies,
                fingerprints: Fingerprints::of(&gathered),
                named_files: gathered.named_files,
                file: gathered.file,
                warnings: gathered.warnings,
            }),
            _ => Err(Faults::new(gathered.faults)),
        }
    }
}
