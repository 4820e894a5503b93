//! Both ends of a tunnel in memory, which take and say what a test wants, and note what is asked of
//! them; with a clock that stands still while anything can be done.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::Waker;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::*;
use crate::net::UnbufferedStream;

/// What a peer leaves for the rest of the tunnel.
const FOR_EVER: Duration = Duration::from_hours(24);
/// More than any test needs at one instant.
const WAKINGS: u32 = 1000;

/// One end of a connection; what it takes and says is up to the test.
#[derive(Clone, Default)]
pub(super) struct Peer(Rc<RefCell<State>>);

#[derive(Default)]
pub(super) struct State {
    said: VecDeque<u8>,
    /// What only a look past tokio finds, as behind an urgent byte.
    pub(super) hidden: VecDeque<u8>,
    /// What the next looks past tokio fail with.
    pub(super) failing_looks: VecDeque<io::ErrorKind>,
    has_ended: bool,
    /// What a read fails with when all has been read that was said.
    pub(super) read_failure: Option<io::ErrorKind>,
    /// How many more bytes it takes.
    pub(super) room: usize,
    taken: Vec<u8>,
    /// How many of the bytes it has acknowledged; `None` for all.
    pub(super) acknowledged: Option<usize>,
    was_shut: bool,
    reset_at: Option<Instant>,
    /// What the next write fails with, whatever room it has; those behind it are told less.
    pub(super) broken: Option<io::ErrorKind>,
    wakers: Vec<Waker>,
    asked: Asked,
}

/// What was asked of a peer, whether it could do it or not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Asked {
    pub(super) reads: u32,
    /// Looks past tokio.
    pub(super) looks: u32,
    /// The lengths of the pieces of each.
    pub(super) writes: Vec<Vec<usize>>,
    pub(super) flushes: u32,
    /// Questions for what is not acknowledged.
    pub(super) held: u32,
}

impl Peer {
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.borrow_mut();
        change(&mut state);
        for waker in state.wakers.drain(..) {
            waker.wake();
        }
    }

    pub(super) fn say(&self, bytes: &[u8]) {
        self.change(|state| state.said.extend(bytes));
    }

    pub(super) fn end(&self) {
        self.change(|state| state.has_ended = true);
    }

    pub(super) fn take(&self, count: usize) {
        self.change(|state| state.room = state.room.saturating_add(count));
    }

    pub(super) fn taken(&self) -> Vec<u8> {
        self.0.borrow().taken.clone()
    }

    pub(super) fn was_shut(&self) -> bool {
        self.0.borrow().was_shut
    }

    pub(super) fn is_reset(&self) -> bool {
        self.reset_at().is_some()
    }

    pub(super) fn reset_at(&self) -> Option<Instant> {
        self.0.borrow().reset_at
    }

    pub(super) fn asked(&self) -> Asked {
        self.0.borrow().asked.clone()
    }

    /// Takes a byte every so often.
    pub(super) async fn take_slowly(&self, pause: Duration) {
        loop {
            sleep(pause).await;
            self.take(1);
        }
    }

    /// Says the same every so often.
    pub(super) async fn repeat(&self, bytes: &[u8], pause: Duration) {
        loop {
            sleep(pause).await;
            self.say(bytes);
        }
    }

    /// Sends a pong every so often, which nobody has asked for.
    pub(super) async fn chat(&self, pause: Duration) {
        self.repeat(b"\x8a\x00", pause).await;
    }
}

impl State {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = room.len().min(self.said.len());
        if count == 0 {
            return match self.read_failure {
                Some(kind) => Err(kind.into()),
                None if self.has_ended => Ok(0),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        for (place, byte) in room.iter_mut().zip(self.said.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&mut self, cx: &Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let lengths = pieces.iter().map(|piece| piece.len()).collect();
        self.asked.writes.push(lengths);
        if let Some(broken) = &mut self.broken {
            let kind = mem::replace(broken, io::ErrorKind::BrokenPipe);
            return Poll::Ready(Err(kind.into()));
        }
        let bytes = pieces.iter().flat_map(|piece| piece.iter());
        let before = self.taken.len();
        self.taken.extend(bytes.take(self.room));
        let count = self.taken.len() - before;
        if count == 0 {
            self.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        self.room -= count;
        Poll::Ready(Ok(count))
    }
}

impl Socket for Peer {
    fn held(&self, since: Instant) -> u64 {
        assert!(since <= Instant::now(), "nobody knows what will be held");
        let mut state = self.0.borrow_mut();
        state.asked.held += 1;
        let all = state.taken.len();
        all.saturating_sub(state.acknowledged.unwrap_or(all)) as u64
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        state.asked.looks += 1;
        if let Some(kind) = state.failing_looks.pop_front() {
            return Err(kind.into());
        }
        if state.said.is_empty() {
            state.said = mem::take(&mut state.hidden);
        }
        state.read(room)
    }

    fn may_have_more(&self) -> bool {
        let state = self.0.borrow();
        !state.said.is_empty() || state.has_ended || state.read_failure.is_some()
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        self.0.borrow_mut().reset_at = Some(Instant::now());
        Ok(())
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        state.asked.reads += 1;
        let mut bytes = vec![0; buf.remaining()];
        match state.read(&mut bytes) {
            Ok(count) => {
                buf.put_slice(&bytes[..count]);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                state.wakers.push(cx.waker().clone());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().asked.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().was_shut = true;
        Poll::Ready(Ok(()))
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        keep_alive: Duration::ZERO,
        drain: DRAIN_LIMIT,
        idle: None,
        max_duration: None,
    }
}

/// Carries between a device and a cloud for as long as the tunnel lasts, while both go on.
pub(super) async fn carry(
    limits: &Limits,
    device: &Peer,
    cloud: &Peer,
    going_on: impl Future,
) -> Ended {
    carry_from(limits, device, cloud, Vec::new(), going_on).await
}

/// The same, where the cloud's first bytes came with its answer to the handshake.
pub(super) async fn carry_from(
    limits: &Limits,
    device: &Peer,
    cloud: &Peer,
    early: Vec<u8>,
    going_on: impl Future,
) -> Ended {
    let socket = CloudSocket::new(UnbufferedStream::plain(cloud.clone()), early);
    let traffic = Traffic::default();
    let relay = relay(
        device.clone(),
        socket,
        limits,
        &traffic,
        Span::none(),
        std::future::pending::<()>(),
    );
    tokio::select! {
        ended = at_rest(relay) => ended,
        _ = going_on => panic!("the peers go on for ever"),
        () = sleep(FOR_EVER) => panic!("the tunnel has not ended"),
    }
}

/// Fails where a tunnel wakes itself while no time passes, and so takes a processor for nothing.
async fn at_rest<T>(tunnel: impl Future<Output = T>) -> T {
    let mut tunnel = pin!(tunnel);
    let (mut last, mut wakings) = (Instant::now(), 0);
    poll_fn(|cx| {
        let now = Instant::now();
        wakings = if now == last { wakings + 1 } else { 0 };
        last = now;
        assert!(wakings < WAKINGS, "the tunnel is never at rest");
        tunnel.as_mut().poll(cx)
    })
    .await
}

/// A binary frame of a server with a payload of so many bytes.
pub(super) fn frame(length: u16) -> Vec<u8> {
    let mut frame = vec![0x82, 126];
    frame.extend(length.to_be_bytes());
    frame.resize(frame.len() + usize::from(length), 7);
    frame
}

/// Close with 1000.
pub(super) const CLOSE: &[u8] = b"\x88\x02\x03\xe8";
