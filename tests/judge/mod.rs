//! Holds what adit said, and what the platform made of it, against what was asked.
//!
//! The statuses without ids fall on the oldest operation, and docs/guarantees.md admits two ways in which
//! they miss: one that arrives twice because its acknowledgement was lost, and a row that comes live
//! in the moment of a reconnect. The record tells whether that can have happened. Where it has not,
//! the platform has to show the right result of every operation. Where it has, the statuses that
//! adit meant are still right, one by one, in the order in which it was shown the operations.

pub(crate) mod closed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::iter;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rumqttc::Packet;
use simulated_cloud::{Complaint, Operation, OperationId, Record, Status};
use smartrest::{decode, encode};

/// Where the platform delivers rows.
const DOWN: &str = "s/ds";
/// Where adit reports, for itself and its children.
const UP: &str = "s/us";

/// Whether adit is there, which its will says too.
const SERVICE: &str = "104";
/// So long after its result was acknowledged, and soonest, a row without a key that comes once more is another
/// operation to adit, or one whose result has fallen on another.
const ROW_MEMORY: Duration = Duration::from_secs(60);
/// What adit says in the place of a result that was set aside, where it cannot be seen how often that was
/// tried.
const REPLACED: &str = "the reason could not be sent";
/// Closes in a row at a message after which adit does without it.
const TRIALS: usize = 3;
/// How a connection ended that adit has ended: nothing speaks against what was on its way on it.
pub(crate) const BY_ADIT: &str = "by adit";

/// A direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From adit to the broker.
    Up,
    /// From the broker to adit.
    Down,
}

/// Something that happened on a connection between adit and the broker.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    /// The number of the connection.
    pub(crate) connection: usize,
    /// Which adit the connection belongs to, counted from its starts.
    pub(crate) life: usize,
    pub(crate) what: What,
    /// Read once, however often it is judged.
    rows: Arc<OnceLock<Vec<String>>>,
}

impl Seen {
    pub(crate) fn new(at: Instant, connection: usize, life: usize, what: What) -> Self {
        Self {
            at,
            connection,
            life,
            what,
            rows: Arc::default(),
        }
    }

    /// Returns the rows of a message; none of anything else.
    pub(crate) fn rows(&self) -> &[String] {
        self.rows.get_or_init(|| match &self.what {
            What::Packet(_, Packet::Publish(publish)) => decode(&publish.payload)
                .iter()
                .map(|row| encode([row]))
                .collect(),
            _ => Vec::new(),
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Packet(Way, Packet),
    Ended(&'static str),
}

/// What adit says of a tunnel that opened, or where it did not, what is in the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    Success,
    Reason(Vec<String>),
}

/// An operation of a schedule.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) id: OperationId,
    pub(crate) device: String,
    /// As it is delivered.
    pub(crate) row: String,
    /// Any of these is right.
    pub(crate) expected: Vec<Expected>,
    pub(crate) at: Instant,
    pub(crate) life: usize,
    /// Adit ended in some way while this was neither successful nor failed.
    pub(crate) disturbed: bool,
}

impl Asked {
    fn has_key(&self) -> bool {
        let row = decode(self.row.as_bytes()).pop();
        row.is_some_and(|row| row.get(4).is_some())
    }

    /// Whether an operation may end so; `None` is a success.
    fn may_end(&self, reason: Option<&str>) -> bool {
        let is_own = |expected: &Expected| match (expected, reason) {
            (Expected::Success, None) => true,
            (Expected::Reason(words), Some(reason)) => words.iter().all(|w| reason.contains(w)),
            _ => false,
        };
        // Failed at the next start, by the stop itself, or tried again with a key that was used.
        let of_restart = [
            "begun before adit started; connect again",
            "adit is stopping",
            "HTTP 409",
        ];
        let restarted = |reason: &str| of_restart.iter().any(|words| reason.contains(words));
        self.expected.iter().any(is_own) || self.disturbed && reason.is_some_and(restarted)
    }
}

/// All that is known of a schedule that was played.
pub(crate) struct Case<'a> {
    pub(crate) gateway: &'a str,
    pub(crate) asked: &'a [Asked],
    pub(crate) record: &'a [&'a Seen],
    pub(crate) log: &'a [Applied],
    pub(crate) operations: &'a [Operation],
    pub(crate) complaints: &'a [Complaint],
    pub(crate) with_ids: bool,
    /// Those that were not over when all had to be.
    pub(crate) late: &'a [OperationId],
}

/// A row that the platform has heard of the gateway or of one of its children.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    topic: String,
    row: String,
}

/// Returns what the platform has heard on the topics for statuses, in order.
pub(crate) fn applied(log: &[Record]) -> Vec<Applied> {
    let log = log.iter().filter(|record| record.topic.starts_with(UP));
    // The broker says the will itself.
    let log = log.filter(|record| record.row.template() != SERVICE);
    log.map(|record| Applied {
        topic: record.topic.clone(),
        row: encode([&record.row]),
    })
    .collect()
}

/// What is wrong, and what happened that the guarantees admit.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) faults: Vec<String>,
    pub(crate) admitted: Vec<String>,
    /// The topics of the devices of which something was admitted.
    pub(crate) excused: BTreeSet<String>,
    /// The topics of the devices that miss a status, because the broker closed the connection at one so
    /// often that adit does without it.
    pub(crate) without_status: BTreeSet<String>,
}

impl Verdict {
    fn admit(&mut self, topic: &str, words: String) {
        self.excused.insert(topic.to_owned());
        self.admitted.push(words);
    }

    /// Whatever comes after a status that was set aside, the platform takes for that of another operation of
    /// the device.
    fn blame(&mut self, topic: &str, words: String) {
        if !self.without_status.contains(topic) {
            self.faults.push(words);
        }
    }
}

/// A row that adit published and that got through to the broker.
struct Sent<'a> {
    place: usize,
    connection: usize,
    life: usize,
    packet_id: u16,
    topic: &'a str,
    row: &'a str,
    /// The acknowledgement got through to adit.
    acknowledged: bool,
    /// Something older on the connection was not acknowledged.
    is_behind: bool,
    /// The place among those sent of the copy before, where it is a copy.
    copy_of: Option<usize>,
}

impl Sent<'_> {
    fn template(&self) -> &str {
        self.row.split(',').next().unwrap_or_default()
    }

    /// Whether it is a status that names no operation.
    fn is_nameless(&self) -> bool {
        ["501", "502", "503"].contains(&self.template())
    }

    fn is_status(&self) -> bool {
        self.is_nameless() || ["504", "505", "506"].contains(&self.template())
    }

    fn is_replacement_on(&self, topic: &str) -> bool {
        self.topic == topic && self.reason().is_some_and(|reason| reason == REPLACED)
    }

    fn is(&self, applied: &Applied) -> bool {
        self.topic == applied.topic && self.row == applied.row
    }

    fn is_same(&self, other: &Self) -> bool {
        self.topic == other.topic && self.row == other.row
    }

    /// The reason of a failure; `None` for a success.
    fn reason(&self) -> Option<String> {
        let row = decode(self.row.as_bytes()).pop()?;
        (row.template() == "502").then(|| row.get(2).unwrap_or_default().to_owned())
    }
}

impl Case<'_> {
    pub(crate) fn judge(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut sent = self.sent();
        self.mark_repetitions(&mut sent, &mut verdict);
        match self.landed(&sent) {
            Some(landed) => {
                let nameless = (0..sent.len()).filter(|&place| sent[place].is_nameless());
                for place in nameless.filter(|&place| landed[place]) {
                    if copies(&sent, place).skip(1).any(|copy| landed[copy]) {
                        let Sent { topic, row, .. } = sent[place];
                        verdict.admit(topic, format!("{row} arrived twice"));
                    }
                }
            }
            None => verdict.faults.push(
                "the platform has not heard what adit said and the broker acknowledged".to_owned(),
            ),
        }
        if !self.with_ids {
            Belief::new(self).follow(&sent, &mut verdict);
        }
        self.hold_against_the_platform(&sent, &mut verdict);
        verdict
    }

    /// All rows of adit on its topics for statuses, in order.
    fn sent(&self) -> Vec<Sent<'_>> {
        let lost = self.unacknowledged();
        let mut all: Vec<Sent<'_>> = Vec::new();
        for (place, seen) in self.record.iter().enumerate() {
            match &seen.what {
                What::Packet(Way::Up, Packet::Publish(publish))
                    if publish.topic.starts_with(UP) && !says_service(seen) =>
                {
                    let older = lost.range(..(seen.connection, place)).next_back();
                    let rows = seen.rows();
                    assert_eq!(rows.len(), 1, "adit publishes one row at a time: {rows:?}");
                    all.extend(rows.iter().map(|row| Sent {
                        place,
                        connection: seen.connection,
                        life: seen.life,
                        packet_id: publish.pkid,
                        topic: &publish.topic,
                        row,
                        acknowledged: false,
                        is_behind: older.is_some_and(|(other, _)| *other == seen.connection),
                        copy_of: None,
                    }));
                }
                What::Packet(Way::Down, Packet::PubAck(answer)) => {
                    let answered = all.iter_mut().rev().find(|sent| {
                        sent.connection == seen.connection && sent.packet_id == answer.pkid
                    });
                    if let Some(sent) = answered {
                        sent.acknowledged = true;
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// Returns the connection and the place of every message, whatever its topic, that was not
    /// acknowledged.
    fn unacknowledged(&self) -> BTreeSet<(usize, usize)> {
        let mut waiting = HashMap::new();
        for (place, seen) in self.record.iter().enumerate() {
            match &seen.what {
                What::Packet(Way::Up, Packet::Publish(publish)) => {
                    waiting.insert((seen.connection, publish.pkid), place);
                }
                What::Packet(Way::Down, Packet::PubAck(answer)) => {
                    waiting.remove(&(seen.connection, answer.pkid));
                }
                _ => {}
            }
        }
        let places = waiting.into_iter();
        places
            .map(|((connection, _), place)| (connection, place))
            .collect()
    }

    /// A status that was not acknowledged is sent again on a later connection, and before any other
    /// one if it names no operation.
    fn mark_repetitions(&self, sent: &mut [Sent<'_>], verdict: &mut Verdict) {
        // A connection of an earlier one may be noticed to be over later than all else.
        let lives = self.record.iter().map(|seen| seen.life);
        let last_life = lives.max().unwrap_or(0);
        let mut lost = Vec::new();
        for place in 0..sent.len() {
            let status = &sent[place];
            if !status.is_status() {
                continue;
            }
            if status.acknowledged {
                self.mark_kept_order(sent, place);
                continue;
            }
            let is_rival = |other: &Sent<'_>| {
                other.life == status.life
                    && other.is_status()
                    && (other.is_nameless() && status.is_nameless() || other.is_same(status))
            };
            let next = (place + 1..sent.len()).find(|&next| is_rival(&sent[next]));
            let is_set_aside = self.trials(sent, place, next) >= TRIALS
                || next.is_some_and(|next| sent[next].is_replacement_on(status.topic));
            match next {
                None if status.life < last_life => {}
                // What comes next may look the same, and be of the next operation.
                _ if is_set_aside => {
                    verdict.without_status.insert(status.topic.to_owned());
                    verdict.admit(status.topic, format!("{} was set aside", status.row));
                }
                Some(next)
                    if sent[next].is_same(status) && sent[next].connection > status.connection =>
                {
                    sent[next].copy_of = Some(place);
                }
                _ => lost.push(place),
            }
        }
        for place in lost {
            let status = &sent[place];
            let words = format!(
                "{} was not acknowledged on connection {} and is not what comes next",
                status.row, status.connection
            );
            verdict.blame(status.topic, words);
        }
    }

    /// Returns how often a message may have been tried between the status before it and another one, or
    /// for good: as often as it got through, and on each connection on which it may have been lost on its way.
    fn trials(&self, sent: &[Sent<'_>], place: usize, next: Option<usize>) -> usize {
        let tried: BTreeSet<_> = copies(sent, place)
            .map(|copy| sent[copy].connection)
            .collect();
        let begin = first(sent, place);
        let life = sent[begin].life;
        let mut before = sent[..begin].iter().rev();
        let before = before.find(|other| other.life == life && other.is_status());
        let since = before.map_or(0, |before| before.place);
        let until = next.map_or(self.record.len(), |next| sent[next].place);
        let between = self.record.get(since..until).unwrap_or_default();
        let may_be_unseen = |seen: &&&Seen| {
            matches!(seen.what, What::Ended(how) if how != BY_ADIT)
                && seen.life == life
                && !tried.contains(&seen.connection)
                && self.owes_nothing_on(seen.connection)
        };
        tried.len() + between.iter().filter(may_be_unseen).count()
    }

    /// Whether adit was let in on a connection, and everything that is known to have been sent on it was
    /// acknowledged: only then does its end speak against a message that is not known of.
    fn owes_nothing_on(&self, connection: usize) -> bool {
        let mut on_it = self
            .record
            .iter()
            .filter(|seen| seen.connection == connection);
        let lets_in = |what: &What| matches!(what, What::Packet(Way::Down, Packet::ConnAck(_)));
        let owed = self.unacknowledged();
        on_it.any(|seen| lets_in(&seen.what)) && owed.iter().all(|(other, _)| *other != connection)
    }

    /// A status that names its operation is sent again behind an older message that was not
    /// acknowledged, so that both come in order.
    fn mark_kept_order(&self, sent: &mut [Sent<'_>], place: usize) {
        let status = &sent[place];
        if status.is_nameless() || !status.is_behind {
            return;
        }
        let mut later = place + 1..sent.len();
        let is_copy =
            |other: &Sent<'_>| other.is_same(status) && other.connection > status.connection;
        if let Some(copy) = later.find(|&later| is_copy(&sent[later])) {
            sent[copy].copy_of = Some(place);
        }
    }

    /// Which rows reached the platform: all that were acknowledged, and perhaps others.
    fn landed(&self, sent: &[Sent<'_>]) -> Option<Vec<bool>> {
        let log = self.log;
        let (rows, columns) = (sent.len(), log.len());
        let mut fits = vec![vec![false; columns + 1]; rows + 1];
        fits[rows][columns] = true;
        for i in (0..rows).rev() {
            for j in (0..=columns).rev() {
                let heard = j < columns && fits[i + 1][j + 1] && sent[i].is(&log[j]);
                fits[i][j] = heard || !sent[i].acknowledged && fits[i + 1][j];
            }
        }
        if !fits[0][0] {
            return None;
        }
        let mut j = 0;
        Some(
            (0..rows)
                .map(|i| {
                    let heard = j < columns && fits[i + 1][j + 1] && sent[i].is(&log[j]);
                    j += usize::from(heard);
                    heard
                })
                .collect(),
        )
    }

    /// Where ids are asked for and one did not come, its device has the limits of those without.
    fn topics_without_ids<'s>(&self, sent: &[Sent<'s>]) -> BTreeSet<&'s str> {
        let nameless = sent
            .iter()
            .filter(|sent| self.with_ids && sent.is_nameless());
        nameless.map(|sent| sent.topic).collect()
    }

    fn hold_against_the_platform(&self, sent: &[Sent<'_>], verdict: &mut Verdict) {
        let without_ids = self.topics_without_ids(sent);
        for asked in self.asked {
            let topic = topic(self.gateway, &asked.device);
            if without_ids.contains(topic.as_str()) || verdict.excused.contains(&topic) {
                continue;
            }
            let Some(operation) = self.operations.iter().find(|o| o.id == asked.id) else {
                continue;
            };
            let end = operation.status();
            let is_whole = operation.history == [Status::Pending, Status::Executing, end];
            let reason = operation.reason.as_deref();
            let reason = (end == Status::Failed).then(|| reason.unwrap_or_default());
            if !is_whole || !is_end(end) || !asked.may_end(reason) {
                let shown = ended(operation);
                verdict.faults.push(format!("the platform shows {shown}"));
            }
            if self.late.contains(&asked.id) {
                verdict.faults.push(format!("{} came too late", asked.id));
            }
        }
        // By its id, a status that comes too often changes nothing, and the platform says so: a copy,
        // or the second word on a row without a key, which nothing tells from the one with its id
        // when that is late.
        let keyless = |complaint: &Complaint| {
            let id = complaint.row.get(1).unwrap_or_default();
            let asked = self.asked.iter().find(|asked| asked.id.to_string() == id);
            asked.is_some_and(|asked| !asked.has_key())
        };
        let mut twice: Vec<_> = sent.iter().filter(|s| s.copy_of.is_some()).collect();
        // A collection may be created twice, where the answer to the first time is lost.
        let of_statuses = self.complaints.iter().filter(|c| c.topic.starts_with(UP));
        for complaint in of_statuses {
            let row = encode([&complaint.row]);
            let topic = complaint.topic.as_str();
            if keyless(complaint) || without_ids.contains(topic) || verdict.excused.contains(topic)
            {
                continue;
            }
            match twice.iter().position(|s| s.row == row && !s.is_nameless()) {
                Some(place) => drop(twice.remove(place)),
                None => verdict.faults.push(format!(
                    "the platform does not take {row}: {}",
                    complaint.message
                )),
            }
        }
    }
}

/// Where the statuses of a device are said.
fn topic(gateway: &str, device: &str) -> String {
    match device == gateway {
        true => UP.to_owned(),
        false => format!("{UP}/{device}"),
    }
}

fn says_service(seen: &Seen) -> bool {
    let mut templates = seen.rows().iter().map(|row| row.split(',').next());
    templates.any(|template| template == Some(SERVICE))
}

/// Returns a message and what it is a copy of, the first one last.
fn copies(sent: &[Sent<'_>], place: usize) -> impl Iterator<Item = usize> {
    iter::successors(Some(place), |&place| sent[place].copy_of)
}

/// Returns the first one of which a message is a copy, or the message itself.
fn first(sent: &[Sent<'_>], place: usize) -> usize {
    copies(sent, place).last().unwrap_or(place)
}

/// What adit has to think of the operations that it was shown.
#[derive(Default)]
struct Belief<'a> {
    gateway: &'a str,
    asked: &'a [Asked],
    record: &'a [&'a Seen],
    life: usize,
    /// What adit says first on each connection.
    openings: HashMap<usize, Opening>,
    ready: HashSet<usize>,
    held: Vec<(usize, Vec<usize>)>,
    /// Held once in this life.
    early: HashSet<usize>,
    /// Taken in this life, and on which connection.
    taken: HashMap<usize, usize>,
    devices: BTreeMap<String, Queue>,
    /// Ended, or of an earlier life.
    over: HashSet<usize>,
    /// What ended in this life, by the place of its result.
    results: HashMap<usize, usize>,
    /// When the result of one that ended in this life was acknowledged.
    acknowledged: HashMap<usize, Instant>,
    overtaken: Vec<Overtaken>,
    /// Those that an earlier life may have had failed in the place of younger ones.
    lost: HashSet<usize>,
    /// Life, number and connection of everything that was ever taken.
    all_taken: HashSet<(usize, usize, usize)>,
}

/// The announcement of a connection, from `114` to `500`, or the `500` alone where nothing is announced or
/// the record begins with it. Adit is ready when all of it is acknowledged.
#[derive(Default)]
struct Opening {
    unacknowledged: BTreeSet<u16>,
    has_begun: bool,
    is_said: bool,
}

impl Opening {
    fn said(&mut self, packet_id: u16, rows: &[String]) {
        let begins = |row: &String| row.starts_with("114,") || row == "500";
        self.has_begun |= rows.iter().any(begins);
        if self.has_begun && !self.is_said {
            self.unacknowledged.insert(packet_id);
            self.is_said = rows == ["500"];
        }
    }

    /// Takes an acknowledgement; whether it was the last that was missing.
    fn acknowledged(&mut self, packet_id: u16) -> bool {
        self.unacknowledged.remove(&packet_id) && self.is_said && self.unacknowledged.is_empty()
    }
}

/// A result that was said before an older operation of the device was taken.
struct Overtaken {
    older: usize,
    younger: usize,
    life: usize,
    /// On which the younger was taken.
    connection: usize,
    /// The younger came live before adit was ready on it.
    is_early: bool,
}

#[derive(Default)]
struct Queue {
    /// Taken, and not reported as executing.
    waiting: VecDeque<usize>,
    executing: BTreeSet<usize>,
    /// Over, and shown again when adit may have forgotten them.
    doubtful: VecDeque<usize>,
}

impl<'a> Belief<'a> {
    fn new(case: &Case<'a>) -> Self {
        Self {
            gateway: case.gateway,
            asked: case.asked,
            record: case.record,
            ..Self::default()
        }
    }

    fn follow(mut self, sent: &[Sent<'_>], verdict: &mut Verdict) {
        let numbered = sent.iter().enumerate();
        let by_place: HashMap<_, _> = numbered
            .map(|(number, sent)| (sent.place, number))
            .collect();
        let mut waiting = HashMap::new();
        // What an adit that was killed has sent may arrive when the next one speaks already.
        let mut in_order: Vec<_> = self.record.iter().enumerate().collect();
        in_order.sort_by_key(|(_, seen)| seen.life);
        for (place, seen) in in_order {
            if seen.life > self.life {
                self.restart(seen.life);
            }
            match &seen.what {
                What::Packet(Way::Down, Packet::Publish(publish)) if publish.topic == DOWN => {
                    self.shown(seen);
                }
                What::Packet(Way::Down, Packet::PubAck(answer)) => {
                    let opening = self.openings.entry(seen.connection).or_default();
                    if opening.acknowledged(answer.pkid) {
                        self.is_ready(seen.connection, seen.at);
                    }
                    let answered = waiting.remove(&(seen.connection, answer.pkid));
                    let ended = answered.and_then(|place| self.results.get(&place));
                    if let Some(&number) = ended {
                        self.acknowledged.insert(number, seen.at);
                    }
                }
                What::Packet(Way::Up, Packet::Publish(publish)) => {
                    let opening = self.openings.entry(seen.connection).or_default();
                    opening.said(publish.pkid, seen.rows());
                    if let Some(&number) = by_place.get(&place)
                        && sent[number].is_nameless()
                    {
                        if sent[number].copy_of.is_none() {
                            self.said(&sent[number], verdict);
                        }
                        waiting.insert(
                            (seen.connection, publish.pkid),
                            sent[first(sent, number)].place,
                        );
                    }
                }
                _ => {}
            }
        }
        self.judge_overtaken(verdict);
        for (device, queue) in &self.devices {
            if !queue.waiting.is_empty() || !queue.executing.is_empty() {
                let left = queue.waiting.iter().chain(&queue.executing);
                let left: Vec<_> = left.map(|&number| self.asked[number].id.0).collect();
                let words = format!("adit was shown {left:?} of {device} and says no more");
                verdict.blame(&topic(self.gateway, device), words);
            }
        }
    }

    fn restart(&mut self, life: usize) {
        self.life = life;
        self.taken.clear();
        let early = std::mem::take(&mut self.early);
        self.results.clear();
        self.acknowledged.clear();
        for (device, queue) in std::mem::take(&mut self.devices) {
            // Where one that came too early was said to execute, that was an older one to the platform, which is
            // failed at the start of this life, and shown to nobody.
            let mut early = queue.executing.iter().filter(|it| early.contains(it));
            if let Some(&last) = early.next_back() {
                let older = (0..last).filter(|older| {
                    self.asked[*older].device == device && !queue.executing.contains(older)
                });
                self.lost
                    .extend(older.filter(|older| !self.over.contains(older)));
            }
            self.over.extend(queue.executing);
        }
    }

    fn shown(&mut self, seen: &Seen) {
        let connection = seen.connection;
        let shown = seen.rows().iter();
        let numbers: Vec<_> = shown
            .filter_map(|row| self.asked.iter().position(|asked| asked.row == *row))
            .collect();
        if self.ready.contains(&connection) {
            self.take(connection, numbers, seen.at);
        } else {
            self.held.push((connection, numbers));
        }
    }

    /// What came before is taken now; what came on another connection is forgotten.
    fn is_ready(&mut self, connection: usize, now: Instant) {
        self.ready.insert(connection);
        for (held_on, numbers) in std::mem::take(&mut self.held) {
            if held_on == connection {
                self.early.extend(&numbers);
                self.take(connection, numbers, now);
            }
        }
    }

    fn take(&mut self, connection: usize, numbers: Vec<usize>, now: Instant) {
        for number in numbers {
            if self.taken.contains_key(&number) {
                self.shown_again(number, now);
                continue;
            }
            self.taken.insert(number, connection);
            self.all_taken.insert((self.life, number, connection));
            self.over.remove(&number);
            let device = self.asked[number].device.clone();
            self.devices
                .entry(device)
                .or_default()
                .waiting
                .push_back(number);
        }
    }

    /// A row without a key that came so long ago may be forgotten: adit forgets when nothing else is
    /// to be acknowledged.
    fn shown_again(&mut self, number: usize, now: Instant) {
        let asked = &self.asked[number];
        let since = self.acknowledged.get(&number);
        let may_be_forgotten =
            since.is_some_and(|&since| now.saturating_duration_since(since) >= ROW_MEMORY);
        if !asked.has_key() && may_be_forgotten {
            self.acknowledged.remove(&number);
            let queue = self.devices.entry(asked.device.clone()).or_default();
            queue.doubtful.push_back(number);
        }
    }

    fn said(&mut self, sent: &Sent<'_>, verdict: &mut Verdict) {
        let device = sent.topic.strip_prefix(UP).unwrap_or_default();
        let device = device.strip_prefix('/').unwrap_or(self.gateway).to_owned();
        let queue = self.devices.entry(device.clone()).or_default();
        if sent.template() == "501" {
            let next = queue.waiting.pop_front();
            match next.or_else(|| queue.doubtful.pop_front()) {
                Some(number) => drop(queue.executing.insert(number)),
                None => verdict.blame(sent.topic, format!("EXECUTING of {device} for nothing")),
            }
            return;
        }
        let Some(number) = queue.executing.pop_first() else {
            let words = format!("{} of {device} for nothing", sent.row);
            verdict.blame(sent.topic, words);
            return;
        };
        let asked = &self.asked[number];
        let id = asked.id;
        if !asked.may_end(sent.reason().as_deref()) {
            verdict.blame(sent.topic, format!("{} is said of {id}", sent.row));
        }
        self.over.insert(number);
        self.results.insert(sent.place, number);
        // What is older on the platform, and adit has not said that it executes.
        let older = (0..number).filter(|&older| {
            self.asked[older].device == device
                && !self.over.contains(&older)
                && !self.devices[&device].executing.contains(&older)
        });
        let taken_on = self.taken[&number];
        let is_early = self.early.contains(&number);
        self.overtaken.extend(older.map(|older| Overtaken {
            older,
            younger: number,
            life: self.life,
            connection: taken_on,
            is_early,
        }));
    }

    /// A younger operation may have its result before an older one is taken where it came live in the
    /// moment of a reconnect: before adit was ready, or before the answer to `500` that brings the
    /// older one on the same connection; or where a status that arrived twice has taken it
    /// out of that answer.
    fn judge_overtaken(&self, verdict: &mut Verdict) {
        let with_doubles = verdict.excused.clone();
        // To the next adit the platform shows no more of it.
        let mut overtaken_before = self.lost.clone();
        for overtaken in &self.overtaken {
            let taken = (overtaken.life, overtaken.older, overtaken.connection);
            let [older, younger] =
                [overtaken.older, overtaken.younger].map(|number| self.asked[number].id);
            let words = format!("{younger} had its result before adit took {older}");
            let topic = topic(self.gateway, &self.asked[overtaken.older].device);
            let is_admitted = with_doubles.contains(&topic)
                || overtaken.is_early
                || self.all_taken.contains(&taken)
                || overtaken_before.contains(&overtaken.older);
            match is_admitted {
                true => {
                    overtaken_before.insert(overtaken.older);
                    verdict.admit(&topic, words);
                }
                false => verdict.blame(&topic, words),
            }
        }
    }
}

/// Whether an operation with this status is over.
pub(crate) fn is_end(status: Status) -> bool {
    matches!(status, Status::Successful | Status::Failed)
}

/// An operation in one line.
pub(crate) fn ended(operation: &Operation) -> String {
    let Operation {
        id,
        device,
        history,
        reason,
        ..
    } = operation;
    format!(
        "{id} of {device}: {history:?} {}",
        reason.as_deref().unwrap_or_default()
    )
}

/// An entry of the record in one line.
pub(crate) fn line(seen: &Seen) -> String {
    let what = match &seen.what {
        What::Ended(how) => format!("ended {how}"),
        What::Packet(way, packet) => {
            let arrow = match way {
                Way::Up => "->",
                Way::Down => "<-",
            };
            let packet = match packet {
                Packet::Publish(publish) => {
                    // A token tells the time of its day, and is a secret besides.
                    let rows = match seen.rows() {
                        [token] if token.starts_with("71,") => "71,…".to_owned(),
                        rows => rows.join(" | "),
                    };
                    format!("PUBLISH {} {} {rows}", publish.pkid, publish.topic)
                }
                Packet::PubAck(answer) => format!("PUBACK {}", answer.pkid),
                other => format!("{other:?}")
                    .split(['(', ' '])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            };
            format!("{arrow} {packet}")
        }
    };
    format!("#{}.{} {what}", seen.life, seen.connection)
}
