//! How often the broker is pinged: as is configured, more often where something on the way cuts idle
//! connections, and less often again where nothing has been cut for long.
//!
//! Whoever believes in a cut for ever pays for each mistake for as long as the process lives; whoever
//! never does loses the connection for ever. So what was believed is tried again, ever more seldom
//! where it turns out to be true.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::time::Duration;

/// Pings never come faster by themselves.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(2);
/// Connections that stood for as long together, with nothing cut, let pings come half as often.
const RECOVERY: Duration = Duration::from_hours(24);
/// The same where a cut has shown itself again and again when pings came less often.
const LONGEST_RECOVERY: Duration = Duration::from_hours(8 * 24);

/// How often pings come, and what has to happen before they come less often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pace {
    interval: Duration,
    configured: Duration,
    /// How long connections have stood since the interval last changed.
    stood: Duration,
    recovery: Duration,
    /// Pings have come less often since the last cut.
    is_tried: bool,
}

impl Pace {
    /// Begins with what is configured.
    pub(crate) fn every(configured: Duration) -> Self {
        Self {
            interval: configured,
            configured,
            stood: Duration::ZERO,
            recovery: RECOVERY,
            is_tried: false,
        }
    }

    /// Time between two pings.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// The pace after a connection has stood for so long.
    pub(crate) fn after(self, stood: Duration) -> Self {
        let mut pace = Self {
            stood: self.stood.saturating_add(stood),
            ..self
        };
        while pace.interval < pace.configured && pace.stood >= pace.recovery {
            pace.stood -= pace.recovery;
            pace.interval = pace.interval.saturating_mul(2).min(pace.configured);
            pace.is_tried = true;
        }
        pace
    }

    /// The pace where something cuts after this silence.
    pub(crate) fn below(self, silence: Duration) -> Self {
        let recovery = match self.is_tried {
            true => self.recovery.saturating_mul(2).min(LONGEST_RECOVERY),
            false => self.recovery,
        };
        Self {
            interval: self.interval.min((silence / 2).max(SHORTEST_INTERVAL)),
            stood: Duration::ZERO,
            recovery,
            is_tried: false,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn comes_back_to_what_is_configured_day_by_day() {
        let cut = Pace::every(MINUTE).below(14 * SECOND);
        for (days, interval) in [
            (0, 7),
            (1, 14),
            (2, 28),
            (3, 56),
            (4, 60),
            (5, 60),
            (900, 60),
        ] {
            let almost = cut.after(days * RECOVERY);
            assert_eq!(almost.interval(), interval * SECOND, "{days}");
            // However many connections that was.
            let pieces = (0..24 * days).fold(cut, |pace, _| pace.after(RECOVERY / 24));
            assert_eq!(pieces.interval(), almost.interval(), "{days}");
        }
        let before = cut.after(RECOVERY - SECOND);
        assert_eq!(before.interval(), 7 * SECOND);
        assert_eq!(Pace::every(MINUTE).after(900 * RECOVERY).interval(), MINUTE);
    }

    #[test]
    fn tries_ever_more_seldom_where_the_cut_is_still_there() {
        let mut pace = Pace::every(MINUTE).below(MINUTE).below(30 * SECOND);
        for days in [1, 2, 4, 8, 8] {
            assert_eq!(pace.interval(), 15 * SECOND);
            let too_soon = pace.after(days * RECOVERY - SECOND);
            assert_eq!(too_soon.interval(), 15 * SECOND, "{days}");
            pace = pace.after(days * RECOVERY);
            assert_eq!(pace.interval(), 30 * SECOND, "{days}");
            pace = pace.below(30 * SECOND);
        }
    }

    #[test]
    fn never_falls_below_two_seconds() {
        assert_eq!(Pace::every(MINUTE).below(SECOND).interval(), 2 * SECOND);
        assert_eq!(Pace::every(SECOND).below(9 * SECOND).interval(), SECOND);
    }
}
