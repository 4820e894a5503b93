//! What the platform is told of remote access, and what tunnels may do.

use super::SectionBuilder;
use crate::config::keys;
use crate::platform::settings::{Protocol, RemoteAccess};
use crate::tunnel;
use crate::tunnel::policy::Policy;

impl SectionBuilder<'_> {
    pub(in crate::config) fn remote_access(&mut self) -> Option<RemoteAccess> {
        let protocols = self.protocols();
        let events = self.get(&keys::REMOTE_ACCESS_EVENTS);
        let operation_ids = self.get(&keys::REMOTE_ACCESS_OPERATION_IDS);
        Some(RemoteAccess {
            protocols: protocols?,
            events: events?,
            operation_ids: operation_ids?,
        })
    }

    fn protocols(&mut self) -> Option<Vec<Protocol>> {
        let mut protocols = Vec::new();
        for protocol in self.list(&keys::REMOTE_ACCESS_PROTOCOLS)? {
            if !protocols.contains(&protocol) {
                protocols.push(protocol);
            }
        }
        if !protocols.is_empty() {
            return Some(protocols);
        }
        let place = self.place(&keys::REMOTE_ACCESS_PROTOCOLS.key)?;
        let known = Protocol::ALL.map(Protocol::as_str).join(", ");
        self.refuse(&place, format!("is empty; it takes any of {known}"));
        None
    }

    pub(in crate::config) fn tunnels(&mut self) -> Option<tunnel::Settings> {
        let allow = self.list(&keys::REMOTE_ACCESS_ALLOW);
        let deny = self.list(&keys::REMOTE_ACCESS_DENY);
        let max_tunnels = self.get(&keys::REMOTE_ACCESS_MAX_TUNNELS);
        let connect_timeout = self.get(&keys::REMOTE_ACCESS_CONNECT_TIMEOUT);
        let keep_alive = self.get(&keys::REMOTE_ACCESS_KEEP_ALIVE);
        let idle_timeout = self.get(&keys::REMOTE_ACCESS_IDLE_TIMEOUT);
        let max_duration = self.get(&keys::REMOTE_ACCESS_MAX_DURATION);
        let drain = self.get(&keys::REMOTE_ACCESS_DRAIN);
        Some(tunnel::Settings {
            policy: Policy::new(allow?, deny?),
            max_tunnels: max_tunnels?,
            connect_timeout: connect_timeout?,
            keep_alive: keep_alive?,
            idle_timeout: idle_timeout?,
            max_duration: max_duration?,
            drain: drain?,
        })
    }
}
