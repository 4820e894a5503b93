//! A certificate that was renewed is tried at a login before it takes the place of the old one.
//!
//! The platform may refuse what its own authority has issued, as while an authority is changed. The
//! new one stands beside the old one until a login with it has worked; where the broker refuses it
//! and takes the old one, it is set aside. What is shown at which login is decided in [`Trial`],
//! without I/O.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::identity::Identity;
use crate::files::Rereader;
use crate::words::{date, failure_reason, words};

/// How long a login waits for the disk.
const DISK_LIMIT: Duration = Duration::from_secs(1);
/// Logins that end without a word before they count as a refusal: a network ends some, too.
const UNCERTAIN_REFUSALS: u32 = 3;

/// Which certificate a login shows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Shown {
    #[default]
    Proven,
    Renewed,
}

/// What a login has shown of the renewed certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Nothing,
    /// It works.
    Proven,
    /// The broker refuses it, and takes the old one.
    Refused,
}

/// Tries a renewed certificate. While both are refused, they take turns.
#[derive(Debug, Default)]
struct Trial {
    shown: Shown,
    refusals: u32,
}

impl Trial {
    fn is_doubted(&self) -> bool {
        self.refusals >= UNCERTAIN_REFUSALS
    }

    fn choose(&mut self, has_renewed: bool) -> Shown {
        self.shown = match has_renewed && !self.is_doubted() {
            true => Shown::Renewed,
            false => Shown::Proven,
        };
        self.shown
    }

    fn accepted(&mut self) -> Verdict {
        let verdict = match self.shown {
            Shown::Renewed => Verdict::Proven,
            Shown::Proven if self.is_doubted() => Verdict::Refused,
            Shown::Proven => Verdict::Nothing,
        };
        self.refusals = 0;
        verdict
    }

    fn refused(&mut self, is_certain: bool) {
        self.refusals = match (self.shown, is_certain) {
            (Shown::Proven, _) => 0,
            (Shown::Renewed, true) => UNCERTAIN_REFUSALS,
            (Shown::Renewed, false) => self.refusals + 1,
        };
    }
}

/// What is there of a renewed certificate.
type Read = Result<Option<Identity>, String>;

/// The renewed certificate of an identity, and the logins that it is tried at.
pub(super) struct Renewals {
    rereader: Rereader<Read>,
    state: Mutex<State>,
    /// Counts logins that worked.
    logins: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    trial: Trial,
    renewed: Option<(Identity, Arc<ClientConfig>)>,
    /// Why the file was no good the last time; said once.
    complaint: Option<String>,
}

impl Renewals {
    pub(super) fn new() -> Self {
        Self {
            rereader: Rereader::default(),
            state: Mutex::default(),
            logins: watch::Sender::new(0),
        }
    }

    pub(super) fn logins(&self) -> watch::Receiver<u64> {
        self.logins.subscribe()
    }

    /// Returns the renewed certificate, if there is one that can be used.
    pub(super) async fn renewed(&self, proven: &Identity) -> Option<Identity> {
        let own = proven.clone();
        let read = self.rereader.read(DISK_LIMIT, move || own.read_renewed());
        let read = read.await;
        let mut state = self.lock();
        match read.unwrap_or_else(|error| Err(failure_reason(&error, usize::MAX))) {
            Ok(renewed) => {
                state.complaint = None;
                renewed
            }
            Err(complaint) => {
                if state.complaint.as_ref() != Some(&complaint) {
                    warn!(
                        error = complaint,
                        "the renewed certificate cannot be used; the last one goes on"
                    );
                }
                state.complaint = Some(complaint);
                None
            }
        }
    }

    /// Returns what to show at the next login where that is the renewed certificate.
    pub(super) async fn for_login(
        &self,
        proven: &Identity,
        make: impl FnOnce(&Identity) -> Arc<ClientConfig>,
    ) -> Option<Arc<ClientConfig>> {
        let renewed = self.renewed(proven).await;
        let mut state = self.lock();
        let is_new = match (&renewed, &state.renewed) {
            (Some(renewed), Some((known, _))) => !renewed.is_same(known),
            (renewed, known) => renewed.is_some() || known.is_some(),
        };
        if is_new {
            state.trial = Trial::default();
            state.renewed = renewed.map(|renewed| {
                let config = make(&renewed);
                (renewed, config)
            });
        }
        let has_renewed = state.renewed.is_some();
        match state.trial.choose(has_renewed) {
            Shown::Renewed => state.renewed.as_ref().map(|(_, config)| Arc::clone(config)),
            Shown::Proven => None,
        }
    }

    /// Tells of a login that worked, once all that follows from it is done: whoever hears of it looks
    /// at what certificates there are.
    pub(super) fn tell_of_login(&self) {
        self.logins.send_modify(|count| *count += 1);
    }

    /// Takes note of a login that worked; returns what has proven itself and is to be used from now
    /// on.
    pub(super) async fn accepted(&self) -> Option<(Identity, Arc<ClientConfig>)> {
        let (verdict, renewed) = {
            let mut state = self.lock();
            match state.trial.accepted() {
                Verdict::Nothing => return None,
                verdict => (verdict, state.renewed.take()?),
            }
        };
        let files = renewed.0.files().clone();
        let until = date(renewed.0.life.1);
        let (from, to) = match verdict {
            Verdict::Proven => (files.renewed(), files.certificate),
            _ => (files.renewed(), files.refused()),
        };
        let shown = to.display().to_string();
        match (verdict, move_file(from, to, sync_directory).await) {
            (Verdict::Proven, Ok(())) => info!(
                until,
                "the broker takes the renewed certificate; it is used from now on"
            ),
            (Verdict::Proven, Err(error)) => warn!(
                error,
                file = shown,
                "the renewed certificate works, but cannot take the place of the old one yet"
            ),
            (_, Ok(())) => warn!(
                until,
                file = shown,
                "the broker refuses the renewed certificate; it is set aside, and the old one goes \
                 on"
            ),
            (_, Err(error)) => warn!(
                error,
                file = shown,
                "the broker refuses the renewed certificate, which cannot be set aside"
            ),
        }
        (verdict == Verdict::Proven).then_some(renewed)
    }

    /// Takes note of a login that did not work; `is_certain`: it is adit that was refused.
    pub(super) fn refused(&self, is_certain: bool) {
        self.lock().trial.refused(is_certain);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves a file within its directory, and has `sync` bring that to the disk. That may take seconds on a
/// busy one, and is not waited for: after a power cut before its end the file is where it was, and is
/// tried again.
async fn move_file(
    from: PathBuf,
    to: PathBuf,
    sync: impl FnOnce(&Path) + Send + 'static,
) -> Result<(), String> {
    let (sender, moved) = oneshot::channel();
    let moving = thread::Builder::new().spawn(move || {
        let renamed = fs::rename(&from, &to);
        let is_moved = renamed.is_ok();
        // Whoever waited may have given up.
        let _ = sender.send(renamed);
        if is_moved {
            sync(&to);
        }
    });
    moving.map_err(|error| words(&error))?;
    match timeout(DISK_LIMIT, moved).await {
        Ok(Ok(renamed)) => renamed.map_err(|error| words(&error)),
        Ok(Err(_)) | Err(_) => Err("the disk does not answer".to_owned()),
    }
}

/// Brings what was changed of the directory of a file to the disk.
fn sync_directory(file: &Path) {
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let synced = File::open(directory.unwrap_or(Path::new("."))).and_then(|it| it.sync_all());
    if let Err(error) = synced {
        warn!(
            error = words(&error),
            file = %file.display(),
            "the disk has not confirmed that a certificate has another name now"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens at a login.
    enum Login {
        Works,
        IsRefused,
        Breaks,
    }
    use Login::{Breaks, IsRefused, Works};

    #[test]
    fn shows_the_renewed_one_until_the_broker_refuses_it_and_takes_the_old_one() {
        let (old, new) = (Shown::Proven, Shown::Renewed);
        let nothing = Verdict::Nothing;
        let tried: [&[_]; 6] = [
            &[(Works, new, Verdict::Proven)],
            &[(IsRefused, new, nothing), (Works, old, Verdict::Refused)],
            // A network that breaks twice says nothing of a certificate.
            &[
                (Breaks, new, nothing),
                (Breaks, new, nothing),
                (Works, new, Verdict::Proven),
            ],
            &[
                (Breaks, new, nothing),
                (Breaks, new, nothing),
                (Breaks, new, nothing),
                (Works, old, Verdict::Refused),
            ],
            // Nobody is let in.
            &[
                (IsRefused, new, nothing),
                (IsRefused, old, nothing),
                (IsRefused, new, nothing),
                (Breaks, old, nothing),
                (Works, new, Verdict::Proven),
            ],
            &[
                (Breaks, new, nothing),
                (IsRefused, new, nothing),
                (Works, old, Verdict::Refused),
            ],
        ];
        for (row, logins) in tried.iter().enumerate() {
            let mut trial = Trial::default();
            for (at, (login, shown, verdict)) in logins.iter().enumerate() {
                assert_eq!(trial.choose(true), *shown, "row {row}, login {at}");
                let found = match login {
                    Works => trial.accepted(),
                    IsRefused | Breaks => {
                        trial.refused(matches!(login, IsRefused));
                        nothing
                    }
                };
                assert_eq!(found, *verdict, "row {row}, login {at}");
            }
        }
    }

    #[tokio::test]
    async fn waits_for_no_disk_that_is_slow_to_confirm() {
        let directory = std::env::temp_dir().join(format!("adit-renewals-{}", fastrand::u64(..)));
        fs::create_dir_all(&directory).unwrap();
        let (from, to) = (directory.join("renewed.pem"), directory.join("device.pem"));
        fs::write(&from, "new").unwrap();
        let (confirm, confirmed) = std::sync::mpsc::channel::<()>();
        let sync = move |_: &Path| {
            let _ = confirmed.recv();
        };
        assert_eq!(move_file(from.clone(), to.clone(), sync).await, Ok(()));
        assert_eq!(fs::read_to_string(&to).unwrap(), "new");
        drop(confirm);
        let moved = move_file(from, to, |_| unreachable!("nothing was moved")).await;
        assert_eq!(moved, Err("no such file or directory".to_owned()));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn shows_the_only_one_that_there_is() {
        let mut trial = Trial::default();
        for _ in 0..10 {
            assert_eq!(trial.choose(false), Shown::Proven);
            trial.refused(true);
        }
        assert_eq!(trial.accepted(), Verdict::Nothing);
    }
}
