//! A bad network between adit and its broker, and a record of every packet that got through it.
//!
//! Nothing is ever changed or left out of a connection that stands: bytes are late, come in pieces,
//! or the connection ends, in the middle of a packet too. What is recorded was handed to the other
//! side as a whole, in the order in which that happened.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::Codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::codec::Decoder;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::judge::{BY_ADIT, Seen, Way, What};

/// Between the last byte that gets through and a reset. A reset makes the system forget what was
/// received and not yet read, so adit has time to read what the record says it has.
const BEFORE_RESET: Duration = Duration::from_millis(300);
/// Packets of this size do not come.
const PACKET_LIMIT: usize = 1 << 20;
/// Bytes that are read at once, unless they come in pieces.
const READ_SIZE: usize = 4096;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cut {
    /// By a reset on both sides.
    Reset,
    /// In order, though without a word of MQTT.
    Close,
}

/// The proxy. Dropping it cuts everything.
pub(super) struct Proxy {
    pub(super) port: u16,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    broker: SocketAddr,
    state: Mutex<State>,
    /// Counts the cuts that every connection is to notice.
    cuts: watch::Sender<(usize, Cut)>,
}

struct State {
    /// Nobody gets through before.
    outage_until: Instant,
    /// For each read.
    pause: Duration,
    /// Bytes that are read at once.
    piece: usize,
    /// The bytes in a direction after which the connection is cut.
    armed: Option<(Way, usize, Cut)>,
    life: usize,
    connections: usize,
    record: Vec<Seen>,
}

impl Proxy {
    pub(super) async fn start(broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            broker: (Ipv4Addr::LOCALHOST, broker).into(),
            state: Mutex::new(State {
                outage_until: Instant::now(),
                pause: Duration::ZERO,
                piece: READ_SIZE,
                armed: None,
                life: 0,
                connections: 0,
                record: Vec::new(),
            }),
            cuts: watch::Sender::new((0, Cut::Close)),
        });
        let serving = serve(listener, Arc::clone(&shared));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self {
            port,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Cuts what stands.
    pub(super) fn cut(&self, cut: Cut) {
        self.shared.cuts.send_modify(|(number, how)| {
            *number += 1;
            *how = cut;
        });
    }

    /// Cuts what stands, and lets nothing through for a while.
    pub(super) fn outage(&self, lasts: Duration, cut: Cut) {
        self.state(|state| state.outage_until = Instant::now() + lasts);
        self.cut(cut);
    }

    /// Cuts after this many more bytes in a direction.
    pub(super) fn arm(&self, way: Way, bytes: usize, cut: Cut) {
        self.state(|state| state.armed = Some((way, bytes, cut)));
    }

    /// Makes everything late from now on, and cuts it into pieces of at most this many bytes.
    pub(super) fn slow_down(&self, pause: Duration, piece: usize) {
        self.state(|state| {
            state.pause = pause;
            state.piece = piece;
        });
    }

    /// Lets everything through from now on.
    pub(super) fn calm(&self) {
        self.state(|state| {
            state.armed = None;
            state.outage_until = Instant::now();
            state.pause = Duration::ZERO;
            state.piece = READ_SIZE;
        });
    }

    /// Says that whoever connects from now on is another adit.
    pub(super) fn next_life(&self) {
        self.state(|state| state.life += 1);
    }

    /// Shows the record.
    pub(super) fn look<T>(&self, look: impl FnOnce(&[Seen]) -> T) -> T {
        self.state(|state| look(&state.record))
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.state(change)
    }
}

impl Shared {
    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this one.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (adit, _) = listener.accept().await.unwrap();
        if shared.state(|state| state.outage_until > Instant::now()) {
            adit.set_zero_linger().unwrap();
            continue;
        }
        let broker = TcpStream::connect(shared.broker).await.unwrap();
        let (connection, life) = shared.state(|state| {
            state.connections += 1;
            (state.connections, state.life)
        });
        let connection = Connection {
            shared: Arc::clone(&shared),
            number: connection,
            life,
            adit,
            broker,
            unread: [BytesMut::new(), BytesMut::new()],
        };
        connections.spawn(connection.carry());
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: usize,
    life: usize,
    adit: TcpStream,
    broker: TcpStream,
    /// What got through and is no whole packet yet.
    unread: [BytesMut; 2],
}

impl Connection {
    async fn carry(mut self) {
        for stream in [&self.adit, &self.broker] {
            stream.set_nodelay(true).unwrap();
        }
        let mut cuts = self.shared.cuts.subscribe();
        let (mut up, mut down) = ([0; READ_SIZE], [0; READ_SIZE]);
        loop {
            let (pause, piece) = self.shared.state(|state| (state.pause, state.piece));
            let (way, read) = tokio::select! {
                _ = cuts.changed() => {
                    let cut = cuts.borrow().1;
                    return self.cut(cut).await;
                }
                read = self.adit.read(&mut up[..piece]) => (Way::Up, read),
                read = self.broker.read(&mut down[..piece]) => (Way::Down, read),
            };
            let Ok(read @ 1..) = read else {
                return self.ended(match way {
                    Way::Up => BY_ADIT,
                    Way::Down => "by the broker",
                });
            };
            sleep(pause).await;
            let bytes = match way {
                Way::Up => &up[..read],
                Way::Down => &down[..read],
            };
            if let Some(cut) = self.hand_over(way, bytes).await {
                return self.cut(cut).await;
            }
        }
    }

    /// Hands over as many bytes as there may be before a cut, and returns that.
    async fn hand_over(&mut self, way: Way, bytes: &[u8]) -> Option<Cut> {
        let mut cut = None;
        let room = self.shared.state(|state| match &mut state.armed {
            Some((armed, left, _)) if *armed == way && *left > bytes.len() => {
                *left -= bytes.len();
                bytes.len()
            }
            Some((armed, left, how)) if *armed == way => {
                let room = *left;
                cut = Some(*how);
                state.armed = None;
                room
            }
            _ => bytes.len(),
        });
        let to = match way {
            Way::Up => &mut self.broker,
            Way::Down => &mut self.adit,
        };
        if to.write_all(&bytes[..room]).await.is_ok() {
            self.unread[way as usize].extend_from_slice(&bytes[..room]);
            self.record(way);
        }
        cut
    }

    /// Without a pause after the write, so that nothing that follows from a packet stands before it.
    fn record(&mut self, way: Way) {
        let mut codec = Codec {
            max_incoming_size: PACKET_LIMIT,
            max_outgoing_size: PACKET_LIMIT,
        };
        while let Some(packet) = codec.decode(&mut self.unread[way as usize]).unwrap() {
            self.note(What::Packet(way, packet));
        }
    }

    async fn cut(self, cut: Cut) {
        sleep(BEFORE_RESET).await;
        if cut == Cut::Reset {
            for stream in [&self.adit, &self.broker] {
                stream.set_zero_linger().unwrap();
            }
        }
        self.ended(match cut {
            Cut::Reset => "by a reset",
            Cut::Close => "by an orderly cut",
        });
    }

    fn ended(self, how: &'static str) {
        self.note(What::Ended(how));
    }

    fn note(&self, what: What) {
        self.shared.state(|state| {
            let seen = Seen::new(Instant::now(), self.number, self.life, what);
            state.record.push(seen);
        });
    }
}
