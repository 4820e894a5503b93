//! Instants as times of day, all by the clock as it is now: a clock that was set since is right for
//! all of them.

use std::time::{Instant, SystemTime};

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
        crate::words::date(self.time.checked_sub(age).unwrap_or(self.time))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
