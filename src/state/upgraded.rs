//! What became of an upgrade.

use serde::{Deserialize, Serialize};

/// The answer to an upgrade.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Upgraded {
    /// Why the process that was asked is still in charge.
    pub fault: Option<String>,
    /// That of the process that is in charge now.
    pub version: String,
    /// Of the process that is in charge now.
    pub process_id: u32,
    /// Whether that is connected to the broker already.
    pub is_connected: bool,
    /// Of the process that was in charge.
    pub old_process_id: u32,
    /// Tunnels that this one carries until they end.
    pub old_tunnels: u64,
}

impl Upgraded {
    /// Says why nothing is changed.
    pub(crate) fn refused(fault: impl Into<String>) -> Self {
        Self {
            fault: Some(fault.into()),
            ..Self::default()
        }
    }
}
