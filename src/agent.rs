//! The heart: events in, operations to tunnels, outcomes to the cloud.
//!
//! Only this module knows both the session and the tunnels. It does no I/O of its own and never
//! waits for either: what it publishes goes to an outbox, what it opens goes to a task.

use std::collections::{HashMap, HashSet};
use std::future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use smartrest::{
    COLLECTION_ID, ConnectRequest, Fragment, OperationRef, PendingOperation, Request, Target,
    Token, Topic, Topics, plain_text,
};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use crate::auth::token::Tokens;
use crate::mqtt::outbox::Message;
use crate::mqtt::publisher::Publisher;
use crate::mqtt::session::{self, Session};
use crate::platform::announcement::{self, Announcement, CollectionTopics};
use crate::platform::bridge::{Bridge, News};
use crate::platform::fragment::Updates;
use crate::platform::ids::{ANSWER_LIMIT, Action, Collection};
use crate::platform::operations::{Ignored, OperationId, Operations, Outcome, Report};
use crate::tunnel::Ended;
use crate::tunnel::manager::{self, Tunnels};
use crate::tunnel::relay::DRAIN_LIMIT;
use crate::words::seconds;

/// How long open tunnels have when adit stops: a moment more than they take for their last bytes.
const TUNNELS_END: Duration = DRAIN_LIMIT.saturating_add(Duration::from_secs(1));
/// How long the last statuses and events have to reach the broker when adit stops.
const OUTBOX_END: Duration = Duration::from_secs(5);

/// Bytes of an event's text.
const EVENT_LIMIT: usize = 500;
/// Bytes of the policy in the fragment of the device.
const POLICY_LIMIT: usize = 2000;

/// More children than a gateway has; their names come from outside.
const CHILDREN_LIMIT: usize = 4096;

/// The running agent.
struct Agent {
    gateway: String,
    topics: Topics,
    events: bool,
    publisher: Publisher,
    operations: Operations,
    tunnels: Tunnels,
    /// The device and the target of every operation whose tunnel is opening or open.
    requests: HashMap<OperationId, (String, Target)>,
    /// Rows were left out because too much waits for the broker.
    rows_left_out: bool,
    /// The children on which nothing is executing any more that a former life left.
    cleared: HashSet<String>,
    /// Where tunnels need a token.
    tokens: Option<Arc<Tokens>>,
    /// Asks for all pending operations.
    pending_operations: Message,
    token_request: Message,
    by_id: Option<ById>,
    bridge: Bridge,
}

/// What is needed to take operations with their ids.
struct ById {
    topics: CollectionTopics,
    collection: Collection,
    /// The fragment but for the number of tunnels, which is that at the start.
    fragment: Fragment,
    updates: Updates,
    open_tunnels: usize,
}

/// What the agent is put together of.
pub struct Parts {
    /// The external id of the gateway.
    pub device: String,
    /// The external ids of the children that the announcement knows.
    pub children: Vec<String>,
    /// Says who this is.
    pub announcement: Announcement,
    /// Whether the platform gets an event for each tunnel.
    pub events: bool,
    /// The policy in words.
    pub policy: String,
    /// How many tunnels there may be.
    pub max_tunnels: usize,
    /// Opens and carries tunnels.
    pub tunnels: Tunnels,
    /// Has not begun.
    pub session: Session,
    /// Of that session.
    pub publisher: Publisher,
    /// Of that session.
    pub session_events: mpsc::Receiver<session::Event>,
    /// Ends that session once everything is delivered.
    pub finish: CancellationToken,
    /// Where tunnels need a token.
    pub tokens: Option<Arc<Tokens>>,
}

/// Runs the agent until `stop`, then brings what is open to its end.
///
/// # Errors
/// A fault in adit; nothing that happens outside is an error.
pub async fn run(parts: Parts, stop: CancellationToken) -> anyhow::Result<()> {
    let Parts {
        device,
        children,
        announcement,
        events,
        policy,
        max_tunnels,
        tunnels,
        session,
        publisher,
        session_events: mut events_of_session,
        finish,
        tokens,
    } = parts;
    let fragment = Fragment {
        device: device.clone(),
        active_tunnels: 0,
        limit: max_tunnels,
        policy: plain_text(&policy, POLICY_LIMIT),
    };
    let mut agent = Agent {
        gateway: device,
        pending_operations: announcement.pending_operations(),
        token_request: announcement.token_request(),
        by_id: announcement
            .collection
            .map(|topics| ById::new(topics, fragment)),
        topics: announcement.topics,
        events,
        publisher,
        operations: Operations::default(),
        tunnels,
        requests: HashMap::new(),
        rows_left_out: false,
        // The session says it of these.
        cleared: children.into_iter().collect(),
        tokens,
        bridge: Bridge::default(),
    };
    let mut session = tokio::spawn(session.run());
    loop {
        let deadline = agent.next_deadline();
        tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = events_of_session.recv() => agent.session_event(event),
            () = token_wanted(agent.tokens.as_deref()) => {
                agent.publisher.ask(agent.token_request.clone());
            }
            Some(event) = agent.tunnels.next() => agent.tunnel_event(event),
            ended = &mut session => bail!("the MQTT session ended by a fault in adit: {ended:?}"),
            () = until(deadline) => agent.deadline_passed(),
        }
        agent.update_fragment(Updates::update);
    }
    agent.wind_up(&mut events_of_session).await;
    finish.cancel();
    end_session(session, events_of_session, &agent.publisher).await;
    Ok(())
}

impl Agent {
    fn session_event(&mut self, event: session::Event) {
        match event {
            session::Event::Ready => {
                self.bridge.connected();
                self.connected();
            }
            session::Event::Received { topic, payload } => {
                trace!(topic, bytes = payload.len(), "received");
                match self.topics.parse(&topic) {
                    Some(Topic::Down) => self.received(&payload),
                    Some(Topic::CustomDown(COLLECTION_ID)) => {
                        let rows = smartrest::decode(&payload);
                        self.by_id(|collection, now| collection.rows(&rows, now));
                    }
                    Some(Topic::Templates) => {
                        let rows = smartrest::decode(&payload);
                        self.by_id(|collection, now| collection.answered(&rows, now));
                    }
                    Some(Topic::Errors) => platform_error(&payload),
                    Some(Topic::Token) => self.token(&payload),
                    Some(Topic::BridgeState) => self.bridge_state(&payload),
                    _ => debug!(topic, "message on a topic that means nothing here"),
                }
            }
            session::Event::Delivered => {
                // More may have been said since.
                if self.publisher.waiting() == 0 {
                    self.operations.delivered(Instant::now());
                }
                if std::mem::take(&mut self.rows_left_out) {
                    self.publisher.publish(self.pending_operations.clone());
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let by_id = self.by_id.as_ref().and_then(ById::next_deadline);
        by_id
            .into_iter()
            .chain(self.operations.next_deadline())
            .min()
    }

    fn deadline_passed(&mut self) {
        if self.operations.deadline_passed(Instant::now()) {
            debug!("asking for operations that look like one that has ended");
            self.publisher.ask(self.pending_operations.clone());
        }
        self.by_id(Collection::deadline_passed);
    }

    fn connected(&mut self) {
        if let Some(tokens) = &self.tokens {
            tokens.connected();
        }
        self.by_id(Collection::connected);
    }

    /// Does what a session does at its connect when the bridge has the cloud again. The local broker
    /// keeps what was published meanwhile, so the question goes behind that.
    fn bridge_state(&mut self, payload: &[u8]) {
        match self.bridge.told(payload) {
            Some(News::Lost) => warn!("the bridge of the local broker has no cloud"),
            Some(News::Back) => {
                info!("the bridge of the local broker has the cloud again");
                if self.by_id.is_none() {
                    self.publisher.publish(self.pending_operations.clone());
                }
                self.connected();
            }
            None => {}
        }
    }

    fn token(&self, payload: &[u8]) {
        if let (Some(tokens), Some(row)) = (&self.tokens, smartrest::decode(payload).first()) {
            tokens.take(Token::from_row(row));
        }
    }

    /// Lets the collection decide, if there is one, and does what it says.
    fn by_id(&mut self, decide: impl FnOnce(&mut Collection, Instant) -> Vec<Action>) {
        if let Some(by_id) = &mut self.by_id {
            let actions = decide(&mut by_id.collection, Instant::now());
            self.carry_out(actions);
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let Some(topics) = self.by_id.as_ref().map(|by_id| by_id.topics.clone()) else {
            return;
        };
        for action in actions {
            match action {
                Action::Ask => self.publisher.ask(topics.ask()),
                Action::Create => {
                    info!(
                        collection = COLLECTION_ID,
                        "creating the template collection"
                    );
                    self.publisher.ask(topics.create());
                }
                Action::Resume => self.publisher.ask(self.pending_operations.clone()),
                Action::WarnOfFallback => warn!(
                    waited_s = seconds(ANSWER_LIMIT),
                    "the platform does not answer for template collections: operations are \
                     reported without their ids, a result waits for every older one of its device, \
                     and adit_RemoteAccess is not kept up to date"
                ),
                Action::Take(pending) => self.take(pending),
                Action::WithoutId(error) => {
                    debug!(error = error.to_string(), "row left to its static copy");
                }
            }
        }
    }

    fn update_fragment(
        &mut self,
        decide: impl FnOnce(&mut Updates, Fragment, Instant) -> Option<Fragment>,
    ) {
        let by_id = self.by_id.as_mut();
        let Some(by_id) = by_id.filter(|by_id| by_id.collection.is_installed()) else {
            return;
        };
        let current = Fragment {
            active_tunnels: by_id.open_tunnels,
            ..by_id.fragment.clone()
        };
        if let Some(fragment) = decide(&mut by_id.updates, current, Instant::now()) {
            self.publisher
                .publish_newest(by_id.topics.fragment(&fragment));
        }
    }

    fn received(&mut self, payload: &[u8]) {
        let mut pending = Vec::new();
        for row in smartrest::decode(payload) {
            match PendingOperation::from_static_row(&row) {
                Some(operation) => pending.push(operation),
                None => debug!(template = row.template(), "row for another agent"),
            }
        }
        match &mut self.by_id {
            Some(by_id) => {
                let is_known = |operation: &PendingOperation| self.operations.knows(operation);
                let now = Instant::now();
                let actions = by_id.collection.static_rows(pending, now, is_known);
                self.carry_out(actions);
            }
            None => self.take(pending),
        }
    }

    fn take(&mut self, pending: Vec<PendingOperation>) {
        if pending.is_empty() {
            return;
        }
        // Nothing younger may overtake what was left out.
        if self.rows_left_out || !self.publisher.has_room() {
            warn!(
                waiting = self.publisher.waiting(),
                "operations left for later: too many statuses wait for the broker"
            );
            self.rows_left_out = true;
            return;
        }
        let (pending, unanswerable): (Vec<PendingOperation>, Vec<PendingOperation>) = pending
            .into_iter()
            .partition(|operation| self.can_answer(operation));
        if !unanswerable.is_empty() {
            warn!(
                rows = unanswerable.len(),
                "row dropped: no topic can name its device, so nobody can be answered"
            );
        }
        let received = self.operations.receive(&pending);
        for ignored in &received.ignored {
            match ignored {
                Ignored::Duplicate { device } => debug!(device, "operation is known already"),
                Ignored::WithoutDevice(error) => {
                    warn!(error = error.to_string(), "row dropped: nobody to answer");
                }
            }
        }
        self.report(&received.reports);
        for (id, request) in received.start {
            self.open(id, request);
        }
    }

    /// Whether statuses for the request's device have a topic. One that names no device is left to
    /// the operations.
    fn can_answer(&self, operation: &PendingOperation) -> bool {
        let device = operation.device().unwrap_or(&self.gateway);
        device == self.gateway || self.topics.child_up(device).is_ok()
    }

    fn open(&mut self, id: OperationId, request: ConnectRequest) {
        let (device, target) = (request.device.clone(), request.target.clone());
        info!(device, %target, operation = id.0, "operation received");
        match self.tunnels.open(id.0, request) {
            Ok(()) => {
                self.requests.insert(id, (device, target));
            }
            Err(too_many) => {
                warn!(device, %target, reason = too_many.to_string(), "did not open");
                self.finish(&device, id, Outcome::Failed(too_many.to_string()));
            }
        }
    }

    fn tunnel_event(&mut self, event: manager::Event) {
        match event {
            manager::Event::Opened(id) => {
                let Some((device, target)) = self.requests.get(&OperationId(id)).cloned() else {
                    return;
                };
                self.count_open(1);
                self.finish(&device, OperationId(id), Outcome::Successful);
                self.event(
                    &device,
                    "c8y_RemoteAccessOpened",
                    &format!("tunnel to {target} opened"),
                );
            }
            manager::Event::Failed(id, reason) => {
                if let Some((device, _)) = self.requests.remove(&OperationId(id)) {
                    self.finish(&device, OperationId(id), Outcome::Failed(reason));
                }
            }
            manager::Event::Ended(id, ended) => {
                self.count_open(-1);
                if let Some((device, target)) = self.requests.remove(&OperationId(id)) {
                    self.event(
                        &device,
                        "c8y_RemoteAccessClosed",
                        &closed(&target, ended.as_ref()),
                    );
                }
            }
        }
    }

    fn count_open(&mut self, difference: isize) {
        if let Some(by_id) = &mut self.by_id {
            by_id.open_tunnels = by_id.open_tunnels.saturating_add_signed(difference);
        }
    }

    fn finish(&mut self, device: &str, id: OperationId, outcome: Outcome) {
        let reports = self.operations.finish(device, id, outcome);
        self.report(&reports);
    }

    fn report(&mut self, reports: &[Report]) {
        for Report {
            device,
            id,
            operation,
            status,
        } in reports
        {
            self.clear_child(device);
            debug!(device, ?operation, ?status, "operation status");
            let request = Request::Status {
                operation: operation.clone(),
                status: status.clone(),
            };
            if let Some(message) = self.message(device, &request) {
                self.publisher.publish(message.in_group(id.0));
            }
        }
    }

    /// Fails what a former life left executing on a child, before the first word about it: the
    /// first result would land there. The session does the same for the gateway and the
    /// children of the configuration, but nobody knows others before something is asked of them.
    fn clear_child(&mut self, device: &str) {
        let is_known = device == self.gateway || self.cleared.contains(device);
        if !is_known && self.cleared.len() < CHILDREN_LIMIT {
            self.publish(device, &announcement::fail_orphans());
            self.cleared.insert(device.to_owned());
        }
    }

    fn event(&self, device: &str, kind: &str, text: &str) {
        if self.events {
            let (kind, text) = (kind.to_owned(), plain_text(text, EVENT_LIMIT));
            self.publish(device, &Request::Event { kind, text });
        }
    }

    fn publish(&self, device: &str, request: &Request) {
        if let Some(message) = self.message(device, request) {
            self.publisher.publish(message);
        }
    }

    fn message(&self, device: &str, request: &Request) -> Option<Message> {
        let topic = if device == self.gateway {
            self.topics.up()
        } else {
            match self.topics.child_up(device) {
                Ok(topic) => topic,
                Err(error) => {
                    warn!(
                        error = error.to_string(),
                        "status dropped: no topic for the device"
                    );
                    return None;
                }
            }
        };
        let message = Message::new(topic, smartrest::encode([&request.to_row()]));
        Some(match is_repeatable(request) {
            true => message.repeatable(),
            false => message,
        })
    }

    /// Closes all tunnels and takes what they still have to tell. Operations that come meanwhile
    /// stay pending on the platform, which repeats them to the next adit.
    async fn wind_up(&mut self, events: &mut mpsc::Receiver<session::Event>) {
        info!(
            tunnels = self.tunnels.len(),
            unsent = self.publisher.waiting(),
            "adit is stopping"
        );
        self.tunnels.stop();
        let ends = async {
            loop {
                tokio::select! {
                    event = self.tunnels.next() => match event {
                        Some(event) => self.tunnel_event(event),
                        None => break,
                    },
                    Some(_) = events.recv() => {}
                }
            }
        };
        if timeout(TUNNELS_END, ends).await.is_err() {
            warn!(tunnels = self.tunnels.len(), "tunnels did not end in time");
        }
        self.update_fragment(Updates::finish);
    }
}

impl ById {
    fn new(topics: CollectionTopics, fragment: Fragment) -> Self {
        Self {
            topics,
            collection: Collection::default(),
            fragment,
            updates: Updates::default(),
            open_tunnels: 0,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.collection.next_deadline(),
            self.updates.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }
}

/// Waits for ever where tunnels need no token.
async fn token_wanted(tokens: Option<&Tokens>) {
    match tokens {
        Some(tokens) => tokens.wanted().await,
        None => future::pending().await,
    }
}

/// Whether a second copy of a request does no harm: it falls on no other operation.
fn is_repeatable(request: &Request) -> bool {
    match request {
        Request::Event { .. } => true,
        Request::Status { operation, .. } => matches!(operation, OperationRef::Id(_)),
        _ => false,
    }
}

/// Waits for ever where there is no deadline.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => future::pending().await,
    }
}

/// Waits until everything is delivered, for a limited time.
async fn end_session(
    mut session: tokio::task::JoinHandle<()>,
    mut events: mpsc::Receiver<session::Event>,
    publisher: &Publisher,
) {
    let delivered = async {
        loop {
            tokio::select! {
                _ = &mut session => return,
                Some(_) = events.recv() => {}
            }
        }
    };
    let delivered = timeout(OUTBOX_END, delivered).await.is_ok();
    session.abort();
    if !delivered && publisher.waiting() > 0 {
        warn!(
            unsent = publisher.waiting(),
            "the broker did not take everything in time; the next start fails what is left executing"
        );
    }
}

/// The platform tells on `s/e` that it did not understand something.
fn platform_error(payload: &[u8]) {
    for row in smartrest::decode(payload) {
        warn!(
            error = plain_text(&row.fields().join(","), EVENT_LIMIT),
            "the platform reports an error"
        );
    }
}

fn closed(target: &Target, ended: Option<&Ended>) -> String {
    match ended {
        Some(Ended {
            reason,
            up,
            down,
            lasted,
        }) => format!(
            "tunnel to {target} closed: {reason}; open for {:.1} s, {up} bytes to the cloud, \
             {down} bytes to the device",
            lasted.as_secs_f64()
        ),
        None => format!("tunnel to {target} closed: internal fault in adit, see its log"),
    }
}
