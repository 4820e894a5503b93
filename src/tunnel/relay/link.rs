//! The byte stream below the WebSocket, as the relay needs to see it.
//!
//! tungstenite hides two things that a tunnel depends on. A message of 16 MiB on a slow line keeps
//! `poll_next` pending for minutes, though the peer is alive with every byte. And tungstenite stops
//! reading at the first write that fails, though the peer's last messages may be in the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// A WebSocket that the relay can carry.
pub type CloudSocket<S> = WebSocketStream<Link<S>>;

/// The largest message that is accepted, in one frame or in many.
pub const MESSAGE_LIMIT: usize = 16 << 20;

/// What one read of the cloud's stream may return.
///
/// tungstenite fills this much with zeros at every read. By `benches/relay.rs`, one byte and back
/// costs 1.1 times the processor time of a plain proxy with 16 KiB, 1.2 with 32, 1.4 with 64 and
/// 2.3 with the default of 128 KiB. Bulk costs 1.5 times the floor with 4 or 8 KiB, about 1.1 with
/// 16 KiB, and gains nothing above that.
const READ_BUFFER: usize = 16 << 10;

/// What may wait below a blocked write: one frame of [`super::READ_SIZE`], and pings and pongs.
const WRITE_LIMIT: usize = super::READ_SIZE + (16 << 10);

/// A byte stream that notes signs of life and keeps a failed write to itself.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    life: u64,
    blocked: bool,
    failure: Option<io::Error>,
}

/// Returns the buffer sizes and limits for a WebSocket that [`super::relay`] will carry.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // A frame goes out as soon as it is made.
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_LIMIT)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT))
}

impl<S> Link<S> {
    /// Takes a stream that works.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            life: 0,
            blocked: false,
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

    fn absorb<T>(&mut self, result: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error)) => {
                self.failure.get_or_insert(error);
                Poll::Ready(Ok(instead))
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Link<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.life += 1;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.failure.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        if result.is_ready() && this.blocked {
            this.life += 1;
        }
        this.blocked = result.is_pending();
        // A write of nothing means that nothing can be written any more.
        let result = match result {
            Poll::Ready(Ok(0)) if !buf.is_empty() => {
                Poll::Ready(Err(io::ErrorKind::WriteZero.into()))
            }
            other => other,
        };
        this.absorb(result, buf.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.failure.is_some() {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.absorb(result, ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.failure.is_some() {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.absorb(result, ())
    }
}
