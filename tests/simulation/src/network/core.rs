//! The state of the network, and the queue of what is to happen in it.
//!
//! What TCP does is taken from Linux: a close with unread bytes is a reset; a reset leaves what has
//! arrived to be read, and then is told once; after an end that was received it is a broken pipe.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

pub(super) use super::faults::Outcome;
use super::faults::{Break, Disturbance, Fate, Outage, OutageKind, attempt, character, outages};
use super::{Answer, ConnectionId, Process, Zone};
use crate::faults::Faults;
use crate::note;
use crate::trace::Trace;

/// The gateway's own address in the network.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Buffers of fewer bytes make a long way slow.
const TINY: usize = 1 << 12;
/// The smallest buffers on the way to the broker.
const LEAST_TO_BROKER: usize = 128;
/// The largest piece that travels at once.
const SEGMENT: usize = 16 << 10;
/// Silence after which a kernel gives a connection up that owes nothing: adit asks for probes after 60
/// seconds, and of nine every 10 seconds none is answered. Machines and the cloud do alike.
const PROBED: u64 = 150_000;
/// The same where something is owed (Linux, `tcp_retries2` = 15).
const RETRIED: u64 = 924_000;

/// Milliseconds since the network began.
type Time = u64;

/// One end of a connection.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) connection: ConnectionId,
    /// 0 is that of the gateway.
    side: usize,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

pub(super) struct Core {
    faults: Faults,
    trace: Trace,
    began: Instant,
    rng: fastrand::Rng,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    /// Events so far, which keeps those of one instant in their order.
    count: u64,
    /// Of whoever fires events.
    driver: Option<Waker>,
    /// When that wakes by itself.
    alarm: Option<Time>,
    /// To be woken when the core is let go.
    pub(super) wakers: Vec<Waker>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// What is left to know of connections that are over.
    gone: BTreeMap<ConnectionId, (Fate, u64)>,
    made: u32,
    listeners: BTreeMap<SocketAddr, Listening>,
    /// The zones of addresses where somebody has ever listened.
    zones: BTreeMap<IpAddr, Zone>,
    pub(super) names: BTreeMap<String, Answer>,
    pub(super) silent: BTreeSet<IpAddr>,
    killed: Option<Process>,
    outages: Vec<Outage>,
    /// Where a connection was slow from its beginning.
    slow: BTreeSet<Zone>,
}

struct Listening {
    zone: Zone,
    waiting: VecDeque<End>,
    waker: Option<Waker>,
}

pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    pub(super) answer_after: Duration,
    /// Milliseconds of the way to the host.
    pub(super) delay: u64,
}

struct Connection {
    zone: Zone,
    process: Process,
    fate: Fate,
    delay: u64,
    ends: [Side; 2],
    /// The first from the gateway, the second to it.
    pipes: [Pipe; 2],
    /// A box on the way knows nothing of it any more.
    forgotten: bool,
    /// When each side last heard of the other.
    heard_at: [Time; 2],
    /// Bytes that the gateway has read.
    taken: u64,
}

/// What the kernel of one side knows.
#[derive(Default)]
struct Side {
    inbox: VecDeque<u8>,
    /// The other side's end has come.
    ended: bool,
    error: Option<io::ErrorKind>,
    /// Nothing comes or goes any more.
    dead: bool,
    /// Nobody holds the socket any more.
    closed: bool,
    shut: bool,
    lingers_not: bool,
    /// A reset throws away what was not read, as on systems other than Linux.
    forgets_at_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One way of a connection.
struct Pipe {
    unsent: VecDeque<u8>,
    /// On their way, and not in the other side's buffer yet.
    travelling: usize,
    unacknowledged: usize,
    end: PipeEnd,
    last_arrival: Time,
    carried: u64,
    send_room: usize,
    receive_room: usize,
    bandwidth: Option<u64>,
    fine: u64,
    disturbance: Option<Disturbance>,
    stalled_until: Time,
    silent: bool,
    is_pumped: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum PipeEnd {
    Open,
    Queued,
    Sent,
    Acknowledged,
}

#[derive(Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    /// Bytes reach the end of a pipe.
    Arrive(ConnectionId, usize, Vec<u8>),
    Ended(ConnectionId, usize),
    /// So many bytes of a pipe, or its end, are acknowledged.
    Acknowledged(ConnectionId, usize, usize, bool),
    /// More of a pipe may be sent.
    Pump(ConnectionId, usize),
    /// A reset reaches a side.
    Reset(ConnectionId, usize),
    /// The kernel of a side looks whether anybody is still there.
    Probe(ConnectionId, usize),
    Outage(Outage),
}

impl Core {
    pub(super) fn new(faults: Faults, trace: Trace) -> Self {
        let time = faults.end().saturating_duration_since(Instant::now());
        let outages = outages(&faults, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let mut core = Self {
            rng: faults.rng("network"),
            faults,
            trace,
            began: Instant::now(),
            queue: BinaryHeap::new(),
            count: 0,
            driver: None,
            alarm: None,
            wakers: Vec::new(),
            connections: BTreeMap::new(),
            gone: BTreeMap::new(),
            made: 0,
            listeners: BTreeMap::new(),
            zones: BTreeMap::new(),
            names: BTreeMap::new(),
            silent: BTreeSet::new(),
            killed: None,
            outages: outages.clone(),
            slow: BTreeSet::new(),
        };
        for outage in outages {
            core.at(outage.begins, Event::Outage(outage));
        }
        core
    }

    /// Lets happen what is due; returns when the next event is.
    pub(super) fn fire(&mut self, cx: &Context<'_>) -> Option<Instant> {
        let now = self.now();
        while let Some(Reverse((time, _, _))) = self.queue.peek()
            && *time <= now
            && let Some(Reverse((_, _, event))) = self.queue.pop()
        {
            self.happen(event);
        }
        self.driver = Some(cx.waker().clone());
        self.alarm = self.queue.peek().map(|Reverse((time, _, _))| *time);
        self.alarm
            .map(|time| self.began + Duration::from_millis(time))
    }

    fn now(&self) -> Time {
        let passed = self.began.elapsed().as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    fn after(&mut self, milliseconds: u64, event: Event) {
        self.at(self.now() + milliseconds, event);
    }

    fn at(&mut self, time: Time, event: Event) {
        self.count += 1;
        self.queue.push(Reverse((time, self.count, event)));
        if self.alarm.is_none_or(|alarm| time < alarm) {
            self.alarm = Some(time);
            self.wakers.extend(self.driver.take());
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(id, way, bytes) => self.arrive(id, way, bytes),
            Event::Ended(id, way) => self.end_arrives(id, way),
            Event::Acknowledged(id, way, bytes, end) => self.acknowledged(id, way, bytes, end),
            Event::Pump(id, way) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.pipes[way].is_pumped = false;
                }
                self.pump(id, way);
            }
            Event::Reset(id, side) => self.reset(id, side, io::ErrorKind::ConnectionReset),
            Event::Probe(id, side) => self.probe(id, side),
            Event::Outage(outage) => self.begin_outage(outage),
        }
    }

    pub(super) fn listen(&mut self, zone: Zone, address: SocketAddr) {
        self.zones.insert(address.ip(), zone);
        let listening = Listening {
            zone,
            waiting: VecDeque::new(),
            waker: None,
        };
        let before = self.listeners.insert(address, listening);
        assert!(before.is_none(), "somebody listens at {address} already");
    }

    pub(super) fn stop_listening(&mut self, address: SocketAddr) {
        if let Some(listening) = self.listeners.remove(&address) {
            for end in listening.waiting {
                self.reset_when_closed(&end);
                self.close(&end);
            }
        }
    }

    pub(super) fn poll_accept(&mut self, cx: &Context<'_>, address: SocketAddr) -> Poll<End> {
        match self.listeners.get_mut(&address) {
            Some(listening) => match listening.waiting.pop_front() {
                Some(end) => Poll::Ready(end),
                None => {
                    listening.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            },
            None => Poll::Pending,
        }
    }

    /// Returns how an attempt goes in an outage, if there is one.
    fn during_outage(&self, zone: Zone) -> Option<(Outcome, u64)> {
        let now = self.now();
        let outages = self.outages.iter();
        let mut present =
            outages.filter(|outage| outage.zones.contains(&zone) && outage.is_at(now));
        let outage = present.next()?;
        // The first SYN afterwards: each comes after twice the time.
        let tries = (0..7).map(|n| ((1 << n) - 1) * 1000);
        let mut tries = tries.filter(|late| now + late >= outage.ends);
        Some(match (outage.kind, tries.next()) {
            (OutageKind::Unreachable, _) => (Outcome::Unreachable, 0),
            (_, Some(late)) => (Outcome::Try, late),
            (_, None) => (Outcome::Vanish, 0),
        })
    }

    fn begin_outage(&mut self, outage: Outage) {
        let seconds = |time: Time| time as f64 / 1000.0;
        let zones: Vec<_> = outage.zones.iter().map(|zone| zone.name()).collect();
        note!(
            self.trace,
            "network",
            "outage of {} until {:.3}: {:?}",
            zones.join(" and "),
            seconds(outage.ends),
            outage.kind
        );
        let mut silenced = Vec::new();
        for (id, connection) in &mut self.connections {
            if !outage.zones.contains(&connection.zone) {
                continue;
            }
            connection.fate = connection.fate.max(Fate::Delayed);
            for pipe in &mut connection.pipes {
                pipe.stalled_until = pipe.stalled_until.max(outage.ends);
                pipe.silent |= outage.kind == OutageKind::NewAddress;
            }
            if outage.kind == OutageKind::NewAddress {
                connection.fate = Fate::Broken;
                silenced.push(*id);
            }
        }
        for id in silenced {
            self.after(PROBED, Event::Probe(id, 0));
            self.after(PROBED, Event::Probe(id, 1));
        }
    }

    /// Draws how an attempt to connect goes.
    pub(super) fn attempt(&mut self, process: Process, to: SocketAddr) -> Attempt {
        let zone = self.zones.get(&to.ip()).copied().unwrap_or(Zone::Lan);
        let delay = match zone {
            Zone::Broker | Zone::Cloud => 1 << self.rng.u64(1..9),
            Zone::Lan => self.rng.u64(0..3),
        };
        let (outcome, late) = if self.killed == Some(process) || self.silent.contains(&to.ip()) {
            (Outcome::Vanish, 0)
        } else {
            self.during_outage(zone)
                .unwrap_or_else(|| attempt(&self.faults, zone))
        };
        Attempt {
            outcome,
            answer_after: Duration::from_millis(late + 2 * delay),
            delay,
        }
    }

    pub(super) fn connect(
        &mut self,
        process: Process,
        to: SocketAddr,
        delay: u64,
    ) -> io::Result<End> {
        let Some(zone) = self.listeners.get(&to).map(|listening| listening.zone) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let id = ConnectionId(self.made);
        self.made += 1;
        // Each has a port of its own; those of Linux begin there.
        let port = 32_768 + u16::try_from(id.0 % 28_000).unwrap_or(0);
        let from = SocketAddr::from((GATEWAY, port));
        let character = character(&self.faults, zone);
        let mut ways = [0, 1].map(|way| Pipe {
            unsent: VecDeque::new(),
            travelling: 0,
            unacknowledged: 0,
            end: PipeEnd::Open,
            last_arrival: 0,
            carried: 0,
            send_room: 1 << self.rng.usize(10..17),
            receive_room: 1 << self.rng.usize(10..17),
            bandwidth: character.bandwidth[way],
            fine: character.fine[way],
            disturbance: character.disturbances[way],
            stalled_until: 0,
            silent: false,
            is_pumped: false,
        });
        // A small buffer now and then lets few bytes block the relay.
        if self.rng.u8(0..8) == 0 {
            let way = self.rng.usize(..2);
            ways[way].send_room = 1 << self.rng.usize(4..9);
            ways[way].receive_room = 1 << self.rng.usize(4..9);
            // A whole burst of statuses is to come through in its time.
            if zone == Zone::Broker {
                ways[way].send_room = ways[way].send_room.max(LEAST_TO_BROKER);
                ways[way].receive_room = ways[way].receive_room.max(LEAST_TO_BROKER);
            }
        }
        // So few bytes at a time, over a long way, are as slow as a narrow one.
        let is_tiny = |way: &Pipe| way.send_room.min(way.receive_room) < TINY;
        let is_slow = character.bandwidth.iter().any(Option::is_some)
            || (zone != Zone::Lan && ways.iter().any(is_tiny));
        if is_slow {
            self.slow.insert(zone);
        }
        let mut ends = [Side::default(), Side::default()];
        ends[1].forgets_at_reset = self.rng.bool();
        let connection = Connection {
            zone,
            process,
            fate: match is_slow {
                true => Fate::Delayed,
                false => Fate::Untouched,
            },
            delay,
            ends,
            pipes: ways,
            forgotten: false,
            heard_at: [self.now(); 2],
            taken: 0,
        };
        note!(
            self.trace,
            "network",
            "{id} to {} at {to}, {delay} ms",
            zone.name()
        );
        self.connections.insert(id, connection);
        let far = End {
            connection: id,
            side: 1,
            local: to,
            peer: from,
        };
        if let Some(listening) = self.listeners.get_mut(&to) {
            listening.waiting.push_back(far);
            self.wakers.extend(listening.waker.take());
        }
        // A disturbance at byte 0 strikes before anything was said.
        self.pump(id, 0);
        self.pump(id, 1);
        Ok(End {
            connection: id,
            side: 0,
            local: from,
            peer: to,
        })
    }

    pub(super) fn poll_read(
        &mut self,
        cx: Option<&mut Context<'_>>,
        end: &End,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return Poll::Ready(Ok(()));
        };
        let side = &mut connection.ends[end.side];
        if side.closed {
            // Killed.
            return Poll::Pending;
        }
        if !side.inbox.is_empty() {
            let whole = side.inbox.len().min(buf.remaining());
            if whole == 0 {
                return Poll::Ready(Ok(()));
            }
            let length = match self.rng.u8(0..4) {
                0 => self.rng.usize(1..=whole),
                _ => whole,
            };
            let (front, back) = side.inbox.as_slices();
            let first = length.min(front.len());
            buf.put_slice(&front[..first]);
            buf.put_slice(&back[..length - first]);
            side.inbox.drain(..length);
            if end.side == 0 {
                connection.taken += length as u64;
            }
            let way = 1 - end.side;
            let pipe = &mut connection.pipes[way];
            if !pipe.unsent.is_empty() && !pipe.is_pumped {
                pipe.is_pumped = true;
                let delay = connection.delay;
                self.after(delay, Event::Pump(end.connection, way));
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = side.error.take() {
            return Poll::Ready(Err(error.into()));
        }
        if side.ended || side.dead {
            return Poll::Ready(Ok(()));
        }
        if let Some(cx) = cx {
            side.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &Context<'_>,
        end: &End,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let side = &mut connection.ends[end.side];
        if side.closed {
            return Poll::Pending;
        }
        if side.dead || side.shut {
            let error = side.error.take().unwrap_or(io::ErrorKind::BrokenPipe);
            return Poll::Ready(Err(error.into()));
        }
        let pipe = &mut connection.pipes[end.side];
        let room = pipe.room();
        let given = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if room == 0 && given > 0 {
            side.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let whole = room.min(given);
        let length = match self.rng.u8(0..8) {
            0 if whole > 1 => self.rng.usize(1..=whole),
            _ => whole,
        };
        let mut left = length;
        for piece in pieces {
            let part = piece.len().min(left);
            pipe.unsent.extend(&piece[..part]);
            left -= part;
        }
        self.pump(end.connection, end.side);
        Poll::Ready(Ok(length))
    }

    pub(super) fn shutdown(&mut self, end: &End) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let side = &mut connection.ends[end.side];
        if side.dead {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if !side.shut && !side.closed {
            side.shut = true;
            connection.pipes[end.side].end = PipeEnd::Queued;
            self.pump(end.connection, end.side);
        }
        Ok(())
    }

    pub(super) fn reset_when_closed(&mut self, end: &End) {
        if let Some(connection) = self.connections.get_mut(&end.connection) {
            connection.ends[end.side].lingers_not = true;
        }
    }

    pub(super) fn held(&self, end: &End) -> u64 {
        let Some(connection) = self.connections.get(&end.connection) else {
            return 0;
        };
        if connection.ends[end.side].dead {
            return 0;
        }
        connection.pipes[end.side].held() as u64
    }

    pub(super) fn close(&mut self, end: &End) {
        let (id, side) = (end.connection, end.side);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let own = &mut connection.ends[side];
        if own.closed {
            return;
        }
        own.closed = true;
        own.reader = None;
        own.writer = None;
        let dead = own.dead;
        let resets = own.lingers_not || !own.inbox.is_empty();
        let shut = own.shut;
        note!(
            self.trace,
            "network",
            "{id} {} by the {}",
            if resets && !dead { "reset" } else { "closed" },
            ["gateway", "host"][side]
        );
        if !dead && resets {
            own.inbox = VecDeque::new();
            own.dead = true;
            connection.pipes[side].unsent = VecDeque::new();
            self.send_reset(id, 1 - side);
        } else if !dead && !shut {
            connection.ends[side].shut = true;
            connection.pipes[side].end = PipeEnd::Queued;
            self.pump(id, side);
        }
        self.forget(id);
    }

    /// Forgets a connection that both sides have closed and in which nothing is to be sent.
    fn forget(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let is_over = |way: usize| {
            let (side, pipe) = (&connection.ends[way], &connection.pipes[way]);
            side.closed && (side.dead || matches!(pipe.end, PipeEnd::Sent | PipeEnd::Acknowledged))
        };
        if is_over(0) && is_over(1) {
            self.gone.insert(id, (connection.fate, connection.taken));
            self.connections.remove(&id);
        }
    }

    pub(super) fn kill(&mut self, process: Process) {
        self.killed = Some(process);
        let ends: Vec<_> = self.ends_of(process).collect();
        for end in ends {
            self.close(&end);
        }
    }

    fn ends_of(&self, process: Process) -> impl Iterator<Item = End> + '_ {
        let any = SocketAddr::from((GATEWAY, 0));
        let held = self.connections.iter();
        let held = held.filter(move |(_, held)| held.process == process && !held.ends[0].closed);
        held.map(move |(id, _)| End {
            connection: *id,
            side: 0,
            local: any,
            peer: any,
        })
    }

    pub(super) fn held_by(&self, process: Process) -> Vec<String> {
        let ids = self.ends_of(process).map(|end| end.connection);
        let line = |id| {
            let zone = self
                .connections
                .get(&id)
                .map_or("?", |held| held.zone.name());
            format!("connection {id} with the {zone} is still open")
        };
        ids.map(line).collect()
    }

    pub(super) fn fate(&self, id: ConnectionId) -> Fate {
        self.known(id).0
    }

    pub(super) fn was_slow(&self, zone: Zone) -> bool {
        self.slow.contains(&zone)
    }

    pub(super) fn taken(&self, id: ConnectionId) -> u64 {
        self.known(id).1
    }

    fn known(&self, id: ConnectionId) -> (Fate, u64) {
        let held = self.connections.get(&id);
        let held = held.map(|held| (held.fate, held.taken));
        held.or_else(|| self.gone.get(&id).copied())
            .unwrap_or((Fate::Untouched, 0))
    }

    pub(super) fn stall(&mut self, zone: Zone, time: Duration) {
        let until = self.now() + u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let all = self.connections.values_mut();
        for connection in all.filter(|connection| connection.zone == zone) {
            connection.fate = connection.fate.max(Fate::Delayed);
            let [_, to_gateway] = &mut connection.pipes;
            to_gateway.stalled_until = to_gateway.stalled_until.max(until);
        }
    }

    pub(super) fn reset_all(&mut self, zone: Zone) {
        let all = self.connections.iter_mut();
        let all = all.filter(|(_, connection)| connection.zone == zone);
        let ids: Vec<_> = all
            .map(|(id, connection)| {
                connection.fate = Fate::Broken;
                *id
            })
            .collect();
        for id in ids {
            self.send_reset(id, 0);
            self.send_reset(id, 1);
        }
    }

    /// Sends what may be sent of one way.
    fn pump(&mut self, id: ConnectionId, way: usize) {
        loop {
            let now = self.now();
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            let delay = connection.delay;
            if connection.ends[way].dead || connection.pipes[way].silent {
                return;
            }
            let taken = connection.ends[1 - way].inbox.len();
            let forgotten = connection.forgotten;
            let pipe = &mut connection.pipes[way];
            let has_end = pipe.end == PipeEnd::Queued && pipe.unsent.is_empty();
            if forgotten && (has_end || !pipe.unsent.is_empty()) {
                self.after(2 * delay, Event::Reset(id, way));
                return;
            }
            if let Some(disturbance) = pipe.disturbance
                && self.disturb(id, way, disturbance)
            {
                continue;
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            let pipe = &mut connection.pipes[way];
            let window = pipe.receive_room.saturating_sub(taken + pipe.travelling);
            let mut length = pipe.unsent.len().min(window).min(SEGMENT);
            if pipe.carried < pipe.fine {
                length = length.min(self.rng.usize(1..8));
            }
            if let Some(Disturbance::Break(place, _) | Disturbance::Stall(place, _)) =
                pipe.disturbance
            {
                let before = usize::try_from(place.saturating_sub(pipe.carried));
                length = length.min(before.unwrap_or(usize::MAX));
            }
            if length == 0 && !has_end {
                return;
            }
            let takes = pipe
                .bandwidth
                .map_or(0, |bandwidth| (length as u64).div_ceil(bandwidth));
            let sent = now.max(pipe.stalled_until);
            let arrival = (sent + delay).max(pipe.last_arrival) + takes;
            pipe.last_arrival = arrival;
            if length == 0 {
                pipe.end = PipeEnd::Sent;
                self.at(arrival, Event::Ended(id, way));
                self.forget(id);
                return;
            }
            let bytes = pipe.unsent.drain(..length).collect();
            pipe.carried += length as u64;
            pipe.travelling += length;
            pipe.unacknowledged += length;
            self.at(arrival, Event::Arrive(id, way, bytes));
        }
    }

    /// Disturbs a way if it has carried as much as the disturbance waits for. It is told once.
    fn disturb(&mut self, id: ConnectionId, way: usize, disturbance: Disturbance) -> bool {
        let now = self.now();
        let end = self.faults.end();
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        let pipe = &mut connection.pipes[way];
        let (Disturbance::Break(place, _) | Disturbance::Stall(place, _)) = disturbance;
        if pipe.carried < place {
            return false;
        }
        pipe.disturbance = None;
        // What is drawn early may come late.
        if left == 0 {
            return true;
        }
        let direction = ["from", "to"][way];
        match disturbance {
            Disturbance::Stall(_, time) => {
                let time = time.min(u64::try_from(left).unwrap_or(u64::MAX));
                pipe.stalled_until = pipe.stalled_until.max(now + time);
                connection.fate = connection.fate.max(Fate::Delayed);
                note!(
                    self.trace,
                    "network",
                    "{id} stalls {direction} the gateway for {time} ms"
                );
            }
            Disturbance::Break(_, how) => {
                connection.fate = Fate::Broken;
                note!(
                    self.trace,
                    "network",
                    "{id} breaks after {place} bytes {direction} the gateway: {how:?}"
                );
                match how {
                    Break::Reset => {
                        self.send_reset(id, 0);
                        self.send_reset(id, 1);
                        return true;
                    }
                    Break::Silence => connection.pipes.iter_mut().for_each(|pipe| {
                        pipe.silent = true;
                    }),
                    Break::SilenceOneWay => pipe.silent = true,
                    Break::Forgotten => connection.forgotten = true,
                }
                self.after(PROBED, Event::Probe(id, 0));
                self.after(PROBED, Event::Probe(id, 1));
            }
        }
        true
    }

    /// Sends a reset to a side, behind what is on its way there.
    fn send_reset(&mut self, id: ConnectionId, side: usize) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let pipe = &mut connection.pipes[1 - side];
        if pipe.silent || connection.forgotten {
            return;
        }
        let arrival = (now.max(pipe.stalled_until) + connection.delay).max(pipe.last_arrival);
        pipe.last_arrival = arrival;
        self.at(arrival, Event::Reset(id, side));
    }

    fn arrive(&mut self, id: ConnectionId, way: usize, bytes: Vec<u8>) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let length = bytes.len();
        connection.pipes[way].travelling -= length;
        connection.heard_at[1 - way] = now;
        let is_back_open = !connection.pipes[1 - way].silent && !connection.forgotten;
        let delay = connection.delay;
        let receiver = &mut connection.ends[1 - way];
        if receiver.closed || receiver.dead {
            if is_back_open {
                self.after(delay, Event::Reset(id, way));
            }
            return;
        }
        receiver.inbox.extend(bytes);
        self.wakers.extend(receiver.reader.take());
        if is_back_open {
            self.after(delay, Event::Acknowledged(id, way, length, false));
        }
    }

    fn end_arrives(&mut self, id: ConnectionId, way: usize) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let is_back_open = !connection.pipes[1 - way].silent && !connection.forgotten;
        let delay = connection.delay;
        let receiver = &mut connection.ends[1 - way];
        if receiver.dead {
            return;
        }
        receiver.ended = true;
        self.wakers.extend(receiver.reader.take());
        if is_back_open {
            self.after(delay, Event::Acknowledged(id, way, 0, true));
        }
    }

    fn acknowledged(&mut self, id: ConnectionId, way: usize, bytes: usize, end: bool) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let pipe = &mut connection.pipes[way];
        pipe.unacknowledged -= bytes.min(pipe.unacknowledged);
        if end {
            pipe.end = PipeEnd::Acknowledged;
        }
        // Linux wakes a writer when a third of the buffer is free.
        if pipe.room() * 3 >= pipe.send_room {
            let writer = connection.ends[way].writer.take();
            self.wakers.extend(writer);
        }
        self.pump(id, way);
    }

    /// A side learns that there is no connection any more.
    fn reset(&mut self, id: ConnectionId, side: usize, error: io::ErrorKind) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let own = &mut connection.ends[side];
        if own.dead {
            return;
        }
        own.dead = true;
        own.error = Some(match own.ended {
            true => io::ErrorKind::BrokenPipe,
            false => error,
        });
        if own.forgets_at_reset {
            own.inbox.clear();
        }
        self.wakers.extend(own.reader.take());
        self.wakers.extend(own.writer.take());
        let pipe = &mut connection.pipes[side];
        pipe.unsent = VecDeque::new();
        pipe.unacknowledged = 0;
        self.forget(id);
    }

    fn probe(&mut self, id: ConnectionId, side: usize) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let is_silent = connection.pipes.iter().any(|pipe| pipe.silent);
        if connection.ends[side].dead || !(is_silent || connection.forgotten) {
            return;
        }
        let owes = connection.pipes[side].held() > 0;
        let gives_up_at = connection.heard_at[side] + if owes { RETRIED } else { PROBED };
        if self.now() < gives_up_at {
            return self.at(gives_up_at, Event::Probe(id, side));
        }
        // A box that has forgotten the connection answers the first probe.
        let error = match connection.forgotten {
            true => io::ErrorKind::ConnectionReset,
            false => io::ErrorKind::TimedOut,
        };
        self.reset(id, side, error);
    }
}

impl Pipe {
    fn room(&self) -> usize {
        let held = self.unsent.len() + self.unacknowledged;
        self.send_room.saturating_sub(held)
    }

    fn held(&self) -> usize {
        let end = matches!(self.end, PipeEnd::Queued | PipeEnd::Sent);
        self.unsent.len() + self.unacknowledged + usize::from(end)
    }
}
