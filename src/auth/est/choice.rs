//! Which certificate of an answer is taken.
//!
//! The order means nothing: some authorities send their own certificates first. One is taken that
//! belongs to this gateway's key and id and has not expired; the authorities' follow it, so that the
//! broker is shown the whole chain.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::key::{Key, pem};
use crate::net::certificate::Certificate;
use crate::net::identity::{Files, Identity};
use crate::words::{date, legible};

/// A certificate that fits, with its chain.
pub(crate) struct Issued {
    pub identity: Identity,
    /// The content of its file.
    pub pem: Zeroizing<Vec<u8>>,
}

/// Why no certificate of an answer is of use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unfit {
    /// None belongs to the key.
    #[error("it is not for this gateway's key")]
    OtherKey,
    /// It names somebody else.
    #[error("it is for '{name}', and this device is '{id}'")]
    OtherName {
        /// The common name, made legible.
        name: String,
        /// The device id.
        id: String,
    },
    /// It is over.
    #[error(
        "it has expired, unless this machine's clock is wrong: now is {}, and it ended at {}",
        date(*now), date(*ended)
    )]
    Expired {
        /// The end of its life.
        ended: SystemTime,
        /// The time of this machine.
        now: SystemTime,
    },
}

impl Unfit {
    pub(super) fn number(&self) -> usize {
        match self {
            Self::OtherKey => 0,
            Self::OtherName { .. } => 1,
            Self::Expired { .. } => 2,
        }
    }
}

/// Takes the certificate for `id` that belongs to `key` and lives longest.
///
/// One whose life has not begun is taken: the platform's clock decides at a login, and this
/// machine's may be behind it.
///
/// # Errors
/// What is wrong with the one that comes closest.
pub(crate) fn choose(
    certificates: &[CertificateDer<'static>],
    key: &Key,
    id: &str,
    files: &Files,
    now: SystemTime,
) -> Result<Issued, Unfit> {
    let chain = |own: &CertificateDer<'_>| {
        let issuers = certificates.iter().filter(|der| {
            let is_authority = Certificate::read(der).is_some_and(|read| read.is_ca);
            is_authority && *der != own
        });
        let chain: Vec<_> = [own].into_iter().chain(issuers).collect();
        let blocks = chain
            .into_iter()
            .flat_map(|der| pem("CERTIFICATE", der).to_vec());
        Zeroizing::new(blocks.collect::<Vec<u8>>())
    };
    let of_key = certificates.iter().filter_map(|own| {
        let pem = chain(own);
        let identity = Identity::parse(files.clone(), &pem, key.pem()).ok()?;
        let identity = identity.issued();
        Some(Issued { identity, pem })
    });
    let longest = of_key.max_by_key(|issued| {
        let is_own = issued.identity.name() == id;
        (is_own, issued.identity.life.1)
    });
    let issued = longest.ok_or(Unfit::OtherKey)?;
    let (name, ended) = (issued.identity.name(), issued.identity.life.1);
    if name != id {
        return Err(Unfit::OtherName {
            name: legible(name),
            id: id.to_owned(),
        });
    }
    if ended < now {
        return Err(Unfit::Expired { ended, now });
    }
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    use super::*;

    const ID: &str = "gateway-7";

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        own: CertificateDer<'static>,
    }

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = named("the tenant's authority");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let own = params.self_signed(&key).unwrap().der().clone();
            let issuer = Issuer::new(params, key);
            Self { issuer, own }
        }

        /// Issues a certificate that lives until the end of a year.
        fn issue(&self, key: &Key, name: &str, year: i32) -> CertificateDer<'static> {
            let key = KeyPair::from_pem(str::from_utf8(key.pem()).unwrap()).unwrap();
            let mut params = named(name);
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(year, 12, 31);
            params.signed_by(&key, &self.issuer).unwrap().der().clone()
        }
    }

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn files() -> Files {
        Files {
            certificate: "device.pem".into(),
            key: "device.key".into(),
        }
    }

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-11-29T12:00:00Z").unwrap()
    }

    fn take(certificates: &[CertificateDer<'static>], key: &Key) -> Result<Issued, Unfit> {
        choose(certificates, key, ID, &files(), now())
    }

    fn blocks(pem: &[u8]) -> usize {
        let text = str::from_utf8(pem).unwrap();
        text.matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn takes_what_fits_in_any_order() {
        let authority = Authority::new();
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let own = authority.issue(&key, ID, 2030);
        let older = authority.issue(&key, ID, 2027);
        let namesake = authority.issue(&key, "gateway-8", 2040);
        let strange = authority.issue(&other, ID, 2050);
        let all = [authority.own.clone(), strange, older, namesake, own.clone()];
        let mut turned = all.to_vec();
        for _ in 0..all.len() {
            turned.rotate_left(1);
            let issued = take(&turned, &key).unwrap();
            assert_eq!(issued.identity.name(), ID);
            let again = Identity::parse(files(), &issued.pem, key.pem()).unwrap();
            assert_eq!(
                again.life,
                Certificate::read(&own)
                    .map(|c| (c.not_before, c.not_after))
                    .unwrap()
            );
            assert_eq!(blocks(&issued.pem), 2, "its own, and the authority's");
        }
        assert_eq!(blocks(&take(&[own], &key).unwrap().pem), 1);
    }

    #[test]
    fn says_why_nothing_fits() {
        let authority = Authority::new();
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let rubbish = CertificateDer::from(vec![0x30, 1, 0]);
        for (certificates, words) in [
            (vec![], "it is not for this gateway's key"),
            (
                vec![rubbish, authority.own.clone()],
                "it is not for this gateway's key",
            ),
            (
                vec![authority.issue(&other, ID, 2030)],
                "it is not for this gateway's key",
            ),
            (
                vec![authority.issue(&key, "gw\n8", 2030)],
                "it is for 'gw 8', and this device is 'gateway-7'",
            ),
            (
                vec![
                    authority.issue(&key, ID, 2025),
                    authority.issue(&key, "gateway-8", 2030),
                ],
                "it has expired, unless this machine's clock is wrong: now is \
                 2026-11-29T12:00:00Z, and it ended at 2025-12-31T00:00:00Z",
            ),
        ] {
            let unfit = take(&certificates, &key).map(drop).unwrap_err();
            assert_eq!(unfit.to_string(), words);
        }
    }
}
