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
pub(super) struct Sessions(Mutex<HashMap<(String, u16), Resumption>>);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions(..)")
    }
}

impl Sessions {
    /// Returns a configuration that takes up sessions with this server.
    ///
    /// The library takes up none that began with other trust or another certificate of adit's own.
    pub(super) fn with(&self, config: &ClientConfig, server: &Endpoint) -> Arc<ClientConfig> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (server.host.clone(), server.port);
        if servers.len() >= SERVERS && !servers.contains_key(&place) {
            servers.clear();
        }
        let resumption = servers
            .entry(place)
            .or_insert_with(|| Resumption::in_memory_sessions(NAMES));
        let mut config = config.clone();
        config.resumption = resumption.clone();
        Arc::new(config)
    }
}
