//! The tenant's certificate authority as devices see it (EST, RFC 7030).
//!
//! It signs for real, and like the platform's it tells a device that nobody has registered, one that
//! has its certificate already, and one with a wrong password by little more than the words of a 401.
//! What it does wrong when it is told to is what authorities, and things in front of them, do.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, DnValue, IsCa, Issuer, KeyPair, PublicKeyData,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::http::{Request, error_body};
use crate::stream::Stream;

/// What all paths of the authority begin with.
pub(crate) const PATH: &str = "/.well-known/est/";
const ENROL: &str = "/.well-known/est/simpleenroll";
const RENEW: &str = "/.well-known/est/simplereenroll";
/// Bytes of an answer that nobody should read to its end.
const HUGE: usize = 10 << 20;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long before it is issued the life of a certificate begins.
const BACKDATED: Duration = Duration::from_secs(60);

/// What the authority answers in the place of what it should.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EstAnswer {
    /// This status, with these further lines of the head, and this body.
    Http {
        /// HTTP status.
        status: u16,
        /// As `Retry-After: 1`.
        headers: Vec<String>,
        /// As is.
        body: Vec<u8>,
    },
    /// A body without an end that makes sense: 10 MiB.
    Huge,
    /// Nothing.
    Silence,
    /// A certificate with the common name of another device.
    OtherName,
    /// A certificate for another key.
    OtherKey,
    /// A certificate whose life is over.
    Expired,
    /// A certificate of an issuer that the broker does not know.
    OtherIssuer,
}

/// In which form a certificate is sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EstForm {
    /// BER with lengths that only an end tells, else DER.
    pub indefinite: bool,
    /// Base64 in lines.
    pub lines: bool,
    /// In chunks of HTTP.
    pub chunked: bool,
    /// The authority's own certificate stands before the device's.
    pub issuer_first: bool,
}

/// A request that came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EstRequest {
    /// When it came.
    pub at: Instant,
    /// Whether it asks for a renewal.
    pub renewal: bool,
    /// The common name that is asked for, where the request for a certificate can be read.
    pub name: Option<String>,
    /// The public key, in the form of a certificate.
    pub key: Vec<u8>,
    /// The HTTP status of the answer; none while there is none.
    pub status: Option<u16>,
}

struct State {
    /// Ids that an operator has entered, with their one-time passwords.
    registered: Vec<(String, String)>,
    requests: Vec<EstRequest>,
    answer: Option<EstAnswer>,
    form: EstForm,
    life: Duration,
}

/// A certificate authority. It belongs to one platform.
pub struct EstAuthority {
    issuer: Issuer<'static, KeyPair>,
    own: CertificateDer<'static>,
    pem: String,
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

impl fmt::Debug for EstAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EstAuthority(..)")
    }
}

impl EstAuthority {
    /// Makes an authority with a key of its own.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let (issuer, own, pem) = issuer("the tenant's authority")?;
        Ok(Self {
            issuer,
            own,
            pem,
            state: Mutex::new(State {
                registered: Vec::new(),
                requests: Vec::new(),
                answer: None,
                form: EstForm::default(),
                life: YEAR,
            }),
            changes: watch::Sender::new(()),
        })
    }

    /// Returns its certificate, for whoever is to trust it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Registers a device, as an operator does.
    pub fn register(&self, id: &str, one_time_password: &str) {
        let pair = (id.to_owned(), one_time_password.to_owned());
        self.lock().registered.push(pair);
    }

    /// Answers so from now on, or as it should with `None`.
    pub fn answer(&self, answer: impl Into<Option<EstAnswer>>) {
        self.lock().answer = answer.into();
    }

    /// Sends certificates in another form.
    pub fn send_as(&self, form: EstForm) {
        self.lock().form = form;
    }

    /// Issues certificates that live for this long; a year unless set.
    pub fn issue_for(&self, life: Duration) {
        self.lock().life = life;
    }

    /// Returns every request that came, in order.
    pub fn requests(&self) -> Vec<EstRequest> {
        self.lock().requests.clone()
    }

    /// Waits until `look` finds something in the requests.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn wait_for_requests<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[EstRequest]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut changes = self.changes.subscribe();
        let found = timeout(limit, async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = look(&self.lock().requests) {
                    return Ok(found);
                }
                changes.changed().await.context("the authority is gone")?;
            }
        });
        found
            .await
            .unwrap_or_else(|_| Err(anyhow!("not within {limit:?}: {:?}", self.requests())))
    }

    /// Takes a request. `is_token_good` says whether a token was given out and is good.
    pub(crate) async fn serve(
        &self,
        mut stream: Stream,
        mut request: Request,
        is_token_good: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        let body = request.read_body(&mut stream).await?;
        // RFC 7030, 4.2.1.
        let is_pkcs10 = request.header("content-type") == Some("application/pkcs10");
        let csr = is_pkcs10.then(|| csr(&body)).flatten();
        let renewal = request.path == RENEW;
        let index = self.record(EstRequest {
            at: Instant::now(),
            renewal,
            name: csr.as_ref().and_then(|csr| common_name(&csr.params)),
            key: csr
                .as_ref()
                .map(|csr| csr.public_key.der_bytes().to_vec())
                .unwrap_or_default(),
            status: None,
        });
        let (answer, form) = {
            let state = self.lock();
            (state.answer.clone(), state.form)
        };
        let (status, headers, body) = match &answer {
            Some(EstAnswer::Silence) => return std::future::pending().await,
            Some(EstAnswer::Http {
                status,
                headers,
                body,
            }) => (*status, headers.clone(), body.clone()),
            Some(EstAnswer::Huge) => (200, Vec::new(), vec![b'A'; HUGE]),
            answer => match self.issue(&request, csr, answer.as_ref(), is_token_good) {
                Ok(certificate) => {
                    let headers = ["Content-Type: application/pkcs7-mime"].map(str::to_owned);
                    (200, headers.to_vec(), self.message(&certificate, form))
                }
                Err((status, words)) => {
                    let headers = ["Content-Type: application/json"].map(str::to_owned);
                    let body = match words {
                        "" => error_body(status),
                        words => {
                            format!(r#"{{"error":"security/Unauthorized","message":"{words}"}}"#)
                        }
                    };
                    (status, headers.to_vec(), body.into_bytes())
                }
            },
        };
        // Noted before it goes out, so that whoever has read it finds it noted.
        self.note(index, status);
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        for header in headers {
            head.push_str(&header);
            head.push_str("\r\n");
        }
        let body = match form.chunked {
            true => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                chunks(&body)
            }
            false => {
                head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
                body
            }
        };
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    }

    /// Decides about a request; the HTTP status and the words of a refusal are the error.
    fn issue(
        &self,
        request: &Request,
        csr: Option<CertificateSigningRequestParams>,
        answer: Option<&EstAnswer>,
        is_token_good: impl Fn(&str) -> bool,
    ) -> Result<CertificateDer<'static>, (u16, &'static str)> {
        let mut csr = csr.ok_or((400, "The request cannot be read"))?;
        let name = common_name(&csr.params).ok_or((400, "The request has no common name"))?;
        match request.path.as_str() {
            ENROL => self.admit(request, &name)?,
            RENEW if request.bearer().is_some_and(is_token_good) => {}
            RENEW => {
                return Err((
                    401,
                    "Full authentication is required to access this resource",
                ));
            }
            _ => return Err((404, "")),
        }
        let now = SystemTime::now();
        csr.params.not_before = (now - BACKDATED).into();
        csr.params.not_after = (now + self.lock().life).into();
        let other_key = || KeyPair::generate().map_err(|_| (500, ""));
        let signed = match answer {
            Some(EstAnswer::OtherName) => {
                csr.params.distinguished_name = named("somebody else");
                csr.signed_by(&self.issuer)
            }
            Some(EstAnswer::OtherKey) => csr.params.signed_by(&other_key()?, &self.issuer),
            Some(EstAnswer::Expired) => {
                csr.params.not_before = (now - YEAR).into();
                csr.params.not_after = (now - BACKDATED).into();
                csr.signed_by(&self.issuer)
            }
            Some(EstAnswer::OtherIssuer) => {
                let (issuer, ..) = issuer("an authority of before").map_err(|_| (500, ""))?;
                csr.signed_by(&issuer)
            }
            _ => csr.signed_by(&self.issuer),
        };
        Ok(signed.map_err(|_| (500, ""))?.der().clone())
    }

    /// Takes a registration, which is good for one certificate.
    fn admit(&self, request: &Request, name: &str) -> Result<(), (u16, &'static str)> {
        const UNKNOWN: &str =
            "No newDeviceRequest found for this ID. It may already be registered.";
        let login = request
            .basic()
            .ok_or((401, "Full authentication is required"))?;
        let (id, password) = login.split_once(':').ok_or((401, UNKNOWN))?;
        let mut state = self.lock();
        let place = state.registered.iter().position(|(known, _)| known == id);
        let place = place.ok_or((401, UNKNOWN))?;
        if state
            .registered
            .get(place)
            .is_none_or(|(_, known)| known != password)
        {
            return Err((401, "Invalid credentials"));
        }
        if id != name {
            return Err((400, "The common name is not the ID of the device"));
        }
        state.registered.remove(place);
        Ok(())
    }

    /// Puts a certificate, and where wanted the authority's own, into a PKCS#7 message.
    fn message(&self, certificate: &CertificateDer<'_>, form: EstForm) -> Vec<u8> {
        const SIGNED_DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 2];
        const DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 1];
        const VERSION: &[u8] = &[2, 1, 1];
        let around = if form.indefinite {
            indefinite
        } else {
            definite
        };
        let certificates = match form.issuer_first {
            true => [self.own.as_ref(), certificate.as_ref()].concat(),
            false => certificate.to_vec(),
        };
        let signed = [
            VERSION,
            &around(0x31, &[]),
            &around(0x30, DATA),
            &around(0xa0, &certificates),
            &around(0x31, &[]),
        ];
        let signed = around(0xa0, &around(0x30, &signed.concat()));
        let text = STANDARD.encode(around(0x30, &[SIGNED_DATA, &signed].concat()));
        match form.lines {
            true => {
                let lines = text.as_bytes().chunks(64);
                lines.flat_map(|line| [line, b"\r\n"].concat()).collect()
            }
            false => text.into_bytes(),
        }
    }

    fn record(&self, request: EstRequest) -> usize {
        let mut state = self.lock();
        state.requests.push(request);
        let index = state.requests.len() - 1;
        drop(state);
        self.changes.send_replace(());
        index
    }

    fn note(&self, index: usize, status: u16) {
        if let Some(request) = self.lock().requests.get_mut(index) {
            request.status = Some(status);
        }
        self.changes.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a certificate that may issue others; returns it in both forms, too.
fn issuer(
    name: &str,
) -> anyhow::Result<(Issuer<'static, KeyPair>, CertificateDer<'static>, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = named(name);
    let own = params.self_signed(&key)?;
    let (der, pem) = (own.der().clone(), own.pem());
    Ok((Issuer::new(params, key), der, pem))
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Reads a request for a certificate, and whether it was signed with the key that it is for.
fn csr(body: &[u8]) -> Option<CertificateSigningRequestParams> {
    let der = STANDARD.decode(body.trim_ascii()).ok()?;
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)).ok()
}

fn common_name(params: &CertificateParams) -> Option<String> {
    match params.distinguished_name.get(&DnType::CommonName)? {
        DnValue::Utf8String(name) => Some(name.clone()),
        _ => None,
    }
}

/// A value with a length that is told.
fn definite(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    [&[tag, 0x84], length.as_slice(), content].concat()
}

/// A value whose end is told.
fn indefinite(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, 0x80], content, &[0, 0]].concat()
}

fn chunks(body: &[u8]) -> Vec<u8> {
    const SIZE: usize = 100;
    let mut chunks = Vec::new();
    for chunk in body.chunks(SIZE) {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    chunks
}
