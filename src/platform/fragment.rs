//! The fragment `adit_RemoteAccess` on the device, and when it is brought up to date: at a change, and
//! not too often.
//!
//! Each update is a write to the platform's inventory, so tunnels that come and go quickly lead to
//! one update with the latest numbers. Publishing it is left to the caller.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The shortest time between two updates.
pub(crate) const UPDATE_INTERVAL: Duration = Duration::from_secs(5);

/// What the fragment says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fragment {
    /// Tunnels that are open.
    pub(crate) open: usize,
    /// How many there may be.
    pub(crate) limit: usize,
    /// What may be reached, in one line.
    pub(crate) policy: String,
}

#[derive(Serialize)]
struct Update<'a> {
    #[serde(rename = "adit_RemoteAccess")]
    fragment: Written<'a>,
}

#[derive(Serialize)]
struct Written<'a> {
    open: usize,
    limit: usize,
    /// How many more there may be now.
    free: usize,
    policy: &'a str,
}

impl Fragment {
    /// Begins with no tunnel.
    pub(crate) fn new(limit: usize, policy: String) -> Self {
        Self {
            open: 0,
            limit,
            policy,
        }
    }

    /// Writes what is published on `inventory/managedObjects/update/<device id>`, which replaces the
    /// fragment as a whole.
    ///
    /// # Errors
    /// None that these types can cause.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        let &Self {
            open,
            limit,
            ref policy,
        } = self;
        let free = limit.saturating_sub(open);
        serde_json::to_string(&Update {
            fragment: Written {
                open,
                limit,
                free,
                policy,
            },
        })
    }
}

/// What was published last.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    last: Option<(Fragment, Instant)>,
    due_at: Option<Instant>,
}

impl Updates {
    /// Returns what is to be published now that the fragment is `current`.
    pub(crate) fn update(&mut self, current: &Fragment, now: Instant) -> Option<Fragment> {
        self.due_at = None;
        let last = self.last.as_ref().filter(|(last, _)| last != current);
        if let Some((_, at)) = last
            && now < *at + UPDATE_INTERVAL
        {
            self.due_at = Some(*at + UPDATE_INTERVAL);
            return None;
        }
        self.finish(current, now)
    }

    /// Returns what is to be published as the last word, however short ago the word before was.
    pub(crate) fn finish(&mut self, current: &Fragment, now: Instant) -> Option<Fragment> {
        if self.last.as_ref().is_some_and(|(last, _)| last == current) {
            return None;
        }
        self.last = Some((current.clone(), now));
        Some(current.clone())
    }

    /// Returns when a change that came too soon may be published.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(open: usize) -> Fragment {
        Fragment {
            open,
            ..Fragment::new(64, "allow private".to_owned())
        }
    }

    #[test]
    fn says_how_many_tunnels_are_open_and_may_be() {
        assert_eq!(
            fragment(3).to_json().unwrap(),
            r#"{"adit_RemoteAccess":{"open":3,"limit":64,"free":61,"policy":"allow private"}}"#
        );
    }

    #[test]
    fn publishes_changes_at_most_every_few_seconds_and_the_latest_only() {
        let start = Instant::now();
        let mut updates = Updates::default();
        // Milliseconds, open tunnels, whether that is published, and whether something is due.
        for (at, tunnels, published, due) in [
            (0, 0, true, false),
            (10, 0, false, false),
            (20, 1, false, true),
            (30, 2, false, true),
            (4_999, 3, false, true),
            (5_000, 3, true, false),
            (5_010, 4, false, true),
            (5_020, 3, false, false),
            (20_000, 3, false, false),
            (30_000, 5, true, false),
        ] {
            let now = start + Duration::from_millis(at);
            let update = updates.update(&fragment(tunnels), now);
            assert_eq!(update, published.then(|| fragment(tunnels)), "at {at}");
            assert_eq!(updates.next_deadline().is_some(), due, "at {at}");
        }
    }

    #[test]
    fn waits_for_nothing_with_its_last_word() {
        let now = Instant::now();
        let mut updates = Updates::default();
        assert!(updates.update(&fragment(1), now).is_some());
        assert_eq!(updates.finish(&fragment(0), now), Some(fragment(0)));
        assert_eq!(updates.finish(&fragment(0), now), None);
    }
}
