//! The kernel's socket diagnosis (`sock_diag(7)`): one question about one TCP connection.
//!
//! Numbers are in the machine's order, addresses and ports in the network's.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::Ends;

// From linux/netlink.h, linux/socket.h, linux/sock_diag.h and linux/in.h.
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// `nlmsghdr` and `inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;
/// Room for a `nlmsghdr`, an `inet_diag_msg` and the attributes that the kernel adds by itself.
const ANSWER: usize = 1024;
/// Where `inet_diag_msg.idiag_wqueue` is in the answer.
const OUTGOING: usize = 16 + 60;

/// Returns the bytes that the other side has not acknowledged; `None` if the kernel does not
/// answer, or does not know the connection.
pub(super) fn held(ends: Ends) -> Option<u64> {
    let mut answer = [0; ANSWER];
    let length = ask(&request(ends)?, &mut answer).ok()?;
    outgoing(answer.get(..length)?)
}

/// The kernel has answered by the time the question is sent, so nothing waits here.
fn ask(request: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let protocol = Some(Protocol::from(NETLINK_SOCK_DIAG));
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, protocol)?;
    socket.set_nonblocking(true)?;
    (&socket).write_all(request)?;
    (&socket).read(answer)
}

fn request((near, far): Ends) -> Option<Vec<u8>> {
    let (near_ip, far_ip) = (near.ip().to_canonical(), far.ip().to_canonical());
    let family = match (near_ip, far_ip) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AF_INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AF_INET6,
        _ => return None,
    };
    // An address that is valid on one link only belongs to an interface.
    let interface = match near {
        SocketAddr::V6(near) => near.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend((REQUEST as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: there is one question, and the kernel knows who asks.
    bytes.extend([0; 8]);
    // No attributes, one byte of padding, sockets of every state.
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(near.port().to_be_bytes());
    bytes.extend(far.port().to_be_bytes());
    for ip in [near_ip, far_ip] {
        let mut place = [0; 16];
        match ip {
            IpAddr::V4(ip) => place[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => place = ip.octets(),
        }
        bytes.extend(place);
    }
    bytes.extend(interface.to_ne_bytes());
    // Any cookie.
    bytes.extend([0xff; 8]);
    Some(bytes)
}

fn outgoing(answer: &[u8]) -> Option<u64> {
    let kind = answer.get(4..6)?.try_into().ok()?;
    if u16::from_ne_bytes(kind) != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let bytes = answer.get(OUTGOING..OUTGOING + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(near: &str, far: &str) -> Ends {
        (near.parse().unwrap(), far.parse().unwrap())
    }

    #[test]
    fn asks_for_one_connection() {
        // The machine's order is part of the format.
        if cfg!(target_endian = "big") {
            return;
        }
        let head = b"\x48\0\0\0\x14\0\x01\0\0\0\0\0\0\0\0\0";
        let none = [0; 12];
        for (near, far) in [
            ("127.0.0.1:8080", "10.0.0.2:22"),
            ("[::ffff:127.0.0.1]:8080", "[::ffff:10.0.0.2]:22"),
        ] {
            let expected = [
                head,
                &b"\x02\x06\0\0\xff\xff\xff\xff\x1f\x90\0\x16"[..],
                b"\x7f\0\0\x01",
                &none,
                b"\x0a\0\0\x02",
                &none,
                b"\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            ]
            .concat();
            assert_eq!(request(ends(near, far)), Some(expected), "{near}");
        }
        let request = request(ends("[fe80::1%3]:1", "[fe80::2%3]:2")).unwrap();
        assert_eq!(request.len(), REQUEST);
        assert_eq!(request[16], AF_INET6);
        assert_eq!(request[28..30], [0xfe, 0x80]);
        assert_eq!(request[60..64], [3, 0, 0, 0]);
    }

    #[test]
    fn takes_no_number_from_anything_but_an_answer() {
        let mut answer = vec![0; OUTGOING + 4];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[OUTGOING..].copy_from_slice(&300_u32.to_ne_bytes());
        assert_eq!(outgoing(&answer), Some(300));
        assert_eq!(outgoing(&answer[..OUTGOING + 3]), None);
        const NLMSG_ERROR: u16 = 2;
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(outgoing(&answer), None);
        assert_eq!(outgoing(&[]), None);
    }

    #[test]
    fn knows_nothing_of_a_connection_that_is_not_there() {
        assert_eq!(held(ends("127.0.0.1:1", "127.0.0.1:2")), None);
        assert_eq!(held(ends("127.0.0.1:1", "[::1]:2")), None);
    }
}
