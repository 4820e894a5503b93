//! Looking at adit while it runs: the Unix socket of `adit status`, and HTTP for monitoring and people.
//!
//! All that comes here is asked of the heart by an `Inquirer`; nothing
//! here holds a tunnel or a secret of the platform.

pub(crate) mod client;
pub(crate) mod http;
mod metrics;
mod page;
pub(crate) mod settings;
pub(crate) mod socket;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::inquiry::Inquirer;
use crate::words::{failure_reason, words};
use http::{Door, Port, Server};
pub use settings::Settings;
use socket::{AdminSocket, NoSocket};

/// Where HTTP tells what `adit status --json` prints.
const STATUS_PATH: &str = "/status.json";

/// What the agent shows of itself at its socket besides what it does.
#[derive(Clone)]
pub(crate) struct Insight {
    /// Returns the last lines of the log.
    pub(crate) last_lines: fn() -> Vec<String>,
    /// Tries the way to the cloud.
    pub(crate) examine: Examine,
}

/// Tries the way to the cloud without a login, or says why it cannot be tried now.
pub(crate) type Examine =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Checked, String>> + Send + Sync>;

/// What the agent has found on its way to the cloud.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Checked {
    /// Whether nothing is broken.
    pub(crate) is_good: bool,
    /// For people.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: String,
}

/// Where adit is to be looked at, and nobody answers yet.
pub(crate) struct Places {
    socket: Option<AdminSocket>,
    port: Option<Port>,
    door: Door,
}

/// What adit is looked at through, until it is dropped.
pub(crate) struct Open {
    /// Of the port.
    pub(crate) door: Door,
    _socket: JoinSet<()>,
    _server: Option<Server>,
}

impl Places {
    /// Takes the places that `settings` name, before adit confines itself. What cannot be had is said
    /// and done without: tunnels matter more.
    pub(crate) fn take(settings: &Settings) -> Self {
        let socket = settings.socket.as_ref().map(|path| AdminSocket::bind(path));
        let socket = socket.and_then(|bound| {
            bound
                .inspect_err(|error| say_that_there_is_no_socket(error, settings.is_socket_set))
                .ok()
        });
        let port = settings.listen.and_then(|listen| {
            let taken = Port::take(listen).inspect_err(|error| {
                error!(
                    address = %listen,
                    error = words(error),
                    "cannot listen at admin.listen; adit goes on without it"
                );
            });
            taken.ok()
        });
        Self {
            socket,
            port,
            door: Door::new(settings.token.clone()),
        }
    }

    /// Answers there.
    pub(crate) fn open(self, inquirer: &Inquirer, insight: Insight) -> Open {
        let mut socket = JoinSet::new();
        if let Some(bound) = self.socket {
            socket.spawn(bound.serve(inquirer.clone(), insight));
        }
        let server = self.port.and_then(|port| {
            Server::start(port, self.door.clone(), inquirer.clone())
                .inspect_err(|error| {
                    error!(error = words(error), "nothing answers at admin.listen")
                })
                .ok()
        });
        Open {
            door: self.door,
            _socket: socket,
            _server: server,
        }
    }
}

fn say_that_there_is_no_socket(error: &NoSocket, is_set: bool) {
    const WORDS: &str = "adit goes on without its socket: adit status cannot ask it";
    let is_missed = is_set || !matches!(error, NoSocket::System { .. });
    let error = failure_reason(error, usize::MAX);
    if is_missed {
        warn!(error, "{WORDS}");
    } else {
        info!(error, "{WORDS}");
    }
}
