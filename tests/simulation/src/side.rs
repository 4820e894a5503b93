//! What one end of a tunnel does, and what it notices. Both ends are alike in that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::network::ConnectionId;

/// What is read at once.
const READ_SIZE: usize = 16 << 10;

/// What one end does.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) says: Vec<Piece>,
    pub(crate) pace: Pace,
    pub(crate) end: End,
    /// It says again what it hears, instead.
    pub(crate) echoes: bool,
}

/// Some bytes, and the wait before them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) after: Duration,
    pub(crate) bytes: usize,
}

/// How an end reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    Fast,
    /// So many bytes at a time, and a pause.
    Slow(usize, Duration),
    /// All at once, but for one pause after so many bytes.
    Pauses(u64, Duration),
}

/// How an end ends the tunnel, and how long after its last word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// It leaves that to the other end, or to the farewell.
    Stays,
    /// FIN of a machine; Close, then FIN of the cloud.
    InOrder(Duration),
    Reset(Duration),
    /// A FIN of the cloud without a Close frame.
    Cut(Duration),
    /// The same within a frame.
    CutWithinFrame(Duration),
    /// A frame that no server may send.
    Violation(Duration),
}

/// What an end was told last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// FIN.
    End,
    /// A Close frame, with this code.
    Close(u16),
    Reset,
    /// What no client may send.
    Nonsense,
}

/// How an end has left the tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Left {
    pub(crate) at: Instant,
    pub(crate) how: End,
    /// Because that was its part, and not because the other end had.
    pub(crate) is_own: bool,
}

/// What an end has noticed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Of the connection that was accepted.
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) began: Option<Instant>,
    /// For the cloud: 101 was written.
    pub(crate) stands: bool,
    /// For the cloud: the bytes of its 101.
    pub(crate) opening: u64,
    /// Bytes of the user's that were written.
    pub(crate) said: u64,
    /// All that was to be said was.
    pub(crate) said_all: bool,
    pub(crate) left: Option<Left>,
    pub(crate) heard: u64,
    /// The same at each time when it became more.
    hearings: Vec<(Instant, u64)>,
    /// The first byte that was not the one that was sent.
    pub(crate) wrong_at: Option<u64>,
    pub(crate) told: Option<(Instant, Heard)>,
    /// The socket is closed.
    pub(crate) over: Option<Instant>,
    /// How often somebody has come: twice is a fault.
    pub(crate) visits: usize,
}

impl Notes {
    /// Bytes that it had heard by a time.
    pub(crate) fn heard_by(&self, time: Instant) -> u64 {
        let after = self.hearings.partition_point(|(at, _)| *at <= time);
        let last = self.hearings.get(..after).and_then(<[_]>::last);
        last.map_or(0, |(_, heard)| *heard)
    }
}

/// Notes that the judge reads later.
pub(crate) type Shared = Arc<Mutex<Notes>>;

/// Makes a note.
pub(crate) fn note<T>(notes: &Shared, write: impl FnOnce(&mut Notes) -> T) -> T {
    let mut notes: MutexGuard<'_, Notes> = notes.lock().unwrap_or_else(PoisonError::into_inner);
    write(&mut notes)
}

/// A stream of bytes that everybody knows: each byte follows from its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stream(pub(crate) u64);

impl Stream {
    /// From the machine of an operation.
    pub(crate) fn up(number: usize) -> Self {
        Self(2 * number as u64 + 1)
    }

    /// To the machine of an operation.
    pub(crate) fn down(number: usize) -> Self {
        Self(2 * number as u64)
    }

    fn byte(self, place: u64) -> u8 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = place.wrapping_mul(STEP) ^ self.0.wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed >> 56) as u8
    }

    /// Returns bytes from a place on.
    pub(crate) fn bytes(self, place: u64, count: usize) -> Vec<u8> {
        (place..)
            .take(count)
            .map(|place| self.byte(place))
            .collect()
    }

    /// Takes note of bytes that came.
    pub(crate) fn hear(self, notes: &Shared, bytes: &[u8]) {
        note(notes, |notes| {
            let wrong = (notes.heard..)
                .zip(bytes)
                .find(|&(p, b)| self.byte(p) != *b);
            notes.wrong_at = notes.wrong_at.or(wrong.map(|(place, _)| place));
            notes.heard += bytes.len() as u64;
            notes.hearings.push((Instant::now(), notes.heard));
        });
    }
}

/// Reads at a pace.
pub(crate) struct Reader<R> {
    from: R,
    pace: Pace,
    count: u64,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(from: R, pace: Pace) -> Self {
        Self {
            from,
            pace,
            count: 0,
            buffer: vec![0; READ_SIZE],
        }
    }

    /// Returns the next bytes; none is the end, and an error a reset.
    pub(crate) async fn read(&mut self) -> std::io::Result<&[u8]> {
        let limit = match self.pace {
            Pace::Fast => READ_SIZE,
            Pace::Slow(bytes, pause) => {
                sleep(pause).await;
                bytes
            }
            Pace::Pauses(after, pause) if self.count >= after => {
                sleep(pause).await;
                self.pace = Pace::Fast;
                READ_SIZE
            }
            Pace::Pauses(..) => READ_SIZE,
        };
        let room = self.buffer.get_mut(..limit).unwrap_or_default();
        let read = self.from.read(room).await?;
        self.count += read as u64;
        Ok(self.buffer.get(..read).unwrap_or_default())
    }

    /// Gives back what was read from.
    pub(crate) fn into_inner(self) -> R {
        self.from
    }
}

/// Waits until it is time to end; whoever stays waits for the farewell.
pub(crate) async fn wait_for_end(end: End, farewell: &CancellationToken) -> End {
    match end {
        End::Stays => {
            farewell.cancelled().await;
            return End::InOrder(Duration::ZERO);
        }
        End::InOrder(after)
        | End::Reset(after)
        | End::Cut(after)
        | End::CutWithinFrame(after)
        | End::Violation(after) => sleep(after).await,
    }
    end
}
