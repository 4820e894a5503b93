//! All that is heard from the platform and of the tunnels, and what is done about it.
//!
//! What comes is handed to whoever decides, and what they decide becomes steps, in order. Carrying
//! the steps out, and the clock, are left to the caller.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use smartrest::{ConnectRequest, Fragment, PendingOperation, Status, Target, Topics, plain_text};
use tracing::{debug, info, warn};

use super::bridge::{Bridge, News};
use super::downlink::Downlink;
use super::fragment::Updates;
use super::ids::{ANSWER_LIMIT, Action, Collection};
use super::operations::{Ignored, OperationId, Operations, Outcome, Received, Report};
use super::uplink::{Closed, Uplink};
use crate::mqtt::outbox::Message;
use crate::words::seconds;

/// Bytes of the policy in the fragment of the device.
const POLICY_LIMIT: usize = 2000;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Step {
    /// Say it, until it is acknowledged.
    Publish(Message),
    /// Say it in the place of what waits for the same topic.
    PublishNewest(Message),
    /// Say it on this connection, ahead of everything else.
    Ask(Message),
    /// Ask once more for a token that is wanted: what was asked before is lost.
    AskForTokenAgain,
    /// Open a tunnel, and tell how that goes.
    Open(OperationId, ConnectRequest),
    /// Take note of an operation of this device that is too malformed to be opened, and why.
    Malformed(OperationId, String, String),
}

/// What waits for the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// Messages that are not acknowledged.
    pub(crate) waiting: usize,
    /// Whether work may be begun that will have to be reported.
    pub(crate) has_room: bool,
}

/// One gateway's dialogue with the platform, across all its connections.
#[derive(Debug)]
pub(crate) struct Dialogue {
    uplink: Uplink,
    operations: Operations,
    /// The device and the target of every operation whose tunnel is opening or open.
    tunnels: HashMap<OperationId, (String, Target)>,
    /// Where operations are asked for with their ids.
    collection: Option<Collection>,
    fragment: Fragment,
    updates: Updates,
    /// Where there is a local broker that bridges.
    bridge: Bridge,
    /// Rows were left out because too much waits for the broker.
    rows_left_out: bool,
    steps: VecDeque<Step>,
}

impl Dialogue {
    /// Begins with nothing heard. `policy` is what the fragment of the device tells of it.
    pub(crate) fn new(uplink: Uplink, device: String, max_tunnels: usize, policy: &str) -> Self {
        Self {
            operations: Operations::default(),
            tunnels: HashMap::new(),
            collection: uplink.has_collection().then(Collection::default),
            fragment: Fragment {
                device,
                active_tunnels: 0,
                limit: max_tunnels,
                policy: plain_text(policy, POLICY_LIMIT),
            },
            updates: Updates::default(),
            bridge: Bridge::default(),
            rows_left_out: false,
            steps: VecDeque::new(),
            uplink,
        }
    }

    pub(crate) fn topics(&self) -> &Topics {
        self.uplink.topics()
    }

    /// Returns what is to be done next.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Takes note of a connection that is ready.
    pub(crate) fn connected(&mut self, backlog: Backlog, now: Instant) {
        self.bridge.connected();
        self.has_cloud(backlog, now);
    }

    /// Takes note that the connection is lost.
    pub(crate) fn disconnected(&mut self) {
        if let Some(collection) = &mut self.collection {
            collection.disconnected();
        }
    }

    fn has_cloud(&mut self, backlog: Backlog, now: Instant) {
        self.steps.push_back(Step::AskForTokenAgain);
        self.collect(backlog, |collection, _| collection.connected(now));
    }

    /// Takes what the platform says. A token is not for this dialogue.
    pub(crate) fn heard(&mut self, said: Downlink, backlog: Backlog, now: Instant) {
        match said {
            Downlink::Operations(pending) if self.collection.is_some() => {
                self.collect(backlog, |collection, operations| {
                    collection.static_rows(pending, now, |operation| operations.knows(operation))
                });
            }
            Downlink::Operations(pending) => self.take(&pending, backlog),
            Downlink::OperationsById(pending) => {
                self.collect(backlog, |collection, _| collection.rows(pending, now));
            }
            Downlink::Collection(answers) => {
                self.collect(backlog, |collection, _| collection.answered(&answers, now));
            }
            Downlink::Complaints(complaints) => {
                for error in complaints {
                    warn!(error, "the platform reports an error");
                }
            }
            Downlink::Bridge(has_cloud) => self.bridge_state(has_cloud, backlog, now),
            Downlink::Token(_) => {}
        }
    }

    /// Does what a session does at its connect when the bridge has the cloud again. The local broker
    /// keeps what was published meanwhile, so the question goes behind that.
    fn bridge_state(&mut self, has_cloud: bool, backlog: Backlog, now: Instant) {
        match self.bridge.told(has_cloud) {
            Some(News::Lost) => {
                warn!("the bridge of the local broker has no cloud");
                self.disconnected();
            }
            Some(News::Back) => {
                info!("the bridge of the local broker has the cloud again");
                if self.collection.is_none() {
                    self.publish(Some(self.uplink.pending_operations()));
                }
                self.has_cloud(backlog, now);
            }
            None => {}
        }
    }

    /// Takes note that everything was acknowledged; `backlog` is what was said since.
    pub(crate) fn delivered(&mut self, backlog: Backlog, now: Instant) {
        if backlog.waiting == 0 {
            self.operations.delivered(now);
        }
        if std::mem::take(&mut self.rows_left_out) {
            let message = self.uplink.pending_operations();
            self.steps.push_back(Step::Publish(message));
        }
    }

    /// Asks for a token.
    pub(crate) fn ask_for_token(&mut self) {
        let message = self.uplink.token_request();
        self.steps.push_back(Step::Ask(message));
    }

    /// Takes note that a tunnel has opened.
    pub(crate) fn opened(&mut self, id: OperationId) {
        let Some((device, target)) = self.tunnels.get(&id).cloned() else {
            return;
        };
        self.fragment.active_tunnels += 1;
        self.finish(&device, id, Outcome::Successful);
        self.publish(self.uplink.opened(&device, &target));
    }

    /// Takes note that a tunnel did not open.
    pub(crate) fn failed(&mut self, id: OperationId, reason: String) {
        if let Some((device, _)) = self.tunnels.remove(&id) {
            self.finish(&device, id, Outcome::Failed(reason));
        }
    }

    /// Takes note that a tunnel that had opened has ended; `None`: by a fault in adit.
    pub(crate) fn ended(&mut self, id: OperationId, closed: Option<Closed>) {
        if let Some((device, target)) = self.tunnels.remove(&id) {
            self.fragment.active_tunnels = self.fragment.active_tunnels.saturating_sub(1);
            self.publish(self.uplink.closed(&device, &target, closed.as_ref()));
        }
    }

    /// Returns when [`Dialogue::deadline_passed`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let collection = self.collection.as_ref();
        [
            collection.and_then(Collection::next_deadline),
            self.updates.next_deadline(),
            self.operations.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what the time has come for.
    pub(crate) fn deadline_passed(&mut self, backlog: Backlog, now: Instant) {
        if self.operations.deadline_passed(now) {
            debug!("asking for operations that look like one that has ended");
            let message = self.uplink.pending_operations();
            self.steps.push_back(Step::Ask(message));
        }
        self.collect(backlog, |collection, _| collection.deadline_passed(now));
    }

    /// Brings the fragment of the device up to date, if that is due.
    pub(crate) fn update_fragment(&mut self, now: Instant) {
        self.publish_fragment(|updates, current| updates.update(current, now));
    }

    /// Does so for the last time.
    pub(crate) fn finish_fragment(&mut self, now: Instant) {
        self.publish_fragment(|updates, current| updates.finish(current, now));
    }

    fn publish_fragment(
        &mut self,
        decide: impl FnOnce(&mut Updates, Fragment) -> Option<Fragment>,
    ) {
        let collection = self.collection.as_ref();
        if !collection.is_some_and(Collection::is_installed) {
            return;
        }
        let due = decide(&mut self.updates, self.fragment.clone());
        let message = due.and_then(|fragment| self.uplink.fragment(&fragment));
        self.steps.extend(message.map(Step::PublishNewest));
    }

    /// Lets the collection decide, if there is one, and does what it says.
    fn collect(
        &mut self,
        backlog: Backlog,
        decide: impl FnOnce(&mut Collection, &Operations) -> Vec<Action>,
    ) {
        let Some(collection) = &mut self.collection else {
            return;
        };
        for action in decide(collection, &self.operations) {
            match action {
                Action::Ask => self.ask(self.uplink.ask_for_collection()),
                Action::Create => {
                    info!("creating the template collection");
                    self.ask(self.uplink.create_collection());
                }
                Action::Resume => self.ask(Some(self.uplink.pending_operations())),
                Action::WarnOfFallback => warn!(
                    waited_s = seconds(ANSWER_LIMIT),
                    "the platform does not answer for template collections: operations are \
                     reported without their ids, a result waits for every older one of its device, \
                     and adit_RemoteAccess is not kept up to date"
                ),
                Action::Take(pending) => self.take(&pending, backlog),
                Action::WithoutId(error) => {
                    debug!(error = error.to_string(), "row left to its static copy");
                }
            }
        }
    }

    fn take(&mut self, pending: &[PendingOperation], backlog: Backlog) {
        if pending.is_empty() {
            return;
        }
        // Nothing younger may overtake what was left out.
        if self.rows_left_out || !backlog.has_room {
            // A cloud that floods adit with rows is not to flood the log too.
            if !std::mem::replace(&mut self.rows_left_out, true) {
                warn!(
                    waiting = backlog.waiting,
                    "operations left for later: too many statuses wait for the broker"
                );
            }
            return;
        }
        let pending = self.answerable(pending);
        let received = self.operations.receive(&pending);
        for ignored in &received.ignored {
            match ignored {
                Ignored::Duplicate { device } => debug!(device, "operation is known already"),
                Ignored::WithoutDevice(error) => {
                    warn!(error = error.to_string(), "row dropped: nobody to answer");
                }
            }
        }
        self.steps.extend(malformed(&received));
        self.report(received.reports);
        for (id, request) in received.start {
            let (device, target) = (request.device.clone(), request.target.clone());
            info!(device, %target, operation = id.0, "operation received");
            self.tunnels.insert(id, (device, target));
            self.steps.push_back(Step::Open(id, request));
        }
    }

    /// Leaves out operations for whose statuses there is no topic. One that names no device is left
    /// to the operations.
    fn answerable(&self, pending: &[PendingOperation]) -> Vec<PendingOperation> {
        let can_answer = |operation: &&PendingOperation| {
            let device = operation.device();
            device.is_err() || device.is_ok_and(|device| self.uplink.topic(device).is_ok())
        };
        let kept: Vec<_> = pending.iter().filter(can_answer).cloned().collect();
        if kept.len() < pending.len() {
            warn!(
                rows = pending.len() - kept.len(),
                "row dropped: no topic can name its device, so nobody can be answered"
            );
        }
        kept
    }

    fn finish(&mut self, device: &str, id: OperationId, outcome: Outcome) {
        let reports = self.operations.finish(device, id, outcome);
        self.report(reports);
    }

    fn report(&mut self, reports: Vec<Report>) {
        for report in reports {
            let Report {
                device,
                operation,
                status,
                ..
            } = &report;
            debug!(device, ?operation, ?status, "operation status");
            match self.uplink.report(report) {
                Ok(messages) => self.steps.extend(messages.into_iter().map(Step::Publish)),
                Err(error) => warn!(
                    error = error.to_string(),
                    "status dropped: no topic for the device"
                ),
            }
        }
    }

    fn publish(&mut self, message: Option<Message>) {
        self.steps.extend(message.map(Step::Publish));
    }

    fn ask(&mut self, message: Option<Message>) {
        self.steps.extend(message.map(Step::Ask));
    }
}

/// Returns the operations that have begun and are not to be opened.
fn malformed(received: &Received) -> Vec<Step> {
    let to_open: HashSet<_> = received.start.iter().map(|(id, _)| *id).collect();
    let mut reasons: HashMap<_, _> = HashMap::new();
    for report in &received.reports {
        if let Status::Failed(reason) = &report.status {
            reasons.insert(report.id, reason.as_str());
        }
    }
    let mut steps = Vec::new();
    for Report {
        device, id, status, ..
    } in &received.reports
    {
        if *status == Status::Executing && !to_open.contains(id) {
            // The result of one may have to wait for an older one of its device.
            let reason = reasons.get(id).unwrap_or(&"the operation is malformed");
            let reason = (*reason).to_owned();
            steps.push(Step::Malformed(*id, device.clone(), reason));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smartrest::CollectionAnswer;

    use super::super::uplink::CollectionTopics;
    use super::*;

    const ROOM: Backlog = Backlog {
        waiting: 0,
        has_room: true,
    };

    fn dialogue() -> Dialogue {
        let uplink = Uplink::new("gw".into(), Topics::default(), None, true, []);
        Dialogue::new(uplink, "gw".into(), 64, "allow private")
    }

    /// One whose collection stands.
    fn dialogue_with_ids() -> Dialogue {
        let topics = Topics::default();
        let collection = CollectionTopics::of(&topics).unwrap();
        let uplink = Uplink::new("gw".into(), topics, Some(collection), true, []);
        let mut dialogue = Dialogue::new(uplink, "gw".into(), 64, "allow private");
        dialogue.connected(ROOM, Instant::now());
        let exists = Downlink::Collection(vec![CollectionAnswer::Exists]);
        dialogue.heard(exists, ROOM, Instant::now());
        steps(&mut dialogue);
        dialogue
    }

    /// Hears rows on `s/ds`, and returns the steps in words.
    fn hear(dialogue: &mut Dialogue, rows: &str, backlog: Backlog) -> Vec<String> {
        let said = Downlink::read(dialogue.topics(), "s/ds", rows.as_bytes()).unwrap();
        dialogue.heard(said, backlog, Instant::now());
        steps(dialogue)
    }

    fn steps(dialogue: &mut Dialogue) -> Vec<String> {
        std::iter::from_fn(|| dialogue.next_step())
            .map(|step| match step {
                Step::Publish(message) => message.payload.replace("c8y_RemoteAccess", ""),
                Step::PublishNewest(message) => format!("newest {}", message.payload),
                Step::Ask(message) => format!("ask {}{}", message.topic, message.payload),
                Step::AskForTokenAgain => "token".to_owned(),
                Step::Open(id, request) => format!("open {} {}", id.0, request.target),
                Step::Malformed(id, _, reason) => format!("malformed {} {reason}", id.0),
            })
            .collect()
    }

    #[test]
    fn leads_an_operation_from_its_row_to_the_end_of_its_tunnel() {
        let mut dialogue = dialogue();
        let heard = hear(&mut dialogue, "530,gw,plc,22,k", ROOM);
        assert_eq!(heard, ["501,Connect", "open 1 plc:22"]);
        dialogue.opened(OperationId(1));
        assert_eq!(
            steps(&mut dialogue),
            ["503,Connect", "400,Opened,tunnel to plc:22 opened"]
        );
        assert_eq!(dialogue.fragment.active_tunnels, 1);
        dialogue.ended(OperationId(1), None);
        assert_eq!(
            steps(&mut dialogue),
            ["400,Closed,\"tunnel to plc:22 closed: internal fault in adit, see its log\""]
        );
        assert_eq!(dialogue.fragment.active_tunnels, 0);
        assert!(dialogue.tunnels.is_empty());
    }

    #[test]
    fn answers_nobody_whom_no_topic_can_name() {
        let mut dialogue = dialogue();
        let heard = hear(
            &mut dialogue,
            "530,plc-\u{fdd0},plc,22,k1\n530,a/b,plc,22,k2\n530,gw,plc,22,k3",
            ROOM,
        );
        assert_eq!(heard, ["501,Connect", "open 1 plc:22"]);
    }

    #[test]
    fn leaves_operations_for_later_while_too_much_waits_for_the_broker() {
        let mut dialogue = dialogue();
        let full = Backlog {
            waiting: 4096,
            has_room: false,
        };
        let nothing: [&str; 0] = [];
        assert_eq!(hear(&mut dialogue, "530,gw,plc,22,k1", full), nothing);
        // Nothing younger may overtake it, though there is room again.
        assert_eq!(hear(&mut dialogue, "530,gw,plc,22,k2", ROOM), nothing);
        dialogue.delivered(ROOM, Instant::now());
        assert_eq!(steps(&mut dialogue), ["500"]);
        let heard = hear(&mut dialogue, "530,gw,plc,22,k1\n530,gw,plc,22,k2", ROOM);
        assert_eq!(heard.len(), 4);
    }

    #[test]
    fn forgets_a_row_without_a_key_only_when_nothing_more_was_said() {
        let now = Instant::now();
        let mut dialogue = dialogue();
        hear(&mut dialogue, "530,gw,plc,22", ROOM);
        let said_since = Backlog { waiting: 2, ..ROOM };
        dialogue.delivered(said_since, now);
        assert_eq!(dialogue.next_deadline(), None);
        dialogue.delivered(ROOM, now);
        let deadline = dialogue.next_deadline().unwrap();
        hear(&mut dialogue, "530,gw,plc,22", ROOM);
        dialogue.deadline_passed(ROOM, deadline);
        assert_eq!(steps(&mut dialogue), ["ask s/us500"]);
    }

    #[test]
    fn asks_for_operations_when_the_bridge_has_the_cloud_again() {
        let now = Instant::now();
        let mut dialogue = dialogue();
        dialogue.connected(ROOM, now);
        assert_eq!(
            steps(&mut dialogue),
            ["token"],
            "the session asks by itself"
        );
        for (has_cloud, then) in [
            (true, &[][..]),
            (false, &[]),
            (true, &["500", "token"]),
            (true, &["500", "token"]),
        ] {
            dialogue.heard(Downlink::Bridge(has_cloud), ROOM, now);
            assert_eq!(steps(&mut dialogue), then);
        }
    }

    #[test]
    fn takes_a_row_once_though_the_connection_breaks_before_its_id_comes() {
        type Lose = fn(&mut Dialogue);
        let ways: [(Lose, Lose); 2] = [
            (Dialogue::disconnected, |dialogue| {
                dialogue.connected(ROOM, Instant::now());
            }),
            (
                |dialogue| dialogue.heard(Downlink::Bridge(false), ROOM, Instant::now()),
                |dialogue| dialogue.heard(Downlink::Bridge(true), ROOM, Instant::now()),
            ),
        ];
        let nothing: [&str; 0] = [];
        for (lose, come_back) in ways {
            let mut dialogue = dialogue_with_ids();
            let row = "530,gw,plc,22";
            assert_eq!(hear(&mut dialogue, row, ROOM), nothing);
            lose(&mut dialogue);
            let later = Instant::now() + Duration::from_mins(1);
            dialogue.deadline_passed(ROOM, later);
            assert_eq!(steps(&mut dialogue), nothing);
            come_back(&mut dialogue);
            assert!(steps(&mut dialogue).contains(&"ask s/us500".to_owned()));
            assert_eq!(hear(&mut dialogue, row, ROOM), nothing);
            let by_id = smartrest::decode(b"901,gw,1,plc,22,");
            let by_id = PendingOperation::from_collection_row(&by_id[0]).unwrap();
            dialogue.heard(Downlink::OperationsById(vec![by_id]), ROOM, Instant::now());
            let reason = "the connection key is missing";
            let malformed = format!("malformed 1 {reason}");
            let failed = format!("505,1,{reason}");
            assert_eq!(steps(&mut dialogue), [&malformed, "504,1", &failed]);
            dialogue.deadline_passed(ROOM, later);
            assert_eq!(steps(&mut dialogue), nothing);
        }
    }

    #[test]
    fn asks_for_a_token() {
        let mut dialogue = dialogue();
        dialogue.ask_for_token();
        assert_eq!(steps(&mut dialogue), ["ask s/uat"]);
    }
}
