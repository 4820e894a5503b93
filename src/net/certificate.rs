//! What a person wants to know of a certificate: whose it is, who issued it, from when until when.
//!
//! rustls decides about certificates and tells little of them. The few fields that words need are
//! read here with a minimal reader of DER; nothing that is read here decides about trust.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::words::{date, legible, time};

/// Characters of a name that are shown.
const NAME_LIMIT: usize = 80;
/// Names that are shown.
const NAMES_LIMIT: usize = 5;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const ORGANIZATIONAL_UNIT: &[u8] = &[0x55, 0x04, 0x0b];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// The fields of a certificate that people ask for. Texts are as in the certificate, and hostile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The issuer's common name, or else what there is of its organisation.
    pub issuer: Option<String>,
    /// DNS names and IP addresses that it is for.
    pub names: Vec<String>,
    /// The start of its life.
    pub not_before: SystemTime,
    /// The end of its life.
    pub not_after: SystemTime,
    /// Whether subject and issuer are the same.
    pub is_self_issued: bool,
    /// Whether it may issue certificates.
    pub is_ca: bool,
}

impl Certificate {
    /// Reads the DER form; `None` if it cannot be understood.
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut outer = DerReader(der).expect(SEQUENCE)?;
        let mut fields = outer.expect(SEQUENCE)?;
        fields.skip_if(VERSION);
        fields.expect(INTEGER)?;
        fields.expect(SEQUENCE)?;
        let issuer = fields.expect(SEQUENCE)?;
        let mut validity = fields.expect(SEQUENCE)?;
        let subject = fields.expect(SEQUENCE)?;
        let mut certificate = Self {
            common_name: attribute(DerReader(subject.0), &[COMMON_NAME]),
            issuer: attribute(
                DerReader(issuer.0),
                &[COMMON_NAME, ORGANIZATIONAL_UNIT, ORGANIZATION],
            ),
            names: Vec::new(),
            not_before: validity.time()?,
            not_after: validity.time()?,
            is_self_issued: issuer.0 == subject.0,
            is_ca: false,
        };
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                certificate.read_extensions(DerReader(content).expect(SEQUENCE)?)?;
            }
        }
        Some(certificate)
    }

    fn read_extensions(&mut self, mut extensions: DerReader<'_>) -> Option<()> {
        while !extensions.0.is_empty() {
            let mut extension = extensions.expect(SEQUENCE)?;
            let id = extension.expect(OBJECT_IDENTIFIER)?.0;
            extension.skip_if(BOOLEAN);
            let mut value = extension.expect(OCTET_STRING)?;
            match id {
                SUBJECT_ALTERNATIVE_NAME => {
                    let mut names = value.expect(SEQUENCE)?;
                    while let Some((tag, name)) = names.next() {
                        self.names.extend(alternative_name(tag, name));
                    }
                }
                BASIC_CONSTRAINTS => {
                    let flag = value.expect(SEQUENCE)?.next();
                    self.is_ca = matches!(flag, Some((BOOLEAN, [flag])) if *flag != 0);
                }
                _ => {}
            }
        }
        Some(())
    }

    /// The common name, or what stands for it, as it may be shown.
    pub fn title(&self) -> String {
        let name = self.common_name.as_ref().or(self.names.first());
        name.map_or_else(|| "(no name)".to_owned(), |name| quoted(name.as_str()))
    }

    /// The names that it is for, as they may be shown.
    pub fn shown_names(&self) -> String {
        if self.names.is_empty() {
            return "no host at all".to_owned();
        }
        let mut names: Vec<_> = self
            .names
            .iter()
            .take(NAMES_LIMIT)
            .map(|name| shown(name))
            .collect();
        if self.names.len() > NAMES_LIMIT {
            names.push(format!("{} more", self.names.len() - NAMES_LIMIT));
        }
        names.join(", ")
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
        // An authority's is for no host, and nobody expects it to be.
        if !self.is_ca || !self.names.is_empty() {
            write!(f, " for {}", self.shown_names())?;
        }
        f.write_str(", ")?;
        match &self.issuer {
            _ if self.is_self_issued => write!(f, "issued by itself")?,
            Some(issuer) => write!(f, "issued by {}", quoted(issuer))?,
            None => write!(f, "issued by somebody without a name")?,
        }
        let (from, until) = (date(self.not_before), date(self.not_after));
        write!(f, ", valid from {from} until {until}")
    }
}

/// Writes the day of a time, in UTC, as YYYY-MM-DD.
pub(crate) fn day(time: SystemTime) -> String {
    let mut date = date(time);
    date.truncate("YYYY-MM-DD".len());
    date
}

fn shown(name: &str) -> String {
    legible(name).chars().take(NAME_LIMIT).collect()
}

fn quoted(name: &str) -> String {
    format!("'{}'", shown(name))
}

/// Returns the first attribute of a distinguished name that is there.
fn attribute(name: DerReader<'_>, wanted: &[&[u8]]) -> Option<String> {
    let find = |id: &[u8]| {
        let mut sets = DerReader(name.0);
        while let Some(mut set) = sets.expect(SET) {
            while let Some(mut pair) = set.expect(SEQUENCE) {
                if pair.expect(OBJECT_IDENTIFIER)?.0 == id {
                    let (tag, content) = pair.next()?;
                    return text(tag, content);
                }
            }
        }
        None
    };
    wanted.iter().find_map(|id| find(id))
}

fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING => String::from_utf8(content.to_vec()).ok(),
        BMP_STRING => {
            let units = content.chunks_exact(2).map(|pair| match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                _ => 0,
            });
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        // Printable, IA5 and teletex strings; Latin-1 is what the last usually holds.
        _ => Some(content.iter().map(|&byte| char::from(byte)).collect()),
    }
}

fn alternative_name(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        DNS_NAME => text(tag, content),
        IP_ADDRESS => match <[u8; 4]>::try_from(content) {
            Ok(v4) => Some(IpAddr::from(v4).to_string()),
            Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(content).ok()?).to_string()),
        },
        _ => None,
    }
}

/// What is left of a sequence of DER values.
struct DerReader<'a>(&'a [u8]);

impl<'a> DerReader<'a> {
    /// Takes the next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        const LONG_FORM: u8 = 0x80;
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= LONG_FORM {
            // Three bytes are sixteen megabytes; no certificate needs them.
            let digits = usize::from(first - LONG_FORM);
            let (bytes, after) = rest.split_at_checked(digits)?;
            if digits == 0 || digits > 3 {
                return None;
            }
            length = bytes
                .iter()
                .fold(0, |sum, &byte| (sum << 8) | usize::from(byte));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<DerReader<'a>> {
        let (tag, content) = self.next()?;
        (tag == wanted).then_some(DerReader(content))
    }

    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }

    fn time(&mut self) -> Option<SystemTime> {
        let (tag, content) = self.next()?;
        let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (century, rest) = match tag {
            GENERALIZED_TIME => text.split_at_checked(2)?,
            // RFC 5280, 4.1.2.5.1.
            UTC_TIME if text < "50" => ("20", text),
            UTC_TIME => ("19", text),
            _ => return None,
        };
        if rest.len() != "YYMMDDhhmmss".len() {
            return None;
        }
        let part = |at: usize| rest.get(at..at + 2)?.parse().ok();
        let year = century.parse::<u64>().ok()? * 100 + part(0)?;
        // What began before all computers counts from their beginning.
        if year < 1970 {
            return Some(SystemTime::UNIX_EPOCH);
        }
        time([year, part(2)?, part(4)?, part(6)?, part(8)?, part(10)?])
    }
}

/// Returns the time of a TLS library's clock.
pub(crate) fn system_time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn issue() -> (CertificateParams, KeyPair) {
        let names = ["gw-7.example.com", "10.0.0.7", "fd00::7"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(1998, 2, 28);
        params.not_after = date_time_ymd(2051, 12, 31);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Acme");
        params
            .distinguished_name
            .push(DnType::CommonName, "gateway-7 ü");
        (params, KeyPair::generate().unwrap())
    }

    #[test]
    fn reads_what_people_ask_for() {
        let (params, key) = issue();
        let der = params.self_signed(&key).unwrap();
        let certificate = Certificate::read(der.der()).unwrap();
        assert!(certificate.is_self_issued && !certificate.is_ca);
        assert_eq!(
            certificate.to_string(),
            "'gateway-7 ü' for gw-7.example.com, 10.0.0.7, fd00::7, issued by itself, \
             valid from 1998-02-28T00:00:00Z until 2051-12-31T00:00:00Z"
        );
    }

    #[test]
    fn names_the_issuer() {
        let (mut ca, ca_key) = issue();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name
            .push(DnType::OrganizationName, "Acme CA");
        assert!(
            Certificate::read(ca.self_signed(&ca_key).unwrap().der())
                .unwrap()
                .is_ca
        );
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let (mut params, key) = issue();
        params.subject_alt_names.clear();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.signed_by(&key, &issuer).unwrap();
        let words = Certificate::read(der.der()).unwrap().to_string();
        assert!(
            words.starts_with("(no name) for no host at all, issued by 'Acme CA', valid from"),
            "{words}"
        );
    }

    proptest! {
        #[test]
        fn survives_whatever_is_no_certificate(
            position in 0..400usize,
            byte in any::<u8>(),
            length in 0..1000usize,
        ) {
            let (params, key) = issue();
            let mut der = params.self_signed(&key).unwrap().der().to_vec();
            if let Some(place) = der.get_mut(position) {
                *place = byte;
            }
            der.truncate(length);
            if let Some(certificate) = Certificate::read(&der) {
                certificate.to_string();
            }
        }
    }
}
