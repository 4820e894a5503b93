//! A certificate that was renewed is tried at a login before it takes the place of the old one.
//!
//! The platform may refuse what its own authority has issued, as while an authority is changed. The
//! new one stands beside the old one until a login with it has worked; where the broker refuses it
//! and takes the old one, it is set aside. A broker that ends logins without a word may have meant
//! anything, and what is between adit and it as well: the new one gets another chance then. What is
//! shown at which login is decided in [`Trial`], without I/O.

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
/// Logins that end without a word before the old one is shown: a network ends some, too.
const SILENT_REFUSALS: u32 = 3;
/// How often in a row the old one has to work behind so many before the renewed one is set aside: an
/// outage may end just when it is the old one's turn.
const DOUBTS: u32 = 2;

/// Why a login did not work, as far as it is about who adit is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// The broker says that it is.
    Certain,
    /// The connection has ended when the broker had seen it, without a word of that.
    Perhaps,
}

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
    /// The old one works where this one did not, which may be chance.
    Doubted,
    /// The broker refuses it, and takes the old one.
    Refused,
}

/// Tries a renewed certificate. While both are refused, they take turns.
#[derive(Debug, Default)]
struct Trial {
    shown: Shown,
    refused: Refused,
    /// How often in a row the old one has worked where the renewed one had not.
    doubts: u32,
}

/// How the last logins with the renewed certificate were refused, since another one was shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refused {
    /// So often, without a word.
    Silently(u32),
    Certainly,
}

impl Default for Refused {
    fn default() -> Self {
        Self::Silently(0)
    }
}

impl Trial {
    /// Whether it is the old one's turn.
    fn is_over(&self) -> bool {
        match self.refused {
            Refused::Silently(count) => count >= SILENT_REFUSALS,
            Refused::Certainly => true,
        }
    }

    fn choose(&mut self, has_renewed: bool) -> Shown {
        self.shown = match has_renewed && !self.is_over() {
            true => Shown::Renewed,
            false => Shown::Proven,
        };
        self.shown
    }

    fn accepted(&mut self) -> Verdict {
        let verdict = match (self.shown, self.refused) {
            (Shown::Renewed, _) => Verdict::Proven,
            (Shown::Proven, Refused::Certainly) => Verdict::Refused,
            (Shown::Proven, _) if !self.is_over() => Verdict::Nothing,
            (Shown::Proven, _) if self.doubts + 1 >= DOUBTS => Verdict::Refused,
            (Shown::Proven, _) => Verdict::Doubted,
        };
        *self = match verdict {
            Verdict::Doubted => Self {
                doubts: self.doubts + 1,
                ..Self::default()
            },
            _ => Self::default(),
        };
        verdict
    }

    fn refused(&mut self, refusal: Refusal) {
        match (self.shown, refusal, self.refused) {
            // Nobody is let in, so nothing is known of either.
            (Shown::Proven, ..) => *self = Self::default(),
            (_, Refusal::Perhaps, Refused::Silently(count)) => {
                self.refused = Refused::Silently(count + 1);
            }
            (_, Refusal::Certain, _) | (.., Refused::Certainly) => {
                self.refused = Refused::Certainly;
            }
        }
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
        // What is in use already has only its place to take, whatever becomes of a login.
        let is_in_use = renewed.as_ref().is_some_and(|it| it.is_same(proven));
        if is_new || is_in_use {
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
                Verdict::Doubted => {
                    warn!(
                        "the broker takes the old certificate where logins with the renewed one \
                         ended without a word; the renewed one is tried again at the next login"
                    );
                    return None;
                }
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
                "a login has worked; the renewed certificate is used from now on"
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

    /// Takes note of a login that did not work, perhaps for who adit is.
    pub(super) fn refused(&self, refusal: Refusal) {
        self.lock().trial.refused(refusal);
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

    /// Three logins that end without a word, and one with the old certificate.
    fn round(last: Login, verdict: Verdict) -> Vec<(Login, Shown, Verdict)> {
        let breaks = || (Breaks, Shown::Renewed, Verdict::Nothing);
        vec![breaks(), breaks(), breaks(), (last, Shown::Proven, verdict)]
    }

    /// Has a trial go through rounds, and then through one more login.
    fn goes_on(rounds: Vec<Vec<(Login, Shown, Verdict)>>, last: (Login, Shown, Verdict)) {
        let mut trial = Trial::default();
        for (at, login) in rounds.into_iter().flatten().chain([last]).enumerate() {
            happens(&mut trial, &login, &format!("login {at}"));
        }
    }

    fn happens(trial: &mut Trial, (login, shown, verdict): &(Login, Shown, Verdict), at: &str) {
        assert_eq!(trial.choose(true), *shown, "{at}");
        let found = match login {
            Works => trial.accepted(),
            IsRefused => {
                trial.refused(Refusal::Certain);
                Verdict::Nothing
            }
            Breaks => {
                trial.refused(Refusal::Perhaps);
                Verdict::Nothing
            }
        };
        assert_eq!(found, *verdict, "{at}");
    }

    #[test]
    fn tries_the_renewed_one_again_after_an_outage_that_ended_at_the_old_ones_turn() {
        let works = (Works, Shown::Renewed, Verdict::Proven);
        goes_on(vec![round(Works, Verdict::Doubted)], works);
    }

    #[test]
    fn sets_the_renewed_one_aside_that_fails_again_while_the_old_one_keeps_working() {
        let rounds = vec![
            round(Works, Verdict::Doubted),
            round(Works, Verdict::Refused),
        ];
        // Whatever comes then is another one.
        goes_on(rounds, (Works, Shown::Renewed, Verdict::Proven));
    }

    #[test]
    fn doubts_nothing_any_more_where_the_old_one_fails_too() {
        let rounds = vec![
            round(Works, Verdict::Doubted),
            round(Breaks, Verdict::Nothing),
            round(Works, Verdict::Doubted),
            round(IsRefused, Verdict::Nothing),
            round(Works, Verdict::Doubted),
        ];
        goes_on(rounds, (Works, Shown::Renewed, Verdict::Proven));
    }

    #[test]
    fn believes_a_word_of_the_broker_also_behind_doubts() {
        let mut rounds = vec![round(Works, Verdict::Doubted)];
        rounds.push(vec![
            (Breaks, Shown::Renewed, Verdict::Nothing),
            (IsRefused, Shown::Renewed, Verdict::Nothing),
        ]);
        goes_on(rounds, (Works, Shown::Proven, Verdict::Refused));
    }

    #[test]
    fn ends_with_the_one_that_works_after_few_logins() {
        // Whichever of the two a broker takes, by a word or without.
        for (takes_new, refuses) in [(true, Breaks), (false, Breaks), (false, IsRefused)] {
            let (mut trial, mut refusals) = (Trial::default(), 0);
            let mut verdict = Verdict::Nothing;
            while !matches!(verdict, Verdict::Proven | Verdict::Refused) {
                let is_taken = (trial.choose(true) == Shown::Renewed) == takes_new;
                match (is_taken, &refuses) {
                    (true, _) => verdict = trial.accepted(),
                    (false, IsRefused) => trial.refused(Refusal::Certain),
                    (false, _) => trial.refused(Refusal::Perhaps),
                }
                refusals += u32::from(!is_taken);
                assert!(refusals <= SILENT_REFUSALS * DOUBTS, "{refusals} logins");
            }
            assert_eq!(verdict == Verdict::Proven, takes_new);
        }
    }

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
                (Works, old, Verdict::Doubted),
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
            for (at, login) in logins.iter().enumerate() {
                happens(&mut trial, login, &format!("row {row}, login {at}"));
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
            trial.refused(Refusal::Certain);
        }
        assert_eq!(trial.accepted(), Verdict::Nothing);
    }
}
