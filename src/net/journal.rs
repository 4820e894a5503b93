//! What a connection went through on its way, for a person who wants to know.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::certificate::Certificate;
use super::error::{Awaited, Peer};

/// The steps of connections that are made one after the other, in the order in which they ended.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Vec<Step>>);

/// One step of a connection; whether it came to a good end is told by the connection's error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// With whom, or about whose name.
    pub peer: Peer,
    /// What was waited for.
    pub awaited: Awaited,
    /// How long.
    pub took: Duration,
    /// What there was to see.
    pub seen: Option<Seen>,
}

/// What there was to see at a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    /// The addresses that the resolver knows, or the one that accepted the connection.
    Address(String),
    /// A handshake of TLS.
    Tls {
        /// The server's certificate and those of its issuers that it sent, in its order.
        chain: Vec<Certificate>,
        /// Version and cipher, and what was offered, in words.
        agreed: String,
    },
}

impl Journal {
    /// Returns what was written since the last time.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.steps())
    }

    pub(super) fn write(&self, step: Step) {
        self.steps().push(step);
    }

    /// Adds to the last step what there was to see.
    pub(super) fn add(&self, seen: Seen) {
        if let Some(step) = self.steps().last_mut() {
            step.seen = Some(seen);
        }
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
