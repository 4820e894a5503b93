//! Hands messages to the session from anywhere, without waiting.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smartrest::row::{PACKET_LIMIT, payload_limit};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::outbox::{Message, Outbox};
use super::session::Options;
use super::standing::Standing;
use crate::net::Transport;

/// Puts messages into a session's outbox; never waits.
#[derive(Clone, Debug)]
pub struct Publisher {
    outbox: Arc<Mutex<Outbox>>,
    asked: Arc<Mutex<Vec<Message>>>,
    filled: Arc<Notify>,
    again: Arc<Notify>,
    standing: Arc<Mutex<Standing>>,
    is_resting: Arc<watch::Sender<bool>>,
    renewal: Arc<Mutex<Option<(Options, Transport)>>>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self {
            outbox: Arc::default(),
            asked: Arc::default(),
            filled: Arc::default(),
            again: Arc::default(),
            renewal: Arc::default(),
            is_resting: Arc::default(),
            standing: Arc::new(Mutex::new(Standing::new(Instant::now().into_std()))),
        }
    }
}

impl Publisher {
    /// Queues a message until a broker has acknowledged it.
    pub fn publish(&self, message: Message) {
        self.queue(message, Outbox::push);
    }

    /// Queues a message like [`Publisher::publish`], in the place of those to the same topic that
    /// are not on their way.
    pub fn publish_newest(&self, message: Message) {
        self.queue(message, Outbox::push_newest);
    }

    fn queue(&self, message: Message, push: fn(&mut Outbox, Message) -> bool) {
        if message.payload.len() > payload_limit(&message.topic) {
            let bytes = message.payload.len();
            warn!(
                bytes,
                limit = PACKET_LIMIT,
                "message left out: no packet for the platform is so large"
            );
            return;
        }
        let (topic, group) = (message.topic.clone(), message.group);
        if !push(&mut self.outbox(), message) {
            debug!(
                topic,
                group, "message left out like the one of its group that no broker takes"
            );
        }
        self.filled.notify_one();
    }

    /// Sends a message ahead of all others on the present or next connection. It is not kept when
    /// that is lost: whoever asks has a time limit and asks again.
    pub fn ask(&self, message: Message) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains(&message) {
            asked.push(message);
        }
        drop(asked);
        self.filled.notify_one();
    }

    /// Has the session log in again, as to show another certificate, once it is set up and all that was
    /// published is acknowledged.
    pub fn log_in_again(&self) {
        self.again.notify_one();
    }

    /// Has the session leave the broker in good order, without a farewell, once everything is
    /// acknowledged, and stay away until [`Publisher::go_on`].
    pub(crate) fn rest(&self) {
        self.is_resting.send_replace(true);
    }

    /// Has a session that rests log in again.
    pub(crate) fn go_on(&self) {
        self.is_resting.send_replace(false);
    }

    pub(super) fn is_resting(&self) -> bool {
        *self.is_resting.borrow()
    }

    /// Waits until the session is to rest, or not any more.
    pub(super) async fn rests(&self, whether: bool) {
        let mut seen = self.is_resting.subscribe();
        // The sender lives as long as this.
        let _ = seen.wait_for(|&is_resting| is_resting == whether).await;
    }

    /// Takes what no broker has acknowledged, for somebody else to say.
    pub(crate) fn take_waiting(&self) -> Vec<Message> {
        mem::take(&mut *self.outbox()).into_messages()
    }

    /// Waits until the session is to log in again.
    pub(super) async fn wanted_again(&self) {
        self.again.notified().await;
    }

    /// Waits until something was published or asked.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes what was asked and not sent.
    pub(crate) fn take_asked(&self) -> Vec<Message> {
        mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether work may be begun that will have to be reported.
    pub fn has_room(&self) -> bool {
        self.outbox().has_room()
    }

    /// How many messages are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.outbox().len()
    }

    /// Has the session log in otherwise the next time, by another way, and say other things then.
    pub(crate) fn renew(&self, options: Options, transport: Transport) {
        *self.renewal() = Some((options, transport));
    }

    /// Takes what is new for the next login.
    pub(super) fn take_renewal(&self) -> Option<(Options, Transport)> {
        self.renewal().take()
    }

    fn renewal(&self) -> MutexGuard<'_, Option<(Options, Transport)>> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how it stands with the connection.
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
