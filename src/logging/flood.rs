//! Which of many messages of one kind are logged, and when the others are summed up. Pure: the time
//! comes in with each.
//!
//! A kind is the place in the code that a message comes from, so that no more is kept than there are
//! such places. The first messages of a minute are logged; the others are counted, and told in one
//! line when the minute is over. While a kind goes on like that, it has that line a minute alone. What
//! was counted is always told.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Messages of a kind that are logged before the others are counted.
pub(super) const FIRST: u32 = 10;
/// How long messages are counted before they are summed up.
pub(super) const WINDOW: Duration = Duration::from_mins(1);

/// What has come lately, by its kind.
#[derive(Debug)]
pub(super) struct Flood<K> {
    kinds: HashMap<K, Kind>,
}

#[derive(Debug)]
struct Kind {
    /// The end of the minute that goes on.
    ends: Instant,
    /// Messages that may still be logged until then.
    left: u32,
    counted: Counted,
}

/// Messages that were not logged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Counted {
    /// How many.
    pub(super) count: u64,
    /// What the first of them said.
    pub(super) words: String,
}

impl<K> Default for Flood<K> {
    fn default() -> Self {
        Self {
            kinds: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Flood<K> {
    /// Whether a message is to be logged; `words` are asked of one that is not.
    pub(super) fn allows(&mut self, kind: K, now: Instant, words: impl FnOnce() -> String) -> bool {
        let fresh = || Kind {
            ends: now + WINDOW,
            left: FIRST,
            counted: Counted::default(),
        };
        let kind = self.kinds.entry(kind).or_insert_with(fresh);
        // What was counted waits for its line.
        if kind.ends <= now && kind.counted.count == 0 {
            *kind = fresh();
        }
        if kind.left > 0 {
            kind.left -= 1;
            return true;
        }
        if kind.counted.count == 0 {
            kind.counted.words = words();
        }
        kind.counted.count += 1;
        false
    }

    /// Returns when there is something to sum up, or a kind to forget; `None` while nothing is counted.
    pub(super) fn due(&self) -> Option<Instant> {
        let flooded = self.kinds.values().filter(|kind| kind.left == 0);
        flooded.map(|kind| kind.ends).min()
    }

    /// Sums up what has been counted for long enough.
    pub(super) fn sum_up(&mut self, now: Instant) -> Vec<(K, Counted)> {
        let mut sums = Vec::new();
        self.kinds.retain(|name, kind| {
            if now < kind.ends {
                return true;
            }
            if kind.counted.count == 0 {
                return false;
            }
            sums.push((name.clone(), std::mem::take(&mut kind.counted)));
            kind.ends = now + WINDOW;
            true
        });
        sums
    }

    /// Sums up what has been counted so far, however short that was.
    pub(super) fn rest(&mut self) -> Vec<(K, Counted)> {
        let counted = |kind: &Kind| kind.counted.count > 0;
        let flooded = self.kinds.iter_mut().filter(|(_, kind)| counted(kind));
        flooded
            .map(|(name, kind)| (name.clone(), std::mem::take(&mut kind.counted)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A flood and its clock.
    struct Log {
        flood: Flood<&'static str>,
        now: Instant,
    }

    impl Log {
        fn new() -> Self {
            Self {
                flood: Flood::default(),
                now: Instant::now(),
            }
        }

        /// Returns how many of so many messages are logged.
        fn logged(&mut self, kind: &'static str, count: u32) -> u32 {
            let log = |_: &u32| self.flood.allows(kind, self.now, || format!("{kind}!"));
            (0..count).filter(log).count().try_into().unwrap()
        }

        fn wait(&mut self, time: Duration) -> Vec<(&'static str, u64)> {
            self.now += time;
            let sums = self.flood.sum_up(self.now).into_iter();
            sums.map(|(kind, counted)| (kind, counted.count)).collect()
        }
    }

    #[test]
    fn logs_the_first_and_counts_the_others() {
        let mut log = Log::new();
        assert_eq!(log.logged("row", FIRST - 1), FIRST - 1);
        assert_eq!(log.flood.due(), None);
        assert_eq!(log.logged("row", 215), 1);
        assert_eq!(log.logged("other", 3), 3, "another kind");
        assert_eq!(log.flood.due(), Some(log.now + WINDOW));
        assert_eq!(log.wait(WINDOW - SECOND), []);
        assert_eq!(log.wait(SECOND), [("row", 214)]);
        // It goes on.
        assert_eq!(log.logged("row", 7), 0);
        assert_eq!(log.wait(WINDOW), [("row", 7)]);
        // It is over.
        assert_eq!(log.wait(WINDOW), []);
        assert_eq!(log.flood.due(), None);
        assert_eq!(log.logged("row", 20), FIRST);
    }

    #[test]
    fn logs_all_of_what_is_rare() {
        let mut log = Log::new();
        for _ in 0..100 {
            assert_eq!(log.logged("retry", 3), 3);
            log.now += WINDOW;
        }
        assert_eq!(log.flood.due(), None);
    }

    #[test]
    fn loses_no_count() {
        let mut log = Log::new();
        let (mut sent, mut told) = (0, 0);
        for step in 0..500_u32 {
            let count = step * 7 % 31;
            sent += u64::from(count);
            told += u64::from(log.logged("row", count));
            let time = SECOND * (step * 13 % 90);
            told += log.wait(time).iter().map(|(_, count)| count).sum::<u64>();
        }
        let rest = log.flood.rest();
        told += rest.iter().map(|(_, rest)| rest.count).sum::<u64>();
        assert_eq!(told, sent);
        assert_eq!(log.flood.rest(), []);
    }

    #[test]
    fn counts_on_while_nobody_sums_up() {
        let mut log = Log::new();
        log.logged("row", FIRST + 1);
        log.now += 10 * WINDOW;
        assert_eq!(log.logged("row", 1), 0, "a count would be lost");
        let counted = Counted {
            count: 2,
            words: "row!".to_owned(),
        };
        assert_eq!(log.flood.rest(), [("row", counted)]);
    }

    #[test]
    fn keeps_no_kind_that_is_over() {
        let mut log = Log::new();
        log.logged("row", FIRST + 5);
        log.logged("other", 1);
        log.wait(WINDOW);
        log.wait(WINDOW);
        assert!(log.flood.kinds.is_empty());
    }
}
