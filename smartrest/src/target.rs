//! A machine and a port: one reading of `HOST:PORT`, wherever it is written.
//!
//! What is read here becomes a name for the resolver and a port, and can be used as such without
//! another look; whether the target may be reached is left to the policy. The errors are one clause,
//! short and without double quotes, and never repeat what may be a connection key in the place of a
//! port.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::text::plain_text;

/// Characters of a DNS name, without the dot that may stand at its end.
const NAME_LIMIT: usize = 253;
/// Characters of one part of a DNS name.
const LABEL_LIMIT: usize = 63;
/// Bytes of a faulty hostname that its error repeats.
const SHOWN_HOST: usize = 64;
/// Digits of a faulty port that its error repeats: enough for what is typed by mistake, and too few
/// for a key.
const SHOWN_PORT: usize = 7;

/// A machine and a port on the gateway's side.
///
/// Its text is `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    host: String,
    port: NonZeroU16,
}

/// Why a text names no machine and port.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// There is no port, or an IPv6 address stands without brackets. The text is cut.
    #[error("'{0}' is neither HOST:PORT nor [IPv6]:PORT")]
    Form(String),
    /// The hostname has characters that no name or address has, or is too long. The text is cut.
    #[error("the hostname '{0}' is neither a name nor an address")]
    Host(String),
    /// The port is a number that is none of a port.
    #[error("port {0} is not from 1 to 65535")]
    Port(String),
    /// The port is not a number. Its text is not repeated: in a row that lacks a value it may be
    /// the connection key.
    #[error("the port is not a number from 1 to 65535")]
    PortText,
}

impl Target {
    /// Reads a hostname (name, IPv4 or IPv6 address, the last with or without brackets) and a port.
    ///
    /// White space around them is left over from a form, and ignored. A port is digits: no sign.
    pub fn parse(host: &str, port: &str) -> Result<Self, TargetError> {
        Ok(Self {
            host: parse_host(host.trim())?.to_owned(),
            port: parse_port(port.trim())?,
        })
    }

    /// The name or the address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// Reads `host:port` or `[IPv6]:port`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        match split_port(text) {
            Some((host, Some(port))) if !port.is_empty() => Self::parse(host, port),
            _ => Err(TargetError::Form(plain_text(text, SHOWN_HOST))),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Parts `host`, `host:port`, `[IPv6]` and `[IPv6]:port`; the brackets go. `None` where it cannot be
/// told which colon begins the port, or brackets hold no IPv6 address.
pub fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':')?),
        };
        return host.contains(':').then_some((host, port));
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// Returns the name or the address, without brackets.
fn parse_host(host: &str) -> Result<&str, TargetError> {
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address = bracketed.unwrap_or(host);
    let is_address = address.parse::<Ipv6Addr>().is_ok();
    if is_address || (bracketed.is_none() && is_name(host)) {
        Ok(address)
    } else {
        Err(TargetError::Host(plain_text(host, SHOWN_HOST)))
    }
}

/// Whether the text can be a DNS name. IPv4 addresses look like one.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_label =
        |label: &str| !label.is_empty() && label.len() <= LABEL_LIMIT && label.chars().all(fits);
    name.len() <= NAME_LIMIT && name.split('.').all(is_label)
}

fn parse_port(port: &str) -> Result<NonZeroU16, TargetError> {
    let digits = port.strip_prefix('-').unwrap_or(port);
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    if !is_number || port.len() > SHOWN_PORT {
        return Err(TargetError::PortText);
    }
    port.parse().map_err(|_| TargetError::Port(port.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repeats_a_faulty_hostname_in_short() {
        for (host, shown) in [
            ("a b", "a b"),
            ("plc-7:22", "plc-7:22"),
            ("[plc-7]", "[plc-7]"),
            ("[10.0.0.1]", "[10.0.0.1]"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[::1", "[::1"),
            ("ssh://plc", "ssh://plc"),
            ("a..b", "a..b"),
            (".", "."),
            ("-\n\"x\"", "- 'x'"),
            ("plc\0", "plc"),
            ("grün.lan", "grün.lan"),
            (&"x".repeat(16 * 1024), &"x".repeat(64)),
            (&"ü".repeat(16 * 1024), &"ü".repeat(32)),
        ] {
            let error = Target::parse(host, "22").unwrap_err().to_string();
            let complaint = format!("the hostname '{shown}' is neither a name nor an address");
            assert_eq!(error, complaint, "{host:?}");
        }
    }

    #[test]
    fn takes_names_and_addresses() {
        let longest = [&"x".repeat(63), "."].concat().repeat(3) + &"x".repeat(61);
        for (host, port, text) in [
            ("plc-7", "22", "plc-7:22"),
            ("PLC_7.lan.", "1", "PLC_7.lan.:1"),
            ("10.0.0.67", "65535", "10.0.0.67:65535"),
            ("127.1", "5900", "127.1:5900"),
            ("::1", "22", "[::1]:22"),
            ("[fd00::7]", "22", "[fd00::7]:22"),
            ("::ffff:10.0.0.1", "22", "[::ffff:10.0.0.1]:22"),
            (" plc-7\t", "22 ", "plc-7:22"),
            ("plc-7", "0022", "plc-7:22"),
            (&longest, "22", &format!("{longest}:22")),
        ] {
            let target = Target::parse(host, port).unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(text.parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn reads_a_target_from_one_text() {
        let form = |text: &str| format!("'{text}' is neither HOST:PORT nor [IPv6]:PORT");
        let longest = "x".repeat(64);
        for (text, complaint) in [
            ("plc-7", form("plc-7")),
            ("plc-7:", form("plc-7:")),
            ("::1", form("::1")),
            ("fd00::7:22", form("fd00::7:22")),
            ("[::1]", form("[::1]")),
            ("[::1]:", form("[::1]:")),
            ("[::1]22", form("[::1]22")),
            ("[plc-7]:22", form("[plc-7]:22")),
            ("", form("")),
            ("\"a\"", form("'a'")),
            (&"x".repeat(1024), form(&longest)),
            (
                ":22",
                "the hostname '' is neither a name nor an address".to_owned(),
            ),
            (
                "plc-7:http",
                "the port is not a number from 1 to 65535".to_owned(),
            ),
            ("[::1]:0", "port 0 is not from 1 to 65535".to_owned()),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.to_string(), complaint, "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_every_target_it_has_written(host in "[a-z0-9:.\\[\\]_-]{1,20}", port: u16) {
            if let Ok(target) = Target::parse(&host, &port.to_string()) {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }

        #[test]
        fn reads_every_address(address: Ipv6Addr, port in 1_u16..) {
            let target = Target::parse(&address.to_string(), &port.to_string()).unwrap();
            prop_assert_eq!(target.to_string(), SocketAddrV6::new(address, port, 0, 0).to_string());
            prop_assert_eq!(target.to_string().parse(), Ok(target));
        }
    }
}
