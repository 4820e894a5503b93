//! The relay over TLS to a server in memory, with so little room between the two that hardly a record
//! comes or goes in one piece, or so much that many come at once.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex, split,
};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::net::UnbufferedStream;

const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes between the relay and the others: less than a record, and more than all reads.
const LITTLE: usize = 1000;
const MUCH: usize = 1 << 20;
const AMOUNT: usize = 300_000;
/// More than a record, and no multiple of one.
const FRAME: usize = 50_000;

/// A connection in memory, and whether its close is a reset.
struct Line(DuplexStream, Rc<Cell<bool>>);

impl Socket for Line {
    fn held(&self, _: Instant) -> u64 {
        0
    }

    fn read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        self.1.set(true);
        Ok(())
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

type Server = TlsStream<DuplexStream>;

fn configurations() -> (ClientConfig, ServerConfig) {
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let made = rcgen::generate_simple_self_signed(["cloud.lan".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (client, server)
}

/// How a tunnel goes and went.
struct Tunnel {
    /// See [`LITTLE`].
    room: usize,
    keep_alive: Duration,
    resets_device: Rc<Cell<bool>>,
}

impl Tunnel {
    fn new(room: usize) -> Self {
        Self {
            room,
            keep_alive: Duration::ZERO,
            resets_device: Rc::default(),
        }
    }

    /// Carries between `device` and `cloud`, which are handed the other ends; returns how it ended.
    async fn carry(
        &self,
        device: impl AsyncFnOnce(DuplexStream),
        cloud: impl AsyncFnOnce(Server),
    ) -> Ended {
        let (client, server) = configurations();
        let (near, far) = duplex(self.room);
        let near = Line(near, Rc::default());
        let name = ServerName::try_from("cloud.lan").unwrap();
        let (near, far) = tokio::join!(
            UnbufferedStream::encrypt(near, Arc::new(client), name),
            TlsAcceptor::from(Arc::new(server)).accept(far),
        );
        let socket = CloudSocket::new(near.unwrap(), Vec::new());
        let (lan, far_device) = duplex(self.room);
        let lan = Line(lan, Rc::clone(&self.resets_device));
        let limits = Limits {
            keep_alive: self.keep_alive,
            drain: DRAIN_LIMIT,
            idle: None,
            max_duration: None,
        };
        let traffic = Traffic::default();
        let never = std::future::pending::<()>();
        let relay = relay(lan, socket, &limits, &traffic, Span::none(), never);
        let all = async { tokio::join!(relay, device(far_device), cloud(far.unwrap())).0 };
        timeout(DEADLINE, all).await.expect("in time")
    }
}

fn noise(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; AMOUNT];
    random.fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn carries_every_byte_both_ways_in_parts_of_records_and_ends_tls() {
    for room in [LITTLE, MUCH] {
        carries_every_byte_both_ways_and_ends_tls(room).await;
    }
}

async fn carries_every_byte_both_ways_and_ends_tls(room: usize) {
    let device = async |device: DuplexStream| {
        let (mut reader, mut writer) = split(device);
        let (up, mut down) = (noise(1), vec![0; AMOUNT]);
        let (sent, received) = tokio::join!(writer.write_all(&up), reader.read_exact(&mut down));
        sent.unwrap();
        received.unwrap();
        assert!(down == noise(2), "other bytes than the cloud has sent");
        writer.shutdown().await.unwrap();
        assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
    };
    let cloud = async |server: Server| {
        let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let (mut sink, mut stream) = socket.split();
        let sending = async {
            for part in noise(2).chunks(FRAME) {
                sink.send(Message::Binary(part.to_vec().into()))
                    .await
                    .unwrap();
            }
        };
        let receiving = async {
            let mut received = Vec::new();
            while let Message::Binary(bytes) = stream.next().await.unwrap().unwrap() {
                received.extend_from_slice(&bytes);
            }
            received
        };
        let ((), received) = tokio::join!(sending, receiving);
        assert!(received == noise(1), "other bytes than the device has sent");
        let mut socket = sink.reunite(stream).unwrap();
        socket.flush().await.unwrap();
        // The answer to the Close frame is out; an end of TLS is told from one of the stream.
        let left = socket.get_mut().read_to_end(&mut Vec::new()).await;
        assert_eq!(left.unwrap(), 0, "TLS was ended in order");
        socket.get_mut().shutdown().await.unwrap();
    };
    let ended = Tunnel::new(room).carry(device, cloud).await;
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    assert_eq!((ended.up, ended.down), (AMOUNT as u64, AMOUNT as u64));
}

/// What the relay says where a server ends with these bytes behind a message, with or without an end
/// of TLS.
async fn ended_by(bytes: &[u8], ends_tls: bool) -> EndReason {
    let device = async |mut device: DuplexStream| {
        let mut received = Vec::new();
        let _ = device.read_to_end(&mut received).await;
        assert_eq!(received, b"hello");
    };
    let cloud = async |mut server: Server| {
        server.write_all(b"\x82\x05hello").await.unwrap();
        server.flush().await.unwrap();
        if ends_tls {
            server.shutdown().await.unwrap();
        }
        let mut raw = server.into_inner().0;
        raw.write_all(bytes).await.unwrap();
        let _ = raw.shutdown().await;
        let _ = raw.read_to_end(&mut Vec::new()).await;
    };
    Tunnel::new(LITTLE).carry(device, cloud).await.reason
}

#[tokio::test]
async fn tells_an_end_of_tls_from_a_cut_and_from_what_nobody_can_decrypt() {
    let forged = [&b"\x17\x03\x03\x00\x20"[..], &[7; 32]].concat();
    assert_eq!(ended_by(b"", true).await, EndReason::LeftByCloud);
    let cut = EndReason::CutByCloud(Cut::WithinTls);
    assert_eq!(ended_by(b"", false).await, cut);
    assert_eq!(ended_by(&forged[..20], false).await, cut);
    let undecipherable = EndReason::BrokenByCloud(Violation::Undecipherable);
    assert_eq!(ended_by(&forged, false).await, undecipherable);
}

#[tokio::test(start_paused = true)]
async fn lives_while_the_cloud_answers_pings() {
    let tunnel = Tunnel {
        keep_alive: Duration::from_secs(5),
        ..Tunnel::new(LITTLE)
    };
    let device = async |mut device: DuplexStream| {
        device.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let cloud = async |server: Server| {
        let mut socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        for _ in 0..6 {
            let ping = socket.next().await.unwrap().unwrap();
            assert_eq!(ping, Message::Ping(Vec::new().into()));
            socket.flush().await.unwrap();
        }
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
        let _ = socket.get_mut().shutdown().await;
    };
    let ended = tunnel.carry(device, cloud).await;
    assert_eq!(ended.reason, EndReason::ClosedByCloud);
}

/// Servers that were told the end may leave it at that.
#[tokio::test]
async fn does_not_reset_a_device_that_has_ended_where_the_cloud_then_ends_without_a_word() {
    let device = async |mut device: DuplexStream| {
        device.shutdown().await.unwrap();
        device.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let cloud = async |mut server: Server| {
        let mut closing = [0];
        server.read_exact(&mut closing).await.unwrap();
        assert_eq!(closing, [0x88], "a Close frame");
        server.into_inner().0.shutdown().await.unwrap();
    };
    let tunnel = Tunnel::new(LITTLE);
    let ended = tunnel.carry(device, cloud).await;
    assert_eq!(ended.reason, EndReason::ClosedByDevice);
    assert!(!tunnel.resets_device.get());
}
