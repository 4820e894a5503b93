//! TLS sessions that are taken up again, which saves both sides the signatures of a handshake.
//!
//! The TLS library keeps tickets by the server's name alone, so a broker and a platform at two ports
//! of one host would be shown each other's, and each ticket is good for one try. Here each host and
//! port has its own, for MQTT and for tunnels together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::address::Endpoint;

/// Servers that are remembered: those of the configuration are three.
const SERVERS: usize = 8;
/// Names of one server; the library keeps some tickets for each.
const NAMES: usize = 1;

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<(String, u16), Server>>);

/// What connections to one server share.
struct Server {
    /// What the last of them was made from.
    base: Arc<ClientConfig>,
    /// The same with the tickets of this server.
    config: Arc<ClientConfig>,
}

impl Server {
    fn new(base: &Arc<ClientConfig>, resumption: Resumption) -> Self {
        let mut config = ClientConfig::clone(base);
        config.resumption = resumption;
        Self {
            base: Arc::clone(base),
            config: Arc::new(config),
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions(..)")
    }
}

impl Sessions {
    /// Takes up none of those that began before.
    pub(super) fn forget(&self) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.clear();
    }

    /// Returns a configuration that takes up sessions with this server.
    ///
    /// The library takes up none that began with another certificate of adit's own.
    pub(super) fn with(&self, base: &Arc<ClientConfig>, server: &Endpoint) -> Arc<ClientConfig> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (server.host.clone(), server.port);
        if servers.len() >= SERVERS && !servers.contains_key(&place) {
            servers.clear();
        }
        let server = servers
            .entry(place)
            .or_insert_with(|| Server::new(base, Resumption::in_memory_sessions(NAMES)));
        if !Arc::ptr_eq(&server.base, base) {
            *server = Server::new(base, server.config.resumption.clone());
        }
        Arc::clone(&server.config)
    }
}
