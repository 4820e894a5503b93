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

mod bell;
mod end;
mod link;
#[cfg(test)]
mod over_tls;
#[cfg(test)]
mod patience;
mod room;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Span, debug};
use websocket_frames::{self as frame, CloseCode, Control, Decoder, HEADER_ROOM, Item};

use crate::net::Socket;
use bell::Bell;
pub use end::{Cut, EndReason, Violation};
pub use link::CloudSocket;
use link::{Link, Received, StreamEnd, has_nothing};
use room::{LAN_READ, Lease, Rest, Room};

/// How long a side that is owed bytes at the end of a tunnel may take none of them.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long the last bytes of a tunnel may take, however steadily they are taken.
pub const DRAIN_CEILING: Duration = Duration::from_secs(10 * 60);

/// Drain limits without progress that end a tunnel while the kernel still holds bytes. A receiver
/// announces room only when a good part of its buffer, or a whole segment, is free; at some
/// kilobytes a second that takes longer than one limit.
const HELD_PATIENCE: u32 = 2;

/// How long after the last write adit looks whether everything has arrived, before it resets.
const RESET_DELAY: Duration = Duration::from_millis(20);

/// Pings in a row without a sign of life that end a tunnel.
const MISSED_PINGS: u32 = 2;

/// Reads each way after which other tunnels have their turn.
const TURN: usize = 32;

/// Payload below this size is moved behind the one before it rather than written from its place: an
/// entry of a vectored write has its own cost. An estimate; no other size was measured.
const MOVED_BELOW: usize = 512;

/// Pieces of one vectored write.
const PIECES: usize = 64;

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

/// What a tunnel has carried so far, for whoever wants to look while it runs.
#[derive(Debug, Default)]
pub struct Traffic {
    /// The user's bytes from the LAN to the cloud.
    pub up: AtomicU64,
    /// The user's bytes from the cloud to the LAN.
    pub down: AtomicU64,
    /// Whether the end has begun, and only last bytes are waited for.
    pub is_ending: AtomicBool,
}

/// How a tunnel ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// Bytes from the LAN to the cloud.
    pub up: u64,
    /// Bytes from the cloud to the LAN.
    pub down: u64,
    /// From the start to the end, the last bytes included.
    pub lasted: Duration,
}

/// Carries bytes both ways until one side ends, a limit is reached or `stop` completes.
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
    stop: impl Future + Send,
) -> Ended {
    let relay = Relay::new(lan, cloud, limits, traffic, span);
    let stop = pin!(async {
        stop.await;
    });
    run(relay, stop).await
}

/// One copy of all this serves whatever may stop a tunnel.
async fn run<L: Socket, S: Socket>(
    mut relay: Relay<'_, L, S>,
    mut stop: Pin<&mut (dyn Future<Output = ()> + Send)>,
) -> Ended {
    let mut stopping = false;
    let lease = Lease::new();
    poll_fn(|cx| {
        if relay.bell.has_rung(cx) {
            // The task may be another than before, and no socket knows it.
            relay.lan_waits = false;
            relay.cloud.awake(true);
            let mut bell = Context::from_waker(relay.bell.waker());
            if !stopping && stop.as_mut().poll(&mut bell).is_ready() {
                stopping = true;
                relay.stop();
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
    /// Reads of the LAN side that returned something.
    lan_life: u64,
    /// Whether the LAN side had nothing to read when it was polled, and has its waker.
    lan_waits: bool,
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
    /// What was given up, up and down.
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

/// The pings and their answers.
struct Heart {
    next: Option<Instant>,
    due: bool,
    /// Whether a ping has been due before.
    asked: bool,
    /// [`Link::life`] at the last beat.
    life: u64,
    /// Bytes that the cloud had taken while others waited for it, when that was last asked.
    taken: Option<u64>,
    /// Whether the LAN side kept adit from reading the WebSocket since the last beat.
    paused: bool,
    missed: u32,
}

struct Idle {
    limit: Duration,
    /// The tunnel is not idle before this instant.
    until: Instant,
}

/// How the end goes on.
struct Drain {
    ceiling: Instant,
    /// When progress is looked for.
    look: Instant,
    last: Progress,
    /// Looks in a row without progress.
    quiet: u32,
}

/// What has moved at the end of a tunnel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Progress {
    /// Bytes that the LAN side has taken, and that it is owed.
    lan: (u64, u64),
    /// The same of the cloud.
    cloud: (u64, u64),
    /// Signs of life of both.
    life: (u64, u64),
}

impl Progress {
    /// Whether somebody took something since, or somebody who is owed something said something.
    fn is_beyond(self, last: Self) -> bool {
        self.lan.0 > last.lan.0
            || self.cloud.0 > last.cloud.0
            || (self.lan.1 > 0 && self.life.0 > last.life.0)
            || (self.cloud.1 > 0 && self.life.1 > last.life.1)
    }
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
                self.heart.paused |= !self.lan_rest.is_empty();
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// From the LAN to the cloud: one frame, a ping, or the end.
    fn poll_up(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        match self.cloud_out {
            CloudOut::Open => {
                ready!(self.cloud.poll_flush(cx));
                if self.cloud.failure().is_some() {
                    // It may have sent something before it broke. How that ends tells the reason.
                    self.cloud_out = CloudOut::Done;
                    self.begin_end();
                    return Poll::Ready(());
                }
                if let Some(body) = self.pong.take() {
                    self.send_control(cx, room, Control::Pong, &body);
                    return Poll::Ready(());
                }
                if mem::take(&mut self.heart.due) {
                    self.send_control(cx, room, Control::Ping, &[]);
                    return Poll::Ready(());
                }
                self.poll_carry_up(cx, room)
            }
            CloudOut::Close => {
                ready!(self.cloud.poll_flush(cx));
                let body = self.answer.take();
                let body = body.or_else(|| Some(self.reason.as_ref()?.close_body()));
                self.cloud_out = CloudOut::Closing;
                self.send_control(cx, room, Control::Close, &body.unwrap_or_default());
                Poll::Ready(())
            }
            CloudOut::Closing => {
                ready!(self.cloud.poll_flush(cx));
                if self.cloud_in == CloudIn::Open {
                    // Ending the stream now could make the cloud drop what it has yet to send.
                    return Poll::Pending;
                }
                ready!(self.cloud.poll_shutdown(cx, room));
                self.cloud_out = CloudOut::Done;
                Poll::Ready(())
            }
            CloudOut::Done => Poll::Pending,
        }
    }

    /// One read of the LAN side becomes one frame. Nothing waits to be sent at this point.
    fn poll_carry_up(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        let Some(lan) = &mut self.lan else {
            return Poll::Pending;
        };
        let place = HEADER_ROOM..HEADER_ROOM + LAN_READ;
        let place = room.outgoing.get_mut(place).unwrap_or_default();
        let read = match self.lan_in {
            LanIn::Open if self.lan_waits => return Poll::Pending,
            LanIn::Open => {
                let mut read = ReadBuf::new(place);
                let result = Pin::new(lan).poll_read(cx, &mut read);
                self.lan_waits = has_nothing(&result);
                ready!(result).map(|()| read.filled().len())
            }
            LanIn::Last(until) => match lan.read_now(place) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Poll::Ready(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.lan_in = LanIn::Discard;
                    self.cloud_out = CloudOut::Close;
                    return Poll::Ready(());
                }
                read @ Ok(_) if until <= Instant::now() => {
                    self.lan_in = LanIn::Discard;
                    self.cloud_out = CloudOut::Close;
                    read
                }
                read => read,
            },
            LanIn::Discard | LanIn::Done => return Poll::Pending,
        };
        match read {
            Ok(0) => {
                self.lan_in = LanIn::Done;
                let reason = match &self.lan_failure {
                    Some(error) => EndReason::device_error(error),
                    None => EndReason::ClosedByDevice,
                };
                self.end(reason);
                self.cloud_out = CloudOut::Close;
            }
            Ok(length) => {
                self.lan_life += 1;
                self.count_up(length);
                match room.key() {
                    Ok(key) => {
                        let end = HEADER_ROOM + length;
                        let begin = frame::enclose(&mut room.outgoing, HEADER_ROOM..end, key);
                        self.cloud.send(cx, room, begin..end);
                        self.cloud.note_owed();
                    }
                    Err(error) => self.cloud.fail(error),
                }
            }
            Err(error) => {
                self.end(EndReason::device_error(&error));
                self.close_lan();
                self.cloud_out = CloudOut::Close;
            }
        }
        Poll::Ready(())
    }

    fn send_control(&mut self, cx: &mut Context<'_>, room: &mut Room, kind: Control, body: &[u8]) {
        let mut bytes = Vec::new();
        match room.key() {
            Ok(key) => frame::append_control(&mut bytes, kind, body, key),
            Err(error) => self.cloud.fail(error),
        }
        if let Some(place) = room.outgoing.get_mut(..bytes.len()) {
            place.copy_from_slice(&bytes);
        }
        self.cloud.send(cx, room, 0..bytes.len());
    }

    /// From the cloud to the LAN: what one read brings, what is left of it, or the end.
    fn poll_down(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        if let Some(lan) = &mut self.lan {
            if !self.lan_rest.is_empty() {
                match ready!(Pin::new(lan).poll_write(cx, self.lan_rest.left())) {
                    Ok(count) => {
                        self.lan_rest.advance(count);
                        self.count_down(count);
                    }
                    Err(error) => self.lan_takes_no_more(error),
                }
                return Poll::Ready(());
            }
            match self.lan_out {
                LanOut::Finish => {
                    // An error means that the LAN side has gone, which ends it as well.
                    let _ = ready!(Pin::new(lan).poll_shutdown(cx));
                    self.lan_out = LanOut::Done;
                    return Poll::Ready(());
                }
                LanOut::Reset(when) => {
                    let now = Instant::now();
                    if now < when {
                        return Poll::Pending;
                    }
                    if lan.held(when - RESET_DELAY) == 0 {
                        self.reset_lan();
                        return Poll::Ready(());
                    }
                    self.lan_out = LanOut::Reset(now + RESET_DELAY);
                    self.set_alarm(now + RESET_DELAY);
                    return Poll::Pending;
                }
                LanOut::Open | LanOut::Done => {}
            }
        }
        if self.cloud_in != CloudIn::Open {
            return Poll::Pending;
        }
        match ready!(self.cloud.poll_receive(cx, room)) {
            Received::Bytes(bytes) => self.take(cx, room, bytes),
            Received::End(end) => self.cloud_stream_ended(end),
            Received::Failed(error) => {
                self.end(EndReason::cloud_error(&error));
                self.cloud_in = CloudIn::Done;
                self.cloud_out = CloudOut::Done;
                self.reset_lan_after_all();
            }
            Received::Undecipherable(bytes, error) => {
                self.take(cx, room, bytes);
                if self.cloud_in == CloudIn::Open {
                    self.end(EndReason::tls_error(&error));
                    self.cloud_in = CloudIn::Discard;
                    // An alert is on its way, and there is no more TLS to carry a Close frame.
                    self.cloud_out = CloudOut::Closing;
                    self.reset_lan_after_all();
                }
            }
        }
        Poll::Ready(())
    }

    /// Finds the frames in what came, and writes to the LAN side what they carry.
    fn take(&mut self, cx: &mut Context<'_>, room: &mut Room, bytes: Range<usize>) {
        let mut at = bytes.start;
        let found = loop {
            let input = room.incoming.get(..bytes.end).unwrap_or_default();
            match self.decoder.next(input, &mut at) {
                Ok(Some(Item::Data(piece))) if self.lan_out == LanOut::Open => {
                    match room.pieces.last_mut() {
                        Some(last) if piece.len() < MOVED_BELOW => {
                            let length = piece.len();
                            room.incoming.copy_within(piece, last.end);
                            last.end += length;
                        }
                        _ => room.pieces.push(piece),
                    }
                }
                Ok(Some(Item::Ping)) => self.pong = Some(self.decoder.body().to_vec()),
                Ok(Some(Item::Data(_) | Item::Pong)) => {}
                Ok(Some(Item::Close(code))) => break Some(Ok(code)),
                Ok(None) => break None,
                Err(fault) => break Some(Err(fault)),
            }
        };
        self.write_pieces(cx, room);
        match found {
            None => {}
            Some(Ok(code)) => self.cloud_closed(code),
            Some(Err(fault)) => {
                self.end(EndReason::BrokenByCloud(Violation::Frame(fault)));
                self.cloud_in = CloudIn::Discard;
                if self.cloud_out == CloudOut::Open {
                    self.cloud_out = CloudOut::Close;
                }
                self.reset_lan_after_all();
            }
        }
    }

    /// Writes the pieces in the room; what the LAN side does not take is kept.
    fn write_pieces(&mut self, cx: &mut Context<'_>, room: &mut Room) {
        let Room {
            incoming, pieces, ..
        } = room;
        let mut first = 0;
        while let Some(lan) = &mut self.lan
            && let Some(rest) = pieces.get(first..)
            && !rest.is_empty()
        {
            let result = match rest {
                [one] => {
                    let bytes = incoming.get(one.clone()).unwrap_or_default();
                    Pin::new(lan).poll_write(cx, bytes)
                }
                several => {
                    let mut slices = [IoSlice::new(&[]); PIECES];
                    let count = several.len().min(PIECES);
                    for (slice, piece) in slices.iter_mut().zip(several.iter()) {
                        *slice = IoSlice::new(incoming.get(piece.clone()).unwrap_or_default());
                    }
                    Pin::new(lan).poll_write_vectored(cx, &slices[..count])
                }
            };
            match result {
                Poll::Ready(Ok(mut count)) => {
                    self.count_down(count);
                    for piece in pieces.iter_mut().skip(first) {
                        let taken = piece.len().min(count);
                        piece.start += taken;
                        count -= taken;
                        if piece.start < piece.end {
                            break;
                        }
                        first += 1;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.lan_takes_no_more(error);
                    break;
                }
                Poll::Pending => break,
            }
        }
        if self.lan_out == LanOut::Open {
            for piece in pieces.iter().skip(first) {
                let bytes = incoming.get(piece.clone()).unwrap_or_default();
                self.lan_rest.keep(bytes);
            }
        }
        pieces.clear();
    }

    fn cloud_closed(&mut self, code: Option<CloseCode>) {
        let body = self.decoder.body();
        let reason = EndReason::closed_by_cloud(code, body.get(2..).unwrap_or_default());
        let body = body.to_vec();
        self.end(reason);
        self.cloud_in = CloudIn::Discard;
        self.say_no_more();
        if matches!(self.cloud_out, CloudOut::Open | CloudOut::Close) {
            self.answer = Some(body);
            self.cloud_out = CloudOut::Close;
        }
    }

    /// The stream below the frames ended without a Close frame.
    fn cloud_stream_ended(&mut self, end: StreamEnd) {
        self.cloud_in = CloudIn::Done;
        let cut = match end {
            _ if self.decoder.is_within() => Some(Cut::WithinMessage),
            // A server that was told the end may leave it at that.
            StreamEnd::Cut if self.reason.is_none() => Some(Cut::WithinTls),
            _ => None,
        };
        if let Some(error) = self.cloud.failure() {
            let reason = EndReason::cloud_error(error);
            self.end(reason);
            self.cloud_out = CloudOut::Done;
            self.reset_lan_after_all();
        } else if let Some(cut) = cut {
            self.end(EndReason::CutByCloud(cut));
            self.close_cloud();
            self.reset_lan_after_all();
        } else {
            self.end(EndReason::LeftByCloud);
            self.say_no_more();
            self.close_cloud();
        }
    }

    /// The cloud has ended: the LAN side is told so, and nothing more of it is carried.
    fn say_no_more(&mut self) {
        if self.lan_out == LanOut::Open {
            self.lan_out = LanOut::Finish;
        }
        if self.lan_in != LanIn::Done {
            self.lan_in = LanIn::Discard;
        }
    }

    /// Ends the stream to a cloud that reads no frames any more.
    fn close_cloud(&mut self) {
        if self.cloud_out != CloudOut::Done {
            self.cloud_out = CloudOut::Closing;
        }
    }

    /// Reads what nobody wants any more, so that closing a socket does not become a reset.
    fn poll_discard(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        let mut moved = Poll::Pending;
        if self.lan_in == LanIn::Discard
            && let Some(lan) = &mut self.lan
        {
            let mut read = ReadBuf::new(&mut room.outgoing);
            if let Poll::Ready(result) = Pin::new(lan).poll_read(cx, &mut read) {
                if result.is_err() || read.filled().is_empty() {
                    self.lan_in = LanIn::Done;
                }
                self.lan_life += 1;
                moved = Poll::Ready(());
            }
        }
        if self.cloud_in == CloudIn::Discard
            && let Poll::Ready(more) = self.cloud.poll_discard(cx, room)
        {
            if !more {
                self.cloud_in = CloudIn::Done;
            }
            moved = Poll::Ready(());
        }
        moved
    }

    fn set_alarm(&mut self, when: Instant) {
        if when < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(when);
        }
        self.alarmed = true;
    }

    fn poll_alarm(&mut self) -> Poll<()> {
        let mut bell = Context::from_waker(self.bell.waker());
        ready!(self.alarm.as_mut().poll(&mut bell));
        let now = Instant::now();
        if self.reason.is_none() && self.drain.is_none() {
            self.beat(now);
            self.look_at_limits(now);
        }
        if self.drain.as_ref().is_some_and(|drain| drain.look <= now) {
            self.look_at_drain(now);
        }
        let reset = match self.lan_out {
            LanOut::Reset(when) => Some(when.max(now + RESET_DELAY / 2)),
            _ => None,
        };
        let next = match &self.drain {
            Some(drain) => [Some(drain.look), reset, None],
            None => [
                self.heart.next,
                self.idle.as_ref().map(|idle| idle.until),
                self.limits
                    .max_duration
                    .and_then(|time| self.began.checked_add(time)),
            ],
        };
        // An alarm that rings for nothing once a day costs less than one that can be absent.
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let next = next.into_iter().flatten().min();
        self.alarm.as_mut().reset(next.unwrap_or(now + DAY));
        self.alarmed = true;
        Poll::Ready(())
    }

    /// Judges the last ping and sends the next.
    fn beat(&mut self, now: Instant) {
        if self.heart.next.is_none_or(|next| now < next) {
            return;
        }
        self.heart.next = now.checked_add(self.limits.keep_alive);
        let life = self.cloud.life();
        let mut alive = mem::replace(&mut self.heart.life, life) != life;
        let blocked = !self.lan_rest.is_empty();
        alive |= mem::replace(&mut self.heart.paused, blocked) || blocked;
        if !alive && self.heart.asked {
            // It may take what waits for it, only slowly. What does not have to wait is taken by
            // its system, and says nothing of itself.
            let (taken, owed) = self.cloud.account(now);
            let before = self.heart.taken.replace(taken).filter(|_| owed > 0);
            alive = before.is_some_and(|before| before < taken);
            if owed == 0 {
                self.heart.taken = None;
            }
        }
        if alive {
            self.heart.missed = 0;
        } else if self.heart.asked {
            self.heart.missed += 1;
        }
        if self.heart.missed < MISSED_PINGS {
            self.heart.asked = true;
            self.heart.due = true;
            return;
        }
        let undelivered = self.cloud.account(now).1.min(self.up);
        self.undelivered.0 = undelivered;
        self.end(EndReason::CloudSilent(
            self.limits.keep_alive * MISSED_PINGS,
        ));
        // Nobody will answer, so nothing waits for an answer.
        self.cloud_in = CloudIn::Done;
        self.cloud_out = CloudOut::Close;
        self.reset_lan();
    }

    fn look_at_limits(&mut self, now: Instant) {
        if let Some(idle) = &self.idle
            && idle.until <= now
        {
            let limit = idle.limit;
            self.say_goodbye(EndReason::Idle(limit));
        }
        if let Some(limit) = self.limits.max_duration
            && self.began.checked_add(limit).is_some_and(|end| end <= now)
        {
            self.say_goodbye(EndReason::MaxDuration(limit));
        }
    }

    /// Ends the tunnel because adit ends, which does not wait for those who are slow.
    fn stop(&mut self) {
        self.say_goodbye(EndReason::Stopped);
        let ceiling = Instant::now() + self.limits.drain;
        if let Some(drain) = &mut self.drain {
            drain.ceiling = drain.ceiling.min(ceiling);
            drain.look = drain.look.min(ceiling);
            let look = drain.look;
            self.set_alarm(look);
        }
    }

    /// Ends the tunnel although both sides could go on: what is under way still arrives.
    fn say_goodbye(&mut self, reason: EndReason) {
        if self.drain.is_some() {
            return;
        }
        self.end(reason);
        if self.lan_in == LanIn::Open {
            // Half of the time, so that the other half is left for the cloud's answer.
            self.lan_in = LanIn::Last(Instant::now() + self.limits.drain / 2);
        }
    }

    /// Notes why the tunnel ends; the first reason counts.
    fn end(&mut self, reason: EndReason) {
        self.reason.get_or_insert(reason);
        self.begin_end();
    }

    /// From now on there must be progress.
    fn begin_end(&mut self) {
        if self.drain.is_none() {
            self.traffic.is_ending.store(true, Ordering::Relaxed);
            let now = Instant::now();
            let look = now + self.limits.drain;
            self.drain = Some(Drain {
                ceiling: now + DRAIN_CEILING,
                look,
                last: Progress::default(),
                quiet: 0,
            });
            self.set_alarm(look);
        }
    }

    fn progress(&self, now: Instant) -> Progress {
        let rest = self.lan_rest.len() as u64;
        let held = self.lan.as_ref().map_or(0, |lan| lan.held(now));
        // An end that was sent counts as a byte.
        let held = held.saturating_sub(u64::from(self.lan_out == LanOut::Done));
        Progress {
            lan: (self.down.saturating_sub(held), held + rest),
            cloud: self.cloud.account(now),
            life: (self.lan_life, self.cloud.life()),
        }
    }

    /// Looks whether the last bytes go anywhere.
    fn look_at_drain(&mut self, now: Instant) {
        let progress = self.progress(now);
        let Some(drain) = &mut self.drain else {
            return;
        };
        if progress.is_beyond(drain.last) {
            drain.quiet = 0;
        } else {
            drain.quiet += 1;
        }
        drain.last = progress;
        let owed = progress.lan.1 > 0 || progress.cloud.1 > 0;
        let patience = if owed { HELD_PATIENCE } else { 1 };
        if drain.quiet < patience && now < drain.ceiling {
            drain.look = (now + self.limits.drain).min(drain.ceiling);
        } else {
            self.give_up(progress);
        }
    }

    /// The last bytes are not taken in time.
    fn give_up(&mut self, progress: Progress) {
        debug!(parent: &self.span, limit = ?self.limits.drain, "last bytes not accepted in time");
        if self.cloud_out != CloudOut::Done {
            self.undelivered.0 = progress.cloud.1.min(self.up);
        }
        if self.lan.is_some() {
            self.undelivered.1 = progress.lan.1;
            self.down = progress.lan.0;
        }
        if progress.lan.1 == 0 && !matches!(self.lan_out, LanOut::Reset(_)) {
            self.close_lan();
        } else {
            // An end without a reset would make half a message look like a whole one.
            self.reset_lan();
        }
        self.cloud_in = CloudIn::Done;
        self.cloud_out = CloudOut::Done;
    }

    /// What the LAN side has sent before it stopped taking is still to be read.
    fn lan_takes_no_more(&mut self, error: io::Error) {
        self.lan_failure = Some(error);
        self.lan_out = LanOut::Done;
        self.lan_rest.clear();
        self.begin_end();
    }

    fn close_lan(&mut self) {
        self.lan = None;
        self.lan_in = LanIn::Done;
        self.lan_out = LanOut::Done;
        self.lan_rest.clear();
    }

    /// Tells the LAN side that what it has received may be incomplete.
    fn reset_lan(&mut self) {
        if let Some(lan) = &self.lan
            && let Err(error) = lan.reset_when_closed()
        {
            debug!(parent: &self.span, %error, "the LAN side is closed instead of reset");
        }
        self.close_lan();
    }

    /// The same behind all that was received: a reset would throw away what has not arrived.
    fn reset_lan_after_all(&mut self) {
        if self.down == 0 && self.lan_rest.is_empty() {
            self.reset_lan();
        }
        if self.lan.is_none() || self.lan_out != LanOut::Open {
            return self.reset_lan();
        }
        let when = Instant::now() + RESET_DELAY;
        self.lan_in = LanIn::Done;
        self.lan_out = LanOut::Reset(when);
        self.set_alarm(when);
    }

    fn count_up(&mut self, count: usize) {
        self.up += count as u64;
        // Nobody else writes it.
        self.traffic.up.store(self.up, Ordering::Relaxed);
        self.note_activity();
    }

    fn count_down(&mut self, count: usize) {
        self.down += count as u64;
        self.traffic.down.store(self.down, Ordering::Relaxed);
        self.note_activity();
    }

    fn note_activity(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.until = Instant::now() + idle.limit;
        }
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
        Ended {
            reason: reason.with_undelivered(up, down),
            up: self.up - up,
            down: self.down,
            lasted: self.began.elapsed(),
        }
    }
}
