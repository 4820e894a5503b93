//! The heart: events in, operations to tunnels, outcomes to the cloud.
//!
//! Only this module knows both the session and the tunnels. It does no I/O of its own and never
//! waits for either: what it publishes goes to an outbox, what it opens goes to a task.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use smartrest::{ConnectRequest, Request, Row, Target, Topic, Topics, plain_text};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use crate::announcement::{self, Announcement};
use crate::cloud::authorization::Authorization;
use crate::cloud::broker::Account;
use crate::cloud::outbox::Message;
use crate::cloud::publisher::Publisher;
use crate::cloud::registration;
use crate::cloud::session::{self, Session};
use crate::cloud::token::Tokens;
use crate::cloud::transport::Transport;
use crate::config::{Auth, Config};
use crate::credentials_file;
use crate::operations::{Ignored, OperationId, Operations, Outcome, Report};
use crate::reason::failure_reason;
use crate::tunnel::manager::{self, Tunnels};
use crate::tunnel::{Ended, Opener};

/// How long open tunnels have to deliver what is in flight when adit stops.
pub const TUNNEL_DRAIN: Duration = Duration::from_secs(5);
/// A moment more than that for the tasks to say so.
const TUNNELS_END: Duration = Duration::from_secs(6);
/// How long the last statuses and events have to reach the broker when adit stops.
const OUTBOX_END: Duration = Duration::from_secs(5);

/// Bytes of an event's text.
const EVENT_LIMIT: usize = 500;

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
}

/// Runs the agent until `stop`, then brings what is open to its end.
///
/// # Errors
/// The configuration cannot be used with TLS; nothing that happens later is an error.
pub async fn run(config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
    let transport =
        Transport::new(&config.cloud.ca)?.with_identity(config.auth.identity().cloned());
    let Some(config) = &registered(config, &transport, &stop).await? else {
        return Ok(());
    };
    let announcement = Announcement::of(config)?;
    let finish = CancellationToken::new();
    let (session, publisher, mut events) = Session::new(
        announcement.session_options(config),
        transport.clone().through(config.mqtt.proxy.clone()),
        finish.clone(),
    );
    let tokens = announcement
        .needs_token(config)
        .then(|| Arc::new(Tokens::new(publisher.clone(), announcement.token_request())));
    let authorization = Authorization::new(config, tokens.clone());
    let mut agent = Agent {
        gateway: config.device.id.clone(),
        topics: announcement.topics,
        events: config.remote_access.events,
        publisher,
        operations: Operations::default(),
        tunnels: Tunnels::new(
            Opener::new(config, transport, authorization),
            config.remote_access.max_tunnels,
        ),
        requests: HashMap::new(),
        rows_left_out: false,
        cleared: HashSet::new(),
        tokens,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        device = agent.gateway,
        "adit is starting"
    );
    let session = tokio::spawn(session.run());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = events.recv() => agent.session_event(event),
            event = agent.tunnels.next() => agent.tunnel_event(event),
        }
    }
    agent.wind_up(&mut events).await;
    finish.cancel();
    end_session(session, events, &agent.publisher).await;
    Ok(())
}

/// Returns the configuration to run with: of a gateway that nobody knows, once it is registered;
/// `None` if it is to stop before.
///
/// # Errors
/// What comes could not be kept.
async fn registered(
    config: &Config,
    transport: &Transport,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Config>> {
    let Auth::Bootstrap(bootstrap) = &config.auth else {
        return Ok(Some(config.clone()));
    };
    // The platform hands credentials out once, so a place for them must be sure before.
    credentials_file::check(&bootstrap.credentials_file)?;
    let account = Account {
        broker: config.mqtt.endpoint.clone(),
        client_id: config.device.id.clone(),
        login: Some((bootstrap.user.clone(), bootstrap.password.clone())),
        keep_alive: config.mqtt.keep_alive,
    };
    let topics = Topics::new(&config.mqtt.topic_prefix)?;
    let transport = transport.clone().through(config.mqtt.proxy.clone());
    let credentials = tokio::select! {
        credentials = registration::register(&account, &topics, &transport) => credentials,
        () = stop.cancelled() => return Ok(None),
    };
    let path = &bootstrap.credentials_file;
    match credentials_file::write(path, &credentials) {
        Ok(()) => info!(file = path.display().to_string(), "credentials kept"),
        Err(error) => {
            let error = failure_reason(&error, EVENT_LIMIT);
            warn!(
                error,
                "the credentials are not kept: after a restart, adit must register again"
            );
        }
    }
    Ok(Some(config.with_credentials(credentials)))
}

impl Agent {
    fn session_event(&mut self, event: session::Event) {
        match event {
            session::Event::Received { topic, payload } => {
                trace!(topic, bytes = payload.len(), "received");
                match self.topics.parse(&topic) {
                    Some(Topic::Down) => self.received(&smartrest::decode(&payload)),
                    Some(Topic::Errors) => platform_error(&payload),
                    Some(Topic::Token) => self.token(&payload),
                    _ => debug!(topic, "message on a topic that means nothing here"),
                }
            }
            session::Event::Delivered => {
                if std::mem::take(&mut self.rows_left_out) {
                    self.publish(&self.gateway, &Request::PendingOperations);
                }
            }
        }
    }

    fn token(&self, payload: &[u8]) {
        if let (Some(tokens), Some(row)) = (&self.tokens, smartrest::decode(payload).first()) {
            tokens.take(row);
        }
    }

    fn received(&mut self, rows: &[Row]) {
        let (requests, others): (Vec<Row>, Vec<Row>) = rows
            .iter()
            .cloned()
            .partition(|row| row.template() == ConnectRequest::TEMPLATE);
        for row in others {
            debug!(template = row.template(), "row for another agent");
        }
        if requests.is_empty() {
            return;
        }
        if !self.publisher.has_room() {
            warn!(
                waiting = self.publisher.waiting(),
                "operations left for later: too many statuses wait for the broker"
            );
            self.rows_left_out = true;
            return;
        }
        let (requests, unanswerable): (Vec<Row>, Vec<Row>) =
            requests.into_iter().partition(|row| self.can_answer(row));
        for row in unanswerable {
            let fields = row.fields().len();
            warn!(
                fields,
                "row dropped: no topic can name its device, so nobody can be answered"
            );
        }
        let received = self.operations.receive(&requests);
        for ignored in &received.ignored {
            match ignored {
                Ignored::Duplicate { device } => debug!(device, "operation is known already"),
                Ignored::Nameless(error) => {
                    warn!(error = error.to_string(), "row dropped: nobody to answer");
                }
            }
        }
        self.report(&received.reports);
        for (id, request) in received.start {
            self.open(id, request);
        }
    }

    /// Whether statuses for the row's device have a topic. A row that names no device is left to
    /// the operations.
    fn can_answer(&self, row: &Row) -> bool {
        let device = ConnectRequest::device_of(row).unwrap_or(&self.gateway);
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

    fn finish(&mut self, device: &str, id: OperationId, outcome: Outcome) {
        let reports = self.operations.finish(device, id, outcome);
        self.report(&reports);
    }

    fn report(&mut self, reports: &[Report]) {
        for Report { device, status } in reports {
            self.clear_child(device);
            debug!(device, ?status, "operation status");
            let operation = smartrest::OperationRef::oldest_tunnel();
            self.publish(
                device,
                &Request::Status {
                    operation,
                    status: status.clone(),
                },
            );
        }
    }

    /// Fails what a former life left executing on a child, before the first word about it: the
    /// first result would land there. The session does the same for the gateway, but nobody knows
    /// the children before something is asked of them.
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
                    return;
                }
            }
        };
        self.publisher.publish(Message {
            topic,
            payload: smartrest::encode([&request.to_row()]),
        });
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
            while !self.tunnels.is_empty() {
                tokio::select! {
                    event = self.tunnels.next() => self.tunnel_event(event),
                    Some(_) = events.recv() => {}
                }
            }
        };
        if timeout(TUNNELS_END, ends).await.is_err() {
            warn!(tunnels = self.tunnels.len(), "tunnels did not end in time");
        }
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
    if timeout(OUTBOX_END, delivered).await.is_err() {
        warn!(
            unsent = publisher.waiting(),
            "the broker did not take everything in time; the next start fails what is left executing"
        );
        session.abort();
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
