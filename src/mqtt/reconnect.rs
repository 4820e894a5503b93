//! Decides when the broker is tried again, and whether another client uses the same id.
//!
//! Pure: how a connection ended and how long it had stood come in, the next step comes out.

use std::time::Duration;

/// Upper end of the first wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Upper end of every later wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A connection that stood this long ends a row of failures.
const STABLE: Duration = Duration::from_secs(60);
/// Connections that the broker accepted and closed soon after, in a row, before a second client is
/// suspected: two may be a broker that restarts.
const SUSPICIOUS_CLOSES: u32 = 3;

/// How an attempt or a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// The broker was not reached or did not accept the client.
    NeverStood,
    /// The broker had accepted the client and closed the connection after this time.
    Closed(Duration),
    /// The connection failed in another way after this time.
    Failed(Duration),
}

/// What to do after a loss.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NextStep {
    /// How long to wait at most. The wait is drawn evenly from zero to this (full jitter), so that a
    /// thousand gateways do not come back to a restarted broker in the same second.
    pub wait_up_to: Duration,
    /// Whether the broker throws this client out again and again, as it does when a second client
    /// uses the same id.
    pub thrown_out: bool,
}

/// The failures since the last stable connection.
#[derive(Debug, Default)]
pub struct Reconnects {
    failures: u32,
    closes: u32,
}

impl Reconnects {
    /// Notes a loss and returns what follows.
    pub fn lost(&mut self, loss: Loss) -> NextStep {
        let stood = match loss {
            Loss::NeverStood => Duration::ZERO,
            Loss::Closed(stood) | Loss::Failed(stood) => stood,
        };
        if stood >= STABLE {
            *self = Self::default();
        }
        self.closes = match loss {
            Loss::Closed(stood) if stood < STABLE => self.closes + 1,
            Loss::Closed(_) | Loss::Failed(_) => 0,
            Loss::NeverStood => self.closes,
        };
        let wait_up_to = FIRST_WAIT
            .saturating_mul(1 << self.failures.min(u32::BITS - 1))
            .min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        NextStep {
            wait_up_to,
            thrown_out: self.closes >= SUSPICIOUS_CLOSES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_the_wait_up_to_a_minute() {
        let mut reconnects = Reconnects::default();
        let waits: Vec<_> = (0..40)
            .map(|_| reconnects.lost(Loss::NeverStood).wait_up_to.as_secs())
            .collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
    }

    #[test]
    fn starts_again_after_a_stable_minute_and_not_before() {
        let mut reconnects = Reconnects::default();
        for (loss, wait) in [
            (Loss::NeverStood, 1),
            (Loss::Failed(59 * SECOND), 2),
            (Loss::Closed(59 * SECOND), 4),
            (Loss::Failed(60 * SECOND), 1),
            (Loss::NeverStood, 2),
        ] {
            assert_eq!(reconnects.lost(loss).wait_up_to, wait * SECOND, "{loss:?}");
        }
    }

    #[test]
    fn suspects_a_second_client_when_the_broker_keeps_closing() {
        use Loss::{Closed, Failed, NeverStood};
        for (losses, thrown_out) in [
            (vec![Closed(SECOND); 2], false),
            (vec![Closed(SECOND); 3], true),
            (
                vec![Closed(SECOND), NeverStood, Closed(SECOND), Closed(SECOND)],
                true,
            ),
            (
                vec![
                    Closed(SECOND),
                    Failed(SECOND),
                    Closed(SECOND),
                    Closed(SECOND),
                ],
                false,
            ),
            (
                vec![Closed(SECOND), Closed(SECOND), Closed(90 * SECOND)],
                false,
            ),
            (vec![NeverStood; 9], false),
        ] {
            let mut reconnects = Reconnects::default();
            let last = losses.iter().map(|&loss| reconnects.lost(loss)).last();
            assert_eq!(
                last.map(|step| step.thrown_out),
                Some(thrown_out),
                "{losses:?}"
            );
        }
    }
}
