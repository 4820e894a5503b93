//! One connection of a session: what is said in which order, and what the broker must answer.

use std::time::Duration;

use rumqttc::{Packet, PubAck, Publish, QoS, Subscribe, SubscribeFilter, SubscribeReasonCode};
use tokio::time::Instant;
use tracing::{debug, info, trace, warn};

use super::{Event, Options};
use crate::mqtt::link::{ACKNOWLEDGE_LIMIT, Link, Lost, PING_LIMIT};
use crate::mqtt::outbox::Message;
use crate::mqtt::publisher::Publisher;

/// A refused subscription is tried again after this time, and then after twice as long each time.
const FIRST_RESUBSCRIBE: Duration = Duration::from_secs(1);
/// The longest time until a refused subscription is tried again.
const LONGEST_RESUBSCRIBE: Duration = Duration::from_secs(30);
/// Messages that arrive before the announcement is out. More are dropped, and the platform is asked
/// once more for pending operations.
const HELD_LIMIT: usize = 256;

/// How far the set-up of a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// [`Options::create`] is not acknowledged.
    Creating,
    /// A subscription that must be granted is not.
    Subscribing,
    /// The announcement is not acknowledged.
    Announcing,
    /// Everything is said.
    Ready,
}

/// One connection that the broker has accepted.
pub(super) struct Connection<'a> {
    pub(super) link: Link,
    options: &'a Options,
    say_once: bool,
    phase: Phase,
    pub(super) finishing: bool,
    last_packet_id: u16,
    /// Messages of the set-up on their way.
    unacknowledged: Vec<u16>,
    /// A message of the outbox is on its way.
    delivering: bool,
    acknowledge_by: Option<Instant>,
    /// The SUBSCRIBE on its way, and the topics in it.
    subscribing: Option<(u16, Vec<String>)>,
    /// Topics that were refused, and when to ask again.
    refused: Vec<String>,
    resubscribe_at: Option<Instant>,
    resubscribe_after: Duration,
    next_ping: Instant,
    pong_by: Option<Instant>,
    held: Vec<Event>,
    /// Messages were dropped because too many came before the announcement was out.
    left_out: bool,
}

impl<'a> Connection<'a> {
    pub(super) fn new(link: Link, options: &'a Options, said_once: bool) -> Self {
        Self {
            link,
            options,
            say_once: !said_once,
            phase: Phase::Creating,
            finishing: false,
            last_packet_id: 0,
            unacknowledged: Vec::new(),
            delivering: false,
            acknowledge_by: None,
            subscribing: None,
            refused: Vec::new(),
            resubscribe_at: None,
            resubscribe_after: FIRST_RESUBSCRIBE,
            next_ping: Instant::now() + options.account.keep_alive,
            pong_by: None,
            held: Vec::new(),
            left_out: false,
        }
    }

    /// Sends the first words: the platform refuses subscriptions of a device that does not exist.
    pub(super) async fn begin(&mut self) -> Result<(), Lost> {
        for message in &self.options.create {
            self.publish_for_setup(message).await?;
        }
        self.next_phase().await
    }

    /// Goes on to the next phase if the present one is complete.
    async fn next_phase(&mut self) -> Result<(), Lost> {
        if self.phase == Phase::Creating && self.unacknowledged.is_empty() {
            self.phase = Phase::Subscribing;
            let Options {
                subscribe,
                subscribe_if_granted,
                ..
            } = self.options;
            self.subscribe(
                subscribe
                    .iter()
                    .chain(subscribe_if_granted)
                    .cloned()
                    .collect(),
            )
            .await?;
        }
        if self.phase == Phase::Announcing && self.unacknowledged.is_empty() {
            info!("announced and ready for operations");
            self.phase = Phase::Ready;
            if std::mem::take(&mut self.left_out) {
                for message in &self.options.resume {
                    self.publish_for_setup(message).await?;
                }
            }
            self.held.insert(0, Event::Ready);
        }
        Ok(())
    }

    async fn subscribe(&mut self, topics: Vec<String>) -> Result<(), Lost> {
        let filters = topics
            .iter()
            .map(|t| SubscribeFilter::new(t.clone(), QoS::AtLeastOnce));
        let mut packet = Subscribe::new_many(filters);
        packet.pkid = self.next_packet_id();
        self.subscribing = Some((packet.pkid, topics));
        self.expect_acknowledgement();
        self.send(Packet::Subscribe(packet)).await
    }

    async fn subscribed(
        &mut self,
        topics: Vec<String>,
        codes: &[SubscribeReasonCode],
    ) -> Result<(), Lost> {
        // A broker that answers fewer codes than topics has refused the rest.
        let granted = codes
            .iter()
            .map(|code| matches!(code, SubscribeReasonCode::Success(_)));
        let granted = granted.chain(std::iter::repeat(false));
        self.refused = topics
            .into_iter()
            .zip(granted)
            .filter_map(|(topic, granted)| (!granted).then_some(topic))
            .collect();
        if !self.refused.is_empty() {
            let missing = self.refused.join(", ");
            // The first time, and again once it has lasted for long enough to be no new device.
            let is_news =
                [FIRST_RESUBSCRIBE, LONGEST_RESUBSCRIBE].contains(&self.resubscribe_after);
            if self.is_needed_refused() && is_news {
                warn!(topics = missing, retry_in = ?self.resubscribe_after,
                    "the broker refuses a subscription, as the platform does while a device is new");
            } else {
                debug!(topics = missing, "subscription refused");
            }
            self.resubscribe_at = Some(Instant::now() + self.resubscribe_after);
            self.resubscribe_after = (self.resubscribe_after * 2).min(LONGEST_RESUBSCRIBE);
        }
        if self.phase == Phase::Subscribing && !self.is_needed_refused() {
            self.phase = Phase::Announcing;
            self.announce().await?;
            self.next_phase().await?;
        }
        Ok(())
    }

    fn is_needed_refused(&self) -> bool {
        self.refused
            .iter()
            .any(|topic| self.options.subscribe.contains(topic))
    }

    async fn announce(&mut self) -> Result<(), Lost> {
        let Options {
            announce,
            once,
            resume,
            ..
        } = self.options;
        let once = if self.say_once { once.as_slice() } else { &[] };
        for message in announce.iter().chain(once).chain(resume) {
            self.publish_for_setup(message).await?;
        }
        Ok(())
    }

    pub(super) async fn publish_for_setup(&mut self, message: &Message) -> Result<(), Lost> {
        let packet_id = self.next_packet_id();
        self.unacknowledged.push(packet_id);
        self.publish(packet_id, message.clone()).await
    }

    /// Whether the outbox has its turn: the device exists.
    pub(super) fn may_deliver(&self) -> bool {
        self.phase != Phase::Creating
    }

    /// Whether everything of the set-up is said and acknowledged.
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(super) async fn deliver(&mut self, publisher: &Publisher) -> Result<(), Lost> {
        let next = self.last_packet_id.checked_add(1).unwrap_or(1);
        let Some(message) = publisher.outbox().send(next).cloned() else {
            return Ok(());
        };
        self.last_packet_id = next;
        self.delivering = true;
        self.publish(next, message).await
    }

    async fn publish(&mut self, packet_id: u16, message: Message) -> Result<(), Lost> {
        trace!(topic = message.topic, payload = message.payload, "publish");
        let mut packet = Publish::new(message.topic, QoS::AtLeastOnce, message.payload);
        packet.pkid = packet_id;
        self.expect_acknowledgement();
        self.send(Packet::Publish(packet)).await
    }

    pub(super) async fn take(
        &mut self,
        packet: Packet,
        publisher: &Publisher,
    ) -> Result<Vec<Event>, Lost> {
        let mut events = Vec::new();
        match packet {
            Packet::Publish(publish) => self.received(publish).await?,
            Packet::PubAck(PubAck { pkid }) => {
                if publisher.outbox().acknowledge(pkid) {
                    self.delivering = false;
                    events.extend(publisher.outbox().is_empty().then_some(Event::Delivered));
                } else {
                    self.unacknowledged.retain(|&id| id != pkid);
                }
                self.acknowledged();
                self.next_phase().await?;
            }
            Packet::SubAck(answer) => {
                let topics = self.subscribing.take_if(|(id, _)| *id == answer.pkid);
                self.acknowledged();
                if let Some((_, topics)) = topics {
                    self.subscribed(topics, &answer.return_codes).await?;
                }
            }
            Packet::PingResp => self.pong_by = None,
            other => debug!(?other, "packet without a meaning for a client ignored"),
        }
        if self.phase == Phase::Ready {
            events.append(&mut self.held);
        }
        Ok(events)
    }

    /// Acknowledges a message and holds it until the set-up is complete: an operation that began
    /// before [`Options::once`] was out would be failed by it.
    async fn received(&mut self, publish: Publish) -> Result<(), Lost> {
        // QoS 2 does not come: a broker delivers at most at the level that was subscribed.
        if publish.qos == QoS::AtLeastOnce {
            self.send(Packet::PubAck(PubAck::new(publish.pkid))).await?;
        }
        if self.phase == Phase::Ready || self.held.len() < HELD_LIMIT {
            self.held.push(Event::Received {
                topic: publish.topic,
                payload: publish.payload,
            });
        } else {
            debug!("message dropped before the announcement; it will be asked for again");
            self.left_out = true;
        }
        Ok(())
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let others = [self.pong_by, self.acknowledge_by, self.resubscribe_at];
        others
            .into_iter()
            .flatten()
            .fold(self.next_ping, Instant::min)
    }

    pub(super) async fn deadline_passed(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        if self.pong_by.is_some_and(|at| at <= now) {
            return Err(Lost::Silent);
        }
        if self.acknowledge_by.is_some_and(|at| at <= now) {
            return Err(Lost::Unacknowledged);
        }
        if self.resubscribe_at.is_some_and(|at| at <= now) {
            self.resubscribe_at = None;
            let topics = std::mem::take(&mut self.refused);
            self.subscribe(topics).await?;
        }
        if self.next_ping <= now {
            self.next_ping = now + self.options.account.keep_alive;
            self.pong_by.get_or_insert(now + PING_LIMIT);
            self.send(Packet::PingReq).await?;
        }
        Ok(())
    }

    async fn send(&mut self, packet: Packet) -> Result<(), Lost> {
        self.link.send(packet).await
    }

    /// Gives the broker its time anew for what is still to be acknowledged.
    fn acknowledged(&mut self) {
        self.acknowledge_by = None;
        if self.delivering || !self.unacknowledged.is_empty() || self.subscribing.is_some() {
            self.expect_acknowledgement();
        }
    }

    fn expect_acknowledgement(&mut self) {
        self.acknowledge_by
            .get_or_insert_with(|| Instant::now() + ACKNOWLEDGE_LIMIT);
    }

    fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }
}
