//! The MQTT session: connect, announce, subscribe, deliver what the outbox holds, reconnect for ever.
//!
//! Only the packets and their encoding are the MQTT library's. Its event loop dials by itself, so
//! it could not share the transport with the WebSocket, and it forgets queued and unacknowledged
//! messages when a broker begins a clean session, which the platform demands. What is said is left
//! to the caller: a session knows messages, no templates and no tunnels.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    Codec, Connect, ConnectReturnCode, Login, Packet, PubAck, Publish, QoS, Subscribe,
    SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use super::outbox::{Message, Outbox};
use super::reconnect::{Loss, NextStep, Reconnects};
use super::transport::{BrokerEndpoint, Stream, Transport, TransportError};
use crate::reason::failure_reason;
use crate::secret::Secret;

/// Everything from the broker's name to its answer to CONNECT.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long the network may take to accept one packet.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// How long the broker may take to answer a ping.
const PING_LIMIT: Duration = Duration::from_secs(20);
/// How long the broker may take to acknowledge a message before the connection counts as broken.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(60);
/// A refused subscription is tried again after this time, and then after twice as long each time.
const FIRST_RESUBSCRIBE: Duration = Duration::from_secs(1);
/// The longest time until a refused subscription is tried again.
const LONGEST_RESUBSCRIBE: Duration = Duration::from_secs(30);
/// Largest packet taken, four times what the platform sends (16,184 bytes).
const INCOMING_LIMIT: usize = 64 * 1024;
/// Largest packet that the platform takes, header included.
const OUTGOING_LIMIT: usize = 16_184;
/// Fixed header, the length of the topic and the packet id of a PUBLISH at their longest.
const PUBLISH_HEADER: usize = 9;
/// Messages that arrive before the announcement is out. More are dropped: the platform sends
/// pending operations again when it is asked, which is the announcement's last word.
const HELD_LIMIT: usize = 256;
/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;
/// Events that wait for the agent. A full queue stops the reading of further packets.
const EVENT_QUEUE: usize = 16;

/// What a session says by itself, and as whom.
#[derive(Debug)]
pub struct Options {
    /// The broker.
    pub broker: BrokerEndpoint,
    /// The MQTT client id.
    pub client_id: String,
    /// User name and password; none where a certificate says who the device is.
    pub login: Option<(String, Secret)>,
    /// Time between two pings.
    pub keep_alive: Duration,
    /// Published and acknowledged at every connect before anything is subscribed.
    pub create: Vec<Message>,
    /// Topics that must be granted before the announcement goes out.
    pub subscribe: Vec<String>,
    /// Topics that are wanted, and done without while they are refused.
    pub subscribe_if_granted: Vec<String>,
    /// Published at every connect.
    pub announce: Vec<Message>,
    /// Published behind the announcement, once in the life of the session.
    pub once: Vec<Message>,
    /// Published last at every connect.
    pub resume: Vec<Message>,
}

/// What happens in a session.
#[derive(Debug)]
pub enum Event {
    /// A message has come.
    Received {
        /// The topic with its prefix.
        topic: String,
        /// The rows.
        payload: Bytes,
    },
    /// Everything that was published is acknowledged.
    Delivered,
}

/// Puts messages into a session's outbox; never waits.
#[derive(Clone, Debug, Default)]
pub struct Publisher {
    outbox: Arc<Mutex<Outbox>>,
    filled: Arc<Notify>,
}

impl Publisher {
    /// Queues a message until a broker has acknowledged it.
    pub fn publish(&self, message: Message) {
        let size = PUBLISH_HEADER + message.topic.len() + message.payload.len();
        if size > OUTGOING_LIMIT {
            warn!(
                size,
                limit = OUTGOING_LIMIT,
                "message left out: the platform takes none so large"
            );
            return;
        }
        self.outbox().push(message);
        self.filled.notify_one();
    }

    /// Whether work may be begun that will have to be reported.
    pub fn has_room(&self) -> bool {
        self.outbox().has_room()
    }

    /// How many messages are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.outbox().len()
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that keeps the session.
pub struct Session {
    options: Options,
    transport: Transport,
    publisher: Publisher,
    events: mpsc::Sender<Event>,
    finish: CancellationToken,
    /// Whether [`Options::once`] was acknowledged.
    said_once: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Unreachable(#[from] TransportError),
    #[error("the broker did not answer CONNECT within {CONNECT_LIMIT:?}")]
    ConnectTimeout,
    #[error("the broker refused the connection: {}", in_words(*.0))]
    Refused(ConnectReturnCode),
    #[error("the broker did not answer the ping within {PING_LIMIT:?}")]
    Silent,
    #[error("the broker did not acknowledge a message within {ACKNOWLEDGE_LIMIT:?}")]
    Unacknowledged,
    #[error("the network took no data for {WRITE_LIMIT:?}")]
    Blocked,
    #[error("the connection was closed by the broker")]
    Closed,
    #[error("the broker does not speak MQTT")]
    Protocol(#[source] PacketError),
    #[error("the broker does not speak MQTT: it answered CONNECT with another packet")]
    NoConnAck,
    #[error(transparent)]
    Io(io::Error),
}

/// Why a connection was left on purpose.
enum Left {
    /// All is delivered and the session is to end.
    Finished,
    /// Nobody takes events any more.
    Abandoned,
}

impl Session {
    /// Prepares a session. `finish` ends it once the outbox is empty.
    pub fn new(
        options: Options,
        transport: Transport,
        finish: CancellationToken,
    ) -> (Self, Publisher, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let publisher = Publisher::default();
        let session = Self {
            options,
            transport,
            publisher: publisher.clone(),
            events,
            finish,
            said_once: false,
        };
        (session, publisher, receiver)
    }

    /// Keeps the session until it is finished. Dropping it closes the connection without a word.
    pub async fn run(mut self) {
        let mut reconnects = Reconnects::default();
        loop {
            if self.finish.is_cancelled() && self.publisher.outbox().is_empty() {
                return;
            }
            let mut accepted = None;
            let lost = match self.connect().await {
                Ok(link) => {
                    let start = Instant::now();
                    accepted = Some(start);
                    match self.serve(link).await {
                        Ok(Left::Finished | Left::Abandoned) => return,
                        Err(lost) => lost,
                    }
                }
                Err(lost) => lost,
            };
            self.publisher.outbox().connection_lost();
            let step = reconnects.lost(loss(&lost, accepted.map(|start| start.elapsed())));
            self.wait(&lost, accepted.is_some(), step).await;
        }
    }

    /// Waits before the next attempt, a moment only when the session is to end.
    async fn wait(&self, lost: &Lost, was_connected: bool, step: NextStep) {
        let retry_in = step.wait_up_to.mul_f64(fastrand::f64());
        let error = failure_reason(lost, LOGGED_REASON_LIMIT);
        let shown = Duration::from_millis(retry_in.as_millis().try_into().unwrap_or(u64::MAX));
        if was_connected {
            warn!(error, retry_in = ?shown, "connection to the broker lost");
        } else {
            warn!(error, retry_in = ?shown, "no connection to the broker");
        }
        if step.thrown_out {
            warn!(
                client_id = self.options.client_id,
                "the broker accepts this client and soon closes the connection, again and again: \
                 another client probably uses the same id"
            );
        }
        tokio::select! {
            () = sleep(retry_in) => {}
            () = self.finish.cancelled() => sleep(retry_in.min(FINISH_RETRY)).await,
        }
    }

    async fn connect(&self) -> Result<Link, Lost> {
        let broker = &self.options.broker;
        debug!(
            host = broker.server.host,
            port = broker.server.port,
            tls = broker.server.tls,
            websocket = broker.websocket,
            "connecting to the broker"
        );
        let began = Instant::now();
        let stream = self.transport.connect_broker(broker, CONNECT_LIMIT).await?;
        let left = CONNECT_LIMIT.saturating_sub(began.elapsed());
        timeout(left, self.log_in(stream))
            .await
            .unwrap_or(Err(Lost::ConnectTimeout))
    }

    async fn log_in(&self, stream: Stream) -> Result<Link, Lost> {
        let Options {
            broker,
            client_id,
            login,
            keep_alive,
            ..
        } = &self.options;
        let codec = Codec {
            max_incoming_size: INCOMING_LIMIT,
            max_outgoing_size: OUTGOING_LIMIT,
        };
        let mut framed = Framed::new(stream, codec);
        framed
            .send(Packet::Connect(Connect {
                keep_alive: keep_alive.as_secs().try_into().unwrap_or(u16::MAX),
                login: login
                    .as_ref()
                    .map(|(user, password)| Login::new(user, password.expose())),
                ..Connect::new(client_id)
            }))
            .await
            .map_err(broken)?;
        match framed.next().await {
            Some(Ok(Packet::ConnAck(answer))) if answer.code == ConnectReturnCode::Success => {
                info!(
                    host = broker.server.host,
                    port = broker.server.port,
                    client_id,
                    "connected to the broker"
                );
                Ok(framed)
            }
            Some(Ok(Packet::ConnAck(answer))) => Err(Lost::Refused(answer.code)),
            Some(Ok(_)) => Err(Lost::NoConnAck),
            Some(Err(error)) => Err(broken(error)),
            None => Err(Lost::Closed),
        }
    }

    async fn serve(&mut self, link: Link) -> Result<Left, Lost> {
        let mut connection = Connection::new(link, &self.options, self.said_once);
        connection.begin().await?;
        loop {
            if connection.may_deliver() {
                connection.deliver(&self.publisher).await?;
                if self.finish.is_cancelled() && self.publisher.outbox().is_empty() {
                    connection.disconnect().await;
                    return Ok(Left::Finished);
                }
            }
            let (deadline, finishing) = (connection.next_deadline(), connection.finishing);
            let events = tokio::select! {
                packet = connection.link.next() => {
                    let packet = packet.ok_or(Lost::Closed)?.map_err(broken)?;
                    connection.take(packet, &self.publisher).await?
                }
                () = sleep_until(deadline) => {
                    connection.deadline_passed().await?;
                    Vec::new()
                }
                () = self.publisher.filled.notified() => Vec::new(),
                () = self.finish.cancelled(), if !finishing => {
                    connection.finishing = true;
                    Vec::new()
                }
            };
            self.said_once |= connection.phase == Phase::Ready;
            for event in events {
                if self.events.send(event).await.is_err() {
                    connection.disconnect().await;
                    return Ok(Left::Abandoned);
                }
            }
        }
    }
}

/// How long a session that is to end waits at most before it tries once more to deliver.
const FINISH_RETRY: Duration = Duration::from_millis(500);

type Link = Framed<Stream, Codec>;

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
struct Connection<'a> {
    link: Link,
    options: &'a Options,
    say_once: bool,
    phase: Phase,
    finishing: bool,
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
}

impl<'a> Connection<'a> {
    fn new(link: Link, options: &'a Options, said_once: bool) -> Self {
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
            next_ping: Instant::now() + options.keep_alive,
            pong_by: None,
            held: Vec::new(),
        }
    }

    /// Sends the first words: the platform refuses subscriptions of a device that does not exist.
    async fn begin(&mut self) -> Result<(), Lost> {
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
            debug!("announced and ready for operations");
            self.phase = Phase::Ready;
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
        packet_id: u16,
        codes: &[SubscribeReasonCode],
    ) -> Result<(), Lost> {
        let Some((_, topics)) = self.subscribing.take_if(|(id, _)| *id == packet_id) else {
            return Ok(());
        };
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
            if self.is_needed_refused() && self.resubscribe_at.is_none() {
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

    async fn publish_for_setup(&mut self, message: &Message) -> Result<(), Lost> {
        let packet_id = self.next_packet_id();
        self.unacknowledged.push(packet_id);
        self.publish(packet_id, message.clone()).await
    }

    /// Whether the outbox has its turn: the device exists.
    fn may_deliver(&self) -> bool {
        self.phase != Phase::Creating
    }

    async fn deliver(&mut self, publisher: &Publisher) -> Result<(), Lost> {
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

    async fn take(&mut self, packet: Packet, publisher: &Publisher) -> Result<Vec<Event>, Lost> {
        let mut events = Vec::new();
        match packet {
            Packet::Publish(publish) => self.received(publish).await?,
            Packet::PubAck(PubAck { pkid }) => {
                self.acknowledge_by = None;
                if publisher.outbox().acknowledge(pkid) {
                    self.delivering = false;
                    events.extend(publisher.outbox().is_empty().then_some(Event::Delivered));
                } else {
                    self.unacknowledged.retain(|&id| id != pkid);
                }
                if self.delivering || !self.unacknowledged.is_empty() {
                    self.expect_acknowledgement();
                }
                self.next_phase().await?;
            }
            Packet::SubAck(answer) => {
                self.acknowledge_by = None;
                self.subscribed(answer.pkid, &answer.return_codes).await?;
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
        }
        Ok(())
    }

    fn next_deadline(&self) -> Instant {
        let others = [self.pong_by, self.acknowledge_by, self.resubscribe_at];
        others
            .into_iter()
            .flatten()
            .fold(self.next_ping, Instant::min)
    }

    async fn deadline_passed(&mut self) -> Result<(), Lost> {
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
            self.next_ping = now + self.options.keep_alive;
            self.pong_by.get_or_insert(now + PING_LIMIT);
            self.send(Packet::PingReq).await?;
        }
        Ok(())
    }

    async fn send(&mut self, packet: Packet) -> Result<(), Lost> {
        match timeout(WRITE_LIMIT, self.link.send(packet)).await {
            Ok(sent) => sent.map_err(broken),
            Err(_) => Err(Lost::Blocked),
        }
    }

    /// Says good-bye; whether it arrives changes nothing.
    async fn disconnect(&mut self) {
        if self.send(Packet::Disconnect).await.is_ok() {
            info!("disconnected from the broker");
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

fn broken(error: PacketError) -> Lost {
    match error {
        PacketError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Lost::Closed,
        PacketError::Io(error) => Lost::Io(error),
        other => Lost::Protocol(other),
    }
}

fn loss(lost: &Lost, stood: Option<Duration>) -> Loss {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match (stood, lost) {
        (None, _) => Loss::NeverStood,
        (Some(stood), Lost::Closed) => Loss::Closed(stood),
        (Some(stood), Lost::Io(error))
            if matches!(
                error.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset
            ) =>
        {
            Loss::Closed(stood)
        }
        (Some(stood), _) => Loss::Failed(stood),
    }
}

fn in_words(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it accepted it (CONNACK 0)",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1 (CONNACK 1)",
        ConnectReturnCode::BadClientId => "it does not take this client id (CONNACK 2)",
        ConnectReturnCode::ServiceUnavailable => "it is unavailable for now (CONNACK 3)",
        ConnectReturnCode::BadUserNamePassword => {
            "bad user name or password (CONNACK 4); the user name is tenant/user"
        }
        ConnectReturnCode::NotAuthorized => {
            "not authorised (CONNACK 5), which also happens under overload and just after a device \
             was deleted"
        }
    }
}
