//! What a rule of the policy says: hosts and ports, read from the words of an operator. Pure.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use smartrest::Target;

use super::{NEVER, literal, v4, v6};

/// A rule about hosts and ports, such as `plc-7:22`, `*.lan`, `10.0.0.0/8:5900-5910` or `private`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    /// As the operator wrote it, for messages.
    text: String,
    hosts: Hosts,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Hosts {
    /// Loopback, RFC 1918 and unique-local addresses.
    Private,
    Network(IpNet),
    Name(String),
    /// The part behind `*`, with its leading dot.
    Subdomains(String),
}

/// Why a text is not a pattern; a clause to stand behind the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// Nothing that a pattern could be.
    #[error(
        "is not a pattern such as \"plc-7:22\", \"*.lan\", \"10.0.0.0/8:5900-5910\", \
         \"[fd00::7]:22\" or \"private\""
    )]
    Form,
    /// The part behind the last colon is neither a port nor a range of ports.
    #[error("does not end with a port from 1 to 65535 or a range of ports such as 5900-5910")]
    Ports,
    /// The part behind the slash does not suit the address.
    #[error("has no prefix length from 0 to 32 (IPv4) or 128 (IPv6) behind the slash")]
    PrefixLength,
    /// `10.0.0.5/24` may mean the machine or its network.
    #[error("has address bits behind the prefix; the network is {0}")]
    HostBits(IpNet),
    /// The last label of a name cannot be a number, so an address was meant.
    #[error("is neither an IPv4 address nor a name")]
    Number,
    /// `*` alone.
    #[error("does not say which hosts; \"0.0.0.0/0\" and \"::/0\" are all addresses")]
    Star,
}

/// The longest DNS name.
const NAME_LIMIT: usize = 253;
const ALL_PORTS: RangeInclusive<u16> = 1..=u16::MAX;

pub(super) const PRIVATE: [IpNet; 6] = [
    v4([127, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
];

impl Pattern {
    /// Says what the addresses of the pattern are, if none of them is ever reached.
    pub fn never_reached(&self) -> Option<&'static str> {
        let Hosts::Network(network) = &self.hosts else {
            return None;
        };
        let within = |(never, _): &&(IpNet, &str)| never.contains(network);
        NEVER.iter().find(within).map(|&(_, kind)| kind)
    }

    /// Whether it may match an address and this port.
    pub(super) fn covers_port(&self, port: u16) -> bool {
        matches!(self.hosts, Hosts::Private | Hosts::Network(_)) && self.ports.contains(&port)
    }

    /// Whether this is a pattern of names that the target's name and port match.
    pub(super) fn names(&self, target: &Target) -> bool {
        let host = canonical_name(target.host());
        let matches = match &self.hosts {
            Hosts::Name(name) => host == *name,
            // Something has to stand in front of the dot.
            Hosts::Subdomains(end) => host
                .strip_suffix(end)
                .is_some_and(|front| !front.is_empty()),
            Hosts::Private | Hosts::Network(_) => false,
        };
        matches && literal(target).is_none() && self.ports.contains(&target.port())
    }

    /// Whether this is a pattern of addresses that a canonical address and a port match.
    pub(super) fn covers(&self, address: IpAddr, port: u16) -> bool {
        let matches = match &self.hosts {
            Hosts::Private => PRIVATE.iter().any(|network| network.contains(&address)),
            Hosts::Network(network) => network.contains(&address),
            Hosts::Name(_) | Hosts::Subdomains(_) => false,
        };
        matches && self.ports.contains(&port)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        let (host, ports) = split(text)?;
        Ok(Self {
            text: text.to_owned(),
            hosts: parse_hosts(host)?,
            ports: ports.map_or(Ok(ALL_PORTS), parse_ports)?,
        })
    }
}

/// Parts a pattern into hosts, without brackets, and ports.
fn split(text: &str) -> Result<(&str, Option<&str>), PatternError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(PatternError::Form)?;
        // Brackets are the sign of IPv6 and of nothing else.
        if !host.contains(':') {
            return Err(PatternError::Form);
        }
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(PatternError::Form),
        };
    }
    // Behind the slash of a network a colon can only begin the ports.
    let behind = text.find('/').unwrap_or(0);
    let bare_ipv6 = behind == 0 && text.matches(':').count() > 1;
    match text[behind..].split_once(':') {
        Some((before, ports)) if !bare_ipv6 => Ok((&text[..behind + before.len()], Some(ports))),
        _ => Ok((text, None)),
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, PatternError> {
    let port = |text: &str| match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(PatternError::Ports),
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let ports = port(from)?..=port(to)?;
    if ports.is_empty() {
        return Err(PatternError::Ports);
    }
    Ok(ports)
}

fn parse_hosts(text: &str) -> Result<Hosts, PatternError> {
    if let Some((address, length)) = text.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| PatternError::Form)?;
        let length = length.parse().map_err(|_| PatternError::PrefixLength)?;
        let network = IpNet::new(address, length).map_err(|_| PatternError::PrefixLength)?;
        if network != network.trunc() {
            return Err(PatternError::HostBits(network.trunc()));
        }
        return Ok(Hosts::Network(canonical_network(network)));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Hosts::Network(address.to_canonical().into()));
    }
    if text.eq_ignore_ascii_case("private") {
        return Ok(Hosts::Private);
    }
    if text == "*" {
        return Err(PatternError::Star);
    }
    let name = canonical_name(text);
    let subdomains = name.strip_prefix("*.");
    let labels = subdomains.unwrap_or(&name);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_label = |label: &str| !label.is_empty() && label.chars().all(fits);
    if labels.len() > NAME_LIMIT || !labels.split('.').all(is_label) {
        return Err(PatternError::Form);
    }
    // `127.1` and `0x7f.1` are addresses to a resolver, but no two spellings would match here.
    let last = labels.rsplit('.').next().unwrap_or_default();
    if last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(PatternError::Number);
    }
    Ok(match subdomains {
        Some(parent) => Hosts::Subdomains(format!(".{parent}")),
        None => Hosts::Name(name),
    })
}

/// An IPv4 network that is written as IPv4-mapped IPv6 becomes what it is.
fn canonical_network(network: IpNet) -> IpNet {
    const MAPPED_PREFIX: u8 = 96;
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped(),
        IpNet::V4(_) => None,
    };
    mapped
        .zip(network.prefix_len().checked_sub(MAPPED_PREFIX))
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        .map_or(network, IpNet::V4)
}

/// A name as it is compared: lower case, without the dot of the root.
fn canonical_name(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn says_what_is_wrong_with_a_pattern() {
        let form = PatternError::Form;
        let ports = PatternError::Ports;
        let length = PatternError::PrefixLength;
        for (text, wrong) in [
            ("", form),
            (":22", form),
            ("plc 7", form),
            ("plc-7,plc-8", form),
            ("a..b", form),
            ("*lan", form),
            ("*.", form),
            ("*.*.lan", form),
            ("plc-*.lan", form),
            ("müller.lan", form),
            ("[plc-7]:22", form),
            ("[10.0.0.7]:22", form),
            ("[fd00::7", form),
            ("[fd00::7]22", form),
            ("[fd00::7]]:22", form),
            ("fe80::1%eth0", form),
            ("https://plc-7", form),
            ("plc-7/24", form),
            ("1:2:3", form),
            ("plc-7:", ports),
            ("plc-7:0", ports),
            ("plc-7:+22", ports),
            ("plc-7:65536", ports),
            ("plc-7:ssh", ports),
            ("plc-7:30-20", ports),
            ("plc-7:20-", ports),
            ("plc-7:20-30-40", ports),
            ("10.0.0.0/8:", ports),
            ("10.0.0.0/33", length),
            ("10.0.0.0/", length),
            ("fd00::/129", length),
            ("10.0.0.5/24", PatternError::HostBits(v4([10, 0, 0, 0], 24))),
            ("10.0.0", PatternError::Number),
            ("10.0.0.300", PatternError::Number),
            ("127.1", PatternError::Number),
            ("0x7f.0x1", PatternError::Number),
            ("*", PatternError::Star),
            ("*:22", PatternError::Star),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(wrong), "{text}");
        }
        let long = "a".repeat(NAME_LIMIT + 1);
        assert_eq!(long.parse::<Pattern>(), Err(form));
        assert!(long[1..].parse::<Pattern>().is_ok());
    }

    proptest! {
        #[test]
        fn reads_any_text_without_panic(text in "\\PC{0,20}|[\\[\\]0-9a-f:./*-]{0,20}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }
    }
}
