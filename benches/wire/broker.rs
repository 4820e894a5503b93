//! The MQTT broker that the agent connects to: one client, over TLS, in one thread.
//!
//! It grants what is asked, acknowledges what is published, and sends the rows it is given. As the
//! platform does, it sends those again that are still pending when the gateway asks for them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use bytes::BytesMut;
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::{ServerConfig, ServerConnection};

use crate::site::{LIMIT, listen};

const LARGEST_PACKET: usize = 128 << 10;

pub(crate) struct Broker {
    pub(crate) port: u16,
    rows: Sender<String>,
    waker: UnixStream,
    published: Receiver<String>,
}

impl Broker {
    pub(crate) fn start(tls: &Arc<ServerConfig>) -> Self {
        let listener = listen();
        let port = listener.local_addr().unwrap().port();
        let (rows, waiting) = channel();
        let (sender, published) = channel();
        let (waker, wakes) = UnixStream::pair().unwrap();
        let service = Service {
            waiting,
            wakes,
            published: sender,
            pending: VecDeque::new(),
            packet_id: 0,
        };
        let tls = tls.clone();
        thread::spawn(move || service.run(&listener, &tls));
        Self {
            port,
            rows,
            waker,
            published,
        }
    }

    /// Sends a row to the gateway.
    pub(crate) fn send(&mut self, row: String) {
        self.rows.send(row).unwrap();
        self.waker.write_all(b"!").unwrap();
    }

    /// Waits until the gateway publishes a row that begins so; false where it does not.
    pub(crate) fn wait_for(&self, beginning: &str) -> bool {
        let deadline = Instant::now() + LIMIT;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut messages = std::iter::from_fn(|| self.published.recv_timeout(left()).ok());
        messages.any(|message| message.lines().any(|row| row.starts_with(beginning)))
    }
}

struct Service {
    waiting: Receiver<String>,
    wakes: UnixStream,
    published: Sender<String>,
    /// Rows of operations that the gateway has not begun, in the order of their creation.
    pending: VecDeque<String>,
    packet_id: u16,
}

impl Service {
    fn run(mut self, listener: &TcpListener, tls: &Arc<ServerConfig>) {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let tls = ServerConnection::new(tls.clone()).unwrap();
            // A client that is gone makes room for the next one.
            let _ = self.serve(stream, tls);
        }
    }

    fn serve(&mut self, mut stream: TcpStream, mut tls: ServerConnection) -> anyhow::Result<()> {
        tls.set_buffer_limit(None);
        let mut received = BytesMut::new();
        loop {
            let mut sources = [
                PollFd::new(&stream, PollFlags::IN),
                PollFd::new(&self.wakes, PollFlags::IN),
            ];
            poll(&mut sources, None)?;
            let [from_client, from_driver] = sources.map(|source| !source.revents().is_empty());
            let mut answers = BytesMut::new();
            if from_driver {
                let _ = self.wakes.read(&mut [0; 4096])?;
                while let Ok(row) = self.waiting.try_recv() {
                    self.pending.push_back(row.clone());
                    self.publish(row).write(&mut answers, LARGEST_PACKET)?;
                }
            }
            if from_client {
                anyhow::ensure!(tls.read_tls(&mut stream)? > 0, "the client has gone");
                let mut plain = vec![0; tls.process_new_packets()?.plaintext_bytes_to_read()];
                tls.reader().read_exact(&mut plain)?;
                received.extend_from_slice(&plain);
                while let Ok(packet) = Packet::read(&mut received, LARGEST_PACKET) {
                    for answer in self.answer(packet) {
                        answer.write(&mut answers, LARGEST_PACKET)?;
                    }
                }
            }
            tls.writer().write_all(&answers)?;
            while tls.wants_write() {
                tls.write_tls(&mut stream)?;
            }
        }
    }

    fn publish(&mut self, row: String) -> Packet {
        self.packet_id = self.packet_id % u16::MAX + 1;
        let mut publish = Publish::new("s/ds", QoS::AtLeastOnce, row);
        publish.pkid = self.packet_id;
        Packet::Publish(publish)
    }

    fn answer(&mut self, packet: Packet) -> Vec<Packet> {
        match packet {
            Packet::Connect(_) => {
                let taken = ConnAck::new(ConnectReturnCode::Success, false);
                vec![Packet::ConnAck(taken)]
            }
            Packet::PingReq => vec![Packet::PingResp],
            Packet::Subscribe(subscribe) => {
                let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
                let codes = vec![granted; subscribe.filters.len()];
                vec![Packet::SubAck(SubAck::new(subscribe.pkid, codes))]
            }
            Packet::Publish(publish) => {
                let mut answers = Vec::new();
                if publish.qos != QoS::AtMostOnce {
                    answers.push(Packet::PubAck(PubAck::new(publish.pkid)));
                }
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                for row in text.lines() {
                    match row.split(',').next() {
                        Some("500") => answers.extend(self.publish_pending()),
                        Some("501") => drop(self.pending.pop_front()),
                        _ => {}
                    }
                }
                let _ = self.published.send(text);
                answers
            }
            _ => Vec::new(),
        }
    }

    fn publish_pending(&mut self) -> Vec<Packet> {
        let pending = self.pending.clone();
        pending.into_iter().map(|row| self.publish(row)).collect()
    }
}
