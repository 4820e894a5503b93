//! Enrolment: a gateway without a certificate asks the platform's own authority for one until an
//! operator has registered it.
//!
//! The key, and the password that the device is registered with, are on the disk before the first
//! request, so that whatever is registered stays good over a power cut. A certificate that has come
//! is handed out once, so its room on the disk is taken before it is asked for.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

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
use crate::files::{self, Rereader};
use crate::net::identity::{Files, Identity};
use crate::net::{Endpoint, Transport, basic};
use crate::password::Password;
use crate::secret::Secret;
use crate::threads::aside;
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
/// How often it is looked whether somebody else has put a certificate in its place, and how long the
/// disk may take.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const READ_LIMIT: Duration = Duration::from_secs(1);

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
    let own_password = one_time_password::file(files);
    let (key, password) = kept_or_new(authority)?;
    let reservation = Reservation::new(&files.certificate, RESERVED)?;
    let shown = match authority.one_time_password {
        Some(_) => None,
        None => Some(password.read().await),
    };
    let invitation = Invitation::new(enrolment.server, enrolment.id, shown.as_ref());
    show(&invitation);
    let enrolled = async {
        let asking = enrolment.ask_until_issued(&key, &password, &invitation);
        let identity = tokio::select! {
            issued = asking => {
                keep(reservation, files, &issued).await;
                info!(
                    id = enrolment.id,
                    until = date(issued.identity.life.1),
                    file = files.certificate.display().to_string(),
                    "enrolled: the platform has issued a certificate"
                );
                issued.identity
            }
            kept = enrolment.wait_until_kept() => kept,
        };
        if authority.one_time_password.is_none()
            && let Err(error) = fs::remove_file(&own_password)
        {
            debug!(%error, "the one-time password, which is used, stays where it was kept");
        }
        identity
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
        let (mut is_lost, mut is_loss_told) = (false, false);
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
            is_lost |= fault.may_be_a_loss();
            if is_lost && !is_loss_told && matches!(fault, Fault::NotRegistered(_)) {
                is_loss_told = true;
                warn!(
                    error,
                    retry_in_s,
                    "no certificate, and an answer with one may be lost: if the platform has a device of \
                     this id by now, delete it there and register it again"
                );
            } else if !told.insert(fault.kind()) {
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

    /// Waits until there is a certificate that somebody else was given, as `adit enrol` beside this
    /// process, or one that had expired by a clock that was set since.
    async fn wait_until_kept(&self) -> Identity {
        let rereader = Rereader::default();
        loop {
            sleep(LOOK_INTERVAL).await;
            let (files, id) = (self.authority.files.clone(), self.id.to_owned());
            let kept = rereader.read(READ_LIMIT, move || kept_identity(files, &id));
            if let Ok(Some(identity)) = kept.await {
                let until = date(identity.life.1);
                let file = identity.files().certificate.display().to_string();
                info!(until, file, "enrolled: there is a certificate by now");
                return identity;
            }
        }
    }
}

/// Returns the certificate that is kept and can be used, if there is one.
fn kept_identity(files: Files, id: &str) -> Option<Identity> {
    let content = |path: &Path| files::read(path).map(|content| content.bytes).ok();
    let (certificate, key) = (content(&files.certificate)?, content(&files.key)?);
    let identity = Identity::parse(files, &certificate, &key).ok()?;
    let is_good = identity.name() == id && identity.life.1 > SystemTime::now();
    is_good.then(|| identity.issued())
}

/// Returns what is on the disk before the first request: the key, and the password.
fn kept_or_new(authority: &Authority) -> Result<(Key, Password), EnrolmentError> {
    let files = &authority.files;
    // Another process that makes them at the same time would leave a key that no certificate is for.
    let _lock = own_file::lock_beside(&files.key);
    let key = kept_or_new_key(files)?;
    let password = match &authority.one_time_password {
        Some(password) => password.clone(),
        None => Password::new(one_time_password::kept_or_new(&one_time_password::file(
            files,
        ))?),
    };
    Ok((key, password))
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
        failure = match aside(move || own_file::write(&path, &pem)).await {
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    #[test]
    fn has_one_key_and_one_password_however_many_begin_at_once() {
        let name = format!("adit-one-key-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        for _ in 0..20 {
            fs::create_dir_all(&directory).unwrap();
            let authority = Authority {
                files: Files {
                    certificate: directory.join("device.pem"),
                    key: directory.join("device.key"),
                },
                one_time_password: None,
                renew_before: Duration::ZERO,
            };
            let barrier = Arc::new(Barrier::new(3));
            let begun = [(); 3].map(|()| {
                let (authority, barrier) = (authority.clone(), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    let (key, password) = kept_or_new(&authority).unwrap();
                    (key.pem().to_vec(), password.last())
                })
            });
            let kept = begun.map(|thread| thread.join().unwrap());
            assert!(kept[0] == kept[1] && kept[1] == kept[2]);
            assert_eq!(fs::read(&authority.files.key).unwrap(), kept[0].0);
            fs::remove_dir_all(&directory).unwrap();
        }
    }
}
