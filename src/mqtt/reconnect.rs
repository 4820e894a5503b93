//! Decides when the broker is tried again, and what ends its connections.
//!
//! Pure but for the dice: how a connection ended, how long it had stood and how long nothing had gone over it come
//! in, the next step comes out. Two faults look alike from here and want opposite remedies. Another
//! client with the same id throws this one out soon after a login, or at any moment. A middlebox that
//! forgets idle connections cuts them after the same silence each time, and pings that come more
//! often end that. A broker that restarts now and then also meets any silence, by chance the same twice;
//! but that connection has survived longer ones before.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::time::Duration;

use super::pace::Pace;

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
/// What a cut after always the same silence may miss that by, and no more than the same part of it.
const SURVIVAL_TOLERANCE: Duration = Duration::from_secs(1);

/// How a connection had lived when it ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Life {
    /// Since the login.
    pub(crate) stood: Duration,
    /// Time in which nothing had gone either way before the end, or before the ping that was not
    /// answered.
    pub(crate) silence: Duration,
    /// The longest such time that ended with something that came in.
    pub(crate) survived: Duration,
}

/// How an attempt or a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loss {
    /// The broker was not reached, or could not take anybody.
    NeverStood,
    /// The broker did not take this login.
    Refused,
    /// The broker had accepted the client and closed the connection.
    Closed(Life),
    /// No ping was ever answered, the first one included.
    NoPong(Life),
    /// The connection failed in another way.
    Failed(Life),
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
        /// The time between two pings from now on, until nothing has been cut for long.
        ping_interval: Duration,
    },
}

/// The failures since the last stable connection, and what was learnt of silences.
#[derive(Debug)]
pub(crate) struct Reconnects {
    failures: u32,
    refusals: u32,
    closes: u32,
    /// The one that the last connection may have been cut after.
    cut: Option<Cut>,
    /// The longest one that the last connection survived.
    survived: Duration,
    /// How often in a row a silence was the one before it once more.
    repeats: u32,
    pace: Pace,
}

/// A sign of something on the way that cuts idle connections.
#[derive(Clone, Copy, Debug)]
struct Cut {
    silence: Duration,
    /// Nobody said that the connection was cut. A line that is dead looks like that, too, but takes no
    /// new connection either.
    is_unsaid: bool,
}

impl Loss {
    /// How the connection had lived, if there was one.
    fn life(self) -> Option<Life> {
        match self {
            Self::NeverStood | Self::Refused => None,
            Self::Closed(life) | Self::NoPong(life) | Self::Failed(life) => Some(life),
        }
    }
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
            cut: None,
            survived: Duration::ZERO,
            repeats: 0,
            pace: Pace::every(ping_interval),
        }
    }

    /// How often pings come.
    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// Notes a connection that adit itself has ended.
    pub(crate) fn left(&mut self, stood: Duration) {
        self.pace = self.pace.after(stood);
    }

    /// Notes a loss and returns what follows.
    pub(crate) fn lost(&mut self, loss: Loss) -> NextStep {
        let stood = loss.life().map(|life| life.stood);
        self.left(stood.unwrap_or_default());
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
        let Some(life) = loss.life() else {
            let is_dead_line = loss == Loss::NeverStood;
            self.cut.take_if(|cut| is_dead_line && cut.is_unsaid);
            return self.other_client();
        };
        let before = self.cut.take();
        self.cut = self.cut_of(loss);
        self.survived = life.survived;
        match (before, self.cut) {
            (Some(before), Some(cut)) if is_same(before.silence, cut.silence) => {
                self.repeats += 1;
                if self.repeats >= self.repeats_wanted() {
                    self.closes = 0;
                    return Some(self.idle_cut(before.silence.min(cut.silence)));
                }
            }
            _ => self.repeats = 0,
        }
        self.closes = match loss {
            Loss::Closed(life) if life.stood < STABLE => self.closes + 1,
            _ => 0,
        };
        self.other_client()
    }

    /// The silence that a connection may have been cut after: this one and the one before it have
    /// survived none that was clearly longer. That before a ping is the interval of the pings however the
    /// connection ended, so it must itself be longer than any.
    fn cut_of(&self, loss: Loss) -> Option<Cut> {
        let Life {
            silence, survived, ..
        } = loss.life()?;
        let survived = survived.max(self.survived);
        let tolerance = (silence / SILENCE_TOLERANCE_PART).min(SURVIVAL_TOLERANCE);
        let (is_cut, is_unsaid) = match loss {
            Loss::Closed(_) => (silence + tolerance >= survived, false),
            Loss::NoPong(_) => (silence > survived + tolerance, true),
            Loss::NeverStood | Loss::Refused | Loss::Failed(_) => return None,
        };
        (is_cut && silence >= SHORTEST_SILENCE).then_some(Cut { silence, is_unsaid })
    }

    /// Two clients that throw each other out meet after the same silence twice by chance.
    fn repeats_wanted(&self) -> u32 {
        match self.other_client() {
            Some(_) => 2,
            None => 1,
        }
    }

    fn idle_cut(&mut self, silence: Duration) -> Suspicion {
        self.pace = self.pace.below(silence);
        Suspicion::IdleCut {
            silence,
            ping_interval: self.pace.interval(),
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
        Loss::Closed(Life {
            stood,
            ..Life::default()
        })
    }

    fn failed(stood: Duration) -> Loss {
        let Loss::Closed(life) = thrown_out(stood) else {
            unreachable!()
        };
        Loss::Failed(life)
    }

    /// Closed by the broker when nothing had come or gone since the opening.
    fn cut(stood: u32) -> Loss {
        Loss::Closed(Life {
            stood: stood * SECOND + SECOND / 10,
            silence: stood * SECOND,
            survived: SECOND / 10,
        })
    }

    fn no_pong(silence: u32) -> Loss {
        Loss::NoPong(Life {
            stood: (silence + 20) * SECOND,
            silence: silence * SECOND,
            survived: SECOND / 10,
        })
    }

    /// The same loss of a connection that had survived a longer silence.
    fn surviving(seconds: u32, loss: Loss) -> Loss {
        let life = Life {
            stood: STABLE,
            survived: seconds * SECOND,
            ..loss.life().unwrap()
        };
        match loss {
            Loss::Closed(_) => Loss::Closed(life),
            Loss::NoPong(_) => Loss::NoPong(life),
            _ => Loss::Failed(life),
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
            (failed(59 * SECOND), 2),
            (thrown_out(59 * SECOND), 4),
            (failed(60 * SECOND), 1),
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
            (failed(SECOND), 0, 2),
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
        assert_eq!(reconnects.lost(failed(8 * SECOND)).wait_up_to, 8 * SECOND);
        assert_eq!(
            reconnects.lost(cut(20)).wait_up_to,
            20 * SECOND + SECOND / 10
        );
        // A broker whose first answer makes no sense has not worked at all.
        let broken = failed(SECOND / 9);
        assert_eq!(reconnects.lost(broken).wait_up_to, LONGEST_WAIT);
        assert_eq!(reconnects.lost(Loss::NeverStood).wait_up_to, 60 * SECOND);
    }

    #[test]
    fn suspects_a_second_client_when_the_broker_keeps_closing() {
        use Loss::NeverStood;
        let closed = thrown_out(SECOND);
        for (losses, is_suspected) in [
            (vec![closed; 2], false),
            (vec![closed; 3], true),
            (vec![closed, NeverStood, closed, closed], true),
            (vec![closed, failed(SECOND), closed, closed], false),
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
            (vec![no_pong(60), Loss::Refused, no_pong(60)], 60, 30),
            // The cut and a ping meet, and now and then the ping is first.
            (vec![surviving(60, cut(60)), surviving(60, cut(60))], 60, 30),
            (
                vec![surviving(300, cut(7)), cut(20), cut(20), cut(20)],
                20,
                10,
            ),
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
            vec![cut(20), failed(20 * SECOND), cut(20)],
            vec![cut(1), cut(1)],
            // Silences that these connections have survived.
            vec![surviving(60, cut(58)), surviving(60, cut(58))],
            vec![surviving(60, cut(20)), cut(20)],
            vec![cut(20), surviving(60, cut(20))],
            vec![surviving(5, cut(3)), surviving(5, cut(3))],
            vec![surviving(60, failed(SECOND)), cut(20), cut(20)],
            // A ping is always sent after the same silence.
            vec![surviving(60, failed(SECOND)), no_pong(60), no_pong(60)],
            vec![surviving(59, no_pong(60)), surviving(59, no_pong(60))],
            // A line that is dead cuts nothing.
            vec![no_pong(60), Loss::NeverStood, no_pong(60)],
        ] {
            assert_eq!(last(&losses).suspicion, None, "{losses:?}");
        }
    }

    #[test]
    fn keeps_to_the_shorter_pings_until_nothing_is_cut_for_a_day() {
        let mut reconnects = Reconnects::new(KEEP_ALIVE);
        let hours = |hours: u32| failed(hours * 3600 * SECOND);
        for (losses, interval) in [
            (vec![], 60),
            (vec![cut(20), cut(20)], 10),
            (vec![hours(1), cut(50), cut(50)], 10),
            (vec![hours(23), Loss::NeverStood], 10),
            (vec![hours(1)], 20),
            (vec![hours(12), thrown_out(12 * 3600 * SECOND)], 40),
            // It was true: the next try is after two days.
            (vec![cut(20), cut(20), hours(47)], 10),
            (vec![hours(1)], 20),
            (vec![hours(900)], 60),
        ] {
            for &loss in &losses {
                reconnects.lost(loss);
            }
            let pings = reconnects.pace().interval();
            assert_eq!(pings, interval * SECOND, "{losses:?}");
        }
    }

    /// The broker restarts now and then. Each connection has been pinged again and again before.
    #[test]
    fn pings_no_faster_for_a_broker_that_is_restarted_once_a_month() {
        const MONTH: Duration = Duration::from_hours(30 * 24);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut suspicions, mut agents) = (0, 0);
        while agents < 1000 {
            let mut reconnects = Reconnects::new(KEEP_ALIVE);
            for _ in 0..10 * 12 {
                let silence = KEEP_ALIVE.mul_f64(random.f64());
                let step = reconnects.lost(Loss::Closed(Life {
                    stood: MONTH,
                    silence,
                    survived: KEEP_ALIVE,
                }));
                suspicions += u32::from(step.suspicion.is_some());
                assert!(reconnects.pace().after(MONTH).interval() == KEEP_ALIVE);
            }
            agents += 1;
        }
        // Two restarts in the last second before a ping.
        assert!(suspicions < agents / 10, "{suspicions}");
    }
}
