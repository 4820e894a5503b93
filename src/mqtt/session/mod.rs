//! The MQTT session: connect, announce, subscribe, deliver what the outbox holds, reconnect for ever.
//!
//! Only the packets and their encoding are the MQTT library's. Its event loop dials by itself, so
//! it could not share the transport with the WebSocket, and it forgets queued and unacknowledged
//! messages when a broker begins a clean session, which the platform demands. What is said is left
//! to the caller: a session knows messages, no templates and no tunnels.

mod connection;

use std::future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::link::{Account, Link, Lost};
use super::outbox::Message;
use super::publisher::Publisher;
use super::reconnect::{Loss, NextStep, Reconnects};
use crate::net::Transport;
use crate::words::failure_reason;
use connection::Connection;

/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;
/// How long a session that is to end waits at most before it tries once more to deliver.
const FINISH_RETRY: Duration = Duration::from_millis(500);
/// Events that wait for the agent. A full queue stops the reading of further packets.
const EVENT_QUEUE: usize = 16;

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
    /// Published last at every connect.
    pub resume: Vec<Message>,
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
    /// Everything that was published is acknowledged.
    Delivered,
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
            let link = tokio::select! {
                link = self.options.account.log_in(&self.transport) => link,
                () = self.nothing_left() => return,
            };
            let lost = match link {
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

    /// Waits until the session is to end with nothing to deliver; for ever if there is something.
    async fn nothing_left(&self) {
        self.finish.cancelled().await;
        if !self.publisher.outbox().is_empty() {
            future::pending().await
        }
    }

    /// Waits before the next attempt, a moment only when the session is to end.
    async fn wait(&self, lost: &Lost, was_connected: bool, step: NextStep) {
        let retry_in = step.wait_up_to.mul_f64(fastrand::f64());
        let error = failure_reason(lost, LOGGED_REASON_LIMIT);
        let shown = Duration::from_millis(retry_in.as_millis().try_into().unwrap_or(u64::MAX));
        let broker = self.options.account.broker.server.to_string();
        if was_connected {
            warn!(broker, error, retry_in = ?shown, "connection to the broker lost");
        } else {
            warn!(broker, error, retry_in = ?shown, "no connection to the broker");
        }
        if step.thrown_out {
            warn!(
                client_id = self.options.account.client_id,
                "the broker accepts this client and soon closes the connection, again and again: \
                 another client probably uses the same id"
            );
        }
        tokio::select! {
            () = sleep(retry_in) => {}
            () = self.finish.cancelled() => sleep(retry_in.min(FINISH_RETRY)).await,
        }
    }

    async fn serve(&mut self, link: Link) -> Result<Left, Lost> {
        let mut connection = Connection::new(link, &self.options, self.said_once);
        connection.begin().await?;
        loop {
            if connection.may_deliver() {
                for message in self.publisher.take_asked() {
                    connection.publish_for_setup(&message).await?;
                }
                connection.deliver(&self.publisher).await?;
            }
            if self.finish.is_cancelled() && self.publisher.outbox().is_empty() {
                connection.link.disconnect().await;
                return Ok(Left::Finished);
            }
            let (deadline, finishing) = (connection.next_deadline(), connection.finishing);
            let events = tokio::select! {
                packet = connection.link.next() => {
                    connection.take(packet?, &self.publisher).await?
                }
                () = sleep_until(deadline) => {
                    connection.deadline_passed().await?;
                    Vec::new()
                }
                () = self.publisher.filled() => Vec::new(),
                () = self.finish.cancelled(), if !finishing => {
                    connection.finishing = true;
                    Vec::new()
                }
            };
            self.said_once |= connection.is_ready();
            for event in events {
                if self.events.send(event).await.is_err() {
                    connection.link.disconnect().await;
                    return Ok(Left::Abandoned);
                }
            }
        }
    }
}

fn loss(lost: &Lost, stood: Option<Duration>) -> Loss {
    match stood {
        None => Loss::NeverStood,
        Some(stood) if lost.is_by_broker() => Loss::Closed(stood),
        Some(stood) => Loss::Failed(stood),
    }
}
