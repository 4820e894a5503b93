//! What became of a new configuration.

use serde::{Deserialize, Serialize};

/// The answer to a reload. Keys are named as `remote_access.allow`; values never are.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Reloaded {
    /// Why nothing was changed, a line each.
    pub faults: Vec<String>,
    /// What can be used and should be looked at.
    pub warnings: Vec<String>,
    /// Keys that hold now.
    pub changed: Vec<String>,
    /// Keys that hold when adit logs in at the broker for the next time; for tunnels, from the next
    /// one on.
    pub at_next_login: Vec<String>,
    /// Keys that have changed and need a restart.
    pub needs_restart: Vec<String>,
    /// Whether this machine trusts other certificates than before, which holds as `at_next_login` does.
    pub other_roots: bool,
    /// Tunnels that were ended because the policy denies their targets now.
    pub ended_tunnels: u64,
}
