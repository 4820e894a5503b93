//! How long the relay waits for a peer that takes little, says little, or neither: with peers in
//! memory and a clock that stands still while anything can be done.

use tokio::time::sleep;
use websocket_frames::Fault;

use super::alarm::MISSED_PINGS;
use super::drain::{DRAIN_CEILING, HELD_PATIENCE, Progress, RESET_DELAY};
use super::peer::{CLOSE, Peer, carry, frame, limits};
use super::room::LAN_READ;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

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
    device.change(|state| state.broken = Some(io::ErrorKind::BrokenPipe));
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
    assert!(device.is_reset(), "half must not look like all");
    assert!(!device.was_shut());
    assert_eq!(is_incomplete(&ended, &EndReason::ClosedByCloud), (0, 1000));
    assert_eq!(ended.lasted, DRAIN_LIMIT * (1 + HELD_PATIENCE));
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
async fn leaves_time_for_the_answer_of_the_cloud_though_the_device_has_more_to_say() {
    const FRAME: usize = LAN_READ + 8;
    let limits = Limits {
        max_duration: Some(SECOND),
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    device.say(&vec![7; 100 * LAN_READ]);
    device.end();
    let taking = async {
        // Ten frames a second, and less time than the end may take.
        for _ in 0..45 {
            sleep(SECOND / 10).await;
            cloud.take(FRAME);
        }
        let sent = cloud.taken();
        let last = sent.chunks(FRAME).next_back().unwrap();
        assert_eq!(last[0], 0x88, "a Close frame");
        cloud.say(CLOSE);
        cloud.end();
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits, &device, &cloud, taking).await;
    assert_eq!(ended.reason, EndReason::MaxDuration(SECOND));
    assert!(ended.up > 20 * LAN_READ as u64, "{ended:?}");
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
        assert_eq!(device.is_reset(), is_within, "{said:?}");
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
                while !device.was_shut() {
                    sleep(SECOND).await;
                }
                device.end();
                std::future::pending::<()>().await;
            };
            tokio::join!(slowly, until_whole)
        };
        let ended = carry(&limits(), &device, &cloud, going_on).await;
        assert_eq!(device.is_reset(), !is_whole);
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

#[tokio::test(start_paused = true)]
async fn waits_for_a_device_that_speaks_although_it_takes_nothing_yet() {
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    cloud.say(&frame(1000));
    cloud.say(CLOSE);
    cloud.end();
    let later = async {
        let chat = device.repeat(b"x", DRAIN_LIMIT / 2);
        let _ = tokio::time::timeout(DRAIN_LIMIT * 10, chat).await;
        device.take(usize::MAX);
        device.end();
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits(), &device, &cloud, later).await;
    assert_eq!((ended.down, ended.reason), (1000, EndReason::ClosedByCloud));
    assert_eq!(ended.lasted, DRAIN_LIMIT * 10);
}

#[tokio::test(start_paused = true)]
async fn ends_a_tunnel_to_a_cloud_that_takes_no_more_and_says_nothing() {
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.change(|state| state.broken = Some(io::ErrorKind::ConnectionReset));
    device.say(b"key");
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    let reason = EndReason::ResetByCloud("connection reset".to_owned());
    assert_eq!(is_incomplete(&ended, &reason), (3, 0));
    assert_eq!(ended.lasted, DRAIN_LIMIT);
}

/// A frame that no server may send: it goes on with a message that has not begun.
const FAULT: &[u8] = b"\x80\x01x";

#[tokio::test(start_paused = true)]
async fn gives_the_last_bytes_time_to_arrive_before_it_resets() {
    // When the device acknowledges them, and after how many delays it is reset.
    for (acknowledged, looks) in [(Duration::ZERO, 1), (RESET_DELAY * 3 / 2, 2)] {
        let (device, cloud) = (Peer::default(), Peer::default());
        device.take(usize::MAX);
        device.change(|state| state.acknowledged = Some(0));
        cloud.take(usize::MAX);
        cloud.say(&frame(1000));
        cloud.say(FAULT);
        let began = Instant::now();
        let going_on = async {
            let acknowledging = async {
                sleep(acknowledged).await;
                device.change(|state| state.acknowledged = None);
                while !device.is_reset() {
                    sleep(RESET_DELAY).await;
                }
                cloud.end();
            };
            // Whatever else wakes the tunnel does not count.
            tokio::join!(cloud.repeat(b"x", RESET_DELAY / 20), acknowledging)
        };
        let ended = carry(&limits(), &device, &cloud, going_on).await;
        assert_eq!(ended.down, 1000);
        assert_eq!(device.reset_at(), Some(began + RESET_DELAY * looks));
        assert_eq!(device.asked().held, looks);
    }
}

#[tokio::test(start_paused = true)]
async fn resets_in_time_though_the_next_ping_was_due_before() {
    let limits = Limits {
        keep_alive: 20 * SECOND,
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    device.take(usize::MAX);
    cloud.take(usize::MAX);
    let began = Instant::now();
    let at = 20 * SECOND - RESET_DELAY / 2;
    let cut = async {
        sleep(at).await;
        cloud.say(&frame(1000));
        cloud.say(FAULT);
        cloud.end();
        std::future::pending::<()>().await;
    };
    carry(&limits, &device, &cloud, cut).await;
    assert_eq!(device.reset_at(), Some(began + at + RESET_DELAY));
}

#[tokio::test(start_paused = true)]
async fn resets_a_device_that_does_not_take_all_that_came_before_a_fault() {
    let (device, cloud) = (Peer::default(), Peer::default());
    device.take(400);
    cloud.take(usize::MAX);
    cloud.say(&frame(1000));
    cloud.say(FAULT);
    cloud.end();
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    let fault = Fault::NothingToContinue;
    let broken = EndReason::BrokenByCloud(Violation::Frame(fault));
    assert_eq!(is_incomplete(&ended, &broken), (0, 600));
    assert_eq!(ended.lasted, DRAIN_LIMIT * (1 + HELD_PATIENCE));
    assert!(device.is_reset());
}

#[tokio::test(start_paused = true)]
async fn gives_the_cloud_time_to_answer_after_a_pause_of_the_device() {
    let limits = Limits {
        keep_alive: 20 * SECOND,
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    cloud.say(&frame(1000));
    let pause = async {
        sleep(59 * SECOND).await;
        device.take(usize::MAX);
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits, &device, &cloud, pause).await;
    let silent = EndReason::CloudSilent(limits.keep_alive * MISSED_PINGS);
    assert_eq!((ended.reason, ended.down), (silent, 1000));
    // Of the pings since the pause, the one right behind it says nothing.
    assert_eq!(ended.lasted, limits.keep_alive * (3 + MISSED_PINGS));
}

#[tokio::test(start_paused = true)]
async fn tells_a_slow_cloud_from_one_that_is_gone_by_what_it_acknowledges() {
    let limits = Limits {
        keep_alive: 20 * SECOND,
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    // Its system takes all at once, and the cloud itself answers nothing.
    cloud.take(usize::MAX);
    cloud.change(|state| state.acknowledged = Some(0));
    device.say(&[7; 100]);
    let acknowledging = async {
        sleep(50 * SECOND).await;
        cloud.change(|state| state.acknowledged = Some(50));
        sleep(20 * SECOND).await;
        cloud.change(|state| state.acknowledged = None);
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits, &device, &cloud, acknowledging).await;
    let silent = EndReason::CloudSilent(limits.keep_alive * MISSED_PINGS);
    assert_eq!((ended.reason, ended.up), (silent, 100));
    // The ping at 60 seconds finds that it has taken something of what it was owed. That it has
    // all at 80 says no more than that its system is there.
    assert_eq!(ended.lasted, 60 * SECOND + limits.keep_alive * MISSED_PINGS);
}

#[tokio::test(start_paused = true)]
async fn takes_room_that_a_cloud_makes_for_a_sign_of_life() {
    let limits = Limits {
        keep_alive: 20 * SECOND,
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    let going_on = async {
        // It answers no ping, and is owed nothing whenever one is due.
        for _ in 0..10 {
            sleep(5 * SECOND).await;
            device.say(b"key");
            sleep(5 * SECOND).await;
            cloud.take(1000);
            sleep(SECOND).await;
            cloud.change(|state| state.room = 0);
            sleep(9 * SECOND).await;
        }
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits, &device, &cloud, going_on).await;
    assert!(ended.lasted > 200 * SECOND, "{ended:?}");
    assert_eq!(ended.up, 30);
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

#[tokio::test(start_paused = true)]
async fn counts_keys_that_the_cloud_does_not_confirm_as_keys() {
    const FRAME: usize = 7;
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    // The last of them half a frame.
    cloud.change(|state| state.acknowledged = Some(8000 * FRAME - FRAME / 2));
    let keys = async {
        for _ in 0..12_000 {
            device.say(b"k");
            sleep(Duration::from_millis(1)).await;
        }
        device.end();
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits(), &device, &cloud, keys).await;
    assert_eq!(is_incomplete(&ended, &EndReason::ClosedByDevice), (4001, 0));
    assert_eq!(ended.up, 7999);
}

#[tokio::test(start_paused = true)]
async fn counts_keys_that_a_silent_cloud_does_not_confirm_as_keys() {
    let limits = Limits {
        keep_alive: 20 * SECOND,
        ..limits()
    };
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(usize::MAX);
    cloud.change(|state| state.acknowledged = Some(7));
    let keys = async {
        for _ in 0..3 {
            device.say(b"k");
            sleep(SECOND).await;
        }
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits, &device, &cloud, keys).await;
    let silent = EndReason::CloudSilent(limits.keep_alive * MISSED_PINGS);
    assert_eq!(is_incomplete(&ended, &silent), (2, 0));
    assert_eq!(ended.up, 1);
}

#[tokio::test(start_paused = true)]
async fn counts_what_no_broken_cloud_can_have_taken() {
    let (device, cloud) = (Peer::default(), Peer::default());
    cloud.take(107);
    device.say(&[7; 1000]);
    let breaks = async {
        while cloud.taken().is_empty() {
            tokio::task::yield_now().await;
        }
        cloud.change(|state| state.broken = Some(io::ErrorKind::BrokenPipe));
        cloud.end();
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits(), &device, &cloud, breaks).await;
    let broken = EndReason::ResetByCloud("broken pipe".to_owned());
    // Eight of what it has taken are the head of the frame.
    assert_eq!(is_incomplete(&ended, &broken), (901, 0));
    assert_eq!(ended.up, 99);
}
