//! Decides how an upgrade goes on, in the process that is to be followed. Carrying that out, and the
//! clock, are left to the caller.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::time::{Duration, Instant};

/// How long the new process may take until it is ready: it reads some files, perhaps from a slow card.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long tunnels that are opening may take to their results, and these to the broker.
pub(crate) const QUIET_LIMIT: Duration = Duration::from_secs(45);
/// How long it may take to leave the broker.
pub(crate) const LEAVE_LIMIT: Duration = Duration::from_secs(10);
/// How long the new process may take until it is in charge. It waits for the broker less long.
pub(crate) const CHARGE_LIMIT: Duration = Duration::from_secs(30);

/// How far an upgrade has come.
#[derive(Debug)]
pub(crate) struct Course {
    stage: Stage,
    until: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// The new process reads its configuration.
    Starting,
    /// What has begun comes to its result.
    Quieting,
    /// The session ends.
    Leaving,
    /// The new process takes over.
    HandingOver,
    /// Nothing is left to decide.
    Over,
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Happened {
    /// The new process is ready, and is the same device at the same places.
    Ready,
    /// The new process, or what it is started from, is not to be followed, for this reason.
    Refused(String),
    /// The new process has ended, in these words.
    Gone(String),
    /// Everything that was begun is reported, and the broker has acknowledged it.
    Quiet,
    /// The session has left the broker.
    Left,
    /// The new process is in charge.
    InCharge,
}

/// What is to be done.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Do {
    /// Begin no operation, and let those that have begun come to their results.
    BeginNothing,
    /// Have the session leave the broker.
    LeaveBroker,
    /// Close what adit is looked at through, and give the new process what is known.
    HandOver,
    /// End the new process and go on as before, for this reason.
    GoOn(String),
    /// Carry the tunnels, and nothing else.
    Carry,
}

impl Course {
    /// Begins with a new process that was just started.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Starting,
            until: now + READY_LIMIT,
        }
    }

    /// Returns when [`Course::time_passed`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        (self.stage != Stage::Over).then_some(self.until)
    }

    /// Whether [`Happened::Quiet`] is waited for.
    pub(crate) fn waits_for_quiet(&self) -> bool {
        self.stage == Stage::Quieting
    }

    /// Returns what follows from what happens; nothing where it comes at the wrong time.
    pub(crate) fn happened(&mut self, happened: Happened, now: Instant) -> Option<Do> {
        let (next, limit, step) = match (self.stage, happened) {
            (Stage::Over, _) => return None,
            (_, Happened::Refused(reason) | Happened::Gone(reason)) => {
                return self.give_up(reason);
            }
            (Stage::Starting, Happened::Ready) => (Stage::Quieting, QUIET_LIMIT, Do::BeginNothing),
            (Stage::Quieting, Happened::Quiet) => (Stage::Leaving, LEAVE_LIMIT, Do::LeaveBroker),
            (Stage::Leaving, Happened::Left) => (Stage::HandingOver, CHARGE_LIMIT, Do::HandOver),
            (Stage::HandingOver, Happened::InCharge) => (Stage::Over, Duration::ZERO, Do::Carry),
            _ => return None,
        };
        (self.stage, self.until) = (next, now + limit);
        Some(step)
    }

    /// Returns what follows from the time.
    pub(crate) fn time_passed(&mut self, now: Instant) -> Option<Do> {
        if now < self.until {
            return None;
        }
        let reason = match self.stage {
            Stage::Over => return None,
            Stage::Starting => within("the new process was not ready", READY_LIMIT),
            Stage::Quieting => within(
                "operations had no result, or the broker did not take everything,",
                QUIET_LIMIT,
            ),
            Stage::Leaving => within("the broker could not be left", LEAVE_LIMIT),
            Stage::HandingOver => within("the new process did not take over", CHARGE_LIMIT),
        };
        self.give_up(reason)
    }

    /// Returns what follows where this process is to stop itself.
    pub(crate) fn stopped(&mut self) -> Option<Do> {
        if self.stage == Stage::Over {
            return None;
        }
        self.give_up("adit is stopping".to_owned())
    }

    fn give_up(&mut self, reason: String) -> Option<Do> {
        self.stage = Stage::Over;
        Some(Do::GoOn(reason))
    }
}

fn within(what: &str, limit: Duration) -> String {
    format!("{what} within {}", humantime::format_duration(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [fn() -> Happened; 4] {
        [
            || Happened::Ready,
            || Happened::Quiet,
            || Happened::Left,
            || Happened::InCharge,
        ]
    }

    const STEPS: [Do; 4] = [Do::BeginNothing, Do::LeaveBroker, Do::HandOver, Do::Carry];

    /// Brings a course so many steps on.
    fn course(steps: usize, now: Instant) -> Course {
        let mut course = Course::new(now);
        for (happened, step) in all().iter().zip(STEPS).take(steps) {
            assert_eq!(course.happened(happened(), now), Some(step));
        }
        course
    }

    #[test]
    fn leads_to_a_process_that_only_carries() {
        let course = course(4, Instant::now());
        assert_eq!(course.next_deadline(), None);
    }

    #[test]
    fn passes_over_what_comes_at_the_wrong_time() {
        let now = Instant::now();
        for steps in 0..4 {
            for (place, happened) in all()
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != steps)
            {
                let mut course = course(steps, now);
                assert_eq!(course.happened(happened(), now), None, "{steps} {place}");
            }
        }
    }

    #[test]
    fn goes_on_as_before_whenever_the_new_process_ends_or_time_is_over() {
        let now = Instant::now();
        for (steps, limit, words) in [
            (0, READY_LIMIT, "the new process was not ready within 30s"),
            (
                1,
                QUIET_LIMIT,
                "operations had no result, or the broker did not take everything, within 45s",
            ),
            (2, LEAVE_LIMIT, "the broker could not be left within 10s"),
            (
                3,
                CHARGE_LIMIT,
                "the new process did not take over within 30s",
            ),
        ] {
            let mut late = course(steps, now);
            assert_eq!(late.next_deadline(), Some(now + limit));
            assert_eq!(
                late.time_passed(now + limit - Duration::from_millis(1)),
                None
            );
            let given_up = Some(Do::GoOn(words.to_owned()));
            assert_eq!(late.time_passed(now + limit), given_up);
            assert_eq!(late.time_passed(now + 2 * limit), None);
            assert_eq!(late.happened(Happened::InCharge, now), None);

            let mut gone = course(steps, now);
            let given_up = Some(Do::GoOn("it ended".to_owned()));
            assert_eq!(
                gone.happened(Happened::Gone("it ended".to_owned()), now),
                given_up
            );

            let mut stopped = course(steps, now);
            assert!(matches!(stopped.stopped(), Some(Do::GoOn(_))));
            assert_eq!(stopped.stopped(), None);
        }
    }

    #[test]
    fn is_not_moved_by_the_end_of_the_new_process_once_that_was_in_charge() {
        let now = Instant::now();
        let mut course = course(4, now);
        assert_eq!(
            course.happened(Happened::Gone("killed".to_owned()), now),
            None
        );
        assert_eq!(course.time_passed(now + Duration::from_hours(1)), None);
        assert_eq!(course.stopped(), None);
    }
}
