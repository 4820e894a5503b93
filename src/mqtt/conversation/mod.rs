//! What is said on one connection, and what the broker must answer: packets and instants come in,
//! packets and events come out.
//!
//! A conversation begins behind the CONNACK. Its opening has an order that the platform dictates: a
//! device that does not exist yet is refused its subscriptions, so it is created first; what is
//! announced before they stand is answered to nobody. Each topic has a SUBSCRIBE of its own, because
//! the platform's MQTT Service refuses several in one, and asks again where no SUBACK comes.
//! Carrying the packets, and telling the time, is left to the caller.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{Packet, PubAck, Publish, QoS, Subscribe, SubscribeReasonCode};
use tracing::{debug, info, trace};

use super::framing::{Incoming, Skipped};
use super::outbox::Message;
use super::pace::Pace;

/// How long the broker may take to acknowledge a message, or a subscription that is needed, before
/// the connection counts as broken.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(60);
/// An answer that is late stands behind other bytes as long as the pauses between them are shorter
/// than this.
const FLOOD_PAUSE: Duration = Duration::from_secs(5);
/// The longest that an answer may stand behind other bytes: a broker that never gives one is noticed
/// however much else it sends.
const LONGEST_FLOOD: Duration = Duration::from_mins(10);
/// The longest time from the first byte of a packet to its last. The largest that is taken comes in
/// it at half a kilobyte a second, over a bad mobile network; a peer that sends byte after byte
/// without an end is left behind it.
const PACKET_TIME_LIMIT: Duration = Duration::from_mins(5);
/// A SUBSCRIBE without an answer is sent again after this time, then after twice as long each time.
const FIRST_REPEAT: Duration = Duration::from_secs(5);
/// The longest time until a SUBSCRIBE without an answer is sent again.
const LONGEST_REPEAT: Duration = Duration::from_secs(30);
/// A refused subscription is tried again after this time, and then after twice as long each time.
const FIRST_RESUBSCRIBE: Duration = Duration::from_secs(1);
/// The longest time until a refused subscription is tried again.
const LONGEST_RESUBSCRIBE: Duration = Duration::from_secs(30);
/// Messages that arrive before the opening is complete. More are dropped and told as
/// [`Event::LeftOut`].
const HELD_LIMIT: usize = 256;
/// The broker may take this part of the time between two pings to answer one.
const PONG_SHARE: u32 = 2;
/// The shortest time for that answer: a mobile network takes seconds to wake up.
const SHORTEST_PONG_LIMIT: Duration = Duration::from_secs(2);
/// The longest time for that answer.
const LONGEST_PONG_LIMIT: Duration = Duration::from_secs(20);
/// Whatever has cut a connection answers a ping within this time or not at all; what closes it later
/// had another reason.
const CUT_ANSWER: Duration = Duration::from_secs(5);

/// What is said first on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opening {
    /// Acknowledged before anything is subscribed.
    pub(crate) create: Vec<Message>,
    /// Topics that must be granted before the announcement goes out.
    pub(crate) subscribe: Vec<String>,
    /// Topics that are asked for once before the announcement, and done without while they are
    /// refused.
    pub(crate) subscribe_if_granted: Vec<String>,
    /// Published last.
    pub(crate) announce: Vec<Message>,
}

/// When a connection without a word is looked after.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pings {
    /// How often pings come.
    pub(crate) pace: Pace,
    /// How long the broker may take to answer one.
    pub(crate) answer_limit: Duration,
}

/// What happens on a connection.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// The opening is said and acknowledged.
    Ready,
    /// A message has come. Those before [`Event::Ready`] are held until then.
    Received { topic: String, payload: Bytes },
    /// Messages that came before [`Event::Ready`] were dropped: there were too many.
    LeftOut,
    /// A message has come that is too large to be taken.
    Skipped(Skipped),
    /// The message of [`Conversation::publish`] with this packet id has arrived.
    Acknowledged(u16),
    /// The broker refuses a subscription, which is asked for again.
    Refused {
        topic: String,
        is_needed: bool,
        retry_in: Duration,
        /// Whether somebody should hear of it: the first time, and again where it has lasted for
        /// too long to be a new device.
        is_news: bool,
    },
}

/// Why a conversation is at its end.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConversationError {
    /// A ping was not answered; how long that took.
    #[error("the broker did not answer the ping within {0:?}")]
    NoPong(Duration),
    /// A message was not acknowledged.
    #[error("the broker did not acknowledge a message within {ACKNOWLEDGE_LIMIT:?}")]
    Unacknowledged,
    /// A subscription that is needed was neither granted nor refused; its topic.
    #[error("the broker did not answer SUBSCRIBE to {0} within {ACKNOWLEDGE_LIMIT:?}")]
    NoSubAck(String),
    /// The rest of a packet did not come.
    #[error("the broker began a packet and did not end it within {PACKET_TIME_LIMIT:?}")]
    HalfAPacket,
    /// So the platform ends a connection.
    #[error("the connection was closed by the broker with a second CONNACK")]
    SecondConnAck,
}

/// How far the opening has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Creating,
    Subscribing,
    Announcing,
    Ready,
}

/// A message on its way.
#[derive(Debug)]
struct Sent {
    packet_id: u16,
    at: Instant,
    /// It belongs to the opening.
    is_opening: bool,
}

#[derive(Debug)]
struct Subscription {
    topic: String,
    is_needed: bool,
    /// The broker has answered at least once.
    is_answered: bool,
    /// It has, or had its time to.
    had_its_time: bool,
    retry_after: Duration,
    state: SubscriptionState,
}

#[derive(Debug)]
enum SubscriptionState {
    Asked {
        packet_id: u16,
        since: Instant,
        repeat_at: Instant,
        repeat_after: Duration,
    },
    Refused {
        retry_at: Instant,
    },
    Granted,
}

/// A ping on its way.
#[derive(Debug)]
struct Ping {
    at: Instant,
    answer_by: Instant,
    /// How long nothing had gone either way before it.
    silence: Duration,
}

/// One connection that the broker has accepted.
#[derive(Debug)]
pub(crate) struct Conversation {
    pings: Pings,
    began: Instant,
    opening: Opening,
    phase: Phase,
    last_packet_id: u16,
    on_their_way: Vec<Sent>,
    acknowledge_by: Option<Instant>,
    slowest_answer: Duration,
    /// Since when nothing has waited for an answer.
    settled_since: Option<Instant>,
    subscriptions: Vec<Subscription>,
    /// Time between two pings.
    interval: Duration,
    next_ping: Instant,
    ping: Option<Ping>,
    has_ponged: bool,
    /// When the last bytes came.
    last_received: Instant,
    /// The same without the answers to pings: a broker has those at hand, and no answer stands
    /// behind them.
    last_flood: Instant,
    last_sent: Instant,
    /// The longest time in which nothing had gone either way before something came in.
    survived: Duration,
    /// Until when the packet that has come in part must be whole.
    whole_by: Option<Instant>,
    held: Vec<Event>,
    left_out: bool,
    packets: VecDeque<Packet>,
    events: VecDeque<Event>,
}

impl Pings {
    /// Pings at this interval.
    pub(crate) fn every(interval: Duration) -> Self {
        let answer_limit = (interval / PONG_SHARE).clamp(SHORTEST_PONG_LIMIT, LONGEST_PONG_LIMIT);
        Self {
            pace: Pace::every(interval),
            answer_limit,
        }
    }
}

impl Conversation {
    /// Begins to speak to a broker that has just accepted the client.
    pub(crate) fn new(opening: Opening, pings: Pings, now: Instant) -> Self {
        let mut conversation = Self {
            pings,
            began: now,
            opening,
            phase: Phase::Creating,
            last_packet_id: 0,
            on_their_way: Vec::new(),
            acknowledge_by: None,
            slowest_answer: Duration::ZERO,
            settled_since: None,
            subscriptions: Vec::new(),
            interval: pings.pace.interval(),
            next_ping: now + pings.pace.interval(),
            ping: None,
            has_ponged: false,
            last_received: now,
            last_flood: now,
            last_sent: now,
            survived: Duration::ZERO,
            whole_by: None,
            held: Vec::new(),
            left_out: false,
            packets: VecDeque::new(),
            events: VecDeque::new(),
        };
        let create = std::mem::take(&mut conversation.opening.create);
        conversation.say(&create, now);
        conversation.go_on(now);
        conversation
    }

    /// Returns the packets to send now, in order.
    pub(crate) fn packets(&mut self) -> impl Iterator<Item = Packet> {
        self.packets.drain(..)
    }

    /// Returns the next event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the device exists, so that others may [publish](Self::publish).
    pub(crate) fn may_publish(&self) -> bool {
        self.phase != Phase::Creating
    }

    /// Whether all of the opening is said, acknowledged or not.
    pub(crate) fn is_opening_said(&self) -> bool {
        matches!(self.phase, Phase::Announcing | Phase::Ready)
    }

    /// Announces something else at the end of the opening, if that is not said yet.
    pub(crate) fn announce_instead(&mut self, announce: Vec<Message>) {
        if !self.is_opening_said() {
            self.opening.announce = announce;
        }
    }

    /// Whether the opening is said and acknowledged.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether the broker has answered every subscription at least once, if it is to.
    pub(crate) fn is_subscribed_or_refused(&self) -> bool {
        let mut subscriptions = self.subscriptions.iter();
        self.may_publish() && subscriptions.all(|s| s.is_answered)
    }

    /// Sends a message; returns its packet id.
    pub(crate) fn publish(&mut self, message: &Message, now: Instant) -> u16 {
        self.publish_as(message, false, now)
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// The broker has ended the conversation.
    pub(crate) fn receive(
        &mut self,
        incoming: Incoming,
        now: Instant,
    ) -> Result<(), ConversationError> {
        self.survived = self.survived.max(self.silence(now));
        self.last_received = now;
        if incoming != Incoming::Packet(Packet::PingResp) {
            self.last_flood = now;
        }
        if let Some(ping) = &mut self.ping {
            // Whoever speaks is there, even where the answer stands behind other bytes.
            *ping = Ping {
                at: now,
                answer_by: now + self.pings.answer_limit,
                silence: Duration::ZERO,
            };
        }
        self.whole_by = match incoming {
            Incoming::Part => self.whole_by.or(Some(now + PACKET_TIME_LIMIT)),
            Incoming::Packet(_) | Incoming::Skipped(_) => None,
        };
        match incoming {
            Incoming::Part => {}
            Incoming::Packet(Packet::Publish(publish)) => self.received(publish, now),
            Incoming::Packet(Packet::PubAck(PubAck { pkid })) => self.acknowledged(pkid, now),
            Incoming::Packet(Packet::SubAck(answer)) => {
                let code = answer.return_codes.first();
                let is_granted = matches!(code, Some(SubscribeReasonCode::Success(_)));
                self.subscribed(answer.pkid, is_granted, now);
            }
            Incoming::Packet(Packet::PingResp) => {
                self.ping = None;
                self.has_ponged = true;
            }
            Incoming::Packet(Packet::ConnAck(_)) => return Err(ConversationError::SecondConnAck),
            Incoming::Packet(other) => {
                debug!(?other, "packet without a meaning for a client ignored");
            }
            Incoming::Skipped(skipped) => {
                if let Some(packet_id) = skipped.packet_id {
                    self.send(Packet::PubAck(PubAck::new(packet_id)), now);
                }
                self.events.push_back(Event::Skipped(skipped));
            }
        }
        self.go_on(now);
        Ok(())
    }

    /// When [`Self::time_passed`] is to be called at the latest.
    pub(crate) fn next_deadline(&self) -> Instant {
        let answers = self
            .subscriptions
            .iter()
            .filter_map(Subscription::answer_by)
            .chain(self.acknowledge_by)
            .map(|answer_by| self.behind_a_flood(answer_by));
        let subscriptions = self.subscriptions.iter().filter_map(|s| s.next_request());
        let ping = self.ping.as_ref().map(|ping| ping.answer_by);
        answers
            .chain(subscriptions)
            .chain(ping)
            .chain(self.whole_by)
            .fold(self.next_ping, Instant::min)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The broker did not answer in time.
    pub(crate) fn time_passed(&mut self, now: Instant) -> Result<(), ConversationError> {
        if self.ping.as_ref().is_some_and(|ping| ping.answer_by <= now) {
            return Err(ConversationError::NoPong(self.pings.answer_limit));
        }
        if self.whole_by.is_some_and(|at| at <= now) {
            return Err(ConversationError::HalfAPacket);
        }
        let is_late = |answer_by| self.behind_a_flood(answer_by) <= now;
        if self.acknowledge_by.is_some_and(is_late) {
            return Err(ConversationError::Unacknowledged);
        }
        let unanswered = |s: &&Subscription| s.answer_by().is_some_and(is_late);
        if let Some(Subscription { topic, .. }) = self.subscriptions.iter().find(unanswered) {
            return Err(ConversationError::NoSubAck(topic.clone()));
        }
        self.ask_again(now);
        if self.next_ping <= now {
            self.next_ping = now + self.ping_interval(now);
            let silence = now.saturating_duration_since(self.last_bytes());
            self.ping.get_or_insert(Ping {
                at: now,
                answer_by: now + self.pings.answer_limit,
                silence,
            });
            self.send(Packet::PingReq, now);
        }
        self.go_on(now);
        Ok(())
    }

    /// How long nothing has gone either way; a ping that nobody has answered does not count.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        match &self.ping {
            Some(ping) => ping.silence,
            None => now.saturating_duration_since(self.last_bytes()),
        }
    }

    /// The same where the broker has just closed the connection.
    pub(crate) fn silence_before_close(&self, now: Instant) -> Duration {
        match &self.ping {
            Some(ping) if now.saturating_duration_since(ping.at) > CUT_ANSWER => Duration::ZERO,
            _ => self.silence(now),
        }
    }

    /// The longest such silence that the connection has survived: something came in behind it.
    pub(crate) fn survived(&self) -> Duration {
        self.survived
    }

    /// Whether a ping was answered.
    pub(crate) fn has_ponged(&self) -> bool {
        self.has_ponged
    }

    /// Since when the broker owes no answer; `None` while it does.
    pub(crate) fn settled_since(&self) -> Option<Instant> {
        self.settled_since
    }

    /// Whether one message is on its way and was sent at most `margin` longer ago than the broker
    /// took for two of its slowest answers.
    pub(crate) fn has_just_sent_one(&self, margin: Duration, now: Instant) -> bool {
        match &self.on_their_way[..] {
            [sent] => now.saturating_duration_since(sent.at) <= margin + 2 * self.slowest_answer,
            _ => false,
        }
    }

    /// The time to the next ping, longer than before where nothing was cut for long.
    fn ping_interval(&mut self, now: Instant) -> Duration {
        let stood = now.saturating_duration_since(self.began);
        let interval = self.pings.pace.after(stood).interval();
        if interval > self.interval {
            info!(ping_interval = ?interval, "nothing was cut for long: pings come less often again");
            self.interval = interval;
        }
        interval
    }

    fn last_bytes(&self) -> Instant {
        self.last_received.max(self.last_sent)
    }

    /// Gives an answer more time while other bytes come.
    fn behind_a_flood(&self, answer_by: Instant) -> Instant {
        let until = (self.last_flood + FLOOD_PAUSE).min(answer_by + LONGEST_FLOOD);
        until.max(answer_by)
    }

    /// Begins the next phase if the present one is complete.
    fn go_on(&mut self, now: Instant) {
        let is_said = !self.on_their_way.iter().any(|sent| sent.is_opening);
        if self.phase == Phase::Creating && is_said {
            self.phase = Phase::Subscribing;
            self.subscribe(now);
        }
        if self.phase == Phase::Subscribing && self.subscriptions.iter().all(Subscription::is_done)
        {
            self.phase = Phase::Announcing;
            let announce = std::mem::take(&mut self.opening.announce);
            self.say(&announce, now);
        }
        let is_said = !self.on_their_way.iter().any(|sent| sent.is_opening);
        if self.phase == Phase::Announcing && is_said {
            self.phase = Phase::Ready;
            self.events.push_back(Event::Ready);
            if self.left_out {
                self.events.push_back(Event::LeftOut);
            }
            self.events.extend(self.held.drain(..));
        }
        let is_settled = self.may_publish()
            && self.on_their_way.is_empty()
            && self.subscriptions.iter().all(|s| s.had_its_time);
        self.settled_since = match is_settled {
            true => self.settled_since.or(Some(now)),
            false => None,
        };
    }

    fn say(&mut self, messages: &[Message], now: Instant) {
        for message in messages {
            self.publish_as(message, true, now);
        }
    }

    fn publish_as(&mut self, message: &Message, is_opening: bool, now: Instant) -> u16 {
        let Message { topic, payload, .. } = message;
        trace!(topic, payload, "publish");
        let packet_id = self.next_packet_id();
        let mut packet = Publish::new(topic, QoS::AtLeastOnce, payload.as_bytes());
        packet.pkid = packet_id;
        self.on_their_way.push(Sent {
            packet_id,
            at: now,
            is_opening,
        });
        self.settled_since = None;
        self.acknowledge_by
            .get_or_insert_with(|| now + ACKNOWLEDGE_LIMIT);
        self.send(Packet::Publish(packet), now);
        packet_id
    }

    fn acknowledged(&mut self, packet_id: u16, now: Instant) {
        let mut sent = self.on_their_way.iter();
        let Some(place) = sent.position(|sent| sent.packet_id == packet_id) else {
            debug!(packet_id, "acknowledgement of nothing ignored");
            return;
        };
        let sent = self.on_their_way.remove(place);
        let took = now.saturating_duration_since(sent.at);
        self.slowest_answer = self.slowest_answer.max(took);
        // The broker has its time anew for what is still to be acknowledged.
        self.acknowledge_by = (!self.on_their_way.is_empty()).then(|| now + ACKNOWLEDGE_LIMIT);
        if !sent.is_opening {
            self.events.push_back(Event::Acknowledged(packet_id));
        }
    }

    fn subscribe(&mut self, now: Instant) {
        let needed = std::mem::take(&mut self.opening.subscribe);
        let needed = needed.into_iter().map(|topic| (topic, true));
        let wanted = std::mem::take(&mut self.opening.subscribe_if_granted);
        let wanted = wanted.into_iter().map(|topic| (topic, false));
        for (topic, is_needed) in needed.chain(wanted) {
            let state = self.ask_for(&topic, now);
            self.subscriptions.push(Subscription {
                topic,
                is_needed,
                is_answered: false,
                had_its_time: false,
                retry_after: FIRST_RESUBSCRIBE,
                state,
            });
        }
    }

    fn ask_for(&mut self, topic: &str, now: Instant) -> SubscriptionState {
        let packet_id = self.next_packet_id();
        self.send(subscribe(topic, packet_id), now);
        SubscriptionState::Asked {
            packet_id,
            since: now,
            repeat_at: now + FIRST_REPEAT,
            repeat_after: FIRST_REPEAT,
        }
    }

    fn subscribed(&mut self, packet_id: u16, is_granted: bool, now: Instant) {
        let mut subscriptions = self.subscriptions.iter_mut();
        let Some(subscription) = subscriptions.find(|s| s.packet_id() == Some(packet_id)) else {
            debug!(packet_id, "answer to no subscription ignored");
            return;
        };
        subscription.is_answered = true;
        subscription.had_its_time = true;
        if is_granted {
            subscription.state = SubscriptionState::Granted;
            return;
        }
        let retry_in = subscription.retry_after;
        subscription.retry_after = (2 * retry_in).min(LONGEST_RESUBSCRIBE);
        subscription.state = SubscriptionState::Refused {
            retry_at: now + retry_in,
        };
        self.events.push_back(Event::Refused {
            topic: subscription.topic.clone(),
            is_needed: subscription.is_needed,
            retry_in,
            is_news: [FIRST_RESUBSCRIBE, LONGEST_RESUBSCRIBE].contains(&retry_in),
        });
    }

    /// Asks again where a subscription was refused or not answered.
    fn ask_again(&mut self, now: Instant) {
        let mut subscriptions = std::mem::take(&mut self.subscriptions);
        for subscription in &mut subscriptions {
            let Subscription {
                topic,
                had_its_time,
                state,
                ..
            } = subscription;
            match state {
                SubscriptionState::Asked {
                    packet_id,
                    repeat_at,
                    repeat_after,
                    ..
                } if *repeat_at <= now => {
                    debug!(topic, "subscription not answered, asking again");
                    *had_its_time = true;
                    *repeat_after = (2 * *repeat_after).min(LONGEST_REPEAT);
                    *repeat_at = now + *repeat_after;
                    // What is sent again keeps its packet id.
                    self.send(subscribe(topic, *packet_id), now);
                }
                SubscriptionState::Refused { retry_at } if *retry_at <= now => {
                    *state = self.ask_for(topic, now);
                }
                SubscriptionState::Asked { .. }
                | SubscriptionState::Refused { .. }
                | SubscriptionState::Granted => {}
            }
        }
        self.subscriptions = subscriptions;
    }

    /// Acknowledges a message and holds it until the opening is complete: an operation that began
    /// before the announcement was out would be failed by it.
    fn received(&mut self, publish: Publish, now: Instant) {
        // QoS 2 does not come: a broker delivers at most at the level that was subscribed.
        if publish.qos == QoS::AtLeastOnce {
            self.send(Packet::PubAck(PubAck::new(publish.pkid)), now);
        }
        let event = Event::Received {
            topic: publish.topic,
            payload: publish.payload,
        };
        if self.is_ready() {
            self.events.push_back(event);
        } else if self.held.len() < HELD_LIMIT {
            self.held.push(event);
        } else {
            debug!("message dropped before the announcement; it will be asked for again");
            self.left_out = true;
        }
    }

    fn send(&mut self, packet: Packet, now: Instant) {
        self.last_sent = now;
        self.packets.push_back(packet);
    }

    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = self.last_packet_id;
            let is_used = self.on_their_way.iter().any(|sent| sent.packet_id == id)
                || self.subscriptions.iter().any(|s| s.packet_id() == Some(id));
            if !is_used {
                return id;
            }
        }
    }
}

impl Subscription {
    fn packet_id(&self) -> Option<u16> {
        match self.state {
            SubscriptionState::Asked { packet_id, .. } => Some(packet_id),
            SubscriptionState::Refused { .. } | SubscriptionState::Granted => None,
        }
    }

    /// Whether the announcement need not wait for it.
    fn is_done(&self) -> bool {
        match self.is_needed {
            true => matches!(self.state, SubscriptionState::Granted),
            false => self.had_its_time,
        }
    }

    /// When the broker must have answered, if it must.
    fn answer_by(&self) -> Option<Instant> {
        match self.state {
            SubscriptionState::Asked { since, .. } if self.is_needed => {
                Some(since + ACKNOWLEDGE_LIMIT)
            }
            _ => None,
        }
    }

    /// When it is asked for again.
    fn next_request(&self) -> Option<Instant> {
        match self.state {
            SubscriptionState::Asked { repeat_at, .. } => Some(repeat_at),
            SubscriptionState::Refused { retry_at } => Some(retry_at),
            SubscriptionState::Granted => None,
        }
    }
}

fn subscribe(topic: &str, packet_id: u16) -> Packet {
    let mut packet = Subscribe::new(topic, QoS::AtLeastOnce);
    packet.pkid = packet_id;
    Packet::Subscribe(packet)
}

#[cfg(test)]
mod tests;
