//! The broker and the platform behind it: packets and instants in, packets and instants out.
//!
//! As on the real one, a message of adit is applied to the platform at once, and its acknowledgement
//! and the answers leave by ways of their own. What the broker may do wrong is drawn from the faults
//! of the schedule. Everything that it took and sent is on record, for the judge.

mod server;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fastrand::Rng;
use rumqttc::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, PubAck, Publish, QoS, SubAck, Subscribe,
    SubscribeReasonCode,
};
use simulated_cloud::platform::Delivery;
use simulated_cloud::{
    NOTIFICATIONS, Notifications, OperationId, Platform, REMOTE_ACCESS, TokenAnswer,
};
use smartrest::{Row, encode};

use crate::cloud::frames::overhead;
use crate::faults::Faults;
use crate::judge::{Seen, Way, What};
use crate::network::ConnectionId;

pub(crate) use server::{Shared, serve};

/// The milliseconds that a packet of the broker is late at most.
const LATE: u64 = 40;
/// How long a client may take to log in.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How a connection ended that the broker has ended, for the record.
const BY_CLOSE: &str = "by the broker";
const BY_RESET: &str = "by a reset of the broker";
/// Events of tunnels, which alone are refused for good: nothing depends on them.
const EVENT: &str = "400,";
/// The topic of answers that come with ids is served by another part of the platform.
const BY_ID: &str = "s/dc/";

/// Fewer closes in a row at a message than set it aside.
const CLOSES: u32 = 2;
/// Packets of a connection that adit may have taken and not looked at, when it ended.
const UNSEEN: usize = 64;
/// So many ways in which that may have happened are tried.
const DOUBTS: usize = 2000;

/// The fault that takes back all tokens in the moment in which one is shown.
pub(crate) const REVOKED: &str = "token: is revoked";
/// Where a token is asked for.
const TOKEN_REQUEST: &str = "s/uat";

/// Every gateway of the simulation.
pub(crate) const GATEWAY: &str = "gw";

/// What is to be done with a connection now.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Send(Packet),
    Close,
    Reset,
}

/// Whether connections are taken, and what that depends on.
pub(crate) struct Broker {
    platform: Platform,
    faults: Faults,
    dice: Rng,
    lines: Vec<Line>,
    record: Vec<Seen>,
    /// Entries of the record that were asked for.
    told: usize,
    /// Of what was sent, by its place on record: where it ends in the bytes of its connection.
    ends: BTreeMap<usize, u64>,
    /// What was sent and acknowledged, by its place on record.
    certain: BTreeSet<usize>,
    /// A message that ends every connection.
    poison: Option<(String, String)>,
    /// How often in a row the connection was closed at a message.
    closed_at: BTreeMap<(String, String), u32>,
    /// Nobody is taken before.
    down_until: Option<Instant>,
    /// The next message is not acknowledged.
    loses_puback: bool,
}

/// A connection.
#[derive(Default)]
struct Line {
    life: usize,
    connection: Option<ConnectionId>,
    /// Bytes that were sent.
    sent: u64,
    /// Every packet comes in a message of a WebSocket.
    is_framed: bool,
    state: State,
    topics: BTreeSet<String>,
    last_packet_id: u16,
    /// With their places on record.
    unacknowledged: Vec<(usize, Publish)>,
    will: Option<LastWill>,
    /// Packets to send, by the way that they take through the broker. Each way keeps its order.
    queues: BTreeMap<Lane, VecDeque<(Instant, Action)>>,
    /// When the client is thrown out.
    thrown_out_at: Option<Instant>,
    /// When a silent client is given up.
    silent_at: Option<Instant>,
    keep_alive: Duration,
    /// Milliseconds that every packet is late.
    slowness: u64,
    is_deaf: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// No CONNECT has come.
    #[default]
    New,
    Up,
    /// Nothing is taken any more; what is queued still goes out.
    Over,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Lane {
    Answers,
    Rows,
    RowsById,
    Tokens,
}

impl Broker {
    pub(crate) fn new(faults: Faults) -> Self {
        // In some schedules the gateway is new.
        let mut dice = faults.rng("broker");
        let mut platform = Platform::new(GATEWAY, dice.bool());
        // The clock of this machine would make each run another one.
        platform.begin_at(UNIX_EPOCH);
        if dice.u8(0..4) > 0 {
            platform.create_device(GATEWAY, GATEWAY, "adit_Gateway");
        }
        Self {
            platform,
            dice,
            faults,
            lines: Vec::new(),
            record: Vec::new(),
            told: 0,
            ends: BTreeMap::new(),
            certain: BTreeSet::new(),
            poison: None,
            closed_at: BTreeMap::new(),
            down_until: None,
            loses_puback: false,
        }
    }

    /// Has operations told on the topic of notifications, before their rows or behind them.
    pub(crate) fn notify(&mut self) {
        let order = [Notifications::BehindRows, Notifications::BeforeRows];
        self.platform.notify(order[self.dice.usize(..order.len())]);
    }

    /// Returns the record as adit saw it: of what was sent on a connection, what it has `taken`, less
    /// as many of the last packets as `unseen` says.
    pub(crate) fn seen(
        &self,
        taken: impl Fn(ConnectionId) -> u64,
        unseen: &BTreeMap<usize, usize>,
    ) -> Vec<&Seen> {
        let mut kept: BTreeSet<usize> = (0..self.record.len()).collect();
        for number in 0..self.lines.len() {
            let (taken, lost) = self.sent(number, &taken);
            let unseen = unseen.get(&number).copied().unwrap_or_default();
            for place in taken.iter().rev().take(unseen).chain(&lost) {
                kept.remove(place);
            }
        }
        kept.iter().map(|&place| &self.record[place]).collect()
    }

    /// Whether adit has to have looked at all that it has taken of a connection: it does before it
    /// goes on with another, where the broker ended this one. What it gives up itself it need not, nor
    /// when it ends.
    fn is_looked_at(&self, number: usize) -> bool {
        let is_end = |what: &What| matches!(what, What::Ended(BY_CLOSE | BY_RESET));
        let mut on_it = self.record.iter().filter(|seen| seen.connection == number);
        let life = self.lines[number].life;
        let mut later = self.lines.iter().skip(number + 1);
        on_it.any(|seen| is_end(&seen.what)) && later.any(|line| line.life == life)
    }

    /// Returns every way in which adit may have left packets unseen that it had taken.
    pub(crate) fn doubts(
        &self,
        taken: impl Fn(ConnectionId) -> u64,
    ) -> Vec<BTreeMap<usize, usize>> {
        let mut doubts = vec![BTreeMap::new()];
        for (number, most) in self.most_unseen(taken).into_iter().enumerate() {
            if doubts.len() * (most + 1) > DOUBTS {
                break;
            }
            let before = doubts.clone();
            for unseen in 1..=most {
                doubts.extend(before.iter().cloned().map(|mut doubt| {
                    doubt.insert(number, unseen);
                    doubt
                }));
            }
        }
        doubts
    }

    /// Returns every way that differs from `doubt` in one connection.
    pub(crate) fn doubts_beside(
        &self,
        doubt: &BTreeMap<usize, usize>,
        taken: impl Fn(ConnectionId) -> u64,
    ) -> Vec<BTreeMap<usize, usize>> {
        let mut doubts = Vec::new();
        for (number, most) in self.most_unseen(taken).into_iter().enumerate() {
            doubts.extend((0..=most).map(|unseen| {
                let mut other = doubt.clone();
                other.insert(number, unseen);
                other
            }));
        }
        doubts
    }

    /// How many packets adit may have left unseen that it had taken, by the number of the connection.
    fn most_unseen(&self, taken: impl Fn(ConnectionId) -> u64) -> Vec<usize> {
        let most = |number| {
            if self.is_looked_at(number) {
                return 0;
            }
            let (taken, _) = self.sent(number, &taken);
            let unseen = taken
                .iter()
                .rev()
                .take_while(|place| !self.certain.contains(place));
            unseen.count().min(UNSEEN)
        };
        (0..self.lines.len()).map(most).collect()
    }

    /// The places on record of what was sent on a connection: what was taken, and what was not.
    fn sent(
        &self,
        number: usize,
        taken: &impl Fn(ConnectionId) -> u64,
    ) -> (Vec<usize>, Vec<usize>) {
        let taken = self.lines[number].connection.map_or(0, taken);
        let on_it = |place: &usize| self.record[*place].connection == number;
        let sent = self.ends.iter().filter(|(place, _)| on_it(place));
        let (taken, lost): (Vec<_>, Vec<_>) = sent.partition(|(_, end)| **end <= taken);
        let places = |of: Vec<(&usize, &u64)>| of.into_iter().map(|(place, _)| *place).collect();
        (places(taken), places(lost))
    }

    /// How many connections were taken.
    pub(crate) fn connections(&self) -> usize {
        self.lines.len()
    }

    /// Returns since when the broker is back for adit: so many connections, counted from the first one, have ended,
    /// and it was let in on the one behind them.
    pub(crate) fn back_since(&self, connections: usize) -> Option<Instant> {
        let back = self.record.iter().filter(|seen| match &seen.what {
            What::Ended(_) => seen.connection < connections,
            What::Packet(Way::Down, Packet::ConnAck(_)) => seen.connection == connections,
            What::Packet(..) => false,
        });
        back.map(|seen| seen.at).max()
    }

    /// What the platform knows.
    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// What was taken and sent since this was last asked.
    pub(crate) fn news(&mut self) -> &[Seen] {
        let from = std::mem::replace(&mut self.told, self.record.len());
        self.record.get(from..).unwrap_or_default()
    }

    /// All that was taken and sent.
    pub(crate) fn record(&self) -> &[Seen] {
        &self.record
    }

    /// Creates a device that nobody has announced.
    pub(crate) fn create_device(&mut self, id: &str) {
        self.platform.create_device(id, id, "");
    }

    /// Creates an operation; `None` where the device does not exist yet.
    pub(crate) fn create_operation(
        &mut self,
        device: &str,
        row: Row,
        now: Instant,
    ) -> Option<OperationId> {
        let created = self.platform.create_operation(device, REMOTE_ACCESS, row);
        let (id, deliveries) = created?;
        self.deliver(deliveries, now);
        Some(id)
    }

    /// Delivers an operation once more, if the client of this connection was shown it.
    pub(crate) fn redeliver(&mut self, id: OperationId, now: Instant) {
        let row = self.platform.operation(id).map(|o| encode([&o.row]));
        let number = self.lines.len().saturating_sub(1);
        let was_shown = row.is_some_and(|row| {
            let on_it = |seen: &&Seen| seen.connection == number;
            let mut seen = self.record.iter().filter(on_it);
            seen.any(|seen| seen.rows().contains(&row))
        });
        if was_shown {
            let deliveries = self.platform.redeliver(id);
            self.deliver(deliveries, now);
        }
    }

    /// Delivers rows of no operation.
    pub(crate) fn say(&mut self, topic: &str, rows: &[u8], now: Instant) {
        let (topic, payload) = (topic.to_owned(), rows.to_vec());
        self.deliver(vec![Delivery { topic, payload }], now);
    }

    /// Never acknowledges the next message.
    pub(crate) fn lose_puback(&mut self) {
        self.loses_puback = true;
    }

    /// Resets every connection.
    pub(crate) fn throw_out(&mut self, now: Instant) {
        for number in 0..self.lines.len() {
            self.end(number, Action::Reset, now);
        }
    }

    /// When connections are taken again, if they are not now.
    pub(crate) fn down_until(&self) -> Option<Instant> {
        self.down_until
    }

    /// Takes note that the broker takes connections.
    pub(crate) fn is_back(&mut self) {
        self.down_until = None;
    }

    /// Takes a connection of the adit of a life; returns its number.
    pub(crate) fn accepted(
        &mut self,
        connection: Option<ConnectionId>,
        life: usize,
        now: Instant,
    ) -> usize {
        let mut line = Line {
            life,
            connection,
            silent_at: Some(now + CONNECT_LIMIT),
            ..Line::default()
        };
        if let Some(mut dice) = self.faults.strike("broker: is slow", 3) {
            line.slowness = dice.u64(50..3000);
        }
        self.lines.push(line);
        self.lines.len() - 1
    }

    /// Takes note that a connection has become a WebSocket, by an answer of so many bytes.
    fn upgraded(&mut self, number: usize, answer: usize) {
        let line = &mut self.lines[number];
        line.is_framed = true;
        line.sent += answer as u64;
    }

    /// Takes a packet.
    pub(crate) fn received(&mut self, number: usize, packet: Packet, now: Instant) {
        let line = &mut self.lines[number];
        if line.state == State::Over || line.is_deaf {
            if let Packet::Publish(publish) = &packet {
                *self.closed_at.entry(message(publish)).or_default() += 1;
            }
            return;
        }
        line.silent_at = match line.keep_alive.is_zero() {
            true => line.silent_at,
            false => Some(now + line.keep_alive * 3 / 2),
        };
        self.note(number, What::Packet(Way::Up, packet.clone()), now);
        match (self.lines[number].state, packet) {
            (State::New, Packet::Connect(connect)) => self.log_in(number, connect, now),
            (State::Up, Packet::Publish(publish)) => self.published(number, &publish, now),
            (State::Up, Packet::Subscribe(subscribe)) => self.subscribe(number, &subscribe, now),
            (State::Up, Packet::PubAck(ack)) => self.acknowledged(number, ack.pkid, now),
            (State::Up, Packet::PingReq) => {
                if self.faults.strike("broker: goes deaf", 10).is_some() {
                    self.lines[number].is_deaf = true;
                    return;
                }
                self.answer(number, Packet::PingResp, now);
            }
            (State::Up, Packet::Disconnect) => {
                self.lines[number].will = None;
                self.end(number, Action::Close, now);
            }
            // A client that breaks the protocol is thrown out.
            _ => self.end(number, Action::Reset, now),
        }
    }

    /// Takes note that a connection has ended, in whatever way.
    pub(crate) fn ended(&mut self, number: usize, how: &'static str, now: Instant) {
        self.note(number, What::Ended(how), now);
        let line = &mut self.lines[number];
        line.state = State::Over;
        line.queues.clear();
        line.silent_at = None;
        line.thrown_out_at = None;
        if let Some(will) = line.will.take() {
            let deliveries = self.platform.receive(&will.topic, &will.message, now);
            self.deliver(deliveries, now);
        }
    }

    /// When to look at a connection again.
    pub(crate) fn next_deadline(&self, number: usize) -> Option<Instant> {
        let line = &self.lines[number];
        let first = |queue: &VecDeque<(Instant, Action)>| queue.front().map(|(at, _)| *at);
        let queued = line.queues.values().filter_map(first);
        queued.chain(line.thrown_out_at).chain(line.silent_at).min()
    }

    /// Returns what is due on a connection.
    pub(crate) fn due(&mut self, number: usize, now: Instant) -> Option<Action> {
        let line = &mut self.lines[number];
        let has_come = |at: &mut Instant| *at <= now;
        if line.silent_at.take_if(has_come).is_some() {
            return Some(Action::Close);
        }
        if line.thrown_out_at.take_if(has_come).is_some() {
            return Some(Action::Close);
        }
        let lanes = line.queues.values_mut();
        let lane = lanes
            .filter(|queue| queue.front().is_some_and(|(at, _)| *at <= now))
            .min_by_key(|queue| queue.front().map(|(at, _)| *at))?;
        let (_, mut action) = lane.pop_front()?;
        if let Action::Send(packet) = &mut action {
            if let Packet::Publish(publish) = packet
                && !publish.dup
            {
                line.last_packet_id = line.last_packet_id % u16::MAX + 1;
                publish.pkid = line.last_packet_id;
                line.unacknowledged
                    .push((self.record.len(), publish.clone()));
            }
            let size = packet.size();
            let around = if line.is_framed { overhead(size) } else { 0 };
            line.sent += (size + around) as u64;
            self.ends.insert(self.record.len(), line.sent);
            let packet = packet.clone();
            self.note(number, What::Packet(Way::Down, packet), now);
        }
        Some(action)
    }

    fn log_in(&mut self, number: usize, connect: Connect, now: Instant) {
        if let Some(mut dice) = self.faults.strike("broker: refuses the login", 3) {
            let codes = [
                ConnectReturnCode::ServiceUnavailable,
                ConnectReturnCode::BadUserNamePassword,
                ConnectReturnCode::NotAuthorized,
            ];
            let code = codes[dice.usize(..codes.len())];
            self.answer(number, Packet::ConnAck(ConnAck::new(code, false)), now);
            return self.end(number, Action::Close, now);
        }
        if self
            .faults
            .strike("broker: never answers a login", 4)
            .is_some()
        {
            self.lines[number].is_deaf = true;
            return;
        }
        if self
            .faults
            .strike("broker: closes at the login", 3)
            .is_some()
        {
            return self.end(number, Action::Close, now);
        }
        for other in 0..number {
            if self.lines[other].state == State::Up {
                self.end(other, Action::Close, now);
            }
        }
        let thrown_out = self.faults.strike("broker: another client comes", 3);
        let line = &mut self.lines[number];
        line.state = State::Up;
        line.keep_alive = Duration::from_secs(connect.keep_alive.into());
        line.silent_at = Some(now + line.keep_alive * 3 / 2);
        line.will = connect.last_will;
        line.thrown_out_at =
            thrown_out.map(|mut dice| now + Duration::from_millis(1 << dice.u64(0..16)));
        line.thrown_out_at = line
            .thrown_out_at
            .filter(|at| *at < self.faults.end().into_std());
        let granted = ConnAck::new(ConnectReturnCode::Success, false);
        self.answer(number, Packet::ConnAck(granted), now);
    }

    fn subscribe(&mut self, number: usize, subscribe: &Subscribe, now: Instant) {
        let refused = vec![SubscribeReasonCode::Failure];
        let [filter] = &subscribe.filters[..] else {
            let answer = SubAck::new(subscribe.pkid, refused.repeat(subscribe.filters.len()));
            return self.answer(number, Packet::SubAck(answer), now);
        };
        let is_silent = self.faults.strike("broker: never answers a SUBSCRIBE", 6);
        if is_silent.is_some() {
            return;
        }
        let is_new = self.platform.device(GATEWAY).is_none();
        let refuses = self.faults.strike("broker: refuses a subscription", 4);
        if is_new || refuses.is_some() {
            return self.answer(
                number,
                Packet::SubAck(SubAck::new(subscribe.pkid, refused)),
                now,
            );
        }
        self.lines[number].topics.insert(filter.path.clone());
        if filter.path == NOTIFICATIONS {
            // What nobody was notified of comes by itself.
            let deliveries = self.platform.notify_of_pending();
            self.deliver(deliveries, now);
        }
        let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
        self.answer(
            number,
            Packet::SubAck(SubAck::new(subscribe.pkid, granted)),
            now,
        );
    }

    fn published(&mut self, number: usize, publish: &Publish, now: Instant) {
        if self.throws_out(number, publish, now) {
            return;
        }
        let message = message(publish);
        let is_spared = self.spares(&message);
        if publish.topic == TOKEN_REQUEST {
            self.choose_token();
        }
        let deliveries = self.platform.receive(&publish.topic, &publish.payload, now);
        if !is_spared && let Some(mut dice) = self.faults.strike("broker: loses a PUBACK", 25) {
            *self.closed_at.entry(message).or_default() += 1;
            self.deliver(deliveries, now);
            let how = if dice.bool() {
                Action::Reset
            } else {
                Action::Close
            };
            return self.end(number, how, now);
        }
        let is_silent = self
            .faults
            .strike("broker: never acknowledges", 40)
            .is_some();
        if is_silent || std::mem::take(&mut self.loses_puback) {
            return self.deliver(deliveries, now);
        }
        self.closed_at.remove(&message);
        let answer = Packet::PubAck(PubAck::new(publish.pkid));
        // The platform's answers overtake the acknowledgement as they like.
        self.answer(number, answer, now);
        self.deliver(deliveries, now);
        if self
            .faults
            .strike("broker: sends a second CONNACK", 40)
            .is_some()
        {
            let again = ConnAck::new(ConnectReturnCode::Success, false);
            self.answer(number, Packet::ConnAck(again), now);
            self.end(number, Action::Close, now);
        }
    }

    /// Whether the cloud takes a token.
    pub(crate) fn takes_token(&mut self, token: &str) -> bool {
        if self.faults.strike(REVOKED, 6).is_some() {
            self.platform.revoke_tokens();
        }
        self.platform.is_token_good(token)
    }

    /// Says how the next request for a token is answered.
    fn choose_token(&mut self) {
        const LIVES: [u64; 4] = [3600, 3600, 120, 20];
        let life = Duration::from_secs(LIVES[self.dice.usize(..LIVES.len())]);
        let answer = if self.faults.strike("token: does not come", 3).is_some() {
            TokenAnswer::Silence
        } else if self.faults.strike("token: is refused", 4).is_some() {
            TokenAnswer::Refused(life)
        } else if self.faults.strike("token: is none", 4).is_some() {
            TokenAnswer::Text("no token, sorry".to_owned())
        } else {
            TokenAnswer::Good(life)
        };
        self.platform.answer_token_requests(answer);
    }

    /// Whether the broker ends the connection rather than take a message.
    fn throws_out(&mut self, number: usize, publish: &Publish, now: Instant) -> bool {
        let message = message(publish);
        if now >= self.faults.end().into_std() {
            self.poison = None;
        } else if self.poison.is_none()
            && message.1.starts_with(EVENT)
            && self.faults.strike(crate::events::POISON, 6).is_some()
        {
            self.poison = Some(message.clone());
        }
        if self.poison.as_ref() == Some(&message) {
            self.end(number, Action::Close, now);
            return true;
        }
        if self.spares(&message) {
            return false;
        }
        if self
            .faults
            .strike("broker: closes at a message", 25)
            .is_some()
        {
            *self.closed_at.entry(message).or_default() += 1;
            self.end(number, Action::Close, now);
            return true;
        }
        if let Some(mut dice) = self.faults.strike("broker: restarts", 40) {
            *self.closed_at.entry(message).or_default() += 1;
            let lasts = Duration::from_millis(1 << dice.u64(0..17));
            self.down_until = Some((now + lasts).min(self.faults.end().into_std()));
            for other in 0..self.lines.len() {
                self.end(other, Action::Reset, now);
            }
            return true;
        }
        false
    }

    /// Only an event is set aside: a status that is never said is no promise of anybody's.
    fn spares(&self, message: &(String, String)) -> bool {
        self.closed_at
            .get(message)
            .is_some_and(|&times| times >= CLOSES)
    }

    fn acknowledged(&mut self, number: usize, packet_id: u16, now: Instant) {
        let unacknowledged = &mut self.lines[number].unacknowledged;
        let Some(place) = unacknowledged.iter().position(|(_, p)| p.pkid == packet_id) else {
            // Of a second copy.
            return;
        };
        let (place, mut publish) = unacknowledged.remove(place);
        self.certain.insert(place);
        if self.faults.strike("broker: delivers again", 6).is_some() {
            publish.dup = true;
            let lane = lane(&publish.topic);
            self.queue(number, lane, Action::Send(Packet::Publish(publish)), now);
        }
    }

    /// Publishes to the client; where none is there, or it has not subscribed, to nobody.
    fn deliver(&mut self, deliveries: Vec<Delivery>, now: Instant) {
        let Some(number) = self.lines.iter().rposition(|line| line.state == State::Up) else {
            return;
        };
        for Delivery { topic, payload } in deliveries {
            if topic == NOTIFICATIONS
                && self
                    .faults
                    .strike("broker: loses a notification", 8)
                    .is_some()
            {
                continue;
            }
            if self.lines[number].topics.contains(&topic) {
                let lane = lane(&topic);
                let publish = Publish::new(topic, QoS::AtLeastOnce, payload);
                self.queue(number, lane, Action::Send(Packet::Publish(publish)), now);
            }
        }
    }

    fn answer(&mut self, number: usize, packet: Packet, now: Instant) {
        self.queue(number, Lane::Answers, Action::Send(packet), now);
    }

    /// Ends a connection behind all that is on its way, and takes nothing more from it.
    fn end(&mut self, number: usize, how: Action, now: Instant) {
        let line = &mut self.lines[number];
        if line.state == State::Over {
            return;
        }
        line.state = State::Over;
        if how == Action::Reset {
            line.queues.clear();
        } else {
            line.queues.retain(|&lane, _| lane == Lane::Answers);
        }
        line.silent_at = None;
        line.thrown_out_at = None;
        self.queue(number, Lane::Answers, how, now);
    }

    fn queue(&mut self, number: usize, lane: Lane, action: Action, now: Instant) {
        let line = &mut self.lines[number];
        let is_slow = now < self.faults.end().into_std();
        let slowness = if is_slow { line.slowness } else { 0 };
        let late = slowness + self.dice.u64(0..LATE);
        let queue = line.queues.entry(lane).or_default();
        let before = queue.back().map_or(now, |(at, _)| *at);
        let at = before.max(now + Duration::from_millis(late));
        queue.push_back((at, action));
    }

    fn note(&mut self, connection: usize, what: What, at: Instant) {
        let life = self.lines[connection].life;
        self.record.push(Seen::new(at, connection, life, what));
    }
}

fn message(publish: &Publish) -> (String, String) {
    let payload = String::from_utf8_lossy(&publish.payload);
    (publish.topic.clone(), payload.into_owned())
}

fn lane(topic: &str) -> Lane {
    match topic {
        "s/dat" => Lane::Tokens,
        NOTIFICATIONS => Lane::RowsById,
        topic if topic.starts_with(BY_ID) => Lane::RowsById,
        _ => Lane::Rows,
    }
}
