//! A TCP port that nobody else takes while it is between two owners.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Below what systems use for outgoing connections, so that none of them can take it meanwhile.
pub(super) const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A TCP port of 127.0.0.1 that no other test uses, in this process or another.
///
/// The UDP port of the same number is the lock: it is free for anybody's TCP, has one owner, and
/// goes back by itself when a test is killed.
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: UdpSocket,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        const ATTEMPTS: usize = 1000;
        (0..ATTEMPTS)
            .find_map(|_| {
                let number = fastrand::u16(PORTS);
                let lock = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
                Some(Self {
                    number,
                    _lock: lock,
                })
            })
            .expect("a free port")
    }
}
