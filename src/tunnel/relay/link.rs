//! The cloud's end of a tunnel below its frames: TLS, if there is any, over a byte stream.
//!
//! It keeps a failed write to itself, because the peer's last messages may still be in the socket,
//! and it notes every sign of life.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;
use websocket_frames::{CloseCode, Control, Decoder, Item, append_control};

use super::end::close_body;
use super::outstanding::Outstanding;
use super::room::{CLOUD_READ, Rest, Room};
use crate::net::Socket;
use crate::net::unbuffered::{Parts, RECORD, Session, UnbufferedStream};

/// A WebSocket that [`super::relay`] can carry.
#[derive(Debug)]
pub struct CloudSocket<S> {
    stream: UnbufferedStream<S>,
    /// What came with the answer to the handshake.
    early: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> CloudSocket<S> {
    /// Takes a stream behind its WebSocket handshake, and what was read beyond that.
    pub fn new(stream: UnbufferedStream<S>, early: Vec<u8>) -> Self {
        Self { stream, early }
    }

    /// Closes a WebSocket that nobody needs, says why, and waits until the cloud has heard it.
    ///
    /// # Errors
    /// The stream broke.
    pub(crate) async fn dismiss(mut self, code: CloseCode, reason: &str) -> io::Result<()> {
        let mut frame = Vec::new();
        let key = Room::default().key()?;
        append_control(&mut frame, Control::Close, &close_body(code, reason), key);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await?;
        let mut decoder = Decoder::default();
        let mut input = self.early;
        loop {
            let mut at = 0;
            while let Ok(Some(item)) = decoder.next(&input, &mut at) {
                if let Item::Close(_) = item {
                    // To the end of the stream, or closing it would become a reset that eats the
                    // Close frame.
                    self.stream.shutdown().await?;
                }
            }
            input.clear();
            if self.stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Returns the first bytes behind the handshake.
    #[cfg(test)]
    pub(crate) async fn first_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = self.early.clone();
        while bytes.len() < count {
            assert!(self.stream.read_buf(&mut bytes).await.unwrap() > 0);
        }
        bytes
    }
}

/// How the cloud's stream came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StreamEnd {
    /// In good order, as far as can be seen below the frames.
    Whole,
    /// TLS was not ended before its stream was.
    Cut,
}

/// What came from the cloud.
#[derive(Debug)]
pub(super) enum Received {
    /// Where in [`Room::incoming`] it lies.
    Bytes(Range<usize>),
    End(StreamEnd),
    Failed(io::Error),
    /// What came is not TLS as it was agreed on; before it lies something that is.
    Undecipherable(Range<usize>, rustls::Error),
}

#[derive(Debug)]
pub(super) struct Link<S> {
    stream: S,
    session: Option<Box<Session>>,
    /// Decrypted before the relay began.
    early: Vec<u8>,
    /// Encrypted, and not a whole record when the last wait began.
    inbox: Vec<u8>,
    /// Encrypted, and not taken by the kernel.
    unsent: Rest,
    /// Whether the stream had nothing to read when it was polled, and has its waker.
    waits: bool,
    /// Whether layers below may hold something.
    flush: bool,
    /// Whether the end of TLS was queued.
    closed: bool,
    blocked: bool,
    life: u64,
    /// Bytes given to the kernel.
    written: u64,
    /// Bytes given to the kernel, or to be given, up to the end of the last frame.
    queued: u64,
    /// The same up to the end of the last of the user's bytes.
    owed: u64,
    /// Where in them the user's bytes are.
    outstanding: Outstanding,
    shut: bool,
    failure: Option<io::Error>,
}

impl<S: Socket> Link<S> {
    pub(super) fn new(socket: CloudSocket<S>) -> Self {
        let CloudSocket { stream, early } = socket;
        let Parts {
            stream,
            session,
            sealed,
            opened,
            unsent,
        } = stream.into_parts();
        Self {
            stream,
            session,
            early: [early, opened].concat(),
            inbox: sealed,
            unsent: Rest::new(unsent),
            waits: false,
            // The handshake may have left something in a TLS stream.
            flush: true,
            closed: false,
            blocked: false,
            life: 0,
            written: 0,
            queued: 0,
            owed: 0,
            outstanding: Outstanding::default(),
            shut: false,
            failure: None,
        }
    }

    /// Returns a number that has changed whenever the peer has shown that it is alive: it sent
    /// something, or a write that was blocked went on, for which the peer must have made room.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    /// Returns why writing has ended. What is written after that is dropped.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Notes why nothing more can be written.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.failure.get_or_insert(error);
        self.unsent.clear();
    }

    /// How many bytes on the wire the peer has taken so far, and how many it may still take.
    pub(super) fn account(&self, since: Instant) -> (u64, u64) {
        let held = self.stream.held(since).saturating_sub(u64::from(self.shut));
        let taken = self.written.saturating_sub(held);
        let owed = self.owed - self.discarded();
        (taken, owed.saturating_sub(taken))
    }

    /// How many bytes on the wire nobody will be given any more, because the stream has failed.
    fn discarded(&self) -> u64 {
        let given = self.written + self.unsent.len() as u64;
        self.owed.saturating_sub(given)
    }

    /// How many of the user's bytes do not arrive, at most, where the last `missing` bytes on the wire that the
    /// peer may still take do not.
    pub(super) fn undelivered(&self, missing: u64) -> u64 {
        self.outstanding.undelivered(missing + self.discarded())
    }

    /// How many of the user's bytes no kernel has ever had.
    pub(super) fn unwritten(&self) -> u64 {
        let unwritten = self.owed.saturating_sub(self.written);
        self.outstanding.undelivered(unwritten)
    }

    /// Begins a turn: looks whether there is something to read again. `anew`: the task is another.
    pub(super) fn awake(&mut self, anew: bool) {
        self.waits = self.waits && !anew && !self.stream.may_have_more();
    }

    /// Returns what came. Bytes are to be used before the next call.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<Received> {
        if !self.early.is_empty() {
            return Poll::Ready(Received::Bytes(self.take_early(room)));
        }
        if self.waits {
            return Poll::Pending;
        }
        let Some(session) = &mut self.session else {
            let place = room.incoming.get_mut(..CLOUD_READ).unwrap_or_default();
            let mut read = ReadBuf::new(place);
            let result = Pin::new(&mut self.stream).poll_read(cx, &mut read);
            self.waits = has_nothing(&result);
            let result = ready!(result);
            return Poll::Ready(match (result, read.filled().len()) {
                (Ok(()), 0) => Received::End(StreamEnd::Whole),
                (Ok(()), length) => {
                    self.life += 1;
                    Received::Bytes(0..length)
                }
                (Err(error), _) => ended_or_failed(error, StreamEnd::Whole),
            });
        };
        if session.has_ended() {
            return Poll::Ready(Received::End(StreamEnd::Whole));
        }
        // What is left of the last read goes where the next one is put behind it.
        if self.inbox.is_empty() {
            let length = room.sealed.len();
            room.incoming.copy_within(room.sealed.clone(), RECORD);
            room.sealed = RECORD..RECORD + length;
        } else {
            let end = RECORD + self.inbox.len();
            if let Some(place) = room.incoming.get_mut(RECORD..end) {
                place.copy_from_slice(&self.inbox);
            }
            room.sealed = RECORD..end;
            self.inbox = Vec::new();
        }
        let begin = room.sealed.end;
        let place = room.incoming.get_mut(begin..).unwrap_or_default();
        if place.is_empty() {
            let error = rustls::Error::PeerSentOversizedRecord;
            return Poll::Ready(Received::Undecipherable(0..0, error));
        }
        let mut read = ReadBuf::new(place);
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        self.waits = has_nothing(&result);
        let result = ready!(result);
        room.sealed.end = begin + read.filled().len();
        match result {
            Ok(()) if room.sealed.end == begin => {
                return Poll::Ready(Received::End(StreamEnd::Cut));
            }
            Ok(()) => self.life += 1,
            Err(error) => return Poll::Ready(ended_or_failed(error, StreamEnd::Cut)),
        }
        let mut plain = 0..0;
        let Room {
            incoming, sealed, ..
        } = room;
        let opened = session.open(incoming, &mut plain, sealed, self.unsent.bytes());
        self.flush = true;
        Poll::Ready(match opened {
            Ok(()) => Received::Bytes(plain),
            Err(error) => Received::Undecipherable(plain, error),
        })
    }

    fn take_early(&mut self, room: &mut Room) -> Range<usize> {
        let early = std::mem::take(&mut self.early);
        let length = room.incoming.len().max(early.len());
        room.incoming.resize(length, 0);
        if let Some(place) = room.incoming.get_mut(..early.len()) {
            place.copy_from_slice(&early);
        }
        0..early.len()
    }

    /// Takes out of the room what the next wait would lose.
    pub(super) fn leave(&mut self, room: &mut Room) {
        if !room.sealed.is_empty() {
            self.inbox = room.take_sealed();
        }
        room.sealed = 0..0;
    }

    /// Reads what nobody wants any more; `false` at the end.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<bool> {
        let mut read = ReadBuf::new(&mut room.outgoing);
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read));
        Poll::Ready(result.is_ok() && !read.filled().is_empty())
    }

    /// Sends what lies in [`Room::outgoing`]; nothing else may wait at this point. What the kernel
    /// does not take at once is kept.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, room: &mut Room, frame: Range<usize>) {
        if self.failure.is_some() {
            return;
        }
        let plain = room.outgoing.get(frame).unwrap_or_default();
        let bytes = match &mut self.session {
            None => plain,
            Some(session) => {
                let pending = match self.inbox.as_mut_slice() {
                    [] => room.incoming.get_mut(room.sealed.clone()),
                    inbox => Some(inbox),
                };
                let pending = pending.unwrap_or_default();
                match session.seal(plain, pending, &mut room.encrypted) {
                    Ok(length) => room.encrypted.get(..length).unwrap_or_default(),
                    Err(error) => return self.fail(io::Error::other(error)),
                }
            }
        };
        self.flush = true;
        self.queued = self.written + bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.poll_write(cx, rest) {
                Poll::Ready(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return self.fail(error),
                Poll::Pending => break,
            }
        }
        self.unsent.keep(rest);
    }

    /// Notes that the last frame carries so many of the user's bytes.
    pub(super) fn note_owed(&mut self, user: usize) {
        self.outstanding.note(user, self.queued - self.owed);
        self.owed = self.queued;
    }

    /// Waits until everything is with the kernel.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.unsent.is_empty() {
            let rest = std::mem::take(&mut self.unsent);
            let result = self.poll_write(cx, rest.left());
            self.unsent = rest;
            match ready!(result) {
                Ok(written) => self.unsent.advance(written),
                Err(error) => self.fail(error),
            }
        }
        if self.flush && self.failure.is_none() {
            if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                self.fail(error);
            }
            self.flush = false;
        }
        Poll::Ready(())
    }

    /// Ends the stream behind all that was sent.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<()> {
        self.leave(room);
        if let Some(session) = &mut self.session
            && !self.closed
        {
            session.close(&mut self.inbox, self.unsent.bytes());
        }
        self.closed = true;
        ready!(self.poll_flush(cx));
        if self.failure.is_none() {
            // There is nobody left to tell of an error.
            let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            self.shut = true;
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if result.is_ready() && self.blocked {
            self.life += 1;
        }
        self.blocked = result.is_pending();
        let result = ready!(result);
        Poll::Ready(match result {
            // Nothing can be written any more.
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.written += written as u64;
                Ok(written)
            }
            Err(error) => Err(error),
        })
    }
}

/// Whether a read found nothing and has left its waker. A task that has used up its budget is told
/// to wait as well, but by tokio, and nobody has its waker then.
pub(super) fn has_nothing<T>(read: &Poll<io::Result<T>>) -> bool {
    read.is_pending() && has_budget_remaining()
}

/// TLS below this TLS may end without saying so, as many servers and middleboxes do it.
fn ended_or_failed(error: io::Error, end: StreamEnd) -> Received {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Received::End(end),
        _ => Received::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::peer::{CLOSE, Peer};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn dismisses_a_cloud_not_before_it_has_heard_and_ended() {
        const SECOND: Duration = Duration::from_secs(1);
        let cloud = Peer::default();
        Peer::take(&cloud, usize::MAX);
        let stream = UnbufferedStream::plain(cloud.clone());
        let socket = CloudSocket::new(stream, Vec::new());
        let began = Instant::now();
        let dismissed = async {
            socket.dismiss(CloseCode::Policy, "no").await.unwrap();
            began.elapsed()
        };
        let hearing = async {
            sleep(SECOND).await;
            cloud.say(b"\x82\x04last");
            sleep(SECOND).await;
            assert!(!cloud.was_shut());
            cloud.say(CLOSE);
            sleep(SECOND).await;
            assert!(cloud.was_shut());
            cloud.end();
        };
        let (took, ()) = tokio::join!(dismissed, hearing);
        assert_eq!(took, SECOND * 3);
    }

    #[test]
    fn keeps_of_what_it_sends_only_what_is_not_taken_at_once() {
        let peer = Peer::default();
        Peer::take(&peer, 5);
        let stream = UnbufferedStream::plain(peer.clone());
        let mut link = Link::new(CloudSocket::new(stream, Vec::new()));
        let mut room = Room::default();
        room.outgoing[..8].copy_from_slice(b"12345678");
        link.send(&mut Context::from_waker(Waker::noop()), &mut room, 0..8);
        assert_eq!(peer.taken(), b"12345");
        assert_eq!(link.unsent.left(), b"678");
    }
}
