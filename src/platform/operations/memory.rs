//! What is remembered of operations, so that a late copy opens nothing and is reported to nobody.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// How many connection keys stay known after their operation has ended, and as many ids. Each is kept
/// as a hash, so this costs kilobytes.
pub(super) const REMEMBERED_KEYS: usize = 4096;
/// How many rows without a key are remembered.
pub(super) const REMEMBERED_ROWS: usize = 1024;

/// The hash of a connection key, of an operation's id, or of all values.
pub(super) type Identity = u64;

/// Hashes what is remembered, under a key that is adit's own: nobody outside can make two that are the
/// same. The process that takes over hashes under the same key.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Hashing(u64, u64);

impl Default for Hashing {
    fn default() -> Self {
        let random = RandomState::new();
        Self(random.hash_one(0), random.hash_one(1))
    }
}

#[expect(
    deprecated,
    reason = "the one hash of the standard library whose key can be handed over, and that stays the same"
)]
impl BuildHasher for Hashing {
    type Hasher = std::hash::SipHasher;

    fn build_hasher(&self) -> Self::Hasher {
        std::hash::SipHasher::new_with_keys(self.0, self.1)
    }
}

/// What a process knows of operations that are over, for the process that takes over. No connection key
/// can be read out of it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Memory {
    pub(super) hashing: Hashing,
    /// The oldest first.
    pub(super) keys: Vec<(Identity, Option<Identity>)>,
    pub(super) ids: Vec<(Identity, Option<Identity>)>,
    pub(super) rows: Vec<(Identity, usize)>,
    pub(super) last_id: u64,
}

#[cfg(test)]
impl Memory {
    /// Makes one that no other is larger than.
    pub(crate) fn largest() -> Self {
        let key = |number: usize| (u64::MAX - number as u64, Some(u64::MAX));
        Self {
            keys: (0..REMEMBERED_KEYS).map(key).collect(),
            ids: (0..REMEMBERED_KEYS).map(key).collect(),
            rows: vec![(u64::MAX, usize::MAX); REMEMBERED_ROWS],
            ..Self::default()
        }
    }
}

/// What was known of a key before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Meeting {
    First,
    /// It came without an id.
    Nameless,
    /// It came with the id that has this identity.
    Named(Identity),
}

/// The keys, or the ids, of the last operations.
#[derive(Debug, Default)]
pub(super) struct RememberedKeys {
    /// With the id that it came with.
    known: HashMap<Identity, Option<Identity>>,
    by_age: VecDeque<Identity>,
}

impl RememberedKeys {
    pub(super) fn contains(&self, key: Identity) -> bool {
        self.known.contains_key(&key)
    }

    /// Returns all, the oldest first.
    pub(super) fn all(&self) -> Vec<(Identity, Option<Identity>)> {
        let known = |key: &Identity| (*key, self.known.get(key).copied().flatten());
        self.by_age.iter().map(known).collect()
    }

    /// Remembers what another process has.
    pub(super) fn remember(&mut self, known: Vec<(Identity, Option<Identity>)>) {
        for (key, id) in known {
            self.meet(key, id);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.known.len(), self.by_age.len());
        self.by_age.len()
    }

    /// Remembers a key, and the first id that it comes with.
    pub(super) fn meet(&mut self, key: Identity, id: Option<Identity>) -> Meeting {
        if let Some(known) = self.known.get_mut(&key) {
            let before = *known;
            *known = before.or(id);
            return before.map_or(Meeting::Nameless, Meeting::Named);
        }
        self.known.insert(key, id);
        self.by_age.push_back(key);
        if self.by_age.len() > REMEMBERED_KEYS
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
        Meeting::First
    }
}

/// The last operations that had no key.
#[derive(Debug, Default)]
pub(super) struct RememberedRows {
    by_age: VecDeque<RememberedRow>,
    /// One of them came once more, or another operation that looks the same.
    came_again: bool,
}

#[derive(Debug)]
struct RememberedRow {
    row: Identity,
    /// So many came without an id, and no copy has brought it.
    nameless: usize,
    /// Known once all its statuses are acknowledged.
    until: Option<Instant>,
}

impl RememberedRows {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    pub(super) fn contains(&self, row: Identity) -> bool {
        self.by_age.iter().any(|known| known.row == row)
    }

    /// Returns all, the oldest first, with the number of those without an id.
    pub(super) fn all(&self) -> Vec<(Identity, usize)> {
        let rows = self.by_age.iter();
        rows.map(|known| (known.row, known.nameless)).collect()
    }

    /// Remembers what another process has, until then.
    pub(super) fn remember_all(&mut self, rows: Vec<(Identity, usize)>, until: Instant) {
        let rows = rows.into_iter().take(REMEMBERED_ROWS);
        self.by_age
            .extend(rows.map(|(row, nameless)| RememberedRow {
                row,
                nameless,
                until: Some(until),
            }));
    }

    /// Takes note of a copy, or of another operation that looks the same.
    pub(super) fn came_again(&mut self) {
        self.came_again = true;
    }

    pub(super) fn remember(&mut self, row: Identity, has_id: bool) {
        let place = self.by_age.iter().position(|known| known.row == row);
        let before = place.and_then(|place| self.by_age.remove(place));
        let nameless = before.map_or(0, |before| before.nameless);
        self.by_age.push_back(RememberedRow {
            row,
            nameless: nameless + usize::from(!has_id),
            until: None,
        });
        if self.by_age.len() > REMEMBERED_ROWS {
            self.by_age.pop_front();
        }
    }

    /// Takes note of an id for one of those that came without; whether there is one.
    pub(super) fn name(&mut self, row: Identity) -> bool {
        let mut known = self.by_age.iter_mut();
        let found = known.find(|known| known.row == row && known.nameless > 0);
        found.map(|known| known.nameless -= 1).is_some()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_age.iter().filter_map(|row| row.until).min()
    }

    pub(super) fn forget_later(&mut self, until: Instant, is_open: impl Fn(Identity) -> bool) {
        for known in &mut self.by_age {
            if known.until.is_none() && !is_open(known.row) {
                known.until = Some(until);
            }
        }
    }

    /// Forgets what has had its time; whether one of those that look the same may be left.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        let before = self.by_age.len();
        self.by_age
            .retain(|known| known.until.is_none_or(|until| until > now));
        self.by_age.len() < before && std::mem::take(&mut self.came_again)
    }
}
