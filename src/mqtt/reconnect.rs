//! Decides when the broker is tried again, and what ends its connections.
//!
//! Pure but for the dice: how a connection ended, how long it had stood and how long nothing had gone over it come
//! in, the next step comes out. Two faults look alike from here and want opposite remedies. Another
//! client with the same id throws this one out soon after a login, or at any moment. A middlebox that
//! forgets idle connections cuts them after the same silence each time, and pings that come more
//! often end that.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::time::Duration;

/// Upper end of the first wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Upper end of every later wait.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Upper end of the wait after a first refused login: many servers lock an account after a few.
const FIRST_REFUSED_WAIT: Duration = Duration::from_secs(10);
/// A connection that stood this long ends a row of failures.
const STABLE: Duration = Duration::from_mins(1);
/// A connection that stood this long has worked.
const WORKED: Duration = Duration::from_secs(3);
/// Connections that the broker accepted and closed soon after, in a row, before a second client is
/// suspected: two may be a broker that restarts.
const SUSPICIOUS_CLOSES: u32 = 3;
/// The shortest silence that a middlebox may have cut.
const SHORTEST_SILENCE: Duration = Duration::from_secs(2);
/// Two silences that differ by no more than this, or this part of the shorter, are the same.
const SILENCE_TOLERANCE: Duration = Duration::from_secs(1);
const SILENCE_TOLERANCE_PART: u32 = 8;
/// Pings never come faster by themselves.
const SHORTEST_PING_INTERVAL: Duration = Duration::from_secs(2);

/// How an attempt or a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loss {
    /// The broker was not reached, or could not take anybody.
    NeverStood,
    /// The broker did not take this login.
    Refused,
    /// The broker had accepted the client and closed the connection.
    Closed {
        /// Since the login.
        stood: Duration,
        /// Time in which nothing had gone either way.
        silence: Duration,
    },
    /// No ping was ever answered, the first one included.
    NoPong {
        /// Since the login.
        stood: Duration,
        /// Time in which nothing had gone either way before the ping.
        silence: Duration,
    },
    /// The connection failed in another way after this time.
    Failed(Duration),
}

/// What to do after a loss.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NextStep {
    /// How long to wait at least: nothing, except after a refused login.
    pub(crate) wait_at_least: Duration,
    /// How long to wait at most. The wait is drawn evenly between both (full jitter where the first
    /// is nothing), so that a thousand gateways do not come back to a restarted broker in the same
    /// second.
    pub(crate) wait_up_to: Duration,
    /// What probably ends the connections.
    pub(crate) suspicion: Option<Suspicion>,
}

/// What probably ends connections again and again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Suspicion {
    /// Another client uses the same id.
    OtherClient,
    /// Something on the way cuts connections after this silence.
    IdleCut {
        /// The shorter of the last two.
        silence: Duration,
        /// The time between two pings from now on, for as long as the process lives.
        ping_interval: Duration,
    },
}

/// The failures since the last stable connection, and what was learnt of silences.
#[derive(Debug)]
pub(crate) struct Reconnects {
    failures: u32,
    refusals: u32,
    closes: u32,
    /// The one that the last connection ended with.
    silence: Option<Duration>,
    /// How often in a row a silence was the one before it once more.
    repeats: u32,
    ping_interval: Duration,
}

impl NextStep {
    /// Comes back sooner where the wait is longer than `limit`.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self {
            wait_at_least: self.wait_at_least.min(limit / 2),
            wait_up_to: self.wait_up_to.min(limit),
            ..self
        }
    }

    /// Draws the wait, in whole milliseconds.
    pub(crate) fn draw_wait(&self) -> Duration {
        let spread = self.wait_up_to.saturating_sub(self.wait_at_least);
        let wait = self.wait_at_least + spread.mul_f64(fastrand::f64());
        Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX))
    }
}

impl Reconnects {
    /// Begins with pings at this interval.
    pub(crate) fn new(ping_interval: Duration) -> Self {
        Self {
            failures: 0,
            refusals: 0,
            closes: 0,
            silence: None,
            repeats: 0,
            ping_interval,
        }
    }

    /// Time between two pings.
    pub(crate) fn ping_interval(&self) -> Duration {
        self.ping_interval
    }

    /// Notes a loss and returns what follows.
    pub(crate) fn lost(&mut self, loss: Loss) -> NextStep {
        let stood = match loss {
            Loss::NeverStood | Loss::Refused => None,
            Loss::Closed { stood, .. } | Loss::NoPong { stood, .. } | Loss::Failed(stood) => {
                Some(stood)
            }
        };
        if stood.is_some_and(|stood| stood >= STABLE) {
            self.failures = 0;
            self.closes = 0;
        }
        if stood.is_some() {
            self.refusals = 0;
        }
        let suspicion = self.suspicion(loss);
        let (wait_at_least, wait_up_to) = self.wait(loss);
        // A connection that worked is worth more than the quiet of a broker. Two clients that throw
        // each other out would do so ever faster.
        let wait_up_to = match (stood, suspicion) {
            (Some(stood), None | Some(Suspicion::IdleCut { .. })) if stood >= WORKED => {
                wait_up_to.min(stood)
            }
            _ => wait_up_to,
        };
        NextStep {
            wait_at_least,
            wait_up_to,
            suspicion,
        }
    }

    fn wait(&mut self, loss: Loss) -> (Duration, Duration) {
        if loss == Loss::Refused {
            let up_to = doubled(FIRST_REFUSED_WAIT, self.refusals);
            self.refusals = self.refusals.saturating_add(1);
            return (up_to / 2, up_to);
        }
        let up_to = doubled(FIRST_WAIT, self.failures);
        self.failures = self.failures.saturating_add(1);
        (Duration::ZERO, up_to)
    }

    fn suspicion(&mut self, loss: Loss) -> Option<Suspicion> {
        let silence = match loss {
            Loss::NeverStood | Loss::Refused => return self.other_client(),
            Loss::Closed { silence, .. } | Loss::NoPong { silence, .. } => silence,
            Loss::Failed(_) => Duration::ZERO,
        };
        let before = self.silence.take();
        self.silence = (silence >= SHORTEST_SILENCE).then_some(silence);
        match before.filter(|&before| is_same(before, silence)) {
            Some(before) if self.silence.is_some() => {
                self.repeats += 1;
                if self.repeats >= self.repeats_wanted() {
                    self.closes = 0;
                    return Some(self.idle_cut(before.min(silence)));
                }
            }
            _ => self.repeats = 0,
        }
        self.closes = match loss {
            Loss::Closed { stood, .. } if stood < STABLE => self.closes + 1,
            _ => 0,
        };
        self.other_client()
    }

    /// Two clients that throw each other out meet after the same silence twice by chance.
    fn repeats_wanted(&self) -> u32 {
        match self.other_client() {
            Some(_) => 2,
            None => 1,
        }
    }

    fn idle_cut(&mut self, silence: Duration) -> Suspicion {
        let shorter = (silence / 2).max(SHORTEST_PING_INTERVAL);
        self.ping_interval = self.ping_interval.min(shorter);
        Suspicion::IdleCut {
            silence,
            ping_interval: self.ping_interval,
        }
    }

    fn other_client(&self) -> Option<Suspicion> {
        (self.closes >= SUSPICIOUS_CLOSES).then_some(Suspicion::OtherClient)
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first
        .saturating_mul(1 << times.min(u32::BITS - 1))
        .min(LONGEST_WAIT)
}

fn is_same(one: Duration, other: Duration) -> bool {
    let tolerance = (one.min(other) / SILENCE_TOLERANCE_PART).max(SILENCE_TOLERANCE);
    one.abs_diff(other) <= tolerance
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const KEEP_ALIVE: Duration = Duration::from_mins(1);

    /// Closed by the broker while there was traffic.
    fn thrown_out(stood: Duration) -> Loss {
        let silence = Duration::ZERO;
        Loss::Closed { stood, silence }
    }

    /// Closed by the broker when nothing had come or gone since the opening.
    fn cut(stood: u32) -> Loss {
        Loss::Closed {
            stood: stood * SECOND + SECOND / 10,
            silence: stood * SECOND,
        }
    }

    fn no_pong(silence: u32) -> Loss {
        Loss::NoPong {
            stood: (silence + 20) * SECOND,
            silence: silence * SECOND,
        }
    }

    fn last(losses: &[Loss]) -> NextStep {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        losses
            .iter()
            .map(|&loss| reconnects.lost(loss))
            .last()
            .unwrap()
    }

    #[test]
    fn doubles_the_wait_up_to_a_minute() {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        let waits: Vec<_> = (0..40)
            .map(|_| reconnects.lost(Loss::NeverStood))
            .inspect(|step| assert_eq!(step.wait_at_least, Duration::ZERO))
            .map(|step| step.wait_up_to.as_secs())
            .collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
    }

    #[test]
    fn starts_again_after_a_stable_minute_and_not_before() {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        for (loss, wait) in [
            (Loss::NeverStood, 1),
            (Loss::Failed(59 * SECOND), 2),
            (thrown_out(59 * SECOND), 4),
            (Loss::Failed(60 * SECOND), 1),
            (Loss::NeverStood, 2),
        ] {
            assert_eq!(reconnects.lost(loss).wait_up_to, wait * SECOND, "{loss:?}");
        }
    }

    #[test]
    fn waits_for_seconds_from_the_first_refused_login_on() {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        for (loss, at_least, up_to) in [
            (Loss::Refused, 5, 10),
            (Loss::Refused, 10, 20),
            (Loss::NeverStood, 0, 1),
            (Loss::Refused, 20, 40),
            (Loss::Refused, 30, 60),
            (Loss::Refused, 30, 60),
            (Loss::Failed(SECOND), 0, 2),
            (Loss::Refused, 5, 10),
        ] {
            let step = reconnects.lost(loss);
            let waits = (step.wait_at_least, step.wait_up_to);
            assert_eq!(waits, (at_least * SECOND, up_to * SECOND), "{loss:?}");
        }
    }

    #[test]
    fn stays_away_for_no_longer_than_the_connection_had_worked() {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        for _ in 0..9 {
            reconnects.lost(Loss::NeverStood);
        }
        assert_eq!(
            reconnects.lost(Loss::Failed(8 * SECOND)).wait_up_to,
            8 * SECOND
        );
        assert_eq!(
            reconnects.lost(cut(20)).wait_up_to,
            20 * SECOND + SECOND / 10
        );
        // A broker whose first answer makes no sense has not worked at all.
        let broken = Loss::Failed(SECOND / 9);
        assert_eq!(reconnects.lost(broken).wait_up_to, LONGEST_WAIT);
        assert_eq!(reconnects.lost(Loss::NeverStood).wait_up_to, 60 * SECOND);
    }

    #[test]
    fn suspects_a_second_client_when_the_broker_keeps_closing() {
        use Loss::{Failed, NeverStood};
        let closed = thrown_out(SECOND);
        for (losses, is_suspected) in [
            (vec![closed; 2], false),
            (vec![closed; 3], true),
            (vec![closed, NeverStood, closed, closed], true),
            (vec![closed, Failed(SECOND), closed, closed], false),
            (vec![closed, closed, thrown_out(90 * SECOND)], false),
            (vec![NeverStood; 9], false),
            // The other comes back after a random time, here after silences of as many seconds.
            (vec![cut(3), cut(9), cut(25)], true),
            // That may by chance be the same time twice.
            (vec![closed, closed, closed, cut(5), cut(5)], true),
            (vec![closed, cut(14), closed], true),
        ] {
            let suspicion = is_suspected.then_some(Suspicion::OtherClient);
            assert_eq!(last(&losses).suspicion, suspicion, "{losses:?}");
        }
        let step = last(&[closed; 9]);
        assert_eq!(step.wait_up_to, 60 * SECOND, "both would only go on");
    }

    #[test]
    fn suspects_something_on_the_way_that_cuts_after_the_same_silence() {
        for (losses, silence, ping_interval) in [
            (vec![cut(20), cut(20)], 20, 10),
            (vec![cut(20), Loss::NeverStood, cut(21)], 20, 10),
            (vec![thrown_out(SECOND), cut(300), cut(310)], 300, 60),
            (vec![cut(20), cut(20), cut(9), cut(9)], 9, 4),
            (vec![cut(3), cut(3)], 3, 2),
            (vec![cut(3), cut(9), cut(25), cut(25), cut(25)], 25, 12),
            (vec![no_pong(60), no_pong(60)], 60, 30),
        ] {
            let Some(Suspicion::IdleCut {
                silence: told,
                ping_interval: pings,
            }) = last(&losses).suspicion
            else {
                panic!("{losses:?}");
            };
            let told = (told.as_secs(), pings.as_secs());
            assert_eq!(told, (silence, ping_interval), "{losses:?}");
        }
        for losses in [
            vec![cut(20)],
            vec![cut(20), cut(30)],
            vec![cut(20), Loss::Failed(20 * SECOND), cut(20)],
            vec![cut(1), cut(1)],
        ] {
            assert_eq!(last(&losses).suspicion, None, "{losses:?}");
        }
    }

    #[test]
    fn keeps_to_the_shorter_pings() {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        assert_eq!(reconnects.ping_interval(), KEEP_ALIVE);
        for loss in [
            cut(20),
            cut(20),
            Loss::Failed(3600 * SECOND),
            cut(50),
            cut(50),
        ] {
            reconnects.lost(loss);
        }
        assert_eq!(reconnects.ping_interval(), 10 * SECOND);
    }
}
