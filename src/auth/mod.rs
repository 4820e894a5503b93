//! Who adit is to the platform: its credentials, where they come from and how tunnels show them.

pub(crate) mod authorization;
pub(crate) mod credentials_file;
pub(crate) mod registration;
pub mod settings;
pub(crate) mod token;
