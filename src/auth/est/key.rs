//! The key of a gateway, and the request that has an authority sign it (PKCS#10, RFC 2986).
//!
//! The request is written here because the crate that writes requests adds 268 KiB to a binary, a
//! sixteenth of all of adit, for the two dozen values below.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::SignatureScheme;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use zeroize::Zeroizing;

use crate::files::FileContent;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The attributes of a request; there are none.
const ATTRIBUTES: u8 = 0xa0;

/// 2.5.4.3 (RFC 5280, A.1).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 1.2.840.10045.4.3.2 (RFC 5758, 3.2).
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// Characters of a line of PEM (RFC 7468, 2).
const PEM_LINE: usize = 64;

/// A key that an authority may be asked to sign.
pub(crate) struct Key {
    /// The content of its file.
    pem: Zeroizing<Vec<u8>>,
    signer: Box<dyn Signer>,
    public: SubjectPublicKeyInfoDer<'static>,
}

/// What is wrong with a key, as a clause behind the name of its file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum KeyError {
    /// It cannot be read.
    #[error("holds no private key that adit can use")]
    Unusable,
    /// It is one of another kind.
    #[error("holds a key that is not of the curve P-256, which the platform's authority signs")]
    OtherKind,
    /// There is no randomness.
    #[error("cannot be made: the system gives no random numbers")]
    NoRandomness,
}

/// A key file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no key in it that can be used.
    #[error("{} {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
}

impl Key {
    /// Makes a new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| KeyError::NoRandomness)?;
        Self::parse(&pem("PRIVATE KEY", made.as_ref()))
    }

    /// Reads the content of a key file.
    ///
    /// # Errors
    /// It holds no key of the curve P-256.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(content).map_err(|_| KeyError::Unusable)?;
        let key: Arc<dyn SigningKey> =
            provider::sign::any_supported_type(&der).map_err(|_| KeyError::Unusable)?;
        let signer = key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or(KeyError::OtherKind)?;
        Ok(Self {
            pem: Zeroizing::new(content.to_vec()),
            signer,
            public: key.public_key().ok_or(KeyError::Unusable)?.into_owned(),
        })
    }

    /// Takes the key out of the file that was `read`.
    ///
    /// # Errors
    /// It could not be read, or holds no key of the curve P-256.
    pub(crate) fn in_file(
        path: &Path,
        read: io::Result<FileContent>,
    ) -> Result<Self, KeyFileError> {
        let path = || path.to_owned();
        let content = read.map_err(|source| KeyFileError::Read {
            path: path(),
            source,
        })?;
        Self::parse(&content.bytes).map_err(|source| KeyFileError::Unusable {
            path: path(),
            source,
        })
    }

    /// Returns the content of the key's file.
    pub(crate) fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// Asks for a certificate for `name`, in base64 without the lines of PEM.
    ///
    /// # Errors
    /// The system gives no random numbers, which a signature takes.
    pub(crate) fn request(&self, name: &str) -> Result<String, KeyError> {
        let attribute = sequence(&[
            value(OBJECT_IDENTIFIER, COMMON_NAME),
            value(UTF8_STRING, name.as_bytes()),
        ]);
        let info = sequence(&[
            value(INTEGER, &[0]),
            sequence(&[value(SET, &attribute)]),
            self.public.to_vec(),
            value(ATTRIBUTES, &[]),
        ]);
        let signature = self
            .signer
            .sign(&info)
            .map_err(|_| KeyError::NoRandomness)?;
        // A string of bits begins with how many of its last byte are not used.
        let signature = [&[0], signature.as_slice()].concat();
        let request = sequence(&[
            info,
            sequence(&[value(OBJECT_IDENTIFIER, ECDSA_WITH_SHA256)]),
            value(BIT_STRING, &signature),
        ]);
        Ok(BASE64.encode(request))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn sequence(values: &[Vec<u8>]) -> Vec<u8> {
    value(SEQUENCE, &values.concat())
}

/// Writes a value of DER.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    const LONG_FORM: u8 = 0x80;
    let mut written = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length) if length < LONG_FORM => written.push(length),
        _ => {
            let bytes = content.len().to_be_bytes();
            let digits: Vec<u8> = bytes.into_iter().skip_while(|&byte| byte == 0).collect();
            written.extend(u8::try_from(digits.len()).map(|count| LONG_FORM | count));
            written.extend(digits);
        }
    }
    written.extend_from_slice(content);
    written
}

/// Writes a value in the form of a file (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = Zeroizing::new(BASE64.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n").into_bytes();
    for line in text.as_bytes().chunks(PEM_LINE) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    Zeroizing::new(pem)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use rcgen::KeyPair;

    use super::*;

    /// Has OpenSSL read a request, and returns what it says.
    fn read_by_openssl(request: &str) -> String {
        let der = BASE64.decode(request).unwrap();
        let mut openssl = Command::new("openssl")
            .args(["req", "-inform", "DER", "-verify", "-noout", "-text"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        openssl.stdin.take().unwrap().write_all(&der).unwrap();
        let output = openssl.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }

    #[test]
    fn asks_as_others_understand_it() {
        let long = "g".repeat(200);
        for name in ["gateway-7", "Tür 7", long.as_str()] {
            let key = Key::generate().unwrap();
            let said = read_by_openssl(&key.request(name).unwrap());
            assert!(said.contains("verify OK"), "{said}");
            assert!(said.contains("NIST CURVE: P-256"), "{said}");
            if name.is_ascii() {
                let subject = said.lines().find(|line| line.contains("Subject:"));
                let subject = subject.unwrap().replace(' ', "");
                assert!(subject.ends_with(&format!("CN={name}")), "{subject}");
            }
        }
    }

    #[test]
    fn reads_the_file_that_it_makes() {
        let key = Key::generate().unwrap();
        let again = Key::parse(key.pem()).unwrap();
        assert_eq!(key.public, again.public);
        let pair = KeyPair::from_pem(str::from_utf8(key.pem()).unwrap()).unwrap();
        assert_eq!(pair.serialize_der().len(), 138);
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn says_what_is_wrong_with_a_key() {
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        for (content, error) in [
            (String::new(), KeyError::Unusable),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
                KeyError::Unusable,
            ),
            (other.serialize_pem(), KeyError::OtherKind),
        ] {
            assert_eq!(Key::parse(content.as_bytes()).unwrap_err(), error);
        }
    }
}
