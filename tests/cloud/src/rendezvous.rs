//! Where a device's WebSocket meets whoever waits for it: one-time connection keys.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::platform::Key;
use crate::tunnel::DeviceSocket;

/// The connection keys that were given out.
pub(crate) struct Rendezvous {
    lifetime: Duration,
    slots: Mutex<HashMap<Key, Slot>>,
}

enum Slot {
    Waiting {
        since: Instant,
        arrival: oneshot::Sender<DeviceSocket>,
    },
    Used,
    Expired,
}

/// What a device gets for its key.
pub(crate) enum Claim {
    /// The place where the socket is waited for. The key is used up.
    Granted(oneshot::Sender<DeviceSocket>),
    Used,
    /// Too old, or nobody waits any more.
    Expired,
    Unknown,
}

impl Rendezvous {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            slots: Mutex::default(),
        }
    }

    /// Makes a key and the place where its socket will arrive. To drop that revokes the key.
    pub(crate) fn expect(&self) -> (Key, oneshot::Receiver<DeviceSocket>) {
        let (arrival, socket) = oneshot::channel();
        let key = Key::random();
        let since = Instant::now();
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), Slot::Waiting { since, arrival });
        (key, socket)
    }

    pub(crate) fn claim(&self, key: &Key) -> Claim {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.get_mut(key) else {
            return Claim::Unknown;
        };
        match std::mem::replace(slot, Slot::Used) {
            Slot::Waiting { since, arrival }
                if since.elapsed() <= self.lifetime && !arrival.is_closed() =>
            {
                Claim::Granted(arrival)
            }
            Slot::Waiting { .. } | Slot::Expired => {
                *slot = Slot::Expired;
                Claim::Expired
            }
            Slot::Used => Claim::Used,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(claim: &Claim) -> &'static str {
        match claim {
            Claim::Granted(_) => "granted",
            Claim::Used => "used",
            Claim::Expired => "expired",
            Claim::Unknown => "unknown",
        }
    }

    #[test]
    fn grants_a_key_once() {
        let rendezvous = Rendezvous::new(Duration::from_secs(60));
        let (key, _socket) = rendezvous.expect();
        assert_eq!(word(&rendezvous.claim(&Key::random())), "unknown");
        assert_eq!(word(&rendezvous.claim(&key)), "granted");
        assert_eq!(word(&rendezvous.claim(&key)), "used");
    }

    #[test]
    fn grants_no_key_that_is_too_old_or_given_up() {
        let rendezvous = Rendezvous::new(Duration::ZERO);
        let (old, _socket) = rendezvous.expect();
        assert_eq!(word(&rendezvous.claim(&old)), "expired");
        assert_eq!(word(&rendezvous.claim(&old)), "expired");
        let rendezvous = Rendezvous::new(Duration::from_secs(60));
        let (given_up, socket) = rendezvous.expect();
        drop(socket);
        assert_eq!(word(&rendezvous.claim(&given_up)), "expired");
    }
}
