//! The kernel's table of all TCP connections (`proc_pid_net(5)`). It is read for many tunnels at once.
//!
//! Its files stay open, since adit may not open any more of `/proc` once it has confined itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::Ends;

/// How old the table may be.
const MAX_AGE: Duration = Duration::from_millis(100);
const IPV4: &str = "/proc/thread-self/net/tcp";
const IPV6: &str = "/proc/thread-self/net/tcp6";

thread_local! {
    static TABLES: RefCell<[Table; 2]> = RefCell::new([IPV4, IPV6].map(Table::open));
}

struct Table {
    /// Absent where the system has none.
    file: Option<File>,
    last: Option<Content>,
}

struct Content {
    read: Instant,
    /// Connections with bytes that the other side has not acknowledged.
    held: HashMap<Ends, u64>,
}

/// Opens what this thread is going to read.
pub(super) fn open() {
    TABLES.with_borrow(|_| ());
}

/// Returns the bytes that the other side has not acknowledged; 0 where there is no table.
///
/// What was written after `since` may be missing.
pub(super) fn held((near, far): Ends, since: Instant) -> u64 {
    let ends = (canonical(near), canonical(far));
    TABLES.with_borrow_mut(|[ipv4, ipv6]| {
        let table = match near {
            SocketAddr::V4(_) => ipv4,
            SocketAddr::V6(_) => ipv6,
        };
        table.since(since).held.get(&ends).copied().unwrap_or(0)
    })
}

impl Table {
    fn open(path: &str) -> Self {
        Self {
            file: File::open(path).ok(),
            last: None,
        }
    }

    fn since(&mut self, since: Instant) -> &Content {
        let now = Instant::now();
        let is_current =
            |last: &Content| last.read >= since && now.duration_since(last.read) < MAX_AGE;
        let last = self.last.take().filter(is_current);
        let current = last.unwrap_or_else(|| Content::parse(&self.text().unwrap_or_default(), now));
        self.last.insert(current)
    }

    fn text(&mut self) -> io::Result<String> {
        let mut text = String::new();
        if let Some(file) = &mut self.file {
            file.rewind()?;
            file.read_to_string(&mut text)?;
        }
        Ok(text)
    }
}

impl Content {
    fn parse(text: &str, read: Instant) -> Self {
        Self {
            read,
            held: text.lines().skip(1).filter_map(entry).collect(),
        }
    }
}

/// Reads a line of the table, `None` if nothing is held.
fn entry(line: &str) -> Option<(Ends, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, peer) = (words.next()?, words.next()?);
    let (outgoing, _) = words.nth(1)?.split_once(':')?;
    match u64::from_str_radix(outgoing, 16).ok()? {
        0 => None,
        held => Some(((address(local)?, address(peer)?), held)),
    }
}

/// Reads an address as the kernel prints it: words of 32 bits in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| {
        let word = u32::from_str_radix(ip.get(8 * n..8 * n + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// Without the scope that an address has and the table has not.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        let line = "   1: 0100007F:1F90 0200007F:0016 01 0000012C:00000000 01:00000014 00000000 0";
        // The machine's order is part of the format.
        if cfg!(target_endian = "little") {
            let connection = (
                "127.0.0.1:8080".parse().unwrap(),
                "127.0.0.2:22".parse().unwrap(),
            );
            assert_eq!(entry(line), Some((connection, 300)));
        }
        assert_eq!(entry(&line.replace("0000012C", "00000000")), None);
        for rubbish in ["", "1: x y z w", "1: 0100007F:1F90 0100007F 01 1:1"] {
            assert_eq!(entry(rubbish), None);
        }
    }
}
