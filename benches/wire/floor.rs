//! The floor: the least that a relay in one thread can do with rustls, in a process of its own.
//!
//! It polls two blocking sockets, reads up to 64 KiB, uses rustls without its buffers, gathers what
//! the frames of a read carry with one copy, and writes it at once; the other way it masks where the
//! bytes were read and sends one frame. It checks nothing, keeps no count, knows no timer and no
//! policy, and carries one tunnel at a time. Each tunnel has a full TLS handshake.

use std::io::{BufRead, Read, Write, stdin};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore};

use crate::frames::{LONGEST_HEAD, Unframer, mask, write_head};

/// Bytes of one read.
const READ: usize = 64 << 10;
/// More than a whole TLS record, of which a read may bring the beginning.
const RECORD: usize = 17 << 10;

/// Carries the tunnels that standard input names, a line each: cloud's port, machine's port, key.
pub(crate) fn run(authority_file: &str) {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(authority_file).unwrap();
    roots.add(authority).unwrap();
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    for line in stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let (Some(Ok(cloud)), Some(Ok(machine)), Some(key)) = (
            words.next().map(str::parse),
            words.next().map(str::parse),
            words.next(),
        ) else {
            panic!("the floor wants CLOUD-PORT MACHINE-PORT KEY, not {line:?}");
        };
        let lan = connect(machine);
        Floor::open(connect(cloud), &config, key).carry(lan);
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Whether more may come from the cloud.
#[derive(PartialEq)]
enum Flow {
    Goes,
    Ended,
}

struct Floor {
    cloud: TcpStream,
    tls: UnbufferedClientConnection,
    /// What was read; the first `filled` bytes are no whole record yet.
    incoming: Vec<u8>,
    filled: usize,
    outgoing: Vec<u8>,
    /// Frames that came together with the answer to the upgrade.
    early: Vec<u8>,
}

impl Floor {
    /// Speaks TLS and upgrades the connection.
    fn open(cloud: TcpStream, config: &Arc<ClientConfig>, key: &str) -> Self {
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST.into()));
        let mut floor = Self {
            cloud,
            tls: UnbufferedClientConnection::new(config.clone(), name).unwrap(),
            incoming: vec![0; READ + RECORD],
            filled: 0,
            outgoing: vec![0; 2 * READ],
            early: Vec::new(),
        };
        floor.greet();
        let request = format!(
            "GET /service/remoteaccess/device/{key} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: binary\r\n\r\n"
        );
        floor.send(request.as_bytes());
        let mut answer = Vec::new();
        let end = loop {
            assert!(floor.fill(), "the cloud does not answer");
            floor.receive(|plain| answer.extend_from_slice(plain));
            if let Some(at) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
        };
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        floor.early = answer.split_off(end);
        floor
    }

    fn greet(&mut self) {
        let mut written = 0;
        loop {
            let UnbufferedStatus { discard, state } = self
                .tls
                .process_tls_records(&mut self.incoming[..self.filled]);
            let mut blocked = false;
            match state.unwrap() {
                ConnectionState::EncodeTlsData(mut data) => {
                    written += data.encode(&mut self.outgoing[written..]).unwrap();
                }
                ConnectionState::TransmitTlsData(data) => {
                    self.cloud.write_all(&self.outgoing[..written]).unwrap();
                    written = 0;
                    data.done();
                }
                ConnectionState::BlockedHandshake => blocked = true,
                ConnectionState::WriteTraffic(_) => return self.discard(discard),
                other => panic!("no part of a handshake: {other:?}"),
            }
            self.discard(discard);
            if blocked {
                assert!(self.fill(), "the cloud has broken the handshake off");
            }
        }
    }

    fn carry(mut self, mut lan: TcpStream) {
        let mut unframer = Unframer::default();
        let mut payload = Vec::with_capacity(READ + RECORD);
        unframer.feed(&self.early, &mut payload);
        let _ = lan.write_all(&payload);
        let mut frame = vec![0; LONGEST_HEAD + READ];
        let mut head = Vec::with_capacity(LONGEST_HEAD);
        loop {
            let mut sources = [
                PollFd::new(&self.cloud, PollFlags::IN),
                PollFd::new(&lan, PollFlags::IN),
            ];
            poll(&mut sources, None).unwrap();
            let [from_cloud, from_lan] = sources.map(|source| !source.revents().is_empty());
            if from_cloud {
                if !self.fill() {
                    return;
                }
                payload.clear();
                let flow = self.receive(|plain| unframer.feed(plain, &mut payload));
                if lan.write_all(&payload).is_err() || flow == Flow::Ended || unframer.is_closed() {
                    return self.end();
                }
            }
            if from_lan {
                let Ok(length @ 1..) = lan.read(&mut frame[LONGEST_HEAD..]) else {
                    return;
                };
                let key = fastrand::u32(..).to_ne_bytes();
                mask(&mut frame[LONGEST_HEAD..][..length], key);
                head.clear();
                write_head(&mut head, length, Some(key));
                let start = LONGEST_HEAD - head.len();
                frame[start..LONGEST_HEAD].copy_from_slice(&head);
                if !self.send(&frame[start..LONGEST_HEAD + length]) {
                    return;
                }
            }
        }
    }

    /// Answers a Close frame, and ends TLS.
    fn end(mut self) {
        let key = fastrand::u32(..).to_ne_bytes();
        let [a, b, c, d] = key;
        let mut code = 1000_u16.to_be_bytes();
        mask(&mut code, key);
        let answer = [0x88, 0x82, a, b, c, d, code[0], code[1]];
        if self.send(&answer)
            && let status = self.tls.process_tls_records(&mut [])
            && let ConnectionState::WriteTraffic(mut traffic) = status.state.unwrap()
        {
            let length = traffic.queue_close_notify(&mut self.outgoing).unwrap();
            let _ = self.cloud.write_all(&self.outgoing[..length]);
        }
    }

    /// Reads once; false where nothing more comes.
    fn fill(&mut self) -> bool {
        let count = self
            .cloud
            .read(&mut self.incoming[self.filled..])
            .unwrap_or(0);
        self.filled += count;
        count > 0
    }

    /// Decrypts what was read.
    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> Flow {
        let mut used = 0;
        let flow = loop {
            let UnbufferedStatus { mut discard, state } = self
                .tls
                .process_tls_records(&mut self.incoming[used..self.filled]);
            let flow = match state.unwrap() {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.unwrap();
                        discard += record.discard;
                        take(record.payload);
                    }
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(Flow::Goes),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(Flow::Ended),
                other => panic!("nothing that follows a handshake: {other:?}"),
            };
            used += discard;
            if let Some(flow) = flow {
                break flow;
            }
        };
        self.discard(used);
        flow
    }

    /// Encrypts and writes; false where nobody takes it.
    fn send(&mut self, plain: &[u8]) -> bool {
        let status = self.tls.process_tls_records(&mut []);
        let ConnectionState::WriteTraffic(mut traffic) = status.state.unwrap() else {
            return false;
        };
        let length = traffic.encrypt(plain, &mut self.outgoing).unwrap();
        self.cloud.write_all(&self.outgoing[..length]).is_ok()
    }

    fn discard(&mut self, count: usize) {
        self.incoming.copy_within(count..self.filled, 0);
        self.filled -= count;
    }
}
