//! A policy, a target, and the address that it led to, a line each.
//!
//! Nothing that is denied or never reached is reached, however the address is written or wrapped,
//! and a name is refused early only where no address would help.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smartrest::Target;

use crate::tunnel::policy::{Pattern, Policy};

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let (allow, deny) = (patterns(line()), patterns(line()));
    let (host, port, address) = (line(), line(), line());
    let Ok(target) = Target::parse(host, port) else {
        return;
    };
    assert!(target.port() > 0 && target.host().is_ascii());
    let literal = target.host().parse::<IpAddr>().ok();
    let Some(address) = literal.or_else(|| address.trim().parse().ok()) else {
        let _ = Policy::new(allow, deny).check_name(&target);
        return;
    };
    let policy = Policy::new(allow.clone(), deny.clone());
    let decision = policy.check(&target, address);
    if policy.check_name(&target).is_err() {
        assert!(decision.is_err(), "{target} at {address}");
    }
    assert_eq!(policy.check(&target, address.to_canonical()), decision);
    if decision.is_ok() {
        let only_denied = Policy::new(deny.clone(), Vec::new());
        assert!(only_denied.check(&target, address).is_err(), "{target}");
        assert!(!is_link_local(address), "{target} at {address}");
    }
    // Whatever wraps it leads no further than it does itself.
    if let IpAddr::V4(address) = address.to_canonical()
        && literal.is_none()
        && denies(&deny, &target, address.into())
    {
        for wrapped in wrapped(address) {
            let decision = policy.check(&target, wrapped.into());
            assert!(decision.is_err(), "{target} at {wrapped}");
        }
    }
}

fn patterns(line: &str) -> Vec<Pattern> {
    let patterns = line.split(' ').filter_map(|text| text.parse().ok());
    patterns.take(16).collect()
}

fn denies(deny: &[Pattern], target: &Target, address: IpAddr) -> bool {
    let only_denied = Policy::new(deny.to_vec(), Vec::new());
    only_denied.check(target, address).is_ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The IPv6 addresses by which a network may lead to an IPv4 address.
fn wrapped(address: Ipv4Addr) -> [Ipv6Addr; 8] {
    let bits = u128::from(u32::from(address));
    let at = |prefix: u128| Ipv6Addr::from(prefix | bits);
    [
        address.to_ipv6_mapped(),
        at(0),
        at(0x0064_ff9b << 96),
        at(0x0064_ff9b_0001 << 80),
        Ipv6Addr::from((0x2002 << 112) | (bits << 80) | 1),
        at((0x2001_0db8 << 96) | (0x5efe << 32)),
        at((0x2001_0db8 << 96) | (0x0200_5efe << 32)),
        at(0xffff_0000 << 32),
    ]
}
