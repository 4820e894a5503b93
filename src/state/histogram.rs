//! How often something took how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper ends of the buckets in seconds: from a machine beside the gateway to the longest time-out
/// that is usual. What took longer is only in the total.
pub(crate) const BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Durations, counted in buckets.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum_s: f64,
    /// How many were no longer than each bound of their buckets and longer than the bound before:
    /// 5, 10, 25, 50, 100, 250 and 500 ms, 1, 2.5, 5, 10 and 30 s.
    pub buckets: [u64; BOUNDS.len()],
}

impl Histogram {
    pub(crate) fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.count += 1;
        self.sum_s += seconds;
        let within = BOUNDS.iter().zip(&mut self.buckets);
        if let Some((_, bucket)) = within.into_iter().find(|(bound, _)| seconds <= **bound) {
            *bucket += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_a_time_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for milliseconds in [0, 5, 6, 30_000, 30_001] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.count, 5);
        assert!((histogram.sum_s - 60.012).abs() < 1e-9);
        let mut buckets = [0; BOUNDS.len()];
        (buckets[0], buckets[1], buckets[BOUNDS.len() - 1]) = (2, 1, 1);
        assert_eq!(histogram.buckets, buckets);
    }
}
