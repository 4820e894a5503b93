//! All tunnels of one agent: how many there may be, what becomes of each, and their common end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use smartrest::{ConnectRequest, Target};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info, info_span, warn};

use super::current_policy::CurrentPolicy;
use super::policy::Policy;
use super::{EndReason, Ended, OpenError, OpenTunnel, Opener, Traffic};
use crate::state::clock::Clock;
use crate::state::meter::Meter;
use crate::state::record::Took;
use crate::state::snapshot::{FailureKind, Tunnel, TunnelState};
use crate::words::failure_reason;

/// Bytes of a failure reason: a line or two where the operator reads it.
const REASON_LIMIT: usize = 500;
/// Events that wait for the agent; a tunnel waits with its next word until there is room.
const EVENT_QUEUE: usize = 16;
/// Tunnels at their end that do not count: somebody may be slow to take the last bytes, and an
/// operator who has lost a tunnel wants the next. They still cost sockets and buffers.
const UNCOUNTED: usize = 16;
/// What the operator reads when the fault is in adit itself.
pub(crate) const OWN_FAULT: &str = "internal fault in adit, see its log";

/// Tells the tunnels of one agent apart; the caller chooses.
pub(crate) type TunnelId = u64;

/// What becomes of a tunnel. Each gets [`Event::Failed`], or [`Event::Opened`] and then
/// [`Event::Ended`].
#[derive(Debug)]
pub(crate) enum Event {
    /// Both ends stand.
    Opened(TunnelId, Took),
    /// It did not open, for this reason.
    Failed(TunnelId, FailureKind, String),
    /// It had opened and has ended; `None` where adit itself failed.
    Ended(TunnelId, Option<Ended>),
    /// One whose end is told is forgotten: there is room for another, and maybe none is left.
    Forgotten,
}

/// There are as many tunnels as may be.
#[derive(Debug, thiserror::Error)]
#[error("no more tunnels at a time than remote_access.max_tunnels, {0}")]
pub(crate) struct TooMany(usize);

/// The tunnels that are opening or open.
pub(crate) struct Tunnels {
    opener: Arc<Opener>,
    /// What every opener asks, too, also one that was replaced while it opens.
    policy: CurrentPolicy,
    limit: usize,
    tasks: JoinSet<()>,
    running: HashMap<task::Id, Running>,
    /// What those have carried that are forgotten, to the cloud and to the machines.
    carried_before: (u64, u64),
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
}

struct Running {
    id: TunnelId,
    device: String,
    target: Target,
    /// The address of the machine, once that stands. Its task notes it.
    address: Arc<OnceLock<IpAddr>>,
    opened: bool,
    /// It is told that it has ended, and only its task is still to be forgotten.
    ended: bool,
    began: Instant,
    traffic: Arc<Traffic>,
    meter: Meter,
    /// Ends it for a reason that it is told.
    end: Option<oneshot::Sender<EndReason>>,
}

/// What a tunnel opens with.
struct Opening {
    request: ConnectRequest,
    opener: Arc<Opener>,
    /// Where the address of the machine is noted.
    address: Arc<OnceLock<IpAddr>>,
}

impl Tunnels {
    /// Makes an empty list for at most `limit` tunnels.
    pub(crate) fn new(opener: Opener, limit: usize) -> Self {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        Self {
            policy: opener.policy.clone(),
            opener: Arc::new(opener),
            limit,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            carried_before: (0, 0),
            sender,
            events,
            stop: CancellationToken::new(),
        }
    }

    /// Begins to open a tunnel; [`Tunnels::next`] tells how it goes on.
    ///
    /// # Errors
    /// The limit is reached.
    pub(crate) fn open(&mut self, id: TunnelId, request: ConnectRequest) -> Result<(), TooMany> {
        let ending = self.running.values().filter(|running| running.is_ending());
        if counted(self.running.len(), ending.count()) >= self.limit {
            return Err(TooMany(self.limit));
        }
        let traffic = Arc::new(Traffic::default());
        let (device, target) = (request.device.clone(), request.target.clone());
        let span = info_span!("tunnel", id, %target);
        let (end, ended) = oneshot::channel();
        let address = Arc::default();
        let tunnel = carry(
            id,
            Opening {
                request,
                opener: Arc::clone(&self.opener),
                address: Arc::clone(&address),
            },
            Arc::clone(&traffic),
            self.sender.clone(),
            stopped(self.stop.clone(), ended),
            span,
        );
        let task = self.tasks.spawn(tunnel);
        let began = Instant::now();
        let running = Running {
            id,
            device,
            target,
            address,
            opened: false,
            ended: false,
            began,
            traffic,
            meter: Meter::new(began.into_std()),
            end: Some(end),
        };
        self.running.insert(task.id(), running);
        Ok(())
    }

    /// Waits for what becomes of a tunnel, for ever while there is none. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => {
                self.note(&event);
                event
            }
            // A task that has told of its end is still to be forgotten.
            Some(ended) = self.tasks.join_next_with_id() => self.joined(ended),
            // Neither is reached: the list holds a sender of its own.
            else => std::future::pending().await,
        }
    }

    fn note(&mut self, event: &Event) {
        let (Event::Opened(id, ..) | Event::Ended(id, _) | Event::Failed(id, ..)) = event else {
            return;
        };
        let mut running = self.running.values_mut();
        let Some(running) = running.find(|running| running.id == *id) else {
            return;
        };
        match event {
            Event::Opened(..) => running.opened = true,
            _ => running.ended = true,
        }
    }

    /// Forgets a task that has ended; if it ended by a fault, nobody else tells.
    fn joined(&mut self, ended: Result<(task::Id, ()), JoinError>) -> Event {
        let (task, fault) = match ended {
            Ok((task, ())) => (task, None),
            Err(fault) => (fault.id(), Some(fault)),
        };
        let forgotten = self.running.remove(&task);
        if let Some(running) = &forgotten {
            self.carried_before = sum(self.carried_before, running.carried());
        }
        let (Some(Running { id, opened, .. }), Some(_)) = (forgotten, fault) else {
            return Event::Forgotten;
        };
        error!(tunnel = id, "{OWN_FAULT}");
        match opened {
            true => Event::Ended(id, None),
            false => Event::Failed(id, FailureKind::Fault, OWN_FAULT.into()),
        }
    }

    /// Opens tunnels otherwise from now on; those whose machines stand stay as they are, but for those
    /// whose targets the new policy denies. Returns how many these are. What dials fails by itself if it
    /// is denied.
    pub(crate) fn renew(&mut self, mut opener: Opener, limit: usize, policy: Policy) -> u64 {
        opener.policy = self.policy.clone();
        self.opener = Arc::new(opener);
        self.limit = limit;
        self.set_policy(policy)
    }

    /// Ends the tunnels whose targets a new policy denies, and returns how many these are.
    pub(crate) fn set_policy(&mut self, policy: Policy) -> u64 {
        // Before the look at the addresses: see `Opener::open`.
        self.policy.set(policy);
        let running = self.running.values_mut();
        let ended = running.filter_map(|running| running.end_if_denied(&self.policy));
        ended.count() as u64
    }

    /// Returns what holds for all tunnels.
    pub(crate) fn policy(&self) -> Policy {
        self.policy.get()
    }

    /// Looks at what every tunnel has carried, so that there is a rate the next time.
    pub(crate) fn measure(&mut self) {
        let now = Instant::now().into_std();
        for running in self.running.values_mut() {
            running.meter.look(running.carried(), now);
        }
    }

    /// Returns what every tunnel is about, the oldest first.
    pub(crate) fn overview(&self, clock: &Clock) -> Vec<Tunnel> {
        let mut running: Vec<_> = self.running.values().filter(|it| !it.ended).collect();
        running.sort_by_key(|running| running.id);
        running.into_iter().map(|it| it.shown(clock)).collect()
    }

    /// Returns what all have carried that there are and that there were, to the cloud and to the
    /// machines. It never falls: what did not arrive at an end was carried as far as that.
    pub(crate) fn carried(&self) -> (u64, u64) {
        let all = self.running.values().map(Running::carried);
        all.fold(self.carried_before, sum)
    }

    /// Lets every tunnel come to its end; what is opening fails.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Fails the tunnels that are opening.
    pub(crate) fn stop_opening(&mut self) {
        for running in self.running.values_mut().filter(|it| !it.opened) {
            if let Some(end) = running.end.take() {
                // It may just have ended by itself.
                let _ = end.send(EndReason::Stopped);
            }
        }
    }

    /// How many tunnels are opening or open.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether there is none, and nothing left to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.events.is_empty()
    }
}

impl Running {
    fn is_ending(&self) -> bool {
        self.traffic.is_ending.load(Ordering::Relaxed)
    }

    /// Ends a tunnel that is open, or opens, to a machine that stands and that the policy denies.
    fn end_if_denied(&mut self, policy: &CurrentPolicy) -> Option<()> {
        let address = *self.address.get()?;
        let denied = policy.check(&self.target, address).err()?;
        // It may just have ended by itself.
        self.end
            .take()?
            .send(EndReason::Denied(denied.to_string()))
            .ok()
    }

    fn carried(&self) -> (u64, u64) {
        let Traffic { up, down, .. } = &*self.traffic;
        (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    }

    fn shown(&self, clock: &Clock) -> Tunnel {
        let (up_bytes, down_bytes) = self.carried();
        let (up_bytes_per_s, down_bytes_per_s) = self.meter.rates();
        Tunnel {
            id: self.id,
            device: self.device.clone(),
            target: self.target.to_string(),
            state: match (self.is_ending(), self.opened) {
                (true, _) => TunnelState::Ending,
                (false, true) => TunnelState::Open,
                (false, false) => TunnelState::Opening,
            },
            age_s: clock.age(self.began.into_std()),
            up_bytes,
            down_bytes,
            up_bytes_per_s,
            down_bytes_per_s,
            idle_s: clock.age(self.meter.active_at()),
        }
    }
}

fn sum(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0 + other.0, one.1 + other.1)
}

/// Returns how many tunnels count, of those that there are and of those of them that are ending.
fn counted(running: usize, ending: usize) -> usize {
    running.saturating_sub(ending.min(UNCOUNTED))
}

/// Waits until all tunnels are to end, or one of them.
async fn stopped(all: CancellationToken, one: oneshot::Receiver<EndReason>) -> EndReason {
    tokio::select! {
        () = all.cancelled() => EndReason::Stopped,
        Ok(reason) = one => reason,
    }
}

/// One tunnel from the request to its end.
async fn carry(
    id: TunnelId,
    opening: Opening,
    traffic: Arc<Traffic>,
    events: mpsc::Sender<Event>,
    stopped: impl Future<Output = EndReason> + Send,
    span: Span,
) {
    // On the heap, because this future is kept for as long as the tunnel lives.
    let mut stopped = pin!(stopped);
    let opening = open(opening, stopped.as_mut()).instrument(span.clone());
    let opened = Box::pin(opening).await;
    let tunnel = match opened {
        Ok(tunnel) => tunnel,
        Err((kind, reason)) => {
            span.in_scope(|| warn!(reason, "did not open"));
            // The receiver lives as long as the list that owns this task.
            let _ = events.send(Event::Failed(id, kind, reason)).await;
            return;
        }
    };
    span.in_scope(|| info!("opened"));
    let opened = Event::Opened(id, tunnel.took);
    let _ = events.send(opened).await;
    let ended = tunnel.relay(&traffic, stopped).await;
    span.in_scope(|| ended.log("ended"));
    let _ = events.send(Event::Ended(id, Some(ended))).await;
}

async fn open(
    opening: Opening,
    stopped: impl Future<Output = EndReason> + Send,
) -> Result<OpenTunnel, (FailureKind, String)> {
    let Opening {
        request,
        opener,
        address,
    } = opening;
    tokio::select! {
        opened = opener.open(&request.target, &request.key, &address) => opened.map_err(|error: OpenError| {
            (error.kind(), failure_reason(&error, REASON_LIMIT))
        }),
        reason = stopped => {
            let kind = match reason {
                EndReason::Denied(_) => FailureKind::Policy,
                _ => FailureKind::Stopping,
            };
            Err((kind, reason.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_tunnels_at_their_end_take_some_room_of_their_own() {
        for (open, ending, count) in [(0, 0, 0), (3, 0, 3), (3, 1, 3), (0, 16, 0), (1, 18, 3)] {
            assert_eq!(counted(open + ending, ending), count, "{open} {ending}");
        }
    }
}
