//! How it stands with the connection to the broker, for whoever wants to look.

use std::collections::BTreeMap;
use std::time::Instant;

use super::reconnect::Loss;

/// The last connection, and how earlier ones ended.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The broker has accepted the login, and the connection stands.
    pub(crate) is_connected: bool,
    /// Everything is announced, and operations come.
    pub(crate) is_ready: bool,
    /// The greeting was said, and since then neither the farewell nor, where a connection broke, the will:
    /// who was told takes adit for there.
    pub(crate) is_greeted: bool,
    /// Since when it is connected, or not.
    pub(crate) since: Instant,
    /// What went wrong last, in words, and when.
    pub(crate) last_error: Option<(String, Instant)>,
    /// Logins that the broker accepted.
    pub(crate) logins: u64,
    /// How often it was not reached, or lost, by reason.
    pub(crate) losses: BTreeMap<&'static str, u64>,
}

impl Standing {
    /// Begins without a connection.
    pub(super) fn new(now: Instant) -> Self {
        let reasons = ["unreachable", "refused", "closed", "silent", "failed"];
        Self {
            is_connected: false,
            is_ready: false,
            is_greeted: false,
            since: now,
            last_error: None,
            logins: 0,
            losses: reasons.map(|reason| (reason, 0)).into(),
        }
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.is_connected = true;
        self.since = now;
        self.logins += 1;
    }

    /// Takes note that a connection is lost, or did not come about.
    pub(super) fn lost(&mut self, loss: Loss, error: String, now: Instant) {
        let reason = match loss {
            Loss::NeverStood => "unreachable",
            Loss::Refused => "refused",
            Loss::Closed(_) => "closed",
            Loss::NoPong(_) => "silent",
            Loss::Failed(_) => "failed",
        };
        *self.losses.entry(reason).or_default() += 1;
        self.ended(now);
        self.last_error = Some((error, now));
    }

    /// Takes note that there is no connection any more.
    pub(super) fn ended(&mut self, now: Instant) {
        if self.is_connected {
            self.since = now;
        }
        self.is_connected = false;
        self.is_ready = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::reconnect::Life;
    use super::*;

    #[test]
    fn tells_since_when_there_is_no_connection_however_often_it_is_tried_again() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut standing = Standing::new(began);
        standing.connected(at(1));
        assert!(standing.is_connected && !standing.is_ready);
        assert_eq!((standing.since, standing.logins), (at(1), 1));
        standing.is_ready = true;
        standing.lost(Loss::Failed(Life::default()), "reset".to_owned(), at(5));
        standing.lost(Loss::NeverStood, "refused".to_owned(), at(7));
        assert!(!standing.is_connected && !standing.is_ready);
        assert_eq!(standing.since, at(5));
        assert_eq!(standing.last_error, Some(("refused".to_owned(), at(7))));
        assert_eq!(
            (standing.losses["failed"], standing.losses["closed"]),
            (1, 0)
        );
    }
}
