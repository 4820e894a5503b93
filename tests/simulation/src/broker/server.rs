//! The broker's sockets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use rumqttc::Codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::codec::{Decoder, Encoder};

use super::{Action, Broker};
use crate::judge;
use crate::network::{Network, Socket, Zone};
use crate::places::BROKER;

/// Packets of this size do not come.
const PACKET_LIMIT: usize = 1 << 20;
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
pub(crate) async fn serve(network: Network, shared: Shared, life: impl Fn() -> usize) {
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
                    network.spawn(connection(network.clone(), shared.clone(), socket, number));
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

async fn connection(network: Network, shared: Shared, mut socket: Socket, number: usize) {
    let how = converse(&network, &shared, &mut socket, number).await;
    shared.with(|broker, now| broker.ended(number, how, now));
    note(&network, &shared);
}

async fn converse(
    network: &Network,
    shared: &Shared,
    socket: &mut Socket,
    number: usize,
) -> &'static str {
    let mut codec = Codec {
        max_incoming_size: PACKET_LIMIT,
        max_outgoing_size: PACKET_LIMIT,
    };
    let (mut incoming, mut outgoing) = (BytesMut::new(), BytesMut::new());
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
                    if codec.encode(packet, &mut outgoing).is_err() {
                        return "by a packet that is too large";
                    }
                }
                Action::Close => {
                    let _ = socket.write_all_buf(&mut outgoing).await;
                    return "by the broker";
                }
                Action::Reset => {
                    socket.reset_when_closed();
                    return "by a reset of the broker";
                }
            }
        }
        if socket.write_all_buf(&mut outgoing).await.is_err() {
            return "by a broken write";
        }
        let next = shared.next_deadline(number);
        incoming.reserve(READ_SIZE);
        tokio::select! {
            biased;
            read = socket.read_buf(&mut incoming) => match read {
                Ok(1..) => {}
                Ok(0) => return "by adit",
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
