//! TLS: what is trusted, who adit is, and a failed handshake in words.
//!
//! Trust is decided by rustls alone. What it says of a certificate that it refuses is little, so
//! the names and dates are looked up at the one moment when the certificate is at hand.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, CommonState, DigitallySignedStruct,
    OtherError, SignatureScheme,
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::address::Endpoint;
use super::certificate::{Certificate, system_time};
use super::ciphers;
use super::identity::Identity;
use super::journal::Seen;
use super::renewals::{Refusal, Renewals};
use super::resumption::Sessions;
use super::trust::{self, Roots, Source, Trust};
use crate::files::Rereader;
use crate::words::{date, failure_reason, legible, words};

/// Why there is no TLS with a server, as a clause behind its name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsFault {
    /// A certificate's life is over.
    #[error("its certificate has expired, unless this machine's clock is wrong: now is {}, and the certificate is {seen}", date(*now))]
    Expired {
        /// The time of this machine.
        now: SystemTime,
        /// The certificate.
        seen: Box<Certificate>,
    },
    /// A certificate's life has not begun.
    #[error("its certificate is not valid yet, unless this machine's clock is wrong: now is {}, and the certificate is {seen}", date(*now))]
    NotYet {
        /// The time of this machine.
        now: SystemTime,
        /// The certificate.
        seen: Box<Certificate>,
    },
    /// The certificate does not name the host.
    #[error("its certificate is not for {asked}: it is {seen}")]
    OtherName {
        /// The host that was asked for.
        asked: String,
        /// The certificate.
        seen: Box<Certificate>,
    },
    /// Nobody who is trusted has issued the certificate.
    #[error("its certificate comes from an issuer that is not trusted: it is {seen}; {}", remedy(*has_roots))]
    UnknownIssuer {
        /// The certificate.
        seen: Box<Certificate>,
        /// Whether anybody is trusted.
        has_roots: bool,
    },
    /// The certificate of a CA, used by a server.
    #[error(
        "its certificate is one of a CA, which a server cannot have: it is {seen}{}",
        pin(seen)
    )]
    Authority {
        /// The certificate.
        seen: Box<Certificate>,
    },
    /// Something else is wrong with the certificate.
    #[error("its certificate is refused ({cause}): it is {seen}")]
    Refused {
        /// What the TLS library says.
        cause: String,
        /// The certificate.
        seen: Box<Certificate>,
    },
    /// The certificate is nonsense.
    #[error("its certificate cannot be parsed")]
    Unreadable,
    /// The server wants to know who adit is.
    #[error("the server wants a client certificate: set auth.cert_file and auth.key_file")]
    CertificateWanted,
    /// The server does not like who adit is.
    #[error("the server refused the client certificate of this device: {0}")]
    CertificateRefused(&'static str),
    /// An alert of another kind.
    #[error("the server ended the handshake with the TLS alert '{0:?}'")]
    Alert(AlertDescription),
    /// Something else is spoken there.
    #[error("what it answers is not TLS; check the port, and whether TLS is to be spoken at all")]
    NoTls,
    /// The stream ended.
    #[error(
        "it closed the connection during the handshake, as a server does that speaks no TLS on \
         this port or wants a client certificate"
    )]
    Closed,
    /// The connection was reset, as by a server that has not read what it does not understand.
    #[error(
        "the connection was reset during the handshake, as by a server that speaks no TLS on this \
         port, or by a firewall"
    )]
    Reset,
    /// The connection broke, or something that happens rarely.
    #[error("{0}")]
    Other(String),
}

/// What is trusted, and who adit is.
pub(super) struct Tls {
    /// Shows no certificate.
    anonymous: Arc<ClientConfig>,
    own: Option<Mutex<Own>>,
    trust: Arc<Trust>,
    rereader: Rereader<Reread>,
    /// Where adit renews the certificate itself.
    renewals: Renewals,
    sessions: Arc<Sessions>,
    /// Whether AES is done by instructions of the processor.
    has_aes: bool,
}

/// The identity where it has changed, or why the files are no good.
type Reread = Result<Option<Identity>, String>;

/// How long a handshake waits for the files of the identity. They are there already, so that the
/// last good ones go on where a disk takes longer.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// The identity in use.
#[derive(Debug)]
struct Own {
    identity: Identity,
    config: Arc<ClientConfig>,
    /// Why the files were no good the last time; said once.
    complaint: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the machine's roots and `extra`. Roots that cannot be parsed are left out, as other
    /// software on the machine does.
    pub(super) fn new(extra: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        Self::for_machine(trust::of_this_machine, extra, ciphers::has_aes())
    }

    /// Does so on a machine that trusts other roots, or has another processor.
    pub(super) fn for_machine(
        roots: Source,
        extra: &[CertificateDer<'static>],
        has_aes: bool,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(ciphers::provider(has_aes));
        let trust = Arc::new(Trust::new(roots, extra, &provider)?);
        let judge = Judge {
            trust: Arc::clone(&trust),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_no_client_auth();
        Ok(Self {
            anonymous: Arc::new(config),
            own: None,
            trust,
            rereader: Rereader::default(),
            renewals: Renewals::new(),
            sessions: Arc::default(),
            has_aes,
        })
    }

    /// Shows a certificate to the servers that want one. Who is trusted stays common to both.
    pub(super) fn with_identity(&self, identity: Identity) -> Self {
        let config = self.config_with(&identity);
        Self {
            anonymous: Arc::clone(&self.anonymous),
            own: Some(Mutex::new(Own {
                identity,
                config,
                complaint: None,
            })),
            trust: Arc::clone(&self.trust),
            rereader: Rereader::default(),
            renewals: Renewals::new(),
            sessions: Arc::clone(&self.sessions),
            has_aes: self.has_aes,
        }
    }

    /// Trusts `extra` from the next handshake on, in the place of what was trusted besides the roots.
    pub(super) fn trust(&self, extra: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
        self.trust.name(extra)?;
        self.sessions.forget();
        Ok(())
    }

    /// Reads the roots of this machine again.
    pub(super) async fn reread_roots(&self, limit: Duration) -> Roots {
        // A simulated machine has none, and no threads.
        #[cfg(feature = "simulation")]
        if super::tcp::simulated::installed().is_some() {
            return Roots::Same;
        }
        let sessions = Arc::clone(&self.sessions);
        self.trust.reread(limit, move || sessions.forget()).await
    }

    /// Reads the roots of this machine again where they may be what a handshake failed for.
    pub(super) async fn doubt_roots(&self, fault: &TlsFault) {
        let may_be = matches!(
            fault,
            // The latter where an issuer of the same name has another key.
            TlsFault::UnknownIssuer { .. } | TlsFault::Refused { .. }
        );
        if may_be && self.trust.is_due() {
            self.reread_roots(READ_LIMIT).await;
        }
    }

    /// When the certificate in use expires, if there is one.
    pub(super) fn identity_ends(&self) -> Option<SystemTime> {
        let own = self.own.as_ref()?;
        Some(lock(own).identity.life.1)
    }

    /// For a proxy, whose business it is not who adit is to the platform.
    pub(super) fn anonymous(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.anonymous)
    }

    /// For a server: [`Tls::current`], and sessions with it are taken up again.
    pub(super) async fn for_server(&self, server: &Endpoint) -> Arc<ClientConfig> {
        self.sessions.with(&self.current().await, server)
    }

    /// For a login at the broker: like [`Tls::for_server`], or with a renewed certificate that has to
    /// prove itself.
    pub(super) async fn for_login(&self, server: &Endpoint) -> Arc<ClientConfig> {
        let proven = self.current().await;
        let renewed = match self.identity() {
            Some(identity) => {
                let make = |renewed: &Identity| self.config_with(renewed);
                self.renewals.for_login(&identity, make).await
            }
            None => None,
        };
        self.sessions.with(&renewed.unwrap_or(proven), server)
    }

    /// Takes note of a login that worked. Where it was without TLS, no login ever shows what was renewed, and
    /// there is nothing to wait for.
    pub(super) async fn login_accepted(&self, server: &Endpoint) {
        if !server.tls {
            let _ = self.for_login(server).await;
        }
        if let Some(own) = &self.own
            && let Some((identity, config)) = self.renewals.accepted().await
        {
            let mut own = lock(own);
            own.identity = identity;
            own.config = config;
        }
        self.renewals.tell_of_login();
    }

    /// Takes note of a login that did not work, perhaps for who adit is.
    pub(super) fn login_refused(&self, refusal: Refusal) {
        self.renewals.refused(refusal);
    }

    /// Counts logins that worked; `None` where no certificate is shown.
    pub(super) fn logins(&self) -> Option<watch::Receiver<u64>> {
        self.own.as_ref().map(|_| self.renewals.logins())
    }

    /// Returns the renewed certificate if there is one, else the one in use.
    pub(super) async fn newest_identity(&self) -> Option<Identity> {
        let identity = self.identity()?;
        let renewed = self.renewals.renewed(&identity).await;
        Some(renewed.unwrap_or(identity))
    }

    /// Returns the certificate in use.
    pub(super) fn identity(&self) -> Option<Identity> {
        Some(lock(self.own.as_ref()?).identity.clone())
    }

    /// Returns what there was to see at a handshake.
    pub(super) fn seen(&self, connection: &CommonState) -> Option<Seen> {
        let chain = connection.peer_certificates()?.iter();
        let suite = connection.negotiated_cipher_suite()?;
        let version = connection.protocol_version();
        Some(Seen::Tls {
            chain: chain.filter_map(|der| Certificate::read(der)).collect(),
            agreed: ciphers::in_words(version, suite, self.has_aes),
        })
    }

    /// With the certificate as it is on the disk now.
    ///
    /// A disk that hangs costs [`READ_LIMIT`] once, and a thread.
    pub(super) async fn current(&self) -> Arc<ClientConfig> {
        self.current_by(|identity| identity.read_again()).await
    }

    pub(super) async fn current_by(
        &self,
        read: impl FnOnce(Identity) -> Reread + Send + 'static,
    ) -> Arc<ClientConfig> {
        let Some(own) = &self.own else {
            return self.anonymous();
        };
        let identity = lock(own).identity.clone();
        let read = self.rereader.read(READ_LIMIT, || read(identity)).await;
        let mut own = lock(own);
        match read.unwrap_or_else(|error| Err(failure_reason(&error, usize::MAX))) {
            // Others that wait for the same read may have taken it already.
            Ok(Some(renewed)) if !renewed.is_same(&own.identity) => {
                info!(
                    name = renewed.name(),
                    until = date(renewed.life.1),
                    "the renewed client certificate is used from now on"
                );
                own.config = self.config_with(&renewed);
                own.identity = renewed;
                own.complaint = None;
            }
            Ok(_) => own.complaint = None,
            Err(complaint) => {
                if own.complaint.as_ref() != Some(&complaint) {
                    warn!(
                        error = complaint,
                        "the client certificate on the disk cannot be used; the last one goes on"
                    );
                }
                own.complaint = Some(complaint);
            }
        }
        Arc::clone(&own.config)
    }

    fn config_with(&self, identity: &Identity) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.anonymous);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(identity.pair()));
        Arc::new(config)
    }
}

fn lock(own: &Mutex<Own>) -> MutexGuard<'_, Own> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks rustls about a certificate, and puts into words what it refuses.
#[derive(Debug)]
struct Judge {
    trust: Arc<Trust>,
}

impl Judge {
    /// Judges a certificate that is trusted itself by its names and dates. That the server has its
    /// key is shown later in the handshake, as for every other.
    fn judge_pinned(
        certificate: &CertificateDer<'_>,
        asked: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_name(&ParsedCertificate::try_from(certificate)?, asked)?;
        let life = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
        let clock = system_time(now.as_secs());
        if clock > life.not_after {
            return Err(CertificateError::Expired.into());
        }
        if clock < life.not_before {
            return Err(CertificateError::NotValidYet.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn fault(
        &self,
        cause: CertificateError,
        chain: &[&CertificateDer<'_>],
        asked: &ServerName<'_>,
        now: UnixTime,
    ) -> TlsFault {
        let chain: Vec<_> = chain
            .iter()
            .filter_map(|der| Certificate::read(der))
            .collect();
        let Some(leaf) = chain.first().cloned() else {
            return TlsFault::Unreadable;
        };
        // The one of the chain that a date belongs to.
        let dated = |is_it: &dyn Fn(&Certificate) -> bool| {
            let found = chain.iter().find(|certificate| is_it(certificate));
            Box::new(found.unwrap_or(&leaf).clone())
        };
        let clock = system_time(now.as_secs());
        match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                TlsFault::Expired {
                    now: clock,
                    seen: dated(&|certificate| certificate.not_after < clock),
                }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsFault::NotYet {
                    now: clock,
                    seen: dated(&|certificate| certificate.not_before > clock),
                }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFault::OtherName {
                    asked: asked.to_str().into_owned(),
                    seen: Box::new(leaf),
                }
            }
            CertificateError::UnknownIssuer => TlsFault::UnknownIssuer {
                seen: Box::new(leaf),
                has_roots: self.trust.verifier().is_some(),
            },
            CertificateError::Other(_) if leaf.is_ca => TlsFault::Authority {
                seen: Box::new(leaf),
            },
            cause => TlsFault::Refused {
                cause: legible(&cause.to_string()),
                seen: Box::new(leaf),
            },
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match self.trust.verifier() {
            _ if self.trust.is_named(end_entity) => {
                Self::judge_pinned(end_entity, server_name, now)
            }
            Some(verifier) => verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verified.map_err(|error| match error {
            rustls::Error::InvalidCertificate(cause) => {
                let chain: Vec<_> = [end_entity].into_iter().chain(intermediates).collect();
                let fault = self.fault(cause, &chain, server_name, now);
                CertificateError::Other(OtherError(Arc::new(fault))).into()
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.trust.provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

impl TlsFault {
    /// Whether it may be about who adit is; `has_met` as in [`TransportError::Tls`].
    ///
    /// [`TransportError::Tls`]: super::error::TransportError::Tls
    pub(crate) fn refusal(&self, has_met: bool) -> Option<Refusal> {
        use AlertDescription::{NoApplicationProtocol, ProtocolVersion, UnrecognisedName};
        match self {
            Self::CertificateWanted | Self::CertificateRefused(_) => Some(Refusal::Certain),
            // What these complain of was said before anybody showed a certificate.
            Self::Alert(ProtocolVersion | UnrecognisedName | NoApplicationProtocol) => None,
            Self::Alert(_) | Self::Closed | Self::Reset if has_met => Some(Refusal::Perhaps),
            _ => None,
        }
    }

    /// Words what a handshake failed with.
    pub(super) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(fault)))) => {
                match fault.downcast_ref::<Self>() {
                    Some(fault) => fault.clone(),
                    None => Self::Other(words(error)),
                }
            }
            Some(rustls::Error::AlertReceived(alert)) => Self::of_alert(*alert),
            Some(
                rustls::Error::InvalidMessage(_)
                | rustls::Error::InappropriateMessage { .. }
                | rustls::Error::PeerSentOversizedRecord,
            ) => Self::NoTls,
            _ if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            _ if is_cut(error) => Self::Reset,
            _ => Self::Other(words(error)),
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                Self::CertificateWanted
            }
            AlertDescription::UnknownCA => Self::CertificateRefused(
                "it does not know the issuer; is the whole chain in \
                     auth.cert_file?",
            ),
            // So says OpenSSL where the issuer's signature does not fit.
            AlertDescription::DecryptError => Self::CertificateRefused(
                "it knows an issuer of that name, but with another key; is the certificate, or \
                 what the server trusts, from before a renewal?",
            ),
            AlertDescription::CertificateExpired => Self::CertificateRefused("it has expired"),
            AlertDescription::CertificateRevoked => Self::CertificateRefused("it was revoked"),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Self::CertificateRefused("it is not accepted"),
            other => Self::Alert(other),
        }
    }
}

/// Whether the other end has let go of a connection, which a write learns in other words than a read.
pub(super) fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset
    )
}

/// Returns whether what a connection fails with behind the handshake may be about who adit is.
pub(crate) fn refusal_behind_handshake(error: &io::Error) -> Option<Refusal> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(fault) => TlsFault::refusal(fault, true),
        None if is_cut(error) || error.kind() == io::ErrorKind::UnexpectedEof => {
            Some(Refusal::Perhaps)
        }
        None => None,
    }
}

/// Words what a connection fails with later: in TLS 1.3 a server refuses a client certificate only
/// after the handshake.
pub(super) fn in_words(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => {
            io::Error::new(error.kind(), TlsFault::of_alert(*alert))
        }
        _ => error,
    }
}

fn pin(seen: &Certificate) -> &'static str {
    match seen.is_self_issued {
        true => "; if it is the right one, put this very certificate into cloud.ca_file",
        false => "",
    }
}

fn remedy(has_roots: bool) -> &'static str {
    if has_roots {
        "if it is the right one, put the issuer's certificate into cloud.ca_file"
    } else {
        "this machine trusts nobody: install its root certificates (ca-certificates) or set \
         cloud.ca_file"
    }
}
