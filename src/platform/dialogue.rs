//! All that is heard from the platform and of the tunnels, and what is done about it.
//!
//! What comes is handed to whoever decides, and what they decide becomes steps, in order. Carrying
//! the steps out, and the clock, are left to the caller.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use smartrest::{ConnectRequest, PendingOperation, Target, Topics, plain_text};
use tracing::{debug, info, warn};

use super::bridge::{Bridge, News};
use super::downlink::{Complaint, Downlink};
use super::fragment::{Fragment, Updates};
use super::ids::Ids;
use super::ids::collection::{ANSWER_LIMIT, Action, Collection};
use super::ids::notifications::PAIR_LIMIT;
use super::newer::NewerTemplate;
use super::notification::Notified;
use super::operations::{Ignored, Memory, OperationId, Operations, Outcome, Report};
use super::settings::OperationIds;
use super::uplink::Uplink;
use crate::mqtt::outbox::Message;
use crate::state::record::End;
use crate::words::seconds;

/// Bytes of the policy in the fragment of the device.
const POLICY_LIMIT: usize = 2000;

/// Operations that wait for their ids at a time; with more none waits any more.
const UNSAID_LIMIT: usize = 4096;

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
    ids: Ids,
    /// A connection was ready once.
    is_announced: bool,
    fragment: Fragment,
    updates: Updates,
    /// Said already.
    unknown_templates: Vec<&'static str>,
    /// Where there is a local broker that bridges.
    bridge: Bridge,
    /// Rows were left out because too much waits for the broker.
    rows_left_out: bool,
    /// No operation is begun any more.
    is_leaving: bool,
    steps: VecDeque<Step>,
}

impl Dialogue {
    /// Begins with nothing heard. `policy` is what the fragment of the device tells of it.
    pub(crate) fn new(
        uplink: Uplink,
        operation_ids: OperationIds,
        max_tunnels: usize,
        policy: &str,
    ) -> Self {
        Self {
            operations: Operations::default(),
            tunnels: HashMap::new(),
            ids: Ids::from(operation_ids),
            is_announced: false,
            fragment: Fragment::new(max_tunnels, plain_text(policy, POLICY_LIMIT)),
            updates: Updates::default(),
            unknown_templates: Vec::new(),
            bridge: Bridge::default(),
            rows_left_out: false,
            is_leaving: false,
            steps: VecDeque::new(),
            uplink,
        }
    }

    /// Tells other things of the tunnels from now on: how many there may be, the policy, and whether
    /// there are events.
    pub(crate) fn renew(&mut self, max_tunnels: usize, policy: &str, events: bool) {
        self.fragment.limit = max_tunnels;
        self.fragment.policy = plain_text(policy, POLICY_LIMIT);
        self.uplink.send_events(events);
    }

    pub(crate) fn topics(&self) -> &Topics {
        self.uplink.topics()
    }

    /// Returns the templates that the platform was found too old for.
    pub(crate) fn unknown_templates(&self) -> &[&'static str] {
        &self.unknown_templates
    }

    /// Returns what is to be done next.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Takes note of a connection that is ready.
    pub(crate) fn connected(&mut self, backlog: Backlog, now: Instant) {
        self.is_announced = true;
        self.bridge.connected();
        self.has_cloud(backlog, now);
    }

    /// Takes note that the connection is lost.
    pub(crate) fn disconnected(&mut self) {
        self.operations.suspend();
        if let Some(collection) = self.ids.collection() {
            collection.disconnected();
        }
    }

    /// Takes note that the broker refuses a topic that adit can do without.
    pub(crate) fn refused(&mut self, topic: &str) {
        let Ids::Notifications(notifications) = &mut self.ids else {
            return;
        };
        if topic == self.uplink.topics().notifications() {
            let is_news = notifications.refused();
            self.give_up_ids(is_news, "the broker refuses the subscription");
        }
    }

    fn has_cloud(&mut self, backlog: Backlog, now: Instant) {
        self.operations.resume(now + PAIR_LIMIT);
        self.steps.push_back(Step::AskForTokenAgain);
        self.collect(backlog, |collection, _| collection.connected(now));
    }

    /// Takes what the platform says. A token is not for this dialogue.
    pub(crate) fn heard(&mut self, said: Downlink, backlog: Backlog, now: Instant) {
        // A broker may keep an old word of its bridge for ever.
        let is_of_the_cloud = matches!(
            said,
            Downlink::Operations(_) | Downlink::Notified(_) | Downlink::OperationsById(_)
        );
        if is_of_the_cloud && self.bridge.is_lost() {
            debug!("an operation comes through the bridge, so it has the cloud");
            self.bridge_state(true, backlog, now);
        }
        match said {
            Downlink::Operations(pending) if self.ids.collection().is_some() => {
                self.collect(backlog, |collection, operations| {
                    collection.static_rows(pending, now, |operation| operations.knows(operation))
                });
            }
            Downlink::Operations(pending) => {
                let wait_until = self.await_ids(now);
                self.take(&pending, wait_until, backlog);
            }
            Downlink::Notified(notified) => self.notified(notified, backlog),
            Downlink::OperationsById(pending) => {
                self.collect(backlog, |collection, _| collection.rows(pending, now));
            }
            Downlink::Collection(answers) => {
                self.collect(backlog, |collection, _| collection.answered(&answers, now));
            }
            Downlink::Complaints(complaints) => {
                for complaint in complaints {
                    self.complained(complaint);
                }
            }
            Downlink::Bridge(has_cloud) => self.bridge_state(has_cloud, backlog, now),
            Downlink::Token(_) => {}
        }
    }

    fn complained(&mut self, complaint: Complaint) {
        let template = match complaint {
            Complaint::DeviceExists => return debug!("the device exists"),
            // Told to whoever waits for one.
            Complaint::NoToken => return,
            Complaint::Other(error) => return warn!(error, "the platform reports an error"),
            Complaint::UnknownTemplate(template) => template,
        };
        let newer = NewerTemplate::find(&template);
        let Some(NewerTemplate { id, since, without }) = newer else {
            return warn!(template, "the platform does not know a template");
        };
        if !self.unknown_templates.contains(id) {
            self.unknown_templates.push(id);
            warn!(
                template,
                since, "the platform is too old for a template: {without}"
            );
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
                if self.ids.collection().is_none() {
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
        if !self.is_leaving && std::mem::take(&mut self.rows_left_out) {
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
        self.fragment.open += 1;
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
    pub(crate) fn ended(&mut self, id: OperationId, end: Option<&End>) {
        if let Some((device, target)) = self.tunnels.remove(&id) {
            self.fragment.open = self.fragment.open.saturating_sub(1);
            self.publish(self.uplink.closed(&device, &target, end));
        }
    }

    /// Returns when [`Dialogue::deadline_passed`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let collection = match &self.ids {
            Ids::Templates(collection) => collection.next_deadline(),
            Ids::Notifications(_) | Ids::None => None,
        };
        [
            collection,
            self.updates.next_deadline().filter(|_| !self.is_leaving),
            self.operations.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what the time has come for.
    pub(crate) fn deadline_passed(&mut self, backlog: Backlog, now: Instant) {
        let may_be_left = self.operations.deadline_passed(now);
        // Who comes back asks by itself.
        let can_ask = !self.is_leaving && !self.operations.are_suspended();
        if may_be_left && can_ask {
            debug!("asking for operations that look like one that has ended");
            let message = self.uplink.pending_operations();
            self.steps.push_back(Step::Ask(message));
        }
        self.collect(backlog, |collection, _| collection.deadline_passed(now));
        let (rows, reports) = self.operations.ids_missing(now);
        self.report(reports);
        if let Ids::Notifications(notifications) = &mut self.ids
            && rows > 0
        {
            debug!(rows, "no notification brought the id in time");
            let is_news = notifications.missing(rows);
            if !notifications.are_awaited() {
                self.give_up_ids(is_news, "none has come for several operations in a row");
            }
        }
    }

    /// Begins no operation from now on: those that come stay pending on the platform. What has begun
    /// is still reported.
    pub(crate) fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Begins operations again, those that came meanwhile too.
    pub(crate) fn begin_again(&mut self) {
        if std::mem::take(&mut self.is_leaving) {
            self.rows_left_out = false;
            let message = self.uplink.pending_operations();
            self.steps.push_back(Step::Publish(message));
        }
    }

    /// Returns what the process that takes over is to know of the operations.
    pub(crate) fn memory(&self) -> Memory {
        self.operations.memory()
    }

    /// Begins with what the process before this one knew of the operations.
    #[must_use]
    pub(crate) fn remembering(self, memory: Memory, now: Instant) -> Self {
        Self {
            operations: Operations::remembering(memory, now),
            ..self
        }
    }

    /// Whether every operation that was begun is reported as ended.
    pub(crate) fn all_is_said(&self) -> bool {
        self.operations.are_reported()
    }

    /// Takes note that adit stops: what waits for an id waits no longer.
    pub(crate) fn stopping(&mut self) {
        let reports = self.operations.give_up_ids();
        self.report(reports);
    }

    /// Returns until when the statuses of rows that come now wait for the ids.
    fn await_ids(&mut self, now: Instant) -> Option<Instant> {
        let Ids::Notifications(notifications) = &self.ids else {
            return None;
        };
        if self.operations.unsaid() >= UNSAID_LIMIT {
            let reports = self.operations.give_up_ids();
            self.report(reports);
            return None;
        }
        notifications.are_awaited().then_some(now + PAIR_LIMIT)
    }

    fn give_up_ids(&mut self, is_news: bool, reason: &str) {
        if is_news {
            warn!(
                topic = self.uplink.topics().notifications(),
                reason,
                "operations come without their ids: until one comes with it they are reported in the \
                 order of their start, and a result waits for every older one of its device"
            );
        }
        let reports = self.operations.give_up_ids();
        self.report(reports);
    }

    fn notified(&mut self, notified: Notified, backlog: Backlog) {
        let Ids::Notifications(notifications) = &mut self.ids else {
            return;
        };
        if notified.has_operation() {
            notifications.delivered();
        }
        let Notified {
            pending,
            executing,
            others,
            unreadable,
        } = notified;
        if others > 0 || unreadable > 0 {
            debug!(others, unreadable, "notifications passed over");
        }
        let gateway = self.uplink.gateway();
        let known = executing.into_iter().filter(|o| self.operations.knows(o));
        let pending = pending.into_iter().chain(known);
        let pending: Vec<_> = pending.map(|o| o.or_of(gateway)).collect();
        self.take(&pending, None, backlog);
    }

    /// Brings the fragment of the device up to date, if that is due. Where operations are left to another
    /// process, so is the fragment, which tells of the tunnels of that one.
    pub(crate) fn update_fragment(&mut self, now: Instant) {
        if self.is_leaving {
            return;
        }
        self.publish_fragment(|updates, current| updates.update(current, now));
    }

    /// Does so for the last time.
    pub(crate) fn finish_fragment(&mut self, now: Instant) {
        self.publish_fragment(|updates, current| updates.finish(current, now));
    }

    fn publish_fragment(
        &mut self,
        decide: impl FnOnce(&mut Updates, &Fragment) -> Option<Fragment>,
    ) {
        if !self.is_announced {
            return;
        }
        let due = decide(&mut self.updates, &self.fragment);
        let message = due.and_then(|fragment| self.uplink.fragment(&fragment));
        self.steps.extend(message.map(Step::PublishNewest));
    }

    /// Lets the collection decide, if there is one, and does what it says.
    fn collect(
        &mut self,
        backlog: Backlog,
        decide: impl FnOnce(&mut Collection, &Operations) -> Vec<Action>,
    ) {
        let Some(collection) = self.ids.collection() else {
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
                     reported without their ids, and a result waits for every older one of its \
                     device"
                ),
                Action::Take(pending) => self.take(&pending, None, backlog),
                Action::WithoutId(error) => {
                    debug!(error = error.to_string(), "row left to its static copy");
                }
            }
        }
    }

    fn take(
        &mut self,
        pending: &[PendingOperation],
        wait_until: Option<Instant>,
        backlog: Backlog,
    ) {
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
        let mut pending = self.answerable(pending);
        if self.is_leaving {
            // One that is known may bring its id.
            pending.retain(|operation| self.operations.knows(operation));
        }
        let received = self.operations.receive(&pending, wait_until);
        for ignored in &received.ignored {
            match ignored {
                Ignored::Duplicate { device } => debug!(device, "operation is known already"),
                Ignored::WithoutDevice(error) => {
                    warn!(error = error.to_string(), "row dropped: nobody to answer");
                }
            }
        }
        let malformed = received.malformed.into_iter();
        self.steps
            .extend(malformed.map(|(id, device, reason)| Step::Malformed(id, device, reason)));
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
        dialogue_with(OperationIds::None)
    }

    fn dialogue_with(operation_ids: OperationIds) -> Dialogue {
        let uplink = Uplink::new("gw".into(), Topics::default(), None, true, []);
        Dialogue::new(uplink, operation_ids, 64, "allow private")
    }

    /// One whose collection stands.
    fn dialogue_with_ids() -> Dialogue {
        let topics = Topics::default();
        let collection = CollectionTopics::of(&topics).unwrap();
        let uplink = Uplink::new("gw".into(), topics, Some(collection), true, []);
        let mut dialogue = Dialogue::new(uplink, OperationIds::Templates, 64, "allow private");
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
        assert_eq!(dialogue.fragment.open, 1);
        dialogue.ended(OperationId(1), None);
        assert_eq!(
            steps(&mut dialogue),
            ["400,Closed,\"tunnel to plc:22 closed: internal fault in adit, see its log\""]
        );
        assert_eq!(dialogue.fragment.open, 0);
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
    fn leaves_it_to_the_next_connection_to_ask_for_what_looks_like_a_row_that_has_ended() {
        let mut dialogue = dialogue();
        for _ in 0..2 {
            hear(&mut dialogue, "530,gw,plc,22", ROOM);
        }
        dialogue.delivered(ROOM, Instant::now());
        let deadline = dialogue.next_deadline().unwrap();
        dialogue.disconnected();
        dialogue.deadline_passed(ROOM, deadline);
        let nothing: [&str; 0] = [];
        assert_eq!(steps(&mut dialogue), nothing);
        dialogue.connected(ROOM, deadline);
        assert_eq!(
            steps(&mut dialogue),
            ["token"],
            "the session asks by itself"
        );
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
    fn takes_an_operation_for_a_sign_that_the_bridge_has_the_cloud() {
        let now = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        dialogue.connected(ROOM, now);
        dialogue.heard(Downlink::Bridge(false), ROOM, now);
        steps(&mut dialogue);
        let heard = hear(&mut dialogue, "530,gw,plc,22,k", ROOM);
        assert_eq!(heard, ["500", "token", "open 1 plc:22"]);
        let deadline = dialogue.next_deadline().expect("its id is waited for");
        dialogue.deadline_passed(ROOM, deadline);
        assert_eq!(steps(&mut dialogue), ["501,Connect"]);
    }

    #[test]
    fn leaves_the_fragment_to_the_process_that_takes_over() {
        let now = Instant::now();
        let mut dialogue = dialogue();
        dialogue.connected(ROOM, now);
        dialogue.update_fragment(now);
        steps(&mut dialogue);
        hear(&mut dialogue, "530,gw,plc,22,k", ROOM);
        dialogue.opened(OperationId(1));
        steps(&mut dialogue);
        dialogue.update_fragment(now);
        let due_at = dialogue
            .next_deadline()
            .expect("an update that came too soon");
        dialogue.leave();
        assert_eq!(dialogue.next_deadline(), None);
        dialogue.update_fragment(due_at);
        let nothing: [&str; 0] = [];
        assert_eq!(steps(&mut dialogue), nothing);
        dialogue.begin_again();
        dialogue.update_fragment(due_at);
        assert_eq!(
            steps(&mut dialogue).len(),
            2,
            "the question and the fragment"
        );
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

    /// Hears a notification of an operation of the gateway with this id and key, some milliseconds
    /// after `start`.
    fn notify(dialogue: &mut Dialogue, start: Instant, at: u64, id: u32, key: &str) -> Vec<String> {
        let message = format!(
            "{{\"id\":\"{id}\",\"externalSource\":{{\"externalId\":\"gw\"}},\
             \"c8y_RemoteAccessConnect\":{{\"hostname\":\"plc\",\"port\":22,\"connectionKey\":\"{key}\"}}}}"
        );
        hear_at(dialogue, "devicecontrol/notifications", &message, start, at)
    }

    fn hear_at(
        dialogue: &mut Dialogue,
        topic: &str,
        message: &str,
        start: Instant,
        at: u64,
    ) -> Vec<String> {
        let said = Downlink::read(dialogue.topics(), topic, message.as_bytes()).unwrap();
        dialogue.heard(said, ROOM, start + Duration::from_millis(at));
        steps(dialogue)
    }

    /// Lets time pass, to the moment at which something is due.
    fn pass(dialogue: &mut Dialogue, start: Instant, at: u64) -> Vec<String> {
        let now = start + Duration::from_millis(at);
        assert_eq!(dialogue.next_deadline(), Some(now));
        dialogue.deadline_passed(ROOM, now);
        steps(dialogue)
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn opens_the_tunnel_of_a_row_at_once_and_says_nothing_of_it_until_its_id_comes() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let row = "530,gw,plc,22,k";
        assert_eq!(
            hear_at(&mut dialogue, "s/ds", row, start, 0),
            ["open 1 plc:22"]
        );
        dialogue.opened(OperationId(1));
        assert_eq!(steps(&mut dialogue), ["400,Opened,tunnel to plc:22 opened"]);
        let named = notify(&mut dialogue, start, 299, 71, "k");
        assert_eq!(named, ["504,71", "506,71"]);
        assert_eq!(dialogue.next_deadline(), None);
        // Whatever comes again, and in which order.
        assert_eq!(notify(&mut dialogue, start, 400, 71, "k"), NOTHING);
        assert_eq!(hear_at(&mut dialogue, "s/ds", row, start, 500), NOTHING);
        let first = notify(&mut dialogue, start, 600, 72, "l");
        assert_eq!(first, ["504,72", "open 2 plc:22"]);
        let copy = hear_at(&mut dialogue, "s/ds", "530,gw,plc,22,l", start, 601);
        assert_eq!(copy, NOTHING);
        assert_eq!(dialogue.next_deadline(), None);
    }

    #[test]
    fn reports_without_an_id_what_has_waited_in_vain_and_opens_nothing_for_what_is_late() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let row = "530,gw,plc,22,k";
        assert_eq!(
            hear_at(&mut dialogue, "s/ds", row, start, 0),
            ["open 1 plc:22"]
        );
        assert_eq!(pass(&mut dialogue, start, 300), ["501,Connect"]);
        // Its result can still be said by the id.
        assert_eq!(notify(&mut dialogue, start, 5000, 71, "k"), NOTHING);
        dialogue.failed(OperationId(1), "refused".to_owned());
        assert_eq!(steps(&mut dialogue), ["505,71,refused"]);
        assert_eq!(notify(&mut dialogue, start, 6000, 71, "k"), NOTHING);
    }

    #[test]
    fn begins_nothing_that_somebody_has_begun_and_learns_the_id_of_what_it_has() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let row = "530,gw,plc,22,k";
        hear_at(&mut dialogue, "s/ds", row, start, 0);
        pass(&mut dialogue, start, 300);
        for (id, key) in [("71", "k"), ("72", "l")] {
            let message = format!(
                "{{\"id\":\"{id}\",\"status\":\"EXECUTING\",\"externalSource\":{{\"externalId\":\"gw\"}},\
                 \"c8y_RemoteAccessConnect\":{{\"hostname\":\"plc\",\"port\":22,\
                 \"connectionKey\":\"{key}\"}}}}"
            );
            let topic = "devicecontrol/notifications";
            assert_eq!(hear_at(&mut dialogue, topic, &message, start, 400), NOTHING);
        }
        dialogue.failed(OperationId(1), "refused".to_owned());
        assert_eq!(steps(&mut dialogue), ["505,71,refused"]);
    }

    #[test]
    fn waits_for_no_id_after_three_silent_rows_until_one_comes() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let mut at = 0;
        for key in ["a", "b", "c"] {
            let row = format!("530,gw,plc,22,{key}");
            assert_eq!(hear_at(&mut dialogue, "s/ds", &row, start, at).len(), 1);
            assert_eq!(pass(&mut dialogue, start, at + 300), ["501,Connect"]);
            // A new connection begins nothing anew.
            dialogue.disconnected();
            at += 1000;
            dialogue.connected(ROOM, start + Duration::from_millis(at));
            steps(&mut dialogue);
        }
        let row = "530,gw,plc,22,d";
        let heard = hear_at(&mut dialogue, "s/ds", row, start, at);
        assert_eq!(heard, ["501,Connect", "open 4 plc:22"]);
        // An operation of whomever shows that the topic delivers.
        let other = r#"{"id":"9","c8y_Restart":{}}"#;
        let topic = "devicecontrol/notifications";
        assert_eq!(hear_at(&mut dialogue, topic, other, start, at), NOTHING);
        let heard = hear_at(&mut dialogue, "s/ds", "530,gw,plc,22,e", start, at);
        assert_eq!(heard, ["open 5 plc:22"]);
    }

    #[test]
    fn waits_for_no_id_where_the_topic_is_refused() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let row = "530,gw,plc,22,a";
        assert_eq!(
            hear_at(&mut dialogue, "s/ds", row, start, 0),
            ["open 1 plc:22"]
        );
        dialogue.refused("s/e");
        assert_eq!(steps(&mut dialogue), NOTHING);
        dialogue.refused("devicecontrol/notifications");
        assert_eq!(steps(&mut dialogue), ["501,Connect"]);
        let row = "530,gw,plc,22,b";
        let heard = hear_at(&mut dialogue, "s/ds", row, start, 1);
        assert_eq!(heard, ["501,Connect", "open 2 plc:22"]);
        assert_eq!(notify(&mut dialogue, start, 2, 71, "c").len(), 2);
        let row = "530,gw,plc,22,d";
        assert_eq!(hear_at(&mut dialogue, "s/ds", row, start, 3).len(), 1);
    }

    #[test]
    fn lets_a_row_wait_over_a_lost_connection_for_its_id() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        dialogue.connected(ROOM, start);
        steps(&mut dialogue);
        hear_at(&mut dialogue, "s/ds", "530,gw,plc,22,k", start, 100);
        dialogue.disconnected();
        assert_eq!(dialogue.next_deadline(), None);
        dialogue.deadline_passed(ROOM, start + Duration::from_mins(1));
        assert_eq!(steps(&mut dialogue), NOTHING);
        dialogue.connected(ROOM, start + Duration::from_secs(90));
        assert_eq!(steps(&mut dialogue), ["token"]);
        assert_eq!(notify(&mut dialogue, start, 90_100, 71, "k"), ["504,71"]);
    }

    #[test]
    fn begins_nothing_when_it_is_leaving_and_says_what_it_has_begun() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let row = "530,gw,plc,22,k";
        hear_at(&mut dialogue, "s/ds", row, start, 0);
        dialogue.leave();
        assert!(!dialogue.all_is_said());
        let late = "530,gw,plc,22,l";
        assert_eq!(hear_at(&mut dialogue, "s/ds", late, start, 1), NOTHING);
        assert_eq!(notify(&mut dialogue, start, 2, 72, "l"), NOTHING);
        assert_eq!(notify(&mut dialogue, start, 3, 71, "k"), ["504,71"]);
        dialogue.failed(OperationId(1), "refused".to_owned());
        assert_eq!(steps(&mut dialogue), ["505,71,refused"]);
        assert!(dialogue.all_is_said());
    }

    #[test]
    fn begins_again_with_what_came_while_it_was_leaving() {
        let mut dialogue = dialogue();
        dialogue.leave();
        assert_eq!(hear(&mut dialogue, "530,gw,plc,22,k", ROOM), NOTHING);
        dialogue.begin_again();
        assert_eq!(steps(&mut dialogue), ["500"]);
        assert_eq!(hear(&mut dialogue, "530,gw,plc,22,k", ROOM).len(), 2);
        dialogue.begin_again();
        assert_eq!(steps(&mut dialogue), NOTHING);
    }

    #[test]
    fn serves_nothing_that_the_process_before_it_has_served() {
        let now = Instant::now();
        let start = Instant::now();
        let mut old = dialogue_with(OperationIds::Notifications);
        for (row, id) in [("530,gw,plc,22,k", 71), ("530,gw,plc,23,l", 72)] {
            hear_at(&mut old, "s/ds", row, start, 0);
            notify(&mut old, start, 1, id, &row[row.len() - 1..]);
        }
        hear_at(&mut old, "s/ds", "530,gw,plc,22", start, 2);
        let memory = serde_json::to_string(&old.memory()).unwrap();
        let memory = serde_json::from_str(&memory).unwrap();
        let mut new = dialogue_with(OperationIds::Notifications).remembering(memory, now);
        for row in ["530,gw,plc,22,k", "530,gw,plc,23,l", "530,gw,plc,22"] {
            assert_eq!(hear_at(&mut new, "s/ds", row, start, 3), NOTHING, "{row}");
        }
        assert_eq!(notify(&mut new, start, 4, 71, "k"), NOTHING);
        let row = "530,gw,plc,22,m";
        assert_eq!(hear_at(&mut new, "s/ds", row, start, 5), ["open 4 plc:22"]);
    }

    #[test]
    fn lets_nothing_wait_for_an_id_when_adit_stops() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        hear_at(&mut dialogue, "s/ds", "530,gw,plc,22,k", start, 0);
        dialogue.stopping();
        assert_eq!(steps(&mut dialogue), ["501,Connect"]);
    }

    #[test]
    fn lets_a_bounded_number_of_rows_wait_for_their_ids() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let rows = |name: &str, number| {
            (0..number)
                .map(|n| format!("530,gw,plc,22,{name}{n}\n"))
                .collect::<String>()
        };
        let heard = hear_at(&mut dialogue, "s/ds", &rows("a", UNSAID_LIMIT), start, 0);
        assert_eq!(heard.len(), UNSAID_LIMIT);
        let heard = hear_at(&mut dialogue, "s/ds", "530,gw,plc,22,b", start, 1);
        assert_eq!(heard.len(), UNSAID_LIMIT + 2);
        assert_eq!(dialogue.operations.unsaid(), 0);
    }

    #[test]
    fn takes_a_notification_that_names_no_device_for_the_gateway() {
        let start = Instant::now();
        let mut dialogue = dialogue_with(OperationIds::Notifications);
        let message = r#"{"id":"7","c8y_RemoteAccessConnect":{"hostname":"plc","port":0}}"#;
        let topic = "devicecontrol/notifications";
        let said = hear_at(&mut dialogue, topic, message, start, 0);
        let reason = "the connection key is missing";
        assert_eq!(said[0], format!("malformed 1 {reason}"));
        assert_eq!(said[1..], ["504,7", &format!("505,7,{reason}")]);
    }

    #[test]
    fn keeps_the_fragment_up_to_date_however_ids_come() {
        for operation_ids in OperationIds::ALL {
            let now = Instant::now();
            let mut dialogue = dialogue_with(operation_ids);
            dialogue.update_fragment(now);
            assert_eq!(steps(&mut dialogue), NOTHING, "there is no device yet");
            dialogue.connected(ROOM, now);
            steps(&mut dialogue);
            dialogue.update_fragment(now);
            let Some(Step::PublishNewest(message)) = dialogue.next_step() else {
                panic!("{operation_ids:?}");
            };
            assert_eq!(message.topic, "inventory/managedObjects/update/gw");
            assert!(message.is_repeatable);
            assert!(message.payload.contains(r#""open":0,"limit":64,"free":64"#));
        }
    }

    #[test]
    fn says_how_many_more_tunnels_there_may_be_after_another_limit() {
        let now = Instant::now();
        let mut dialogue = dialogue();
        dialogue.connected(ROOM, now);
        dialogue.renew(7, "allow nothing", true);
        steps(&mut dialogue);
        dialogue.update_fragment(now);
        let Some(Step::PublishNewest(message)) = dialogue.next_step() else {
            panic!("nothing is published");
        };
        let fragment = r#""open":0,"limit":7,"free":7,"policy":"allow nothing""#;
        assert!(message.payload.contains(fragment), "{}", message.payload);
    }

    #[test]
    fn asks_for_a_token() {
        let mut dialogue = dialogue();
        dialogue.ask_for_token();
        assert_eq!(steps(&mut dialogue), ["ask s/uat"]);
    }
}
