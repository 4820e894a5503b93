//! Renewal: a certificate of the platform's own authority gets a successor before it ends, by a token.
//!
//! It is asked for the key that is there. What comes is kept beside the certificate in use, and takes
//! its place once a login with it has worked ([`Transport`] tries it at the next one). While a
//! certificate ends soon, whoever issues it, the platform shows an alarm.

mod schedule;

use std::collections::HashSet;
use std::convert::Infallible;
use std::future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smartrest::{Request, encode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::authority::Applicant;
use super::est::key::{Key, KeyFileError};
use super::est::{self, BackOff, Fault, Issued};
use super::own_file::{self, WriteError};
use super::settings::Authority;
use super::token::{self, NoToken, Tokens};
use super::token_service::{TokenService, TokenServiceError};
use crate::files;
use crate::mqtt::outbox::Message;
use crate::mqtt::publisher::Publisher;
use crate::net::certificate::day;
use crate::net::identity::{Files, Identity};
use crate::net::{Endpoint, Transport};
use crate::secret::Secret;
use crate::threads::aside;
use crate::words::{date, failure_reason, seconds};
pub(crate) use schedule::first_due_at;
use schedule::{Alarm, Expiry, Schedule};

/// The type of the alarm, as the platform's own agents call it.
const ALARM: &str = "c8y_CertificateExpiring";
/// How long after a login a renewal begins that is due: not all gateways of a site at once.
const SOON: Duration = Duration::from_secs(10);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// The same where a person waits for it.
const LONGEST_WAIT_OF_A_PERSON: Duration = Duration::from_mins(1);
/// A token over TLS where a person waits for it, from the name of the host to the answer.
const TOKEN_LIMIT: Duration = Duration::from_secs(20);
/// A renewed certificate is tried at the next login, which on a good network may be far. When the old
/// one has no longer than this, adit logs in again for it: later the old one would be no way back.
const LAST_CHANCE: Duration = Duration::from_hours(24);
/// How often the clock is looked at: it may be set.
const LOOK_INTERVAL: Duration = Duration::from_hours(1);
/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewalError {
    /// There is no token to ask with.
    #[error("there is no token to ask with")]
    Token(#[from] NoToken),
    /// There is none without MQTT either.
    #[error("there is no token to ask with")]
    TokenService(#[from] TokenServiceError),
    /// The authority gave none.
    #[error(transparent)]
    Authority(#[from] Fault),
    /// There is no key that the authority signs.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// What came cannot be kept.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// There is no thread to read or write a file.
    #[error("a file was not read or written")]
    Thread(#[from] io::Error),
}

/// What is told once, however its words change.
type Kind = (u8, Option<est::Kind>);

impl RenewalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Token(_) => (0, None),
            Self::Authority(fault) => (1, Some(fault.kind())),
            Self::Key(KeyFileError::Read { .. }) => (2, None),
            Self::Key(KeyFileError::Unusable { .. }) => (3, None),
            Self::Write(_) => (4, None),
            Self::Thread(_) => (5, None),
            Self::TokenService(_) => (6, None),
        }
    }

    /// Says it, and no more than once aloud.
    fn log(&self, told: &mut HashSet<Kind>, retry_in: Duration) {
        let error = failure_reason(self, LOGGED_REASON_LIMIT);
        let retry_in_s = seconds(retry_in);
        match told.insert(self.kind()) {
            true => warn!(error, retry_in_s, "the certificate is not renewed yet"),
            false => debug!(error, retry_in_s, "still without a renewed certificate"),
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Authority(fault) => Some(fault),
            _ => None,
        }
    }
}

/// Asks for a successor of the certificate in `files`, and keeps it beside that one.
///
/// # Errors
/// There is none, or it cannot be kept.
pub(crate) async fn renew(
    applicant: &Applicant<'_>,
    token: &Secret,
) -> Result<Identity, RenewalError> {
    let path = applicant.files.key.clone();
    let key = aside(move || Key::in_file(&path, files::read(&path))).await??;
    let Issued { identity, pem } = applicant.ask(est::RENEW, token, &key).await?;
    let path = applicant.files.renewed();
    aside(move || own_file::write(&path, &pem)).await??;
    Ok(identity)
}

/// Renews the certificate in `authority.files` beside an agent that may be running, and asks until
/// that has worked. `transport` goes the way of the tunnels, and shows the certificate. Dropping the
/// future ends it.
pub(crate) async fn renew_now(
    authority: &Authority,
    id: &str,
    server: &Endpoint,
    transport: &Transport,
) -> Identity {
    let applicant = Applicant {
        transport,
        server,
        id,
        files: &authority.files,
    };
    // A login at the broker would throw a running agent out.
    let service = TokenService::new(transport.clone(), server);
    let mut back_off = BackOff::new(LONGEST_WAIT_OF_A_PERSON);
    let mut told = HashSet::new();
    loop {
        let renewed = async {
            let token = service.fetch(TOKEN_LIMIT).await?;
            renew(&applicant, &token::header(&token).0).await
        };
        let error = match renewed.await {
            Ok(identity) => return identity,
            Err(error) => error,
        };
        let retry_in = back_off.after_failure(error.fault(), fastrand::f64());
        error.log(&mut told, retry_in);
        sleep(retry_in).await;
    }
}

/// Renews the certificate that a gateway logs in with, and says when it ends soon.
pub(crate) struct Renewal {
    /// How long before its end a certificate is renewed that the authority has issued; without one
    /// nothing is renewed.
    pub renew_before: Option<Duration>,
    /// The device id.
    pub id: String,
    /// The platform.
    pub server: Endpoint,
    /// Goes the way of the tunnels, and shows the certificate. A reload replaces it.
    pub transport: watch::Receiver<Transport>,
    /// What the authority is shown.
    pub tokens: Arc<Tokens>,
    /// Of the session that logs in with the certificate.
    pub publisher: Publisher,
    /// `s/us`.
    pub topic: String,
}

impl Renewal {
    /// Runs beside the agent. Dropping it loses at most what an authority is about to answer.
    pub(crate) async fn run(mut self) -> Infallible {
        if let Some(way) = Way::newest(&mut self.transport) {
            self.go_on(way).await;
        }
        future::pending().await
    }

    /// Goes on until nothing is left to look at.
    async fn go_on(&mut self, mut way: Way) -> Option<Infallible> {
        let mut work = Work::new(self.renew_before);
        // Before the first login there is nobody to tell, and no token.
        let mut has_begun = false;
        loop {
            let wait = match has_begun {
                true => {
                    let newest = way.transport.newest_identity().await?;
                    let wait = self.look(&way.transport, &newest, &mut work);
                    wait.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL)
                }
                false => LOOK_INTERVAL,
            };
            tokio::select! {
                login = way.logins.changed() => {
                    login.ok()?;
                    has_begun = true;
                    continue;
                }
                Ok(()) = self.transport.changed() => {
                    way = Way::newest(&mut self.transport)?;
                    // The old one may have been what was in the way.
                    work.begin_again();
                    continue;
                }
                () = sleep(wait) => {}
            }
            if work.attempt_at.is_some_and(|at| at <= Instant::now()) {
                // Those that are shown: a reload may have named others than there were at the start.
                let files = way.transport.identity()?.files().clone();
                self.attempt(&way.transport, files, &mut work).await;
            }
        }
    }

    /// Says what is to be said of a certificate; returns how long to wait with its renewal.
    fn look(&self, transport: &Transport, newest: &Identity, work: &mut Work) -> Option<Duration> {
        let (end, now) = (newest.life.1, SystemTime::now());
        if let Some(alarm) = work.expiry.look(end, now) {
            self.tell(alarm, end, now);
        }
        self.prove(transport, newest, work);
        work.pause(newest, now);
        let due_at = work.schedule.as_ref()?.due_at(end);
        if due_at > now {
            work.attempt_at = None;
            return due_at.duration_since(now).ok();
        }
        let soon = || Instant::now() + SOON.mul_f64(fastrand::f64());
        let at = *work.attempt_at.get_or_insert_with(soon);
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Has the session log in with a renewed certificate before it is too late to go back.
    fn prove(&self, transport: &Transport, newest: &Identity, work: &mut Work) {
        let Some(in_use) = transport.identity() else {
            return;
        };
        let left = in_use.life.1.duration_since(SystemTime::now());
        let is_late = left.unwrap_or_default() < LAST_CHANCE;
        let now = Instant::now();
        let was_asked = work
            .logged_in_again_at
            .is_some_and(|at| now < at + LOOK_INTERVAL);
        if is_late && !in_use.is_same(newest) && !was_asked {
            work.logged_in_again_at = Some(now);
            self.publisher.log_in_again();
        }
    }

    fn tell(&self, alarm: Alarm, end: SystemTime, now: SystemTime) {
        let kind = ALARM.to_owned();
        let request = match alarm {
            Alarm::Raise => {
                let until = date(end);
                warn!(until, "the certificate of this gateway ends soon");
                let verb = if end < now { "has expired" } else { "expires" };
                Request::CriticalAlarm {
                    kind,
                    text: format!("The certificate of this gateway {verb} on {}.", day(end)),
                }
            }
            Alarm::Clear => Request::ClearAlarm { kind },
        };
        let payload = encode([&request.to_row()]);
        self.publisher
            .publish(Message::new(self.topic.clone(), payload));
    }

    async fn attempt(&self, transport: &Transport, files: Files, work: &mut Work) {
        let applicant = Applicant {
            transport,
            server: &self.server,
            id: &self.id,
            files: &files,
        };
        let renewed = match self.tokens.authorization().await {
            Ok(token) => {
                let renewed = renew(&applicant, &token).await;
                if let Err(RenewalError::Authority(
                    Fault::Unauthorized(_) | Fault::NotRegistered(_),
                )) = renewed
                {
                    self.tokens.refused(&token);
                }
                renewed
            }
            Err(none) => Err(none.into()),
        };
        match renewed {
            Ok(identity) => {
                info!(
                    until = date(identity.life.1),
                    "the certificate is renewed; the new one is tried at the next login"
                );
                work.renewed(identity);
            }
            Err(error) => work.failed(&error),
        }
    }
}

/// The way to the cloud, and what is heard of logins with the certificate that it shows.
struct Way {
    transport: Transport,
    logins: watch::Receiver<u64>,
}

impl Way {
    /// Takes the newest; `None` where it shows no certificate.
    fn newest(transport: &mut watch::Receiver<Transport>) -> Option<Self> {
        let transport = transport.borrow_and_update().clone();
        let mut logins = transport.logins()?;
        // One that has come already is news.
        if *logins.borrow() > 0 {
            logins.mark_changed();
        }
        Some(Self { transport, logins })
    }
}

/// How far a renewal has come.
struct Work {
    expiry: Expiry,
    schedule: Option<Schedule>,
    /// When the authority is asked, once a renewal is due.
    attempt_at: Option<Instant>,
    back_off: BackOff,
    told: HashSet<Kind>,
    /// The last one that came, while it may have to be said that it does not help.
    renewed: Option<Identity>,
    /// When the session was last asked to try a renewed certificate.
    logged_in_again_at: Option<Instant>,
}

impl Work {
    fn new(renew_before: Option<Duration>) -> Self {
        Self {
            expiry: Expiry::default(),
            schedule: renew_before.map(|before| Schedule::new(before, fastrand::f64())),
            attempt_at: None,
            back_off: BackOff::new(LONGEST_WAIT),
            told: HashSet::new(),
            renewed: None,
            logged_in_again_at: None,
        }
    }

    /// Forgets what has failed.
    fn begin_again(&mut self) {
        self.attempt_at = None;
        self.back_off = BackOff::new(LONGEST_WAIT);
        self.told.clear();
    }

    fn renewed(&mut self, identity: Identity) {
        self.begin_again();
        if let Some(schedule) = &mut self.schedule {
            schedule.renewed(SystemTime::now());
        }
        self.renewed = Some(identity);
    }

    /// Has the next renewal wait where the last ones have not helped, and says so, once for each.
    fn pause(&mut self, newest: &Identity, now: SystemTime) {
        let end = newest.life.1;
        let Some(schedule) = &mut self.schedule else {
            return;
        };
        if !schedule.look(end, now) {
            return;
        }
        let Some(renewed) = self.renewed.take() else {
            return;
        };
        let next = date(schedule.due_at(end));
        match renewed.is_same(newest) {
            true => warn!(
                until = date(end),
                next,
                "the authority's certificates live for less than auth.renew_before; the next renewal \
                 waits"
            ),
            false => warn!(
                file = %renewed.files().renewed().display(),
                next,
                "the renewed certificate is not taken up; the next renewal waits"
            ),
        }
    }

    fn failed(&mut self, error: &RenewalError) {
        let dice = fastrand::f64();
        let retry_in = self.back_off.after_failure(error.fault(), dice);
        self.attempt_at = Some(Instant::now() + retry_in);
        error.log(&mut self.told, retry_in);
    }
}
