//! Where the broker is, and how it is spoken to.

use std::time::Duration;

use crate::net::BrokerEndpoint;
use crate::net::proxy::Proxy;
use crate::password::Password;

/// Where the broker is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// MQTT over TLS at the cloud's host unless set.
    pub endpoint: BrokerEndpoint,
    /// The way to the endpoint. That of the cloud, but for a local broker.
    pub proxy: Option<Proxy>,
    /// Empty, or with `/` at its end. Empty unless set.
    pub topic_prefix: String,
    /// In whole seconds. 60 seconds unless set.
    pub keep_alive: Duration,
    /// The broker's own user and password if they are set, else those of the platform.
    pub login: Option<(String, Password)>,
}
