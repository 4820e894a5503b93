//! Bytes on their way: sent at the speed of whoever takes them, and held against what is expected.

use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};

use super::LIMIT;

/// Who has sent nothing for this long is taken to be blocked. A machine under load may only have
/// been slow: a test may wait longer for that, and does not fail.
const QUIET: Duration = Duration::from_millis(400);
const READ_SIZE: usize = 64 << 10;

/// Returns bytes in no order, each page with its number: none is lost, doubled or moved unnoticed.
pub(crate) fn content(seed: u64, size: usize) -> Vec<u8> {
    /// To make more at random takes seconds without an optimiser.
    const RANDOM: usize = 1 << 20;
    const PAGE: usize = 4 << 10;
    let mut random = vec![0; RANDOM.min(size)];
    fastrand::Rng::with_seed(seed).fill(&mut random);
    let mut content = random.repeat(size.div_ceil(RANDOM));
    content.truncate(size);
    for (page, number) in content.chunks_exact_mut(PAGE).zip(0_u64..) {
        page[..size_of::<u64>()].copy_from_slice(&number.to_le_bytes());
    }
    content
}

/// How many bytes a sender has got rid of.
#[derive(Clone, Default)]
pub(crate) struct Progress(watch::Sender<usize>);

impl Progress {
    pub(crate) fn bytes(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until the sender is blocked, and returns how much it has sent.
    pub(crate) async fn stall(&self) -> usize {
        let mut seen = self.0.subscribe();
        while timeout(QUIET, seen.changed()).await.is_ok() {}
        self.bytes()
    }

    fn add(&self, count: usize) {
        self.0.send_modify(|bytes| *bytes += count);
    }
}

/// Writes all to a machine's end.
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    content: &[u8],
    progress: &Progress,
) {
    let mut rest = content;
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(READ_SIZE)];
        let written = timeout(LIMIT, stream.write(part)).await;
        let written = written.expect("written in time").unwrap();
        progress.add(written);
        rest = &rest[written..];
    }
}

/// Reads at most `size` bytes at a time from a machine's end, until `expected` has come.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), expected: &[u8], size: usize) {
    let mut buffer = vec![0; size.min(READ_SIZE)];
    let mut received = 0;
    while received < expected.len() {
        let room = buffer.len().min(expected.len() - received);
        let read = timeout(LIMIT, stream.read(&mut buffer[..room])).await;
        let count = read.expect("read in time").unwrap();
        assert_ne!(count, 0, "the end after {received} bytes");
        compare(&buffer[..count], expected, &mut received);
    }
}

/// Reads all that is expected and then the end.
pub(crate) async fn read_to_end(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    read(stream, expected, READ_SIZE).await;
    let end = timeout(LIMIT, stream.read(&mut [0])).await;
    assert_eq!(end.expect("the end in time").unwrap(), 0);
}

/// Sends all from the cloud's end, in messages of `size` bytes.
pub(crate) async fn send(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    content: &[u8],
    size: usize,
    progress: &Progress,
) {
    for part in content.chunks(size) {
        let sent = timeout(LIMIT, sink.send(Message::binary(part.to_vec()))).await;
        sent.expect("sent in time").unwrap();
        progress.add(part.len());
    }
}

/// Receives at the cloud's end until `expected` has come.
pub(crate) async fn receive(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    expected: &[u8],
) {
    let mut received = 0;
    receive_from(stream, expected, &mut received, expected.len()).await;
}

/// Receives at the cloud's end, from where `received` stands until it is at `until` or further.
pub(crate) async fn receive_from(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    expected: &[u8],
    received: &mut usize,
    until: usize,
) {
    while *received < until {
        // Pings do not prolong the wait.
        let message = async {
            loop {
                match stream.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    message => return message,
                }
            }
        };
        let message = timeout(LIMIT, message).await;
        match message.expect("a message in time") {
            Some(Ok(Message::Binary(part))) => compare(&part, expected, received),
            other => panic!("{received} bytes, then {other:?}"),
        }
    }
}

fn compare(part: &[u8], expected: &[u8], received: &mut usize) {
    let end = *received + part.len();
    assert!(end <= expected.len(), "{end} bytes are too many");
    assert!(
        part == &expected[*received..end],
        "other bytes after {received}"
    );
    *received = end;
}
