//! What the relay asks of its sockets, how often, and what it makes of the answers.

use tokio::time::sleep;

use super::peer::{CLOSE, Peer, carry, carry_from, frame, limits};
use super::room::LAN_READ;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What two peers say when both have said everything.
fn end(device: &Peer, cloud: &Peer) {
    cloud.say(CLOSE);
    cloud.end();
    device.end();
}

/// Two peers who take everything.
fn peers() -> (Peer, Peer) {
    let (device, cloud) = (Peer::default(), Peer::default());
    device.take(usize::MAX);
    cloud.take(usize::MAX);
    (device, cloud)
}

/// What the binary frames carry at the beginning of what a cloud was sent; all are short.
fn payloads(mut sent: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let [0x82, length, k0, k1, k2, k3, rest @ ..] = sent {
        let (payload, next) = rest.split_at(usize::from(length & 0x7f));
        let keys = [k0, k1, k2, k3].into_iter().cycle();
        let unmasked = payload.iter().zip(keys).map(|(byte, key)| byte ^ key);
        payloads.push(unmasked.collect());
        sent = next;
    }
    payloads
}

#[tokio::test(start_paused = true)]
async fn writes_large_payloads_from_where_they_lie_and_moves_small_ones_together() {
    let (device, cloud) = peers();
    for length in [600, 511, 512, 1, 600] {
        cloud.say(&frame(length));
    }
    end(&device, &cloud);
    carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    assert_eq!(device.taken(), [7; 2224]);
    assert_eq!(device.asked().writes, [[600 + 511, 512 + 1, 600]]);
}

#[tokio::test(start_paused = true)]
async fn leaves_in_peace_who_was_not_the_reason_to_wake() {
    let (device, cloud) = peers();
    let keys = async {
        sleep(SECOND).await;
        let before = cloud.asked();
        for _ in 0..10 {
            device.say(b"k");
            sleep(SECOND).await;
        }
        assert_eq!(cloud.asked().reads, before.reads);
        let before = (device.asked(), cloud.asked());
        for _ in 0..10 {
            cloud.say(&frame(1));
            sleep(SECOND).await;
        }
        assert_eq!(device.asked().reads, before.0.reads);
        assert_eq!(device.asked().looks, before.0.looks);
        assert_eq!(cloud.asked().flushes, before.1.flushes);
        end(&device, &cloud);
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits(), &device, &cloud, keys).await;
    assert_eq!((ended.up, ended.down), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn looks_past_tokio_only_behind_a_read_that_may_have_ended_too_soon() {
    for (length, looks) in [(1, 1), (LAN_READ, 0), (LAN_READ + 1, 1)] {
        let (device, cloud) = peers();
        let said = async {
            device.say(&vec![7; length]);
            sleep(SECOND).await;
            assert_eq!(device.asked().looks, looks, "{length}");
            end(&device, &cloud);
            std::future::pending::<()>().await;
        };
        let ended = carry(&limits(), &device, &cloud, said).await;
        assert_eq!(ended.up, length as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn carries_what_tokio_does_not_know_of_though_a_signal_comes_in_between() {
    for failing in [&[][..], &[io::ErrorKind::Interrupted]] {
        let (device, cloud) = peers();
        device.say(b"before");
        device.change(|state| {
            state.hidden.extend(b"behind");
            state.failing_looks.extend(failing);
        });
        let later = async {
            sleep(SECOND).await;
            end(&device, &cloud);
            std::future::pending::<()>().await;
        };
        carry(&limits(), &device, &cloud, later).await;
        assert_eq!(payloads(&cloud.taken()), [b"before", b"behind"]);
    }
}

#[tokio::test(start_paused = true)]
async fn ends_when_a_look_past_tokio_finds_the_device_gone() {
    let (device, cloud) = peers();
    device.say(b"before");
    let gone = io::ErrorKind::ConnectionReset;
    device.change(|state| state.failing_looks.push_back(gone));
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    let reason = EndReason::ResetByDevice("connection reset".to_owned());
    assert_eq!((ended.reason, ended.up), (reason, 6));
}

#[tokio::test(start_paused = true)]
async fn carries_at_the_end_what_has_arrived_and_writes_to_no_device_that_is_gone() {
    let limits = Limits {
        max_duration: Some(SECOND),
        ..limits()
    };
    for (failing, up, down) in [
        (io::ErrorKind::Interrupted, 4, 1),
        (io::ErrorKind::ConnectionReset, 0, 0),
    ] {
        let (device, cloud) = peers();
        let last = async {
            sleep(SECOND / 2).await;
            device.change(|state| {
                state.hidden.extend(b"late");
                state.failing_looks.push_back(failing);
            });
            sleep(SECOND).await;
            cloud.say(&frame(1));
            end(&device, &cloud);
            std::future::pending::<()>().await;
        };
        let ended = carry(&limits, &device, &cloud, last).await;
        assert_eq!(ended.reason, EndReason::MaxDuration(SECOND));
        assert_eq!((ended.up, ended.down), (up, down), "{failing}");
    }
}

#[tokio::test(start_paused = true)]
async fn says_how_the_first_write_to_a_device_failed_and_tries_no_other() {
    let (device, cloud) = peers();
    device.change(|state| state.broken = Some(io::ErrorKind::ConnectionReset));
    let twice = async {
        for _ in 0..2 {
            cloud.say(&frame(1));
            sleep(SECOND).await;
        }
        device.end();
        std::future::pending::<()>().await;
    };
    let ended = carry(&limits(), &device, &cloud, twice).await;
    let reason = EndReason::ResetByDevice("connection reset".to_owned());
    assert_eq!((ended.reason, ended.down), (reason, 0));
    assert_eq!(device.asked().writes, [[1]]);
}

/// As a proxy does it that speaks TLS itself.
#[tokio::test(start_paused = true)]
async fn takes_a_stream_that_ends_without_a_word_of_its_own_tls_for_ended() {
    let (device, cloud) = peers();
    cloud.say(&frame(1));
    cloud.change(|state| state.read_failure = Some(io::ErrorKind::UnexpectedEof));
    device.end();
    let ended = carry(&limits(), &device, &cloud, std::future::pending::<()>()).await;
    assert_eq!(device.taken(), [7]);
    assert!(device.was_shut() && !device.is_reset());
    assert!(ended.reason.is_orderly(), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn delivers_what_came_with_the_answer_to_the_handshake() {
    // The last is more than all that is read at once.
    for whole in [0, 1, 10] {
        let (device, cloud) = peers();
        let mut said: Vec<u8> = (0..whole).flat_map(|_| frame(50_000)).collect();
        said.extend(frame(300));
        let rest = said.split_off(said.len() - 200);
        cloud.say(&rest);
        end(&device, &cloud);
        let never = std::future::pending::<()>();
        let ended = carry_from(&limits(), &device, &cloud, said, never).await;
        assert_eq!(ended.down, whole * 50_000 + 300);
        assert!(device.taken().iter().all(|&byte| byte == 7));
    }
}
