//! Carries bytes between a machine on the LAN and the cloud until one of them ends.
//!
//! One future holds both sockets and moves one piece at a time: a piece that was read is written
//! before the next one is read, so whoever is slow slows the other side down, and a tunnel's
//! memory is one read, one message and one frame.
//!
//! Ends are where bytes get lost. A socket that is closed while it holds unread bytes sends a
//! reset, and a reset erases what the peer has not read yet. So each of the four half-connections
//! ends by itself: what it owes is written, its end is passed on, and the socket is read empty
//! before it is closed, all within the drain limit.

mod end;
pub mod frame;
mod link;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io::{self, Read};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::{self, Message, error::ProtocolError};
use tracing::debug;

pub use end::{EndReason, Violation};
pub use link::{CloudSocket, Link, MESSAGE_LIMIT, config};

pub(crate) use end::close_frame;

/// How long the last bytes of a tunnel may take, counted from its end.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What one read of the LAN side may return, and so the largest frame that is sent.
///
/// By `benches/relay.rs`, bulk costs about 1.5 times the processor time of a plain proxy with
/// 16 KiB and 1.2 with 32; what 64 KiB save is within the noise, and every tunnel would hold them.
const READ_SIZE: usize = 32 << 10;

/// Pings in a row without a sign of life that end a tunnel.
const MISSED_PINGS: u32 = 2;

/// What a tunnel may cost and how long things may take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Time between pings; two in a row without a sign of life end the tunnel. Zero sends none.
    pub keep_alive: Duration,
    /// How long the last bytes may take, counted from the end. See [`DRAIN_LIMIT`].
    pub drain: Duration,
    /// How long a tunnel may carry nothing.
    pub idle: Option<Duration>,
    /// How long a tunnel may be open.
    pub max_duration: Option<Duration>,
}

/// The user's bytes that a tunnel has carried so far, for whoever wants to look while it runs.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the LAN to the cloud.
    pub up: AtomicU64,
    /// From the cloud to the LAN.
    pub down: AtomicU64,
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
/// The cloud's WebSocket must have been made with [`config`]. Dropping the future closes both
/// sockets at once; what was read and not yet written is lost, so an owner who can wait completes
/// `stop` instead.
pub async fn relay<S>(
    lan: TcpStream,
    cloud: CloudSocket<S>,
    limits: &Limits,
    traffic: &Traffic,
    stop: impl Future,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stop = pin!(stop);
    let mut stopping = false;
    let mut relay = Relay::new(lan, cloud, limits, traffic);
    poll_fn(|cx| relay.poll(cx, &mut stopping, stop.as_mut())).await
}

struct Relay<'a, S> {
    /// `None` once it is closed.
    lan: Option<TcpStream>,
    lan_in: LanIn,
    lan_out: LanOut,
    /// What a write to the LAN side failed with. What the LAN side sent before is still read.
    lan_failure: Option<io::Error>,
    cloud: CloudSocket<S>,
    cloud_in: CloudIn,
    cloud_out: CloudOut,
    /// Whether the WebSocket may hold something that has not gone out.
    flush: bool,
    /// Room for one read of the LAN side; empty between two steps.
    room: BytesMut,
    /// The rest of a message that the LAN side has not taken yet.
    message: Bytes,
    reason: Option<EndReason>,
    heart: Heart,
    idle: Option<Idle>,
    /// When the last bytes must be out. Set once, when the end begins.
    drained_by: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
    began: Instant,
    limits: &'a Limits,
    traffic: &'a Traffic,
    up: u64,
    down: u64,
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
    /// Whether the LAN side kept adit from reading the WebSocket since the last beat.
    paused: bool,
    missed: u32,
}

struct Idle {
    limit: Duration,
    /// The tunnel is not idle before this instant.
    until: Instant,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Relay<'a, S> {
    fn new(
        lan: TcpStream,
        cloud: CloudSocket<S>,
        limits: &'a Limits,
        traffic: &'a Traffic,
    ) -> Self {
        let began = Instant::now();
        let keep_alive = Some(limits.keep_alive).filter(|time| !time.is_zero());
        let mut relay = Self {
            lan: Some(lan),
            lan_in: LanIn::Open,
            lan_out: LanOut::Open,
            lan_failure: None,
            cloud,
            cloud_in: CloudIn::Open,
            cloud_out: CloudOut::Open,
            // The handshake may have left something in a TLS stream.
            flush: true,
            room: BytesMut::new(),
            message: Bytes::new(),
            reason: None,
            heart: Heart {
                next: keep_alive.and_then(|time| began.checked_add(time)),
                due: false,
                asked: false,
                life: 0,
                paused: false,
                missed: 0,
            },
            idle: limits.idle.and_then(|limit| {
                let until = began.checked_add(limit)?;
                Some(Idle { limit, until })
            }),
            drained_by: None,
            alarm: Box::pin(sleep_until(began)),
            began,
            limits,
            traffic,
            up: 0,
            down: 0,
        };
        relay.heart.life = relay.cloud.get_ref().life();
        relay
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stopping: &mut bool,
        mut stop: Pin<&mut impl Future>,
    ) -> Poll<Ended> {
        loop {
            // First, because moving bytes may use up what tokio lets a task do in one go.
            if !*stopping && stop.as_mut().poll(cx).is_ready() {
                *stopping = true;
                self.say_goodbye(EndReason::Stopped);
            }
            let mut moved = self.poll_alarm(cx).is_ready();
            if self.drained_by.is_some_and(|end| end <= Instant::now()) {
                self.give_up();
            }
            // One step each way, so that a busy direction does not starve the other.
            moved |= self.poll_up(cx).is_ready();
            moved |= self.poll_down(cx).is_ready();
            moved |= self.poll_discard(cx).is_ready();
            if self.lan_in == LanIn::Done && self.lan_out == LanOut::Done {
                self.lan = None;
            }
            let over = self.lan.is_none()
                && self.cloud_in == CloudIn::Done
                && self.cloud_out == CloudOut::Done;
            if over {
                return Poll::Ready(self.ended());
            }
            if !moved {
                self.heart.paused |= !self.message.is_empty();
                return Poll::Pending;
            }
        }
    }

    /// From the LAN to the cloud: one frame, a ping, or the end.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.cloud_out {
            CloudOut::Open => {
                ready!(self.poll_flush(cx));
                if self.cloud.get_ref().failure().is_some() {
                    // It may have sent something before it broke. How that ends tells the reason.
                    self.cloud_out = CloudOut::Done;
                    self.begin_end();
                    return Poll::Ready(());
                }
                if mem::take(&mut self.heart.due) {
                    self.send(Message::Ping(Bytes::new()));
                    return Poll::Ready(());
                }
                self.poll_carry_up(cx)
            }
            CloudOut::Close => {
                ready!(self.poll_flush(cx));
                let frame = self.reason.as_ref().and_then(EndReason::close_frame);
                self.cloud_out = CloudOut::Closing;
                self.send(Message::Close(frame));
                Poll::Ready(())
            }
            CloudOut::Closing => {
                ready!(self.poll_flush(cx));
                if self.cloud_in == CloudIn::Open {
                    // Ending the stream now could make the cloud drop what it has yet to send.
                    return Poll::Pending;
                }
                // An error has been kept by the link; there is nobody left to tell.
                let _ = ready!(Pin::new(self.cloud.get_mut()).poll_shutdown(cx));
                self.cloud_out = CloudOut::Done;
                Poll::Ready(())
            }
            CloudOut::Done => Poll::Pending,
        }
    }

    /// One read of the LAN side becomes one frame. Nothing waits in the WebSocket at this point.
    fn poll_carry_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lan) = &mut self.lan else {
            return Poll::Pending;
        };
        let read = match self.lan_in {
            LanIn::Open => {
                self.room.reserve(READ_SIZE);
                let mut room = (&mut self.room).limit(READ_SIZE);
                ready!(pin!(lan.read_buf(&mut room)).poll(cx))
            }
            LanIn::Last(until) => {
                // Past tokio, which only knows what its last look at the sockets has shown.
                self.room.resize(READ_SIZE, 0);
                let read = (&*SockRef::from(&*lan)).read(&mut self.room);
                self.room.truncate(*read.as_ref().unwrap_or(&0));
                match read {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        return Poll::Ready(());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.lan_in = LanIn::Discard;
                        self.cloud_out = CloudOut::Close;
                        return Poll::Ready(());
                    }
                    Ok(_) if until <= Instant::now() => {
                        self.lan_in = LanIn::Discard;
                        self.cloud_out = CloudOut::Close;
                        read
                    }
                    read => read,
                }
            }
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
            Ok(_) => {
                let bytes = self.room.split().freeze();
                self.count_up(bytes.len());
                self.send(Message::Binary(bytes));
            }
            Err(error) => {
                self.end(EndReason::device_error(&error));
                self.close_lan();
                self.cloud_out = CloudOut::Close;
            }
        }
        Poll::Ready(())
    }

    /// From the cloud to the LAN: a piece of a message, the next message, or the end.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(lan) = &mut self.lan {
            if !self.message.is_empty() {
                match ready!(Pin::new(lan).poll_write(cx, &self.message)) {
                    Ok(count) => {
                        self.message.advance(count);
                        self.count_down(count);
                    }
                    Err(error) => self.lan_takes_no_more(error),
                }
                return Poll::Ready(());
            }
            if self.lan_out == LanOut::Finish {
                // An error means that the LAN side has gone, which ends it as well.
                let _ = ready!(Pin::new(lan).poll_shutdown(cx));
                self.lan_out = LanOut::Done;
                return Poll::Ready(());
            }
        }
        if self.cloud_in != CloudIn::Open {
            return Poll::Pending;
        }
        match ready!(Pin::new(&mut self.cloud).poll_next(cx)) {
            Some(Ok(Message::Binary(bytes))) => self.take_message(bytes),
            Some(Ok(Message::Text(text))) => self.take_message(text.into()),
            // The library has made the answer; it goes out with the next flush.
            Some(Ok(Message::Ping(_))) => self.flush = true,
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(frame))) => {
                self.end(EndReason::closed_by_cloud(frame.as_ref()));
                self.cloud_in = CloudIn::Discard;
                self.say_no_more();
            }
            None => self.cloud_stream_ended(),
            Some(Err(error)) => match error {
                tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                    self.cloud_stream_ended();
                }
                // TLS without a close_notify, as many servers and middleboxes end it.
                tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.cloud_stream_ended();
                }
                tungstenite::Error::Io(error) => {
                    self.end(EndReason::cloud_error(&error));
                    self.cloud_in = CloudIn::Done;
                    self.cloud_out = CloudOut::Done;
                    self.reset_lan();
                }
                error => {
                    self.end(EndReason::violation(&error));
                    self.cloud_in = CloudIn::Discard;
                    if self.cloud_out == CloudOut::Open {
                        self.cloud_out = CloudOut::Close;
                    }
                    self.reset_lan();
                }
            },
        }
        Poll::Ready(())
    }

    fn take_message(&mut self, bytes: Bytes) {
        if self.lan_out == LanOut::Open {
            self.message = bytes;
        }
    }

    /// The stream below the WebSocket ended, with a Close frame before it or without.
    fn cloud_stream_ended(&mut self) {
        self.cloud_in = CloudIn::Done;
        match self.cloud.get_ref().failure() {
            Some(error) => {
                let reason = EndReason::cloud_error(error);
                self.end(reason);
                self.cloud_out = CloudOut::Done;
                self.reset_lan();
            }
            None => {
                self.end(EndReason::ClosedByCloud);
                self.say_no_more();
            }
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
        if self.cloud_out != CloudOut::Done {
            self.cloud_out = CloudOut::Closing;
            self.flush = true;
        }
    }

    /// Reads what nobody wants any more, so that closing a socket does not become a reset.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut moved = Poll::Pending;
        if self.lan_in == LanIn::Discard
            && let Some(lan) = &mut self.lan
            && let Poll::Ready(more) = poll_discard(Pin::new(lan), cx)
        {
            if !more {
                self.lan_in = LanIn::Done;
            }
            moved = Poll::Ready(());
        }
        if self.cloud_in == CloudIn::Discard {
            let stream = Pin::new(self.cloud.get_mut());
            if let Poll::Ready(more) = poll_discard(stream, cx) {
                if !more {
                    self.cloud_in = CloudIn::Done;
                }
                moved = Poll::Ready(());
            }
        }
        moved
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.flush {
            // A write error is kept by the link, and nothing else can fail here.
            let _ = ready!(Pin::new(&mut self.cloud).poll_flush(cx));
            self.flush = false;
        }
        Poll::Ready(())
    }

    /// Gives a message to the WebSocket, which holds nothing else at this point.
    fn send(&mut self, message: Message) {
        self.flush = true;
        if let Err(error) = Pin::new(&mut self.cloud).start_send(message) {
            debug!(%error, "the WebSocket takes no message");
            self.end(EndReason::violation(&error));
            self.cloud_in = CloudIn::Done;
            self.cloud_out = CloudOut::Done;
            self.reset_lan();
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.alarm.as_mut().poll(cx));
        let now = Instant::now();
        if self.reason.is_none() && self.drained_by.is_none() {
            self.beat(now);
            self.look_at_limits(now);
        }
        let ends = self
            .limits
            .max_duration
            .and_then(|time| self.began.checked_add(time));
        let next = match self.drained_by {
            Some(drained_by) => Some(drained_by),
            None => [
                self.heart.next,
                self.idle.as_ref().map(|idle| idle.until),
                ends,
            ]
            .into_iter()
            .flatten()
            .min(),
        };
        // An alarm that rings for nothing once a day costs less than one that can be absent.
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        self.alarm.as_mut().reset(next.unwrap_or(now + DAY));
        Poll::Ready(())
    }

    /// Judges the last ping and sends the next.
    fn beat(&mut self, now: Instant) {
        if self.heart.next.is_none_or(|next| now < next) {
            return;
        }
        self.heart.next = now.checked_add(self.limits.keep_alive);
        let life = self.cloud.get_ref().life();
        let alive = mem::replace(&mut self.heart.life, life) != life;
        let blocked = !self.message.is_empty();
        let paused = mem::replace(&mut self.heart.paused, blocked) || blocked;
        if alive || paused {
            self.heart.missed = 0;
        } else if self.heart.asked {
            self.heart.missed += 1;
        }
        if self.heart.missed < MISSED_PINGS {
            self.heart.asked = true;
            self.heart.due = true;
            return;
        }
        self.end(EndReason::CloudSilent);
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

    /// Ends the tunnel although both sides could go on: what is under way still arrives.
    fn say_goodbye(&mut self, reason: EndReason) {
        if self.drained_by.is_some() {
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

    /// Starts the drain limit.
    fn begin_end(&mut self) {
        if self.drained_by.is_none() {
            let drained_by = Instant::now() + self.limits.drain;
            self.drained_by = Some(drained_by);
            self.alarm.as_mut().reset(drained_by);
        }
    }

    /// The drain limit is over.
    fn give_up(&mut self) {
        debug!(limit = ?self.limits.drain, "last bytes not accepted in time");
        if self.message.is_empty() {
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
        self.message.clear();
        self.begin_end();
    }

    fn close_lan(&mut self) {
        self.lan = None;
        self.lan_in = LanIn::Done;
        self.lan_out = LanOut::Done;
        self.message.clear();
    }

    /// Tells the LAN side that what it has received may be incomplete.
    fn reset_lan(&mut self) {
        if let Some(lan) = &self.lan
            && let Err(error) = SockRef::from(lan).set_linger(Some(Duration::ZERO))
        {
            debug!(%error, "the LAN side is closed instead of reset");
        }
        self.close_lan();
    }

    fn count_up(&mut self, count: usize) {
        self.up += count as u64;
        self.traffic.up.fetch_add(count as u64, Ordering::Relaxed);
        self.note_activity();
    }

    fn count_down(&mut self, count: usize) {
        self.down += count as u64;
        self.traffic.down.fetch_add(count as u64, Ordering::Relaxed);
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
            .or_else(|| self.cloud.get_ref().failure().map(EndReason::cloud_error))
            .unwrap_or(EndReason::ClosedByCloud);
        Ended {
            reason,
            up: self.up,
            down: self.down,
            lasted: self.began.elapsed(),
        }
    }
}

/// Reads once and drops what was read; `false` at the end.
fn poll_discard(stream: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<bool> {
    let mut scratch = [0; 4 << 10];
    let mut read = ReadBuf::new(&mut scratch);
    let result = ready!(stream.poll_read(cx, &mut read));
    Poll::Ready(result.is_ok() && !read.filled().is_empty())
}
