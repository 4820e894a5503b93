//! How tunnels end: with everything delivered where an end is an end, and with the reason.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use futures_util::future::join;
use futures_util::{SinkExt, StreamExt};
use simulated_cloud::{DeviceSocket, Misbehaviour, reset};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::transfer::{Progress, content, read, read_to_end, send, write};
use crate::support::{FarEnd, LIMIT, Lan, Site};

const MIB: usize = 1 << 20;
/// More than the kernel keeps for a connection, so that the end comes while bytes are on the way.
const LAST_WORDS: usize = 8 * MIB;
const MESSAGE: usize = 64 << 10;

/// Waits for the `n`th event and holds the reason of a Closed event against `reason`.
async fn assert_closed(site: &Site, n: usize, reason: &str) {
    let (kind, text) = site.event(&site.gateway, n).await;
    assert_eq!(kind, "c8y_RemoteAccessClosed", "{text}");
    assert!(text.contains(&format!("closed: {reason}; ")), "{text}");
}

async fn assert_reset(machine: &mut TcpStream) {
    let end = async {
        let mut buffer = vec![0; MESSAGE];
        while machine.read(&mut buffer).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let error = timeout(LIMIT, end).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn delivers_what_a_machine_sent_before_it_left() {
    for tls in [false, true] {
        let (site, _adit) = Site::with_adit(tls, &[]).await;
        let (mut machine, mut far_end) = site.open_held().await;
        let sent = content(1, LAST_WORDS);
        let leaves = async {
            write(&mut machine, &sent, &Progress::default()).await;
            drop(machine);
        };
        let ((), (received, frame)) = join(leaves, far_end.rest()).await;
        assert!(received == sent, "{} bytes", received.len());
        assert_eq!(u16::from(frame.unwrap().code), 1000);
        assert_closed(&site, 2, "closed by the device").await;
    }
}

#[tokio::test]
async fn delivers_what_the_cloud_sent_before_it_left() {
    #[derive(Clone, Copy, Debug)]
    enum Leave {
        Close,
        /// The stream is ended in good order, and no Close says so.
        End,
        /// TCP ends.
        Fin,
    }
    let sent = content(2, LAST_WORDS);
    /// What nobody wants any more must not become a reset that eats what was sent.
    const CHATTER: usize = 24 * MIB;
    for (tls, leave, chatter) in [
        (false, Leave::Close, 0),
        (false, Leave::Close, CHATTER),
        (false, Leave::Fin, 0),
        (false, Leave::Fin, CHATTER),
        (true, Leave::Close, 0),
        (true, Leave::End, 0),
        (true, Leave::End, CHATTER),
    ] {
        let (site, _adit) = Site::with_adit(tls, &[]).await;
        let (mut machine, FarEnd(mut socket)) = site.open_held().await;
        let leaves = async {
            send(&mut socket, &sent, MESSAGE, &Progress::default()).await;
            match leave {
                Leave::Close => socket.close(None).await.unwrap(),
                Leave::End => socket.get_mut().shutdown().await.unwrap(),
                Leave::Fin => {
                    let tcp = SockRef::from(socket.get_ref().tcp());
                    tcp.shutdown(Shutdown::Write).unwrap();
                }
            }
        };
        let (mut machine_in, mut machine_out) = machine.split();
        let chatter = vec![0; chatter];
        let talks = Progress::default();
        let all = async {
            tokio::join!(
                write(&mut machine_out, &chatter, &talks),
                leaves,
                read_to_end(&mut machine_in, &sent),
            )
        };
        assert!(timeout(LIMIT, all).await.is_ok(), "{tls} {leave:?}");
        drop(machine);
        while let Some(Ok(_)) = timeout(LIMIT, socket.next())
            .await
            .expect("the end in time")
        {}
        drop(socket);
        let reason = match leave {
            Leave::Close => "closed by the cloud",
            Leave::End | Leave::Fin => "closed by the cloud without a Close frame",
        };
        assert_closed(&site, 2, reason).await;
    }
}

/// Reads adit's Close frame past the library, which would answer it.
async fn raw_close(socket: &mut DeviceSocket) {
    const HEADER: usize = 2;
    const MASK: usize = 4;
    let stream = socket.get_mut();
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[0], 0x88, "not a Close frame");
    let mut rest = vec![0; MASK + usize::from(header[1] & 0x7f)];
    stream.read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn delivers_what_the_cloud_sends_until_it_answers_the_close() {
    const ANSWER: [u8; 4] = [0x88, 2, 0x03, 0xe8];
    for tls in [false, true] {
        let (site, _adit) = Site::with_adit(tls, &[]).await;
        let (mut machine, FarEnd(mut socket)) = site.open_held().await;
        machine.shutdown().await.unwrap();
        timeout(LIMIT, raw_close(&mut socket)).await.unwrap();
        let late = content(3, MIB);
        let answers = async {
            for part in late.chunks(MESSAGE - 1) {
                let length = u16::try_from(part.len()).unwrap();
                let mut frame = vec![0x82, 126];
                frame.extend(length.to_be_bytes());
                frame.extend(part);
                socket.get_mut().write_all(&frame).await.unwrap();
            }
            socket.get_mut().write_all(&ANSWER).await.unwrap();
            socket.get_mut().flush().await.unwrap();
            assert_eq!(socket.get_mut().read(&mut [0]).await.unwrap(), 0);
        };
        let both = join(answers, read_to_end(&mut machine, &late));
        timeout(LIMIT, both).await.expect("in time");
        drop((machine, socket));
        assert_closed(&site, 2, "closed by the device").await;
    }
}

#[tokio::test]
async fn tells_the_cloud_that_a_machine_has_reset() {
    let (site, _adit) = Site::with_adit(false, &[]).await;
    let (mut machine, mut far_end) = site.open_held().await;
    machine.write_all(b"hello").await.unwrap();
    far_end.expect("hello").await;
    SockRef::from(&machine)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(machine);
    let (_, frame) = far_end.rest().await;
    let frame = frame.unwrap();
    let reason = "reset by the device: connection reset by peer";
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1011, reason)
    );
    assert_closed(&site, 2, reason).await;
}

#[tokio::test]
async fn resets_a_machine_when_the_cloud_has_reset() {
    for tls in [false, true] {
        let (site, _adit) = Site::with_adit(tls, &[]).await;
        let (mut machine, mut far_end) = site.open_held().await;
        far_end.send("hello").await;
        read(&mut machine, b"hello", MESSAGE).await;
        reset(far_end.0).unwrap();
        assert_reset(&mut machine).await;
        assert_closed(&site, 2, "reset by the cloud: connection reset by peer").await;
    }
}

#[tokio::test]
async fn waits_for_a_machine_that_pauses_longer_than_the_cloud_may() {
    /// Two that are missed end a tunnel.
    const PINGS: usize = 6;
    const BULK: usize = 64 * MIB;
    let (site, _adit) = Site::with_adit(false, &["remote_access.keep_alive=400ms"]).await;
    let bulk = content(4, BULK);
    let (mut machine, FarEnd(socket)) = site.open_held().await;
    // The kernel lets a buffer grow to 32 MiB where it sees fit, and then holds back nobody.
    SockRef::from(&machine)
        .set_recv_buffer_size(MESSAGE)
        .unwrap();
    let sent = Progress::default();
    let (mut sink, mut stream) = socket.split();
    let waits = async {
        let (mut before, mut pings) = (0, 0);
        // Each ping after which nothing has moved is one that adit cannot see answered.
        while pings < PINGS {
            let message = timeout(LIMIT, stream.next()).await.expect("a ping in time");
            assert!(matches!(message, Some(Ok(Message::Ping(_)))), "{message:?}");
            pings = if sent.bytes() == before { pings + 1 } else { 0 };
            before = sent.bytes();
        }
        assert!(before < BULK, "nobody held the cloud back");
        read(&mut machine, &bulk, MESSAGE).await;
    };
    join(send(&mut sink, &bulk, MESSAGE, &sent), waits).await;
    machine.write_all(b"awake").await.unwrap();
    let mut far_end = FarEnd(sink.reunite(stream).unwrap());
    far_end.expect("awake").await;
    far_end.close().await;
    drop(machine);
    assert_closed(&site, 2, "closed by the cloud").await;
}

#[tokio::test]
async fn ends_a_tunnel_to_a_cloud_that_is_silent() {
    const BULK: usize = 64 * MIB;
    const SILENT: &str =
        "the cloud did not answer 2 pings; it neither took nor sent anything for 300ms";
    let (site, _adit) = Site::with_adit(false, &["remote_access.keep_alive=150ms"]).await;
    // A machine that waits, and one whose bytes nobody takes.
    let (mut waits, _silent) = site.open_held().await;
    assert_reset(&mut waits).await;
    assert_closed(&site, 2, SILENT).await;
    let bulk = content(5, BULK);
    let (mut sends, _silent) = site.open_held().await;
    let poured = async {
        let error = sends.write_all(&bulk).await.unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "{error}"
        );
    };
    timeout(LIMIT, poured).await.expect("in time");
    let (_, text) = site.event(&site.gateway, 4).await;
    assert!(!text.contains(" 0 bytes to the cloud"), "{text}");
    assert!(text.contains(SILENT), "{text}");
}

/// What the cloud does to a tunnel whose machine then waits for nothing.
#[derive(Clone, Copy, Debug)]
enum CloudFault {
    /// A Close frame that tells of trouble.
    Close,
    Fin,
    Reset,
    /// A frame that is masked, and no answer to the Close frame.
    Violation,
    /// It takes nothing any more.
    Silence,
}

#[tokio::test]
async fn has_room_for_the_next_tunnel_as_soon_as_the_cloud_fails_the_last() {
    const LIMITS: [&str; 3] = [
        "remote_access.max_tunnels=1",
        "remote_access.keep_alive=150ms",
        "remote_access.connect_timeout=700ms",
    ];
    let (site, _adit) = Site::with_adit(false, &LIMITS).await;
    let echo = Lan::echo().await;
    for misbehaviour in [
        Misbehaviour::status(500),
        Misbehaviour::NeverAnswer,
        Misbehaviour::Garbage,
        Misbehaviour::ResetAtAccept,
    ] {
        site.cloud.misbehave(misbehaviour);
        let failing = site.request("127.0.0.1", echo.port);
        site.failed(failing.operation).await;
        site.cloud.misbehave(None);
        let (_, far_end) = site.open(echo.port).await;
        far_end.close().await;
    }
    for fault in [
        CloudFault::Close,
        CloudFault::Fin,
        CloudFault::Reset,
        CloudFault::Violation,
        CloudFault::Silence,
    ] {
        let (mut machine, FarEnd(mut socket)) = site.open_held().await;
        match fault {
            CloudFault::Close => {
                let frame = CloseFrame {
                    code: CloseCode::Error,
                    reason: "".into(),
                };
                socket.close(Some(frame)).await.unwrap();
            }
            CloudFault::Fin => socket.get_mut().shutdown().await.unwrap(),
            CloudFault::Reset => socket.get_ref().tcp().set_zero_linger().unwrap(),
            CloudFault::Violation => {
                let frame = b"\x82\x81mask!";
                socket.get_mut().write_all(frame).await.unwrap();
            }
            CloudFault::Silence => {
                // More than the kernel takes.
                let bulk = vec![0; 64 * MIB];
                let poured = timeout(LIMIT, machine.write_all(&bulk)).await;
                assert!(poured.expect("in time").is_err());
            }
        }
        let held = match fault {
            CloudFault::Reset => {
                drop(socket);
                None
            }
            _ => Some(socket),
        };
        // The machine learns of the end, and does nothing of its own.
        let mut end = [0];
        let told = timeout(LIMIT, machine.read(&mut end)).await.unwrap();
        assert!(matches!(told, Ok(0) | Err(_)), "{fault:?}");
        let (_, far_end) = site.open(echo.port).await;
        drop((held, machine));
        far_end.close().await;
    }
}

#[tokio::test]
async fn ends_a_tunnel_at_its_limits_and_says_which() {
    for (setting, reason) in [
        ("remote_access.idle_timeout=1s", "idle for 1s"),
        (
            "remote_access.max_duration=1s",
            "open for 1s, the longest allowed",
        ),
    ] {
        let (site, _adit) = Site::with_adit(false, &[setting]).await;
        let (mut machine, mut far_end) = site.open_held().await;
        far_end.send("hello").await;
        read(&mut machine, b"hello", MESSAGE).await;
        let (_, frame) = far_end.rest().await;
        let frame = frame.unwrap();
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (1000, reason)
        );
        read_to_end(&mut machine, b"").await;
        drop(machine);
        assert_closed(&site, 2, reason).await;
    }
}

#[tokio::test]
async fn ends_a_busy_tunnel_only_at_the_longest_duration() {
    let limits = [
        "remote_access.idle_timeout=1s",
        "remote_access.max_duration=3s",
    ];
    let (site, _adit) = Site::with_adit(false, &limits).await;
    let lan = Lan::echo().await;
    let (_, FarEnd(mut socket)) = site.open(lan.port).await;
    socket.send(Message::binary("round")).await.unwrap();
    // As fast as it goes, so that a machine under load does not make it idle.
    let frame = loop {
        match timeout(LIMIT, socket.next()).await.expect("in time") {
            Some(Ok(message @ Message::Binary(_))) => drop(socket.send(message).await),
            Some(Ok(Message::Close(frame))) => break frame,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(frame.unwrap().code), 1000);
    while let Some(Ok(_)) = socket.next().await {}
    drop((socket, lan));
    assert_closed(&site, 2, "open for 3s, the longest allowed").await;
}
