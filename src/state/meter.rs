//! How fast a tunnel carries, from what it has carried at several times. The relay only counts.

use std::time::{Duration, Instant};

/// Two looks that are nearer than this say nothing of a rate.
const SHORTEST: Duration = Duration::from_millis(500);

/// What one tunnel had carried when it was last looked at.
#[derive(Debug)]
pub(crate) struct Meter {
    at: Instant,
    /// Bytes to the cloud and to the machine.
    carried: (u64, u64),
    /// Bytes a second to the cloud and to the machine.
    rates: (u64, u64),
    /// When it was first seen that it had carried what it has.
    active_at: Instant,
}

impl Meter {
    /// Begins at the time at which the tunnel does.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: now,
            carried: (0, 0),
            rates: (0, 0),
            active_at: now,
        }
    }

    /// Takes note of the bytes that the tunnel has carried in all, to the cloud and to the machine.
    pub(crate) fn look(&mut self, carried: (u64, u64), now: Instant) {
        let since = now.saturating_duration_since(self.at);
        if since < SHORTEST {
            return;
        }
        if carried != self.carried {
            self.active_at = now;
        }
        self.rates = (
            rate(carried.0.saturating_sub(self.carried.0), since),
            rate(carried.1.saturating_sub(self.carried.1), since),
        );
        self.carried = carried;
        self.at = now;
    }

    /// Bytes a second to the cloud and to the machine, between the last two looks.
    pub(crate) fn rates(&self) -> (u64, u64) {
        self.rates
    }

    /// When it was first seen that the tunnel had carried what it has carried.
    pub(crate) fn active_at(&self) -> Instant {
        self.active_at
    }
}

fn rate(bytes: u64, time: Duration) -> u64 {
    let milliseconds = time.as_millis().max(1);
    let rate = u128::from(bytes) * 1000 / milliseconds;
    rate.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_rate_between_two_looks_and_when_there_was_something_last() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let mut meter = Meter::new(began);
        // Milliseconds, bytes in all, rates, and when there was something last.
        for (now, carried, rates, active) in [
            (100, (50, 0), (0, 0), 0),
            (1000, (1000, 4), (1000, 4), 1000),
            (1499, (9000, 9), (1000, 4), 1000),
            (3000, (1000, 2004), (0, 1000), 3000),
            (5000, (1000, 2004), (0, 0), 3000),
        ] {
            meter.look(carried, at(now));
            assert_eq!(meter.rates(), rates, "at {now}");
            assert_eq!(meter.active_at(), at(active), "at {now}");
        }
    }

    #[test]
    fn has_a_rate_for_as_many_bytes_as_there_can_be() {
        let began = Instant::now();
        let mut meter = Meter::new(began);
        meter.look((u64::MAX, 1), began + Duration::from_millis(500));
        assert_eq!(meter.rates(), (u64::MAX, 2));
    }
}
