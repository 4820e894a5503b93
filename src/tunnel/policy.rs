//! Pure: may this host, this address, this port be reached?

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use smartrest::Target;

/// What may be reached.
#[derive(Clone, Debug)]
pub struct Policy {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

/// A rule about hosts.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Loopback and private ranges.
    Private,
    /// A network.
    Network(IpNet),
    /// A name or address as it stands in the row.
    Name(String),
}

/// Why a target may not be reached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the policy denies {0}")]
pub struct Denied(String);

impl FromStr for Pattern {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "private" => Self::Private,
            _ => match text.parse() {
                Ok(network) => Self::Network(network),
                Err(_) => Self::Name(text.to_owned()),
            },
        })
    }
}

impl Pattern {
    fn covers(&self, target: &Target, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Self::Name(name), _) => target.host() == name,
            (Self::Network(network), Some(address)) => network.contains(&address),
            (Self::Private, Some(IpAddr::V4(v4))) => v4.is_private() || v4.is_loopback(),
            (Self::Private, Some(IpAddr::V6(v6))) => v6.is_loopback() || v6.is_unique_local(),
            (Self::Network(_) | Self::Private, None) => false,
        }
    }
}

impl Policy {
    /// Makes a policy; `deny` wins over `allow`.
    pub fn new(allow: Vec<Pattern>, deny: Vec<Pattern>) -> Self {
        Self { allow, deny }
    }

    /// Decides about an address that is about to be dialled.
    pub fn check(&self, target: &Target, address: IpAddr) -> Result<(), Denied> {
        let listed = |list: &[Pattern]| list.iter().any(|p| p.covers(target, Some(address)));
        if listed(&self.deny) || !listed(&self.allow) {
            return Err(Denied(format!("{target} at {address}")));
        }
        Ok(())
    }

    /// Decides about a target before its name is resolved.
    pub fn check_name(&self, target: &Target) -> Result<(), Denied> {
        if self.deny.iter().any(|p| p.covers(target, None)) {
            return Err(Denied(target.to_string()));
        }
        Ok(())
    }
}
