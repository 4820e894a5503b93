//! What one end of a tunnel does, and what it notices. Both ends are alike in that.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What is read at once.
pub(crate) const READ_SIZE: usize = 64 << 10;

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

impl Pace {
    /// Waits as it should after `heard` bytes, and returns how many may be read next.
    pub(crate) async fn wait(&mut self, heard: u64) -> usize {
        match *self {
            Self::Slow(bytes, pause) => {
                sleep(pause).await;
                return bytes;
            }
            Self::Pauses(after, pause) if heard >= after => {
                sleep(pause).await;
                *self = Self::Fast;
            }
            _ => {}
        }
        READ_SIZE
    }
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
}

/// What an end was told last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// FIN.
    End,
    /// A Close frame, with this code.
    Close(u16),
    Reset,
}

/// How an end has left the tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Left {
    pub(crate) how: End,
    /// Because that was its part, and not because the other end had.
    pub(crate) is_own: bool,
}

/// What an end has noticed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) began: Option<Instant>,
    /// Of the cloud's end: the port from which the connection came.
    pub(crate) peer_port: Option<u16>,
    /// Bytes of the user's that were written.
    pub(crate) said: u64,
    pub(crate) left: Option<Left>,
    pub(crate) heard: u64,
    /// The same at each time when it became more.
    pub(crate) hearings: Vec<(Instant, u64)>,
    /// The first byte that was not the one that was sent.
    pub(crate) wrong_at: Option<u64>,
    pub(crate) told: Option<Heard>,
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Notes>>);

impl Shared {
    /// Makes a note.
    pub(crate) fn note<T>(&self, write: impl FnOnce(&mut Notes) -> T) -> T {
        write(&mut self.0.lock().unwrap())
    }

    /// Takes note of a new connection.
    pub(crate) fn begin(&self) {
        self.note(|notes| {
            notes.visits += 1;
            notes.began = Some(Instant::now());
            notes.over = None;
        });
    }

    pub(crate) fn notes(&self) -> Notes {
        self.note(|notes| notes.clone())
    }

    pub(crate) fn told(&self, heard: Heard) -> Heard {
        self.note(|notes| notes.told = Some(heard));
        heard
    }

    pub(crate) fn is_told(&self) -> bool {
        self.note(|notes| notes.told.is_some())
    }
}

/// A stream of bytes that everybody knows: each byte follows from its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stream {
    /// Where in the circle of bytes it begins.
    begins: u64,
}

/// A prime, so that no shift by a size that anybody uses goes unnoticed.
const CIRCLE: u64 = 65_521;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; CIRCLE as usize];
    fastrand::Rng::with_seed(4711).fill(&mut bytes);
    bytes
});

impl Stream {
    /// From the machine of an operation.
    pub(crate) fn up(number: usize) -> Self {
        Self::number(2 * number as u64 + 1)
    }

    /// To the machine of an operation.
    pub(crate) fn down(number: usize) -> Self {
        Self::number(2 * number as u64)
    }

    fn number(number: u64) -> Self {
        const STEP: u64 = 7919;
        Self {
            begins: number * STEP % CIRCLE,
        }
    }

    /// The longest piece that lies in one, from a place on.
    fn piece(self, place: u64) -> &'static [u8] {
        let start = (self.begins + place) % CIRCLE;
        &BYTES[start as usize..]
    }

    /// Returns bytes from a place on.
    pub(crate) fn bytes(self, mut place: u64, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let piece = self.piece(place);
            let piece = &piece[..piece.len().min(count - bytes.len())];
            bytes.extend_from_slice(piece);
            place += piece.len() as u64;
        }
        bytes
    }

    /// Takes note of bytes that came.
    pub(crate) fn hear(self, notes: &Shared, bytes: &[u8]) {
        notes.note(|notes| {
            let expected = self.bytes(notes.heard, bytes.len());
            if expected != bytes && notes.wrong_at.is_none() {
                let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b);
                notes.wrong_at = Some(notes.heard + same.count() as u64);
            }
            notes.heard += bytes.len() as u64;
            notes.hearings.push((Instant::now(), notes.heard));
        });
    }
}

/// Waits until it is time to end; whoever stays waits for the farewell.
pub(crate) async fn wait_for_end(end: End, farewell: &CancellationToken) -> End {
    match end {
        End::Stays => {
            farewell.cancelled().await;
            return End::InOrder(Duration::ZERO);
        }
        End::InOrder(after) | End::Reset(after) | End::Cut(after) => sleep(after).await,
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_the_first_wrong_byte() {
        let size = 3 * CIRCLE as usize;
        let mut bytes = Stream::up(3).bytes(0, size);
        let notes = Shared::default();
        Stream::up(3).hear(&notes, &bytes[..100_000]);
        Stream::up(3).hear(&notes, &bytes[100_000..]);
        assert_eq!(notes.notes().wrong_at, None);
        assert_eq!(notes.notes().heard, size as u64);
        bytes.remove(70_000);
        let notes = Shared::default();
        Stream::up(3).hear(&notes, &bytes);
        let wrong = notes.notes().wrong_at.unwrap();
        assert!((70_000..70_010).contains(&wrong), "{wrong}");
    }
}
