//! Enrolment: a gateway without a certificate asks the platform's own authority for one until an
//! operator has registered it.
//!
//! The key, and the password that the device is registered with, are on the disk before the first
//! request, so that whatever is registered stays good over a power cut. A certificate that has come
//! is handed out once, so its room on the disk is taken before it is asked for.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::authority::Applicant;
use super::est::key::{Key, KeyFileError};
use super::est::{self, BackOff, Fault, Issued};
use super::invitation::Invitation;
use super::one_time_password::{self, NoPassword};
use super::own_file::{self, Reservation, WriteError};
use super::settings::Authority;
use crate::files;
use crate::net::identity::{Files, Identity};
use crate::net::{Endpoint, Transport, basic};
use crate::password::Password;
use crate::secret::Secret;
use crate::words::{date, failure_reason, seconds};

/// Bytes that are reserved for a certificate and its chain: the longest answer, in PEM.
const RESERVED: usize = est::LIMITS.body * 3 / 2;
/// Longest wait between two requests: a person stands beside the gateway.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How often the log repeats what the operator has to do.
const REMINDER_INTERVAL: Duration = Duration::from_mins(5);
/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;
/// Time before a certificate that could not be kept is written again; it doubles each time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// Who is to be enrolled, and where.
pub(crate) struct Enrolment<'a> {
    /// How the authority is used.
    pub authority: &'a Authority,
    /// The device id.
    pub id: &'a str,
    /// The platform.
    pub server: &'a Endpoint,
    /// Goes the way of the tunnels.
    pub transport: &'a Transport,
}

/// Why a gateway cannot be enrolled: something is wrong with this machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolmentError {
    /// There is no key that can be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// There is no place for what adit has to keep.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// There is no password.
    #[error(transparent)]
    Password(#[from] NoPassword),
}

/// Has a certificate issued, and keeps it in its file; `None` if it is to stop before.
///
/// `show` is called once, with what a person has to do.
///
/// # Errors
/// Something is wrong with this machine, before anything was asked.
pub(crate) async fn run(
    enrolment: &Enrolment<'_>,
    show: impl FnOnce(&Invitation),
    stop: &CancellationToken,
) -> Result<Option<Identity>, EnrolmentError> {
    let authority = enrolment.authority;
    let files = &authority.files;
    let key = kept_or_new_key(files)?;
    let own_password = one_time_password::file(files);
    let password = match &authority.one_time_password {
        Some(password) => password.clone(),
        None => Password::new(one_time_password::kept_or_new(&own_password)?),
    };
    let reservation = Reservation::new(&files.certificate, RESERVED)?;
    let shown = match authority.one_time_password {
        Some(_) => None,
        None => Some(password.read().await),
    };
    let invitation = Invitation::new(enrolment.server, enrolment.id, shown.as_ref());
    show(&invitation);
    let enrolled = async {
        let issued = enrolment
            .ask_until_issued(&key, &password, &invitation)
            .await;
        keep(reservation, files, &issued).await;
        info!(
            id = enrolment.id,
            until = date(issued.identity.life.1),
            file = files.certificate.display().to_string(),
            "enrolled: the platform has issued a certificate"
        );
        if authority.one_time_password.is_none()
            && let Err(error) = fs::remove_file(&own_password)
        {
            debug!(%error, "the one-time password, which is used, stays where it was kept");
        }
        issued.identity
    };
    tokio::select! {
        identity = enrolled => Ok(Some(identity)),
        () = stop.cancelled() => Ok(None),
    }
}

impl Enrolment<'_> {
    async fn ask_until_issued(
        &self,
        key: &Key,
        password: &Password,
        invitation: &Invitation,
    ) -> Issued {
        let applicant = Applicant {
            transport: self.transport,
            server: self.server,
            id: self.id,
            files: &self.authority.files,
        };
        let mut back_off = BackOff::new(LONGEST_WAIT);
        let mut told = HashSet::new();
        let mut reminder = Reminder::default();
        loop {
            reminder.show_if_due(invitation);
            let authorization: Secret = basic(self.id, &password.read().await);
            let fault = match applicant.ask(est::ENROL, &authorization, key).await {
                Ok(issued) => return issued,
                Err(fault) => fault,
            };
            let retry_in = back_off.after(&fault, fastrand::f64());
            let error = failure_reason(&fault, LOGGED_REASON_LIMIT);
            let retry_in_s = seconds(retry_in);
            if !told.insert(fault.kind()) {
                debug!(error, retry_in_s, "still without a certificate");
            } else {
                match fault {
                    Fault::NotRegistered(_) => info!(
                        error,
                        "not registered yet; if a device of this id exists already, delete it or \
                         set another device.id"
                    ),
                    Fault::Unauthorized(_) => warn!(
                        error,
                        retry_in_s,
                        "no certificate: is the device registered with this one-time password?"
                    ),
                    _ => warn!(error, retry_in_s, "no certificate yet"),
                }
            }
            sleep(retry_in).await;
        }
    }
}

fn kept_or_new_key(files: &Files) -> Result<Key, EnrolmentError> {
    let path = &files.key;
    match files::read_at_start(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = Key::generate().map_err(|source| KeyFileError::Unusable {
                path: path.clone(),
                source,
            })?;
            own_file::write(path, key.pem())?;
            Ok(key)
        }
        read => Ok(Key::in_file(path, read)?),
    }
}

/// Writes a certificate to its place, again and again until that has worked: the platform does not
/// hand it out once more.
async fn keep(reservation: Reservation, files: &Files, issued: &Issued) {
    let mut failure = match reservation.fill(&issued.pem) {
        Ok(()) => return,
        Err(error) => failure_reason(&error, LOGGED_REASON_LIMIT),
    };
    let mut retry_in = FIRST_RETRY;
    loop {
        warn!(
            error = failure,
            retry_in_s = seconds(retry_in),
            "the certificate is not kept; adit goes on once it is"
        );
        sleep(retry_in).await;
        retry_in = (retry_in * 2).min(LONGEST_RETRY);
        let (path, pem) = (files.certificate.clone(), issued.pem.clone());
        // A disk may take its time, and a signal must still be heard.
        failure = match spawn_blocking(move || own_file::write(&path, &pem)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => failure_reason(&error, LOGGED_REASON_LIMIT),
            Err(error) => error.to_string(),
        };
    }
}

/// Repeats in the log what a person has to do.
#[derive(Default)]
struct Reminder {
    next: Option<Instant>,
}

impl Reminder {
    fn show_if_due(&mut self, invitation: &Invitation) {
        let now = Instant::now();
        if self.next.is_none_or(|next| next <= now) {
            self.next = Some(now + REMINDER_INTERVAL);
            info!(
                id = invitation.id,
                link = invitation.link,
                "waiting to be enrolled: {}",
                invitation.instruction()
            );
        }
    }
}
