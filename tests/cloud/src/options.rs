//! How a simulated cloud is set up.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{RootCertStore, ServerConfig};

use crate::est::EstAuthority;
use crate::platform::Notifications;
use crate::token_service::TokenService;

/// A user of the platform. `Debug` does not show the password.
#[derive(Clone, Eq, PartialEq)]
pub struct Login {
    /// Tenant, as `t12345`.
    pub tenant: String,
    /// User within the tenant.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Login {
    /// Makes a login of its three parts.
    pub fn new(tenant: &str, user: &str, password: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}/{})", self.tenant, self.user)
    }
}

/// The broker that the platform shares with the gateway.
#[derive(Clone)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The platform's own client id, which also names its persistent session.
    pub client_id: String,
    /// User name and password, where the broker asks for them.
    pub login: Option<(String, String)>,
    /// Roots to trust; TLS is spoken if they are given.
    pub roots: Option<RootCertStore>,
}

/// How a simulated cloud is set up.
#[derive(Clone)]
pub struct Options {
    /// The broker.
    pub broker: Broker,
    /// What stands before every topic, as `c8y/` behind a bridging broker.
    pub topic_prefix: String,
    /// External id of the gateway.
    pub gateway: String,
    /// Where WebSockets are accepted; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Makes the WebSockets `wss`.
    pub tls: Option<Arc<ServerConfig>>,
    /// The user of the device.
    pub device_login: Login,
    /// The user of the operator.
    pub operator_login: Login,
    /// HTTP status for a connection key that was used.
    pub used_key_status: u16,
    /// HTTP status for a connection key that is too old or was given up.
    pub expired_key_status: u16,
    /// How long a connection key waits for its device.
    pub key_lifetime: Duration,
    /// Whether an operator's WebSocket is closed with the reason when the operation fails. The web
    /// terminal of the platform does not watch the operation.
    pub operators_see_failures: bool,
    /// Whether a `114` is lost until the device exists.
    pub loses_early_operations: bool,
    /// Whether the platform answers for template collections.
    pub offers_collections: bool,
    /// Where tokens are given to certificates, if anywhere.
    pub token_service: Option<TokenService>,
    /// Whether a device that subscribes to `devicecontrol/notifications` gets operations there.
    pub notifications: Notifications,
    /// The tenant's certificate authority, where it has one.
    pub authority: Option<Arc<EstAuthority>>,
}

impl Options {
    /// Returns options for a gateway at a local broker, with user names made up for it.
    pub fn new(gateway: &str, broker_port: u16) -> Self {
        Self {
            broker: Broker {
                host: Ipv4Addr::LOCALHOST.to_string(),
                port: broker_port,
                client_id: format!("simulated-cloud-of-{gateway}"),
                login: None,
                roots: None,
            },
            topic_prefix: String::new(),
            gateway: gateway.to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            device_login: Login::new("t12345", &format!("device_{gateway}"), "device-password"),
            operator_login: Login::new("t12345", "operator", "operator-password"),
            used_key_status: 409,
            expired_key_status: 403,
            key_lifetime: Duration::from_secs(60),
            operators_see_failures: false,
            loses_early_operations: true,
            offers_collections: true,
            token_service: None,
            notifications: Notifications::BehindRows,
            authority: None,
        }
    }
}
