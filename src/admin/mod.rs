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
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use smartrest::Target;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::inquiry::Inquirer;
use crate::words::{failure_reason, words};
use http::{Door, Port, Server};
pub use settings::Settings;
use socket::{AdminSocket, NoSocket};

/// Where HTTP tells what `adit status --json` prints.
const STATUS_PATH: &str = "/status.json";
/// Where HTTP tells everybody whether adit is connected.
const HEALTH_PATH: &str = "/healthz";
/// What it says if so.
const HEALTHY: &str = "ok\n";

/// What the agent shows of itself at its socket besides what it does.
#[derive(Clone)]
pub(crate) struct Insight {
    /// Returns the last lines of the log.
    pub(crate) last_lines: fn() -> Vec<String>,
    /// Tries the way to the cloud.
    pub(crate) examine: Examine,
}

/// Tries the way to the cloud without a login, and to a machine if one is named, or says why it cannot
/// be tried now.
pub(crate) type Examine =
    Arc<dyn Fn(Option<Target>) -> BoxFuture<'static, Result<Checked, String>> + Send + Sync>;

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

/// How long a process that takes over waits for the one before it to give its places up.
const FREE_LIMIT: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long those that have asked may take to read their answers when adit ends.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Where adit is to be looked at, and nobody answers yet.
#[derive(Default)]
pub(crate) struct Places {
    socket: Option<AdminSocket>,
    port: Option<Port>,
}

/// What adit is looked at through, which may be closed for another process and opened again.
pub(crate) struct Doors {
    settings: Settings,
    inquirer: Inquirer,
    insight: Insight,
    door: Door,
    open: Option<Open>,
    /// Who has come before it was closed.
    answering: Vec<JoinSet<()>>,
}

/// What is open, until it is dropped.
struct Open {
    closed: CancellationToken,
    socket: JoinSet<()>,
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
        Self { socket, port }
    }

    /// Takes them from a process that is giving them up.
    pub(crate) async fn take_over(settings: &Settings) -> Self {
        let until = Instant::now() + FREE_LIMIT;
        let (mut socket, mut port) = (None, None);
        while Instant::now() < until {
            if let (None, Some(path)) = (&socket, &settings.socket) {
                socket = AdminSocket::bind(path).ok();
            }
            if let (None, Some(listen)) = (&port, settings.listen) {
                port = Port::take(listen).ok();
            }
            let has_socket = socket.is_some() || settings.socket.is_none();
            if has_socket && (port.is_some() || settings.listen.is_none()) {
                return Self { socket, port };
            }
            sleep(LOOK_AGAIN).await;
        }
        // Whatever is missing is said.
        let missing = Self::take(&Settings {
            socket: settings.socket.clone().filter(|_| socket.is_none()),
            listen: settings.listen.filter(|_| port.is_none()),
            ..settings.clone()
        });
        Self {
            socket: socket.or(missing.socket),
            port: port.or(missing.port),
        }
    }
}

impl Doors {
    /// Begins with nothing open.
    pub(crate) fn new(settings: &Settings, inquirer: Inquirer, insight: Insight) -> Self {
        Self {
            settings: settings.clone(),
            inquirer,
            insight,
            door: Door::new(settings.token.clone()),
            open: None,
            answering: Vec::new(),
        }
    }

    /// Returns that of the port.
    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Answers at places that were taken.
    pub(crate) fn open(&mut self, places: Places) {
        let (mut socket, closed) = (JoinSet::new(), CancellationToken::new());
        if let Some(bound) = places.socket {
            let (inquirer, insight) = (self.inquirer.clone(), self.insight.clone());
            socket.spawn(bound.serve(inquirer, insight, closed.clone()));
        }
        let server = places.port.and_then(|port| {
            Server::start(port, self.door.clone(), self.inquirer.clone())
                .inspect_err(|error| {
                    error!(error = words(error), "nothing answers at admin.listen")
                })
                .ok()
        });
        self.open = Some(Open {
            closed,
            socket,
            _server: server,
        });
    }

    /// Gives the places up; who has asked is still answered.
    pub(crate) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.closed.cancel();
            self.answering.push(open.socket);
        }
    }

    /// Takes the places that were given up, as far as nobody else has them now.
    pub(crate) fn open_again(&mut self) {
        if self.open.is_none() {
            let places = Places::take(&self.settings);
            self.open(places);
        }
    }

    /// Waits until all who have asked are answered, for a moment.
    pub(crate) async fn end(mut self) {
        self.close();
        let answered = async {
            for mut answering in self.answering {
                while answering.join_next().await.is_some() {}
            }
        };
        let _ = timeout(END_LIMIT, answered).await;
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
