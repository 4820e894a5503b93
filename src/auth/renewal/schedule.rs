//! When a certificate is renewed, and when the platform is told that one ends. Pure.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_hours(24);
/// Renewals one after the other that leave a certificate which is to be renewed at once: an authority
/// whose certificates live for less than `auth.renew_before`, or are not found where they were put, must
/// not be asked without end.
const IN_A_ROW: u32 = 2;
/// Shortest time until the next one after those.
const SHORTEST_PAUSE: Duration = Duration::from_mins(10);
/// A certificate that ends sooner is worth an alarm: whatever was tried for weeks has not worked.
const ALARM_TIME: Duration = Duration::from_hours(7 * 24);

/// Decides when a certificate is renewed.
#[derive(Debug)]
pub(super) struct Schedule {
    before: Duration,
    /// Within the day at which renewals begin: a thousand gateways that were installed together do
    /// not ask together.
    offset: Duration,
    /// Renewals since a certificate was seen that was not to be renewed yet.
    in_a_row: u32,
    /// When the last of them was.
    renewed_at: SystemTime,
}

impl Schedule {
    /// Renews `before` the end of a certificate; `dice` is from 0 to 1.
    pub(super) fn new(before: Duration, dice: f64) -> Self {
        Self {
            before,
            offset: DAY.mul_f64(dice),
            in_a_row: 0,
            renewed_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// Returns when the certificate that is there, which ends at `end`, is renewed; what has passed is
    /// at once.
    pub(super) fn due_at(&self, end: SystemTime) -> SystemTime {
        let due = self.due_by_itself(end);
        match self.in_a_row < IN_A_ROW {
            true => due,
            false => self.pause_until(end).max(due),
        }
    }

    /// Takes note of a renewal. Whether it has helped is seen at the certificate that is there then.
    pub(super) fn renewed(&mut self, now: SystemTime) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.renewed_at = now;
    }

    /// Looks at the certificate that is there, which ends at `end`; whether its renewal has to pause,
    /// because those before have left one that is to be renewed at once.
    pub(super) fn look(&mut self, end: SystemTime, now: SystemTime) -> bool {
        if self.due_by_itself(end) > now {
            self.in_a_row = 0;
        }
        self.in_a_row >= IN_A_ROW
    }

    fn due_by_itself(&self, end: SystemTime) -> SystemTime {
        first_due_at(end, self.before) + self.offset
    }

    /// Half of the life that was left.
    fn pause_until(&self, end: SystemTime) -> SystemTime {
        let left = end.duration_since(self.renewed_at).unwrap_or_default();
        let pause = (left / 2).max(SHORTEST_PAUSE);
        self.renewed_at.checked_add(pause).unwrap_or(end)
    }
}

/// Returns when a certificate that ends at `end` is renewed at the soonest; it is within the day after.
pub(crate) fn first_due_at(end: SystemTime, before: Duration) -> SystemTime {
    end.checked_sub(before)
        .map_or(SystemTime::UNIX_EPOCH, |due| {
            due.max(SystemTime::UNIX_EPOCH)
        })
}

/// What the platform is to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Alarm {
    Raise,
    Clear,
}

/// Decides about the alarm of a certificate that ends.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// `None` while nothing was said: an earlier process may have raised an alarm, whoever has renewed
    /// the certificate since, so that it is cleared once.
    is_raised: Option<bool>,
}

impl Expiry {
    /// Returns what is to be said of the certificate in use, that ends at `end`.
    pub(super) fn look(&mut self, end: SystemTime, now: SystemTime) -> Option<Alarm> {
        let left = end.duration_since(now).unwrap_or_default();
        let is_near = left < ALARM_TIME;
        if self.is_raised == Some(is_near) {
            return None;
        }
        self.is_raised = Some(is_near);
        Some(match is_near {
            true => Alarm::Raise,
            false => Alarm::Clear,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn renews_at_a_moment_of_the_day_that_is_so_long_before_the_end() {
        let end = time("2027-12-31T00:00:00Z");
        for (before, dice, due) in [
            (30, 0.0, "2027-12-01T00:00:00Z"),
            (30, 0.5, "2027-12-01T12:00:00Z"),
            (30, 1.0, "2027-12-02T00:00:00Z"),
            (365, 0.0, "2026-12-31T00:00:00Z"),
        ] {
            let schedule = Schedule::new(before * DAY, dice);
            assert_eq!(schedule.due_at(end), time(due), "{before} {dice}");
        }
    }

    #[test]
    fn renews_twice_in_a_row_and_then_waits() {
        let now = time("2027-01-01T00:00:00Z");
        let mut schedule = Schedule::new(400 * DAY, 0.5);
        let mut pauses = |end, now| {
            schedule.renewed(now);
            (schedule.look(end, now), schedule.due_at(end))
        };
        let end = now + 365 * DAY;
        let (has_to_pause, due_at) = pauses(end, now);
        assert!(!has_to_pause && due_at <= now);
        assert_eq!(pauses(end, now), (true, now + DAY * 365 / 2));
        // It goes on so, one after the other.
        let now = now + DAY * 365 / 2;
        let end = now + 365 * DAY;
        assert_eq!(pauses(end, now), (true, now + DAY * 365 / 2));
        // An authority whose certificates live long enough ends that.
        let end = now + 800 * DAY;
        assert_eq!(pauses(end, now), (false, now + 400 * DAY + DAY / 2));
        let end = now + DAY;
        assert!(!pauses(end, now).0);
        assert!(pauses(end, now).0);
    }

    #[test]
    fn waits_too_where_what_was_renewed_is_not_found() {
        let mut now = time("2027-01-01T00:00:00Z");
        let end = now + 10 * DAY;
        let mut schedule = Schedule::new(30 * DAY, 0.0);
        // Whatever has come, the certificate that is there is the old one.
        let mut renewed_at = Vec::new();
        while now < end {
            if schedule.due_at(end) <= now {
                schedule.renewed(now);
                renewed_at.push(now);
            }
            assert_eq!(schedule.look(end, now), renewed_at.len() >= 2);
            now += Duration::from_mins(1);
        }
        assert!(renewed_at[2] > end - 5 * DAY);
        assert!(renewed_at.len() < 20, "{}", renewed_at.len());
        // Once another is found, it may be renewed in its time.
        let end = now + 40 * DAY;
        assert!(!schedule.look(end, now));
        assert_eq!(schedule.due_at(end), now + 10 * DAY);
    }

    #[test]
    fn is_not_hurried_by_certificates_that_live_for_seconds() {
        let now = time("2027-01-01T00:00:00Z");
        let mut schedule = Schedule::new(30 * DAY, 0.0);
        for end in [
            now + Duration::from_secs(5),
            now - DAY,
            now + Duration::from_secs(5),
        ] {
            schedule.renewed(now);
            schedule.look(end, now);
        }
        assert_eq!(schedule.due_at(now), now + SHORTEST_PAUSE);
    }

    #[test]
    fn raises_the_alarm_once_and_clears_it_once() {
        let now = time("2027-01-01T00:00:00Z");
        let (near, far) = (now + 6 * DAY, now + 8 * DAY);
        for (ends, alarms) in [
            // An earlier process may have raised it.
            (
                [far, far, near],
                [Some(Alarm::Clear), None, Some(Alarm::Raise)],
            ),
            (
                [near, near, far],
                [Some(Alarm::Raise), None, Some(Alarm::Clear)],
            ),
            (
                [now - DAY, far, far],
                [Some(Alarm::Raise), Some(Alarm::Clear), None],
            ),
        ] {
            let mut expiry = Expiry::default();
            let said = ends.map(|end| expiry.look(end, now));
            assert_eq!(said, alarms);
        }
    }
}
