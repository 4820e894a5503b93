//! The MQTT session: connect, announce, subscribe, deliver what the outbox holds, reconnect for ever.
//!
//! Only the packets and their encoding are the MQTT library's. Its event loop dials by itself, so
//! it could not share the transport with the WebSocket, and it forgets queued and unacknowledged
//! messages when a broker begins a clean session, which the platform demands. What is said is left
//! to the caller: a session knows messages, no templates and no tunnels.

#[cfg(test)]
mod tests;

use std::future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::conversation::{self, Conversation, Opening, Pings};
use super::link::{Account, LOGIN_LIMIT, Link, Lost};
use super::outbox::{ConnectionEnd, Message, Then};
use super::pace::Pace;
use super::publisher::Publisher;
use super::reconnect::{Loss, NextStep, Reconnects, Suspicion};
use crate::net::Transport;
use crate::words::{failure_reason, legible, seconds};

/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;
/// How long a session that is to end waits at most before it tries once more to deliver.
const FINISH_RETRY: Duration = Duration::from_millis(500);
/// Events that wait for the agent. A full queue stops the reading of further packets.
const EVENT_QUEUE: usize = 16;
/// A broker that closes the connection at a message does so at most this much later than it answers
/// others.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);

/// Packets that are still read of a connection that takes none: more than are owed at a time.
const LAST_PACKETS: usize = 256;

/// What a session says by itself, and as whom.
#[derive(Debug)]
pub struct Options {
    /// The broker, and as whom to log in.
    pub account: Account,
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
    /// Published behind that at every connect.
    pub greeting: Vec<Message>,
    /// Published last at every connect.
    pub resume: Vec<Message>,
    /// Published when the session ends in good order, if there is a connection then, or if the last one was
    /// left in good order behind the greeting: nobody else would take that back.
    pub farewell: Vec<Message>,
}

/// What happens in a session.
#[derive(Debug)]
pub enum Event {
    /// A connection is set up: everything that the session says by itself is said.
    Ready,
    /// A message has come.
    Received {
        /// The topic with its prefix.
        topic: String,
        /// The rows.
        payload: Bytes,
    },
    /// The broker refuses one of [`Options::subscribe_if_granted`], which is asked for again.
    Refused {
        /// The topic with its prefix.
        topic: String,
    },
    /// Everything that was published is acknowledged.
    Delivered,
    /// The connection is lost, whether it was set up or not.
    Lost,
    /// The session has left the broker, because it is to rest.
    Rests,
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

/// Why a session is at its end.
enum SessionEnd {
    /// It is to log in again.
    Again,
    /// It is to rest.
    Resting,
    /// All is delivered and the session is to end.
    Finished,
    /// Nobody takes events any more.
    Abandoned,
}

/// How a connection that the broker had accepted was lost.
struct Ended {
    lost: Lost,
    loss: Loss,
    /// What that means for the messages on their way.
    end: ConnectionEnd,
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
        let mut reconnects = Reconnects::new(self.options.account.keep_alive);
        loop {
            if self.finish.is_cancelled() && self.has_said_all() {
                return;
            }
            if self.publisher.is_resting() {
                self.rest().await;
                continue;
            }
            if let Some((options, transport)) = self.publisher.take_renewal() {
                self.options = options;
                self.transport = transport;
            }
            let link = tokio::select! {
                link = self.options.account.log_in(&self.transport, LOGIN_LIMIT) => link,
                () = self.nothing_left() => return,
                () = self.publisher.rests(true) => continue,
            };
            let was_connected = link.is_ok();
            let began = Instant::now();
            let (lost, loss) = match link {
                Ok(link) => match self.serve(link, reconnects.pace()).await {
                    Ok(SessionEnd::Again) => {
                        reconnects.left(began.elapsed());
                        self.publisher.standing().ended(Instant::now().into_std());
                        self.connection_lost(ConnectionEnd::Failed).await;
                        info!("logging in again");
                        continue;
                    }
                    Ok(SessionEnd::Resting) => {
                        reconnects.left(began.elapsed());
                        self.connection_lost(ConnectionEnd::Failed).await;
                        continue;
                    }
                    Ok(SessionEnd::Finished | SessionEnd::Abandoned) => {
                        self.publisher.standing().ended(Instant::now().into_std());
                        return;
                    }
                    Err(Ended { lost, loss, end }) => {
                        // The broker says the will.
                        self.publisher.standing().is_greeted = false;
                        self.connection_lost(end).await;
                        (lost, loss)
                    }
                },
                Err(lost) => {
                    let loss = lost.before_login();
                    (lost, loss)
                }
            };
            self.publisher.standing().lost(
                loss,
                failure_reason(&lost, LOGGED_REASON_LIMIT),
                Instant::now().into_std(),
            );
            let step = reconnects.lost(loss);
            self.wait(&lost, was_connected, step).await;
        }
    }

    /// Stays away from the broker until it is to go on. What is executing then was begun by others, and
    /// is failed as at a start.
    async fn rest(&mut self) {
        self.publisher.standing().ended(Instant::now().into_std());
        self.said_once = false;
        // Whoever has gone notices with the next connection.
        let _ = self.events.send(Event::Rests).await;
        self.publisher.rests(false).await;
    }

    /// Waits until the session is to end with nothing to deliver; for ever if there is something.
    async fn nothing_left(&self) {
        self.finish.cancelled().await;
        if !self.has_said_all() {
            future::pending().await
        }
    }

    /// Whether nothing is left that must be said before the session ends.
    fn has_said_all(&self) -> bool {
        self.publisher.outbox().is_empty() && !self.owes_farewell()
    }

    /// Whether somebody takes adit for there, who is to hear from nobody else that it goes.
    fn owes_farewell(&self) -> bool {
        self.publisher.standing().is_greeted && !self.options.farewell.is_empty()
    }

    async fn connection_lost(&self, end: ConnectionEnd) {
        // Whoever has gone notices with the next connection.
        let _ = self.events.send(Event::Lost).await;
        let Some(aside) = self.publisher.outbox().connection_lost(end) else {
            return;
        };
        let Message { topic, payload, .. } = aside.message;
        let (topic, bytes) = (legible(&topic), payload.len());
        match aside.then {
            Then::Replaced => warn!(
                topic,
                bytes,
                "message set aside: the broker closes the connection whenever it comes; another is \
                 sent in its place"
            ),
            Then::LeftOut(others) => warn!(
                topic,
                bytes,
                left_out_with_it = others,
                "message set aside: the broker closes the connection whenever it comes"
            ),
        }
        if self.publisher.outbox().is_empty() {
            let _ = self.events.send(Event::Delivered).await;
        }
    }

    /// Waits before the next attempt, a moment only when the session is to end.
    async fn wait(&self, lost: &Lost, was_connected: bool, step: NextStep) {
        let retry_in = step.draw_wait();
        let error = failure_reason(lost, LOGGED_REASON_LIMIT);
        let broker = self.options.account.broker.server.to_string();
        if was_connected {
            warn!(
                broker,
                error,
                retry_in_s = seconds(retry_in),
                "connection to the broker lost"
            );
        } else {
            warn!(
                broker,
                error,
                retry_in_s = seconds(retry_in),
                "no connection to the broker"
            );
        }
        match step.suspicion {
            Some(Suspicion::OtherClient) => warn!(
                client_id = self.options.account.client_id,
                "the broker accepts this client and soon closes the connection, again and again: \
                 another client probably uses the same id"
            ),
            Some(Suspicion::IdleCut {
                silence,
                ping_interval,
            }) => warn!(
                ?silence,
                ?ping_interval,
                "the connection ends after the same silence again and again: something on the way \
                 probably cuts idle connections; pings come more often until nothing \
                 was cut for long, and mqtt.keep_alive below the silence keeps it so"
            ),
            None => {}
        }
        tokio::select! {
            () = sleep(retry_in) => {}
            () = self.publisher.rests(true) => {}
            () = self.finish.cancelled() => sleep(retry_in.min(FINISH_RETRY)).await,
        }
    }

    /// Speaks on one connection to its end.
    async fn serve(&mut self, mut link: Link, pace: Pace) -> Result<SessionEnd, Ended> {
        let began = Instant::now();
        self.publisher.standing().connected(began.into_std());
        // The wait for an answer follows what is configured, however often pings come.
        let pings = Pings {
            pace,
            ..Pings::every(self.options.account.keep_alive)
        };
        // Who only comes to deliver the last words does not say that it is there: the word that it is not may
        // be among them.
        let greets = !self.finish.is_cancelled();
        let mut conversation = Conversation::new(self.opening(greets), pings, began.into_std());
        match self.converse(&mut link, &mut conversation, greets).await {
            Ok(end) => {
                link.disconnect().await;
                Ok(end)
            }
            Err(lost) => {
                let now = Instant::now();
                let is_at_message = conversation.has_just_sent_one(CLOSE_MARGIN, now.into_std());
                let end = match (lost.is_by_broker(), is_at_message) {
                    (true, true) => ConnectionEnd::ClosedAtMessage,
                    (true, false) => ConnectionEnd::Closed,
                    (false, _) => ConnectionEnd::Failed,
                };
                let loss = lost.after_login(&conversation, now - began, now.into_std());
                Err(Ended { lost, loss, end })
            }
        }
    }

    fn opening(&self, greets: bool) -> Opening {
        let Options {
            create,
            subscribe,
            subscribe_if_granted,
            ..
        } = &self.options;
        Opening {
            create: create.clone(),
            subscribe: subscribe.clone(),
            subscribe_if_granted: subscribe_if_granted.clone(),
            announce: self.announcement(greets),
        }
    }

    fn announcement(&self, greets: bool) -> Vec<Message> {
        let Options {
            announce,
            once,
            greeting,
            resume,
            ..
        } = &self.options;
        let once: &[Message] = if greets && !self.said_once { once } else { &[] };
        let greeting: &[Message] = if greets { greeting } else { &[] };
        [announce, once, greeting, resume].concat()
    }

    async fn converse(
        &mut self,
        link: &mut Link,
        conversation: &mut Conversation,
        mut greets: bool,
    ) -> Result<SessionEnd, Lost> {
        let mut is_finishing = false;
        let mut is_leaving = false;
        let mut is_resting = false;
        let mut said_skipped = false;
        loop {
            greets = greets && self.is_to_greet(conversation);
            self.say_farewell(conversation);
            let deliver_at = self.deliver(conversation);
            if let Err(lost) = link.send_all(conversation.packets()).await {
                self.take_last_answers(link, conversation).await;
                return Err(lost);
            }
            if self.finish.is_cancelled() && self.has_said_all() {
                return Ok(SessionEnd::Finished);
            }
            if is_resting && self.publisher.outbox().is_empty() {
                return Ok(SessionEnd::Resting);
            }
            if is_leaving && conversation.is_ready() && self.publisher.outbox().is_empty() {
                return Ok(SessionEnd::Again);
            }
            let deadline = conversation.next_deadline();
            let deadline = deliver_at.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                biased;
                // Before the deadline: what has come in time must not be missed after a long write.
                incoming = link.next() => {
                    conversation.receive(incoming?, Instant::now().into_std())?;
                }
                () = sleep_until(deadline.into()) => {}
                () = self.publisher.filled() => {}
                () = self.publisher.wanted_again(), if !is_leaving => is_leaving = true,
                () = self.publisher.rests(!is_resting) => is_resting = !is_resting,
                () = self.finish.cancelled(), if !is_finishing => is_finishing = true,
            }
            conversation.time_passed(Instant::now().into_std())?;
            self.said_once |= conversation.is_ready();
            while let Some(event) = conversation.next_event() {
                let Some(event) = self.event(event, conversation, &mut said_skipped) else {
                    continue;
                };
                if self.events.send(event).await.is_err() {
                    return Ok(SessionEnd::Abandoned);
                }
            }
        }
    }

    /// Whether the greeting is still to come. Takes note of it once it is said, and leaves it out where the
    /// session is to end before.
    fn is_to_greet(&self, conversation: &mut Conversation) -> bool {
        if conversation.is_opening_said() {
            self.publisher.standing().is_greeted |= !self.options.greeting.is_empty();
            return false;
        }
        if self.finish.is_cancelled() {
            conversation.announce_instead(self.announcement(false));
            return false;
        }
        true
    }

    /// Adds the farewell to what is to be delivered, once nothing else is. Where the last connection broke,
    /// the will has said it; where no greeting was said, neither here nor on one that was left in good
    /// order, nothing is to be taken back.
    fn say_farewell(&mut self, conversation: &Conversation) {
        let is_due =
            conversation.is_opening_said() || (conversation.may_publish() && self.owes_farewell());
        if self.finish.is_cancelled() && is_due && self.publisher.outbox().is_empty() {
            self.publisher.standing().is_greeted = false;
            for message in std::mem::take(&mut self.options.farewell) {
                self.publisher.publish(message);
            }
        }
    }

    /// Takes the acknowledgements that came before the connection broke at a write: what has arrived
    /// is not to arrive twice.
    async fn take_last_answers(&mut self, link: &mut Link, conversation: &mut Conversation) {
        for _ in 0..LAST_PACKETS {
            // What has come is there at once.
            let Ok(Ok(incoming)) = timeout(Duration::ZERO, link.next()).await else {
                break;
            };
            if conversation
                .receive(incoming, Instant::now().into_std())
                .is_err()
            {
                break;
            }
        }
        self.said_once |= conversation.is_ready();
        let mut is_delivered = false;
        while let Some(event) = conversation.next_event() {
            if let conversation::Event::Acknowledged(packet_id) = event {
                let mut outbox = self.publisher.outbox();
                is_delivered |= outbox.acknowledge(packet_id) && outbox.is_empty();
            }
        }
        if is_delivered {
            // Whoever has gone notices with the next connection.
            let _ = self.events.send(Event::Delivered).await;
        }
    }

    /// Publishes what may be on its way now; returns when there may be more.
    fn deliver(&self, conversation: &mut Conversation) -> Option<std::time::Instant> {
        if !conversation.may_publish() {
            return None;
        }
        let now = Instant::now().into_std();
        for message in self.publisher.take_asked() {
            conversation.publish(&message, now);
        }
        let settled_since = conversation.settled_since();
        self.publisher.outbox().send(settled_since, now, |message| {
            conversation.publish(message, now)
        })
    }

    /// Does what follows within the session; returns what follows outside.
    fn event(
        &self,
        event: conversation::Event,
        conversation: &mut Conversation,
        said_skipped: &mut bool,
    ) -> Option<Event> {
        use conversation::Event as Happened;
        match event {
            Happened::Ready => {
                self.publisher.standing().is_ready = true;
                info!("announced and ready for operations");
                Some(Event::Ready)
            }
            Happened::Received { topic, payload } => Some(Event::Received { topic, payload }),
            Happened::LeftOut => {
                let now = Instant::now().into_std();
                for message in &self.options.resume {
                    conversation.publish(message, now);
                }
                None
            }
            Happened::Skipped(skipped) => {
                let (topic, bytes) = (legible(&skipped.topic), skipped.size);
                if std::mem::replace(said_skipped, true) {
                    debug!(topic, bytes, "message skipped: it is too large");
                } else {
                    warn!(
                        topic,
                        bytes,
                        "message skipped: it is larger than any that the platform sends; further \
                         ones on this connection are not told"
                    );
                }
                None
            }
            Happened::Acknowledged(packet_id) => {
                let mut outbox = self.publisher.outbox();
                (outbox.acknowledge(packet_id) && outbox.is_empty()).then_some(Event::Delivered)
            }
            Happened::Refused {
                topic,
                is_needed,
                retry_in,
                is_news,
            } => {
                if is_needed && is_news {
                    warn!(
                        topic,
                        retry_in_s = seconds(retry_in),
                        "the broker refuses a subscription, as the platform does while a device is \
                         new"
                    );
                } else {
                    debug!(
                        topic,
                        retry_in_s = seconds(retry_in),
                        "subscription refused"
                    );
                }
                (!is_needed).then_some(Event::Refused { topic })
            }
        }
    }
}
