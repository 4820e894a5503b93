//! How long the relay waits for a peer that takes little, says little, or neither: with peers in
//! memory and a clock that stands still while anything can be done.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::alarm::MISSED_PINGS;
use super::drain::{DRAIN_CEILING, HELD_PATIENCE, Progress};
use super::*;
use crate::net::UnbufferedStream;

const SECOND: Duration = Duration::from_secs(1);
/// What a peer leaves for the rest of the tunnel.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// One end of a connection; what it takes and says is up to the test.
#[derive(Clone, Default)]
struct Peer(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    said: VecDeque<u8>,
    has_ended: bool,
    /// How many more bytes it takes.
    room: usize,
    taken: Vec<u8>,
    was_shut: bool,
    is_reset: bool,
    /// Whether it takes no more, whatever room it has.
    is_broken: bool,
    wakers: Vec<Waker>,
}

impl Peer {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.borrow_mut();
        change(&mut state);
        for waker in state.wakers.drain(..) {
            waker.wake();
        }
    }

    fn say(&self, bytes: &[u8]) {
        self.change(|state| state.said.extend(bytes));
    }

    fn end(&self) {
        self.change(|state| state.has_ended = true);
    }

    fn take(&self, count: usize) {
        self.change(|state| state.room = state.room.saturating_add(count));
    }

    fn taken(&self) -> Vec<u8> {
        self.0.borrow().taken.clone()
    }

    /// Takes a byte every so often.
    async fn take_slowly(&self, pause: Duration) {
        loop {
            sleep(pause).await;
            self.take(1);
        }
    }

    /// Sends a pong every so often, which nobody has asked for.
    async fn chat(&self, pause: Duration) {
        loop {
            sleep(pause).await;
            self.say(b"\x8a\x00");
        }
    }
}

impl Socket for Peer {
    fn held(&self, _: Instant) -> u64 {
        0
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        let count = room.len().min(state.said.len());
        if count == 0 && !state.has_ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in room.iter_mut().zip(state.said.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        self.0.borrow_mut().is_reset = true;
        Ok(())
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; buf.remaining()];
        match self.read_now(&mut bytes) {
            Ok(count) => {
                buf.put_slice(&bytes[..count]);
                Poll::Ready(Ok(()))
            }
            Err(_) => {
                self.0.borrow_mut().wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = buf.len().min(state.room);
        if count == 0 {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.room -= count;
        state.taken.extend_from_slice(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().was_shut = true;
        Poll::Ready(Ok(()))
    }
}

fn limits() -> Limits {
    Limits {
        keep_alive: Duration::ZERO,
        drain: DRAIN_LIMIT,
        idle: None,
        max_duration: None,
    }
}

/// Carries between a device and a cloud for as long as the tunnel lasts, while both go on.
async fn carry(limits: &Limits, device: &Peer, cloud: &Peer, going_on: impl Future) -> Ended {
    let socket = CloudSocket::new(UnbufferedStream::plain(cloud.clone()), Vec::new());
    let traffic = Traffic::default();
    let relay = relay(
        device.clone(),
        socket,
        limits,
        &traffic,
        Span::none(),
        std::future::pending::<()>(),
    );
    tokio::select! {
        ended = relay => ended,
        _ = going_on => panic!("the peers go on for ever"),
        () = sleep(FOR_EVER) => panic!("the tunnel has not ended"),
    }
}

/// A binary frame of a server with a payload of so many bytes.
fn frame(length: u16) -> Vec<u8> {
    let mut frame = vec![0x82, 126];
    frame.extend(length.to_be_bytes());
    frame.resize(frame.len() + usize::from(length), 7);
    frame
}

/// Close with 1000.
const CLOSE: &[u8] = b"\x88\x02\x03\xe8";

fn is_incomplete(ended: &Ended, why: &EndReason) -> (u64, u64) {
    match &ended.reason {
        EndReason::Incomplete { reason, up, down } => {
            assert_eq!(&**reason, why);
            (*up, *down)
        }
        other => panic!("{other:?}"),
    }
}

/// Two peers whose tunnel ends at once, although the cloud has not taken what the device has sent.
fn ending(sent: usize) -> (Peer, Peer) {
    let (device, cloud) = (Peer::default(), Peer::default());
    device.say(&vec![7; sent]);
    device.change(|state| state.is_broken = true);
    cloud.say(&frame(1));
    (device, cloud)
}

#[tokio::test(start_paused = true)]
async fn gives_up_a_cloud_that_takes_nothing_of_the_last_bytes() {
    let (device, cloud) = ending(1000);
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    // What it said before counts once. Blocked writes that are tried again are no sign of life.
    assert_eq!(ended.lasted, DRAIN_LIMIT * (1 + HELD_PATIENCE));
    assert_eq!(is_incomplete(&ended, &EndReason::ClosedByDevice), (1000, 0));
    assert_eq!(ended.up, 0);
}

#[tokio::test(start_paused = true)]
async fn gives_up_at_the_ceiling_a_cloud_that_never_has_all_of_the_last_bytes() {
    let (device, cloud) = ending(10_000);
    let slowly = cloud.take_slowly(SECOND);
    let ended = carry(&limits(), &device, &cloud, slowly).await;
    assert_eq!(ended.lasted, DRAIN_CEILING);
    let (up, _) = is_incomplete(&ended, &EndReason::ClosedByDevice);
    assert_eq!(up + ended.up, 10_000);
    assert!(ended.up > 500, "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_cloud_that_speaks_although_it_takes_nothing_yet() {
    let (device, cloud) = ending(1000);
    let later = async {
        let chat = cloud.chat(DRAIN_LIMIT / 2);
        let _ = tokio::time::timeout(DRAIN_LIMIT * 10, chat).await;
        cloud.take(usize::MAX);
        cloud.say(CLOSE);
        cloud.end();
        device.end();
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits(), &device, &cloud, later).await;
    assert_eq!((ended.up, ended.reason), (1000, EndReason::ClosedByDevice));
    assert!(ended.lasted >= DRAIN_LIMIT * 10, "{:?}", ended.lasted);
}

#[tokio::test(start_paused = true)]
async fn does_not_wait_long_for_the_answer_of_a_cloud_that_has_everything() {
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    device.say(&[7; 1000]);
    device.end();
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    // What it took since the tunnel began is the first progress.
    assert_eq!(ended.lasted, DRAIN_LIMIT * 2);
    // A cloud that chats, but is owed nothing, is not waited for either.
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    device.end();
    let ended = carry(&limits(), &device, &cloud, cloud.chat(SECOND)).await;
    assert!(ended.lasted <= DRAIN_LIMIT * 2, "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn resets_a_device_that_takes_nothing_of_the_last_bytes() {
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    cloud.say(&frame(1000));
    cloud.say(CLOSE);
    cloud.end();
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    assert!(device.0.borrow().is_reset, "half must not look like all");
    assert!(!device.0.borrow().was_shut);
    assert_eq!(is_incomplete(&ended, &EndReason::ClosedByCloud), (0, 1000));
    assert!(
        ended.lasted >= DRAIN_LIMIT * HELD_PATIENCE && ended.lasted <= DRAIN_LIMIT * 3,
        "{ended:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn ends_a_tunnel_that_is_too_old_though_its_end_has_begun_and_the_cloud_goes_on() {
    let limits = Limits {
        max_duration: Some(60 * SECOND),
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    device.take(usize::MAX);
    cloud.take(usize::MAX);
    // The device sends no more and reads on; the cloud does not look at the Close frame.
    device.end();
    let sends = async {
        loop {
            sleep(SECOND).await;
            cloud.say(&frame(1));
        }
    };
    let ended = carry(&limits, &device, &cloud, sends).await;
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    assert_eq!(ended.lasted, 60 * SECOND + DRAIN_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn resets_a_device_of_a_tunnel_that_ends_while_the_cloud_is_within_a_message() {
    let limits = Limits {
        max_duration: Some(60 * SECOND),
        ..limits()
    };
    let whole = frame(4);
    let mut fragment = frame(4);
    fragment[0] &= 0x7f;
    for (said, is_within) in [
        (&whole[..0], false),
        (&whole[..1], true),
        (&whole[..6], true),
        (&whole[..], false),
        (&fragment[..], true),
    ] {
        let (device, cloud) = (Peer::default(), Peer::default());
        device.take(usize::MAX);
        cloud.take(usize::MAX);
        cloud.say(said);
        // The cloud says no more, not even that it has heard the Close frame.
        let ended = carry(&limits, &device, &cloud, std::future::pending::<()>()).await;
        assert_eq!(ended.reason, EndReason::MaxDuration(60 * SECOND));
        assert_eq!(device.0.borrow().is_reset, is_within, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_device_for_as_long_as_it_takes_something() {
    for (length, is_whole) in [(500, true), (2000, false)] {
        let (device, cloud) = (Peer::default(), Peer::default());
        cloud.take(usize::MAX);
        cloud.say(&frame(length));
        cloud.say(CLOSE);
        cloud.end();
        let going_on = async {
            let slowly = device.take_slowly(SECOND);
            let until_whole = async {
                while !device.0.borrow().was_shut {
                    sleep(SECOND).await;
                }
                device.end();
                std::future::pending::<()>().await;
            };
            tokio::join!(slowly, until_whole)
        };
        let ended = carry(&limits(), &device, &cloud, going_on).await;
        assert_eq!(device.0.borrow().is_reset, !is_whole);
        assert_eq!(ended.down, device.taken().len() as u64);
        if is_whole {
            assert_eq!(ended.reason, EndReason::ClosedByCloud);
            assert_eq!(device.taken(), [7; 500]);
        } else {
            assert_eq!(ended.lasted, DRAIN_CEILING);
            let (_, down) = is_incomplete(&ended, &EndReason::ClosedByCloud);
            assert_eq!(down + ended.down, 2000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tells_a_cloud_that_is_slow_from_one_that_is_gone_by_what_it_takes() {
    let limits = Limits {
        keep_alive: 20 * SECOND,
        ..limits()
    };
    // It answers nothing, so only what it takes says that it is there.
    let (device, cloud) = (Peer::default(), Peer::default());
    device.say(&[7; 100]);
    let slowly = async {
        let slowly = cloud.take_slowly(7 * SECOND);
        let _ = tokio::time::timeout(700 * SECOND, slowly).await;
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits, &device, &cloud, slowly).await;
    let silent = EndReason::CloudSilent(limits.keep_alive * MISSED_PINGS);
    is_incomplete(&ended, &silent);
    assert!(
        ended.lasted > 720 * SECOND && ended.lasted < 800 * SECOND,
        "{ended:?}"
    );
    // One that takes nothing and says nothing is gone at the third ping.
    let (device, cloud) = (Peer::default(), Peer::default());
    device.say(&[7; 100]);
    let ended = carry(&limits, &device, &cloud, std::future::pending::<()>()).await;
    is_incomplete(&ended, &silent);
    assert!(
        ended.lasted >= 60 * SECOND && ended.lasted <= 60 * SECOND + 2 * DRAIN_LIMIT,
        "{ended:?}"
    );
}

#[test]
fn takes_for_progress_what_was_taken_and_words_of_who_is_owed_something() {
    let last = Progress {
        lan: (10, 5),
        cloud: (20, 5),
        life: (1, 1),
    };
    let nothing_owed = Progress {
        lan: (10, 0),
        cloud: (20, 0),
        ..last
    };
    for (now, is_beyond) in [
        (last, false),
        (
            Progress {
                lan: (11, 4),
                ..last
            },
            true,
        ),
        (
            Progress {
                cloud: (21, 4),
                ..last
            },
            true,
        ),
        (
            Progress {
                life: (2, 1),
                ..last
            },
            true,
        ),
        (
            Progress {
                life: (1, 2),
                ..last
            },
            true,
        ),
        (
            Progress {
                life: (2, 2),
                ..nothing_owed
            },
            false,
        ),
        // A kernel that counts again what it had counted as taken is no progress.
        (
            Progress {
                lan: (9, 6),
                cloud: (19, 6),
                ..last
            },
            false,
        ),
    ] {
        assert_eq!(now.is_beyond(last), is_beyond, "{now:?}");
    }
}
