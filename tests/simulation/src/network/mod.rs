//! A network in memory, in virtual time: hosts listen, connections behave as those of TCP do where
//! adit relies on it, and faults strike them.
//!
//! Whatever happens does so in the order of one queue, at whole milliseconds. A connection has two
//! pipes, each with a bounded buffer at both ends, a delay, and bytes on their way; so a slow reader
//! slows the writer down, a reset overtakes nothing, and what was written is not what has arrived.

mod core;
mod faults;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::core::{Core, End};
pub(crate) use self::faults::Fate;
use crate::faults::Faults;
use crate::trace::Trace;

/// How long a host tries to reach another that is silent (Linux, `tcp_syn_retries` = 6).
const CONNECT_LIMIT: Duration = Duration::from_secs(127);
/// How long a router asks for a host that is not there.
const NO_NEIGHBOUR: Duration = Duration::from_secs(3);

/// Where a host stands, which decides how far it is and what may happen on the way.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Zone {
    /// The MQTT broker, over a mobile link.
    Broker,
    /// The cloud's HTTP and WebSocket, over the same.
    Cloud,
    /// Machines beside the gateway.
    Lan,
}

impl Zone {
    /// Returns the word of the trace and of the names of faults.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Cloud => "cloud",
            Self::Lan => "lan",
        }
    }
}

/// Names a connection in the trace: the how manieth of the schedule it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct ConnectionId(pub(crate) u32);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// A run of the agent: what it holds is closed at once when it is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Process(pub(crate) u32);

/// What a name server says about a name.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The addresses, after so long.
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name.
    NoSuchName(Duration),
    /// Nothing; the resolver gives up after so long.
    Silence(Duration),
}

/// The network of one schedule. Clones are the same network.
#[derive(Clone)]
pub(crate) struct Network {
    core: Arc<Mutex<Core>>,
    faults: Faults,
    trace: Trace,
    parties: Arc<Parties>,
}

impl Network {
    /// Makes a network without hosts. Its [`Network::run`] has to be polled beside everything else.
    pub(crate) fn new(faults: Faults, trace: Trace) -> Self {
        let core = Core::new(faults.clone(), trace.clone());
        Self {
            core: Arc::new(Mutex::new(core)),
            faults,
            trace,
            parties: Arc::default(),
        }
    }

    /// Carries what is on its way, for ever.
    pub(crate) async fn run(self) {
        let mut alarm: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            loop {
                let Some(next) = self.with(|core| core.fire(cx)) else {
                    return Poll::Pending;
                };
                let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(next)));
                if alarm.deadline() != next || alarm.is_elapsed() {
                    alarm.as_mut().reset(next);
                }
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending::<()>;
                }
            }
        })
        .await;
    }

    /// The dice of the schedule.
    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The trace of the schedule.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Listens at an address. Dropping the listener refuses further connections and resets those
    /// that were not accepted.
    ///
    /// # Panics
    /// Somebody listens there already.
    pub(crate) fn listen(&self, zone: Zone, address: SocketAddr) -> Listener {
        self.with(|core| core.listen(zone, address));
        Listener {
            network: self.clone(),
            address,
        }
    }

    /// Says what name servers answer about a name from now on. Names that nobody was told of do not
    /// exist.
    pub(crate) fn name(&self, name: &str, answer: Answer) {
        self.with(|core| core.names.insert(name.to_owned(), answer));
    }

    /// Says that packets to an address vanish (`true`), as where no machine is behind a firewall.
    /// Other addresses where nobody listens refuse.
    pub(crate) fn swallow(&self, address: IpAddr, vanish: bool) {
        self.with(|core| match vanish {
            true => core.silent.insert(address),
            false => core.silent.remove(&address),
        });
    }

    /// Lets nothing come from a zone for so long, on the connections that there are.
    pub(crate) fn stall(&self, zone: Zone, time: Duration) {
        self.with(|core| core.stall(zone, time));
    }

    /// Resets every connection with a host of a zone at both ends, as a stateful box on the way does
    /// that starts anew.
    pub(crate) fn reset_all(&self, zone: Zone) {
        self.with(|core| core.reset_all(zone));
    }

    /// Resolves a name as the system of the gateway does.
    ///
    /// # Errors
    /// There is no such name, or no name server answers.
    pub(crate) async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        const FAILED: &str = "failed to lookup address information";
        let answer = self.with(|core| core.names.get(name).cloned());
        let answer = faults::lookup(&self.faults).or(answer);
        match answer.unwrap_or(Answer::NoSuchName(Duration::from_millis(1))) {
            Answer::Addresses(addresses, after) => {
                sleep(after).await;
                Ok(addresses)
            }
            Answer::NoSuchName(after) => {
                sleep(after).await;
                let words = format!("{FAILED}: Name or service not known");
                Err(io::Error::other(words))
            }
            Answer::Silence(after) => {
                sleep(after).await;
                let words = format!("{FAILED}: Temporary failure in name resolution");
                Err(io::Error::other(words))
            }
        }
    }

    /// Connects from the gateway.
    ///
    /// # Errors
    /// As the kernel's.
    pub(crate) async fn connect(&self, process: Process, to: SocketAddr) -> io::Result<Socket> {
        let began = Instant::now();
        let attempt = self.with(|core| core.attempt(process, to));
        sleep(attempt.answer_after).await;
        let connected = match attempt.outcome {
            core::Outcome::Try => self.with(|core| core.connect(process, to, attempt.delay)),
            core::Outcome::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
            core::Outcome::Unreachable => {
                sleep(NO_NEIGHBOUR).await;
                Err(io::ErrorKind::HostUnreachable.into())
            }
            core::Outcome::Vanish => {
                tokio::time::sleep_until(began + CONNECT_LIMIT).await;
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        match connected {
            Ok(end) => Ok(Socket {
                network: self.clone(),
                end,
            }),
            Err(error) => {
                crate::note!(self.trace, "network", "{to} not reached: {}", error.kind());
                Err(error)
            }
        }
    }

    /// Closes what a process holds, as the kernel does when it is killed. Whatever it still tries
    /// does not come to an end.
    pub(crate) fn kill(&self, process: Process) {
        self.with(|core| core.kill(process));
    }

    /// Returns a line for each connection that a process still holds, which is a leak where it should
    /// hold none.
    pub(crate) fn held_by(&self, process: Process) -> Vec<String> {
        self.with(|core| core.held_by(process))
    }

    /// What has happened to a connection so far; [`Fate::Untouched`] for one that is long gone
    /// without a fault.
    pub(crate) fn fate(&self, connection: ConnectionId) -> Fate {
        self.with(|core| core.fate(connection))
    }

    /// Whether a connection with a host of this zone was slow from its beginning.
    pub(crate) fn was_slow(&self, zone: Zone) -> bool {
        self.with(|core| core.was_slow(zone))
    }

    /// Returns how many bytes of a connection the gateway has read so far; what it has not read when it
    /// is killed or gives the connection up, it never knew.
    pub(crate) fn taken(&self, connection: ConnectionId) -> u64 {
        self.with(|core| core.taken(connection))
    }

    /// Runs a party's task. At the end of a schedule those of the parties are known from those that
    /// adit has left behind.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(&self.parties);
        // Whoever is to know of its end is told by what it shares.
        drop(tokio::spawn(async move {
            let _counted = counted;
            task.await;
        }));
    }

    /// Whether a party has panicked, which is a fault of the simulation or of what adit told it.
    pub(crate) fn has_panicked(&self) -> bool {
        self.parties.panicked.load(Ordering::Relaxed)
    }

    /// How many tasks of parties run.
    pub(crate) fn parties(&self) -> usize {
        self.parties.running.load(Ordering::Relaxed)
    }

    /// Wakes after the core is let go, so that whoever is dropped by that may close a socket.
    fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut core);
        let wakers = std::mem::take(&mut core.wakers);
        drop(core);
        for waker in wakers {
            waker.wake();
        }
        result
    }
}

/// The tasks of parties.
#[derive(Default)]
struct Parties {
    running: AtomicUsize,
    panicked: AtomicBool,
}

/// Counts a task for as long as it lives.
struct Counted(Arc<Parties>);

impl Counted {
    fn new(parties: &Arc<Parties>) -> Self {
        parties.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(parties))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// Where a host takes connections.
pub(crate) struct Listener {
    network: Network,
    address: SocketAddr,
}

impl Listener {
    /// Waits for the next connection.
    pub(crate) async fn accept(&self) -> Socket {
        let end = poll_fn(|cx| self.network.with(|core| core.poll_accept(cx, self.address)));
        Socket {
            end: end.await,
            network: self.network.clone(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.network.with(|core| core.stop_listening(self.address));
    }
}

/// One end of a connection, as the kernel shows it to a process.
pub(crate) struct Socket {
    network: Network,
    end: End,
}

impl Socket {
    /// The same at both ends.
    pub(crate) fn connection(&self) -> ConnectionId {
        self.end.connection
    }

    /// What faults have done to this connection so far.
    pub(crate) fn fate(&self) -> Fate {
        self.network.fate(self.end.connection)
    }

    /// This end's address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.end.local
    }

    /// The other end's address.
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.end.peer
    }

    /// Bytes that were written and that the other side's kernel has not acknowledged, with one more
    /// for an end that was sent.
    pub(crate) fn held(&self) -> u64 {
        self.network.with(|core| core.held(&self.end))
    }

    /// Reads what has arrived, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has, else as a read.
    pub(crate) fn read_now(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match self
            .network
            .with(|core| core.poll_read(None, &self.end, &mut buf))
        {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Makes a reset of the close to come, which throws away what the other side has not received
    /// (`SO_LINGER` with 0).
    pub(crate) fn reset_when_closed(&self) {
        self.network.with(|core| core.reset_when_closed(&self.end));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.network
            .with(|core| core.poll_read(Some(cx), &self.end, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = |core: &mut Core| core.poll_write(cx, &self.end, pieces);
        self.network.with(write)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.network.with(|core| core.shutdown(&self.end)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.network.with(|core| core.close(&self.end));
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({} to {})", self.end.connection, self.end.peer)
    }
}
