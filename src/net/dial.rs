//! Connects to one of the addresses of a name, for the LAN side as for the cloud's.
//!
//! The addresses are tried as RFC 8305 says: families in turn, each attempt a moment after the one
//! before, the first to connect wins. Resolving the name, the time for all of it, and whether an
//! address may be tried when its turn comes, are left to the caller.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::tcp::Tcp;

/// How long an attempt runs alone: the "Connection Attempt Delay" of RFC 8305.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried. More come from a mistake or from somebody who uses the
/// gateway to knock on doors.
pub(crate) const ADDRESS_LIMIT: usize = 16;

/// Returns the addresses in the order in which they are tried: the families in turn, the one that
/// the resolver prefers first.
pub(crate) fn in_turn(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let preferred = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == preferred);
    let longer = first.len().max(second.len());
    (0..longer)
        .flat_map(|i| [first.get(i), second.get(i)])
        .flatten()
        .copied()
        .take(ADDRESS_LIMIT)
        .collect()
}

/// Returns the first connection that stands, or the most telling error once all have failed. `connect`
/// makes an attempt, and is called when its turn has come.
///
/// # Errors
/// What the most telling attempt failed with.
///
/// Dropping the future closes what is half open.
pub(crate) async fn first<A: Future<Output = io::Result<Tcp>>>(
    addresses: &[IpAddr],
    port: u16,
    connect: impl Fn(SocketAddr) -> A,
) -> io::Result<Tcp> {
    let mut waiting = addresses.iter().map(|&ip| SocketAddr::new(ip, port));
    let mut attempts = FuturesUnordered::new();
    let mut telling: Option<io::Error> = None;
    let mut next_at = Instant::now();
    loop {
        if next_at <= Instant::now() || attempts.is_empty() {
            match waiting.next() {
                Some(address) => attempts.push(connect(address)),
                None if attempts.is_empty() => break,
                None => {}
            }
            next_at = Instant::now() + ATTEMPT_DELAY;
        }
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    next_at = Instant::now();
                    if telling.as_ref().is_none_or(|other| weight(other) <= weight(&error)) {
                        telling = Some(error);
                    }
                }
            },
            () = sleep_until(next_at), if waiting.len() > 0 => {}
        }
    }
    Err(telling.unwrap_or_else(|| io::Error::other("no address")))
}

/// How much an error says about the machine, and not just about the way to it.
fn weight(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => 0,
        io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut => 1,
        _ => 2,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::net::Ipv4Addr;

    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    /// A port whose queue of unaccepted connections is full, so that a further one hangs.
    pub(crate) async fn black_hole() -> (Vec<TcpStream>, socket2::Socket, SocketAddr) {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        (held, socket, address)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::net::tcp::connect;

    fn local(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    /// Listens on one loopback address only; its neighbours refuse the same port.
    async fn listener(last: u8) -> (TcpListener, u16) {
        let listener = TcpListener::bind((local(last), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn goes_on_to_the_next_address_when_one_refuses() {
        let (_listener, port) = listener(3).await;
        let began = Instant::now();
        let reached = first(&[local(1), local(2), local(3)], port, connect)
            .await
            .unwrap();
        let address = SocketAddr::new(local(3), port);
        assert_eq!(reached.peer_addr().unwrap(), address);
        assert!(
            began.elapsed() < ATTEMPT_DELAY,
            "waited although it was refused"
        );
    }

    #[tokio::test]
    async fn does_not_wait_for_a_silent_address() {
        let (_held, _socket, silent) = testing::black_hole().await;
        let answering = TcpListener::bind((local(2), silent.port())).await.unwrap();
        let reached = first(&[local(1), local(2)], silent.port(), connect)
            .await
            .unwrap();
        let address = answering.local_addr().unwrap();
        assert_eq!(reached.peer_addr().unwrap(), address);
    }

    #[test]
    fn puts_families_in_turn() {
        let v4 = |n| IpAddr::from([10, 0, 0, n]);
        let v6 = |n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]);
        assert_eq!(
            in_turn(vec![v6(1), v6(2), v6(3), v4(1)]),
            [v6(1), v4(1), v6(2), v6(3)]
        );
    }

    #[test]
    fn tells_of_the_machine_rather_than_of_the_way() {
        let order = [
            io::ErrorKind::NetworkUnreachable,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::ConnectionRefused,
        ];
        let weights = order.map(|kind| weight(&kind.into()));
        assert!(weights.is_sorted() && weights[0] < weights[2]);
    }
}
