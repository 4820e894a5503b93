//! A byte stream to a server, whatever lies between.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::tcp::{Socket, Tcp};
use super::unbuffered::UnbufferedStream;
use super::websocket::Messages;

/// A byte stream to a server. Layers are nested: TLS to a server may run within TLS to a proxy.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(Tcp),
    /// TLS over another stream.
    Tls(Box<UnbufferedStream<Stream>>),
    /// The binary messages of a WebSocket over another stream.
    WebSocket(Box<Messages<Stream>>),
}

impl Stream {
    /// Returns the connection at the bottom.
    pub fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.stream().tcp(),
            Self::WebSocket(messages) => messages.stream().tcp(),
        }
    }
}

impl Socket for Stream {
    fn held(&self, since: Instant) -> u64 {
        self.tcp().held(since)
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        self.tcp().read_now(room)
    }

    fn may_have_more(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.may_have_more(),
            // A layer may hold something, or wait until it can write.
            Self::Tls(_) | Self::WebSocket(_) => true,
        }
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        self.tcp().reset_when_closed()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::WebSocket(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::WebSocket(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
