//! A place that adit connects to, with the fault machine in front of it.

use std::iter;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use std::collections::VecDeque;

use tokio::io::duplex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::link::{Fate, Link, Struck};
use crate::plan::{Break, How, Passage};
use crate::recorder::Recorder;
use crate::support::Port;

/// What a recorder may be behind.
const ROOM: usize = 1 << 20;

/// Where connections lead.
#[derive(Clone)]
pub(crate) enum Behind {
    Tcp(SocketAddr),
    Broker(Arc<Recorder>),
}

/// Ports that are tried before there is none.
const PORTS_TRIED: usize = 100;

/// A listening port. Dropping it ends everything.
pub(crate) struct Gate {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    name: &'static str,
    port: Port,
    behind: Behind,
    orders: watch::Sender<(usize, Break)>,
    refuses: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the next connections meet, in their order.
    passages: VecDeque<Passage>,
    refuses_until: Option<Instant>,
    /// Connections so far.
    accepted: usize,
    /// With the port on the far side.
    links: Vec<(u16, Struck)>,
    /// Of the whole place.
    struck: Vec<&'static str>,
    release: CancellationToken,
}

impl Gate {
    pub(crate) fn start(name: &'static str, behind: Behind, passages: &[Passage]) -> Self {
        // Somebody else's socket may stand at the address for a moment.
        let (port, listener) = iter::repeat_with(Port::reserve)
            .take(PORTS_TRIED)
            .find_map(|port| listen(port.number).map(|listener| (port, listener)))
            .expect("a port to listen at");
        let number = port.number;
        let nothing = Break::Cut {
            near: How::Fin,
            far: How::Fin,
        };
        let shared = Arc::new(Shared {
            name,
            port,
            behind,
            orders: watch::Sender::new((0, nothing)),
            refuses: Notify::new(),
            state: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let serving = serve(Some(listener), Arc::clone(&shared));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        let gate = Self {
            port: number,
            shared,
            _stop: stop.drop_guard(),
        };
        gate.begin(passages);
        gate
    }

    /// Forgets what has struck, and says what the next connections meet.
    pub(crate) fn begin(&self, passages: &[Passage]) {
        self.shared.state(|state| {
            state.passages = passages.iter().copied().collect();
            state.links.clear();
            state.struck.clear();
        });
    }

    /// Breaks all connections that stand.
    pub(crate) fn strike(&self, how: Break) {
        self.shared.orders.send_modify(|(count, order)| {
            *count += 1;
            *order = how;
        });
    }

    /// Lets nobody listen for a while.
    pub(crate) fn refuse(&self, lasts: Duration) {
        self.shared.state(|state| {
            state.refuses_until = Some(Instant::now() + lasts);
            state.struck.push("connection refused");
        });
        self.shared.refuses.notify_one();
    }

    /// Waits until somebody listens again.
    pub(crate) async fn opens(&self) {
        let until = self.shared.state(|state| state.refuses_until);
        if let Some(until) = until {
            sleep_until(until.into()).await;
        }
    }

    /// Lets go of everything that is half open.
    pub(crate) fn release(&self) {
        let token = self
            .shared
            .state(|state| std::mem::take(&mut state.release));
        token.cancel();
    }

    /// How many connections it has taken, also those that are to be accepted late.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.state(|state| state.accepted)
    }

    /// What struck this place and its connections.
    pub(crate) fn struck(&self) -> Vec<String> {
        let name = self.shared.name;
        self.shared.state(|state| {
            let links = state.links.iter().flat_map(|(_, struck)| struck.names());
            let all = state.struck.iter().copied().chain(links);
            all.map(|what| format!("{name}: {what}")).collect()
        })
    }

    /// What became of the connection that comes from this port on the far side.
    pub(crate) fn fate(&self, port: u16) -> Fate {
        self.shared.state(|state| {
            let mut links = state.links.iter();
            let link = links.find(|(own, _)| *own == port);
            link.map_or(Fate::Untouched, |(_, struck)| struck.fate())
        })
    }

    /// The worst that became of any connection.
    pub(crate) fn worst_fate(&self) -> Fate {
        self.shared.state(|state| {
            let fates = state.links.iter().map(|(_, struck)| struck.fate());
            fates.max().unwrap_or_default()
        })
    }
}

impl Shared {
    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// Waits until nobody is to listen any more, and returns until when.
    async fn refusal(&self) -> Instant {
        loop {
            let until = self.state(|state| state.refuses_until);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => return until,
                None => self.refuses.notified().await,
            }
        }
    }

    fn link(&self) -> Link {
        self.state(|state| {
            state.accepted += 1;
            Link {
                passage: state.passages.pop_front().unwrap_or_default(),
                struck: Struck::default(),
                orders: self.orders.subscribe(),
                delivered: Arc::new(AtomicU64::new(0)),
                settles: matches!(self.behind, Behind::Broker(_)),
                release: state.release.clone(),
            }
        })
    }

    async fn connection(&self, near: TcpStream, link: Link) {
        // What was ordered before it was accepted does not concern it.
        link.accept().await;
        match &self.behind {
            Behind::Tcp(address) => {
                let Ok(far) = TcpStream::connect(address).await else {
                    drop(near.set_zero_linger());
                    return;
                };
                drop(far.set_nodelay(true));
                let port = far.local_addr().map_or(0, |address| address.port());
                self.state(|state| state.links.push((port, link.struck.clone())));
                link.carry(near, far).await;
            }
            Behind::Broker(recorder) => {
                let (far, recorded) = duplex(ROOM);
                let recording = recorder.record(recorded, Arc::clone(&link.delivered));
                self.state(|state| state.links.push((0, link.struck.clone())));
                tokio::join!(link.carry(near, far), recording);
            }
        }
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    listener.set_nonblocking(true).ok()?;
    TcpListener::from_std(listener).ok()
}

async fn serve(mut listener: Option<TcpListener>, shared: Arc<Shared>) {
    /// Somebody else's socket may stand at the address for a moment.
    const AGAIN: Duration = Duration::from_millis(20);
    // Dropped with this one.
    let mut connections = JoinSet::new();
    loop {
        let Some(open) = listener.take().or_else(|| listen(shared.port.number)) else {
            sleep(AGAIN).await;
            continue;
        };
        let until = loop {
            tokio::select! {
                until = shared.refusal() => break until,
                Ok((near, _)) = open.accept() => {
                    let link = shared.link();
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move { shared.connection(near, link).await });
                }
                Some(_) = connections.join_next() => {}
            }
        };
        drop(open);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            tokio::select! {
                () = sleep(left) => {}
                Some(_) = connections.join_next() => {}
            }
        }
    }
}
