//! What stands between the fault machine and the broker: it ends the TLS of MQTT, and records every
//! packet that got through as a whole, in the order in which that happened.
//!
//! A packet for adit got through when its kernel was given the last byte, of the last record of TLS
//! that has some of it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::{Codec, Packet};
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::codec::Decoder;

use crate::judge::{BY_ADIT, Seen, Way, What};

/// Packets of this size do not come.
const PACKET_LIMIT: usize = 1 << 20;
/// Bytes that are read at once.
const READ_SIZE: usize = 16 << 10;
/// How soon a packet that adit was given is recorded where adit says nothing in answer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The record of all connections.
pub(crate) struct Recorder {
    broker: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    /// Nothing goes on to the broker.
    holds: watch::Sender<bool>,
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    life: usize,
    connections: usize,
    record: Vec<Seen>,
}

impl Recorder {
    pub(crate) fn new(broker: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            broker,
            tls,
            holds: watch::Sender::new(false),
            state: Mutex::default(),
            changes: watch::Sender::new(()),
        }
    }

    /// Says that whoever connects from now on is another adit.
    pub(crate) fn next_life(&self) {
        self.state.lock().unwrap().life += 1;
    }

    /// Which adit it is.
    pub(crate) fn life(&self) -> usize {
        self.state.lock().unwrap().life
    }

    /// Lets nothing go on to the broker, or again.
    pub(crate) fn hold(&self, holds: bool) {
        self.holds.send_replace(holds);
    }

    /// Shows the record, which may be cut short.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Vec<Seen>) -> T) -> T {
        look(&mut self.state.lock().unwrap().record)
    }

    /// Waits until `look` finds something in the record. `None`: not within the limit.
    pub(crate) async fn wait_until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[Seen]) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.changes.subscribe();
        let found = async {
            loop {
                if let Some(found) = self.look(|record| look(record)) {
                    return Some(found);
                }
                changes.changed().await.ok()?;
            }
        };
        timeout(limit, found).await.ok().flatten()
    }

    /// Carries a connection to the broker; `delivered` counts the bytes that adit was given.
    pub(crate) async fn record(&self, near: DuplexStream, delivered: Arc<AtomicU64>) {
        let Ok(broker) = TcpStream::connect(self.broker).await else {
            return;
        };
        drop(broker.set_nodelay(true));
        let (number, life) = {
            let mut state = self.state.lock().unwrap();
            state.connections += 1;
            (state.connections, state.life)
        };
        let tls = self
            .tls
            .clone()
            .map(|config| ServerConnection::new(config).unwrap());
        let connection = Connection {
            recorder: self,
            number,
            life,
            near,
            broker,
            tls,
            delivered,
            sealed: 0,
            underway: VecDeque::new(),
            unread: [BytesMut::new(), BytesMut::new()],
        };
        connection.carry().await;
    }
}

struct Connection<'a> {
    recorder: &'a Recorder,
    number: usize,
    life: usize,
    near: DuplexStream,
    broker: TcpStream,
    tls: Option<ServerConnection>,
    delivered: Arc<AtomicU64>,
    /// Bytes for adit so far.
    sealed: u64,
    /// Packets for adit, each with the count of bytes after which it has come.
    underway: VecDeque<(u64, Packet)>,
    /// What is no whole packet yet.
    unread: [BytesMut; 2],
}

impl Connection<'_> {
    async fn carry(mut self) {
        let mut holds = self.recorder.holds.subscribe();
        let (mut up, mut down) = ([0; READ_SIZE], [0; READ_SIZE]);
        let how = loop {
            let held = *holds.borrow_and_update();
            let done = tokio::select! {
                _ = holds.changed() => Ok(true),
                read = self.near.read(&mut up), if !held => match read {
                    Ok(read @ 1..) => self.carry_up(&up[..read]).await,
                    _ => break "by adit or on the way",
                },
                read = self.broker.read(&mut down) => match read {
                    Ok(read @ 1..) => self.carry_down(&down[..read]).await,
                    _ => break "by the broker",
                },
                () = sleep(LOOK_AGAIN), if !self.underway.is_empty() => Ok(true),
            };
            self.note_arrivals();
            match done {
                Ok(true) => {}
                Ok(false) => break BY_ADIT,
                Err(_) => break "by a fault of TLS or MQTT",
            }
        };
        self.say_goodbye().await;
        self.note(What::Ended(how));
    }

    /// Returns whether more can come.
    async fn carry_up(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        // What made adit say this has come.
        self.note_arrivals();
        let mut plain = Vec::new();
        let mut is_open = true;
        match &mut self.tls {
            None => plain.extend_from_slice(bytes),
            Some(tls) => {
                while !bytes.is_empty() {
                    tls.read_tls(&mut bytes)?;
                    let state = tls.process_new_packets().map_err(io::Error::other)?;
                    let mut part = vec![0; state.plaintext_bytes_to_read()];
                    tls.reader().read_exact(&mut part)?;
                    plain.extend(part);
                    is_open &= !state.peer_has_closed();
                }
            }
        }
        self.send_to_adit().await?;
        // What came before the broker was gone is nobody's any more.
        self.broker.write_all(&plain).await?;
        self.unread[Way::Up as usize].extend_from_slice(&plain);
        for packet in self.packets(Way::Up)? {
            self.note(What::Packet(Way::Up, packet));
        }
        Ok(is_open)
    }

    async fn carry_down(&mut self, bytes: &[u8]) -> io::Result<bool> {
        match &mut self.tls {
            None => {
                self.sealed += bytes.len() as u64;
                self.near.write_all(bytes).await?;
            }
            Some(tls) => {
                tls.writer().write_all(bytes)?;
                self.send_to_adit().await?;
            }
        }
        self.unread[Way::Down as usize].extend_from_slice(bytes);
        for packet in self.packets(Way::Down)? {
            self.underway.push_back((self.sealed, packet));
        }
        Ok(true)
    }

    /// Sends what TLS has for adit.
    async fn send_to_adit(&mut self) -> io::Result<()> {
        let mut sealed = Vec::new();
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut sealed)?;
            }
        }
        self.sealed += sealed.len() as u64;
        self.near.write_all(&sealed).await
    }

    fn packets(&mut self, way: Way) -> io::Result<Vec<Packet>> {
        let mut codec = Codec {
            max_incoming_size: PACKET_LIMIT,
            max_outgoing_size: PACKET_LIMIT,
        };
        let mut packets = Vec::new();
        while let Some(packet) = codec
            .decode(&mut self.unread[way as usize])
            .map_err(io::Error::other)?
        {
            packets.push(packet);
        }
        Ok(packets)
    }

    async fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        drop(self.send_to_adit().await);
        drop(self.near.shutdown().await);
        // Until the way to adit has ended.
        let mut rest = [0; READ_SIZE];
        loop {
            let read = tokio::select! {
                read = self.near.read(&mut rest) => read.unwrap_or(0),
                () = sleep(LOOK_AGAIN) => 1,
            };
            self.note_arrivals();
            if read == 0 {
                return;
            }
        }
    }

    fn note_arrivals(&mut self) {
        let delivered = self.delivered.load(Ordering::Relaxed);
        while self
            .underway
            .front()
            .is_some_and(|(end, _)| *end <= delivered)
        {
            if let Some((_, packet)) = self.underway.pop_front() {
                self.note(What::Packet(Way::Down, packet));
            }
        }
    }

    fn note(&self, what: What) {
        let seen = Seen::new(Instant::now(), self.number, self.life, what);
        self.recorder.state.lock().unwrap().record.push(seen);
        self.recorder.changes.send_replace(());
    }
}
