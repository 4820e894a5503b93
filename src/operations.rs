//! Decides which operation is in which state, and what may be reported next.
//!
//! `501`, `502` and `503` name no operation: the platform applies them to the oldest one of the
//! device that is pending or executing. Tunnels open in any order, so a result waits here until
//! every older one of its device is out. Opening and publishing are left to the caller.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use smartrest::{ConnectRequest, FieldError, Row, Status};

/// How many connection keys stay known after their operation has ended, so that a late copy of its
/// row opens nothing. A key is kept as a hash, so this costs kilobytes.
const REMEMBERED_KEYS: usize = 4096;

/// Place of the connection key in a `530` row.
const CONNECTION_KEY: usize = 4;

/// Tells the operations of this process apart.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OperationId(pub u64);

/// How an operation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Both ends stand.
    Successful,
    /// The tunnel did not open, for this reason.
    Failed(String),
}

impl From<Outcome> for Status {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Successful => Self::Successful,
            Outcome::Failed(reason) => Self::Failed(reason),
        }
    }
}

/// A status that is to be published now, after all that were handed out before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// External id of the device whose operation it is.
    pub device: String,
    /// The status to publish.
    pub status: Status,
}

/// What follows from a payload of rows.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Received {
    /// Statuses to publish, in order.
    pub reports: Vec<Report>,
    /// Tunnels to open; each is to be answered with [`Operations::finish`] once.
    pub start: Vec<(OperationId, ConnectRequest)>,
    /// Rows that opened nothing and are reported to nobody.
    pub ignored: Vec<Ignored>,
}

/// Why a row led to nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ignored {
    /// The connection key is known: the row is a copy of an earlier one.
    Duplicate {
        /// External id of the device.
        device: String,
    },
    /// No device is named, so there is nobody to report to.
    Nameless(FieldError),
}

/// All operations that have not been reported as ended, by device.
#[derive(Debug, Default)]
pub struct Operations {
    devices: HashMap<String, VecDeque<Open>>,
    keys: RememberedKeys,
    last_id: u64,
}

/// An operation that was reported as executing and not yet as ended.
#[derive(Debug)]
struct Open {
    id: OperationId,
    row: Identity,
    outcome: Option<Outcome>,
}

/// The hash of a row's connection key, or of the whole row where it has none.
type Identity = u64;

impl Operations {
    /// Takes the `530` rows of one payload, oldest first as the platform sends them.
    ///
    /// The answer to `500` may repeat a row that came live before. Such a copy opens nothing, but
    /// it tells which others of the payload are older than it, and they take their place before it.
    pub fn receive(&mut self, rows: &[Row]) -> Received {
        let identities: Vec<_> = rows.iter().map(|row| self.keys.identify(row)).collect();
        let last_place: HashMap<_, _> = identities.iter().zip(0..).collect();
        let mut received = Received::default();
        for (place, (row, &identity)) in rows.iter().zip(&identities).enumerate() {
            let device = match ConnectRequest::device_of(row) {
                Ok(device) => device.to_owned(),
                Err(missing) => {
                    received.ignored.push(Ignored::Nameless(missing));
                    continue;
                }
            };
            let queue = self.devices.entry(device.clone()).or_default();
            let known = match row.get(CONNECTION_KEY) {
                Some(_) => !self.keys.remember(identity),
                None => queue.iter().any(|open| open.row == identity),
            };
            if known {
                received.ignored.push(Ignored::Duplicate { device });
                continue;
            }
            self.last_id += 1;
            let id = OperationId(self.last_id);
            let is_younger = |open: &Open| last_place.get(&open.row).is_some_and(|&at| at > place);
            let index = queue.iter().position(is_younger).unwrap_or(queue.len());
            queue.insert(
                index,
                Open {
                    id,
                    row: identity,
                    outcome: None,
                },
            );
            received.reports.push(Report {
                device: device.clone(),
                status: Status::Executing,
            });
            match ConnectRequest::from_row(row) {
                Ok(request) => received.start.push((id, request)),
                Err(error) => {
                    let failed = Outcome::Failed(error.to_string());
                    received.reports.extend(self.finish(&device, id, failed));
                }
            }
        }
        self.devices.retain(|_, queue| !queue.is_empty());
        received
    }

    /// Notes how an operation of `device` ended, and returns every result that may go out now.
    ///
    /// An operation that is unknown or has its outcome already changes nothing.
    pub fn finish(&mut self, device: &str, id: OperationId, outcome: Outcome) -> Vec<Report> {
        let Some(queue) = self.devices.get_mut(device) else {
            return Vec::new();
        };
        if let Some(open) = queue.iter_mut().find(|open| open.id == id) {
            open.outcome.get_or_insert(outcome);
        }
        let mut reports = Vec::new();
        while let Some(outcome) = queue.front_mut().and_then(|open| open.outcome.take()) {
            queue.pop_front();
            reports.push(Report {
                device: device.to_owned(),
                status: outcome.into(),
            });
        }
        reports
    }

    /// How many operations are not reported as ended.
    pub fn open(&self) -> usize {
        self.devices.values().map(VecDeque::len).sum()
    }
}

/// The connection keys of the last operations, as hashes under a key of this process: nobody
/// outside can make two of them meet, and a key that was used is not kept.
#[derive(Debug, Default)]
struct RememberedKeys {
    hasher: RandomState,
    known: HashSet<Identity>,
    by_age: VecDeque<Identity>,
}

impl RememberedKeys {
    fn identify(&self, row: &Row) -> Identity {
        match row.get(CONNECTION_KEY) {
            Some(key) => self.hasher.hash_one(key),
            None => self.hasher.hash_one(row.fields()),
        }
    }

    /// Returns whether the key is new.
    fn remember(&mut self, key: Identity) -> bool {
        if !self.known.insert(key) {
            return false;
        }
        self.by_age.push_back(key);
        if self.by_age.len() > REMEMBERED_KEYS
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(payload: &str) -> Vec<Row> {
        smartrest::decode(payload.as_bytes())
    }

    /// Reports as the rows they become: `gw 501`, `gw 503`, `gw 502 reason`.
    fn written(reports: &[Report]) -> Vec<String> {
        let word = |report: &Report| match &report.status {
            Status::Executing => format!("{} 501", report.device),
            Status::Successful => format!("{} 503", report.device),
            Status::Failed(reason) => format!("{} 502 {reason}", report.device),
        };
        reports.iter().map(word).collect()
    }

    fn failed(reason: &str) -> Outcome {
        Outcome::Failed(reason.to_owned())
    }

    #[test]
    fn reports_the_older_of_two_tunnels_first() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,slow,22,k1\n530,gw,fast,22,k2"));
        assert_eq!(written(&received.reports), ["gw 501", "gw 501"]);
        let [(slow, _), (fast, _)] = &received.start[..] else {
            panic!("{received:?}")
        };
        assert_eq!(operations.finish("gw", *fast, Outcome::Successful), []);
        let reports = operations.finish("gw", *slow, failed("refused"));
        assert_eq!(written(&reports), ["gw 502 refused", "gw 503"]);
        assert_eq!(operations.open(), 0);
    }

    #[test]
    fn lets_no_device_wait_for_another() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,slow,22,k1\n530,plc,fast,22,k2"));
        let reports = operations.finish("plc", received.start[1].0, Outcome::Successful);
        assert_eq!(written(&reports), ["plc 503"]);
    }

    #[test]
    fn gives_a_malformed_row_its_place_in_the_order() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,plc,22,k1\n530,gw,plc,0,k2\n530,gw"));
        assert_eq!(written(&received.reports), ["gw 501", "gw 501", "gw 501"]);
        let reports = operations.finish("gw", received.start[0].0, Outcome::Successful);
        assert_eq!(
            written(&reports),
            [
                "gw 503",
                "gw 502 port 0 is not from 1 to 65535",
                "gw 502 the hostname is missing"
            ]
        );
    }

    #[test]
    fn ignores_a_row_that_names_no_device() {
        let received = Operations::default().receive(&rows("530\n530,,plc,22,k"));
        assert_eq!(received.reports, []);
        assert_eq!(received.ignored.len(), 2);
    }

    #[test]
    fn opens_nothing_for_a_copy_of_a_row_however_late() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,plc,22,k1\n530,gw,plc,22,k1"));
        assert_eq!(received.start.len(), 1);
        operations.finish("gw", received.start[0].0, Outcome::Successful);
        for key in 2..1500 {
            operations.receive(&rows(&format!("530,gw,plc,0,k{key}")));
        }
        let late = operations.receive(&rows("530,gw,plc,22,k1"));
        assert_eq!(
            late.ignored,
            [Ignored::Duplicate {
                device: "gw".into()
            }]
        );
        assert_eq!((late.reports.len(), late.start.len()), (0, 0));
    }

    #[test]
    fn remembers_a_bounded_number_of_keys() {
        let mut operations = Operations::default();
        for key in 0..3 * REMEMBERED_KEYS {
            operations.receive(&rows(&format!("530,gw,plc,0,k{key}")));
        }
        assert_eq!(operations.keys.known.len(), REMEMBERED_KEYS);
        assert_eq!(operations.keys.by_age.len(), REMEMBERED_KEYS);
    }

    #[test]
    fn puts_an_operation_before_a_younger_one_that_came_live() {
        let mut operations = Operations::default();
        let live = operations.receive(&rows("530,gw,plc,22,young"));
        let answer = operations.receive(&rows("530,gw,plc,22,old\n530,gw,plc,22,young"));
        assert_eq!(written(&answer.reports), ["gw 501"]);
        assert_eq!(
            operations.finish("gw", live.start[0].0, failed("young")),
            []
        );
        let reports = operations.finish("gw", answer.start[0].0, failed("old"));
        assert_eq!(written(&reports), ["gw 502 old", "gw 502 young"]);
    }

    #[test]
    fn takes_one_outcome_for_an_operation() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,a,22,k1\n530,gw,b,22,k2"));
        let second = received.start[1].0;
        operations.finish("gw", second, failed("first word"));
        operations.finish("gw", second, Outcome::Successful);
        let reports = operations.finish("gw", received.start[0].0, Outcome::Successful);
        assert_eq!(written(&reports), ["gw 503", "gw 502 first word"]);
        assert_eq!(operations.finish("gw", second, Outcome::Successful), []);
    }

    /// The platform: every status goes to the oldest operation of the device in the state before.
    #[derive(Default)]
    struct Platform {
        operations: Vec<(String, String, &'static str)>,
    }

    impl Platform {
        fn take(&mut self, report: &Report) {
            let (before, after) = match &report.status {
                Status::Executing => ("pending", "executing"),
                Status::Successful => ("executing", "successful"),
                Status::Failed(_) => ("executing", "failed"),
            };
            let mut all = self.operations.iter_mut();
            let oldest =
                all.find(|(device, _, state)| *device == report.device && *state == before);
            let (_, key, state) = oldest.expect("no status without an operation that it is for");
            if let Status::Failed(reason) = &report.status {
                assert_eq!(
                    reason, key,
                    "the failure of one operation landed on another"
                );
            }
            *state = after;
        }
    }

    proptest! {
        #[test]
        fn lands_every_result_on_its_own_operation(
            arrivals in prop::collection::vec((0..3_u8, any::<bool>(), any::<bool>()), 1..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut platform = Platform::default();
            let mut operations = Operations::default();
            let mut running = Vec::new();
            let mut expected = HashMap::new();
            let mut order = order.into_iter();
            for (number, (device, repeated, succeeds)) in arrivals.into_iter().enumerate() {
                let (device, key) = (format!("d{device}"), format!("k{number}"));
                platform.operations.push((device.clone(), key.clone(), "pending"));
                expected.insert(key.clone(), if succeeds { "successful" } else { "failed" });
                let row = format!("530,{device},plc,22,{key}");
                for _ in 0..=usize::from(repeated) {
                    let received = operations.receive(&rows(&row));
                    received.reports.iter().for_each(|report| platform.take(report));
                    running.extend(received.start.into_iter().map(|start| (start, succeeds)));
                }
                // Some end while others are still to come.
                let turn = order.next().map_or(0, |index| index.index(running.len() + 1));
                if turn < running.len() {
                    end(&mut operations, &mut platform, running.swap_remove(turn));
                }
            }
            while !running.is_empty() {
                let turn = order.next().map_or(0, |index| index.index(running.len()));
                end(&mut operations, &mut platform, running.swap_remove(turn));
            }
            for (_, key, state) in &platform.operations {
                prop_assert_eq!(expected[key], *state, "{}", key);
            }
            prop_assert_eq!(operations.open(), 0);
        }
    }

    fn end(
        operations: &mut Operations,
        platform: &mut Platform,
        ((id, request), succeeds): ((OperationId, ConnectRequest), bool),
    ) {
        let outcome = if succeeds {
            Outcome::Successful
        } else {
            failed(request.key.expose())
        };
        for report in operations.finish(&request.device, id, outcome) {
            platform.take(&report);
        }
    }
}
