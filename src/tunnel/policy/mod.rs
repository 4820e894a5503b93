//! May this host, this address, this port be reached? Pure.
//!
//! A name says nothing about where it leads: whoever controls the DNS controls the answer. So the
//! decision is made about each address that is about to be dialled ([`Policy::check`]), and a name
//! is only refused early where no address could help ([`Policy::check_name`]). Resolving and
//! dialling are left to the caller.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod pattern;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smartrest::Target;

pub(crate) use pattern::{Pattern, PatternError};

/// What the cloud's users may reach through this gateway. `deny` wins over `allow`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

/// Which rule keeps a target from being reached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denied {
    /// No configuration can open this address.
    #[error("{what} is never reached: it is {kind}")]
    Never {
        /// The address, behind the name that led to it.
        what: String,
        /// What the address is, as "a multicast address".
        kind: &'static str,
    },
    /// A pattern of `remote_access.deny` names it.
    #[error("the policy denies {what} (remote_access.deny: {pattern})")]
    ByPattern {
        /// The target, and the address it led to.
        what: String,
        /// The first pattern that names it.
        pattern: Pattern,
    },
    /// No pattern of `remote_access.allow` names it.
    #[error("the policy does not allow {what} (remote_access.allow)")]
    NotAllowed {
        /// The target, and the address it led to.
        what: String,
    },
}

const LINK_LOCAL: &str = "a link-local address";
const MULTICAST: &str = "a multicast address";
const UNSPECIFIED: &str = "an unspecified address";
const METADATA: &str = "a metadata address of a cloud";

/// Reached under no policy. The metadata services hand out credentials to whoever asks from the
/// machine itself; some of their addresses lie within fc00::/7 and would pass for private.
const NEVER: [(IpNet, &str); 15] = [
    (v4([0, 0, 0, 0], 8), UNSPECIFIED),
    (v4([169, 254, 0, 0], 16), LINK_LOCAL),
    (v4([224, 0, 0, 0], 4), MULTICAST),
    (v4([255, 255, 255, 255], 32), "the broadcast address"),
    (v4([100, 100, 100, 200], 32), METADATA),
    (v6([0; 8], 128), UNSPECIFIED),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), LINK_LOCAL),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), MULTICAST),
    (v4([168, 63, 129, 16], 32), METADATA),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), METADATA),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), METADATA),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
    (v4([192, 0, 0, 192], 32), METADATA),
    (v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128), METADATA),
    (v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128), METADATA),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

impl Policy {
    /// Takes the rules. An empty `allow` allows nothing.
    pub fn new(allow: Vec<Pattern>, deny: Vec<Pattern>) -> Self {
        Self { allow, deny }
    }

    /// Returns the rules for another process, a line each; [`Policy::from_rules`] reads them.
    pub(crate) fn to_rules(&self) -> String {
        let allow = self.allow.iter().map(|pattern| format!("+{pattern}\n"));
        let deny = self.deny.iter().map(|pattern| format!("-{pattern}\n"));
        allow.chain(deny).collect()
    }

    /// Reads the rules; `None` where one of them makes no sense.
    pub(crate) fn from_rules(rules: &str) -> Option<Self> {
        let mut policy = Self::new(Vec::new(), Vec::new());
        for rule in rules.lines() {
            let (patterns, pattern) = match rule.strip_prefix('+') {
                Some(pattern) => (&mut policy.allow, pattern),
                None => (&mut policy.deny, rule.strip_prefix('-')?),
            };
            patterns.push(pattern.parse().ok()?);
        }
        Some(policy)
    }

    /// Decides about an address that is about to be dialled for `target`.
    pub fn check(&self, target: &Target, address: IpAddr) -> Result<(), Denied> {
        let address = address.to_canonical();
        let literal = literal(target);
        // A network's translator or tunnel end may lead from the address to the IPv4 address
        // inside it. What is forbidden is forbidden both ways; what is allowed is not widened.
        let seen: Vec<_> = [address].into_iter().chain(embedded(address)).collect();

        let what = || match literal {
            Some(_) => target.to_string(),
            None => format!("{target} at {address}"),
        };
        if let Some(kind) = seen.iter().find_map(|&address| never(address)) {
            let what = match literal {
                Some(_) => address.to_string(),
                None => format!("{} at {address}", target.host()),
            };
            return Err(Denied::Never { what, kind });
        }
        let denies = |rule: &&Pattern| {
            rule.names(target)
                || seen
                    .iter()
                    .any(|&address| rule.covers(address, target.port()))
        };
        if let Some(pattern) = self.deny.iter().find(denies) {
            return Err(Denied::ByPattern {
                what: what(),
                pattern: pattern.clone(),
            });
        }
        let allows = |rule: &Pattern| rule.names(target) || rule.covers(address, target.port());
        if self.allow.iter().any(allows) {
            Ok(())
        } else {
            Err(Denied::NotAllowed { what: what() })
        }
    }

    /// Refuses a target that no address could make reachable, before its name is resolved.
    pub fn check_name(&self, target: &Target) -> Result<(), Denied> {
        if let Some(address) = literal(target) {
            return self.check(target, address);
        }
        if let Some(pattern) = self.deny.iter().find(|rule| rule.names(target)) {
            return Err(Denied::ByPattern {
                what: target.to_string(),
                pattern: pattern.clone(),
            });
        }
        let may_lead_there = |rule: &Pattern| rule.names(target) || rule.covers_port(target.port());
        if self.allow.iter().any(may_lead_there) {
            Ok(())
        } else {
            Err(Denied::NotAllowed {
                what: target.to_string(),
            })
        }
    }
}

/// One line, for the log at the start.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |patterns: &[Pattern]| {
            let texts: Vec<_> = patterns.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        match self.allow.as_slice() {
            [] => f.write_str("allow nothing")?,
            allow => write!(f, "allow {}", list(allow))?,
        }
        match self.deny.as_slice() {
            [] => Ok(()),
            deny => write!(f, "; deny {}", list(deny)),
        }
    }
}

/// The address that a target gives in place of a name.
fn literal(target: &Target) -> Option<IpAddr> {
    target.host().parse().ok()
}

/// The IPv4 addresses that an IPv6 address may lead to: as IPv4-compatible, through a tunnel (6to4,
/// Teredo, ISATAP), or through a translator: SIIT (RFC 2765, 2.1), or NAT64 in each of the forms of
/// RFC 6052, 2.2 that it may be meant in.
///
/// Which prefix a site's own translator has is not known here. So every address counts as one of
/// its, whose form says nothing against it: octet 8 is zero, and so is what stands behind the IPv4
/// address. Ordinary addresses hardly ever have that form, and only what `deny` names and no target
/// should be is refused for it.
fn embedded(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let address = match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    };
    address.into_iter().flat_map(|address| {
        let certain = match address.segments() {
            // `::` and `::1` are addresses of their own.
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
            [0, 0, 0, 0, 0, 0, _, _]
            | [0, 0, 0, 0, 0xffff, 0, _, _]
            | [0x64, 0xff9b, 0, 0, 0, 0, _, _]
            | [_, _, _, _, 0 | ISATAP_UNIQUE, ISATAP, _, _] => at(address, 96),
            [0x2002, ..] => at(address, 16),
            // The machine's address has every bit turned around (RFC 4380, 4).
            [0x2001, 0, ..] => at(address, 96).map(|found| Ipv4Addr::from(!u32::from(found))),
            _ => None,
        };
        let possible = FORMS.into_iter().filter_map(move |prefix_length| {
            let found = at(address, prefix_length)?;
            let is_certain = LOCAL_TRANSLATORS.contains(&address) && prefix_length >= 48;
            let fits = is_certain || has_form(address, prefix_length);
            // What cannot be dialled is no sign of a translator.
            (fits && matches!(found.octets()[0], 1..=223)).then_some(found)
        });
        certain.into_iter().chain(possible).map(IpAddr::V4)
    })
}

/// Of an interface whose link is an IPv4 network (RFC 5214, 6.1): in front of the address, and in
/// front of that where the address is no private one.
const ISATAP: u16 = 0x5efe;
const ISATAP_UNIQUE: u16 = 0x0200;
/// Lengths of the prefix in front of an IPv4 address (RFC 6052, 2.2).
const FORMS: [u32; 6] = [32, 40, 48, 56, 64, 96];
/// Bits 64 to 71, around which the IPv4 address goes in all forms but the last.
const RESERVED: u128 = 0xff << 56;
/// For translators of a site, in whatever form (RFC 8215).
const LOCAL_TRANSLATORS: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);

/// Returns the IPv4 address behind a prefix of so many bits.
fn at(address: Ipv6Addr, prefix_length: u32) -> Option<Ipv4Addr> {
    const BEHIND: u128 = (1 << 56) - 1;
    let bits = u128::from(address);
    let bits = match prefix_length {
        // Tunnels and the last form know no reserved octet.
        16 | 96 => bits,
        // Closes the gap, so that the address stands in one piece; its end moves by an octet.
        _ => (bits & !(RESERVED | BEHIND)) | ((bits & BEHIND) << 8),
    };
    let shifted = bits >> 96_u32.checked_sub(prefix_length)?;
    Some(Ipv4Addr::from((shifted & u128::from(u32::MAX)) as u32))
}

/// Whether an address may have been made by a translator whose prefix has so many bits.
fn has_form(address: Ipv6Addr, prefix_length: u32) -> bool {
    let bits = u128::from(address);
    // The IPv4 address, and with it the reserved octet.
    let suffix = match prefix_length {
        96 => 0,
        32 => u128::MAX >> 64,
        length => u128::MAX >> (length + 32 + 8),
    };
    bits & (suffix | RESERVED) == 0
}

fn never(address: IpAddr) -> Option<&'static str> {
    let contains = |(network, _): &&(IpNet, &str)| network.contains(&address);
    NEVER.iter().find(contains).map(|&(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::pattern::PRIVATE;
    use super::*;

    fn target(text: &str) -> Target {
        let (host, port) = text.rsplit_once(':').unwrap();
        Target::parse(host, port).unwrap()
    }

    fn patterns(text: &str) -> Vec<Pattern> {
        let parse = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text} {e}"));
        text.split_whitespace().map(parse).collect()
    }

    fn policy(allow: &str, deny: &str) -> Policy {
        Policy::new(patterns(allow), patterns(deny))
    }

    fn complaint(result: Result<(), Denied>) -> String {
        result.map_or_else(|denied| denied.to_string(), |()| "reached".to_owned())
    }

    #[test]
    fn is_the_same_in_another_process() {
        for policy in [
            policy(
                "private *.lan:22 [fd00::7]:1-2",
                "10.0.0.0/8:5900-5910 plc-7",
            ),
            policy("", ""),
            policy("", "plc-7"),
        ] {
            assert_eq!(Policy::from_rules(&policy.to_rules()), Some(policy));
        }
        for nonsense in ["private\n", "+private\n-private:x\n", "\n"] {
            assert_eq!(Policy::from_rules(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn allows_what_a_pattern_names() {
        for (allow, asked, address, reached) in [
            ("plc-7", "plc-7:22", "10.0.0.7", true),
            ("plc-7", "PLC-7.:22", "8.8.8.8", true),
            ("PLC-7.", "plc-7:22", "10.0.0.7", true),
            ("plc-7", "plc-70:22", "10.0.0.7", false),
            ("plc-7", "10.0.0.7:22", "10.0.0.7", false),
            ("plc-7:22", "plc-7:22", "10.0.0.7", true),
            ("plc-7:22", "plc-7:23", "10.0.0.7", false),
            ("plc-7:22-24", "plc-7:24", "10.0.0.7", true),
            ("plc-7:22-24", "plc-7:25", "10.0.0.7", false),
            ("*.lan", "plc-7.lan:22", "10.0.0.7", true),
            ("*.lan", "a.b.LAN.:22", "10.0.0.7", true),
            ("*.lan", "lan:22", "10.0.0.7", false),
            ("*.lan", "plc-7.wlan:22", "10.0.0.7", false),
            ("*.lan:22", "plc-7.lan:23", "10.0.0.7", false),
            ("10.0.0.7", "10.0.0.7:22", "10.0.0.7", true),
            ("10.0.0.7:22", "10.0.0.7:22", "10.0.0.7", true),
            ("10.0.0.7", "anything:22", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.7:22", "10.0.0.8", false),
            ("10.0.0.0/8", "plc-7:22", "10.255.0.1", true),
            ("10.0.0.0/8", "plc-7:22", "11.0.0.1", false),
            ("10.0.0.0/8:22", "plc-7:22", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8:22-23", "plc-7:24", "10.0.0.1", false),
            ("::ffff:10.0.0.0/104", "plc-7:22", "10.0.0.1", true),
            ("::ffff:10.0.0.7", "plc-7:22", "10.0.0.7", true),
            ("2001:db8::7", "[2001:DB8:0::7]:22", "2001:db8::7", true),
            ("[2001:db8::7]:22", "plc-7:22", "2001:db8::7", true),
            ("[2001:db8::7]:22", "plc-7:23", "2001:db8::7", false),
            ("[2001:db8::/32]:22", "plc-7:22", "2001:db8:1::", true),
            ("2001:db8::/32:22", "plc-7:23", "2001:db8:1::", false),
            ("2001:db8::/32", "plc-7:23", "2001:db9::", false),
            ("::/0", "plc-7:22", "10.0.0.7", false),
            ("0.0.0.0/0", "plc-7:22", "64:ff9b::8.8.8.8", false),
            ("private", "localhost:22", "127.8.9.1", true),
            ("private", "localhost:22", "::1", true),
            ("Private", "plc-7:22", "10.0.0.7", true),
            ("private", "plc-7:22", "172.16.0.1", true),
            ("private", "plc-7:22", "172.31.255.255", true),
            ("private", "plc-7:22", "172.32.0.0", false),
            ("private", "plc-7:22", "192.168.1.1", true),
            ("private", "plc-7:22", "::ffff:192.168.1.1", true),
            ("private", "[::ffff:7f00:1]:22", "::ffff:7f00:1", true),
            ("private", "plc-7:22", "fd12::1", true),
            ("private", "plc-7:22", "fe00::1", false),
            ("private", "plc-7:22", "100.64.0.1", false),
            ("private", "plc-7:22", "8.8.8.8", false),
            ("private:22", "plc-7:22", "10.0.0.7", true),
            ("private:22", "plc-7:80", "10.0.0.7", false),
            ("", "plc-7:22", "10.0.0.7", false),
        ] {
            let result = policy(allow, "").check(&target(asked), address.parse().unwrap());
            assert_eq!(result.is_ok(), reached, "{allow}: {asked} at {address}");
        }
    }

    #[test]
    fn denies_what_a_pattern_names_whatever_is_allowed() {
        for (deny, asked, address, reached) in [
            ("plc-7", "PLC-7.:22", "10.0.0.7", false),
            ("plc-7", "plc-8:22", "10.0.0.7", true),
            ("plc-7:22", "plc-7:23", "10.0.0.7", true),
            ("*.lan", "plc-7.lan:22", "10.0.0.7", false),
            ("10.0.0.0/24", "plc-7:22", "10.0.0.7", false),
            ("10.0.0.0/24", "plc-7:22", "::ffff:10.0.0.7", false),
            ("10.0.0.0/24", "plc-7:22", "64:ff9b::10.0.0.7", false),
            ("10.0.0.0/24", "plc-7:22", "2002:a00:7::1", false),
            ("10.0.0.0/24", "plc-7:22", "10.0.1.7", true),
            ("10.0.0.7:22", "plc-7:23", "10.0.0.7", true),
            ("private", "plc-7:22", "127.0.0.1", false),
            ("private:22", "plc-7:23", "127.0.0.1", true),
        ] {
            let result = policy("private 0.0.0.0/0 ::/0 plc-7 plc-8 *.lan", deny)
                .check(&target(asked), address.parse().unwrap());
            assert_eq!(result.is_ok(), reached, "{deny}: {asked} at {address}");
        }
    }

    #[test]
    fn never_reaches_some_addresses() {
        for (address, kind) in [
            ("0.0.0.0", "an unspecified address"),
            ("0.1.2.3", "an unspecified address"),
            ("::", "an unspecified address"),
            ("169.254.0.1", "a link-local address"),
            ("169.254.169.254", "a link-local address"),
            ("::ffff:169.254.169.254", "a link-local address"),
            ("64:ff9b::169.254.169.254", "a link-local address"),
            ("2002:a9fe:a9fe::", "a link-local address"),
            ("::169.254.169.254", "a link-local address"),
            ("fe80::1", "a link-local address"),
            ("febf::1", "a link-local address"),
            ("224.0.0.251", "a multicast address"),
            ("239.255.255.250", "a multicast address"),
            ("ff02::fb", "a multicast address"),
            ("255.255.255.255", "the broadcast address"),
            ("100.100.100.200", "a metadata address of a cloud"),
            ("fd00:ec2::254", "a metadata address of a cloud"),
            ("fd20:ce::254", "a metadata address of a cloud"),
        ] {
            let policy = policy("private 0.0.0.0/0 ::/0 plc-7", "");
            let address = address.parse::<IpAddr>().unwrap();
            let shown = address.to_canonical();
            assert_eq!(
                complaint(policy.check(&target("plc-7:22"), address)),
                format!("plc-7 at {shown} is never reached: it is {kind}")
            );
            let literal = Target::parse(&address.to_string(), "22").unwrap();
            assert_eq!(
                complaint(policy.check_name(&literal)),
                format!("{shown} is never reached: it is {kind}")
            );
        }
    }

    #[test]
    fn is_not_led_around_by_a_translator() {
        let policy = policy("private 0.0.0.0/0 ::/0", "10.0.7.0/24 192.168.5.5:22");
        for address in [
            // RFC 6052, 2.4, with the address of a metadata service in place of the example.
            "2001:db8:a9fe:a9fe::",
            "2001:db8:1a9:fea9:fe::",
            "2001:db8:122:a9fe:a9:fe00::",
            "2001:db8:122:3a9:fe:a9fe::",
            "2001:db8:122:344:a9:fea9:fe00::",
            "2001:db8:122:344::169.254.169.254",
            "2001:67c:2b0:db32:0:1:169.254.169.254",
            "fd00:64::169.254.169.254",
            "fd00:64::169.254.0.1",
            "fd00:64::100.100.100.200",
            "fd00:64::168.63.129.16",
            // RFC 8215: everything there is a translator's, also where it is not as it should be.
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9fe:a9:fe00:1:2",
            "64:ff9b:1:a9fe:eea9:fe00:1:2",
            "64:ff9b:1:5a9:fe:a9fe::",
            "64:ff9b:1:5a9:fe:a9fe:0:7",
            "64:ff9b:1:5:a9:fea9:fe00::",
            "64:ff9b:1:5:a9:fea9:fe00:7",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:fffe::169.254.169.254",
            "64:ff9b:1:fffe:ff::169.254.169.254",
            // What may not be reached as it is, may not be reached so.
            "64:ff9b::10.0.7.1",
            "64:ff9b:1::10.0.7.1",
            "64:ff9b:1:a00:7:100::",
            "2001:db8:64::10.0.7.1",
            "2001:db8:0:7:a:7:100::",
            "fd00:64::192.168.5.5",
            "2002:a00:701::1",
            "::10.0.7.1",
            "::ffff:10.0.7.1",
        ] {
            let address = address.parse().unwrap();
            let result = policy.check(&target("plc-7:22"), address);
            assert!(
                matches!(result, Err(Denied::Never { .. } | Denied::ByPattern { .. })),
                "{address}: {result:?}"
            );
        }
    }

    #[test]
    fn takes_ordinary_addresses_for_what_they_are() {
        let policy = policy("::/0", "private");
        for address in [
            "2001:db8::1",
            "2001:db8::10",
            "2001:db8::a:b",
            "2001:db8::53:1",
            "2001:db8:a00:7::1",
            "2001:db8:c0a8:101::53",
            // Octet 8 is none of a translator's.
            "2001:db8:a00:7:ff00::",
            "2001:db8:1:2:211:22ff:fe33:4455",
            "2001:db8:1:2:a00:7ff:fe33:4455",
            "2001:db8:1:2:5054:ff:fea0:107",
            "2001:db8:1:2:9c3b:7f2a:a00:7",
            "2001:db8:1:2:1:2:3:4",
            "2001:db8:1:2:10:0:0:7",
            "2001:db8:1:2:192:168:1:7",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:fffe::8.8.8.8",
            "2002:808:808::1",
        ] {
            let address = address.parse().unwrap();
            let result = policy.check(&target("plc-7:22"), address);
            assert_eq!(result, Ok(()), "{address}");
        }
        // The default allows what a site has numbered by itself.
        let policy = self::policy("private", "");
        for address in ["fd12::1", "fd12:3456:789a:1::192.168.1.7", "fd00::8.8.8.8"] {
            let address = address.parse().unwrap();
            assert_eq!(
                policy.check(&target("plc-7:22"), address),
                Ok(()),
                "{address}"
            );
        }
    }

    #[test]
    fn says_which_rule_refuses() {
        for (asked, address, words) in [
            (
                "8.8.8.8:53",
                "8.8.8.8",
                "the policy does not allow 8.8.8.8:53 (remote_access.allow)",
            ),
            (
                "dns.example:53",
                "8.8.8.8",
                "the policy does not allow dns.example:53 at 8.8.8.8 (remote_access.allow)",
            ),
            (
                "10.0.0.5:22",
                "10.0.0.5",
                "the policy denies 10.0.0.5:22 (remote_access.deny: 10.0.0.0/24)",
            ),
            (
                "plc-5:22",
                "10.0.0.5",
                "the policy denies plc-5:22 at 10.0.0.5 (remote_access.deny: 10.0.0.0/24)",
            ),
            (
                "safe.LAN:22",
                "10.1.0.5",
                "the policy denies safe.LAN:22 at 10.1.0.5 (remote_access.deny: *.lan:22)",
            ),
            ("plc-5:22", "10.1.0.5", "reached"),
        ] {
            let policy = policy("private", "10.0.0.0/24 *.lan:22");
            let address = address.parse().unwrap();
            assert_eq!(complaint(policy.check(&target(asked), address)), words);
        }
    }

    #[test]
    fn refuses_a_name_early_only_if_no_address_could_help() {
        for (allow, deny, asked, refused) in [
            ("private", "", "plc-7:22", false),
            ("private:80", "", "plc-7:22", true),
            ("10.0.0.0/8:22", "", "plc-7:22", false),
            ("plc-8 *.lan", "", "plc-7:22", true),
            ("plc-8 *.lan", "", "plc-7.lan:22", false),
            ("plc-7:22", "", "plc-7:23", true),
            ("private", "plc-7", "plc-7:22", true),
            ("private", "plc-7:80", "plc-7:22", false),
            ("private", "0.0.0.0/0", "plc-7:22", false),
            ("private", "", "10.0.0.7:22", false),
            ("private", "10.0.0.7", "10.0.0.7:22", true),
            ("private", "", "[2001:db8::7]:22", true),
            ("", "", "plc-7:22", true),
        ] {
            let result = policy(allow, deny).check_name(&target(asked));
            assert_eq!(result.is_err(), refused, "{allow} / {deny}: {asked}");
        }
        assert_eq!(
            complaint(policy("", "").check_name(&target("plc-7:22"))),
            "the policy does not allow plc-7:22 (remote_access.allow)"
        );
    }

    #[test]
    fn knows_a_pattern_that_is_never_reached() {
        for (text, kind) in [
            ("169.254.169.254", Some(LINK_LOCAL)),
            ("169.254.0.0/16:80", Some(LINK_LOCAL)),
            ("::ffff:169.254.0.0/112", Some(LINK_LOCAL)),
            ("[fe80::1]:22", Some(LINK_LOCAL)),
            ("224.0.0.0/8", Some(MULTICAST)),
            ("0.0.0.0", Some(UNSPECIFIED)),
            ("::", Some(UNSPECIFIED)),
            ("fd00:ec2::254", Some(METADATA)),
            ("fd00:ec2::/32", Some(METADATA)),
            ("fd00:ec2::/31", None),
            ("0.0.0.0/0", None),
            ("169.254.0.0/15", None),
            ("private", None),
            ("metadata", None),
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.never_reached(), kind, "{text}");
        }
    }

    #[test]
    fn fits_on_a_line() {
        for (allow, deny, line) in [
            ("", "", "allow nothing"),
            ("private", "", "allow private"),
            (
                "private:22 *.lan",
                "10.0.0.1 plc-7:1-9",
                "allow private:22, *.lan; deny 10.0.0.1, plc-7:1-9",
            ),
        ] {
            assert_eq!(policy(allow, deny).to_string(), line);
        }
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        let network = prop::sample::select(
            NEVER
                .iter()
                .map(|(network, _)| *network)
                .chain(PRIVATE)
                .collect::<Vec<_>>(),
        );
        let within = (network, any::<u128>()).prop_map(|(network, bits)| match network {
            IpNet::V4(network) => {
                let host = u32::from(network.hostmask()) & bits as u32;
                IpAddr::V4((u32::from(network.network()) | host).into())
            }
            IpNet::V6(network) => {
                let host = u128::from(network.hostmask()) & bits;
                IpAddr::V6((u128::from(network.network()) | host).into())
            }
        });
        prop_oneof![any::<IpAddr>(), within]
    }

    fn any_patterns() -> impl Strategy<Value = String> {
        let host = prop_oneof![
            Just("private".to_owned()),
            Just("plc-7".to_owned()),
            Just("*.lan".to_owned()),
            Just("0.0.0.0/0".to_owned()),
            Just("[::/0]".to_owned()),
            any::<Ipv4Addr>().prop_map(|a| a.to_string()),
            any::<Ipv6Addr>().prop_map(|a| format!("[{a}]")),
            (any::<Ipv4Addr>(), 0..=32u8)
                .prop_map(|(a, l)| Ipv4Net::new(a, l).unwrap().trunc().to_string()),
        ];
        let ports = prop_oneof![Just(""), Just(":22"), Just(":20-30"), Just(":80")];
        let pattern = (host, ports).prop_map(|(host, ports)| format!("{host}{ports}"));
        prop::collection::vec(pattern, 0..5).prop_map(|patterns| patterns.join(" "))
    }

    fn any_target() -> impl Strategy<Value = Target> {
        let names = prop::sample::select(vec!["plc-7", "PLC-7.", "plc-8", "a.lan", "lan"]);
        let host = prop_oneof![
            names.prop_map(str::to_owned),
            any_address().prop_map(|address| address.to_string()),
        ];
        let port = prop::sample::select(vec!["22", "25", "80", "443"]);
        (host, port).prop_map(|(host, port)| Target::parse(&host, port).unwrap())
    }

    proptest! {
        #[test]
        fn treats_every_spelling_of_an_address_alike(
            allow in any_patterns(),
            deny in any_patterns(),
            target in any_target(),
            address in any::<Ipv4Addr>(),
        ) {
            let policy = policy(&allow, &deny);
            let mapped = IpAddr::V6(address.to_ipv6_mapped());
            prop_assert_eq!(policy.check(&target, address.into()), policy.check(&target, mapped));
        }

        #[test]
        fn reaches_nothing_that_is_denied_or_never_reached(
            allow in any_patterns(),
            deny in any_patterns(),
            target in any_target(),
            address in any_address(),
        ) {
            let reached = policy(&allow, &deny).check(&target, address).is_ok();
            let denied = policy(&deny, "").check(&target, address).is_ok();
            prop_assert!(!(reached && (denied || never(address.to_canonical()).is_some())));
        }

        #[test]
        fn refuses_a_name_early_only_if_every_address_is_refused(
            allow in any_patterns(),
            deny in any_patterns(),
            target in any_target(),
            address in any_address(),
        ) {
            let policy = policy(&allow, &deny);
            let address = literal(&target).unwrap_or(address);
            if policy.check_name(&target).is_err() {
                prop_assert!(policy.check(&target, address).is_err());
            }
        }
    }
}
