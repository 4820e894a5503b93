//! The connections that there are, of which one gives way when there are too many.
//!
//! Whoever comes with many connections is to keep nobody else out: one of those gives way that come from
//! where most come from. Of these it is the oldest that has shown nothing yet, so that whoever has the
//! token and waits for an answer gets it. A token that is wrong counts as much as the right one: else
//! whoever guesses would see by what gives way which it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::task::{AbortHandle, JoinSet};

/// Bits of an IPv6 address that its holder did not choose.
const PREFIX: u128 = u128::MAX << 64;

/// What is known of a connection, at first nothing; the more, the later it gives way.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark(Arc<AtomicU8>);

const PASS_SHOWN: u8 = 1;
const WATCHED: u8 = 2;

/// All connections, each with its task.
pub(super) struct Connections {
    limit: usize,
    tasks: JoinSet<()>,
    /// The oldest first; some may have ended.
    by_age: VecDeque<Connection>,
}

struct Connection {
    task: AbortHandle,
    mark: Mark,
    /// Where it comes from.
    home: IpAddr,
}

impl Mark {
    /// Somebody has shown a token or a session over it, right or wrong.
    pub(super) fn has_shown_a_pass(&self) {
        self.0.fetch_max(PASS_SHOWN, Ordering::Relaxed);
    }

    /// Somebody watches the page over it: it lives long, and gives way last.
    pub(super) fn is_watched_from_now_on(&self) {
        self.0.fetch_max(WATCHED, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            tasks: JoinSet::new(),
            by_age: VecDeque::new(),
        }
    }

    /// Waits until one has ended; for ever while there is none.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.forget_ended();
    }

    /// Adds one from an address, in the place of another where there are too many.
    pub(super) fn add<F>(&mut self, from: IpAddr, speak: impl FnOnce(Mark) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.forget_ended();
        if self.by_age.len() >= self.limit {
            let first = self.first_to_go();
            if let Some(given_up) = self.by_age.remove(first) {
                given_up.task.abort();
            }
        }
        let mark = Mark::default();
        let task = self.tasks.spawn(speak(mark.clone()));
        self.by_age.push_back(Connection {
            task,
            mark,
            home: home(from),
        });
    }

    fn forget_ended(&mut self) {
        self.by_age.retain(|one| !one.task.is_finished());
    }

    /// Which one gives way; the oldest where all are watched.
    fn first_to_go(&self) -> usize {
        let all = self.by_age.iter().enumerate();
        let unwatched = all.filter(|(_, one)| one.mark.get() < WATCHED);
        let mut crowds = BTreeMap::<_, usize>::new();
        for (_, one) in unwatched.clone() {
            *crowds.entry(one.home).or_default() += 1;
        }
        let crowd = |one: &Connection| crowds.get(&one.home).copied();
        let first = unwatched.min_by_key(|(_, one)| (Reverse(crowd(one)), one.mark.get()));
        first.map_or(0, |(place, _)| place)
    }
}

/// Returns what stands for all addresses that one machine has for the asking: those of its IPv6 network,
/// and those by which this machine comes to itself.
fn home(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        own if own.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & PREFIX).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// Where a connection comes from, and what comes to be known of it.
    type Come<'a> = (&'a str, fn(&Mark));

    /// Adds a connection after the other, and returns which of them live at the end.
    async fn left<const N: usize>(limit: usize, added: [Come<'_>; N]) -> [bool; N] {
        let mut connections = Connections::new(limit);
        let alive = added.map(|(from, know)| {
            let (sender, receiver) = oneshot::channel::<()>();
            connections.add(from.parse().unwrap(), |mark| {
                know(&mark);
                async move {
                    let _held = sender;
                    std::future::pending::<()>().await;
                }
            });
            receiver
        });
        for _ in limit..N {
            connections.ended().await;
        }
        alive.map(|mut one| one.try_recv() == Err(oneshot::error::TryRecvError::Empty))
    }

    const NOTHING: fn(&Mark) = |_| {};
    const PASS: fn(&Mark) = Mark::has_shown_a_pass;
    const WATCHES: fn(&Mark) = Mark::is_watched_from_now_on;

    #[tokio::test]
    async fn lets_the_oldest_give_way_that_nobody_watches() {
        let one = ("10.0.0.1", NOTHING);
        let added = [("10.0.0.1", WATCHES), one, one, one, one];
        assert_eq!(left(3, added).await, [true, false, false, true, true]);
        let all = [("10.0.0.1", WATCHES); 4];
        assert_eq!(left(3, all).await, [false, true, true, true]);
    }

    #[tokio::test]
    async fn lets_those_give_way_first_who_have_shown_nothing() {
        let idle = ("127.0.0.1", NOTHING);
        let added = [("127.0.0.1", PASS), idle, idle, idle, idle];
        assert_eq!(left(3, added).await, [true, false, false, true, true]);
        let all = [("127.0.0.1", PASS); 4];
        assert_eq!(left(3, all).await, [false, true, true, true]);
    }

    #[tokio::test]
    async fn lets_one_give_way_of_those_who_come_with_most() {
        let many = ("10.0.0.2", PASS);
        let added = [("10.0.0.1", NOTHING), many, many, many, many];
        assert_eq!(left(3, added).await, [true, false, false, true, true]);
        // Each of them, whatever address it has taken.
        for (one, other) in [
            ("2001:db8::1", "2001:db8::ffff:2"),
            ("127.0.0.1", "127.7.7.7"),
            ("::1", "127.0.0.1"),
            ("::ffff:10.0.0.2", "10.0.0.2"),
        ] {
            let added = [("10.0.0.1", NOTHING), (one, PASS), (other, PASS), many];
            assert_eq!(left(3, added).await, [true, false, true, true], "{one}");
        }
    }
}
