//! What adit was given last before a connection ended, it need not have looked at: it may have given
//! the connection up in that moment, or been killed. Nobody outside can tell.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::judge::{BY_ADIT, Seen, Verdict, Way, What};

/// What came longer before the end was looked at, however slow the machine is.
const MOMENT: Duration = Duration::from_secs(3);

/// Judges a record; where that finds something wrong, as often again with the last packets of
/// connections left out as that explains more of it.
pub(crate) fn judge(record: &[Seen], judge: impl Fn(&[Seen]) -> Verdict) -> Verdict {
    let mut verdict = judge(record);
    let mut doubted = BTreeMap::new();
    while !verdict.faults.is_empty() {
        let others = last_packets(record)
            .into_iter()
            .flat_map(|(connection, count)| {
                let of_it = move |left_out| (connection, left_out);
                (1..=count).map(of_it)
            });
        let tries = others.map(|(connection, left_out)| {
            let mut doubted = doubted.clone();
            doubted.insert(connection, left_out);
            (judge(&without(record, &doubted)), doubted)
        });
        match tries.min_by_key(|(verdict, _)| verdict.faults.len()) {
            Some((better, with)) if better.faults.len() < verdict.faults.len() => {
                (verdict, doubted) = (better, with);
            }
            // What is told is what was wrong at first.
            _ => return judge(record),
        }
    }
    verdict
}

/// By connection that has ended, how many packets adit was given in the moment before.
fn last_packets(record: &[Seen]) -> BTreeMap<usize, usize> {
    let ended = record.iter().filter(|seen| is_end(seen));
    let count = |end: &Seen| {
        let of_it = record.iter().filter(|seen| is_given(seen, end.connection));
        of_it
            .filter(|seen| end.at.saturating_duration_since(seen.at) < MOMENT)
            .count()
    };
    ended.map(|end| (end.connection, count(end))).collect()
}

fn without(record: &[Seen], doubted: &BTreeMap<usize, usize>) -> Vec<Seen> {
    let mut left: BTreeMap<_, _> = doubted.clone();
    let mut rest: Vec<_> = record
        .iter()
        .rev()
        .filter(|seen| match left.get_mut(&seen.connection) {
            Some(left @ 1..) if is_given(seen, seen.connection) => {
                *left -= 1;
                false
            }
            _ => true,
        })
        .cloned()
        .collect();
    rest.reverse();
    rest
}

fn is_end(seen: &Seen) -> bool {
    matches!(seen.what, What::Ended(_))
}

fn is_given(seen: &Seen, connection: usize) -> bool {
    seen.connection == connection && matches!(seen.what, What::Packet(Way::Down, _))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rumqttc::{Packet, PubAck};

    use super::*;

    fn record(is_ended: bool) -> Vec<Seen> {
        let answer = |pkid| What::Packet(Way::Down, Packet::PubAck(PubAck::new(pkid)));
        let mut what = vec![answer(1), answer(2), answer(3)];
        what.extend(is_ended.then_some(What::Ended(BY_ADIT)));
        let seen = |what| Seen::new(Instant::now(), 1, 1, what);
        what.into_iter().map(seen).collect()
    }

    /// Finds something wrong for each packet but the first.
    fn one_is_right(record: &[Seen]) -> Verdict {
        let given = record.iter().filter(|seen| is_given(seen, 1)).count();
        Verdict {
            faults: vec!["one more".to_owned(); given.abs_diff(1)],
            ..Verdict::default()
        }
    }

    #[test]
    fn leaves_out_what_came_last_before_an_end() {
        assert!(judge(&record(true), one_is_right).faults.is_empty());
    }

    #[test]
    fn tells_all_that_is_wrong_where_no_doubt_explains_it() {
        assert_eq!(judge(&record(false), one_is_right).faults.len(), 2);
        let wrong = |_: &[Seen]| Verdict {
            faults: vec!["always".to_owned()],
            ..Verdict::default()
        };
        assert_eq!(judge(&record(true), wrong).faults.len(), 1);
    }
}
