//! The kinds of credentials.

use std::mem;
use std::path::PathBuf;
use std::time::Duration;

use smartrest::Credentials;

use crate::net::identity::{Files, Identity};
use crate::password::Password;
use crate::secret::Secret;

/// A user, with the tenant where it is one of the platform, and the password.
pub type Login = (String, Password);

/// Who adit is to the platform.
#[derive(Clone, Debug)]
pub enum Auth {
    /// A user of the platform.
    Password {
        /// Tenant and user, as `t12345/device_gateway-7`; so for MQTT and for HTTP.
        user: String,
        /// Belongs to `user`.
        password: Password,
    },
    /// A certificate, whose common name is the device id.
    Certificate(Identity),
    /// Nobody yet: the platform's own authority has to issue a certificate, as [`Authority`] says. With
    /// the one that it has issued earlier and that has expired, by the clock of this machine.
    Unenrolled(Option<Identity>),
    /// Nobody yet: it has to be registered.
    Bootstrap(Bootstrap),
    /// Nobody: a broker that bridges to the platform vouches for the device.
    None,
}

/// What a gateway registers with.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Tenant and user that all new devices share, as `management/devicebootstrap`.
    pub user: String,
    /// Belongs to `user`.
    pub password: Password,
    /// Where the credentials are kept that the platform hands out.
    pub credentials_file: PathBuf,
}

/// How the platform's own authority issues and renews the certificate of this gateway.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Written by adit, and may be missing.
    pub files: Files,
    /// What the device is registered with; adit makes one itself unless set.
    pub one_time_password: Option<Password>,
    /// How long before its end a certificate is renewed. 30 days unless set.
    pub renew_before: Duration,
}

impl Auth {
    /// Whether somebody has to register the gateway first.
    pub(crate) fn is_to_be_given(&self) -> bool {
        matches!(self, Self::Unenrolled(_) | Self::Bootstrap(_))
    }

    /// Whether tunnels need a token: there is no user of the platform whose password would do.
    pub fn needs_token(&self) -> bool {
        !matches!(self, Self::Password { .. })
    }

    /// Returns the certificate to show to servers.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Certificate(identity) => Some(identity),
            Self::Password { .. } | Self::Unenrolled(_) | Self::Bootstrap(_) | Self::None => None,
        }
    }
}

/// The user as both MQTT and HTTP want it, and the password.
pub(crate) fn login_of(credentials: Credentials) -> Login {
    let Credentials {
        tenant,
        user,
        mut password,
    } = credentials;
    (
        format!("{tenant}/{user}"),
        Password::new(Secret::new(mem::take(&mut *password))),
    )
}
