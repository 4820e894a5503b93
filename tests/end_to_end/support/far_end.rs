//! The cloud's end of a tunnel in the hands of a test.

use futures_util::{SinkExt, StreamExt};
use simulated_cloud::DeviceSocket;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::LIMIT;

/// The cloud's end of a tunnel.
pub(crate) struct FarEnd(pub(crate) DeviceSocket);

impl FarEnd {
    pub(crate) async fn send(&mut self, bytes: impl Into<Vec<u8>>) {
        let sent = self.0.send(Message::binary(bytes.into()));
        timeout(LIMIT, sent).await.expect("sent in time").unwrap();
    }

    /// Receives as many bytes as `expected` has, and holds them against it.
    pub(crate) async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut received = Vec::new();
        while received.len() < expected.len() {
            match self.next().await {
                Some(Message::Binary(part)) => received.extend(part),
                other => panic!("{} bytes, then {other:?}", received.len()),
            }
        }
        assert!(
            received == expected,
            "received {} other bytes",
            received.len()
        );
    }

    /// Sends bytes and receives the same from a machine that echoes.
    pub(crate) async fn echo(&mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes.as_ref()).await;
        self.expect(bytes).await;
    }

    /// Returns what is still sent before the end, and the Close frame.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Option<CloseFrame>) {
        let mut received = Vec::new();
        loop {
            match self.next().await {
                Some(Message::Binary(part)) => received.extend(part),
                Some(Message::Close(frame)) => {
                    // The answer is sent while the stream is read to its end.
                    assert_eq!(self.next().await, None);
                    // A server ends the connection first, and adit waits for that.
                    let ended = timeout(LIMIT, self.0.get_mut().shutdown()).await;
                    ended.expect("ended in time").unwrap();
                    return (received, frame);
                }
                other => panic!("{} bytes, then {other:?}", received.len()),
            }
        }
    }

    /// Closes the tunnel as an operator does who is done.
    pub(crate) async fn close(mut self) {
        timeout(LIMIT, self.0.close(None)).await.unwrap().unwrap();
        while self.next().await.is_some() {}
    }

    /// Returns the next message that is no ping; pings do not prolong the wait.
    async fn next(&mut self) -> Option<Message> {
        let message = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return Some(message),
                    Some(Err(_)) | None => return None,
                }
            }
        };
        timeout(LIMIT, message).await.expect("a message in time")
    }
}
