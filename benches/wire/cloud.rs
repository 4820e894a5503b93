//! The cloud's end: a TLS server that answers the upgrade and hands the connection over.
//!
//! It is cheap where the clock runs: what is to be sent can be encrypted before, and what is
//! received can be decrypted afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustls::{ServerConfig, ServerConnection};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::{Unframer, write_head};
use crate::site::{LIMIT, listen};

/// Handshakes at a time. They need little time but a round trip, during which others go on.
const ACCEPTORS: usize = 16;
/// Bytes of what is read at once.
const ROOM: usize = 256 << 10;

pub(crate) struct Cloud {
    pub(crate) port: u16,
    pub(crate) arrivals: Receiver<CloudEnd>,
}

impl Cloud {
    pub(crate) fn start(tls: &Arc<ServerConfig>) -> Self {
        let listener = listen();
        let port = listener.local_addr().unwrap().port();
        let (sender, arrivals) = channel();
        for _ in 0..ACCEPTORS {
            let (listener, tls, sender) =
                (listener.try_clone().unwrap(), tls.clone(), sender.clone());
            thread::spawn(move || accept(&listener, &tls, &sender));
        }
        Self { port, arrivals }
    }
}

fn accept(listener: &TcpListener, tls: &Arc<ServerConfig>, arrivals: &Sender<CloudEnd>) {
    for stream in listener.incoming() {
        // Whoever breaks the handshake off is missed by those who wait for it.
        if let Some(end) = CloudEnd::upgrade(stream.unwrap(), tls.clone())
            && arrivals.send(end).is_err()
        {
            return;
        }
    }
}

/// A Close frame of the code 1000.
const CLOSE_FRAME: [u8; 4] = [0x88, 2, 0x03, 0xe8];

/// The cloud's end of a tunnel.
pub(crate) struct CloudEnd {
    pub(crate) stream: TcpStream,
    tls: ServerConnection,
    unframer: Unframer,
    /// Payload that came beyond what was asked for.
    received: Vec<u8>,
    room: Vec<u8>,
}

impl CloudEnd {
    fn upgrade(mut stream: TcpStream, config: Arc<ServerConfig>) -> Option<Self> {
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        stream.set_write_timeout(Some(LIMIT)).ok()?;
        let mut tls = ServerConnection::new(config).ok()?;
        tls.set_buffer_limit(None);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            tls.complete_io(&mut stream).ok()?;
            let mut piece = [0; 4096];
            match tls.reader().read(&mut piece) {
                Ok(0) => return None,
                Ok(length) => head.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&head).ok()?;
        let mut headers = request.headers.iter();
        let key = headers.find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"))?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: binary\r\n\r\n",
            derive_accept_key(key.value)
        );
        let mut end = Self {
            stream,
            tls,
            unframer: Unframer::default(),
            received: Vec::new(),
            room: Vec::new(),
        };
        let sealed = end.seal(answer.as_bytes());
        end.stream.write_all(&sealed).ok()?;
        Some(end)
    }

    /// Encrypts bytes that lie behind each other, in records as full as they can be.
    pub(crate) fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::with_capacity(bytes.len() + bytes.len() / 64 + 64);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, payload: &[u8]) {
        let mut frame = Vec::with_capacity(payload.len() + 16);
        write_head(&mut frame, payload.len(), None);
        frame.extend_from_slice(payload);
        let sealed = self.seal(&frame);
        self.stream.write_all(&sealed).unwrap();
    }

    /// Waits for `length` bytes of payload.
    pub(crate) fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut room = std::mem::take(&mut self.room);
        room.resize(ROOM, 0);
        while self.received.len() < length {
            let count = self.stream.read(&mut room).unwrap();
            assert!(count > 0, "the tunnel has ended early");
            self.unseal(&room[..count]);
        }
        self.room = room;
        let beyond = self.received.split_off(length);
        std::mem::replace(&mut self.received, beyond)
    }

    /// Waits for `length` bytes of payload, and does no more than store nearly all of what comes
    /// until it is there.
    pub(crate) fn receive_bulk(&mut self, length: usize) -> Vec<u8> {
        let mut sealed = vec![1; length];
        self.stream.read_exact(&mut sealed).unwrap();
        self.unseal(&sealed);
        self.receive(length)
    }

    /// Gives back what only a busy end needs.
    pub(crate) fn rest(&mut self) {
        self.room = Vec::new();
        self.received.shrink_to_fit();
    }

    /// Sends a Close frame. What comes after this is not looked at.
    pub(crate) fn begin_close(mut self) -> Ending {
        let sealed = self.seal(&CLOSE_FRAME);
        // Whoever was asked to end may have ended already.
        let _ = self.stream.write_all(&sealed);
        Ending(self)
    }

    fn unseal(&mut self, mut sealed: &[u8]) {
        let mut piece = [0; 16 << 10];
        while !sealed.is_empty() {
            self.tls.read_tls(&mut sealed).unwrap();
            let state = self.tls.process_new_packets().unwrap();
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let count = self.tls.reader().read(&mut piece).unwrap();
                self.unframer.feed(&piece[..count], &mut self.received);
                left -= count;
            }
        }
    }
}

/// A cloud's end that has sent a Close frame.
pub(crate) struct Ending(CloudEnd);

impl Ending {
    /// Waits for the end of the stream, and ends TLS and the connection as the platform does.
    pub(crate) fn finish(self) {
        let Self(mut end) = self;
        let _ = end.stream.read_to_end(&mut Vec::new());
        end.tls.send_close_notify();
        let sealed = end.seal(&[]);
        let _ = end.stream.write_all(&sealed);
    }
}
