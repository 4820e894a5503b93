//! MQTT over WebSocket: bytes out as binary messages, binary messages in as bytes.
//!
//! The boundaries of messages mean nothing to MQTT (MQTT 3.1.1, 6): a packet may come in two, or
//! two in one. So bytes come out before their message is whole, as they do where there is no WebSocket:
//! whoever counts the time sees that something comes, and whoever skips what is too large need not hold it.

use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use websocket_frames::{CloseCode, Control, Decoder, HEADER_ROOM, Item, append_control, enclose};
use zeroize::Zeroize;

use super::address::Endpoint;
use super::head::{Head, HeadError, Step};
use super::masks::Masks;
use super::upgrade::{self, UpgradeFault};

const SUBPROTOCOL: &str = "mqtt";
/// Bytes of a message that is sent. A packet of the platform's limit (16,184 bytes) fits.
const OUTGOING_LIMIT: usize = 16 << 10;

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
pub struct Messages<S> {
    stream: S,
    decoder: Decoder,
    /// What was read with the handshake, and not looked at.
    rest: Vec<u8>,
    incoming: Incoming,
    /// A frame of which a part is on its way, from `sent` on; it may hold a password.
    outgoing: Vec<u8>,
    sent: usize,
    /// What a Ping carried that was not answered: only the last one need be (RFC 6455, 5.5.3).
    pong: Option<Vec<u8>>,
    close: Close,
    /// Something is to be written, or to be flushed.
    owes: bool,
    masks: Masks,
}

/// How it stands with what comes.
#[derive(Debug)]
enum Incoming {
    Open,
    /// To be told behind what came before.
    Broken(io::Error),
    /// The broker has closed the WebSocket, and may leave the connection to adit to close.
    Ended,
}

/// How it stands with adit's own Close frame.
#[derive(Debug, Eq, PartialEq)]
enum Close {
    Unsaid,
    /// To be sent with this body.
    Due(Vec<u8>),
    Said,
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
    Ok(Messages::begin(stream, rest))
}

impl<S> fmt::Debug for Messages<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("incoming", &self.incoming)
            .finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Messages<S> {
    /// Begins behind the handshake; `rest` was read with it.
    fn begin(stream: S, rest: Vec<u8>) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            rest,
            incoming: Incoming::Open,
            outgoing: Vec::new(),
            sent: 0,
            pong: None,
            close: Close::Unsaid,
            owes: false,
            masks: Masks::default(),
        }
    }

    /// Returns what the WebSocket runs over.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Reads once into `buf`; nothing where the stream has ended.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.drain(..length);
        Poll::Ready(Ok(()))
    }

    /// Finds the frames in what was read; returns how much they carry, which then lies at the
    /// beginning of it.
    fn take(&mut self, read: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        while let Incoming::Open = self.incoming {
            let item = self.decoder.next(read, &mut at);
            if self.decoder.had_text() {
                let words = "a text message came, and MQTT has none";
                self.refuse(CloseCode::Unsupported, words.to_owned());
                break;
            }
            match item {
                Ok(Some(Item::Data(piece))) => {
                    let length = piece.len();
                    read.copy_within(piece, kept);
                    kept += length;
                }
                Ok(Some(Item::Ping)) => {
                    self.pong = Some(self.decoder.body().to_vec());
                    self.owes = true;
                }
                Ok(Some(Item::Pong)) => {}
                Ok(Some(Item::Close(_))) => {
                    self.incoming = Incoming::Ended;
                    self.say_close(self.decoder.body().to_vec());
                }
                Ok(None) => break,
                Err(fault) => {
                    self.refuse(fault.code(), format!("WebSocket protocol error: {fault}"));
                }
            }
        }
        kept
    }

    fn refuse(&mut self, code: CloseCode, words: String) {
        let error = io::Error::new(io::ErrorKind::InvalidData, words);
        self.incoming = Incoming::Broken(error);
        self.say_close(u16::from(code).to_be_bytes().to_vec());
    }

    fn say_close(&mut self, body: Vec<u8>) {
        if self.close == Close::Unsaid {
            self.close = Close::Due(body);
            self.owes = true;
        }
    }

    /// Writes the frame that is on its way, then what is owed. A control frame stands between two
    /// others, and one at a time is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Some(left @ [_, ..]) = self.outgoing.get(self.sent..) {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, left))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.sent += written,
                }
            }
            self.outgoing.zeroize();
            self.outgoing = Vec::new();
            self.sent = 0;
            if self.close == Close::Said {
                return Poll::Ready(Ok(()));
            }
            let (kind, body) = if let Some(body) = self.pong.take() {
                (Control::Pong, body)
            } else if let Close::Due(body) = &mut self.close {
                let body = mem::take(body);
                self.close = Close::Said;
                (Control::Close, body)
            } else {
                return Poll::Ready(Ok(()));
            };
            append_control(&mut self.outgoing, kind, &body, self.masks.next()?);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Messages<S> {
    /// What a frame carries comes out as it comes in, however large frame and message are.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let begin = buf.filled().len();
        loop {
            if this.owes {
                // As far as it goes without waiting. Where it fails, the next write says so.
                let _ = Pin::new(&mut *this).poll_flush(cx);
            }
            match mem::replace(&mut this.incoming, Incoming::Ended) {
                Incoming::Ended => return Poll::Ready(Ok(())),
                Incoming::Broken(error) => return Poll::Ready(Err(error)),
                Incoming::Open => this.incoming = Incoming::Open,
            }
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_bytes(cx, buf))?;
            let Some(read @ [_, ..]) = buf.filled_mut().get_mut(begin..) else {
                this.incoming = Incoming::Ended;
                return Poll::Ready(Ok(()));
            };
            let kept = this.take(read);
            // A part of a message may be left behind what was moved over its header.
            read.get_mut(kept..).unwrap_or_default().zeroize();
            buf.set_filled(begin + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Messages<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Ready only when nothing of the last message waits, which bounds what waits here.
        ready!(this.poll_send(cx))?;
        if this.close != Close::Unsaid {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let part = buf.get(..OUTGOING_LIMIT).unwrap_or(buf);
        let key = this.masks.next()?;
        let end = HEADER_ROOM + part.len();
        this.outgoing.reserve_exact(end);
        this.outgoing.resize(HEADER_ROOM, 0);
        this.outgoing.extend_from_slice(part);
        this.sent = enclose(&mut this.outgoing, HEADER_ROOM..end, key);
        this.owes = true;
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(part.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.owes = false;
        Poll::Ready(Ok(()))
    }

    /// Sends a Close frame.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.say_close(u16::from(CloseCode::Normal).to_be_bytes().to_vec());
        Pin::new(this).poll_flush(cx)
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
    use std::future;
    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::time::timeout;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use websocket_frames::BODY_LIMIT;

    use super::*;

    async fn pair(capacity: usize) -> (Messages<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = duplex(capacity);
        let broker = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        (Messages::begin(near, Vec::new()), broker)
    }

    /// What comes of a broker's bytes, at most `piece` at a time, and what it is answered.
    async fn takes(bytes: &[u8], piece: usize) -> (io::Result<Vec<u8>>, Vec<Message>) {
        let (near, far) = duplex(piece);
        let mut near = Messages::begin(near, Vec::new());
        let (mut far_reads, mut far_writes) = tokio::io::split(far);
        let mut received = Vec::new();
        let mut answers = Vec::new();
        let (result, ..) = tokio::join!(
            async {
                let result = near.read_to_end(&mut received).await;
                near.flush().await.unwrap();
                drop(near);
                result
            },
            // It may be refused before its end.
            async {
                drop(far_writes.write_all(bytes).await);
                drop(far_writes.shutdown().await);
            },
            far_reads.read_to_end(&mut answers),
        );
        (result.map(|_| received), in_words(&answers).await)
    }

    /// The frames of a client.
    async fn in_words(bytes: &[u8]) -> Vec<Message> {
        let (mut near, far) = duplex(bytes.len().max(1));
        near.write_all(bytes).await.unwrap();
        drop(near);
        let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        let messages = server.filter_map(|message| future::ready(message.ok()));
        messages.collect().await
    }

    /// The bytes that a duplex takes without anybody who reads.
    async fn fill(mut to: impl AsyncWrite + Unpin, bytes: &[u8]) {
        let writing = timeout(Duration::from_secs(10), to.write_all(bytes));
        writing.await.unwrap().unwrap();
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
        let error = near.write(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

        let (mut near, mut broker) = pair(1 << 20).await;
        near.write_all(&[7; OUTGOING_LIMIT + 1]).await.unwrap();
        near.shutdown().await.unwrap();
        for length in [OUTGOING_LIMIT, 1] {
            let message = broker.next().await.unwrap().unwrap();
            assert_eq!(message, Message::Binary(vec![7; length].into()));
        }
        assert!(broker.next().await.unwrap().unwrap().is_close());
    }

    #[tokio::test]
    async fn takes_frames_that_are_cut_anywhere() {
        let long = [&[0x82, 126, 1, 44][..], &[9; 300]].concat();
        let bytes = [
            // A message in three fragments, with a Ping, a Pong and another Ping between them.
            &b"\x02\x02ab\x89\x01!\x00\x00\x8a\x01p\x00\x01c\x89\x00\x80\x03def"[..],
            &long,
            b"\x82\x00\x82\x01g\x88\x05\x03\xe8bye",
            // Nobody looks behind a Close.
            b"\xff\xff",
        ]
        .concat();
        let carried = [&b"abcdef"[..], &[9; 300], b"g"].concat();
        for piece in 1..=bytes.len() {
            let (received, answers) = takes(&bytes, piece).await;
            assert_eq!(received.unwrap(), carried, "{piece}");
            // Of two Pings that come together, the last is answered.
            let [pongs @ .., Message::Close(Some(close))] = &answers[..] else {
                panic!("{piece}: {answers:?}");
            };
            assert!(matches!(
                pongs,
                [.., Message::Pong(last)] if last.is_empty() && pongs.len() <= 2
            ));
            assert_eq!(
                (u16::from(close.code), close.reason.as_str()),
                (1000, "bye")
            );
        }
        // The same where it came with the answer to the handshake.
        let (near, far) = duplex(1 << 10);
        let mut near = Messages::begin(near, bytes);
        let mut received = Vec::new();
        for size in [1, 2, 7].into_iter().cycle() {
            let mut room = [0; 7];
            match near.read(&mut room[..size]).await.unwrap() {
                0 => break,
                length => received.extend_from_slice(&room[..length]),
            }
        }
        assert_eq!(received, carried);
        drop(far);
    }

    #[tokio::test]
    async fn hands_out_the_bytes_of_a_message_before_it_is_whole() {
        for length in [i64::MAX as u64, 1_200_000] {
            let (near, mut far) = duplex(1 << 20);
            let mut near = Messages::begin(near, Vec::new());
            fill(
                &mut far,
                &[&[0x82, 127][..], &length.to_be_bytes()].concat(),
            )
            .await;
            for part in [&[1][..], &[2; 500], &[3; 70_000]] {
                fill(&mut far, part).await;
                let mut received = vec![0; part.len()];
                near.read_exact(&mut received).await.unwrap();
                assert_eq!(received, part);
            }
            let waiting = timeout(Duration::ZERO, near.read(&mut [0; 8])).await;
            assert!(waiting.is_err(), "more is to come");
        }
    }

    #[tokio::test]
    async fn leaves_nothing_of_a_message_behind_what_it_hands_out() {
        let (near, mut far) = duplex(1 << 10);
        let mut near = Messages::begin(near, Vec::new());
        fill(&mut far, b"\x82\x06secret\x89\x06secret").await;
        let mut room = [0; 64];
        assert_eq!(near.read(&mut room).await.unwrap(), 6);
        assert_eq!(room[..6], *b"secret");
        assert_eq!(room[6..], [0; 58]);
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
    async fn ends_where_the_broker_breaks_off() {
        let (mut near, broker) = pair(1 << 10).await;
        drop(broker);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        let (received, answers) = takes(b"\x82\x05ab", 9).await;
        assert_eq!(received.unwrap(), b"ab");
        assert!(answers.is_empty());
    }

    #[tokio::test]
    async fn refuses_what_no_broker_sends_behind_what_came_before() {
        let text = "a text message came, and MQTT has none";
        let protocol = |words: &str| format!("WebSocket protocol error: {words}");
        for (bytes, code, words) in [
            (&b"\x81\x02hi"[..], 1003, text.to_owned()),
            (b"\x81\x00", 1003, text.to_owned()),
            (b"\x01\x00\x80\x02hi", 1003, text.to_owned()),
            (
                b"\x82\x7f\x80\0\0\0\0\0\0\0",
                1002,
                protocol("Frame of 2^63 bytes or more"),
            ),
            (b"\x83\x00", 1002, protocol("Encountered invalid opcode: 3")),
            (
                b"\x82\x81\0\0\0\0a",
                1002,
                protocol("Received a masked frame from server"),
            ),
            (
                b"\x88\x04\x03\xe8\xff\xfe",
                1007,
                protocol("Close frame with a reason that is not UTF-8"),
            ),
        ] {
            for piece in 1..=bytes.len() {
                let (near, mut far) = duplex(1 << 10);
                let mut near = Messages::begin(near, Vec::new());
                let mut received = Vec::new();
                let reading = near.read_to_end(&mut received);
                let writing = async {
                    for part in [b"\x82\x02ab", bytes].concat().chunks(piece) {
                        far.write_all(part).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                };
                let (result, ()) = tokio::join!(reading, writing);
                assert_eq!(result.unwrap_err().to_string(), words);
                assert_eq!(received, b"ab");
                assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0, "{words}");
                drop(near);
                let mut answer = Vec::new();
                far.read_to_end(&mut answer).await.unwrap();
                let answers = in_words(&answer).await;
                let [Message::Close(Some(close))] = &answers[..] else {
                    panic!("{answers:?}");
                };
                assert_eq!(u16::from(close.code), code, "{words}");
            }
        }
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

    #[tokio::test]
    async fn answers_the_last_of_many_pings_of_a_broker_that_does_not_read() {
        const PINGS: usize = 10_000;
        let (near, mut far) = duplex(1 << 10);
        let mut near = Messages::begin(near, Vec::new());
        assert_eq!(near.write(&[7; 4 << 10]).await.unwrap(), 4 << 10);
        let held = near.outgoing.len();
        for number in 0..PINGS {
            let body = format!("{number:0BODY_LIMIT$}");
            fill(&mut far, &[&[0x89, 125], body.as_bytes()].concat()).await;
            // Nothing comes of them.
            let reading = timeout(Duration::ZERO, near.read(&mut [0; 512])).await;
            assert!(reading.is_err());
        }
        assert_eq!(near.outgoing.len(), held);
        // Reading alone brings the answer out, once somebody takes it.
        let reading = async { near.read(&mut [0; 8]).await };
        let answers = async {
            let mut bytes = vec![0; 8 + (4 << 10) + 6 + BODY_LIMIT];
            far.read_exact(&mut bytes).await.unwrap();
            fill(&mut far, b"\x82\x01x").await;
            in_words(&bytes).await
        };
        let (read, answers) = tokio::join!(reading, answers);
        assert_eq!(read.unwrap(), 1);
        let last = format!("{:0BODY_LIMIT$}", PINGS - 1);
        assert_eq!(
            answers,
            [
                Message::Binary(vec![7; 4 << 10].into()),
                Message::Pong(last.into())
            ]
        );
    }
}
