//! Who adit is to the platform: its credentials, where they come from and how tunnels show them.

mod authority;
pub(crate) mod authorization;
pub(crate) mod credentials_file;
pub(crate) mod enrolment;
pub(crate) mod est;
pub(crate) mod invitation;
pub(crate) mod one_time_password;
pub(crate) mod own_file;
pub(crate) mod registration;
pub(crate) mod renewal;
pub mod settings;
pub(crate) mod token;
pub(crate) mod token_service;
