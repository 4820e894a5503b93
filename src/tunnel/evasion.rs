//! Tries to get around the policy, each with what must come of it and why.
//!
//! A try goes the whole way from the hostname of a row to the addresses that would be dialled. What
//! the C library makes of a spelling is asked of it; what a name server says is up to the table,
//! and it says what somebody would say who wants to be let in.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smartrest::Target;
use tokio::net::TcpListener;

use super::lan::{self, DialError};
use super::policy::Policy;
use crate::net::resolve::Resolver;

const LIMIT: Duration = Duration::from_secs(10);
/// What an operator is meant to reach in most of the tries.
const SITE: &str = "private";
/// Everything but what must not be reached.
const EVERYTHING: &str = "0.0.0.0/0 ::/0 private";
const LOOPBACK: &str = "127.0.0.0/8 ::1";
const OFFICE: &str = "10.0.7.0/24";

/// Who says where a name leads.
#[derive(Clone, Copy)]
enum Names {
    /// The C library, which needs no name server for another spelling of an address.
    System,
    /// A name server.
    Lead(&'static [&'static str]),
    /// Nobody: the target is no name.
    Unasked,
}

#[derive(Debug, Eq, PartialEq)]
enum Outcome {
    /// The row is answered without a look at the policy.
    NoTarget,
    Refused,
    /// These addresses are dialled, in this order, and no others.
    Dialled(Vec<IpAddr>),
}

use Names::{Lead, System, Unasked};

/// `allow`, `deny`, the hostname of a row, who says where it leads, what must come of it, and why.
type Try = (
    &'static str,
    &'static str,
    &'static str,
    Names,
    Outcome,
    &'static str,
);

async fn hold(tries: impl IntoIterator<Item = Try>) {
    for (allow, deny, host, names, expected, why) in tries {
        assert_eq!(
            outcome(allow, deny, host, names).await,
            expected,
            "{host:?} {why}"
        );
    }
}

async fn outcome(allow: &str, deny: &str, host: &str, names: Names) -> Outcome {
    let Ok(target) = Target::parse(host, "22") else {
        return Outcome::NoTarget;
    };
    let resolver = match names {
        System => Resolver::for_machines(),
        Lead(addresses) => Resolver::answered_by(move |_| Ok(parse(addresses))),
        Unasked => Resolver::answered_by(|name| panic!("somebody is asked for {name}")),
    };
    let addresses = resolver.resolve(target.host());
    match lan::find(&target, &policy(allow, deny).into(), LIMIT, addresses).await {
        Ok(addresses) => Outcome::Dialled(addresses),
        Err(DialError::Denied(_)) => Outcome::Refused,
        Err(other) => panic!("{host}: {other}"),
    }
}

fn policy(allow: &str, deny: &str) -> Policy {
    let patterns = |text: &str| {
        let parse = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text} {e}"));
        text.split_whitespace().map(parse).collect()
    };
    Policy::new(patterns(allow), patterns(deny))
}

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

#[tokio::test]
async fn is_not_led_around_by_a_spelling() {
    let refused = || Outcome::Refused;
    let dialled = |addresses: &[&str]| Outcome::Dialled(parse(addresses));
    #[rustfmt::skip]
    let tries = [
        // What the C library takes for an address is judged as the address that it takes it for.
        (SITE, LOOPBACK, "127.1", System, refused(), "is 127.0.0.1"),
        (SITE, LOOPBACK, "127.0.1", System, refused(), "is 127.0.0.1"),
        (SITE, LOOPBACK, "0177.0.0.1", System, refused(), "octal"),
        (SITE, LOOPBACK, "0x7f.1", System, refused(), "hexadecimal"),
        (SITE, LOOPBACK, "0x7F.0.0x0.1", System, refused(), "mixed"),
        (SITE, LOOPBACK, "2130706433", System, refused(), "one number"),
        (SITE, LOOPBACK, "0x7f000001", System, refused(), "the same in hexadecimal"),
        (SITE, LOOPBACK, "017700000001", System, refused(), "the same in octal"),
        (SITE, "", "012.0.7.1", System, dialled(&["10.0.7.1"]), "octal, and allowed"),
        (SITE, "", "010.0.7.1", System, refused(), "is 8.0.7.1, not 10.0.7.1"),
        (SITE, OFFICE, "0xa000701", System, refused(), "is 10.0.7.1"),
        (EVERYTHING, "", "0", System, refused(), "is 0.0.0.0, which is this machine"),
        (EVERYTHING, "", "0x0", System, refused(), "the same"),
        (EVERYTHING, "", "2852039166", System, refused(), "is 169.254.169.254"),
        (EVERYTHING, "", "0251.0376.0251.0376", System, refused(), "is 169.254.169.254"),
        (EVERYTHING, "", "169.254.43518", System, refused(), "is 169.254.169.254"),
        (EVERYTHING, LOOPBACK, "LOCALHOST", System, refused(), "a name in upper case"),
        // What is written as an address needs nobody.
        (SITE, LOOPBACK, "127.0.0.1", Unasked, refused(), "denied as it stands"),
        (SITE, LOOPBACK, " 127.0.0.1\t", Unasked, refused(), "white space counts for nothing"),
        (SITE, LOOPBACK, "[::1]", Unasked, refused(), "brackets count for nothing"),
        (SITE, LOOPBACK, "0:0:0::0:1", Unasked, refused(), "is ::1"),
        (SITE, LOOPBACK, "::ffff:127.0.0.1", Unasked, refused(), "IPv4-mapped"),
        (SITE, LOOPBACK, "[::FFFF:7F00:1]", Unasked, refused(), "the same in hexadecimal"),
        (SITE, LOOPBACK, "::127.0.0.1", Unasked, refused(), "IPv4-compatible"),
        (SITE, "", "::127.0.0.1", Unasked, refused(), "what allows IPv4 allows no such address"),
        (SITE, "", "::ffff:10.0.7.1", Unasked, dialled(&["10.0.7.1"]), "an address of the site"),
        // What no resolver is to see.
        (EVERYTHING, "", "fe80::1%eth0", Unasked, Outcome::NoTarget, "a zone"),
        (EVERYTHING, "", "fe80::1%25eth0", Unasked, Outcome::NoTarget, "a zone as in a URL"),
        (EVERYTHING, "", "[fe80::1%1]", Unasked, Outcome::NoTarget, "a zone in brackets"),
        (EVERYTHING, "", "fe80::1", Unasked, refused(), "link-local without a zone"),
        (EVERYTHING, "", "[127.0.0.1]", Unasked, Outcome::NoTarget, "brackets are for IPv6"),
        (EVERYTHING, "", "[localhost]", Unasked, Outcome::NoTarget, "brackets are for IPv6"),
        (EVERYTHING, "", "[[::1]]", Unasked, Outcome::NoTarget, "brackets in brackets"),
        (EVERYTHING, "", "user@plc-7", Unasked, Outcome::NoTarget, "somebody's name"),
        (EVERYTHING, "", "user:pw@plc-7", Unasked, Outcome::NoTarget, "somebody's password"),
        (EVERYTHING, "", "127.0.0.1:80", Unasked, Outcome::NoTarget, "another port"),
        (EVERYTHING, "", "plc-7/", Unasked, Outcome::NoTarget, "a path"),
        (EVERYTHING, "", "plc-7#", Unasked, Outcome::NoTarget, "a fragment"),
        (EVERYTHING, "", "127。0。0。1", Unasked, Outcome::NoTarget, "dots of another script"),
        (EVERYTHING, "", "１２７.0.0.1", Unasked, Outcome::NoTarget, "full-width digits"),
        (EVERYTHING, "", "ⓛocalhost", Unasked, Outcome::NoTarget, "letters in circles"),
        (EVERYTHING, "", "loc\u{ad}alhost", Unasked, Outcome::NoTarget, "a soft hyphen"),
        (EVERYTHING, "", "plc\0.lan", Unasked, Outcome::NoTarget, "the end of a string in C"),
        (EVERYTHING, "", "plc-7..", Unasked, Outcome::NoTarget, "an empty label at the end"),
        (EVERYTHING, "", ".plc-7", Unasked, Outcome::NoTarget, "an empty label in front"),
        (EVERYTHING, "", "plc..lan", Unasked, Outcome::NoTarget, "an empty label within"),
        (EVERYTHING, "", ".", Unasked, Outcome::NoTarget, "the root"),
        (EVERYTHING, "", "", Unasked, Outcome::NoTarget, "nothing"),
        (EVERYTHING, "", "*.lan", Unasked, Outcome::NoTarget, "a pattern"),
        (EVERYTHING, "", "10.0.7.0/24", Unasked, Outcome::NoTarget, "a network"),
    ];
    hold(tries).await;
}

#[tokio::test]
async fn is_not_led_around_by_a_name() {
    let refused = || Outcome::Refused;
    let dialled = |addresses: &[&str]| Outcome::Dialled(parse(addresses));
    #[rustfmt::skip]
    let tries = [
        (SITE, LOOPBACK, "localhost.", Lead(&["127.0.0.1"]), refused(), "the dot of the root"),
        (SITE, LOOPBACK, "127.0.0.1.", Lead(&["127.0.0.1"]), refused(), "no address with it"),
        (SITE, LOOPBACK, "a.b.localhost", Lead(&["127.0.0.1"]), refused(), "below localhost"),
        (SITE, LOOPBACK, "ip6-loopback", Lead(&["::1"]), refused(), "a name of Debian's"),
        (SITE, LOOPBACK, "xn--bcher-kva.lan", Lead(&["127.0.0.1"]), refused(), "punycode"),
        (SITE, "plc-7", "PLC-7.", Lead(&["10.0.7.1"]), refused(), "the same name"),
        (SITE, "*.lan", "A.b.LAN.", Lead(&["10.0.7.1"]), refused(), "a name below it"),
        (SITE, "localhost", "a.localhost", Lead(&["10.0.7.1"]), dialled(&["10.0.7.1"]), "another"),
        // A chain of names ends with addresses, and those are judged whoever is on the way.
        (SITE, "", "alias.lan", Lead(&["8.8.8.8"]), refused(), "led out of the site"),
        (SITE, "", "alias.lan", Lead(&["169.254.169.254"]), refused(), "a metadata service"),
        ("*.lan", "", "alias.lan", Lead(&["169.254.169.254"]), refused(), "never, by any name"),
        ("*.lan", OFFICE, "alias.lan", Lead(&["10.0.7.1"]), refused(), "deny wins over the name"),
        ("*.lan", "", "alias.lan", Lead(&["fe80::1"]), refused(), "the zone is lost on the way"),
        (SITE, "", "alias.lan", Lead(&["0.0.0.0"]), refused(), "this machine by another name"),
        (SITE, "", "alias.lan", Lead(&["::"]), refused(), "this machine by another name"),
        (SITE, "", "alias.lan", Lead(&["255.255.255.255"]), refused(), "everybody"),
        // Of several addresses only those that may be are dialled.
        (SITE, OFFICE, "plc-7", Lead(&["10.0.7.1", "10.0.8.1", "8.8.8.8", "::ffff:10.0.7.2"]),
            dialled(&["10.0.8.1"]), "one of four"),
        (SITE, OFFICE, "plc-7", Lead(&["10.0.7.1", "8.8.8.8"]), refused(), "none of two"),
        (SITE, "", "plc-7", Lead(&["10.0.7.1", "::ffff:10.0.7.1", "10.0.7.1"]),
            dialled(&["10.0.7.1"]), "one that is written in three ways"),
    ];
    hold(tries).await;
}

#[tokio::test]
async fn is_not_led_around_by_what_a_network_makes_of_an_address() {
    #[rustfmt::skip]
    let tries = [
        ("::10.0.7.1", "IPv4-compatible"),
        ("::ffff:10.0.7.1", "IPv4-mapped"),
        ("::ffff:0:10.0.7.1", "IPv4-translated (RFC 2765)"),
        ("64:ff9b::10.0.7.1", "NAT64"),
        ("64:ff9b:1::10.0.7.1", "NAT64 of a site (RFC 8215)"),
        ("64:ff9b:1:a00:7:100::", "the same with 48 bits in front"),
        ("64:ff9b:1:50a:0:701::", "the same with 56"),
        ("64:ff9b:1:5:a:7:100::", "the same with 64"),
        ("2001:db8:a00:701::", "NAT64 with a prefix of 32 bits (RFC 6052)"),
        ("2001:db8:10a:7:1::", "with 40"),
        ("2001:db8:1:a00:7:100::", "with 48"),
        ("2001:db8:1:a:0:701::", "with 56"),
        ("2001:db8:1:2:a:7:100::", "with 64"),
        ("2001:db8:1:2:3::10.0.7.1", "with 96, and octet 8 in use"),
        ("2001:db8:1:2::10.0.7.1", "with 96"),
        ("2002:a00:701::", "6to4"),
        ("2002:a00:701:7:1:2:3:4", "6to4, a machine behind it"),
        ("2001:0:808:808:0:63bf:f5ff:f8fe", "Teredo: the address is turned around"),
        ("2001:db8:1:2:0:5efe:10.0.7.1", "ISATAP"),
        ("2001:db8:1:2:200:5efe:10.0.7.1", "ISATAP, of an address that is unique"),
        ("fd00:1:2:3:200:5efe:10.0.7.1", "ISATAP within a site"),
    ];
    for (address, why) in tries {
        let led_to = address.parse().unwrap();
        let names = || Resolver::answered_by(move |_| Ok(vec![led_to]));
        let target = Target::parse("plc-7", "22").unwrap();
        for (allow, deny) in [(EVERYTHING, OFFICE), ("plc-7", OFFICE)] {
            let names = names();
            let addresses = names.resolve("plc-7");
            let found = lan::find(&target, &policy(allow, deny).into(), LIMIT, addresses).await;
            assert!(
                matches!(found, Err(DialError::Denied(_))),
                "{address} {why}: {found:?}"
            );
        }
    }
    #[rustfmt::skip]
    let tries = [
        ("169.254.169.254", "most clouds"),
        ("169.254.170.2", "containers of AWS"),
        ("100.100.100.200", "Alibaba"),
        ("168.63.129.16", "Azure"),
        ("192.0.0.192", "Oracle"),
        ("fd00:ec2::254", "AWS"),
        ("fd00:ec2::23", "pods of AWS"),
        ("fd20:ce::254", "Google"),
        ("fd00:c1::a9fe:a9fe", "Oracle"),
        ("fd00:42::42", "Scaleway"),
        ("fd00:a9fe:a9fe::1", "Akamai"),
        ("fd00:100::100:200", "Alibaba"),
        ("fe80::a9fe:a9fe", "OpenStack"),
        ("2001:19f0:fc00::a9fe:a9fe", "Vultr"),
        ("::ffff:0:169.254.169.254", "through a translator"),
        ("2001:0:808:808:0:63bf:5601:5601", "through Teredo"),
        ("2001:db8:1:2:200:5efe:169.254.169.254", "through ISATAP"),
    ];
    for (address, why) in tries {
        let target = Target::parse(address, "80").unwrap();
        let denied = policy(EVERYTHING, "").check_name(&target);
        assert!(
            denied.is_err_and(|denied| denied.to_string().contains("never reached")),
            "{address} {why}"
        );
    }
}

#[tokio::test]
async fn dials_what_it_has_checked_though_the_name_leads_elsewhere_by_then() {
    let allowed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = allowed.local_addr().unwrap().port();
    let _denied = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let names = Resolver::answered_by(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(parse(&["127.0.0.1"])),
        _ => Ok(parse(&["127.0.0.2"])),
    });
    let target = Target::parse("plc-7", &port.to_string()).unwrap();
    let policy = policy(SITE, "127.0.0.2").into();
    let stream = lan::connect(&target, &policy, &names, LIMIT).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().ip(), parse(&["127.0.0.1"])[0]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // And the other way round: it was denied when it was checked.
    let refused = lan::connect(&target, &policy, &names, LIMIT).await;
    assert!(matches!(refused, Err(DialError::Denied(_))), "{refused:?}");
}

#[test]
fn takes_no_port_that_becomes_another() {
    for port in [
        "0",
        "-1",
        "+22",
        "65558",
        "4294967318",
        "0x16",
        "22.0",
        "２２",
        "22\0",
        "ssh",
        "",
    ] {
        assert!(Target::parse("plc-7", port).is_err(), "{port:?}");
    }
    for host in [
        "x".repeat(64),
        format!("{}x", "x.".repeat(127)),
        "x".repeat(1 << 20),
    ] {
        assert!(Target::parse(&host, "22").is_err(), "{} bytes", host.len());
    }
}
