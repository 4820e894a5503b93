//! Decides which operation is in which state, and what may be reported next.
//!
//! `501`, `502` and `503` name no operation: the platform applies them to the oldest one of the
//! device that is pending or executing. Tunnels open in any order, so a result waits here until
//! every older one of its device is out. Where the platform has told an operation's id, `504` to
//! `506` name it, and its result waits for no other; but it is as old as any, and those without an
//! id wait for it. Opening and publishing are left to the caller.
//!
//! A row can come again: live, and in the answer to `500`. Its connection key tells whether it is a
//! copy. A row without key or id could as well be another operation that looks the same, so it
//! counts as a copy only as long as the platform may not know how the first one ended; when that
//! time is over, the caller asks `500` once more for what was perhaps no copy.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use smartrest::{ConnectRequest, FieldError, OperationRef, PendingOperation, Status};

/// How many connection keys stay known after their operation has ended, so that a late copy of its
/// row opens nothing. A key is kept as a hash, so this costs kilobytes.
const REMEMBERED_KEYS: usize = 4096;
/// How many rows without a key are remembered.
const REMEMBERED_ROWS: usize = 1024;
/// How long a row without a key is remembered when its statuses are acknowledged: until then an
/// answer that the platform began before it knew them has surely come.
pub(crate) const ROW_MEMORY: Duration = Duration::from_secs(60);

/// Tells the operations of this process apart.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct OperationId(pub(crate) u64);

/// How an operation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
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
pub(crate) struct Report {
    /// External id of the device whose operation it is.
    pub(crate) device: String,
    /// Which one it is to this process: its statuses stay together.
    pub(crate) id: OperationId,
    /// How it is named.
    pub(crate) operation: OperationRef,
    /// The status to publish.
    pub(crate) status: Status,
}

/// What follows from a payload of rows.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Received {
    /// Statuses to publish, in order.
    pub(crate) reports: Vec<Report>,
    /// Tunnels to open; each is to be answered with [`Operations::finish`] once.
    pub(crate) start: Vec<(OperationId, ConnectRequest)>,
    /// Rows that opened nothing and are reported to nobody.
    pub(crate) ignored: Vec<Ignored>,
}

/// Why a row led to nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ignored {
    /// The row is a copy of an earlier one.
    Duplicate {
        /// External id of the device.
        device: String,
    },
    /// No device is named, so there is nobody to report to.
    WithoutDevice(FieldError),
}

/// All operations that have not been reported as ended, by device.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    devices: HashMap<String, VecDeque<Open>>,
    keys: RememberedKeys,
    rows: RememberedRows,
    last_id: u64,
}

/// An operation that was reported as executing and not yet as ended.
#[derive(Debug)]
struct Open {
    id: OperationId,
    row: Identity,
    /// A request that has neither key nor id, by which a copy with the id is known.
    nameless: Option<PendingOperation>,
    operation: OperationRef,
    outcome: Option<Outcome>,
}

/// The hash of a connection key, or where there is none, of the operation's id or of all values.
type Identity = u64;

impl Operations {
    /// Takes the requests of one payload, oldest first as the platform sends them.
    ///
    /// The answer to `500` may repeat one that came live before. Such a copy opens nothing, but it
    /// tells which others of the payload are older than it, and they take their place before it. A
    /// copy that brings the operation's id makes its result wait for no other.
    pub(crate) fn receive(&mut self, pending: &[PendingOperation]) -> Received {
        let identities: Vec<_> = pending.iter().map(|o| self.keys.identify(o)).collect();
        let last_place: HashMap<_, _> = identities.iter().zip(0..).collect();
        // The platform repeats an operation in another payload, never in the same one.
        let came_before: Vec<_> = identities.iter().map(|&i| self.rows.contains(i)).collect();
        // Looking for younger ones among all that are open is for answers that repeat one; a flood of
        // new ones would take a time that grows with its square.
        let repeats = last_place.len() < pending.len() || pending.iter().any(|o| self.knows(o));
        let mut received = Received::default();
        for (place, (operation, &identity)) in pending.iter().zip(&identities).enumerate() {
            let device = match operation.device() {
                Ok(device) => device.to_owned(),
                Err(missing) => {
                    received.ignored.push(Ignored::WithoutDevice(missing));
                    continue;
                }
            };
            let queue = self.devices.entry(device.clone()).or_default();
            let names_open = is_new_name(operation, identity, &self.keys)
                && queue
                    .iter_mut()
                    .any(|open| open.take_name(operation, identity));
            let known = if is_unique(operation) {
                !self.keys.remember(identity) || names_open
            } else if came_before[place] {
                self.rows.came_again = true;
                true
            } else {
                self.rows.remember(identity);
                false
            };
            if known {
                if let OperationRef::Id(_) = operation.reference()
                    && let Some(open) = queue.iter_mut().find(|open| open.row == identity)
                {
                    open.operation = operation.reference().clone();
                    received.reports.extend(due(&device, queue));
                }
                received.ignored.push(Ignored::Duplicate { device });
                continue;
            }
            self.last_id += 1;
            let id = OperationId(self.last_id);
            let is_younger = |open: &Open| last_place.get(&open.row).is_some_and(|&at| at > place);
            let younger = match repeats {
                true => queue.iter().position(is_younger),
                false => None,
            };
            let index = younger.unwrap_or(queue.len());
            queue.insert(
                index,
                Open {
                    id,
                    row: identity,
                    nameless: (!is_unique(operation)).then(|| operation.clone()),
                    operation: operation.reference().clone(),
                    outcome: None,
                },
            );
            received.reports.push(Report {
                device: device.clone(),
                id,
                operation: operation.reference().clone(),
                status: Status::Executing,
            });
            match operation.request() {
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

    /// Whether a request is a copy of one that came before.
    pub(crate) fn knows(&self, operation: &PendingOperation) -> bool {
        let identity = self.keys.identify(operation);
        match is_unique(operation) {
            true => self.keys.known.contains(&identity),
            false => self.rows.contains(identity),
        }
    }

    /// Takes note that every status handed out before `now` is acknowledged.
    pub(crate) fn delivered(&mut self, now: Instant) {
        let devices = &self.devices;
        self.rows.forget_later(now + ROW_MEMORY, |row| {
            devices.values().flatten().any(|open| open.row == row)
        });
    }

    /// Returns when [`Operations::deadline_passed`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.rows.by_age.iter().filter_map(|row| row.until).min()
    }

    /// Forgets rows whose time has come; whether all pending operations are to be asked for, because
    /// one of them may look like a row that was forgotten.
    pub(crate) fn deadline_passed(&mut self, now: Instant) -> bool {
        self.rows.forget(now)
    }

    /// Notes how an operation of `device` ended, and returns every result that may go out now.
    ///
    /// An operation that is unknown or has its outcome already changes nothing.
    pub(crate) fn finish(
        &mut self,
        device: &str,
        id: OperationId,
        outcome: Outcome,
    ) -> Vec<Report> {
        let Some(queue) = self.devices.get_mut(device) else {
            return Vec::new();
        };
        if let Some(open) = queue.iter_mut().find(|open| open.id == id) {
            open.outcome.get_or_insert(outcome);
        }
        due(device, queue)
    }

    /// How many operations are not reported as ended.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.devices.values().map(VecDeque::len).sum()
    }
}

/// Takes the results that may go out from the queue of a device: those with an id, and those before
/// which no operation is left.
fn due(device: &str, queue: &mut VecDeque<Open>) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut is_oldest = true;
    queue.retain_mut(|open| {
        let may_go = is_oldest || matches!(open.operation, OperationRef::Id(_));
        let outcome = open.outcome.take_if(|_| may_go);
        is_oldest &= outcome.is_some();
        let Some(outcome) = outcome else {
            return true;
        };
        reports.push(Report {
            device: device.to_owned(),
            id: open.id,
            operation: open.operation.clone(),
            status: outcome.into(),
        });
        false
    });
    reports
}

/// Whether a request without a key tells an id that was not heard before.
fn is_new_name(operation: &PendingOperation, identity: Identity, keys: &RememberedKeys) -> bool {
    let has_id = matches!(operation.reference(), OperationRef::Id(_));
    has_id && operation.key().is_none() && !keys.known.contains(&identity)
}

impl Open {
    /// Takes the identity of a copy that brings the id; whether it is one.
    fn take_name(&mut self, copy: &PendingOperation, identity: Identity) -> bool {
        let nameless = self.nameless.take_if(|own| own.asks_for_the_same(copy));
        if nameless.is_some() {
            self.row = identity;
        }
        nameless.is_some()
    }
}

/// Whether no other operation can have the same identity.
fn is_unique(operation: &PendingOperation) -> bool {
    operation.key().is_some() || matches!(operation.reference(), OperationRef::Id(_))
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
    fn identify(&self, operation: &PendingOperation) -> Identity {
        match (operation.key(), operation.reference()) {
            (Some(key), _) => self.hasher.hash_one(key),
            (None, OperationRef::Id(id)) => self.hasher.hash_one(("id", id)),
            (None, OperationRef::Oldest(_)) => self.hasher.hash_one(operation),
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

/// The last rows that had neither key nor id.
#[derive(Debug, Default)]
struct RememberedRows {
    by_age: VecDeque<RememberedRow>,
    /// One of them came once more, or another operation that looks the same.
    came_again: bool,
}

#[derive(Debug)]
struct RememberedRow {
    row: Identity,
    /// Known once all its statuses are acknowledged.
    until: Option<Instant>,
}

impl RememberedRows {
    fn contains(&self, row: Identity) -> bool {
        self.by_age.iter().any(|known| known.row == row)
    }

    fn remember(&mut self, row: Identity) {
        self.by_age.retain(|known| known.row != row);
        self.by_age.push_back(RememberedRow { row, until: None });
        if self.by_age.len() > REMEMBERED_ROWS {
            self.by_age.pop_front();
        }
    }

    fn forget_later(&mut self, until: Instant, is_open: impl Fn(Identity) -> bool) {
        for known in &mut self.by_age {
            if known.until.is_none() && !is_open(known.row) {
                known.until = Some(until);
            }
        }
    }

    fn forget(&mut self, now: Instant) -> bool {
        let before = self.by_age.len();
        self.by_age
            .retain(|known| known.until.is_none_or(|until| until > now));
        self.by_age.len() < before && std::mem::take(&mut self.came_again)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows of either template.
    fn rows(payload: &str) -> Vec<PendingOperation> {
        let rows = smartrest::decode(payload.as_bytes());
        let operation = |row| match PendingOperation::from_static_row(row) {
            Some(operation) => operation,
            None => PendingOperation::from_collection_row(row).unwrap().unwrap(),
        };
        rows.iter().map(operation).collect()
    }

    /// Reports as the rows they become: `gw 501`, `gw 503`, `gw 502 reason`, `gw 504 id`.
    fn written(reports: &[Report]) -> Vec<String> {
        let word = |report: &Report| {
            let status = report.status.clone();
            let operation = report.operation.clone();
            let row = smartrest::Request::Status { operation, status }.to_row();
            let fields: Vec<_> = row.fields().iter().map(String::as_str).collect();
            let row = fields.join(" ").replace("c8y_RemoteAccessConnect", "");
            let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("{} {row}", report.device)
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
    fn reports_an_operation_with_an_id_before_an_older_one() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("901,gw,1001,slow,22,k1\n901,gw,1002,fast,22,k2"));
        assert_eq!(written(&received.reports), ["gw 504 1001", "gw 504 1002"]);
        let fast = operations.finish("gw", received.start[1].0, Outcome::Successful);
        assert_eq!(written(&fast), ["gw 506 1002"]);
        let slow = operations.finish("gw", received.start[0].0, failed("refused"));
        assert_eq!(written(&slow), ["gw 505 1001 refused"]);
    }

    #[test]
    fn lets_a_result_without_an_id_wait_for_an_older_operation_that_has_one() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("901,gw,1001,slow,22,k1\n530,gw,fast,22,k2"));
        assert_eq!(written(&received.reports), ["gw 504 1001", "gw 501"]);
        let fast = operations.finish("gw", received.start[1].0, Outcome::Successful);
        assert_eq!(fast, []);
        let slow = operations.finish("gw", received.start[0].0, Outcome::Successful);
        assert_eq!(written(&slow), ["gw 506 1001", "gw 503"]);
    }

    #[test]
    fn lets_a_result_go_when_a_copy_brings_its_id() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,slow,22,k1\n530,gw,fast,22,k2"));
        assert_eq!(
            operations.finish("gw", received.start[1].0, Outcome::Successful),
            []
        );
        let copy = operations.receive(&rows("901,gw,1002,fast,22,k2"));
        assert_eq!(written(&copy.reports), ["gw 506 1002"]);
        assert_eq!((copy.start.len(), copy.ignored.len()), (0, 1));
        let slow = operations.finish("gw", received.start[0].0, failed("refused"));
        assert_eq!(written(&slow), ["gw 502 refused"]);
    }

    #[test]
    fn names_an_open_operation_without_a_key_when_a_copy_brings_its_id() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,slow,22,k1\n530,gw,plc,22"));
        assert_eq!(written(&received.reports), ["gw 501", "gw 501"]);
        let copy = operations.receive(&rows("901,gw,1002,plc,22,"));
        let reason = "gw 505 1002 the connection key is missing";
        assert_eq!(written(&copy.reports), [reason]);
        let again = operations.receive(&rows("901,gw,1002,plc,22,\n530,gw,plc,22"));
        assert_eq!((again.reports.len(), again.ignored.len()), (0, 2));
        let slow = operations.finish("gw", received.start[0].0, Outcome::Successful);
        assert_eq!(written(&slow), ["gw 503"]);
    }

    #[test]
    fn fails_a_malformed_row_with_an_id_once() {
        for (row, reason) in [
            ("901,gw,7,plc,22,", "the connection key is missing"),
            ("901,gw,7,,22,k", "the hostname is missing"),
            ("901,gw,7,plc,0,k", "port 0 is not from 1 to 65535"),
        ] {
            let mut operations = Operations::default();
            operations.receive(&rows("901,gw,1,slow,22,older"));
            let received = operations.receive(&rows(row));
            let failed = format!("gw 505 7 {reason}");
            assert_eq!(written(&received.reports), ["gw 504 7".to_owned(), failed]);
            let again = operations.receive(&rows(row));
            assert_eq!((again.reports.len(), again.ignored.len()), (0, 1), "{row}");
        }
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
    fn takes_a_row_without_a_key_for_a_copy_until_its_end_is_known() {
        let start = Instant::now();
        let row = "530,gw,plc,22";
        let failure = [
            "gw 501".to_owned(),
            "gw 502 the connection key is missing".to_owned(),
        ];
        let mut operations = Operations::default();
        assert_eq!(
            written(&operations.receive(&rows(row)).reports),
            failure.clone()
        );
        // The broker is away: what was said is not acknowledged, however long that takes.
        assert_eq!(operations.next_deadline(), None);
        assert!(!operations.deadline_passed(start + 100 * ROW_MEMORY));
        assert!(operations.knows(&rows(row)[0]));
        let copy = operations.receive(&rows(row));
        assert_eq!((copy.reports.len(), copy.ignored.len()), (0, 1));

        operations.delivered(start);
        let end = start + ROW_MEMORY;
        assert_eq!(operations.next_deadline(), Some(end));
        operations.delivered(start + ROW_MEMORY / 2);
        assert_eq!(
            operations.next_deadline(),
            Some(end),
            "it does not begin anew"
        );
        assert!(!operations.deadline_passed(end - Duration::from_millis(1)));
        assert_eq!(operations.receive(&rows(row)).reports, []);
        // It was perhaps no copy.
        assert!(operations.deadline_passed(end));
        assert!(!operations.deadline_passed(end));
        assert_eq!(operations.next_deadline(), None);
        assert_eq!(written(&operations.receive(&rows(row)).reports), failure);
    }

    #[test]
    fn asks_for_nothing_again_where_no_row_came_again() {
        let start = Instant::now();
        let mut operations = Operations::default();
        operations.receive(&rows("530,gw,plc,22"));
        operations.delivered(start);
        assert!(!operations.deadline_passed(start + ROW_MEMORY));
    }

    #[test]
    fn remembers_a_row_without_a_key_that_waits_for_an_older_operation() {
        let start = Instant::now();
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,slow,22,k\n530,gw,plc,22"));
        operations.delivered(start);
        assert_eq!(operations.next_deadline(), None, "it is not finished");
        operations.finish("gw", received.start[0].0, Outcome::Successful);
        operations.delivered(start);
        assert_eq!(operations.next_deadline(), Some(start + ROW_MEMORY));
    }

    #[test]
    fn fails_each_of_two_operations_that_look_the_same_in_one_payload() {
        let mut operations = Operations::default();
        let received = operations.receive(&rows("530,gw,plc,22\n530,gw,plc,22"));
        assert_eq!(received.reports.len(), 4);
        let answer = operations.receive(&rows("530,gw,plc,22\n530,gw,plc,22"));
        assert_eq!(answer.reports, []);
    }

    #[test]
    fn remembers_a_bounded_number_of_rows_without_a_key() {
        let mut operations = Operations::default();
        for port in 0..2 * REMEMBERED_ROWS {
            operations.receive(&rows(&format!("530,gw,plc,{port}")));
        }
        assert_eq!(operations.rows.by_age.len(), REMEMBERED_ROWS);
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
    fn takes_a_flood_of_operations_that_are_all_open_in_a_moment() {
        use rustix::time::{ClockId, clock_gettime};

        const FLOOD: usize = 20_000;
        /// Of the processor, in a build without optimisation; with a look at each that is open for
        /// each that comes it is twenty times as much.
        const LIMIT: Duration = Duration::from_secs(5);
        let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let mut operations = Operations::default();
        let began = used();
        for payload in 0..FLOOD / 200 {
            let rows: String = (0..200)
                .map(|n| format!("530,gw,plc,22,key-{payload}-{n}\n"))
                .collect();
            assert_eq!(operations.receive(&self::rows(&rows)).start.len(), 200);
        }
        let took = used() - began;
        assert!(took < LIMIT, "{took:?}");
        assert_eq!(operations.open(), FLOOD);
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

    /// The platform: a status goes to the operation that it names, or else to the oldest one of the
    /// device in the state before.
    #[derive(Default)]
    struct Platform {
        /// Device, key and state; the place is the id.
        operations: Vec<(String, String, &'static str)>,
    }

    impl Platform {
        fn take(&mut self, report: &Report) {
            let (before, after) = match &report.status {
                Status::Executing => ("pending", "executing"),
                Status::Successful => ("executing", "successful"),
                Status::Failed(_) => ("executing", "failed"),
            };
            let mut all = self.operations.iter_mut().enumerate();
            let meant = all.find(|(place, (device, _, state))| match &report.operation {
                OperationRef::Id(id) => *id == place.to_string(),
                OperationRef::Oldest(_) => *device == report.device && *state == before,
            });
            let (_, (_, key, state)) = meant.expect("no status without an operation it is for");
            assert_eq!(*state, before, "a status by id at the wrong time");
            if let Status::Failed(reason) = &report.status {
                assert_eq!(
                    reason, key,
                    "the failure of one operation landed on another"
                );
            }
            *state = after;
        }
    }

    /// In which rows an operation arrives.
    #[derive(Clone, Copy, Debug)]
    enum Arrives {
        Static,
        ById,
        /// Without its id, and with it when the next one arrives.
        StaticThenById,
        ByIdThenStatic,
    }

    fn any_arrival() -> impl Strategy<Value = Arrives> {
        use Arrives::{ById, ByIdThenStatic, Static, StaticThenById};
        prop::sample::select(vec![Static, ById, StaticThenById, ByIdThenStatic])
    }

    proptest! {
        #[test]
        fn lands_every_result_on_its_own_operation(
            arrivals in prop::collection::vec(
                (0..3_u8, any_arrival(), any::<bool>(), any::<bool>()),
                1..40,
            ),
            order in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut platform = Platform::default();
            let mut operations = Operations::default();
            let mut running = Vec::new();
            let mut expected = HashMap::new();
            let mut order = order.into_iter();
            let mut late = None;
            for (number, (device, arrives, repeated, succeeds)) in arrivals.into_iter().enumerate() {
                let (device, key) = (format!("d{device}"), format!("k{number}"));
                platform.operations.push((device.clone(), key.clone(), "pending"));
                expected.insert(key.clone(), if succeeds { "successful" } else { "failed" });
                let plain = format!("530,{device},plc,22,{key}");
                let named = format!("901,{device},{number},plc,22,{key}");
                let (first, second) = match arrives {
                    Arrives::Static => (plain, None),
                    Arrives::ById => (named, None),
                    Arrives::StaticThenById => (plain, Some(named)),
                    Arrives::ByIdThenStatic => (named, Some(plain)),
                };
                let copy = repeated.then(|| first.clone());
                for row in [Some(first), late.take(), copy].into_iter().flatten() {
                    let received = operations.receive(&rows(&row));
                    received.reports.iter().for_each(|report| platform.take(report));
                    running.extend(received.start.into_iter().map(|start| (start, succeeds)));
                }
                late = second;
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
