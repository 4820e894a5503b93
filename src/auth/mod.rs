//! Who adit is to the platform: its credentials, where they come from and how tunnels show them.

pub mod authorization;
pub mod credentials_file;
pub mod registration;
pub mod settings;
pub mod token;
