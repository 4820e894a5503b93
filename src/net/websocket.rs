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

use super::address::Endpoint;
use super::head::{Head, HeadError, Step};
use super::upgrade::{self, UpgradeFault};

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
        fault: UpgradeFault,
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
    /// The broker has closed the WebSocket, and may leave the connection to adit to close.
    closed: bool,
}

/// Opens a WebSocket at `path` of the broker at the other end of `stream`.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
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
    let head = upgrade::request(broker, path, SUBPROTOCOL, &nonce) + "\r\n";
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let (head, rest) =
        Head::receive(&mut stream, Step::Any)
            .await
            .map_err(|error| match error {
                HeadError::Fault(fault) => not_websocket(UpgradeFault::Head(fault)),
                HeadError::Broken(source) => broken(source),
            })?;
    if head.status != 101 {
        return Err(WebSocketError::Refused {
            broker: broker.clone(),
            path: path.to_owned(),
            status: head.status,
        });
    }
    upgrade::check(&head, &nonce, SUBPROTOCOL).map_err(not_websocket)?;
    Ok(Messages::begin(stream, rest).await)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Messages<S> {
    /// Begins behind the handshake; `rest` was read with it.
    async fn begin(stream: S, rest: Vec<u8>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * OUTGOING_LIMIT)
            .max_message_size(Some(INCOMING_LIMIT))
            .max_frame_size(Some(INCOMING_LIMIT));
        let socket = WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config));
        Self {
            socket: socket.await,
            received: Bytes::new(),
            closed: false,
        }
    }

    /// Returns what the WebSocket runs over.
    pub(super) fn stream(&self) -> &S {
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
            if this.closed {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.received = bytes,
                Some(Ok(Message::Text(_))) => {
                    let words = "a text message came, and MQTT has none";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)));
                }
                Some(Ok(Message::Close(_))) => {
                    this.closed = true;
                    // The answer, as far as it goes without waiting.
                    let _ = Pin::new(&mut this.socket).poll_flush(cx);
                }
                // tungstenite answers pings by itself.
                Some(Ok(_)) => {}
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                    this.closed = true;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    async fn pair(capacity: usize) -> (Messages<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = duplex(capacity);
        let broker = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        (Messages::begin(near, Vec::new()).await, broker)
    }

    #[tokio::test]
    async fn makes_bytes_of_messages_and_messages_of_bytes() {
        let (mut near, mut broker) = pair(1 << 20).await;
        for part in ["", "ab", "", "c"] {
            broker.send(Message::Binary(part.into())).await.unwrap();
        }
        broker.send(Message::Ping("?".into())).await.unwrap();
        broker.close(None).await.unwrap();
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"abc");
        let pong = broker.next().await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong("?".into()));
        assert!(broker.next().await.unwrap().unwrap().is_close());

        let (mut near, mut broker) = pair(1 << 20).await;
        near.write_all(&[7; OUTGOING_LIMIT + 1]).await.unwrap();
        near.shutdown().await.unwrap();
        for length in [OUTGOING_LIMIT, 1] {
            let message = broker.next().await.unwrap().unwrap();
            assert_eq!(message, Message::Binary(vec![7; length].into()));
        }
        assert!(broker.next().await.unwrap().unwrap().is_close());
    }

    /// What a server's answer to the request for a WebSocket comes to.
    async fn opened_by(answer: &str) -> Result<Messages<DuplexStream>, WebSocketError> {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(answer.as_bytes()).await.unwrap();
        let broker = Endpoint {
            tls: true,
            host: "broker.lan".to_owned(),
            port: 443,
        };
        open(near, &broker, "/mqtt").await
    }

    #[tokio::test]
    async fn says_what_the_status_of_a_refusal_means() {
        for (status, meaning) in [
            (200, "this is a web server, but no broker, check mqtt.url"),
            (301, "the broker is somewhere else, check mqtt.url"),
            (399, "the broker is somewhere else, check mqtt.url"),
            (400, "this is a web server, but no broker, check mqtt.url"),
            (401, "it does not let this device in"),
            (403, "it does not let this device in"),
            (404, "there is nothing at that path, check mqtt.url"),
            (407, "a proxy on the way wants credentials"),
            (503, "the broker, or something in front of it, has a fault"),
        ] {
            let answer = format!("HTTP/1.1 {status} X\r\n\r\n");
            let error = opened_by(&answer).await.unwrap_err().to_string();
            let refusal = format!(
                "broker.lan:443 refused the WebSocket at /mqtt with HTTP {status}: {meaning}"
            );
            assert_eq!(error, refusal);
        }
        let error = opened_by("HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
        assert!(matches!(
            error.unwrap_err(),
            WebSocketError::NotWebSocket {
                fault: UpgradeFault::Upgrade,
                ..
            }
        ));
    }

    #[tokio::test]
    async fn ends_where_the_broker_breaks_off_and_takes_no_text() {
        let (mut near, broker) = pair(1 << 10).await;
        drop(broker);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);

        let (mut near, mut broker) = pair(1 << 10).await;
        broker.send(Message::Text("hi".into())).await.unwrap();
        let error = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.to_string(), "a text message came, and MQTT has none");
    }

    #[tokio::test]
    async fn holds_no_more_than_a_message_for_a_broker_that_does_not_read() {
        let (mut near, mut broker) = pair(1 << 10).await;
        let mut taken = 0;
        while let Ok(written) = timeout(Duration::ZERO, near.write(&[0; OUTGOING_LIMIT])).await {
            taken += written.unwrap();
        }
        assert_eq!(taken, OUTGOING_LIMIT);
        // It is on its way only when the broker has read it.
        assert!(timeout(Duration::ZERO, near.flush()).await.is_err());
        let (flushed, message) = tokio::join!(near.flush(), broker.next());
        flushed.unwrap();
        assert_eq!(message.unwrap().unwrap().len(), OUTGOING_LIMIT);
    }
}
