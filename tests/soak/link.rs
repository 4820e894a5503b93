//! One connection through the fault machine, between adit (near) and whoever it speaks to (far).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, split};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::judge::Way;
use crate::plan::{Break, How, Passage, Treatment};
use crate::queue;

/// Bytes that are read at once.
const READ_SIZE: usize = 64 << 10;
/// How long an end without a word may wait until the other side has taken it.
const FAREWELL: Duration = Duration::from_secs(5);
/// Longer than any drip or stall is asked to last. On a starved machine one may last until adit gives
/// up, and nothing more is expected of that connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long adit may take to read what came before a reset.
const SETTLE: Duration = Duration::from_secs(1);

/// The far side of a connection.
pub(crate) trait Far: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes closing it a reset.
    fn reset_when_closed(&self);
}

impl Far for TcpStream {
    fn reset_when_closed(&self) {
        drop(self.set_zero_linger());
    }
}

/// In this process nobody can be reset.
impl Far for DuplexStream {
    fn reset_when_closed(&self) {}
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fate {
    #[default]
    Untouched,
    /// All its bytes passed, some of them late.
    Delayed,
    Broken,
}

/// What struck a connection so far. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Struck(Arc<Mutex<(Fate, Vec<&'static str>)>>);

impl Struck {
    fn by(&self, name: &'static str, fate: Fate) {
        let mut struck = self.0.lock().unwrap();
        struck.0 = struck.0.max(fate);
        struck.1.push(name);
    }

    pub(crate) fn fate(&self) -> Fate {
        self.0.lock().unwrap().0
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().1.clone()
    }
}

/// A break that strikes all connections that stand, and how often one was ordered.
pub(crate) type Orders = watch::Receiver<(usize, Break)>;

/// One connection.
pub(crate) struct Link {
    pub(crate) passage: Passage,
    pub(crate) struck: Struck,
    pub(crate) orders: Orders,
    /// Bytes that adit's kernel was given.
    pub(crate) delivered: Arc<AtomicU64>,
    /// Before a reset, adit is to have read all that it was given.
    pub(crate) settles: bool,
    /// Ends what is half open.
    pub(crate) release: CancellationToken,
}

/// Why nothing is carried any more.
enum Stop {
    /// This direction has ended in order.
    End,
    /// One of the two is gone.
    Lost,
    Broken(Break),
}

impl Link {
    /// Waits as long as the connection is to be accepted late.
    pub(crate) async fn accept(&self) {
        if !self.passage.late.is_zero() {
            self.struck.by("late accept", Fate::Delayed);
            sleep(self.passage.late).await;
        }
    }

    /// Carries bytes until both sides have ended, or the connection breaks.
    pub(crate) async fn carry<F: Far>(self, near: TcpStream, far: F) {
        drop(near.set_nodelay(true));
        let (mut near_read, mut near_write) = split(near);
        let (mut far_read, mut far_write) = split(far);
        let stop = {
            let nobody = AtomicU64::new(0);
            let up = self.pump(&mut near_read, &mut far_write, Way::Up, &nobody);
            let down = self.pump(&mut far_read, &mut near_write, Way::Down, &self.delivered);
            let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
            let mut orders = self.orders.clone();
            let (mut up_ended, mut down_ended) = (false, false);
            loop {
                let stop = tokio::select! {
                    stop = &mut up, if !up_ended => {
                        up_ended = true;
                        stop
                    }
                    stop = &mut down, if !down_ended => {
                        down_ended = true;
                        stop
                    }
                    Ok(()) = orders.changed() => Stop::Broken(orders.borrow().1),
                };
                match stop {
                    Stop::End if !(up_ended && down_ended) => {}
                    stop => break stop,
                }
            }
        };
        let near = near_read.unsplit(near_write);
        let far = far_read.unsplit(far_write);
        match stop {
            Stop::End => {}
            Stop::Lost => {
                self.settle(&near).await;
                near.reset_when_closed();
                far.reset_when_closed();
            }
            Stop::Broken(how) => {
                self.struck.by(how.name(), Fate::Broken);
                self.end(how, near, far).await;
            }
        }
    }

    async fn end<F: Far>(&self, how: Break, mut near: TcpStream, far: F) {
        match how {
            Break::Cut {
                near: one,
                far: two,
            } => {
                if one == How::Reset {
                    self.settle(&near).await;
                }
                tokio::join!(close(near, one), close(far, two));
            }
            Break::HalfOpen { reads, far: how } => {
                let held = match how {
                    Some(how) => {
                        close(far, how).await;
                        None
                    }
                    None => Some(far),
                };
                let mut buffer = vec![0; READ_SIZE];
                let forgotten = async {
                    // Whoever reads learns when adit has closed its side.
                    while reads && matches!(near.read(&mut buffer).await, Ok(1..)) {}
                    if !reads || held.is_some() {
                        std::future::pending::<()>().await;
                    }
                };
                self.release.run_until_cancelled(forgotten).await;
                near.reset_when_closed();
            }
        }
    }

    /// Waits until adit has read what it was given, for otherwise nobody knows what a reset took.
    async fn settle(&self, near: &TcpStream) {
        if self.settles {
            drop(timeout(SETTLE, queue::read_by_peer(near)).await);
        }
    }

    async fn pump(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        way: Way,
        passed: &AtomicU64,
    ) -> Stop {
        let Treatment { pieces, mut stall } = match way {
            Way::Up => self.passage.up,
            Way::Down => self.passage.down,
        };
        let (mut pieces_left, size, pause) = pieces.unwrap_or_default();
        let breaks = self.passage.breaks.filter(|(broken, ..)| *broken == way);
        let mut buffer = vec![0; READ_SIZE];
        let mut count = 0;
        let mut dripping = Instant::now();
        loop {
            let mut room = READ_SIZE;
            if pieces_left > 0 {
                if count == 0 {
                    let name = match pause.is_zero() {
                        true => "tiny segments",
                        false => "slow drip",
                    };
                    self.struck.by(name, Fate::Delayed);
                }
                pieces_left -= 1;
                room = size;
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                if count > 0 && dripping.elapsed() > PATIENCE {
                    self.struck.by("slower than asked", Fate::Broken);
                    pieces_left = 0;
                }
            }
            if let Some((_, time)) = stall.filter(|(after, _)| count >= *after) {
                self.struck.by("stall", Fate::Delayed);
                stall = None;
                let stalled = Instant::now();
                sleep(time).await;
                if stalled.elapsed() > PATIENCE {
                    self.struck.by("slower than asked", Fate::Broken);
                }
            }
            if let Some((_, _, how)) = breaks.filter(|(_, after, _)| count >= *after) {
                return Stop::Broken(how);
            }
            let next = [
                stall.map(|(after, _)| after),
                breaks.map(|(_, after, _)| after),
            ];
            for after in next.into_iter().flatten() {
                room = room.min(after - count);
            }
            let read = match from.read(&mut buffer[..room]).await {
                Ok(0) => return self.finish(to).await,
                Ok(read) => read,
                Err(_) => return Stop::Lost,
            };
            if count == 0 {
                dripping = Instant::now();
            }
            count += read;
            if write(to, &buffer[..read], passed).await.is_err() {
                return Stop::Lost;
            }
        }
    }

    async fn finish(&self, to: &mut (impl AsyncWrite + Unpin)) -> Stop {
        match to.shutdown().await {
            Ok(()) => Stop::End,
            Err(_) => Stop::Lost,
        }
    }
}

/// Counts what was written as soon as it was, for a break can come in between.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    passed: &AtomicU64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = to.write(bytes).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        passed.fetch_add(written as u64, Ordering::Relaxed);
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn close(mut stream: impl Far, how: How) {
    match how {
        How::Reset => stream.reset_when_closed(),
        How::Fin => {
            drop(stream.shutdown().await);
            // To the end, or closing it would become a reset.
            let mut rest = vec![0; READ_SIZE];
            let ended = async { while let Ok(1..) = stream.read(&mut rest).await {} };
            drop(timeout(FAREWELL, ended).await);
        }
    }
}
