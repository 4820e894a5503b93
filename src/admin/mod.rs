//! Looking at adit while it runs: the Unix socket of `adit status`, and HTTP for monitoring and people.
//!
//! All that comes here is asked of the heart by an [`Inquirer`](crate::inquiry::Inquirer); nothing
//! here holds a tunnel or a secret of the platform.

pub(crate) mod client;
pub(crate) mod settings;
pub(crate) mod socket;

use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::inquiry::Inquirer;
use crate::words::failure_reason;
pub use settings::Settings;
use socket::{AdminSocket, NoSocket};

/// Where HTTP tells what `adit status --json` prints.
const STATUS_PATH: &str = "/status.json";

/// Lets adit be looked at as `settings` say, until what is returned is dropped. What cannot be had is
/// said and done without: tunnels matter more.
pub(crate) fn open(settings: &Settings, inquirer: &Inquirer) -> JoinSet<()> {
    let mut open = JoinSet::new();
    if let Some(path) = &settings.socket {
        match AdminSocket::bind(path) {
            Ok(socket) => drop(open.spawn(socket.serve(inquirer.clone()))),
            Err(error) => {
                let is_missed = settings.is_socket_set || !matches!(error, NoSocket::System { .. });
                let error = failure_reason(&error, usize::MAX);
                if is_missed {
                    warn!(
                        error,
                        "adit goes on without its socket: adit status cannot ask it"
                    );
                } else {
                    info!(
                        error,
                        "adit goes on without its socket: adit status cannot ask it"
                    );
                }
            }
        }
    }
    open
}
