//! How many of the user's bytes lie in what the cloud has not taken.
//!
//! A socket counts bytes on the wire: a key stroke has seven of them in its frame, and some thirty in
//! TLS. So it is noted what was sent, frames that are alike as one run, and a bounded number of runs.
//! Where there are more, neighbours are taken together, the further back the coarser; what the cloud
//! has taken is told too small by that, and never too large.

/// Runs that are kept.
const RUNS: usize = 48;

/// For how many of them there is room at a time: most tunnels are idle, and have few.
const ROOM: usize = RUNS / 4;

/// Runs that are left of them when some are taken together. The others are room for the next frames,
/// so that few of these cost more than a look at the last run.
const LEFT: usize = RUNS / 4 * 3;

/// What may be in doubt is at first one part of two to this power of what came later.
const PRECISION: u32 = 4;

/// Frames that are alike, or several runs in one, of which only the sums are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    frames: u32,
    /// Bytes on the wire of each.
    wire: u32,
    /// Of which the last are the user's.
    user: u32,
}

impl Run {
    fn all_wire(self) -> u64 {
        u64::from(self.frames) * u64::from(self.wire)
    }

    fn all_user(self) -> u64 {
        u64::from(self.frames) * u64::from(self.user)
    }

    /// Takes two together, unless they are too long for that.
    fn and(self, other: Self) -> Option<Self> {
        Some(Self {
            frames: 1,
            wire: (self.all_wire() + other.all_wire()).try_into().ok()?,
            user: (self.all_user() + other.all_user()).try_into().ok()?,
        })
    }

    /// Whether the user's bytes in the last of them are told too large by `limit` at most, if all are
    /// alike: where the cut lies so that all of the user's may be in what is behind it.
    fn leaves_in_doubt(self, limit: u64) -> bool {
        let (wire, user) = (u64::from(self.wire), u64::from(self.user));
        user * (wire - user) <= limit.saturating_mul(wire)
    }
}

/// What was sent, the oldest first.
#[derive(Debug)]
pub(super) struct Outstanding {
    runs: Vec<Run>,
    /// With which runs were last taken together.
    precision: u32,
}

impl Default for Outstanding {
    fn default() -> Self {
        Self {
            runs: Vec::new(),
            precision: PRECISION,
        }
    }
}

impl Outstanding {
    /// Notes that `wire` more bytes were sent, of which the last `user` are the user's.
    pub(super) fn note(&mut self, user: usize, wire: u64) {
        // Frames with long pings before them are taken for shorter than they are, and the user's
        // bytes for more.
        let wire = u32::try_from(wire).unwrap_or(u32::MAX);
        let user = u32::try_from(user).unwrap_or(u32::MAX).min(wire);
        match self.runs.last_mut() {
            Some(last) if (last.wire, last.user) == (wire, user) => {
                last.frames = last.frames.saturating_add(1);
            }
            _ => self.push(Run {
                frames: 1,
                wire,
                user,
            }),
        }
    }

    fn push(&mut self, run: Run) {
        if self.runs.len() >= RUNS {
            self.take_together();
        }
        if self.runs.len() == self.runs.capacity() {
            self.runs.reserve_exact(ROOM);
        }
        self.runs.push(run);
    }

    /// Makes room. What is older than all runs counts in full, so to forget the oldest is no loss
    /// but of precision.
    #[cold]
    fn take_together(&mut self) {
        self.runs.reverse();
        self.merge();
        while self.runs.len() > LEFT && self.precision > 0 {
            self.precision -= 1;
            self.merge();
        }
        if self.runs.len() < LEFT / 2 {
            self.precision = (self.precision + 1).min(PRECISION);
        }
        self.runs.truncate(LEFT);
        self.runs.reverse();
    }

    /// Takes those together that leave little in doubt, where the newest run is the first.
    fn merge(&mut self) {
        let precision = self.precision;
        let mut newer = 0;
        self.runs.dedup_by(|older, newest| {
            let both = newest.and(*older);
            match both.filter(|both| both.leaves_in_doubt(newer >> precision)) {
                Some(both) => {
                    *newest = both;
                    true
                }
                None => {
                    newer += newest.all_user();
                    false
                }
            }
        });
    }

    /// Returns how many of the user's bytes are in the last `missing` of those on the wire, at most.
    pub(super) fn undelivered(&self, mut missing: u64) -> u64 {
        let mut undelivered = 0;
        for run in self.runs.iter().rev() {
            let (wire, user) = (u64::from(run.wire), u64::from(run.user));
            let frames = u64::from(run.frames);
            let whole = missing.checked_div(wire).unwrap_or(frames).min(frames);
            undelivered += whole * user;
            missing -= whole * wire;
            if whole < frames {
                return undelivered + user.min(missing);
            }
        }
        undelivered + missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one frame adds without TLS, and what it and its record add with it.
    const PLAIN: u64 = 6;
    const TLS: u64 = 28;

    /// The user's bytes in the last `missing` bytes of frames with such lengths.
    fn exactly(frames: &[(usize, u64)], mut missing: u64) -> u64 {
        let mut undelivered = 0;
        for (user, wire) in frames.iter().rev() {
            undelivered += missing.min(*user as u64);
            missing = missing.saturating_sub(*wire);
        }
        undelivered
    }

    fn noted(frames: &[(usize, u64)]) -> Outstanding {
        let mut outstanding = Outstanding::default();
        for (user, wire) in frames {
            outstanding.note(*user, *wire);
            assert!(outstanding.runs.capacity() <= RUNS);
        }
        outstanding
    }

    fn wire(frames: &[(usize, u64)]) -> u64 {
        frames.iter().map(|(_, wire)| wire).sum()
    }

    #[test]
    fn counts_key_strokes_and_not_what_encloses_them() {
        for overhead in [PLAIN, TLS] {
            let frames = vec![(1, 1 + overhead); 12_000];
            let outstanding = noted(&frames);
            assert_eq!(outstanding.undelivered(0), 0);
            assert_eq!(outstanding.undelivered(1), 1);
            assert_eq!(outstanding.undelivered(overhead), 1);
            assert_eq!(outstanding.undelivered(4000 * (1 + overhead)), 4000);
            assert_eq!(outstanding.undelivered(4000 * (1 + overhead) + 1), 4001);
            assert_eq!(outstanding.undelivered(wire(&frames)), 12_000);
        }
    }

    #[test]
    fn counts_exactly_what_was_sent_of_late_whatever_the_frames_are() {
        let frames: Vec<_> = (1..=7)
            .map(|user| (user * 100, user as u64 * 100 + 8))
            .collect();
        let outstanding = noted(&frames);
        for missing in 0..=wire(&frames) {
            assert_eq!(outstanding.undelivered(missing), exactly(&frames, missing));
        }
        // A ping before the last of them is none of the user's.
        let mut outstanding = noted(&frames);
        outstanding.note(5, 5 + PLAIN + PLAIN);
        assert_eq!(outstanding.undelivered(5 + PLAIN + PLAIN), 5);
        assert_eq!(outstanding.undelivered(5 + PLAIN + PLAIN + 1), 6);
    }

    #[test]
    fn takes_what_it_does_not_know_for_the_users() {
        assert_eq!(Outstanding::default().undelivered(9), 9);
        let mut outstanding = noted(&[(1, 7)]);
        assert_eq!(outstanding.undelivered(9), 3);
        outstanding.note(0, 0);
        assert_eq!(outstanding.undelivered(9), 3);
        outstanding.note(3, u64::MAX);
        assert_eq!(outstanding.undelivered(9), 3);
    }

    /// Frames as they may come: single keys, pieces of a terminal, and all that is read at once.
    fn frames(random: &mut fastrand::Rng, overhead: u64) -> Vec<(usize, u64)> {
        let longest = [2, 8, 60, 2000, 65_000][random.usize(..5)];
        let frame = |random: &mut fastrand::Rng| {
            let user = random.usize(1..longest);
            (user, user as u64 + overhead)
        };
        let count = random.usize(1..3000);
        (0..count).map(|_| frame(random)).collect()
    }

    #[test]
    fn never_tells_of_too_little_and_of_half_as_much_again_at_most() {
        let mut random = fastrand::Rng::with_seed(11);
        for overhead in [PLAIN, TLS] {
            for _ in 0..300 {
                let frames = frames(&mut random, overhead);
                let outstanding = noted(&frames);
                let mut missing = wire(&frames);
                while missing > 0 {
                    let (told, exact) =
                        (outstanding.undelivered(missing), exactly(&frames, missing));
                    assert!(told >= exact, "{told} of {exact} in {missing}");
                    assert!(
                        told <= exact + exact / 2 + 1,
                        "{told} of {exact} in {missing}"
                    );
                    missing = missing * 7 / 8;
                }
            }
        }
    }

    #[test]
    fn forgets_what_no_kernel_can_hold_any_more() {
        let mut outstanding = Outstanding::default();
        for count in 0..300 {
            outstanding.note(1 << 27, (1 << 27) + count % 2);
        }
        assert!(outstanding.runs.len() <= RUNS);
        assert_eq!(outstanding.undelivered(1 << 27), 1 << 27);
        assert!(outstanding.undelivered(u64::MAX / 2) > 300 << 27);
    }
}
