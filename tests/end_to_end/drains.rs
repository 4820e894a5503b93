//! Ends that take their time, ends that lose something, and streams that are cut.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::support::http::{admin_address, get};
use crate::support::transfer::{Progress, content, read, write};
use crate::support::{FarEnd, LIMIT, Lan, Site};

/// What the kernel takes at once, and nobody has read yet.
const LAST_WORDS: usize = 300_000;
/// What a slow side takes at a time, and how long it waits then: 20 kB in a second.
const SIP: usize = 1000;
const PAUSE: Duration = Duration::from_millis(50);
/// Longer than a side may take nothing, twice over.
const DRAINED: Duration = Duration::from_secs(60);

/// Everything until the end, and how it ended.
async fn all_of(machine: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut received = Vec::new();
    let end = timeout(DRAINED, machine.read_to_end(&mut received)).await;
    (
        received,
        end.expect("the end in time")
            .err()
            .map(|error| error.kind()),
    )
}

#[tokio::test]
async fn delivers_the_last_bytes_to_a_machine_that_takes_them_slowly_and_answers() {
    let (site, _adit) = Site::with_adit(false, &[]).await;
    let (mut machine, mut far_end) = site.open_held().await;
    let sent = content(1, LAST_WORDS);
    far_end.send(sent.as_slice()).await;
    far_end.close().await;
    for part in sent.chunks(SIP) {
        read(&mut machine, part, SIP).await;
        machine.write_all(b".").await.unwrap();
        sleep(PAUSE).await;
    }
    assert_eq!(all_of(&mut machine).await, (Vec::new(), None));
    drop(machine);
    let (_, text) = site.event(&site.gateway, 2).await;
    assert!(
        text.contains("closed: closed by the cloud; open for"),
        "{text}"
    );
    assert!(text.ends_with(" 300000 bytes to the device"), "{text}");
}

#[tokio::test]
async fn delivers_the_last_bytes_to_a_cloud_that_takes_them_slowly_and_pings() {
    let (site, _adit) = Site::with_adit(false, &[]).await;
    let (mut machine, FarEnd(mut socket)) = site.open_held().await;
    let sent = content(2, LAST_WORDS);
    // The machine's bytes are in the kernel's hands before the cloud reads the first of them.
    machine.write_all(&sent).await.unwrap();
    machine.shutdown().await.unwrap();
    let stream = socket.get_mut();
    let mut received = 0;
    let mut sip = [0; SIP];
    // Frames take some bytes more.
    while received < sent.len() {
        received += timeout(LIMIT, stream.read(&mut sip))
            .await
            .unwrap()
            .unwrap();
        stream.write_all(b"\x89\x00").await.unwrap();
        sleep(PAUSE).await;
    }
    let mut rest = Vec::new();
    // Up to the Close frame and its reason.
    while !rest.ends_with(b"!") {
        let count = timeout(LIMIT, stream.read(&mut sip))
            .await
            .unwrap()
            .unwrap();
        rest.extend_from_slice(&sip[..count]);
        if count < SIP {
            rest.push(b'!');
        }
    }
    stream.write_all(b"\x88\x02\x03\xe8").await.unwrap();
    stream.shutdown().await.unwrap();
    drop((machine, socket));
    let (_, text) = site.event(&site.gateway, 2).await;
    assert!(
        text.contains("closed: closed by the device; open for"),
        "{text}"
    );
    assert!(text.contains(" 300000 bytes to the cloud"), "{text}");
}

#[tokio::test]
async fn counts_what_a_machine_does_not_take_and_resets_it() {
    let (site, _adit) = Site::with_adit(false, &[]).await;
    let (mut machine, mut far_end) = site.open_held().await;
    SockRef::from(&machine)
        .set_recv_buffer_size(8 << 10)
        .unwrap();
    far_end.send(content(3, LAST_WORDS)).await;
    far_end.close().await;
    let (_, text) = site.event_within(&site.gateway, 2, DRAINED).await;
    let (received, end) = all_of(&mut machine).await;
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    assert!(received == content(3, LAST_WORDS)[..received.len()]);
    let lost = LAST_WORDS - received.len();
    assert!(lost > 0);
    let reason = format!("closed: closed by the cloud; {lost} bytes did not reach the device; ");
    assert!(text.contains(&reason), "{text}");
    let count = format!(" {} bytes to the device", received.len());
    assert!(text.ends_with(&count), "{text}");
}

/// The number before the words, somewhere in a text.
fn number_before(words: &str, text: &str) -> usize {
    let before = text.split_once(words).map(|(before, _)| before);
    let number = before.and_then(|before| before.rsplit(' ').next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number before '{words}': {text}"))
}

/// What tunnels have carried to the cloud, by the metrics.
async fn counted_up(address: &str) -> usize {
    const LINE: &str = "adit_tunnel_traffic_bytes_total{direction=\"up\"} ";
    let metrics = get(address, "/metrics", &[]).await.body;
    let count = metrics.lines().find_map(|line| line.strip_prefix(LINE));
    count.and_then(|count| count.parse().ok()).unwrap()
}

#[tokio::test]
async fn counts_key_strokes_that_a_cloud_does_not_take_and_none_twice() {
    // In TLS each has some thirty bytes on the wire, so more of them than a receive buffer holds.
    const KEYS: usize = 7000;
    const HEARD: usize = 1000;
    let settings = ["admin.listen=127.0.0.1:0", "remote_access.keep_alive=10s"];
    let (site, adit) = Site::with_adit(true, &settings).await;
    let address = admin_address(&adit).await;
    let (mut machine, FarEnd(mut socket)) = site.open_held().await;
    let tcp = SockRef::from(socket.get_ref().tcp());
    tcp.set_recv_buffer_size(4 << 10).unwrap();
    machine.set_nodelay(true).unwrap();
    for _ in 0..HEARD {
        machine.write_all(b"k").await.unwrap();
        let message = timeout(LIMIT, socket.next()).await.expect("a key in time");
        assert_eq!(message.unwrap().unwrap(), Message::binary(&b"k"[..]));
    }
    for _ in HEARD..KEYS {
        machine.write_all(b"k").await.unwrap();
        // As somebody types: most keys come in frames of their own.
        sleep(Duration::from_millis(1)).await;
    }
    machine.shutdown().await.unwrap();
    let before = counted_up(&address).await;
    // The end of the machine is not read before the cloud has room, so it is pings that end the tunnel.
    let (_, text) = site.event_within(&site.gateway, 2, 2 * DRAINED).await;
    let after = counted_up(&address).await;
    assert!(before <= after, "{after} after {before}");
    let delivered = number_before(" bytes to the cloud", &text);
    let lost = number_before(" bytes did not reach the cloud; ", &text);
    // Adit reads no more of a machine than it has room for.
    assert!(delivered + lost <= KEYS, "{text}");
    assert_eq!(delivered + lost, after, "{text}");
    assert!(HEARD <= delivered, "{text}");
}

#[tokio::test]
async fn delivers_what_came_of_a_message_that_is_cut_and_resets_the_machine() {
    for tls in [false, true] {
        let (site, _adit) = Site::with_adit(tls, &[]).await;
        let (mut machine, FarEnd(mut socket)) = site.open_held().await;
        let half = content(4, 500);
        let frame = [&[0x82, 126, 3, 232][..], &half].concat();
        let stream = socket.get_mut();
        stream.write_all(&frame).await.unwrap();
        // In good order, as far as TLS and TCP go.
        stream.shutdown().await.unwrap();
        let (received, end) = all_of(&mut machine).await;
        assert!(received == half, "{} bytes", received.len());
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
        drop(socket);
        let (_, text) = site.event(&site.gateway, 2).await;
        let reason = "closed: the cloud's stream was cut: it ended within a message; ";
        assert!(text.contains(reason), "{text}");
        assert!(text.ends_with(" 500 bytes to the device"), "{text}");
    }
}

#[tokio::test]
async fn takes_tls_that_ends_without_saying_so_for_a_cut() {
    let (site, _adit) = Site::with_adit(true, &[]).await;
    let (mut machine, mut far_end) = site.open_held().await;
    far_end.send("all of it?").await;
    let tcp = SockRef::from(far_end.0.get_ref().tcp());
    tcp.shutdown(Shutdown::Write).unwrap();
    let (received, end) = all_of(&mut machine).await;
    assert_eq!(received, b"all of it?");
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    drop(far_end);
    let (_, text) = site.event(&site.gateway, 2).await;
    assert!(
        text.contains("closed: the cloud's stream was cut: "),
        "{text}"
    );
}

#[tokio::test]
async fn says_that_a_record_of_tls_cannot_be_decrypted() {
    let (site, _adit) = Site::with_adit(true, &[]).await;
    let (mut machine, mut far_end) = site.open_held().await;
    far_end.send("right").await;
    read(&mut machine, b"right", SIP).await;
    let record = [&[0x17, 3, 3, 0, 32][..], &[0x5a; 32]].concat();
    let tcp = far_end.0.get_ref().tcp();
    assert_eq!(tcp.try_write(&record).unwrap(), record.len());
    assert_eq!(
        all_of(&mut machine).await,
        (Vec::new(), Some(ErrorKind::ConnectionReset))
    );
    while let Some(Ok(_)) = timeout(LIMIT, far_end.0.next()).await.unwrap() {}
    drop(far_end);
    let (_, text) = site.event(&site.gateway, 2).await;
    let reason = "closed: a TLS record from the cloud cannot be decrypted: ";
    assert!(text.contains(reason), "{text}");
}

#[tokio::test]
async fn lives_while_the_cloud_takes_something_however_slowly() {
    const PINGS: u32 = 12;
    const KEEP_ALIVE: Duration = Duration::from_millis(400);
    let (site, _adit) = Site::with_adit(false, &["remote_access.keep_alive=400ms"]).await;
    let (mut machine, FarEnd(mut socket)) = site.open_held().await;
    let pouring = tokio::spawn(async move {
        let sent = content(5, 64 << 20);
        write(&mut machine, &sent, &Progress::default()).await;
    });
    // Past the library, which would answer the pings.
    let stream = socket.get_mut();
    let mut sip = [0; 8 << 10];
    let end = tokio::time::Instant::now() + KEEP_ALIVE * PINGS;
    while tokio::time::Instant::now() < end {
        let count = timeout(LIMIT, stream.read(&mut sip))
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "the end");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!pouring.is_finished());
    pouring.abort();
}

#[tokio::test]
async fn is_not_busied_by_empty_frames_and_pings() {
    let (site, adit) = Site::with_adit(true, &[]).await;
    let echo = Lan::echo().await;
    let (_, mut other) = site.open(echo.port).await;
    let (_machine, FarEnd(mut socket)) = site.open_held().await;
    other.echo("before").await;
    let before = adit.peak_memory();
    let (done, mut over) = tokio::sync::oneshot::channel::<()>();
    let flooding = tokio::spawn(async move {
        // Empty frames, pings and pongs, and nobody reads the answers.
        let flood = b"\x82\x00\x89\x02hi\x01\x00\x80\x00\x8a\x00".repeat(8 << 10);
        let stream = socket.get_mut();
        while over.try_recv().is_err() {
            if timeout(PAUSE, stream.write_all(&flood)).await.is_err() {
                break;
            }
        }
        over.close();
        socket
    });
    for _ in 0..200 {
        timeout(LIMIT, other.echo("and back")).await.unwrap();
    }
    drop(done);
    drop(flooding.await.unwrap());
    let grown = adit.peak_memory() - before;
    assert!(grown < 2 << 20, "adit has taken {grown} bytes");
    drop(other.0.send(Message::Ping("".into())).await);
}
