//! Holds what the ends of a tunnel and the kernel have noticed against what was promised.

use std::time::Duration;

use crate::agent::Figures;
use crate::judge::closed::{Closed, Way};
use crate::link::Fate;
use crate::side::{End, Heard, Left, Notes, Pace, Part};

/// Within this time an undisturbed end reaches the other side where both are fast.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How much more memory adit may keep, in KiB, than it had before its first tunnel: what allocators
/// hold back, and the keys and ids of 4096 operations, which adit remembers, in half a MiB.
pub(crate) const MEMORY_SLACK: usize = 3 << 9;

/// A tunnel that was asked for, after its end.
pub(crate) struct Tunnel<'a> {
    pub(crate) parts: [&'a Part; 2],
    /// Of the machine and of the cloud.
    pub(crate) notes: [&'a Notes; 2],
    pub(crate) fates: [Fate; 2],
    /// Adit ended in some way while it was open.
    pub(crate) is_stopped: bool,
    /// The platform shows it as successful.
    pub(crate) is_successful: bool,
    /// What the platform was told of its end, if that has come.
    pub(crate) closed: Option<&'a str>,
}

impl Tunnel<'_> {
    /// Returns what is wrong.
    pub(crate) fn judge(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let [m, c] = self.notes;
        let [m_fate, c_fate] = self.fates;
        // What an echo hears again is what the cloud has said.
        let m_said = m.said;
        for (name, one, said, fate) in
            [("machine", m, c.said, m_fate), ("cloud", c, m_said, c_fate)]
        {
            let is_one_stream = m.visits <= 1 && c.visits <= 1;
            if let Some(place) = one.wrong_at.filter(|_| is_one_stream) {
                faults.push(format!("byte {place} at the {name} is not what was sent"));
            }
            if one.heard > said && is_one_stream {
                faults.push(format!("the {name} heard {} of {said}", one.heard));
            }
            if one.visits > 1 && !self.is_stopped {
                faults.push(format!("the {name} had {} visits", one.visits));
            }
            // An end whose connection is dead may wait for ever.
            if one.began.is_some() && one.over.is_none() && fate != Fate::Broken {
                faults.push(format!("the {name} still holds its connection"));
            }
        }
        let both = m.began.is_some() && c.began.is_some();
        let is_whole = self.fates.iter().all(|fate| *fate != Fate::Broken);
        if both && is_whole && !self.is_stopped && self.is_successful {
            self.judge_ends(&mut faults);
        }
        self.judge_closed(&mut faults);
        faults
    }

    /// Holds the bytes that adit tells of against those that came.
    fn judge_closed(&self, faults: &mut Vec<String>) {
        let [m, c] = self.notes;
        let [m_fate, c_fate] = self.fates;
        let Some(text) = self.closed.filter(|_| m.visits <= 1 && c.visits <= 1) else {
            return;
        };
        let Some(closed) = Closed::read(text) else {
            return faults.push(format!("an end in unknown words: {text}"));
        };
        let resets = |notes: &Notes| {
            notes
                .left
                .is_some_and(|left| matches!(left.how, End::Reset(_)))
        };
        // Where one end breaks, adit breaks with the other once the fault machine on the way has everything,
        // which may lose some of it then.
        let is_broken = [m, c].into_iter().any(|end| {
            end.left
                .is_none_or(|left| matches!(left.how, End::Reset(_) | End::Cut(_)))
        });
        for (name, said, end, fate) in [("cloud", m.said, c, c_fate), ("device", c.said, m, m_fate)]
        {
            let counted = closed.counted_after().zip(c.began);
            let counted = counted.filter(|_| fate == Fate::Untouched);
            let way = Way {
                name,
                said,
                heard: end.heard,
                is_read_out: matches!(end.told, Some(Heard::End | Heard::Close(_))) && !is_broken,
                is_known: fate != Fate::Broken && !resets(end),
                heard_then: counted.map(|(after, began)| end.heard_by(began + after)),
            };
            faults.extend(closed.judge(&way));
        }
    }

    fn judge_ends(&self, faults: &mut Vec<String>) {
        let [m, c] = self.notes;
        let (Some(m_left), Some(c_left)) = (m.left, c.left) else {
            faults.push("one end never left".to_owned());
            return;
        };
        let is_orderly = |left: Left| matches!(left.how, End::InOrder(_) | End::Stays);
        let is_cut = |left: Left| matches!(left.how, End::Cut(_)) && left.is_own;
        if is_orderly(m_left) && !c_left.is_own {
            if c.heard != m.said {
                faults.push(format!("the cloud heard {} of {}", c.heard, m.said));
            }
            if c.told != Some(Heard::Close(1000)) {
                faults.push(format!("the cloud was told {:?} at the end", c.told));
            }
        }
        if (is_orderly(c_left) || is_cut(c_left)) && is_orderly(m_left) {
            if m.heard != c.said {
                faults.push(format!("the machine heard {} of {}", m.heard, c.said));
            }
            if m.told != Some(Heard::End) {
                faults.push(format!("the machine was told {:?} at the end", m.told));
            }
        }
        let is_reset = matches!(m_left.how, End::Reset(_)) && m_left.is_own;
        if is_reset && !c_left.is_own && c.told != Some(Heard::Close(1011)) {
            faults.push(format!("the cloud was told {:?} of a reset", c.told));
        }
        let is_fast = self.parts.iter().all(|part| part.pace == Pace::Fast)
            && self.fates.iter().all(|fate| *fate == Fate::Untouched);
        if let ([Some(one), Some(other)], true) = ([m.over, c.over], is_fast) {
            let between = one.max(other) - one.min(other);
            if between > END_LIMIT {
                faults.push(format!("one connection outlived the other by {between:?}"));
            }
        }
    }
}

/// Returns what adit holds too much of, after all tunnels have ended.
pub(crate) fn kept(before: Figures, after: Figures) -> Vec<String> {
    let mut faults = Vec::new();
    if after.files > before.files {
        faults.push(format!("{} open files, not {}", after.files, before.files));
    }
    if after.threads > before.threads {
        faults.push(format!("{} threads, not {}", after.threads, before.threads));
    }
    if after.memory > before.memory + MEMORY_SLACK {
        faults.push(format!(
            "{} KiB of memory, before its first tunnel {}",
            after.memory, before.memory
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn part() -> Part {
        Part {
            says: Vec::new(),
            pace: Pace::Fast,
            end: End::Stays,
            echoes: false,
        }
    }

    /// A tunnel that the machine ended in order, after both had said 100 bytes.
    fn ends() -> [Notes; 2] {
        let notes = |how, is_own, told| Notes {
            began: Some(Instant::now()),
            said: 100,
            heard: 100,
            visits: 1,
            left: Some(Left { how, is_own }),
            told: Some(told),
            over: Some(Instant::now()),
            ..Notes::default()
        };
        let in_order = End::InOrder(Duration::ZERO);
        [
            notes(in_order, true, Heard::End),
            notes(in_order, false, Heard::Close(1000)),
        ]
    }

    fn judge([m, c]: &[Notes; 2], fates: [Fate; 2], is_stopped: bool) -> Vec<String> {
        Tunnel {
            parts: [&part(), &part()],
            notes: [m, c],
            fates,
            is_stopped,
            is_successful: true,
            closed: None,
        }
        .judge()
    }

    const UNTOUCHED: [Fate; 2] = [Fate::Untouched, Fate::Untouched];

    #[test]
    fn finds_nothing_wrong_with_an_orderly_end() {
        assert!(judge(&ends(), UNTOUCHED, false).is_empty());
    }

    #[test]
    fn finds_every_broken_promise() {
        type Deed = fn(&mut [Notes; 2]);
        let table: [(Deed, &str); 11] = [
            (
                |[m, _]| m.wrong_at = Some(7),
                "byte 7 at the machine is not what was sent",
            ),
            (
                |[_, c]| c.wrong_at = Some(9),
                "byte 9 at the cloud is not what was sent",
            ),
            (|[m, _]| m.heard = 101, "the machine heard 101 of 100"),
            (|[m, _]| m.heard = 99, "the machine heard 99 of 100"),
            (|[_, c]| c.heard = 99, "the cloud heard 99 of 100"),
            (|[m, _]| m.visits = 2, "the machine had 2 visits"),
            (
                |[m, _]| m.over = None,
                "the machine still holds its connection",
            ),
            (
                |[_, c]| c.over = None,
                "the cloud still holds its connection",
            ),
            (
                |[m, _]| m.told = Some(Heard::Reset),
                "the machine was told Some(Reset) at the end",
            ),
            (
                |[_, c]| c.told = Some(Heard::End),
                "the cloud was told Some(End) at the end",
            ),
            (
                |[m, c]| {
                    m.left = Some(Left {
                        how: End::Reset(Duration::ZERO),
                        is_own: true,
                    });
                    c.told = Some(Heard::Close(1000));
                },
                "the cloud was told Some(Close(1000)) of a reset",
            ),
        ];
        for (deed, words) in table {
            let mut ends = ends();
            deed(&mut ends);
            let faults = judge(&ends, UNTOUCHED, false);
            assert!(faults.contains(&words.to_owned()), "{words}: {faults:?}");
        }
        let mut ends = ends();
        ends[1].over = ends[1].over.map(|over| over + 2 * END_LIMIT);
        assert_eq!(judge(&ends, UNTOUCHED, false).len(), 1);
    }

    #[test]
    fn expects_no_more_of_a_broken_way_than_a_prefix() {
        let mut ends = ends();
        ends[1].heard = 50;
        ends[1].told = Some(Heard::Reset);
        let broken = [Fate::Untouched, Fate::Broken];
        assert!(judge(&ends, broken, false).is_empty());
        assert!(judge(&ends, UNTOUCHED, true).is_empty());
        assert!(!judge(&ends, [Fate::Delayed; 2], false).is_empty());
        ends[1].wrong_at = Some(3);
        assert!(!judge(&ends, broken, false).is_empty());
    }

    #[test]
    fn holds_what_adit_tells_of_an_end_against_what_came() {
        let [m, mut c] = ends();
        c.hearings = c.began.map(|began| (began, 100)).into_iter().collect();
        for (counts, is_right) in [
            (
                "open for 2.0 s, 100 bytes to the cloud, 100 bytes to the device",
                true,
            ),
            (
                "open for 2.0 s, 100 bytes to the cloud, 99 bytes to the device",
                false,
            ),
            (
                "100 bytes did not reach the cloud; open for 2.0 s, 0 bytes to the cloud, 100 bytes \
                 to the device",
                false,
            ),
            ("open for ever", false),
        ] {
            let closed = format!("closed by the device; {counts}");
            let tunnel = Tunnel {
                parts: [&part(), &part()],
                notes: [&m, &c],
                fates: UNTOUCHED,
                is_stopped: false,
                is_successful: true,
                closed: Some(&closed),
            };
            assert_eq!(tunnel.judge().is_empty(), is_right, "{closed}");
        }
    }

    #[test]
    fn finds_what_adit_keeps() {
        let before = Figures {
            files: 9,
            threads: 1,
            memory: 3000,
        };
        assert!(kept(before, before).is_empty());
        let more = |change: fn(&mut Figures)| {
            let mut after = before;
            change(&mut after);
            kept(before, after).len()
        };
        assert_eq!(more(|after| after.files += 1), 1);
        assert_eq!(more(|after| after.threads += 1), 1);
        assert_eq!(more(|after| after.memory += MEMORY_SLACK), 0);
        assert_eq!(more(|after| after.memory += MEMORY_SLACK + 1), 1);
    }
}
