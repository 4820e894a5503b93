//! The broker's sockets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use rumqttc::Codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Decoder, Encoder};

use super::{Action, BY_CLOSE, BY_RESET, Broker, CONNECT_LIMIT};
use crate::cloud::frames::{Decoder as Frames, Item, Kind, frame};
use crate::cloud::{opening, read_head};
use crate::judge::{self, BY_ADIT};
use crate::network::{Network, Socket, Zone};
use crate::places::BROKER;

/// Packets of this size do not come.
const PACKET_LIMIT: usize = 1 << 20;
const REFUSAL: &[u8] = b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n";
/// Bytes that are read at once.
const READ_SIZE: usize = 4096;

/// The broker, and whoever has to look at it again.
#[derive(Clone)]
pub(crate) struct Shared {
    broker: Arc<Mutex<Broker>>,
    changed: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(broker: Broker) -> Self {
        Self {
            broker: Arc::new(Mutex::new(broker)),
            changed: Arc::default(),
        }
    }

    /// Does something with the broker, and lets all connections look what follows for them.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Broker, std::time::Instant) -> T) -> T {
        let done = work(&mut self.lock(), Instant::now().into_std());
        self.changed.notify_waiters();
        done
    }

    fn next_deadline(&self, number: usize) -> Option<std::time::Instant> {
        self.lock().next_deadline(number)
    }

    fn lock(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes connections for ever; `life` tells which adit connects.
pub(crate) async fn serve(
    network: Network,
    shared: Shared,
    life: impl Fn() -> usize,
    over_websocket: bool,
) {
    loop {
        let listener = network.listen(Zone::Broker, BROKER);
        loop {
            let changed = shared.changed.notified();
            if shared.lock().down_until().is_some() {
                break;
            }
            tokio::select! {
                socket = listener.accept() => {
                    let number = shared.with(|broker, now| {
                        broker.accepted(Some(socket.connection()), life(), now)
                    });
                    let (of, with) = (network.clone(), shared.clone());
                    network.spawn(connection(of, with, socket, number, over_websocket));
                }
                () = changed => {}
            }
        }
        drop(listener);
        let until = shared.lock().down_until();
        if let Some(until) = until {
            sleep_until(until.into()).await;
        }
        shared.lock().is_back();
    }
}

async fn connection(
    network: Network,
    shared: Shared,
    mut socket: Socket,
    number: usize,
    over_websocket: bool,
) {
    let wire = match over_websocket {
        true => upgrade(&network, &shared, &mut socket, number).await,
        false => Ok(Wire::Bytes),
    };
    let how = match wire {
        Ok(wire) => converse(&network, &shared, &mut socket, number, wire).await,
        Err(how) => how,
    };
    shared.with(|broker, now| broker.ended(number, how, now));
    note(&network, &shared);
}

/// In what MQTT comes.
enum Wire {
    Bytes,
    /// In binary messages, one a packet.
    WebSocket(Frames),
}

impl Wire {
    /// Takes what was read; what adit has sent of MQTT goes into `incoming`.
    fn feed(&mut self, read: &[u8], incoming: &mut BytesMut) -> Result<(), &'static str> {
        let frames = match self {
            Self::Bytes => {
                incoming.extend_from_slice(read);
                return Ok(());
            }
            Self::WebSocket(frames) => frames,
        };
        for item in frames.feed(read) {
            match item {
                Item::Data(bytes) => incoming.extend_from_slice(&bytes),
                Item::Close(_) => return Err("by a Close of adit"),
                Item::Ping(_) | Item::Pong | Item::Nonsense => {
                    return Err("by what no client says to a broker");
                }
            }
        }
        Ok(())
    }

    fn write(&self, packet: &[u8], outgoing: &mut BytesMut) {
        match self {
            Self::Bytes => outgoing.extend_from_slice(packet),
            Self::WebSocket(_) => {
                let mut message = Vec::new();
                frame(&mut message, Kind::Binary, true, packet);
                outgoing.extend_from_slice(&message);
            }
        }
    }

    /// Writes what is said before an end in order.
    fn farewell(&self, outgoing: &mut BytesMut) {
        if let Self::WebSocket(_) = self {
            const GOING_AWAY: u16 = 1001;
            let mut message = Vec::new();
            frame(&mut message, Kind::Close, true, &GOING_AWAY.to_be_bytes());
            outgoing.extend_from_slice(&message);
        }
    }
}

/// Opens the WebSocket; where it does not, returns how the connection ends.
async fn upgrade(
    network: &Network,
    shared: &Shared,
    socket: &mut Socket,
    number: usize,
) -> Result<Wire, &'static str> {
    let head = timeout(CONNECT_LIMIT, read_head(socket)).await;
    let Ok(Some((head, rest))) = head else {
        return Err("before a request for a WebSocket");
    };
    let faults = network.faults();
    if faults.strike("broker: refuses the WebSocket", 4).is_some() {
        let _ = socket.write_all(REFUSAL).await;
        return Err("by the refusal of a WebSocket");
    }
    if faults.strike("broker: opens no WebSocket", 5).is_some() {
        let _ = timeout(CONNECT_LIMIT, socket.read_u8()).await;
        return Err("by the silence about a WebSocket");
    }
    let answer = opening(&head, "mqtt");
    if !rest.is_empty() || socket.write_all(answer.as_bytes()).await.is_err() {
        return Err("by a broken write");
    }
    shared.with(|broker, _| broker.upgraded(number, answer.len()));
    Ok(Wire::WebSocket(Frames::default()))
}

async fn converse(
    network: &Network,
    shared: &Shared,
    socket: &mut Socket,
    number: usize,
    mut wire: Wire,
) -> &'static str {
    let mut codec = Codec {
        max_incoming_size: PACKET_LIMIT,
        max_outgoing_size: PACKET_LIMIT,
    };
    let (mut read, mut incoming) = (BytesMut::new(), BytesMut::new());
    let mut outgoing = BytesMut::new();
    loop {
        let changed = shared.changed.notified();
        let now = Instant::now();
        loop {
            let action = shared.lock().due(number, now.into_std());
            let Some(action) = action else {
                break;
            };
            note(network, shared);
            match action {
                Action::Send(packet) => {
                    let mut bytes = BytesMut::new();
                    if codec.encode(packet, &mut bytes).is_err() {
                        return "by a packet that is too large";
                    }
                    wire.write(&bytes, &mut outgoing);
                }
                Action::Close => {
                    wire.farewell(&mut outgoing);
                    let _ = socket.write_all_buf(&mut outgoing).await;
                    return BY_CLOSE;
                }
                Action::Reset => {
                    socket.reset_when_closed();
                    return BY_RESET;
                }
            }
        }
        if socket.write_all_buf(&mut outgoing).await.is_err() {
            return "by a broken write";
        }
        let next = shared.next_deadline(number);
        read.reserve(READ_SIZE);
        tokio::select! {
            biased;
            count = socket.read_buf(&mut read) => match count {
                Ok(1..) => if let Err(how) = wire.feed(&read.split(), &mut incoming) {
                    return how;
                },
                Ok(0) => return BY_ADIT,
                Err(_) => return "by a broken read",
            },
            () = changed => continue,
            () = sleep_until(next.unwrap_or_else(std::time::Instant::now).into()), if next.is_some() => continue,
        }
        loop {
            match codec.decode(&mut incoming) {
                Ok(Some(packet)) => {
                    shared.with(|broker, now| broker.received(number, packet, now));
                    note(network, shared);
                }
                Ok(None) => break,
                Err(_) => return "by what is no MQTT",
            }
        }
    }
}

/// Writes what is new on record into the trace.
fn note(network: &Network, shared: &Shared) {
    let trace = network.trace();
    if trace.is_kept() {
        for seen in shared.lock().news() {
            crate::note!(trace, "mqtt", "{}", judge::line(seen));
        }
    }
}
