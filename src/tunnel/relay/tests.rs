//! The relay over real sockets: a device on one end, a WebSocket server on the other.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::*;
use crate::net::UnbufferedStream;
use crate::net::tcp::was_asked;

const DEADLINE: Duration = Duration::from_secs(20);
/// Time that nothing in these tests needs.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

type Server = WebSocketStream<TcpStream>;

struct Tunnel {
    device: TcpStream,
    cloud: Server,
    relay: JoinHandle<Ended>,
    traffic: Arc<Traffic>,
    stop: Option<oneshot::Sender<()>>,
}

fn limits() -> Limits {
    Limits {
        keep_alive: LONG,
        drain: DRAIN_LIMIT,
        idle: None,
        max_duration: None,
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("in time")
}

/// Two connected sockets; with a `buffer`, the kernel holds little more than that between them.
async fn pair(buffer: Option<u32>) -> (TcpStream, TcpStream) {
    let socket = || {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(size) = buffer {
            socket.set_recv_buffer_size(size).unwrap();
            socket.set_send_buffer_size(size).unwrap();
        }
        socket
    };
    let listening = socket();
    listening
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .unwrap();
    let listener: TcpListener = listening.listen(1).unwrap();
    let connected = socket()
        .connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    for stream in [&connected, &accepted] {
        stream.set_nodelay(true).unwrap();
    }
    (accepted, connected)
}

fn server_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None)
}

async fn start(limits: Limits, buffer: Option<u32>) -> Tunnel {
    let (device, lan) = pair(buffer).await;
    let (server, client) = pair(buffer).await;
    let cloud = WebSocketStream::from_raw_socket(server, Role::Server, Some(server_config())).await;
    start_between(limits, device, lan, cloud, client).await
}

async fn start_between(
    limits: Limits,
    device: TcpStream,
    lan: TcpStream,
    cloud: Server,
    client: TcpStream,
) -> Tunnel {
    let client = CloudSocket::new(UnbufferedStream::plain(client), Vec::new());
    let traffic = Arc::new(Traffic::default());
    let (stop, stopped) = oneshot::channel();
    let counted = Arc::clone(&traffic);
    let stopped = async move {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let relay =
        tokio::spawn(
            async move { relay(lan, client, &limits, &counted, Span::none(), stopped).await },
        );
    Tunnel {
        device,
        cloud,
        relay,
        traffic,
        stop: Some(stop),
    }
}

impl Tunnel {
    /// What the relay says at its end. Both ends close their sockets first, as they should.
    async fn ended(self) -> Ended {
        drop((self.device, self.cloud));
        within(self.relay).await.unwrap()
    }

    async fn device_sends(&mut self, bytes: &[u8]) {
        within(self.device.write_all(bytes)).await.unwrap();
    }

    async fn device_receives(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within(self.device.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Everything until the end, and how it ended.
    async fn device_receives_all(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let end = within(self.device.read_to_end(&mut bytes)).await;
        (bytes, end.map(|_| ()))
    }

    async fn cloud_sends(&mut self, message: Message) {
        within(self.cloud.send(message)).await.unwrap();
    }

    async fn cloud_receives(&mut self) -> Message {
        within(self.cloud.next()).await.unwrap().unwrap()
    }

    /// Every byte up to a Close frame, and the frame.
    async fn cloud_receives_all(&mut self) -> (Vec<u8>, CloseFrame) {
        let mut bytes = Vec::new();
        loop {
            match self.cloud_receives().await {
                Message::Binary(more) => bytes.extend_from_slice(&more),
                Message::Close(frame) => return (bytes, frame.unwrap()),
                _ => {}
            }
        }
    }

    /// Answers a Close frame, as the library does when it is read on.
    async fn cloud_finishes(&mut self) {
        while within(self.cloud.next()).await.is_some() {}
    }

    async fn device_resets(&mut self) {
        let other = pair(None).await.0;
        reset(mem::replace(&mut self.device, other));
    }
}

/// Closes a socket with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Bytes that repeat nowhere, so that a piece that is lost, doubled or moved is seen.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}

/// `assert_eq` on megabytes prints megabytes.
#[track_caller]
fn same(received: &[u8], sent: &[u8]) {
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "other bytes were received than sent");
}

fn binary(bytes: impl Into<Bytes>) -> Message {
    Message::Binary(bytes.into())
}

fn close(code: CloseCode, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }))
}

#[tokio::test]
async fn carries_every_byte_both_ways_at_once() {
    let Tunnel {
        device,
        cloud,
        relay,
        stop: _stop,
        ..
    } = start(limits(), None).await;
    let (up, down) = (noise(1, 24 << 20), noise(2, 24 << 20));
    let (mut device_in, mut device_out) = device.into_split();
    let (mut cloud_out, mut cloud_in) = cloud.split();

    let sent = up.clone();
    let device_sends = tokio::spawn(async move {
        device_out.write_all(&sent).await.unwrap();
        device_out
    });
    let sent = Bytes::from(down.clone());
    let cloud_sends = tokio::spawn(async move {
        let mut at = 0;
        for size in (1..).map(|n: usize| n * 7919 % 300_000) {
            let end = sent.len().min(at + size);
            cloud_out.send(binary(sent.slice(at..end))).await.unwrap();
            at = end;
            if at == sent.len() {
                return cloud_out;
            }
        }
        unreachable!()
    });
    let length = up.len();
    let cloud_receives = tokio::spawn(async move {
        let mut received = Vec::new();
        while received.len() < length {
            received.extend_from_slice(&cloud_in.next().await.unwrap().unwrap().into_data());
        }
        (received, cloud_in)
    });
    let mut received = vec![0; down.len()];
    within(device_in.read_exact(&mut received)).await.unwrap();
    same(&received, &down);
    let (received, mut cloud_in) = within(cloud_receives).await.unwrap();
    same(&received, &up);
    let mut cloud_out = within(cloud_sends).await.unwrap();
    drop((within(device_sends).await.unwrap(), device_in));
    while within(cloud_in.next()).await.is_some() {}
    let _ = cloud_out.close().await;
    drop((cloud_out, cloud_in));

    let ended = within(relay).await.unwrap();
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    assert_eq!((ended.up, ended.down), (24 << 20, 24 << 20));
}

/// How the cloud divides what it sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// Every frame is a message.
    Messages,
    /// One message of which the end never comes.
    Fragments,
}

/// Who takes what it gets in small pieces, with a pause after each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Slow {
    Nobody,
    Lan,
    Cloud,
}

/// The edges of the three lengths of a frame, of a TLS record and of a read, and what lies far off.
const FRAMES: [usize; 9] = [
    1,
    125,
    126,
    1 << 10,
    65_535,
    65_536,
    16 << 10,
    1 << 20,
    16 << 20,
];
const FRAMES_TO_A_PING: u32 = 64;

/// Sends all in frames of these sizes, over and over, with pings between; returns the last ping.
async fn send_frames(
    sink: &mut (impl SinkExt<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin),
    bytes: &Bytes,
    sizes: &[usize],
    form: Form,
) -> Bytes {
    let mut ping = Bytes::new();
    let mut at = 0;
    for (number, size) in (0_u32..).zip(sizes.iter().cycle()) {
        let end = bytes.len().min(at + size);
        let (kind, last) = match form {
            Form::Messages => (Data::Binary, true),
            Form::Fragments if number == 0 => (Data::Binary, false),
            Form::Fragments => (Data::Continue, false),
        };
        let frame = Frame::message(bytes.slice(at..end), OpCode::Data(kind), last);
        sink.feed(Message::Frame(frame)).await.unwrap();
        at = end;
        if number % FRAMES_TO_A_PING == 0 {
            ping = Bytes::copy_from_slice(&number.to_be_bytes());
            sink.feed(Message::Ping(ping.clone())).await.unwrap();
        }
        if at == bytes.len() {
            break;
        }
    }
    sink.flush().await.unwrap();
    ping
}

/// Sends and receives at once, compares every byte, and ends in good order.
async fn carry(sizes: &[usize], count: usize, form: Form, slow: Slow) {
    const PAUSE: Duration = Duration::from_millis(1);
    const PIECE: usize = 16 << 10;
    let case = format!("{count} bytes in frames of {sizes:?}, {form:?}, slow: {slow:?}");
    let buffer = (slow != Slow::Nobody).then_some(SMALL);
    let tunnel = start(limits(), buffer).await;
    let (up, down) = (Bytes::from(noise(17, count)), Bytes::from(noise(18, count)));
    let (mut device_in, mut device_out) = tunnel.device.into_split();
    let (mut cloud_out, mut cloud_in) = tunnel.cloud.split();
    let largest = *sizes.iter().max().unwrap();

    let device_sends = async {
        for piece in up.chunks(largest) {
            device_out.write_all(piece).await.unwrap();
        }
    };
    let device_receives = async {
        let mut room = vec![0; PIECE * 16];
        let mut received = 0;
        while received < count {
            let piece = if slow == Slow::Lan { PIECE } else { room.len() };
            let read = device_in.read(&mut room[..piece]).await.unwrap();
            let expected = down.get(received..received + read).unwrap();
            assert!(room[..read] == *expected, "{case}: down, at {received}");
            received += read;
            if slow == Slow::Lan {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    let cloud_receives = async {
        let mut received = 0;
        let mut pong = Bytes::new();
        while received < count {
            match cloud_in.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => {
                    let expected = up.get(received..received + bytes.len()).unwrap();
                    assert!(bytes == *expected, "{case}: up, at {received}");
                    received += bytes.len();
                }
                Message::Pong(body) => pong = body,
                other => panic!("{case}: {other:?}"),
            }
            if slow == Slow::Cloud {
                tokio::time::sleep(PAUSE).await;
            }
        }
        pong
    };
    let all = async {
        tokio::join!(
            device_sends,
            device_receives,
            cloud_receives,
            send_frames(&mut cloud_out, &down, sizes, form),
        )
    };
    let ((), (), mut pong, ping) = within(all).await;
    // Only the last of several pings has to be answered (RFC 6455, 5.5.3).
    while pong != ping {
        match within(cloud_in.next()).await.unwrap().unwrap() {
            Message::Pong(body) => pong = body,
            other => panic!("{case}: {other:?}"),
        }
    }
    within(device_out.shutdown()).await.unwrap();
    while within(cloud_in.next()).await.is_some() {}
    drop((cloud_in, cloud_out));
    let end = within(device_in.read(&mut [0])).await;
    assert_eq!(end.unwrap(), 0, "{case}");
    let ended = within(tunnel.relay).await.unwrap();
    assert_eq!(ended.reason, EndReason::ClosedByDevice, "{case}");
    assert_eq!(
        (ended.up, ended.down),
        (count as u64, count as u64),
        "{case}"
    );
}

#[tokio::test]
async fn carries_64_mib_each_way_in_frames_of_every_size() {
    // Each size has its turn until all is sent.
    carry(&FRAMES, 64 << 20, Form::Messages, Slow::Nobody).await;
}

#[tokio::test]
async fn carries_frames_of_any_size_whoever_is_slow() {
    for slow in [Slow::Nobody, Slow::Lan, Slow::Cloud] {
        for size in FRAMES {
            // As many bytes as take well below a second, but never less than a frame.
            let count = match size {
                1 => 128 << 10,
                size => size.max(2 << 20),
            };
            carry(&[size], count, Form::Messages, slow).await;
        }
    }
}

#[tokio::test]
async fn carries_fragments_of_any_size_although_their_message_never_ends() {
    for slow in [Slow::Nobody, Slow::Lan, Slow::Cloud] {
        carry(&FRAMES[..8], 4 << 20, Form::Fragments, slow).await;
        carry(&[1], 64 << 10, Form::Fragments, slow).await;
    }
}

#[tokio::test]
async fn sends_a_keystroke_as_one_frame_at_once() {
    let mut tunnel = start(limits(), None).await;
    for key in [b"l", b"s", b"\r"] {
        tunnel.device_sends(key).await;
        assert_eq!(tunnel.cloud_receives().await, binary(key.to_vec()));
        tunnel.cloud_sends(binary(key.to_vec())).await;
        assert_eq!(tunnel.device_receives(1).await, key);
    }
    assert_eq!(tunnel.traffic.up.load(Ordering::Relaxed), 3);
    assert_eq!(tunnel.traffic.down.load(Ordering::Relaxed), 3);
}

/// What the kernel may hold between two sockets of [`pair`], three hops of it, and the relay.
const SMALL: u32 = 32 << 10;
const HELD: u64 = 1 << 20;

/// Sends as a Telnet server does that drops what it was about to say (RFC 854, SYNCH): the mark is
/// urgent, and the kernel ends a read before it. Returns what was sent, when all has arrived.
async fn synch(device: &mut TcpStream, before: &[u8], behind: &[u8]) -> Vec<u8> {
    const INTERRUPT: u8 = 255;
    const DATA_MARK: u8 = 242;
    let before = [before, &[INTERRUPT]].concat();
    within(device.write_all(&before)).await.unwrap();
    let sent = SockRef::from(&*device).send_out_of_band(&[DATA_MARK]);
    assert_eq!(sent.unwrap(), 1);
    within(device.write_all(behind)).await.unwrap();
    within(async {
        while device.held(Instant::now()) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    [&before[..], &[DATA_MARK], behind].concat()
}

#[tokio::test]
async fn carries_what_lies_behind_an_urgent_byte_without_waiting_for_more() {
    // What fills the room of a read, and some of what does not.
    for behind in [1, room::LAN_READ - 1, room::LAN_READ, room::LAN_READ + 1] {
        let (mut device, lan) = pair(None).await;
        let (server, client) = pair(None).await;
        let cloud =
            WebSocketStream::from_raw_socket(server, Role::Server, Some(server_config())).await;
        SockRef::from(&lan).set_out_of_band_inline(true).unwrap();
        let sent = synch(&mut device, b"a", &noise(16, behind)).await;
        let mut tunnel = start_between(limits(), device, lan, cloud, client).await;
        let mut received = Vec::new();
        while received.len() < sent.len() {
            received.extend_from_slice(&tunnel.cloud_receives().await.into_data());
        }
        same(&received, &sent);
        // It is still woken for what comes then.
        tunnel.device_sends(b"key").await;
        assert_eq!(tunnel.cloud_receives().await, binary("key"));
    }
}

#[tokio::test]
async fn waits_for_a_slow_cloud_and_goes_on_the_other_way() {
    let mut tunnel = start(limits(), Some(SMALL)).await;
    let sent = noise(3, 8 << 20);
    let (mut device_in, mut device_out) = tunnel.device.into_split();
    let to_send = sent.clone();
    let sending = tokio::spawn(async move {
        device_out.write_all(&to_send).await.unwrap();
        device_out
    });
    // The cloud sends and does not read; the pings ask for pongs that have no room.
    for n in 0..2000_u32 {
        let mut piece = [0; 1 << 10];
        piece[..4].copy_from_slice(&n.to_be_bytes());
        within(tunnel.cloud.send(binary(piece.to_vec())))
            .await
            .unwrap();
        within(tunnel.cloud.send(Message::Ping(Bytes::new())))
            .await
            .unwrap();
        let mut received = [0; 1 << 10];
        within(device_in.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, piece);
    }
    assert!(tunnel.traffic.up.load(Ordering::Relaxed) < HELD);
    assert!(!sending.is_finished());

    let mut received = Vec::new();
    while received.len() < sent.len() {
        match within(tunnel.cloud.next()).await.unwrap().unwrap() {
            Message::Binary(bytes) => received.extend_from_slice(&bytes),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
    same(&received, &sent);
}

#[tokio::test]
async fn waits_for_a_slow_device_and_goes_on_the_other_way() {
    let mut tunnel = start(limits(), Some(SMALL)).await;
    let sent = noise(4, 8 << 20);
    let (mut cloud_out, mut cloud_in) = tunnel.cloud.split();
    let to_send = Bytes::from(sent.clone());
    let sending = tokio::spawn(async move {
        for at in (0..to_send.len()).step_by(64 << 10) {
            let piece = to_send.slice(at..at + (64 << 10));
            cloud_out.send(binary(piece)).await.unwrap();
        }
        cloud_out
    });
    for n in 0..2000_u32 {
        within(tunnel.device.write_all(&n.to_be_bytes()))
            .await
            .unwrap();
        let message = within(cloud_in.next()).await.unwrap().unwrap();
        assert_eq!(message, binary(n.to_be_bytes().to_vec()));
    }
    assert!(tunnel.traffic.down.load(Ordering::Relaxed) < HELD);
    assert!(!sending.is_finished());

    let mut received = vec![0; sent.len()];
    within(tunnel.device.read_exact(&mut received))
        .await
        .unwrap();
    same(&received, &sent);
}

#[tokio::test]
async fn keeps_what_came_before_it_began() {
    let (mut device, lan) = pair(None).await;
    let (server, client) = pair(None).await;
    let mut cloud = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    device.write_all(b"SSH-2.0-banner\r\n").await.unwrap();
    device.shutdown().await.unwrap();
    cloud.send(binary("early")).await.unwrap();
    let mut tunnel = start_between(limits(), device, lan, cloud, client).await;

    let (received, frame) = tunnel.cloud_receives_all().await;
    assert_eq!(received, b"SSH-2.0-banner\r\n");
    assert_eq!(frame.code, CloseCode::Normal);
    tunnel.cloud_finishes().await;
    let (received, end) = tunnel.device_receives_all().await;
    assert_eq!(received, b"early");
    end.unwrap();
}

#[tokio::test]
async fn delivers_to_the_device_until_the_cloud_has_answered_the_close() {
    let tunnel = start(limits(), None).await;
    let up = noise(5, 4 << 20);
    let down = noise(6, 4 << 20);
    let Tunnel {
        device,
        mut cloud,
        relay,
        stop: _stop,
        ..
    } = tunnel;
    let (mut device_in, mut device_out) = device.into_split();
    let to_send = up.clone();
    let sending = tokio::spawn(async move {
        device_out.write_all(&to_send).await.unwrap();
        device_out.shutdown().await.unwrap();
        device_out
    });
    let receiving = tokio::spawn(async move {
        let mut received = Vec::new();
        device_in.read_to_end(&mut received).await.unwrap();
        received
    });
    let mut received = Vec::new();
    while received.len() < up.len() {
        received.extend_from_slice(&within(cloud.next()).await.unwrap().unwrap().into_data());
    }
    same(&received, &up);
    // The device has ended, but the Close frame is not read yet: the cloud still has its say.
    for piece in down.chunks(100_000) {
        within(cloud.send(binary(piece.to_vec()))).await.unwrap();
    }
    match within(cloud.next()).await.unwrap().unwrap() {
        Message::Close(Some(frame)) => {
            assert_eq!(frame.code, CloseCode::Normal);
            assert_eq!(frame.reason.as_str(), "closed by the device");
        }
        other => panic!("{other:?}"),
    }
    while within(cloud.next()).await.is_some() {}
    drop(cloud);
    same(&within(receiving).await.unwrap(), &down);
    within(sending).await.unwrap();
    let ended = within(relay).await.unwrap();
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    assert_eq!((ended.up, ended.down), (4 << 20, 4 << 20));
    assert!(ended.lasted < DRAIN_LIMIT, "waited for nothing");
}

/// The device has sent what nobody will read; closing its socket now would be a reset.
#[tokio::test]
async fn delivers_to_the_device_all_that_the_cloud_sent_before_it_ended() {
    for clean in [true, false] {
        let mut tunnel = start(limits(), None).await;
        let sent = noise(7, 2 << 20);
        for piece in sent.chunks(50_000) {
            tunnel.cloud_sends(binary(piece.to_vec())).await;
        }
        if clean {
            within(tunnel.cloud.close(None)).await.unwrap();
        } else {
            within(tunnel.cloud.get_mut().shutdown()).await.unwrap();
        }
        tunnel.device_sends(&noise(8, 10_000)).await;
        // The end has arrived when the relay says no more; only now does the device read.
        let (received, end) = tunnel.device_receives_all().await;
        end.unwrap();
        same(&received, &sent);
        tunnel.device_sends(b"still there").await;
        within(tunnel.device.shutdown()).await.unwrap();
        if clean {
            tunnel.cloud_finishes().await;
        } else {
            // It may also have received frames; what counts is that its end comes without a reset.
            let mut rest = Vec::new();
            within(tunnel.cloud.get_mut().read_to_end(&mut rest))
                .await
                .unwrap();
        }
        let ended = tunnel.ended().await;
        let reason = match clean {
            true => EndReason::ClosedByCloud,
            false => EndReason::LeftByCloud,
        };
        assert_eq!(ended.reason, reason);
        assert_eq!(ended.down, 2 << 20);
        assert!(ended.lasted < DRAIN_LIMIT);
    }
}

/// Closing a socket with unread bytes in it would be a reset that erases the last message.
#[tokio::test]
async fn delivers_the_last_message_to_a_device_whose_bytes_nobody_reads_any_more() {
    let (device, lan) = pair(Some(SMALL)).await;
    let (server, client) = pair(Some(SMALL)).await;
    // More than the device has room for waits here, and a reset would throw it away.
    SockRef::from(&lan).set_send_buffer_size(1 << 20).unwrap();
    let cloud = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let mut tunnel = start_between(limits(), device, lan, cloud, client).await;
    let piece = [0; 4 << 10];
    while let Ok(written) = timeout(SHORT * 10, tunnel.device.write(&piece)).await {
        written.unwrap();
    }
    let sent = noise(16, 150_000);
    for piece in sent.chunks(10_000) {
        tunnel.cloud_sends(binary(piece.to_vec())).await;
    }
    within(tunnel.cloud.close(None)).await.unwrap();
    // The cloud's end has arrived when adit reads on, and so makes room.
    within(tunnel.device.writable()).await.unwrap();
    let (received, end) = tunnel.device_receives_all().await;
    end.unwrap();
    same(&received, &sent);
    within(tunnel.device.shutdown()).await.unwrap();
    tunnel.cloud_finishes().await;
    assert_eq!(tunnel.ended().await.reason, EndReason::ClosedByCloud);
}

/// The kernel's table of sockets has thousands of lines on a busy machine.
#[tokio::test]
async fn asks_the_kernel_what_it_holds_only_where_the_end_is_a_cut() {
    for (by_device, by_cloud) in [(true, false), (false, true), (true, true)] {
        let mut tunnel = start(limits(), None).await;
        tunnel.device_sends(b"up").await;
        assert_eq!(tunnel.cloud_receives().await, binary("up"));
        tunnel.cloud_sends(binary("down")).await;
        assert_eq!(tunnel.device_receives(4).await, b"down");
        if by_device {
            within(tunnel.device.shutdown()).await.unwrap();
        }
        if by_cloud {
            within(tunnel.cloud.close(None)).await.unwrap();
        }
        tunnel.cloud_finishes().await;
        tunnel.device_receives_all().await.1.unwrap();
        within(tunnel.device.shutdown()).await.unwrap();
        tunnel.ended().await;
        assert!(!was_asked(), "{by_device}, {by_cloud}");
    }
    let mut tunnel = start(limits(), None).await;
    let raw = tunnel.cloud.get_mut();
    within(raw.write_all(b"\x82\x05half")).await.unwrap();
    within(raw.shutdown()).await.unwrap();
    assert_eq!(tunnel.device_receives(4).await, b"half");
    tunnel.device_receives_all().await.1.unwrap_err();
    assert!(was_asked());
}

/// Many servers take the end of the stream for the end of everything.
#[tokio::test]
async fn does_not_end_the_stream_before_the_cloud_has_answered_the_close() {
    let mut tunnel = start(limits(), None).await;
    within(tunnel.device.shutdown()).await.unwrap();
    let raw = tunnel.cloud.get_mut();
    let mut frame = [0; 2 + 4 + 2 + "closed by the device".len()];
    within(raw.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame[0], 0x88, "a Close frame");
    raw.write_all(b"\x82\x04more").await.unwrap();
    assert_eq!(tunnel.device_receives(4).await, b"more");
    let more = tunnel.cloud.get_mut().try_read(&mut frame);
    assert_eq!(more.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn repeats_the_reason_of_a_cloud_in_trouble() {
    let mut tunnel = start(limits(), None).await;
    tunnel
        .cloud_sends(close(CloseCode::Error, "operator lost"))
        .await;
    tunnel.cloud_finishes().await;
    within(tunnel.device.shutdown()).await.unwrap();
    assert_eq!(
        tunnel.ended().await.reason.to_string(),
        "closed by the cloud with code 1011: operator lost"
    );
}

#[tokio::test]
async fn tells_the_cloud_of_a_reset_by_the_device_after_its_last_bytes() {
    let mut tunnel = start(limits(), None).await;
    tunnel.device_sends(b"last words").await;
    assert_eq!(tunnel.cloud_receives().await, binary("last words"));
    tunnel.device_resets().await;
    let (_, frame) = tunnel.cloud_receives_all().await;
    assert_eq!(frame.code, CloseCode::Error);
    assert_eq!(
        frame.reason.as_str(),
        "reset by the device: connection reset by peer"
    );
    tunnel.cloud_finishes().await;
    assert_eq!(
        tunnel.ended().await.reason,
        EndReason::ResetByDevice("connection reset by peer".into())
    );
}

/// A write to a device that has gone fails while its last bytes are still to be read.
#[tokio::test]
async fn carries_what_the_device_sent_before_it_took_no_more() {
    let mut tunnel = start(limits(), Some(SMALL)).await;
    let sent = noise(9, 1 << 20);
    // The cloud does not read, so that this waits in the sockets.
    let mut accepted = 0;
    while let Ok(written) = timeout(SHORT * 10, tunnel.device.write(&sent[accepted..])).await {
        accepted += written.unwrap();
    }
    assert!(accepted < sent.len());
    // Unread bytes on the device's side make its close a reset.
    tunnel.cloud_sends(binary("unread")).await;
    within(tunnel.device.peek(&mut [0])).await.unwrap();
    within(tunnel.device.shutdown()).await.unwrap();
    tunnel.device = pair(None).await.0;
    tunnel.cloud_sends(binary("too late")).await;
    let (received, _) = tunnel.cloud_receives_all().await;
    assert!(sent.starts_with(&received));
    assert!(
        received.len() as u64 >= tunnel.traffic.up.load(Ordering::Relaxed),
        "lost what had been carried"
    );
}

#[tokio::test]
async fn resets_the_device_after_a_reset_by_the_cloud() {
    let mut tunnel = start(limits(), None).await;
    tunnel.cloud_sends(binary("last words")).await;
    assert_eq!(tunnel.device_receives(10).await, b"last words");
    let other = WebSocketStream::from_raw_socket(pair(None).await.0, Role::Server, None).await;
    reset(mem::replace(&mut tunnel.cloud, other).into_inner());
    let (rest, end) = tunnel.device_receives_all().await;
    assert!(rest.is_empty());
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(
        tunnel.ended().await.reason,
        EndReason::ResetByCloud("connection reset by peer".into())
    );
}

/// The cloud says its last words and closes at once; what the device sends then meets a reset,
/// and so does the answer to the ping.
#[tokio::test]
async fn delivers_the_last_messages_of_a_cloud_that_takes_no_more() {
    let (mut device, lan) = pair(None).await;
    let (server, client) = pair(None).await;
    let mut cloud = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    // More than one read, and each with a ping that is answered in vain.
    let sent = noise(10, 30_000);
    cloud.send(Message::Ping(Bytes::new())).await.unwrap();
    for piece in sent.chunks(1000) {
        cloud.send(binary(piece.to_vec())).await.unwrap();
        cloud.send(Message::Ping(Bytes::new())).await.unwrap();
    }
    cloud.close(None).await.unwrap();
    // What is left in the socket that the cloud closes would be lost before it reaches adit.
    let all = 30 * (2 + 4 + 1000) + 2 + 2;
    let mut arrived = vec![0; all];
    within(async {
        while client.peek(&mut arrived).await.unwrap() < all {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(cloud);
    device.write_all(b"nobody reads this").await.unwrap();
    let spare = WebSocketStream::from_raw_socket(pair(None).await.0, Role::Server, None).await;
    let mut tunnel = start_between(limits(), device, lan, spare, client).await;
    let (received, end) = tunnel.device_receives_all().await;
    end.unwrap();
    same(&received, &sent);
    within(tunnel.device.shutdown()).await.unwrap();
    assert_eq!(tunnel.ended().await.reason, EndReason::ClosedByCloud);
}

#[tokio::test]
async fn takes_text_empty_and_fragmented_messages_as_bytes() {
    let mut tunnel = start(limits(), None).await;
    let fragment = |bytes: &'static str, kind, last| {
        Message::Frame(Frame::message(bytes, OpCode::Data(kind), last))
    };
    for message in [
        binary(""),
        Message::text("täxt"),
        Message::text(""),
        fragment("one ", Data::Binary, false),
        Message::Ping(Bytes::new()),
        fragment("", Data::Continue, false),
        fragment("two", Data::Continue, true),
        binary("end"),
    ] {
        tunnel.cloud_sends(message).await;
    }
    within(tunnel.cloud.close(None)).await.unwrap();
    let (received, end) = tunnel.device_receives_all().await;
    end.unwrap();
    assert_eq!(received, "täxtone twoend".as_bytes());
}

#[tokio::test]
async fn takes_a_message_of_any_size_as_it_comes() {
    const SIZE: usize = 40 << 20;
    let mut tunnel = start(limits(), None).await;
    let sent = noise(11, SIZE);
    let (begin, rest) = sent.split_at(1000);
    let header = [&[0x82, 127][..], &(SIZE as u64).to_be_bytes()].concat();
    let raw = tunnel.cloud.get_mut();
    within(raw.write_all(&[&header, begin].concat()))
        .await
        .unwrap();
    same(&tunnel.device_receives(1000).await, begin);
    let mut cloud = tunnel.cloud;
    let to_send = rest.to_vec();
    let sending = tokio::spawn(async move {
        cloud.get_mut().write_all(&to_send).await.unwrap();
        cloud
    });
    let mut received = vec![0; rest.len()];
    within(tunnel.device.read_exact(&mut received))
        .await
        .unwrap();
    same(&received, rest);
    drop(within(sending).await.unwrap());
}

#[tokio::test]
async fn says_what_is_wrong_with_a_frame_and_resets_the_device() {
    let no_start = [0x80, 1, b'x'];
    let masked = [0x82, 0x81, 0, 0, 0, 0, b'x'];
    let reason_not_text = [0x88, 4, 3, 232, 0xff, 0xfe];
    for (frame, code, reason) in [
        (
            &no_start[..],
            CloseCode::Protocol,
            "the cloud broke the protocol: Continue frame but nothing to continue",
        ),
        (
            &masked,
            CloseCode::Protocol,
            "the cloud broke the protocol: Received a masked frame from server",
        ),
        (
            &reason_not_text,
            CloseCode::Invalid,
            "the cloud broke the protocol: Close frame with a reason that is not UTF-8",
        ),
    ] {
        let mut tunnel = start(limits(), None).await;
        // What came before is delivered, what comes after is not.
        let bytes = [b"\x82\x05right", frame, b"\x82\x05wrong"].concat();
        within(tunnel.cloud.get_mut().write_all(&bytes))
            .await
            .unwrap();
        let (received, frame) = tunnel.cloud_receives_all().await;
        assert!(received.is_empty());
        assert_eq!(frame.code, code);
        assert_eq!(frame.reason.as_str(), reason);
        assert_eq!(tunnel.device_receives(5).await, b"right");
        let (rest, end) = tunnel.device_receives_all().await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(rest.is_empty());
        tunnel.cloud_finishes().await;
        assert_eq!(tunnel.ended().await.reason.to_string(), reason);
    }
}

#[tokio::test]
async fn answers_pings_while_nothing_else_moves() {
    let mut tunnel = start(limits(), None).await;
    for n in 0..3_u8 {
        tunnel.cloud_sends(Message::Ping(vec![n].into())).await;
        assert_eq!(tunnel.cloud_receives().await, Message::Pong(vec![n].into()));
    }
}

/// The ping is the last thing read before a message that the device does not take.
#[tokio::test]
async fn answers_a_ping_although_the_device_takes_nothing() {
    let mut tunnel = start(limits(), Some(SMALL)).await;
    let (mut cloud_out, mut cloud_in) = tunnel.cloud.split();
    let sending = tokio::spawn(async move {
        cloud_out.send(Message::Ping("a".into())).await.unwrap();
        cloud_out.send(binary(vec![0; 4 << 20])).await.unwrap();
    });
    let pong = within(cloud_in.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("a".into()));
    let mut all = vec![0; 4 << 20];
    within(tunnel.device.read_exact(&mut all)).await.unwrap();
    within(sending).await.unwrap();
}

#[tokio::test]
async fn pings_and_lives_while_it_is_answered() {
    let mut tunnel = start(
        Limits {
            keep_alive: SHORT,
            ..limits()
        },
        None,
    )
    .await;
    // Reading the server's side also answers.
    for _ in 0..6 {
        assert_eq!(tunnel.cloud_receives().await, Message::Ping(Bytes::new()));
    }
    assert!(!tunnel.relay.is_finished());
}

#[tokio::test]
async fn sends_no_ping_where_none_is_wanted() {
    let mut tunnel = start(
        Limits {
            keep_alive: Duration::ZERO,
            idle: Some(SHORT * 4),
            ..limits()
        },
        None,
    )
    .await;
    let mut frames = Vec::new();
    within(tunnel.cloud.get_mut().read_to_end(&mut frames))
        .await
        .unwrap();
    assert_eq!(frames[0], 0x88, "a Close frame and nothing before it");
}

#[tokio::test]
async fn ends_when_the_cloud_is_silent() {
    let mut tunnel = start(
        Limits {
            keep_alive: SHORT,
            ..limits()
        },
        None,
    )
    .await;
    let (received, end) = tunnel.device_receives_all().await;
    assert!(received.is_empty());
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // Unanswered, as the library would answer.
    let mut frames = Vec::new();
    within(tunnel.cloud.get_mut().read_to_end(&mut frames))
        .await
        .unwrap();
    let kinds = [frames[0], frames[6], frames[12]];
    assert_eq!(kinds, [0x89, 0x89, 0x88], "two pings and a Close frame");
    let ended = tunnel.ended().await;
    assert_eq!(ended.reason, EndReason::CloudSilent(SHORT * 2));
    assert!(ended.lasted >= SHORT * 3 && ended.lasted < DRAIN_LIMIT);
}

#[tokio::test]
async fn ends_when_the_cloud_is_silent_and_takes_nothing() {
    let mut tunnel = start(
        Limits {
            keep_alive: SHORT,
            drain: SHORT,
            ..limits()
        },
        Some(SMALL),
    )
    .await;
    let sent = noise(12, 8 << 20);
    let end = within(tunnel.device.write_all(&sent)).await;
    assert!(end.is_err());
    let reason = tunnel.ended().await.reason.to_string();
    assert!(
        reason.starts_with("the cloud did not answer 2 pings; "),
        "{reason}"
    );
}

/// A message that takes longer than the pings allow is a sign of life with every byte.
#[tokio::test]
async fn lives_while_a_large_message_trickles_in() {
    let mut tunnel = start(
        Limits {
            keep_alive: SHORT,
            ..limits()
        },
        None,
    )
    .await;
    let raw = tunnel.cloud.get_mut();
    raw.write_all(&[0x82, 100]).await.unwrap();
    // The clock of this test: pings keep coming, and none is answered.
    for n in 0..100_u8 {
        let raw = tunnel.cloud.get_mut();
        raw.write_all(&[n]).await.unwrap();
        if n < 8 {
            let mut ping = [0; 6];
            within(raw.read_exact(&mut ping)).await.unwrap();
            assert_eq!(ping[0], 0x89);
        }
    }
    assert_eq!(
        tunnel.device_receives(100).await,
        (0..100).collect::<Vec<u8>>()
    );
}

#[tokio::test]
async fn waits_for_a_device_that_pauses_longer_than_the_pings() {
    let mut tunnel = start(
        Limits {
            keep_alive: SHORT,
            ..limits()
        },
        Some(SMALL),
    )
    .await;
    let (mut cloud_out, mut cloud_in) = tunnel.cloud.split();
    let sent = noise(13, 4 << 20);
    let message = binary(sent.clone());
    let sending = tokio::spawn(async move {
        cloud_out.send(message).await.unwrap();
        cloud_out
    });
    // Pings arrive, are answered by the library, and adit reads none of the answers.
    for _ in 0..8 {
        let message = within(cloud_in.next()).await.unwrap().unwrap();
        assert_eq!(message, Message::Ping(Bytes::new()));
    }
    let mut received = vec![0; sent.len()];
    within(tunnel.device.read_exact(&mut received))
        .await
        .unwrap();
    same(&received, &sent);
    drop(within(sending).await.unwrap());
}

#[tokio::test]
async fn delivers_what_is_under_way_when_it_is_stopped() {
    let (mut device, lan) = pair(None).await;
    let (server, client) = pair(None).await;
    let mut cloud =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(server_config())).await;
    let (up, down) = (noise(14, 200_000), noise(15, 200_000));
    // All of this is in the sockets when the relay begins, and it begins stopped.
    device.write_all(&up).await.unwrap();
    cloud.send(binary(down.clone())).await.unwrap();
    let client = CloudSocket::new(UnbufferedStream::plain(client), Vec::new());
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    let relay = tokio::spawn(async move {
        let stop = std::future::ready(());
        relay(lan, client, &limits(), &counted, Span::none(), stop).await
    });
    let mut tunnel = Tunnel {
        device,
        cloud,
        relay,
        traffic,
        stop: None,
    };
    let (received, frame) = tunnel.cloud_receives_all().await;
    same(&received, &up);
    assert_eq!(frame.code, CloseCode::Away);
    assert_eq!(frame.reason.as_str(), "adit is stopping");
    tunnel.cloud_finishes().await;
    let (received, end) = tunnel.device_receives_all().await;
    end.unwrap();
    same(&received, &down);
    within(tunnel.device.shutdown()).await.unwrap();
    let ended = tunnel.ended().await;
    assert_eq!(ended.reason, EndReason::Stopped);
    assert!(ended.lasted < DRAIN_LIMIT);
}

#[tokio::test]
async fn delivers_nothing_more_to_a_machine_that_is_denied() {
    let (mut device, lan) = pair(None).await;
    let (server, client) = pair(None).await;
    let mut cloud =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(server_config())).await;
    // As above, all of this is in the sockets when the relay begins.
    device.write_all(b"up").await.unwrap();
    cloud.send(binary("down")).await.unwrap();
    let client = CloudSocket::new(UnbufferedStream::plain(client), Vec::new());
    let reason = EndReason::Denied("the policy denies plc-7:22".to_owned());
    let stop = std::future::ready(reason.clone());
    let relay = tokio::spawn(async move {
        let traffic = Traffic::default();
        relay(lan, client, &limits(), &traffic, Span::none(), stop).await
    });
    let closed = within(cloud.next()).await.unwrap().unwrap();
    let denied = close(CloseCode::Policy, "the policy denies plc-7:22");
    assert_eq!(closed, denied);
    while within(cloud.next()).await.is_some() {}
    drop(cloud);
    let ended = within(relay).await.unwrap();
    assert_eq!((ended.reason, ended.up, ended.down), (reason, 0, 0));
    let end = within(device.read(&mut [0])).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_while_a_device_never_stops_sending() {
    let mut tunnel = start(
        Limits {
            drain: SHORT * 10,
            ..limits()
        },
        None,
    )
    .await;
    let (_device_in, mut device_out) = tunnel.device.into_split();
    let flood =
        tokio::spawn(async move { while device_out.write_all(&[0; 64 << 10]).await.is_ok() {} });
    assert!(matches!(
        within(tunnel.cloud.next()).await,
        Some(Ok(Message::Binary(_)))
    ));
    tunnel.stop.take().unwrap().send(()).unwrap();
    let frame = loop {
        match within(tunnel.cloud.next()).await.unwrap().unwrap() {
            Message::Close(frame) => break frame.unwrap(),
            Message::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(frame.code, CloseCode::Away);
    while within(tunnel.cloud.next()).await.is_some() {}
    assert_eq!(
        within(tunnel.relay).await.unwrap().reason,
        EndReason::Stopped
    );
    within(flood).await.unwrap();
}

#[tokio::test]
async fn ends_in_time_although_the_cloud_does_not_answer_the_close() {
    let mut tunnel = start(
        Limits {
            drain: SHORT,
            ..limits()
        },
        None,
    )
    .await;
    within(tunnel.device.shutdown()).await.unwrap();
    let (_, end) = tunnel.device_receives_all().await;
    end.unwrap();
    let Tunnel { cloud, relay, .. } = tunnel;
    let ended = within(relay).await.unwrap();
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    assert!(ended.lasted >= SHORT && ended.lasted < DRAIN_LIMIT);
    drop(cloud);
}

/// Half a message must not look like a whole one.
#[tokio::test]
async fn resets_a_device_that_does_not_take_the_last_message_in_time() {
    let mut tunnel = start(
        Limits {
            // The kernel tries a window that is almost full after 200 ms, and the other end may
            // wait 40 ms before it confirms what that brought. Only then do both count the same.
            drain: SHORT * 10,
            ..limits()
        },
        Some(SMALL),
    )
    .await;
    let (mut cloud_out, mut cloud_in) = tunnel.cloud.split();
    let sending = tokio::spawn(async move {
        let _ = cloud_out.send(binary(vec![0; 4 << 20])).await;
        cloud_out
    });
    // Not `readable`, which may be wrong.
    within(tunnel.device.peek(&mut [0])).await.unwrap();
    tunnel.stop.take().unwrap().send(()).unwrap();
    while !matches!(
        within(cloud_in.next()).await,
        Some(Ok(Message::Close(_))) | None
    ) {}
    let ended = within(tunnel.relay).await.unwrap();
    let mut received = Vec::new();
    let end = within(tunnel.device.read_to_end(&mut received)).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // Neither more nor less than what the device has.
    assert_eq!(ended.down, received.len() as u64);
    let EndReason::Incomplete {
        reason,
        up: 0,
        down,
    } = ended.reason
    else {
        panic!("{:?}", ended.reason);
    };
    assert_eq!(*reason, EndReason::Stopped);
    assert!(down > 0);
    drop(within(sending).await.unwrap());
}

#[tokio::test]
async fn ends_a_tunnel_that_is_idle_or_too_old() {
    let mut idle = limits();
    idle.idle = Some(SHORT);
    let mut old = limits();
    old.max_duration = Some(SHORT);
    for (limits, reason) in [
        (idle, "idle for 50ms"),
        (old, "open for 50ms, the longest allowed"),
    ] {
        let mut tunnel = start(limits, None).await;
        let (_, frame) = tunnel.cloud_receives_all().await;
        assert_eq!(frame.code, CloseCode::Normal);
        assert_eq!(frame.reason.as_str(), reason);
        tunnel.cloud_finishes().await;
        let (_, end) = tunnel.device_receives_all().await;
        end.unwrap();
        within(tunnel.device.shutdown()).await.unwrap();
        let ended = tunnel.ended().await;
        assert_eq!(ended.reason.to_string(), reason);
        assert!(ended.lasted >= SHORT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_in_time_though_the_cloud_goes_on_when_a_tunnel_is_idle_or_too_old() {
    let drain = SHORT * 10;
    let idle = Limits {
        idle: Some(SHORT),
        drain,
        ..limits()
    };
    let old = Limits {
        max_duration: Some(SHORT),
        drain,
        ..limits()
    };
    for (limits, reason) in [(idle, "idle for 50ms"), (old, "open for 50ms")] {
        let Tunnel {
            mut device,
            mut cloud,
            relay,
            traffic,
            ..
        } = start(limits, Some(SMALL)).await;
        within(async {
            while !traffic.is_ending.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // It does not look at the Close frame, and the machine takes all that comes.
        let flood =
            tokio::spawn(
                async move { while cloud.send(binary(vec![0; 64 << 10])).await.is_ok() {} },
            );
        let taking =
            tokio::spawn(async move { tokio::io::copy(&mut device, &mut tokio::io::sink()).await });
        let ended = within(relay).await.unwrap();
        let said = ended.reason.to_string();
        assert!(said.starts_with(reason), "{said}");
        within(flood).await.unwrap();
        let _ = within(taking).await.unwrap();
    }
}

#[tokio::test]
async fn is_not_idle_while_bytes_go_either_way() {
    let limit = SHORT * 4;
    let idle = Limits {
        idle: Some(limit),
        ..limits()
    };
    const TRIES: usize = 50;
    // A machine that is busy may itself be idle for so long; then a try says nothing.
    'again: for _ in 0..TRIES {
        let mut tunnel = start(idle.clone(), None).await;
        let began = Instant::now();
        while began.elapsed() < limit * 3 {
            let sent = Instant::now();
            tunnel.device_sends(b"x").await;
            let there = tunnel.cloud_receives().await;
            if sent.elapsed() >= limit / 2 {
                continue 'again;
            }
            assert_eq!(there, binary("x"));
            tunnel.cloud_sends(binary("y")).await;
            assert_eq!(tunnel.device_receives(1).await, b"y");
        }
        assert!(!tunnel.relay.is_finished());
        return;
    }
    panic!("too busy to be tested here");
}

#[tokio::test]
async fn ends_once_when_both_sides_end_together() {
    for _ in 0..20 {
        let mut tunnel = start(limits(), None).await;
        let (device, cloud) = tokio::join!(tunnel.device.shutdown(), tunnel.cloud.close(None));
        device.unwrap();
        cloud.unwrap();
        tunnel.cloud_finishes().await;
        let (_, end) = tunnel.device_receives_all().await;
        end.unwrap();
        let ended = tunnel.ended().await;
        assert!(matches!(
            ended.reason,
            EndReason::ClosedByDevice | EndReason::ClosedByCloud
        ));
        assert!(ended.lasted < DRAIN_LIMIT);
    }
}

#[tokio::test]
async fn goes_on_in_another_task() {
    let (mut device, lan) = pair(None).await;
    let (server, client) = pair(None).await;
    let mut cloud =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(server_config())).await;
    let client = CloudSocket::new(UnbufferedStream::plain(client), Vec::new());
    let mut tunnel = Box::pin(async move {
        let (traffic, stop) = (Traffic::default(), std::future::pending::<()>());
        relay(lan, client, &limits(), &traffic, Span::none(), stop).await
    });
    // Long enough that the first alarm has rung, after which all are asked again anyway.
    assert!(timeout(SHORT, &mut tunnel).await.is_err());
    let tunnel = tokio::spawn(tunnel);
    tokio::task::yield_now().await;
    device.write_all(b"key").await.unwrap();
    let key = within(cloud.next()).await.unwrap().unwrap();
    assert_eq!(key.into_data(), b"key"[..]);
    cloud.send(binary(b"echo".to_vec())).await.unwrap();
    let mut echo = [0; 4];
    within(device.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"echo");
    tunnel.abort();
}
