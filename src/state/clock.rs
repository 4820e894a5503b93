//! Instants as times of day, all by the clock as it is now: a clock that was set since is right for
//! all of them.

use std::time::{Duration, Instant, SystemTime};

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Never goes back.
    pub(crate) now: Instant,
    /// May be set.
    pub(crate) time: SystemTime,
}

impl Clock {
    /// Returns how long ago an instant was, in seconds to the millisecond.
    pub(crate) fn age(&self, at: Instant) -> f64 {
        crate::words::seconds(self.now.saturating_duration_since(at))
    }

    /// Returns an instant that has passed as RFC 3339, in UTC and whole seconds.
    pub(crate) fn time_of(&self, at: Instant) -> String {
        let age = self.now.saturating_duration_since(at);
        written(self.time.checked_sub(age).unwrap_or(self.time))
    }
}

/// Writes a time as RFC 3339, in UTC and whole seconds.
pub(crate) fn written(time: SystemTime) -> String {
    /// The last second that the form has digits for (the year 9999), in seconds since 1970.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = SystemTime::UNIX_EPOCH + since.min(LAST);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_has_passed_by_the_clock_as_it_is_now() {
        let began = Instant::now();
        let clock = Clock {
            now: began + Duration::from_millis(90_500),
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_090),
        };
        assert_eq!(clock.age(began), 90.5);
        assert_eq!(clock.time_of(began), "2001-09-09T01:46:39Z");
        assert_eq!(clock.age(clock.now + Duration::from_secs(1)), 0.0);
    }

    #[test]
    fn writes_a_time_that_no_calendar_has_as_the_nearest_that_one_has() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(written(far), "9999-12-31T23:59:59Z");
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(written(early), "1970-01-01T00:00:00Z");
    }
}
