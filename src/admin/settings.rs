//! Where adit may be looked at.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::secret::Secret;

/// Who may look at adit, and where.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where HTTP is spoken. Nowhere unless set.
    pub listen: Option<SocketAddr>,
    /// What whoever comes to `listen` has to know. Always there where that is not a loopback address.
    pub token: Option<Secret>,
    /// The Unix socket of `adit status`. `/run/adit/adit.sock` unless set.
    pub socket: Option<PathBuf>,
    /// The socket was asked for, so that somebody will miss it.
    pub is_socket_set: bool,
}
