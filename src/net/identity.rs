//! The client certificate of this device, and its renewal while adit runs.
//!
//! Somebody else renews the files, certificate and key one after the other. They are read again at
//! each connect; a pair that cannot be used is the subject of a warning, and the last good one
//! goes on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use crate::words::{date, legible};

/// What PEM files say where a key is encrypted: in PKCS#8, and in the older forms.
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];

/// A certificate with its chain and its key, and the files that they are in.
#[derive(Clone)]
pub struct Identity {
    files: Files,
    /// Adit has had it issued, and renews it.
    is_issued: bool,
    /// The common name, which is the device id.
    name: String,
    /// When the certificate's life begins and ends.
    pub life: (SystemTime, SystemTime),
    pair: Arc<CertifiedKey>,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    /// PEM: the device's certificate, then those of its issuers.
    pub certificate: PathBuf,
    /// PEM: the key in the form PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key: PathBuf,
}

impl Files {
    /// Where a renewed certificate is until a login with it has worked.
    pub(crate) fn renewed(&self) -> PathBuf {
        self.certificate.with_extension("renewed.pem")
    }

    /// Where one is that the broker has refused.
    pub(crate) fn refused(&self) -> PathBuf {
        self.certificate.with_extension("refused.pem")
    }
}

/// What is wrong with a pair, as a clause behind the file's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file.
    #[error("{0}")]
    Certificate(String),
    /// The key file.
    #[error("{0}")]
    Key(String),
}

impl Identity {
    /// Makes an identity of the content of two files.
    ///
    /// # Errors
    /// What is wrong with one of them, or with the two together.
    pub fn parse(files: Files, certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = parse_chain(certificate).map_err(IdentityError::Certificate)?;
        let read = chain.first().and_then(|leaf| Certificate::read(leaf));
        let Some(leaf) = read else {
            let words = "holds a certificate that cannot be parsed";
            return Err(IdentityError::Certificate(words.to_owned()));
        };
        let Some(name) = leaf.common_name.clone() else {
            let words = "holds a certificate without a common name, which must be the device id";
            return Err(IdentityError::Certificate(words.to_owned()));
        };
        let key = parse_key(&files.key, key).map_err(IdentityError::Key)?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let pair = pair.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::Key(format!(
                "is not the key of the certificate {} in {:?}",
                leaf.title(),
                files.certificate.display().to_string(),
            )),
            rustls::Error::InvalidCertificate(_) => {
                IdentityError::Certificate("holds a certificate that cannot be parsed".to_owned())
            }
            _ => IdentityError::Key(
                "holds a key that adit cannot use; it can use P-256, P-384, Ed25519 and RSA from \
                 2048 bits"
                    .to_owned(),
            ),
        })?;
        Ok(Self {
            files,
            is_issued: false,
            name,
            life: (leaf.not_before, leaf.not_after),
            pair: Arc::new(pair),
        })
    }

    /// Marks it as one that adit has had issued. Only such a one is looked for a successor.
    #[must_use]
    pub(crate) fn issued(mut self) -> Self {
        self.is_issued = true;
        self
    }

    /// The common name, which is the device id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where certificate and key were read.
    pub fn files(&self) -> &Files {
        &self.files
    }

    pub(super) fn pair(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.pair)
    }

    /// Reads the files again. `None` if they hold what they held.
    ///
    /// # Errors
    /// Words for the log: why what is there now cannot be used.
    pub(super) fn read_again(&self) -> Result<Option<Self>, String> {
        let path = &self.files.certificate;
        let read = self.read_from(path)?;
        let now = SystemTime::now();
        if read.life.1 < now && now <= self.life.1 {
            return Err(format!(
                "{:?} holds a certificate that expired at {}",
                path.display().to_string(),
                date(read.life.1)
            ));
        }
        Ok((!read.is_same(self)).then_some(read))
    }

    /// Reads a certificate that was renewed and has not taken its place yet: it has to prove itself, or is
    /// in use already, because the one in its place had expired at the start. `None` if there is none.
    ///
    /// # Errors
    /// Words for the log: why what is there cannot be used.
    pub(super) fn read_renewed(&self) -> Result<Option<Self>, String> {
        let path = self.files.renewed();
        if !self.is_issued {
            return Ok(None);
        }
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => self.read_from(&path).map(Some),
        }
    }

    /// Reads the certificate in a file, and the key again.
    fn read_from(&self, certificate: &Path) -> Result<Self, String> {
        let read = |path: &Path| {
            let shown = path.display().to_string();
            crate::files::read(path)
                .map(|content| content.bytes)
                .map_err(|error| format!("{shown:?} cannot be read: {error}"))
        };
        let Files { key, .. } = &self.files;
        let (chain, secret) = (read(certificate)?, read(key)?);
        let mut renewed = Self::parse(self.files.clone(), &chain, &secret).map_err(|error| {
            let path = match error {
                IdentityError::Certificate(_) => certificate,
                IdentityError::Key(_) => key,
            };
            format!("{:?} {error}", path.display().to_string())
        })?;
        if renewed.name != self.name {
            return Err(format!(
                "{:?} holds a certificate for '{}', and this device is '{}'",
                certificate.display().to_string(),
                legible(&renewed.name),
                legible(&self.name),
            ));
        }
        renewed.is_issued = self.is_issued;
        Ok(renewed)
    }

    /// Whether both are the same certificate with the same chain.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.pair.cert == other.pair.cert
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(chain) => Ok(chain),
        // The library's words may repeat a line of the file, which may be a key.
        Err(_) => Err("is not well-formed PEM".to_owned()),
    }
}

fn parse_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let text = String::from_utf8_lossy(pem);
    if ENCRYPTED.iter().any(|mark| text.contains(mark)) {
        let path = path.display();
        return Err(format!(
            "is encrypted, and nobody is there to type the pass phrase; decrypt it with: \
             openssl pkey -in '{path}' -out '{path}.plain'"
        ));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            "holds no private key in PEM form (PKCS#8, SEC1 or PKCS#1)".to_owned()
        }
        _ => "is not well-formed PEM".to_owned(),
    })
}
