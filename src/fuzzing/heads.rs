//! What a server or a proxy answers to a request for a WebSocket, and what follows.
//!
//! The answer may repeat what it was asked: `%KEY%`, `%AUTH%` and `%ACCEPT%` in it become the
//! connection key, the credentials and the proof that the request was understood. No error shows
//! a secret that whoever answers was told, each is one legible line, and no answer makes adit wait
//! once it has ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smartrest::ConnectionKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{RUNTIME, is_legible};
use crate::net::proxy::Proxy;
use crate::net::{Endpoint, UnbufferedStream, basic, websocket};
use crate::secret::Secret;
use crate::tunnel::cloud;
use crate::words::failure_reason;

const KEY: &str = "eb5e9d13-7f3a-4c5e";
const USER: &str = "t1/device_gw";
const PASSWORD: &str = "s3cr3t-7f3a9";
/// Nothing is waited for: what comes is there, and then the end.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of MQTT that are read out of messages.
const PAYLOAD_LIMIT: u64 = 1 << 20;

/// The first byte says who answers, the second in which pieces.
pub(super) fn run(bytes: &[u8]) {
    let [who, piece, answer @ ..] = bytes else {
        return;
    };
    let peer = Peer::new(answer, 1 + usize::from(*piece) * usize::from(*piece));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let asked = async {
                match who % 3 {
                    0 => ask_cloud(peer).await,
                    1 => ask_proxy(peer).await,
                    _ => ask_broker(peer).await,
                }
            };
            timeout(LIMIT, asked).await.expect("nothing is waited for");
        });
    });
}

fn server() -> Endpoint {
    Endpoint {
        tls: false,
        host: "cloud.example.com".to_owned(),
        port: 443,
    }
}

fn credentials() -> Secret {
    basic(USER, &Secret::new(PASSWORD))
}

async fn ask_cloud(peer: Peer) {
    let key = ConnectionKey::parse(KEY).unwrap();
    let stream = UnbufferedStream::plain(peer);
    if let Err(error) = cloud::open(stream, &server(), &key, &credentials()).await {
        let words = failure_reason(&error, usize::MAX);
        check(&words);
        assert!(!words.contains(KEY), "{words}");
    }
}

async fn ask_proxy(mut peer: Peer) {
    let password = Secret::new(PASSWORD);
    let proxy = Proxy::new(server(), Some((USER, &password)));
    if let Err(error) = proxy.open(&mut peer, &server()).await {
        check(&failure_reason(&error, usize::MAX));
    }
}

async fn ask_broker(peer: Peer) {
    match websocket::open(peer, &server(), "/mqtt").await {
        Ok(messages) => {
            let mut payload = Vec::new();
            let _ = messages.take(PAYLOAD_LIMIT).read_to_end(&mut payload).await;
        }
        // Whoever opens a WebSocket for MQTT is told no secret before it is open.
        Err(error) => {
            let words = failure_reason(&error, usize::MAX);
            assert!(is_legible(&words), "{words:?}");
        }
    }
}

fn check(words: &str) {
    assert!(is_legible(words), "{words:?}");
    let credentials = credentials();
    let encoded = credentials.expose().trim_start_matches("Basic ");
    for secret in [PASSWORD, encoded] {
        assert!(!words.contains(secret), "{words}");
    }
}

/// Answers with prepared bytes, in pieces, and then ends.
struct Peer {
    asked: Vec<u8>,
    answer: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Peer {
    fn new(answer: &[u8], piece: usize) -> Self {
        Self {
            asked: Vec::new(),
            answer: answer.to_vec(),
            at: 0,
            piece,
        }
    }

    /// Puts what was asked where the answer repeats it.
    fn repeat(&mut self) {
        let asked = String::from_utf8_lossy(&self.asked).into_owned();
        let value = |name: &str| {
            let line = asked.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let accept = derive_accept_key(value("Sec-WebSocket-Key:").as_bytes());
        for (place, value) in [
            ("%KEY%", KEY.to_owned()),
            ("%AUTH%", value("Authorization:")),
            ("%ACCEPT%", accept),
        ] {
            self.answer = replace(&self.answer, place.as_bytes(), value.as_bytes());
        }
    }
}

fn replace(bytes: &[u8], place: &[u8], value: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(place) {
            Some(after) => {
                replaced.extend_from_slice(value);
                rest = after;
            }
            None => {
                replaced.push(first);
                rest = after;
            }
        }
    }
    replaced
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at == 0 {
            self.repeat();
        }
        let rest = self.answer.get(self.at..).unwrap_or_default();
        let length = rest.len().min(self.piece).min(room.remaining());
        room.put_slice(&rest[..length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.at == 0 {
            self.asked.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
