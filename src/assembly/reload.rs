//! Reads the configuration again while the agent runs, and gives it what of it needs no restart.
//!
//! Files are read in a thread, because a disk may hang; until it answers, nothing changes. Wishes come
//! one after the other: from SIGHUP and from the socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::inspection::Inspection;
use super::{account, announcement, opener, token_service};
use crate::admin::http::Door;
use crate::agent::Asked;
use crate::agent::renewal::{Renewal, news};
use crate::auth::authorization::Authorization;
use crate::auth::settings::Auth;
use crate::auth::token::Tokens;
use crate::config::{Config, Effect, Faults};
use crate::inquiry::{ReloadWish, ReloadWishes};
use crate::limits;
use crate::logging;
use crate::mqtt::session::Options;
use crate::net::{Roots, Transport};
use crate::notify::Supervisor;
use crate::state::reloaded::Reloaded;
use crate::threads::aside;
use crate::words::failure_reason;

/// How long all files together may take to be read. Each has a limit of its own at the start.
const READ_LIMIT: Duration = Duration::from_secs(40);
/// How long the roots of this machine may take. Where they take longer they hold when they are read.
const ROOTS_LIMIT: Duration = Duration::from_secs(10);

/// Returns what has to be said besides of faults of a configuration that lies where adit may not read.
pub fn why_forbidden(faults: &str) -> String {
    match faults.contains(FORBIDDEN) {
        true => format!("; {CONFINED}"),
        false => String::new(),
    }
}

/// What the system says where adit may not read.
const FORBIDDEN: &str = "Permission denied";
const CONFINED: &str = "adit has given up the right to read in other directories than those of the \
                        files that were named when it was started; a restart can read there";

/// Where a new configuration comes from.
pub struct Source {
    /// Reads it, however long that takes.
    pub load: Arc<dyn Fn() -> Result<Config, Faults> + Send + Sync>,
    /// Asks for it, as SIGHUP does.
    pub hangups: mpsc::Receiver<()>,
}

/// Gives the agent what is new.
pub(super) struct Reloader {
    pub(super) source: Source,
    pub(super) wishes: ReloadWishes,
    /// What holds, with the credentials that are in use.
    pub(super) config: Config,
    /// Trusts what holds.
    pub(super) transport: Transport,
    pub(super) tokens: Arc<Tokens>,
    /// The way of the tunnels, for those who ask the cloud for certificates.
    pub(super) to_cloud: watch::Sender<Transport>,
    pub(super) door: Door,
    pub(super) renewals: mpsc::Sender<Asked>,
    pub(super) supervisor: Arc<Supervisor>,
    pub(super) inspection: Inspection,
}

impl Reloader {
    /// Reloads whenever somebody wants it, until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let wish = tokio::select! {
                Some(wish) = self.wishes.recv() => wish,
                Some(()) = self.source.hangups.recv() => ReloadWish {
                    log_level: None,
                    answer: oneshot::channel().0,
                },
                // Whoever it would be given to has no use for it any more.
                () = self.renewals.closed() => return,
                else => return,
            };
            self.supervisor.reloading();
            let reloaded = self.reload().await;
            if let (Some(level), true) = (wish.log_level, reloaded.faults.is_empty()) {
                logging::set_level(level);
                info!(%level, "the log has another level");
            }
            self.supervisor.ready();
            // Who asked may have gone.
            let _ = wish.answer.send(reloaded);
        }
    }

    async fn reload(&mut self) -> Reloaded {
        let newer = match self.read().await {
            Ok(newer) => newer,
            Err(faults) => return refused(faults),
        };
        let mut reloaded = self.changes(&newer);
        for warning in &newer.warnings {
            warn!(target: logging::EACH, "{warning}");
        }
        reloaded.warnings.clone_from(&newer.warnings);
        let renewed = self.config.renewed(&newer);
        match self.give_with_trust(&renewed).await {
            Ok((ended, transport)) => {
                reloaded.ended_tunnels = ended;
                self.transport = transport;
            }
            Err(fault) => return refused(vec![fault]),
        }
        match self.transport.reread_roots(ROOTS_LIMIT).await {
            Roots::Same => {}
            Roots::Changed => reloaded.other_roots = true,
            Roots::NotRead(error) => reloaded.warnings.push(format!(
                "the certificates that this machine trusts cannot be read again ({error}); the last ones \
                 go on"
            )),
        }
        self.lead_to_cloud(&renewed);
        self.door.set(renewed.admin.token.clone());
        limits::allow_files_for(renewed.tunnels.max_tunnels, super::connections(&renewed));
        self.inspection.set(&renewed, &self.transport);
        self.config = renewed;
        let Reloaded {
            changed,
            at_next_login,
            needs_restart,
            ..
        } = &reloaded;
        info!(
            changed = changed.join(", "),
            at_next_login = at_next_login.join(", "),
            needs_restart = needs_restart.join(", "),
            "the configuration is read again"
        );
        reloaded
    }

    async fn read(&self) -> Result<Config, Vec<String>> {
        let load = Arc::clone(&self.source.load);
        let reading = aside(move || load());
        match timeout(READ_LIMIT, reading).await {
            Ok(Ok(read)) => read.map_err(|faults| {
                let faults = faults.to_string();
                let mut faults: Vec<_> = faults.lines().map(str::to_owned).collect();
                if faults.iter().any(|fault| fault.contains(FORBIDDEN)) {
                    faults.push(CONFINED.to_owned());
                }
                faults
            }),
            Ok(Err(fault)) => Err(vec![fault.to_string()]),
            Err(_) => Err(vec![format!(
                "its files could not be read within {}: a disk hangs",
                humantime::format_duration(READ_LIMIT)
            )]),
        }
    }

    fn changes(&self, newer: &Config) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for key in self.config.changes(newer) {
            let keys = match self.config.effect(key, newer) {
                Effect::Immediate => &mut reloaded.changed,
                Effect::NextLogin => &mut reloaded.at_next_login,
                Effect::Restart => &mut reloaded.needs_restart,
            };
            keys.push(key.full_name());
        }
        reloaded
    }

    /// Gives the agent what is new, and trusts what it names from then on.
    async fn give_with_trust(&self, renewed: &Config) -> Result<(u64, Transport), String> {
        let (old, new) = (&self.config.cloud.ca, &renewed.cloud.ca);
        if old == new {
            return self.give(renewed).await;
        }
        let trust = |certificates| {
            let trusted = self.transport.trust(certificates);
            trusted.map_err(|error| failure_reason(&error, usize::MAX))
        };
        // Before the agent, which may log in at once.
        trust(new)?;
        let given = self.give(renewed).await;
        if given.is_err() {
            trust(old)?;
        }
        given
    }

    /// Gives the agent what is new; returns how many tunnels that has ended, and what is trusted now.
    async fn give(&self, renewed: &Config) -> Result<(u64, Transport), String> {
        let in_words = |error: anyhow::Error| format!("{error:#}");
        let transport = self.transport(renewed);
        let renewal = self.renewal(renewed, transport.clone());
        let renewal = Box::new(renewal.map_err(in_words)?);
        let (answer, answered) = oneshot::channel();
        let stopping = || "adit is stopping".to_owned();
        let given = self.renewals.send((renewal, answer)).await;
        given.map_err(|_| stopping())?;
        let ended = answered.await.map_err(|_| stopping())??;
        Ok((ended, transport))
    }

    /// Has tokens and certificates asked for as tunnels are from now on.
    fn lead_to_cloud(&self, renewed: &Config) {
        if let Some(service) = token_service(renewed, &renewed.auth, &self.transport) {
            let limit = renewed.tunnels.connect_timeout;
            self.tokens.replace_service(service, limit);
        }
        let transport = self.transport.clone();
        self.to_cloud
            .send_replace(transport.through(renewed.cloud.proxy.clone()));
    }

    /// Shows who adit is from now on.
    fn transport(&self, renewed: &Config) -> Transport {
        let files = |config: &Config| Some(config.auth.identity()?.files().clone());
        // What is in the files is looked at with each login anyway.
        let transport = self.transport.clone();
        match files(renewed) == files(&self.config) {
            true => transport,
            false => transport.with_identity(renewed.auth.identity().cloned()),
        }
    }

    fn renewal(&self, renewed: &Config, transport: Transport) -> anyhow::Result<Renewal> {
        let (old, new) = (options(&self.config)?, options(renewed)?);
        let authorization = Authorization::new(&renewed.auth, Some(Arc::clone(&self.tokens)));
        Ok(Renewal {
            max_tunnels: renewed.tunnels.max_tunnels,
            drain: renewed.tunnels.drain,
            policy: renewed.tunnels.policy.clone(),
            announce: news(&old, &new),
            options: new,
            transport: transport.clone().through(renewed.mqtt.proxy.clone()),
            opener: opener(renewed, transport, authorization),
            children: renewed.device.children.clone(),
            events: renewed.remote_access.events,
        })
    }
}

/// Says why nothing is changed.
fn refused(faults: Vec<String>) -> Reloaded {
    for fault in &faults {
        error!(
            target: logging::EACH,
            fault,
            "the new configuration cannot be used; the old one goes on"
        );
    }
    Reloaded {
        faults,
        ..Reloaded::default()
    }
}

/// What is said at the next login, and as whom.
fn options(config: &Config) -> anyhow::Result<Options> {
    let login = config.mqtt.login.clone().or_else(|| match &config.auth {
        // Given at a registration.
        Auth::Password { user, password } => Some((user.clone(), password.clone())),
        Auth::Certificate(_) | Auth::Bootstrap(_) | Auth::Unenrolled(_) | Auth::None => None,
    });
    let announcement = announcement(config, &config.auth)?;
    Ok(announcement.session_options(account(config, login)))
}
