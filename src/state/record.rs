//! What has happened, as far as it is told later: the last operations, and how often what happened.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::snapshot::{FailureKind, Operation, OperationResult, Totals};

/// How many operations are remembered: a day of a busy gateway, in some kilobytes.
const OPERATIONS: usize = 100;

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The oldest first.
    operations: VecDeque<Entry>,
    totals: Totals,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    device: String,
    target: String,
    received_at: Instant,
    result: OperationResult,
    reason: Option<String>,
    failure: Option<FailureKind>,
    took: Option<Duration>,
    open: Option<Duration>,
}

/// How long the two ends of a tunnel took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Took {
    /// To reach the machine.
    pub(crate) target: Duration,
    /// To open the WebSocket.
    pub(crate) cloud: Duration,
}

/// How a tunnel that had opened has ended.
#[derive(Debug)]
pub(crate) struct End {
    /// As people read it.
    pub(crate) reason: String,
    /// Bytes to the cloud.
    pub(crate) up: u64,
    /// Bytes to the machine.
    pub(crate) down: u64,
    /// How long it was open.
    pub(crate) lasted: Duration,
}

impl Record {
    /// Takes the last operations of the process before this one, the newest first. They count in no
    /// total.
    pub(crate) fn remember(&mut self, operations: Vec<Operation>, now: Instant) {
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
        for operation in operations.into_iter().take(OPERATIONS).rev() {
            let age = time(operation.age_s).unwrap_or_default();
            self.operations.push_back(Entry {
                id: operation.id,
                device: operation.device,
                target: operation.target,
                received_at: now.checked_sub(age).unwrap_or(now),
                result: operation.result,
                reason: operation.reason,
                failure: operation.failure,
                took: operation.took_s.and_then(time),
                open: operation.open_s.and_then(time),
            });
        }
    }

    /// Takes note of an operation whose tunnel is to open.
    pub(crate) fn began(&mut self, id: u64, device: &str, target: &str, now: Instant) {
        if self.operations.len() == OPERATIONS {
            self.operations.pop_front();
        }
        self.operations.push_back(Entry {
            id,
            device: device.to_owned(),
            target: target.to_owned(),
            received_at: now,
            result: OperationResult::Executing,
            reason: None,
            failure: None,
            took: None,
            open: None,
        });
    }

    /// Takes note that a tunnel has opened.
    pub(crate) fn opened(&mut self, id: u64, took: Took, now: Instant) {
        self.totals.operations_successful += 1;
        self.totals.target_connect.observe(took.target);
        self.totals.cloud_connect.observe(took.cloud);
        self.finish(id, OperationResult::Successful, now);
    }

    /// Takes note that a tunnel did not open.
    pub(crate) fn failed(&mut self, id: u64, kind: FailureKind, reason: &str, now: Instant) {
        *self.totals.operations_failed.entry(kind).or_default() += 1;
        if let Some(entry) = self.finish(id, OperationResult::Failed, now) {
            entry.failure = Some(kind);
            entry.reason = Some(reason.to_owned());
        }
    }

    fn finish(&mut self, id: u64, result: OperationResult, now: Instant) -> Option<&mut Entry> {
        let entry = self.operations.iter_mut().find(|entry| entry.id == id)?;
        let took = now.saturating_duration_since(entry.received_at);
        entry.result = result;
        entry.took = Some(took);
        self.totals.operation.observe(took);
        Some(entry)
    }

    /// Takes note that a tunnel that had opened has ended.
    pub(crate) fn ended(&mut self, id: u64, end: End) {
        self.totals.tunnels_ended += 1;
        if let Some(entry) = self.operations.iter_mut().find(|entry| entry.id == id) {
            entry.reason = Some(end.reason);
            entry.open = Some(end.lasted);
        }
    }

    /// Returns the last operations, the newest first.
    pub(crate) fn operations(&self, clock: &Clock) -> Vec<Operation> {
        let shown = |entry: &Entry| Operation {
            id: entry.id,
            device: entry.device.clone(),
            target: entry.target.clone(),
            result: entry.result,
            reason: entry.reason.clone(),
            failure: entry.failure,
            received_at: clock.time_of(entry.received_at),
            age_s: clock.age(entry.received_at),
            took_s: entry.took.map(crate::words::seconds),
            open_s: entry.open.map(crate::words::seconds),
        };
        self.operations.iter().rev().map(shown).collect()
    }

    /// Returns what was counted; every kind of failure is there, also those that never were.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.totals.clone();
        for &kind in FailureKind::ALL.iter() {
            totals.operations_failed.entry(kind).or_default();
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn clock(now: Instant) -> Clock {
        Clock {
            now,
            time: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn leads_an_operation_to_its_end() {
        let began = Instant::now();
        let later = |seconds| began + Duration::from_secs(seconds);
        let mut record = Record::default();
        record.began(1, "gw", "plc:22", began);
        let took = Took {
            target: Duration::from_millis(7),
            cloud: Duration::from_secs(1),
        };
        record.opened(1, took, later(1));
        let end = End {
            reason: "closed by the cloud".to_owned(),
            up: 3,
            down: 4,
            lasted: Duration::from_secs(9),
        };
        record.ended(1, end);
        record.began(2, "gw", "plc:23", later(10));
        record.failed(2, FailureKind::Policy, "not allowed", later(12));
        record.began(3, "gw", "plc:24", later(13));
        let [third, second, first] = record
            .operations(&clock(later(20)))
            .try_into()
            .expect("three");
        assert_eq!(third.result, OperationResult::Executing);
        assert_eq!((third.took_s, third.reason), (None, None));
        assert_eq!(second.result, OperationResult::Failed);
        assert_eq!(second.failure, Some(FailureKind::Policy));
        assert_eq!(second.reason.as_deref(), Some("not allowed"));
        assert_eq!((second.age_s, second.took_s), (10.0, Some(2.0)));
        assert_eq!(first.result, OperationResult::Successful);
        assert_eq!((first.took_s, first.open_s), (Some(1.0), Some(9.0)));
        assert_eq!(first.reason.as_deref(), Some("closed by the cloud"));
        let totals = record.totals();
        assert_eq!(totals.operations_successful, 1);
        assert_eq!(totals.operations_failed[&FailureKind::Policy], 1);
        assert_eq!(totals.operations_failed[&FailureKind::Limit], 0);
        assert_eq!(totals.operation.count, 2);
        assert_eq!(totals.target_connect.count, 1);
        assert_eq!(totals.tunnels_ended, 1);
    }

    #[test]
    fn tells_what_another_process_has_done() {
        let began = Instant::now();
        let now = began + Duration::from_hours(1);
        let mut old = Record::default();
        old.began(1, "gw", "plc:22", began);
        old.opened(1, Took::default(), began + Duration::from_secs(1));
        old.began(2, "gw", "plc:23", now);
        old.failed(2, FailureKind::Policy, "not allowed", now);
        let told = old.operations(&clock(now));
        let mut new = Record::default();
        new.remember(told.clone(), now);
        assert_eq!(new.operations(&clock(now)), told);
        assert_eq!(new.totals().operations_successful, 0);
        let strange = Operation {
            age_s: f64::NAN,
            took_s: Some(-1.0),
            ..Operation::default()
        };
        new.remember(vec![strange], now);
        assert_eq!(new.operations(&clock(now))[0].age_s, 0.0);
    }

    #[test]
    fn forgets_the_oldest_of_many_and_still_counts_it() {
        let now = Instant::now();
        let mut record = Record::default();
        for id in 0..1000 {
            record.began(id, "gw", "plc:22", now);
        }
        record.failed(0, FailureKind::Fault, "x", now);
        let operations = record.operations(&clock(now));
        assert_eq!(operations.len(), OPERATIONS);
        assert_eq!((operations[0].id, operations[99].id), (999, 900));
        assert_eq!(record.totals().operations_failed[&FailureKind::Fault], 1);
    }
}
