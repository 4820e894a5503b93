//! Who is trusted: the roots of this machine, and what the configuration names besides.
//!
//! Others change the roots while adit runs, as a package manager does. They are read again at a reload,
//! and where the issuer of a server is not known. What holds is asked for at each handshake and kept
//! once, so that whoever was connected before keeps nothing of what held then.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::files::Rereader;
use crate::words::failure_reason;

/// How long the roots are taken for what they were where the issuer of a server is not known: whoever
/// answers in the place of a server is no reason to read a disk without end.
const UNKNOWN_ISSUER_INTERVAL: Duration = Duration::from_hours(1);

/// What this machine trusts, as it was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Why some of it could not be read.
    pub(super) fault: Option<String>,
}

/// Finds what this machine trusts, however long that takes.
pub(super) type Source = fn() -> Found;

/// What has become of the roots.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Roots {
    /// They are as they were.
    Same,
    /// There are others.
    Changed,
    /// They could not be read, and the last ones go on.
    NotRead(String),
}

pub(super) struct Trust {
    trusted: RwLock<Trusted>,
    provider: Arc<CryptoProvider>,
    source: Source,
    rereader: Rereader<Roots>,
    /// When the roots were read, or began to be.
    read_at: Mutex<Instant>,
}

struct Trusted {
    /// The machine's first, then those of the configuration.
    roots: Arc<RootCertStore>,
    /// How many are the machine's.
    of_machine: usize,
    /// What the operator trusts by name. A server may show one of these as its own, also where it
    /// is of a CA, as those are that OpenSSL makes by default.
    extra: Vec<CertificateDer<'static>>,
    /// Absent where nobody is trusted, which is not an error before TLS is spoken.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust(..)")
    }
}

impl Trust {
    /// Trusts the machine's roots and `extra`. Roots that cannot be parsed are left out, as other
    /// software on the machine does.
    pub(super) fn new(
        source: Source,
        extra: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(source().certificates);
        Ok(Self {
            trusted: RwLock::new(Trusted::new(roots, extra, provider)?),
            provider: Arc::clone(provider),
            source,
            rereader: Rereader::default(),
            read_at: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn provider(&self) -> &CryptoProvider {
        &self.provider
    }

    pub(super) fn verifier(&self) -> Option<Arc<WebPkiServerVerifier>> {
        self.now().verifier.clone()
    }

    /// Whether the operator trusts this very certificate.
    pub(super) fn is_named(&self, certificate: &CertificateDer<'_>) -> bool {
        let trusted = self.now();
        trusted.extra.iter().any(|extra| extra == certificate)
    }

    /// Trusts `extra` in the place of what the configuration named before.
    pub(super) fn name(&self, extra: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
        let mut trusted = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        let mut roots = RootCertStore::clone(&trusted.roots);
        roots.roots.truncate(trusted.of_machine);
        *trusted = Trusted::new(roots, extra, &self.provider)?;
        Ok(())
    }

    /// Whether it is time to read the roots again because an issuer is not known; that counts as done.
    pub(super) fn is_due(&self) -> bool {
        let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = now.saturating_duration_since(*read_at) >= unknown_issuer_interval();
        if is_due {
            *read_at = now;
        }
        is_due
    }

    /// Reads the roots of this machine again in a thread of its own, and waits for it as long as `limit`.
    /// A thread that takes longer does its work nevertheless. `changed` is called where there are others.
    pub(super) async fn reread(
        self: &Arc<Self>,
        limit: Duration,
        changed: impl FnOnce() + Send + 'static,
    ) -> Roots {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let trust = Arc::clone(self);
        let read = move || {
            let roots = trust.read_again();
            if roots == Roots::Changed {
                changed();
            }
            roots.log();
            roots
        };
        self.rereader
            .read(limit, read)
            .await
            .unwrap_or_else(|error| {
                let roots = Roots::NotRead(failure_reason(&error, usize::MAX));
                roots.log();
                roots
            })
    }

    /// Reads them, however long that takes. Where not all could be read, none is taken away.
    fn read_again(&self) -> Roots {
        let Found {
            certificates,
            fault,
        } = (self.source)();
        let mut found = RootCertStore::empty();
        found.add_parsable_certificates(certificates);
        let mut trusted = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        let old = trusted.roots.roots.get(..trusted.of_machine);
        let old = old.unwrap_or_default();
        if found.is_empty() {
            return match (fault, old.is_empty()) {
                (Some(fault), _) => Roots::NotRead(fault),
                (None, true) => Roots::Same,
                (None, false) => Roots::NotRead("there are none any more".to_owned()),
            };
        }
        let mut roots = RootCertStore::empty();
        if fault.is_some() {
            roots.roots.extend_from_slice(old);
            found.roots.retain(|root| !old.contains(root));
        }
        roots.roots.append(&mut found.roots);
        if roots.roots == old {
            return Roots::Same;
        }
        match Trusted::new(roots, &trusted.extra, &self.provider) {
            Ok(new) => {
                *trusted = new;
                Roots::Changed
            }
            Err(error) => Roots::NotRead(error.to_string()),
        }
    }

    fn now(&self) -> RwLockReadGuard<'_, Trusted> {
        self.trusted.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trusted {
    fn new(
        mut roots: RootCertStore,
        extra: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let of_machine = roots.len();
        roots.add_parsable_certificates(extra.iter().cloned());
        roots.roots.shrink_to_fit();
        let roots = Arc::new(roots);
        let verifier = if roots.is_empty() {
            None
        } else {
            let (roots, provider) = (Arc::clone(&roots), Arc::clone(provider));
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            Some(verifier.map_err(|error| rustls::Error::General(error.to_string()))?)
        };
        Ok(Self {
            roots,
            of_machine,
            extra: extra.to_vec(),
            verifier,
        })
    }
}

impl Roots {
    /// Tells the log.
    pub(super) fn log(&self) {
        match self {
            Self::Same => {}
            Self::Changed => info!(
                "this machine trusts other certificates than before, and adit does so from the next \
                 connection on"
            ),
            Self::NotRead(error) => warn!(
                error,
                "the certificates that this machine trusts cannot be read again; the last ones go on"
            ),
        }
    }
}

/// Reads what this machine trusts; a simulated machine trusts only whom it is told to.
pub(super) fn of_this_machine() -> Found {
    #[cfg(feature = "simulation")]
    if super::tcp::simulated::installed().is_some() {
        return Found::default();
    }
    let read = rustls_native_certs::load_native_certs();
    Found {
        certificates: read.certs,
        fault: read.errors.first().map(ToString::to_string),
    }
}

/// Tests cannot wait for so long; no release can be told anything else.
fn unknown_issuer_interval() -> Duration {
    #[cfg(feature = "simulation")]
    if let Ok(milliseconds) = std::env::var("SIMULATED_HOUR_MS")
        && let Ok(milliseconds) = milliseconds.parse()
    {
        return Duration::from_millis(milliseconds);
    }
    UNKNOWN_ISSUER_INTERVAL
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use tokio::time::advance;

    use super::*;
    use crate::net::ciphers;

    thread_local! {
        static MACHINE: RefCell<Found> = RefCell::default();
    }

    /// What the test says.
    fn machine() -> Found {
        MACHINE.with_borrow(|found| Found {
            certificates: found.certificates.clone(),
            fault: found.fault.clone(),
        })
    }

    fn has(certificates: &[&CertificateDer<'static>], fault: Option<&str>) {
        MACHINE.set(Found {
            certificates: certificates.iter().copied().cloned().collect(),
            fault: fault.map(str::to_owned),
        });
    }

    fn root(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn trust(extra: &[CertificateDer<'static>]) -> Trust {
        Trust::new(machine, extra, &Arc::new(ciphers::provider(true))).unwrap()
    }

    fn count(trust: &Trust) -> (usize, usize) {
        let trusted = trust.now();
        (trusted.of_machine, trusted.roots.len())
    }

    #[test]
    fn trusts_what_the_machine_trusts_now_and_what_is_named_besides() {
        let (one, other, named) = (root("one"), root("other"), root("named"));
        has(&[&one], None);
        let trust = trust(std::slice::from_ref(&named));
        assert_eq!(count(&trust), (1, 2));
        assert_eq!(trust.read_again(), Roots::Same);
        has(&[&one, &other], None);
        assert_eq!(trust.read_again(), Roots::Changed);
        assert_eq!(count(&trust), (2, 3));
        assert!(trust.is_named(&named));
        has(&[&other], None);
        assert_eq!(trust.read_again(), Roots::Changed);
        assert_eq!(count(&trust), (1, 2));
        trust.name(&[]).unwrap();
        assert_eq!(count(&trust), (1, 1));
        assert!(!trust.is_named(&named));
    }

    #[test]
    fn keeps_the_last_roots_where_they_cannot_be_read() {
        let (one, other) = (root("one"), root("other"));
        has(&[], None);
        assert_eq!(trust(&[]).read_again(), Roots::Same);
        has(&[&one], None);
        let trust = trust(&[]);
        has(&[], Some("a disk"));
        assert_eq!(trust.read_again(), Roots::NotRead("a disk".to_owned()));
        has(&[], None);
        let none = "there are none any more".to_owned();
        assert_eq!(trust.read_again(), Roots::NotRead(none));
        let rubbish = CertificateDer::from(vec![1, 2, 3]);
        has(&[&rubbish], None);
        assert!(matches!(trust.read_again(), Roots::NotRead(_)));
        assert_eq!(count(&trust), (1, 1));
        // Half of it was read.
        has(&[&other], Some("a disk"));
        assert_eq!(trust.read_again(), Roots::Changed);
        assert_eq!(count(&trust), (2, 2));
        assert_eq!(trust.read_again(), Roots::Same);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_for_unknown_issuers_no_more_than_once_an_hour() {
        let trust = Arc::new(trust(&[]));
        assert!(!trust.is_due());
        advance(UNKNOWN_ISSUER_INTERVAL).await;
        assert!(trust.is_due());
        assert!(!trust.is_due());
        advance(UNKNOWN_ISSUER_INTERVAL).await;
        // A reload has read them just now.
        drop(trust.reread(Duration::ZERO, || {}).await);
        assert!(!trust.is_due());
    }
}
