//! Decides which operation is in which state, and what may be reported next.
//!
//! `501`, `502` and `503` name no operation: the platform applies them to the oldest one of the
//! device that is pending or executing. Tunnels open in any order, so a result waits here until
//! every older one of its device is out. Where the platform has told an operation's id, `504` to
//! `506` name it, and its result waits for no other; but it is as old as any, and those without an
//! id wait for it. Where the id may still come, the statuses wait for it, for as long as the caller
//! says; the tunnel does not. Opening and publishing are left to the caller.
//!
//! A row can come again: live, and in the answer to `500`. Its connection key tells whether it is a
//! copy. A row without key or id could as well be another operation that looks the same, so it
//! counts as a copy only as long as the platform may not know how the first one ended; when that
//! time is over, the caller asks `500` once more for what was perhaps no copy.

mod memory;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use smartrest::{ConnectRequest, FieldError, OperationRef, PendingOperation, Status};

pub(crate) use memory::Memory;
use memory::{Hashing, Identity, Meeting, RememberedKeys, RememberedRows};

/// How long a row without a key is remembered when its statuses are acknowledged: until then an
/// answer that the platform began before it knew them has surely come.
pub(crate) const ROW_MEMORY: Duration = Duration::from_secs(60);
/// Why an operation fails whose connection key came with the id of another.
const KEY_OF_ANOTHER: &str = "the connection key is that of another operation";

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
    /// Operations that fail at once, with their device and the reason.
    pub(crate) malformed: Vec<(OperationId, String, String)>,
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
    devices: BTreeMap<String, VecDeque<Open>>,
    /// How many of them are not reported as executing.
    unsaid: usize,
    /// No id can come for now, and no wait for one ends.
    is_suspended: bool,
    keys: RememberedKeys,
    ids: RememberedKeys,
    rows: RememberedRows,
    last_id: u64,
    hasher: Hashing,
}

/// An operation that was not reported as ended.
#[derive(Debug)]
struct Open {
    id: OperationId,
    row: Identity,
    /// A request that has neither key nor id, by which a copy with the id is known.
    nameless: Option<PendingOperation>,
    operation: OperationRef,
    /// It was reported as executing.
    is_said: bool,
    /// Until when its statuses wait for the id.
    wait_until: Option<Instant>,
    outcome: Option<Outcome>,
}

/// What a request is to those that came before.
enum Relation {
    New,
    Copy,
    /// A copy that brings the id.
    Names,
    /// Another operation with the same connection key.
    Stranger,
}

impl Operations {
    /// Returns what the process that takes over is to know. Nothing may be open.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            hashing: self.hasher,
            keys: self.keys.all(),
            ids: self.ids.all(),
            rows: self.rows.all(),
            last_id: self.last_id,
        }
    }

    /// Begins with what the process before this one knew.
    pub(crate) fn remembering(memory: Memory, now: Instant) -> Self {
        let mut operations = Self {
            hasher: memory.hashing,
            last_id: memory.last_id,
            ..Self::default()
        };
        operations.keys.remember(memory.keys);
        operations.ids.remember(memory.ids);
        operations.rows.remember_all(memory.rows, now + ROW_MEMORY);
        operations
    }

    /// Takes the requests of one payload, oldest first as the platform sends them. The statuses of
    /// those without an id wait for it until `wait_until`.
    ///
    /// The answer to `500` may repeat one that came live before. Such a copy opens nothing, but it
    /// tells which others of the payload are older than it, and they take their place before it. A
    /// copy that brings the operation's id makes its result wait for no other.
    pub(crate) fn receive(
        &mut self,
        pending: &[PendingOperation],
        wait_until: Option<Instant>,
    ) -> Received {
        let identities: Vec<_> = pending.iter().map(|o| self.identify(o)).collect();
        let last_place: HashMap<_, _> = identities.iter().zip(0..).collect();
        // The platform repeats an operation in another payload, never in the same one.
        let came_before: Vec<_> = identities.iter().map(|&i| self.rows.contains(i)).collect();
        // Looking for younger ones among all that are open is for answers that repeat one; a flood of
        // new ones would take a time that grows with its square.
        let repeats = pending.iter().any(|o| self.knows(o));
        // Those of the payload itself are in order, also where two of them look the same.
        let before_payload = self.last_id;
        let mut received = Received::default();
        for (place, (operation, &identity)) in pending.iter().zip(&identities).enumerate() {
            let device = match operation.device() {
                Ok(device) => device.to_owned(),
                Err(missing) => {
                    received.ignored.push(Ignored::WithoutDevice(missing));
                    continue;
                }
            };
            let relation = self.relate(operation, identity, &device, came_before[place]);
            let identity = match relation {
                Relation::Copy | Relation::Names => {
                    if let Relation::Names = relation {
                        received
                            .reports
                            .extend(self.name(&device, identity, operation));
                    }
                    received.ignored.push(Ignored::Duplicate { device });
                    continue;
                }
                Relation::New => identity,
                Relation::Stranger => self.identify_id(operation).unwrap_or(identity),
            };
            self.last_id += 1;
            let id = OperationId(self.last_id);
            let queue = self.devices.entry(device.clone()).or_default();
            let is_younger = |open: &Open| {
                let last_place = last_place.get(&open.row);
                open.id.0 <= before_payload && last_place.is_some_and(|&at| at > place)
            };
            let younger = match repeats {
                true => queue.iter().position(is_younger),
                false => None,
            };
            let index = younger.unwrap_or(queue.len());
            let has_id = has_id(operation);
            // Where all older ones are reported, nothing has to be looked for among them.
            let is_said = has_id || (wait_until.is_none() && self.unsaid == 0);
            queue.insert(
                index,
                Open {
                    id,
                    row: identity,
                    nameless: (!is_unique(operation)).then(|| operation.clone()),
                    operation: operation.reference().clone(),
                    is_said,
                    wait_until: wait_until.filter(|_| !is_said),
                    outcome: None,
                },
            );
            if is_said {
                received.reports.push(Report {
                    device: device.clone(),
                    id,
                    operation: operation.reference().clone(),
                    status: Status::Executing,
                });
            } else {
                self.unsaid += 1;
                if wait_until.is_none() {
                    received.reports.extend(self.due(&device));
                }
            }
            let request = match relation {
                Relation::Stranger => Err(KEY_OF_ANOTHER.to_owned()),
                _ => operation.request().map_err(|error| error.to_string()),
            };
            match request {
                Ok(request) => received.start.push((id, request)),
                Err(reason) => {
                    let failed = Outcome::Failed(reason.clone());
                    received.malformed.push((id, device.clone(), reason));
                    received.reports.extend(self.finish(&device, id, failed));
                }
            }
        }
        self.devices.retain(|_, queue| !queue.is_empty());
        received
    }

    /// Says what a request is to those that came before, and remembers it.
    fn relate(
        &mut self,
        operation: &PendingOperation,
        identity: Identity,
        device: &str,
        came_before: bool,
    ) -> Relation {
        let id = self.identify_id(operation);
        let is_repeated = id.is_some_and(|id| self.ids.meet(id, Some(id)) != Meeting::First);
        match (operation.key(), id) {
            (_, Some(_)) if is_repeated => Relation::Copy,
            (Some(_), id) => match (self.keys.meet(identity, id), id) {
                (Meeting::First, _) => Relation::New,
                (Meeting::Nameless, Some(_)) => Relation::Names,
                (Meeting::Named(known), Some(id)) if known != id => Relation::Stranger,
                (Meeting::Nameless | Meeting::Named(_), _) => Relation::Copy,
            },
            (None, Some(_)) => {
                let row = self.identify_row(operation);
                let is_answered = self.rows.name(row);
                let queue = self.devices.get_mut(device);
                let mut open = queue.into_iter().flatten();
                let names_open = open.any(|open| open.take_name(operation, identity));
                if names_open {
                    return Relation::Names;
                }
                // A copy without the id counts as one for a while.
                self.rows.remember(row, true);
                match is_answered {
                    true => Relation::Copy,
                    false => Relation::New,
                }
            }
            (None, None) if came_before => {
                self.rows.came_again();
                Relation::Copy
            }
            (None, None) => {
                self.rows.remember(identity, false);
                Relation::New
            }
        }
    }

    /// Names the open operation that a copy brings the id of.
    fn name(&mut self, device: &str, identity: Identity, copy: &PendingOperation) -> Vec<Report> {
        let queue = self.devices.get_mut(device);
        let mut open = queue.into_iter().flatten();
        let Some(open) = open.find(|open| open.row == identity) else {
            return Vec::new();
        };
        open.operation = copy.reference().clone();
        self.due(device)
    }

    /// Whether a request is a copy of one that came before.
    pub(crate) fn knows(&self, operation: &PendingOperation) -> bool {
        let identity = self.identify(operation);
        match operation.key() {
            Some(_) => self.keys.contains(identity),
            None => self.ids.contains(identity) || self.rows.contains(identity),
        }
    }

    /// The identity of its connection key, or where there is none, of its id or of all its values.
    fn identify(&self, operation: &PendingOperation) -> Identity {
        match operation.key() {
            Some(key) => self.hasher.hash_one(key),
            None => self
                .identify_id(operation)
                .unwrap_or_else(|| self.identify_row(operation)),
        }
    }

    fn identify_id(&self, operation: &PendingOperation) -> Option<Identity> {
        match operation.reference() {
            OperationRef::Id(id) => Some(self.hasher.hash_one(("id", id))),
            OperationRef::Oldest(_) => None,
        }
    }

    fn identify_row(&self, operation: &PendingOperation) -> Identity {
        self.hasher.hash_one(operation.values())
    }

    /// How many operations wait for their ids, or for an older one that does.
    pub(crate) fn unsaid(&self) -> usize {
        self.unsaid
    }

    /// Takes note that no id can come before [`Operations::resume`].
    pub(crate) fn suspend(&mut self) {
        self.is_suspended = true;
    }

    /// Whether there is no connection to the platform.
    pub(crate) fn are_suspended(&self) -> bool {
        self.is_suspended
    }

    /// Lets everything that waits for its id wait until then, and no longer.
    pub(crate) fn resume(&mut self, wait_until: Instant) {
        self.is_suspended = false;
        for open in self.devices.values_mut().flatten() {
            open.wait_until = open.wait_until.map(|_| wait_until);
        }
    }

    /// Returns how many operations have waited in vain until now, and what is to be reported.
    pub(crate) fn ids_missing(&mut self, now: Instant) -> (usize, Vec<Report>) {
        match self.next_id_deadline() {
            Some(at) if at <= now => self.wait_no_longer(|until| until <= now),
            _ => (0, Vec::new()),
        }
    }

    /// Lets no operation wait for its id any more.
    pub(crate) fn give_up_ids(&mut self) -> Vec<Report> {
        self.wait_no_longer(|_| true).1
    }

    fn wait_no_longer(&mut self, is_over: impl Fn(Instant) -> bool) -> (usize, Vec<Report>) {
        let mut given_up = 0;
        for open in self.devices.values_mut().flatten() {
            given_up += usize::from(open.wait_until.take_if(|until| is_over(*until)).is_some());
        }
        if given_up == 0 {
            return (0, Vec::new());
        }
        let devices: Vec<_> = self.devices.keys().cloned().collect();
        let reports = devices.iter().flat_map(|device| self.due(device)).collect();
        self.devices.retain(|_, queue| !queue.is_empty());
        (given_up, reports)
    }

    fn next_id_deadline(&self) -> Option<Instant> {
        if self.is_suspended || self.unsaid == 0 {
            return None;
        }
        let open = self.devices.values().flatten();
        open.filter_map(|open| open.wait_until).min()
    }

    /// Takes note that every status handed out before `now` is acknowledged.
    pub(crate) fn delivered(&mut self, now: Instant) {
        let devices = &self.devices;
        self.rows.forget_later(now + ROW_MEMORY, |row| {
            devices.values().flatten().any(|open| open.row == row)
        });
    }

    /// Returns when [`Operations::ids_missing`] and [`Operations::deadline_passed`] are to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.rows.next_deadline(), self.next_id_deadline()]
            .into_iter()
            .flatten()
            .min()
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
        self.due(device)
    }

    /// Takes what may be reported now of a device: of those with an id all, of those without one only
    /// what no older one is to be told of before.
    fn due(&mut self, device: &str) -> Vec<Report> {
        let mut reports = Vec::new();
        let Some(queue) = self.devices.get_mut(device) else {
            return reports;
        };
        let (mut is_next, mut is_oldest) = (true, true);
        queue.retain_mut(|open| {
            let has_name = matches!(open.operation, OperationRef::Id(_));
            let report = |status| Report {
                device: device.to_owned(),
                id: open.id,
                operation: open.operation.clone(),
                status,
            };
            if !open.is_said && (has_name || (is_next && open.wait_until.is_none())) {
                open.is_said = true;
                open.wait_until = None;
                self.unsaid -= 1;
                reports.push(report(Status::Executing));
            }
            is_next &= open.is_said;
            let may_go = open.is_said && (is_oldest || has_name);
            let outcome = open.outcome.take_if(|_| may_go);
            is_oldest &= outcome.is_some();
            match outcome {
                Some(outcome) => reports.push(report(outcome.into())),
                None => return true,
            }
            false
        });
        reports
    }

    /// Whether every operation is reported as ended.
    pub(crate) fn are_reported(&self) -> bool {
        self.devices.values().all(VecDeque::is_empty)
    }

    /// How many operations are not reported as ended.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.devices.values().map(VecDeque::len).sum()
    }
}

/// Whether a request tells the id of its operation.
fn has_id(operation: &PendingOperation) -> bool {
    matches!(operation.reference(), OperationRef::Id(_))
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
    operation.key().is_some() || has_id(operation)
}

#[cfg(test)]
mod tests;
