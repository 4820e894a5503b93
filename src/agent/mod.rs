//! The heart: what the session and the tunnels tell goes into the dialogue with the platform, and
//! its steps go back to them. Only this module knows both. It waits for neither: what it publishes
//! goes to an outbox, what it opens goes to a task.

pub(crate) mod carrier;
pub(crate) mod overview;
pub(crate) mod renewal;
pub(crate) mod succession;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use smartrest::ConnectRequest;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use crate::auth::token::Tokens;
use crate::inquiry::{Inquiries, Inquiry, UpgradeWishes};
use crate::mqtt::publisher::Publisher;
use crate::mqtt::session::{self, Session};
use crate::notify::Supervisor;
use crate::platform::dialogue::{Backlog, Dialogue, Step};
use crate::platform::downlink::Downlink;
use crate::platform::operations::OperationId;
use crate::state::record::{End, Record};
use crate::state::snapshot::FailureKind;
use crate::succession::course::Happened;
use crate::tunnel::Ended;
use crate::tunnel::manager::{self, Tunnels};
use crate::tunnel::relay::DRAIN_LIMIT;
use carrier::Carrier;
use overview::{Facts, Sights, Told};
use renewal::Renewal;
use succession::Succession;

/// Why a reload is refused.
const UPGRADE_UNDER_WAY: &str = "an upgrade is under way, and the new process has read its configuration: \
                                 reload again when that is over";
/// How long open tunnels have when adit stops: a moment more than they take for their last bytes.
const TUNNELS_END: Duration = DRAIN_LIMIT.saturating_add(Duration::from_secs(1));
/// How long tunnels that are opening have for their results, where open ones may go on when adit stops:
/// as long as both ends may take, unless that is configured to be longer.
const OPENING_END: Duration = Duration::from_secs(35);
/// How long the last statuses and events have to reach the broker when adit stops.
const OUTBOX_END: Duration = Duration::from_secs(5);
/// How often it is looked at what open tunnels carry, so that whoever looks sees a rate.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);

/// What is new, and where to answer how many tunnels it has ended, or why it does not hold.
pub(crate) type Asked = (Box<Renewal>, oneshot::Sender<Result<u64, &'static str>>);
pub(crate) type Renewals = mpsc::Receiver<Asked>;

/// What is put together into the agent.
pub(crate) struct Agent {
    /// Decides what is said and done.
    pub dialogue: Dialogue,
    /// Of the session that the agent runs.
    pub publisher: Publisher,
    /// Opens and carries tunnels.
    pub tunnels: Tunnels,
    /// What tunnels show the cloud where there is no password.
    pub tokens: Arc<Tokens>,
    /// What has happened.
    pub record: Record,
    /// What is shown besides.
    pub facts: Facts,
    /// How long tunnels may go on once it is to stop.
    pub drain: Option<Duration>,
    /// Is told when it stops.
    pub supervisor: Arc<Supervisor>,
    /// What that was told last.
    pub told: Told,
    /// It begins nothing any more.
    pub is_stopping: bool,
    /// Who was before, and who is to come.
    pub succession: Succession,
}

/// What the agent hears besides its tunnels.
pub(crate) struct Wires {
    events: mpsc::Receiver<session::Event>,
    inquiries: Inquiries,
    renewals: Renewals,
    upgrades: UpgradeWishes,
    measure_at: Instant,
}

impl Wires {
    /// Takes the ends that are the agent's.
    pub(crate) fn new(
        events: mpsc::Receiver<session::Event>,
        inquiries: Inquiries,
        renewals: Renewals,
        upgrades: UpgradeWishes,
    ) -> Self {
        Self {
            events,
            inquiries,
            renewals,
            upgrades,
            measure_at: now() + MEASURE_INTERVAL,
        }
    }
}

impl Agent {
    /// Runs until `stop`, then takes no operation any more, brings what is due to the cloud and ends
    /// the session by `finish`; or until another process has taken over. Returns the tunnels that go on
    /// then.
    ///
    /// # Errors
    /// A fault in adit; nothing that happens outside is an error.
    pub(crate) async fn run(
        mut self,
        session: Session,
        mut wires: Wires,
        finish: CancellationToken,
        stop: CancellationToken,
    ) -> anyhow::Result<Carrier> {
        // Whoever drops this future ends the session as well.
        let mut running = JoinSet::new();
        running.spawn(session.run());
        self.tell_supervisor();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.turn(&mut wires) => {}
                Some(ended) = running.join_next() => bail!("the MQTT session ended by a fault in adit: {ended:?}"),
            }
            self.go_on_if_given_up().await;
            if self.succession.is_replaced {
                self.step_back().await;
                // It rests.
                running.shutdown().await;
                let over_at = self.drain.map(|drain| now() + drain);
                return Ok(Carrier::new(self, over_at));
            }
        }
        let stopped_at = now();
        self.stop_upgrade();
        self.succession.stop_predecessor();
        if self.drain.is_none() {
            // Their time must not begin only when a process is ended that was to follow.
            self.tunnels.stop();
        }
        self.go_on_if_given_up().await;
        let carries = !self.tunnels.is_empty() || self.succession.has_predecessor();
        let drain = self.drain.filter(|_| carries);
        let over_at = stopped_at + drain.unwrap_or_default();
        self.is_stopping = true;
        self.supervisor.stopping(drain.unwrap_or_default());
        self.tell_supervisor();
        match drain {
            Some(drain) => self.leave(&mut wires, drain).await,
            None => self.wind_up(&mut wires, stopped_at + TUNNELS_END).await,
        }
        self.dialogue.finish_fragment(now());
        self.carry_out();
        finish.cancel();
        end_session(running, wires.events, &self.publisher).await;
        Ok(match drain {
            Some(_) => Carrier::new(self, Some(over_at)),
            None => Carrier::at_the_end(self, stopped_at + TUNNELS_END + OUTBOX_END),
        })
    }

    /// Waits for one event of any kind and does what follows. Dropping the future loses nothing.
    async fn turn(&mut self, wires: &mut Wires) {
        let deadline = self.dialogue.next_deadline();
        tokio::select! {
            Some(event) = wires.events.recv() => self.session_event(event),
            event = self.tunnels.next() => self.tunnel_event(event),
            () = self.tokens.wanted() => self.dialogue.ask_for_token(),
            () = sleep_until(deadline.unwrap_or_else(now).into()),
                if deadline.is_some() => self.deadline_passed(),
            () = sleep_until(wires.measure_at.into()),
                if !self.tunnels.is_empty() || self.succession.has_predecessor() => {
                wires.measure_at = now() + MEASURE_INTERVAL;
                self.tunnels.measure();
                self.succession.look();
            }
            Some(inquiry) = wires.inquiries.recv() => self.answer(inquiry),
            Some(wish) = wires.upgrades.recv() => self.upgrade(wish),
            heard = self.succession.next() => self.heard(heard),
            Some((renewal, answer)) = wires.renewals.recv() => {
                // The process that takes over has read its configuration, and until it is in charge the one
                // before it may have to go on, with its own.
                let renewed = match self.succession.is_upgrading() {
                    true => Err(UPGRADE_UNDER_WAY),
                    false => Ok(self.renew(*renewal)),
                };
                // Who asked may have gone.
                let _ = answer.send(renewed);
            }
        }
        self.dialogue.update_fragment(now());
        self.carry_out();
        self.look_for_quiet();
        self.tell_supervisor();
    }

    fn session_event(&mut self, event: session::Event) {
        let (backlog, now) = (self.backlog(), now());
        match event {
            session::Event::Ready => {
                self.dialogue.connected(backlog, now);
                self.is_set_up();
            }
            session::Event::Received { topic, payload } => {
                trace!(topic, bytes = payload.len(), "received");
                match Downlink::read(self.dialogue.topics(), &topic, &payload) {
                    Some(Downlink::Token(answer)) => self.tokens.take(answer),
                    Some(said) => {
                        if said.refuses_token() {
                            self.tokens.refuse();
                        }
                        self.dialogue.heard(said, backlog, now);
                    }
                    None => debug!(topic, "message on a topic that means nothing here"),
                }
            }
            session::Event::Delivered => self.dialogue.delivered(backlog, now),
            session::Event::Refused { topic } => self.dialogue.refused(&topic),
            session::Event::Lost => self.dialogue.disconnected(),
            session::Event::Rests => self.upgrade_goes_on(Happened::Left),
        }
    }

    fn tunnel_event(&mut self, event: manager::Event) {
        match event {
            manager::Event::Opened(id, took) => {
                self.record.opened(id, took, now());
                self.dialogue.opened(OperationId(id));
            }
            manager::Event::Failed(id, kind, reason) => {
                self.record.failed(id, kind, &reason, now());
                self.dialogue.failed(OperationId(id), reason);
            }
            manager::Event::Ended(id, ended) => {
                let end = ended.map(end);
                self.dialogue.ended(OperationId(id), end.as_ref());
                self.record.ended(id, end.unwrap_or_else(own_fault));
            }
            manager::Event::Forgotten => {}
        }
    }

    fn deadline_passed(&mut self) {
        let backlog = self.backlog();
        self.dialogue.deadline_passed(backlog, now());
    }

    fn backlog(&self) -> Backlog {
        Backlog {
            waiting: self.publisher.waiting(),
            has_room: self.publisher.has_room(),
        }
    }

    fn carry_out(&mut self) {
        while let Some(step) = self.dialogue.next_step() {
            match step {
                Step::Publish(message) => self.publisher.publish(message),
                Step::PublishNewest(message) => self.publisher.publish_newest(message),
                Step::Ask(message) => self.publisher.ask(message),
                Step::AskForTokenAgain => self.tokens.connected(),
                Step::Open(id, request) => self.open(id, request),
                Step::Malformed(id, device, reason) => {
                    self.record.began(id.0, &device, "", now());
                    warn!(device, reason, "operation cannot be read");
                    let kind = FailureKind::Malformed;
                    self.record.failed(id.0, kind, &reason, now());
                }
            }
        }
    }

    fn open(&mut self, id: OperationId, request: ConnectRequest) {
        let target = request.target.clone();
        let shown = target.to_string();
        self.record.began(id.0, &request.device, &shown, now());
        if let Err(too_many) = self.tunnels.open(id.0, request) {
            let reason = too_many.to_string();
            warn!(%target, reason, "did not open");
            self.record.failed(id.0, FailureKind::Limit, &reason, now());
            self.dialogue.failed(id, reason);
        }
    }

    fn answer(&mut self, inquiry: Inquiry) {
        match inquiry {
            Inquiry::Look(answer) => {
                self.tunnels.measure();
                let sights = Sights {
                    record: &self.record,
                    tunnels: &self.tunnels,
                    publisher: &self.publisher,
                    tokens: &self.tokens,
                    unknown_templates: self.dialogue.unknown_templates(),
                };
                let snapshot = Box::new(self.facts.look(&sights, self.is_stopping));
                match self.is_stopping {
                    // Who asked may have gone.
                    true => drop(answer.send(*snapshot)),
                    false => self.succession.answer(snapshot, answer),
                }
            }
        }
    }

    /// Begins nothing any more, and lets what is opening come to its result, for a limited time.
    /// Operations that come meanwhile stay pending on the platform, which repeats them to the next
    /// adit.
    async fn leave(&mut self, wires: &mut Wires, drain: Duration) {
        info!(
            tunnels = self.tunnels.len(),
            unsent = self.publisher.waiting(),
            "adit is stopping, and lets its tunnels go on"
        );
        self.dialogue.leave();
        let said = async {
            while !self.dialogue.all_is_said() {
                self.turn(wires).await;
            }
        };
        if timeout(OPENING_END.min(drain), said).await.is_ok() {
            return;
        }
        warn!("operations have no result in time, and fail");
        self.dialogue.stopping();
        self.carry_out();
        self.tunnels.stop_opening();
        let said = async {
            while !self.dialogue.all_is_said() {
                self.turn(wires).await;
            }
        };
        if timeout(TUNNELS_END, said).await.is_err() {
            warn!(tunnels = self.tunnels.len(), "tunnels did not end in time");
        }
    }

    /// Closes all tunnels and takes what they still have to tell, until then at the latest. Operations that
    /// come meanwhile stay pending on the platform, which repeats them to the next adit.
    async fn wind_up(&mut self, wires: &mut Wires, until: Instant) {
        info!(
            tunnels = self.tunnels.len(),
            unsent = self.publisher.waiting(),
            "adit is stopping"
        );
        self.dialogue.stopping();
        self.carry_out();
        self.tunnels.stop();
        // Those of the process before this one end as well, and tell it to this one.
        let ends = async {
            while !self.tunnels.is_empty() || self.succession.has_predecessor() {
                tokio::select! {
                    event = self.tunnels.next() => self.tunnel_event(event),
                    heard = self.succession.next() => self.heard(heard),
                    Some(_) = wires.events.recv() => {}
                    Some(inquiry) = wires.inquiries.recv() => self.answer(inquiry),
                }
                self.carry_out();
            }
        };
        if timeout_at(until.into(), ends).await.is_err() {
            warn!(tunnels = self.tunnels.len(), "tunnels did not end in time");
        }
    }
}

/// Waits until everything is delivered, for a limited time.
async fn end_session(
    mut session: JoinSet<()>,
    mut events: mpsc::Receiver<session::Event>,
    publisher: &Publisher,
) {
    let delivered = async {
        loop {
            tokio::select! {
                _ = session.join_next() => return,
                Some(_) = events.recv() => {}
            }
        }
    };
    let delivered = timeout(OUTBOX_END, delivered).await.is_ok();
    session.shutdown().await;
    if !delivered && publisher.waiting() > 0 {
        warn!(
            unsent = publisher.waiting(),
            "the broker did not take everything in time; the next start fails what is left executing"
        );
    }
}

/// Tells the time by tokio's clock, as the session and the tunnels do.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn end(ended: Ended) -> End {
    End {
        reason: ended.reason.to_string(),
        up: ended.up,
        down: ended.down,
        lasted: ended.lasted,
    }
}

fn own_fault() -> End {
    End {
        reason: manager::OWN_FAULT.to_owned(),
        up: 0,
        down: 0,
        lasted: Duration::ZERO,
    }
}
