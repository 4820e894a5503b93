//! Names to addresses, as the system resolves them.
//!
//! The system's resolver blocks and cannot be interrupted: where the name servers are silent, a
//! question keeps its thread for half a minute. So no question is asked again before its answer is
//! overdue, and those that operators ask about machines have a few threads, and never those of the
//! broker and the cloud.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

#[cfg(feature = "simulation")]
use super::tcp::simulated;
use crate::threads::aside;

/// Names of machines that are looked up at the same time. Whoever comes later waits in the queue,
/// for as long as the tunnel has time.
const MACHINE_LOOKUPS: usize = 8;
/// Names of servers that are looked up at the same time: a configuration has four at most, and each
/// may be asked for anew some times before the system gives up.
const SERVER_LOOKUPS: usize = 16;
/// Age of a question at which it is asked anew: the network, and with it the name servers, may be
/// others since. The C library waits as long for the first of its servers.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Resolves names. Clones share the questions that are open.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Shared>);

struct Shared {
    lookup: Box<Lookup>,
    lanes: Arc<Semaphore>,
    stale_after: Duration,
    /// The latest question about each name.
    asked: Mutex<HashMap<String, Question>>,
}

struct Question {
    asked_at: Instant,
    answer: Asked,
}

/// Asks the system, and blocks.
type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;
/// Where the answer to a question comes.
type Asked = watch::Receiver<Option<Answer>>;
type Answer = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

impl Resolver {
    /// Returns one for the machines that operators ask for.
    pub(crate) fn for_machines() -> Self {
        Self::new(MACHINE_LOOKUPS, STALE_AFTER, system)
    }

    /// Returns one for the servers of the configuration.
    pub(crate) fn for_servers() -> Self {
        Self::new(SERVER_LOOKUPS, STALE_AFTER, system)
    }

    /// Returns one that is answered by a test.
    #[cfg(test)]
    pub(crate) fn answered_by(
        lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(MACHINE_LOOKUPS, STALE_AFTER, lookup)
    }

    fn new(
        lanes: usize,
        stale_after: Duration,
        lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            lookup: Box::new(lookup),
            lanes: Arc::new(Semaphore::new(lanes)),
            stale_after,
            asked: Mutex::default(),
        }))
    }

    /// Returns the addresses of a name, or the one that it is.
    ///
    /// Dropping the future leaves the queue; a question that has been asked keeps its thread until
    /// the system gives up.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        // The C library musl looks into /etc/hosts with regard to case.
        let name = host.to_ascii_lowercase();
        let open = self.0.open_question(&self.0.asked(), &name);
        let mut asked = match open {
            Some(asked) => asked,
            None => {
                let lanes = Arc::clone(&self.0.lanes);
                let lane = lanes.acquire_owned().await.map_err(io::Error::other)?;
                self.join_or_ask(name, lane)
            }
        };
        let broken = |_| io::Error::other("the question was dropped");
        let answer = asked.wait_for(Option::is_some).await.map_err(broken)?;
        match answer.as_ref() {
            Some(Ok(addresses)) => Ok(addresses.clone()),
            Some(Err((kind, words))) => Err(io::Error::new(*kind, words.clone())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Asks the system in a thread that holds `lane`, unless somebody has asked meanwhile.
    fn join_or_ask(&self, name: String, lane: OwnedSemaphorePermit) -> Asked {
        let mut asked = self.0.asked();
        if let Some(open) = self.0.open_question(&asked, &name) {
            return open;
        }
        let (sender, answer) = watch::channel(None);
        let question = Question {
            asked_at: Instant::now(),
            answer: answer.clone(),
        };
        asked.insert(name.clone(), question);
        let (shared, mine) = (Arc::clone(&self.0), answer.clone());
        let asked_for = name.clone();
        let answered = move |found: io::Result<Vec<IpAddr>>| {
            let mut asked = shared.asked();
            // Whoever asks from now on asks anew, or has already.
            if let Some(latest) = asked.get(&asked_for)
                && latest.answer.same_channel(&mine)
            {
                asked.remove(&asked_for);
            }
            drop(asked);
            sender.send_replace(Some(
                found.map_err(|error| (error.kind(), error.to_string())),
            ));
            drop(lane);
        };
        self.ask(name, answered);
        answer
    }

    /// Asks without waiting for the answer, which `answered` takes.
    fn ask(&self, name: String, answered: impl FnOnce(io::Result<Vec<IpAddr>>) + Send + 'static) {
        #[cfg(feature = "simulation")]
        if let Some(network) = simulated::installed() {
            tokio::spawn(async move { answered(network.resolve(&name).await) });
            return;
        }
        let shared = Arc::clone(&self.0);
        let looking = aside(move || (shared.lookup)(&name));
        tokio::spawn(async move { answered(looking.await.and_then(|found| found)) });
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, HashMap<String, Question>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_question(&self, asked: &HashMap<String, Question>, name: &str) -> Option<Asked> {
        let question = asked.get(name)?;
        let is_fresh = question.asked_at.elapsed() < self.stale_after;
        is_fresh.then(|| question.answer.clone())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

fn system(name: &str) -> io::Result<Vec<IpAddr>> {
    const ANY_PORT: u16 = 0;
    match (name, ANY_PORT).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
        // The C library does not know a name where it may open neither a file nor a socket.
        Err(error) => Err(out_of_files().unwrap_or(error)),
    }
}

/// Returns why no more files can be opened, if none can.
fn out_of_files() -> Option<io::Error> {
    io::stderr().as_fd().try_clone_to_owned().err()
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use futures_util::future::{join, join_all};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(20);

    /// Name servers that answer nobody until they are woken.
    #[derive(Clone, Default)]
    struct Servers(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        asked: Vec<String>,
        awake: bool,
    }

    impl Servers {
        fn resolver(&self, lanes: usize) -> Resolver {
            self.resolver_with(lanes, LONG)
        }

        fn resolver_with(&self, lanes: usize, stale_after: Duration) -> Resolver {
            let servers = self.clone();
            Resolver::new(lanes, stale_after, move |name| {
                let (state, changed) = &*servers.0;
                let mut state = state.lock().unwrap();
                state.asked.push(name.to_owned());
                let state = changed.wait_while(state, |state| !state.awake).unwrap();
                match state.asked.len() {
                    0 => Err(io::Error::other("nobody asked")),
                    _ if name.starts_with("no") => Err(io::Error::other("no such name")),
                    _ => Ok(vec![[10, 0, 0, 7].into()]),
                }
            })
        }

        fn asked(&self) -> Vec<String> {
            self.0.0.lock().unwrap().asked.clone()
        }

        /// Waits for so many questions: each comes by a thread, which begins when the machine lets it.
        async fn has_been_asked(&self, times: usize) {
            let reached = async {
                while self.asked().len() < times {
                    tokio::task::yield_now().await;
                }
            };
            timeout(LONG, reached).await.unwrap();
        }

        fn wake(&self) {
            self.0.0.lock().unwrap().awake = true;
            self.0.1.notify_all();
        }
    }

    #[tokio::test]
    async fn keeps_few_threads_and_a_queue_of_those_who_still_wait() {
        const LANES: usize = 3;
        let silent = Servers::default();
        let machines = silent.resolver(LANES);
        let names: Vec<_> = (0..600).map(|n| format!("plc-{n}")).collect();
        let lookups = names
            .iter()
            .map(|name| timeout(SHORT, machines.resolve(name)));
        let answers = timeout(LONG, join_all(lookups)).await.unwrap();
        assert!(answers.iter().all(Result::is_err));
        silent.has_been_asked(LANES).await;
        assert_eq!(silent.asked().len(), LANES);

        // Nobody stands behind them who needs no name, or asks elsewhere.
        let literal = timeout(LONG, machines.resolve("fd00::7")).await.unwrap();
        assert_eq!(literal.unwrap(), ["fd00::7".parse::<IpAddr>().unwrap()]);
        let awake = Servers::default();
        awake.wake();
        let broker = awake.resolver(1);
        assert!(
            timeout(LONG, broker.resolve("broker"))
                .await
                .unwrap()
                .is_ok()
        );

        let next = machines.resolve("next");
        let woken = async { silent.wake() };
        let (next, ()) = timeout(LONG, join(next, woken)).await.unwrap();
        assert!(next.is_ok());
        let asked = silent.asked();
        assert_eq!(asked.len(), LANES + 1, "{asked:?}");
    }

    #[tokio::test]
    async fn asks_once_for_all_who_want_the_same_name_in_whatever_case() {
        let servers = Servers::default();
        let resolver = servers.resolver(9);
        let lookups = ["PLC-7.Lan", "plc-7.lan", "Plc-7.LAN"].map(|name| resolver.resolve(name));
        let wake = async {
            servers.has_been_asked(1).await;
            servers.wake();
        };
        let (answers, ()) = timeout(LONG, join(join_all(lookups), wake)).await.unwrap();
        for answer in answers {
            assert_eq!(answer.unwrap(), [IpAddr::from([10, 0, 0, 7])]);
        }
        assert_eq!(servers.asked(), ["plc-7.lan"]);

        let error = resolver.resolve("nobody").await.unwrap_err();
        assert_eq!(error.to_string(), "no such name");
        resolver.resolve("plc-7.lan").await.unwrap();
        assert_eq!(servers.asked(), ["plc-7.lan", "nobody", "plc-7.lan"]);
    }

    #[tokio::test]
    async fn asks_anew_where_an_answer_does_not_come_and_for_no_more_threads() {
        const LANES: usize = 3;
        let silent = Servers::default();
        let servers = silent.resolver_with(LANES, Duration::ZERO);
        for _ in 0..LANES + 2 {
            let lookup = timeout(SHORT, servers.resolve("broker")).await;
            assert!(lookup.is_err());
        }
        silent.has_been_asked(LANES).await;
        assert_eq!(silent.asked(), vec!["broker"; LANES]);
        silent.wake();
        let found = timeout(LONG, servers.resolve("broker")).await.unwrap();
        assert!(found.is_ok());
    }
}
