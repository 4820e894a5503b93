//! Carries bytes between a machine on the LAN and the cloud until one of them ends.
//!
//! One future holds both sockets. Bytes are read into room that all tunnels of a thread share,
//! worked on where they lie, and written from there: the cloud's are decrypted and the frames in
//! them found, the LAN side's get a header before them, are masked and encrypted. Only what a slow
//! side does not take is copied, and nothing more is read for it until it has; so whoever is slow
//! slows the other side down, a tunnel's memory is two reads at most, and an idle tunnel has none.
//!
//! Ends are where bytes get lost. A socket that is closed while it holds unread bytes sends a
//! reset, and a reset erases what the peer has not read yet. So each of the four half-connections
//! ends by itself: what it owes is written, its end is passed on, and the socket is read empty
//! before it is closed. That goes on for as long as somebody takes something.

mod alarm;
mod bell;
#[cfg(test)]
mod calls;
mod down;
mod drain;
mod end;
mod link;
mod outstanding;
#[cfg(test)]
mod over_tls;
#[cfg(test)]
mod patience;
#[cfg(test)]
mod peer;
mod room;
#[cfg(test)]
mod tests;
mod up;

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;
use websocket_frames::Decoder;

use crate::net::Socket;
use alarm::{Heart, Idle};
use bell::Bell;
use drain::Drain;
pub use end::{Cut, EndReason, Violation};
pub use link::CloudSocket;
use link::Link;
use room::{Lease, Rest, Room};

/// How long a side that is owed bytes at the end of a tunnel may take none of them.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Reads each way after which other tunnels have their turn.
const TURN: usize = 32;

/// What a tunnel may cost and how long things may take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Time between pings; two in a row without a sign of life end the tunnel. Zero sends none.
    pub keep_alive: Duration,
    /// How long a side may take nothing of the last bytes. See [`DRAIN_LIMIT`].
    pub drain: Duration,
    /// How long a tunnel may carry nothing.
    pub idle: Option<Duration>,
    /// How long a tunnel may be open.
    pub max_duration: Option<Duration>,
}

/// What a tunnel has carried so far, for whoever wants to look while it runs. It never falls: what
/// turns out not to have arrived stays in it.
#[derive(Debug, Default)]
pub struct Traffic {
    /// The user's bytes that the LAN side has said for the cloud.
    pub up: AtomicU64,
    /// The user's bytes from the cloud that the LAN side's kernel has taken.
    pub down: AtomicU64,
    /// Whether the end has begun, and only last bytes are waited for.
    pub is_ending: AtomicBool,
}

/// How a tunnel ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// The user's bytes from the LAN to the cloud, without those that did not reach it.
    pub up: u64,
    /// The user's bytes from the cloud to the LAN, without those that did not reach it.
    pub down: u64,
    /// From the start to the end, the last bytes included.
    pub lasted: Duration,
}

/// Carries bytes both ways until one side ends, a limit is reached or `stop` completes, with the
/// reason.
///
/// Dropping the future closes both sockets at once; what was read and not yet written is lost, so
/// an owner who can wait completes `stop` instead. `span` is for log lines only: to enter it at each
/// wake-up would cost about what the relay itself does then.
pub async fn relay<L: Socket, S: Socket>(
    lan: L,
    cloud: CloudSocket<S>,
    limits: &Limits,
    traffic: &Traffic,
    span: Span,
    stop: impl Future<Output: Into<EndReason>> + Send,
) -> Ended {
    let relay = Relay::new(lan, cloud, limits, traffic, span);
    let stop = pin!(async { stop.await.into() });
    run(relay, stop).await
}

/// One copy of all this serves whatever may stop a tunnel.
async fn run<L: Socket, S: Socket>(
    mut relay: Relay<'_, L, S>,
    mut stop: Pin<&mut (dyn Future<Output = EndReason> + Send)>,
) -> Ended {
    let mut stopping = false;
    let lease = Lease::new();
    poll_fn(|cx| {
        if relay.bell.has_rung(cx) {
            // The task may be another than before, and no socket knows it.
            relay.lan_waits = false;
            relay.cloud.awake(true);
            let mut bell = Context::from_waker(relay.bell.waker());
            if !stopping && let Poll::Ready(reason) = stop.as_mut().poll(&mut bell) {
                stopping = true;
                relay.stop(reason);
            }
            relay.alarmed = true;
        }
        lease.with(|room| {
            let ended = relay.poll(cx, room);
            relay.cloud.leave(room);
            ended
        })
    })
    .await
}

struct Relay<'a, L, S> {
    /// `None` once it is closed.
    lan: Option<L>,
    lan_in: LanIn,
    lan_out: LanOut,
    /// What a write to the LAN side failed with. What the LAN side sent before is still read.
    lan_failure: Option<io::Error>,
    /// What the LAN side has not taken yet.
    lan_rest: Rest,
    /// Reads of the LAN side that returned what nobody wants any more.
    lan_life: u64,
    /// Whether the LAN side had nothing to read when it was polled, and has its waker.
    lan_waits: bool,
    /// Whether tokio may not know of all that the LAN side has sent. See [`up::poll_read`].
    lan_hides: bool,
    cloud: Link<S>,
    cloud_in: CloudIn,
    cloud_out: CloudOut,
    decoder: Decoder,
    /// What the last ping carried that is not answered yet.
    pong: Option<Vec<u8>>,
    /// The body of a Close frame of the cloud that is not answered yet.
    answer: Option<Vec<u8>>,
    reason: Option<EndReason>,
    heart: Heart,
    idle: Option<Idle>,
    /// Set once, when the end begins.
    drain: Option<Drain>,
    alarm: Pin<Box<Sleep>>,
    /// Whether the alarm must be looked at, because it was set or may have rung.
    alarmed: bool,
    /// For what is seldom ready: the alarm, and the wish to stop.
    bell: Bell,
    began: Instant,
    limits: &'a Limits,
    traffic: &'a Traffic,
    span: Span,
    up: u64,
    down: u64,
    /// The user's bytes that were given up, up and down.
    undelivered: (u64, u64),
}

/// What the LAN side may still say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LanIn {
    /// It is read and carried.
    Open,
    /// adit ends the tunnel: what has arrived is still carried, until this instant at the latest.
    Last(Instant),
    /// Nobody wants it any more; it is read so that closing does not become a reset.
    Discard,
    Done,
}

/// What the LAN side may still be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LanOut {
    Open,
    /// The cloud has said everything.
    Finish,
    /// The cloud has not said everything: what it has said is still written, and from this instant
    /// on adit looks whether it has arrived.
    Reset(Instant),
    Done,
}

/// What the cloud may still say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum CloudIn {
    Open,
    /// No more messages; the stream is read so that closing does not become a reset.
    Discard,
    Done,
}

/// What the cloud may still be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum CloudOut {
    Open,
    /// A Close frame comes next.
    Close,
    /// A Close frame, or the answer to one, is on its way.
    Closing,
    Done,
}

impl<'a, L: Socket, S: Socket> Relay<'a, L, S> {
    fn new(
        lan: L,
        cloud: CloudSocket<S>,
        limits: &'a Limits,
        traffic: &'a Traffic,
        span: Span,
    ) -> Self {
        let began = Instant::now();
        let keep_alive = Some(limits.keep_alive).filter(|time| !time.is_zero());
        Self {
            lan: Some(lan),
            lan_in: LanIn::Open,
            lan_out: LanOut::Open,
            lan_failure: None,
            lan_rest: Rest::default(),
            lan_life: 0,
            lan_waits: false,
            lan_hides: false,
            cloud: Link::new(cloud),
            cloud_in: CloudIn::Open,
            cloud_out: CloudOut::Open,
            decoder: Decoder::default(),
            pong: None,
            answer: None,
            reason: None,
            heart: Heart {
                next: keep_alive.and_then(|time| began.checked_add(time)),
                due: false,
                asked: false,
                life: 0,
                taken: None,
                paused: false,
                missed: 0,
            },
            idle: limits.idle.and_then(|limit| {
                let until = began.checked_add(limit)?;
                Some(Idle { limit, until })
            }),
            drain: None,
            alarm: Box::pin(sleep_until(began)),
            alarmed: true,
            bell: Bell::new(),
            began,
            limits,
            traffic,
            span,
            up: 0,
            down: 0,
            undelivered: (0, 0),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<Ended> {
        // Whoever was not the reason to wake this task is not asked again.
        self.lan_waits &= !self.lan.as_ref().is_some_and(Socket::may_have_more);
        self.cloud.awake(false);
        for _ in 0..TURN {
            let mut moved = mem::take(&mut self.alarmed) && self.poll_alarm().is_ready();
            // One step each way, so that a busy direction does not starve the other.
            moved |= self.poll_up(cx, room).is_ready();
            moved |= self.poll_down(cx, room).is_ready();
            moved |= self.poll_discard(cx, room).is_ready();
            if self.lan_in == LanIn::Done && self.lan_out == LanOut::Done {
                self.lan = None;
            }
            let over = self.lan.is_none()
                && self.cloud_in == CloudIn::Done
                && self.cloud_out == CloudOut::Done;
            if over {
                return Poll::Ready(self.ended());
            }
            if !moved && !self.alarmed {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn ended(&mut self) -> Ended {
        let failure = |failure: &Option<io::Error>| failure.as_ref().map(EndReason::device_error);
        let reason = self
            .reason
            .take()
            .or_else(|| failure(&self.lan_failure))
            .or_else(|| self.cloud.failure().map(EndReason::cloud_error))
            .unwrap_or(EndReason::LeftByCloud);
        let (up, down) = self.undelivered;
        // Whatever ends it, what never left adit has not arrived.
        let up = up.max(self.cloud.unwritten()).min(self.up);
        Ended {
            reason: reason.with_undelivered(up, down),
            up: self.up - up,
            down: self.down,
            lasted: self.began.elapsed(),
        }
    }
}
