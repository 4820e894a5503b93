//! Reaches a machine on the LAN: resolve its name, ask the policy about each address, connect.
//!
//! The policy is asked about the address that is dialled, because whoever controls the DNS decides
//! where a name leads; and before each attempt, because a reload may change it meanwhile.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smartrest::Target;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::current_policy::CurrentPolicy;
use super::policy::Denied;
use crate::net::resolve::Resolver;
use crate::net::{Tcp, dial, tcp};

/// Why a machine was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The policy forbids the target, or every address of it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address accepted the connection.
    #[error("cannot reach {target}")]
    Reach {
        /// The target.
        target: Target,
        /// What the most telling attempt failed with.
        source: io::Error,
    },
    /// No address of several accepted the connection.
    #[error("cannot reach {target} at any of {count} addresses")]
    ReachAny {
        /// The target.
        target: Target,
        /// How many addresses were tried.
        count: usize,
        /// What the most telling attempt failed with.
        source: io::Error,
    },
    /// At least one address was silent.
    #[error("{target} did not answer within {}", humantime::format_duration(*limit))]
    Timeout {
        /// The target.
        target: Target,
        /// The time it had.
        limit: Duration,
    },
    /// The resolver was silent.
    #[error("no answer about the name {host} within {}", humantime::format_duration(*limit))]
    ResolveTimeout {
        /// The name.
        host: String,
        /// The time the resolver had.
        limit: Duration,
    },
}

/// Connects to a target within `limit`, in which its name may have to wait in a queue.
///
/// Dropping the future closes what is half open, and leaves the queue.
pub(crate) async fn connect(
    target: &Target,
    policy: &CurrentPolicy,
    names: &Resolver,
    limit: Duration,
) -> Result<Tcp, DialError> {
    connect_to(target, policy, limit, names.resolve(target.host())).await
}

async fn connect_to(
    target: &Target,
    policy: &CurrentPolicy,
    limit: Duration,
    addresses: impl Future<Output = io::Result<Vec<IpAddr>>>,
) -> Result<Tcp, DialError> {
    let began = Instant::now();
    let addresses = find(target, policy, limit, addresses).await?;
    let count = addresses.len();
    let left = limit.saturating_sub(began.elapsed());
    let attempt = |address| knock(target, policy, address);
    let dialled = timeout(left, dial::first(&addresses, target.port(), attempt)).await;
    let target = target.clone();
    let Ok(dialled) = dialled else {
        return Err(DialError::Timeout { target, limit });
    };
    dialled.map_err(|error| match error.downcast::<Denied>() {
        Ok(denied) => DialError::Denied(denied),
        Err(source) if count == 1 => DialError::Reach { target, source },
        Err(source) => DialError::ReachAny {
            target,
            count,
            source,
        },
    })
}

/// Connects to an address for as long as the policy that holds allows it.
async fn knock(target: &Target, policy: &CurrentPolicy, address: SocketAddr) -> io::Result<Tcp> {
    let ip = address.ip();
    // Whatever another address answers says more of the machine than this does.
    let closed = |denied| io::Error::new(io::ErrorKind::AddrNotAvailable, denied);
    policy.check(target, ip).map_err(closed)?;
    tokio::select! {
        biased;
        denied = policy.denies(target, ip) => Err(closed(denied)),
        connected = tcp::connect(address) => connected,
    }
}

/// Returns the addresses that may be dialled for a target, and no others are; `addresses` is asked only
/// where one of them could be.
pub(super) async fn find(
    target: &Target,
    policy: &CurrentPolicy,
    limit: Duration,
    addresses: impl Future<Output = io::Result<Vec<IpAddr>>>,
) -> Result<Vec<IpAddr>, DialError> {
    policy.check_name(target)?;
    let host = || target.host().to_owned();
    let addresses = timeout(limit, addresses)
        .await
        .map_err(|_| DialError::ResolveTimeout {
            host: host(),
            limit,
        })?
        .and_then(|addresses| match addresses.as_slice() {
            [] => Err(io::Error::other("the name has no address")),
            _ => Ok(addresses),
        })
        .map_err(|source| DialError::Resolve {
            host: host(),
            source,
        })?;
    Ok(admit(target, policy, &addresses)?)
}

/// Returns the addresses that may be dialled in the order in which they are, or why none may.
fn admit(
    target: &Target,
    policy: &CurrentPolicy,
    addresses: &[IpAddr],
) -> Result<Vec<IpAddr>, Denied> {
    let mut admitted: Vec<IpAddr> = Vec::new();
    let mut first_denied = None;
    for address in addresses.iter().map(IpAddr::to_canonical) {
        match policy.check(target, address) {
            Ok(()) if admitted.contains(&address) => {}
            Ok(()) => admitted.push(address),
            Err(denied) => {
                debug!(%address, error = %denied, "address skipped");
                first_denied.get_or_insert(denied);
            }
        }
    }
    match first_denied {
        Some(denied) if admitted.is_empty() => Err(denied),
        _ => Ok(dial::in_turn(admitted)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::pin::pin;

    use futures_util::FutureExt;
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::dial::ADDRESS_LIMIT;
    use crate::net::dial::testing::black_hole;
    use crate::net::tcp::of_kernel;
    use crate::tunnel::policy::Policy;
    use crate::words::failure_reason;

    const LIMIT: Duration = Duration::from_secs(10);

    fn target(host: &str, port: u16) -> Target {
        Target::parse(host, &port.to_string()).unwrap()
    }

    fn policy(allow: &[&str], deny: &[&str]) -> CurrentPolicy {
        let patterns = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect();
        Policy::new(patterns(allow), patterns(deny)).into()
    }

    fn local(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    /// Listens on one loopback address only; its neighbours refuse the same port.
    async fn listener(last: u8) -> (TcpListener, u16) {
        let listener = TcpListener::bind((local(last), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    async fn outcome(
        target: &Target,
        policy: &CurrentPolicy,
        limit: Duration,
        addresses: &[IpAddr],
    ) -> Result<SocketAddr, String> {
        match connect_to(target, policy, limit, ready(Ok(addresses.to_vec()))).await {
            Ok(stream) => Ok(stream.peer_addr().unwrap()),
            Err(error) => Err(failure_reason(&error, 200)),
        }
    }

    #[tokio::test]
    async fn reaches_a_name_without_nagle() {
        let (_listener, port) = listener(1).await;
        let target = target("localhost", port);
        let names = Resolver::for_machines();
        let stream = connect(&target, &policy(&["private"], &[]), &names, LIMIT)
            .await
            .unwrap();
        let stream = of_kernel(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn leaves_an_urgent_byte_in_its_place() {
        // As a Telnet server drops what it was about to say (RFC 854, SYNCH): the mark is urgent.
        const INTERRUPT: u8 = 255;
        const DATA_MARK: u8 = 242;
        let (listener, port) = listener(1).await;
        let names = Resolver::for_machines();
        let target = target("127.0.0.1", port);
        let mut stream = connect(&target, &policy(&["private"], &[]), &names, LIMIT)
            .await
            .unwrap();
        let (mut machine, _) = listener.accept().await.unwrap();
        machine.write_all(&[b'a', INTERRUPT]).await.unwrap();
        let sent = SockRef::from(&machine).send_out_of_band(&[DATA_MARK]);
        assert_eq!(sent.unwrap(), 1);
        machine.write_all(b"b").await.unwrap();
        drop(machine);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [b'a', INTERRUPT, DATA_MARK, b'b']);
    }

    #[tokio::test]
    async fn says_what_failed() {
        let (_, port) = listener(1).await;
        let plc = target("plc-7", port);
        let private = policy(&["private"], &[]);
        assert_eq!(
            outcome(&plc, &private, LIMIT, &[local(1)]).await,
            Err(format!("cannot reach plc-7:{port}: connection refused"))
        );
        assert_eq!(
            outcome(&plc, &private, LIMIT, &[local(1), local(2), local(1)]).await,
            Err(format!(
                "cannot reach plc-7:{port} at any of 2 addresses: connection refused"
            ))
        );
        assert_eq!(
            outcome(&plc, &private, LIMIT, &[]).await,
            Err("cannot resolve plc-7: the name has no address".into())
        );

        let (_held, _socket, silent) = black_hole().await;
        let limit = Duration::from_millis(100);
        assert_eq!(
            outcome(
                &target("plc-7", silent.port()),
                &private,
                limit,
                &[local(1)]
            )
            .await,
            Err(format!(
                "plc-7:{} did not answer within 100ms",
                silent.port()
            ))
        );
        let error = connect_to(&plc, &private, limit, pending())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no answer about the name plc-7 within 100ms"
        );
    }

    #[tokio::test]
    async fn names_what_does_not_resolve() {
        let target = target("plc-7.invalid", 22);
        let names = Resolver::for_machines();
        let error = connect(&target, &policy(&["private"], &[]), &names, LIMIT)
            .await
            .unwrap_err();
        let reason = failure_reason(&error, 200);
        assert!(
            reason.starts_with("cannot resolve plc-7.invalid: failed to lookup"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn is_not_led_around_the_policy_by_dns() {
        let (_listener, port) = listener(1).await;
        let target = target("plc-7", port);
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        let no_loopback = policy(&["0.0.0.0/0", "::/0"], &["127.0.0.0/8", "::1/128"]);
        let metadata: IpAddr = [169, 254, 169, 254].into();
        for (policy, led_to) in [
            (&no_loopback, vec![local(1)]),
            (&no_loopback, vec![mapped]),
            (&no_loopback, vec![IpAddr::V6(Ipv6Addr::LOCALHOST)]),
            (&self::policy(&["private"], &[]), vec![metadata]),
            (&self::policy(&[], &[]), vec![local(1)]),
        ] {
            let outcome = connect_to(&target, policy, LIMIT, ready(Ok(led_to.clone()))).await;
            assert!(
                matches!(outcome, Err(DialError::Denied(_))),
                "{led_to:?}: {outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn dials_nothing_that_is_denied_by_the_time_its_name_has_led_there() {
        let (_listener, port) = listener(1).await;
        let policy = policy(&["private"], &[]);
        let addresses = async {
            policy.set(self::policy(&["private"], &["127.0.0.1"]).get());
            Ok(vec![local(1)])
        };
        let outcome = connect_to(&target("plc-7", port), &policy, LIMIT, addresses).await;
        assert!(matches!(outcome, Err(DialError::Denied(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn dials_no_further_address_that_is_denied_while_the_first_is_silent() {
        let (_held, _socket, silent) = black_hole().await;
        let next = TcpListener::bind((local(2), silent.port())).await.unwrap();
        let target = target("plc-7", silent.port());
        let policy = policy(&["private"], &[]);
        let addresses = ready(Ok(vec![local(1), local(2)]));
        // Each attempt of the LAN side is the first thing that a poll of it does.
        let mut dialling = pin!(connect_to(&target, &policy, LIMIT, addresses));
        assert!(dialling.as_mut().now_or_never().is_none());
        policy.set(self::policy(&["private"], &["127.0.0.2"]).get());
        let limit = 4 * dial::ATTEMPT_DELAY;
        let knocked = timeout(limit, async {
            tokio::select! {
                dialled = dialling.as_mut() => panic!("{dialled:?}"),
                knocked = next.accept() => knocked,
            }
        });
        assert!(knocked.await.is_err());
        // Nor is the silent one waited for once it is denied too.
        policy.set(self::policy(&[], &[]).get());
        let outcome = timeout(LIMIT, dialling).await.unwrap();
        assert!(matches!(outcome, Err(DialError::Denied(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn skips_denied_addresses_among_allowed_ones() {
        let (_listener, port) = listener(2).await;
        let reached = outcome(
            &target("plc-7", port),
            &policy(&["private"], &["127.0.0.1/32"]),
            LIMIT,
            &[local(1), local(2)],
        )
        .await;
        assert_eq!(reached, Ok(SocketAddr::new(local(2), port)));
    }

    #[test]
    fn knocks_on_few_doors() {
        let many: Vec<_> = (1..100).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let admitted = admit(&target("plc-7", 22), &policy(&["private"], &[]), &many).unwrap();
        assert_eq!(admitted.len(), ADDRESS_LIMIT);
    }
}
