//! MQTT over WebSocket: bytes out as binary messages, binary messages in as bytes.
//!
//! The boundaries of messages mean nothing to MQTT (MQTT 3.1.1, 6): a packet may come in two, or
//! two in one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Endpoint;
use crate::cloud::handshake::{self, Answer, Fault, ReceiveError};

const SUBPROTOCOL: &str = "mqtt";
/// Bytes of a message that is sent. A packet of the platform's limit (16,184 bytes) fits.
const OUTGOING_LIMIT: usize = 16 << 10;
/// Bytes of a message that is taken; a message of a broker holds a packet or some.
const INCOMING_LIMIT: usize = 1 << 20;
/// tungstenite fills as much with zeros before each read.
const READ_BUFFER: usize = 4 << 10;

/// Why a server does not open a WebSocket for MQTT.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// It answers something else.
    #[error("{broker} does not speak MQTT over WebSocket at {path}: {fault}")]
    NotWebSocket {
        /// Host and port.
        broker: Endpoint,
        /// The path that was asked for.
        path: String,
        /// What is wrong with the answer.
        fault: Fault,
    },
    /// It refused with an HTTP status.
    #[error("{broker} refused the WebSocket at {path} with HTTP {status}: {}", meaning(*status))]
    Refused {
        /// Host and port.
        broker: Endpoint,
        /// The path that was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection broke.
    #[error("the connection to {broker} broke before the WebSocket was open")]
    Broken {
        /// Host and port.
        broker: Endpoint,
        /// What the system said.
        source: io::Error,
    },
}

/// The bytes in the binary messages of a WebSocket. A write becomes a message, and is done when
/// the message is on its way.
#[derive(Debug)]
pub struct Messages<S> {
    socket: WebSocketStream<S>,
    /// What was received and not read.
    received: Bytes,
}

/// Opens a WebSocket at `path` of the broker at the other end of `stream`.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    broker: &Endpoint,
    path: &str,
) -> Result<Messages<S>, WebSocketError> {
    let broken = |source| WebSocketError::Broken {
        broker: broker.clone(),
        source,
    };
    let not_websocket = |fault| WebSocketError::NotWebSocket {
        broker: broker.clone(),
        path: path.to_owned(),
        fault,
    };
    let nonce = generate_key();
    let head = handshake::request(broker, path, SUBPROTOCOL, &nonce) + "\r\n";
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let (answer, rest) = Answer::receive(&mut stream)
        .await
        .map_err(|error| match error {
            ReceiveError::Fault(fault) => not_websocket(fault),
            ReceiveError::Broken(source) => broken(source),
        })?;
    if answer.status != 101 {
        return Err(WebSocketError::Refused {
            broker: broker.clone(),
            path: path.to_owned(),
            status: answer.status,
        });
    }
    answer.check(&nonce, SUBPROTOCOL).map_err(not_websocket)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * OUTGOING_LIMIT)
        .max_message_size(Some(INCOMING_LIMIT))
        .max_frame_size(Some(INCOMING_LIMIT));
    let socket =
        WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await;
    Ok(Messages {
        socket,
        received: Bytes::new(),
    })
}

impl<S> Messages<S> {
    /// Returns what the WebSocket runs over.
    pub(super) fn stream(&self) -> &S
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.socket.get_ref()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Messages<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.received.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.received = bytes,
                Some(Ok(Message::Text(_))) => {
                    let words = "a text message came, and MQTT has none";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)));
                }
                // tungstenite answers pings and Close frames by itself; after the Close it ends.
                Some(Ok(_)) => {}
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let length = this.received.len().min(buf.remaining());
        if let Some(part) = this.received.get(..length) {
            buf.put_slice(part);
        }
        this.received.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Messages<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.get_mut().socket);
        // Ready only when nothing of the last message waits, which bounds what waits here.
        ready!(socket.as_mut().poll_ready(cx)).map_err(io_error)?;
        let part = buf.get(..OUTGOING_LIMIT).unwrap_or(buf);
        let message = Message::Binary(Bytes::copy_from_slice(part));
        socket.start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Pin::new(&mut self.get_mut().socket);
        socket.poll_flush(cx).map_err(io_error)
    }

    /// Sends a Close frame.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Pin::new(&mut self.get_mut().socket);
        socket.poll_close(cx).map_err(io_error)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::AlreadyClosed | Error::ConnectionClosed => io::ErrorKind::BrokenPipe.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        300..=399 => "the broker is somewhere else, check mqtt.url",
        404 => "there is nothing at that path, check mqtt.url",
        401 | 403 => "it does not let this device in",
        407 => "a proxy on the way wants credentials",
        500..=599 => "the broker, or something in front of it, has a fault",
        _ => "this is a web server, but no broker, check mqtt.url",
    }
}
