//! What two processes of adit say to each other: a line of JSON each. They may be of different versions,
//! so a line that one does not understand is passed over.

use std::io;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream as Stream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec};
use tracing::{debug, warn};

use crate::platform::operations::Memory;
use crate::state::snapshot::{Operation, Predecessor};

/// Bytes of a line: what is known of 4096 keys is a third of it, and a thousand tunnels are too.
const LINE_LIMIT: usize = 1 << 20;
/// Lines that were read and wait for the agent.
const READ_QUEUE: usize = 64;
/// Lines that wait to be written. All tunnels of a process may end at once, and each tells it.
const WRITE_QUEUE: usize = 1 << 16;
/// Lines that are not understood, of one process; a newer one has fewer. What goes on is no adit, and
/// whoever reads it has no time for tunnels.
const STRANGE_LIMIT: usize = 64;
/// How long what is queued may take to be written at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What the old process says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToSuccessor {
    /// It has left the broker, and gives what it knows.
    TakeOver(Box<Handover>),
    /// It only carries from now on, and whoever supervises adit knows that.
    Confirmed,
    /// What it carries, as it was asked.
    Carries(Box<Predecessor>),
    /// What is to be told to the platform, as an event of a tunnel that has ended.
    Say {
        /// With its prefix.
        topic: String,
        /// Rows.
        payload: String,
    },
}

/// What the new process says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToPredecessor {
    /// It could take over.
    Ready(Candidate),
    /// It cannot, for this reason.
    Refused(String),
    /// It has taken over; whether the broker has taken its login.
    InCharge(bool),
    /// It wants to know what the old one carries.
    Look,
    /// It is to stop, and the old one too.
    Stop,
    /// What tunnels may reach from now on, also those that are carried: rules of a policy.
    Policy(String),
    /// Yet another process is in charge, whatever becomes of this one.
    Replaced,
}

/// Who is ready to take over.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Candidate {
    /// As `0.1.0`.
    pub(crate) version: String,
    /// That of the system; zero where it is the one that was started.
    pub(crate) process_id: u32,
    /// The external id of the gateway.
    pub(crate) device: String,
    /// The places where adit is looked at.
    pub(crate) places: String,
}

/// What the new process is to know.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Handover {
    /// What has been served.
    pub(crate) memory: Memory,
    /// The last operations, the newest first.
    pub(crate) operations: Vec<Operation>,
    /// The platform was told that adit is there, and the will that would take it back is gone.
    pub(crate) is_greeted: bool,
}

/// One end of the socket between two processes, until it is dropped.
pub(crate) struct Link<In, Out> {
    incoming: mpsc::Receiver<In>,
    outgoing: mpsc::Sender<String>,
    writer: JoinSet<()>,
    _reader: JoinSet<()>,
    /// Something was lost, and that is logged.
    has_lost: AtomicBool,
    says: PhantomData<fn(Out)>,
}

impl<In: DeserializeOwned + Send + 'static, Out: Serialize> Link<In, Out> {
    /// Begins to read and to write.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(stream: Stream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        let (read, incoming) = mpsc::channel(READ_QUEUE);
        let (outgoing, to_write) = mpsc::channel(WRITE_QUEUE);
        let (mut reading, mut writing) = (JoinSet::new(), JoinSet::new());
        reading.spawn(read_lines(reader, read));
        writing.spawn(write_lines(writer, to_write));
        Ok(Self {
            incoming,
            outgoing,
            writer: writing,
            _reader: reading,
            has_lost: AtomicBool::new(false),
            says: PhantomData,
        })
    }

    /// Waits for what the other side says; `None` once that has ended. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Option<In> {
        self.incoming.recv().await
    }

    /// Says something. It waits for as long as the other side does not read; what is too much is lost,
    /// which is logged once.
    pub(crate) fn say(&self, what: &Out) {
        let line = serde_json::to_string(what).ok();
        let line = line.filter(|line| line.len() < LINE_LIMIT);
        let is_taken = line.is_some_and(|line| match self.outgoing.try_send(line) {
            // Its end is told to whoever listens here.
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) => false,
        });
        if !is_taken && !self.has_lost.swap(true, Ordering::Relaxed) {
            warn!("too much is to be told to the other process of adit; the rest is only logged");
        }
    }

    /// Waits until what was said is written, for a moment.
    pub(crate) async fn close(self) {
        let Self {
            outgoing,
            mut writer,
            ..
        } = self;
        drop(outgoing);
        // Who has gone does not read it.
        let _ = timeout(CLOSE_LIMIT, writer.join_next()).await;
    }
}

async fn read_lines<In: DeserializeOwned>(reader: OwnedReadHalf, read: mpsc::Sender<In>) {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(LINE_LIMIT));
    let mut strange = 0;
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(said) => {
                    if read.send(said).await.is_err() {
                        return;
                    }
                }
                Err(_) if strange < STRANGE_LIMIT => {
                    strange += 1;
                    debug!("the other process of adit says what this one does not know");
                }
                Err(_) => return debug!("the other process says too much that means nothing"),
            },
            Err(error) => {
                return debug!(error = error.to_string(), "the other process of adit");
            }
        }
    }
}

async fn write_lines(writer: OwnedWriteHalf, mut to_write: mpsc::Receiver<String>) {
    let mut lines = FramedWrite::new(writer, LinesCodec::new());
    while let Some(line) = to_write.recv().await {
        if lines.send(line).await.is_err() {
            return debug!("the other process of adit does not read any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn links() -> (
        Link<ToPredecessor, ToSuccessor>,
        Link<ToSuccessor, ToPredecessor>,
    ) {
        let (old, new) = Stream::pair().unwrap();
        (Link::new(old).unwrap(), Link::new(new).unwrap())
    }

    #[tokio::test]
    async fn carries_the_largest_that_there_is_to_hand_over() {
        let (old, mut new) = links();
        let handover = Handover {
            memory: Memory::largest(),
            operations: vec![
                Operation {
                    reason: Some("x".repeat(500)),
                    ..Operation::default()
                };
                100
            ],
            is_greeted: true,
        };
        old.say(&ToSuccessor::TakeOver(Box::new(handover)));
        let Some(ToSuccessor::TakeOver(handover)) = new.next().await else {
            panic!("it does not come");
        };
        assert_eq!(
            (handover.operations.len(), handover.is_greeted),
            (100, true)
        );
    }

    #[tokio::test]
    async fn passes_over_what_it_does_not_know_and_notices_the_end() {
        let (mut stream, other) = Stream::pair().unwrap();
        let mut link = Link::<ToPredecessor, ToSuccessor>::new(other).unwrap();
        stream
            .write_all(b"\"dance\"\n{\"fly\":1}\nnot json\n\"look\"\n")
            .unwrap();
        assert!(matches!(link.next().await, Some(ToPredecessor::Look)));
        drop(stream);
        assert!(link.next().await.is_none());
    }

    #[tokio::test]
    async fn ends_at_a_line_without_end() {
        let (mut stream, other) = Stream::pair().unwrap();
        let mut link = Link::<ToPredecessor, ToSuccessor>::new(other).unwrap();
        let flood = tokio::task::spawn_blocking(move || {
            // It may be refused halfway.
            let _ = stream.write_all(&vec![b'x'; 2 * LINE_LIMIT]);
        });
        assert!(link.next().await.is_none());
        drop(link);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn ends_at_lines_without_end_that_mean_nothing() {
        for (lines, is_heard) in [(STRANGE_LIMIT, true), (STRANGE_LIMIT + 1, false)] {
            let (mut stream, other) = Stream::pair().unwrap();
            let mut link = Link::<ToPredecessor, ToSuccessor>::new(other).unwrap();
            let text = "y\n".repeat(lines) + "\"look\"\n";
            stream.write_all(text.as_bytes()).unwrap();
            let heard = link.next().await;
            assert_eq!(heard.is_some(), is_heard, "{lines}: {heard:?}");
        }
    }

    #[tokio::test]
    async fn keeps_what_is_said_for_a_process_that_does_not_read_yet() {
        const LINES: usize = 5000;
        let (old, mut new) = links();
        for number in 0..LINES {
            old.say(&ToSuccessor::Say {
                topic: "s/us".to_owned(),
                payload: format!("{number}{}", " ".repeat(200)),
            });
        }
        for number in 0..LINES {
            let Some(ToSuccessor::Say { payload, .. }) = new.next().await else {
                panic!("it does not come");
            };
            assert_eq!(payload.trim_end(), number.to_string());
        }
    }

    #[tokio::test]
    async fn writes_what_was_said_before_it_closes() {
        let (old, mut new) = links();
        old.say(&ToSuccessor::Confirmed);
        old.close().await;
        assert!(matches!(new.next().await, Some(ToSuccessor::Confirmed)));
        assert!(new.next().await.is_none());
    }
}
