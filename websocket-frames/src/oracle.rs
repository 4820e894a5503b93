//! Holds what is found in a server's bytes against what tungstenite's client finds in them, and
//! what a client's frames are against what tungstenite's server takes them for. The property tests
//! and the fuzz target share it.

use std::io::{self, Cursor, Read, Write};

use tungstenite::protocol::frame::coding::Control;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::{BAD_GATEWAY, BODY_LIMIT, Decoder, HEADER_ROOM, Item, append_control, enclose};

/// tungstenite takes memory for what a header promises.
const LIMIT: usize = 1 << 20;
/// What tungstenite reports in place of a code that no Close frame may carry.
const PROTOCOL: u16 = 1002;

#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) data: Vec<u8>,
    /// `false` is a Pong.
    pub(crate) pings: Vec<(bool, Vec<u8>)>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum End {
    /// The input ends before the stream does.
    #[default]
    Open,
    Closed(Option<u16>),
    Fault,
    /// tungstenite has ended for a reason that is none here: size, or text.
    Other,
}

/// What [`Decoder`] finds in the input, given in pieces of the sizes that come around.
pub(crate) fn ours(input: &[u8], sizes: &[usize]) -> Seen {
    let mut seen = Seen::default();
    let mut decoder = Decoder::default();
    let mut rest = input;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| (*size).max(1));
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let mut at = 0;
        loop {
            match decoder.next(piece, &mut at) {
                Ok(None) => break,
                Ok(Some(Item::Data(range))) => seen.data.extend_from_slice(&piece[range]),
                Ok(Some(Item::Ping)) => seen.pings.push((true, decoder.body().to_vec())),
                Ok(Some(Item::Pong)) => seen.pings.push((false, decoder.body().to_vec())),
                Ok(Some(Item::Close(code))) => {
                    assert_eq!(seen.end, End::Open);
                    seen.end = End::Closed(code.map(u16::from));
                }
                Err(_) => {
                    assert_eq!(seen.end, End::Open);
                    seen.end = End::Fault;
                }
            }
        }
        assert_eq!(at, piece.len(), "everything is looked at");
    }
    seen
}

/// What tungstenite's client finds in the input.
pub(crate) fn theirs(input: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let config = WebSocketConfig::default()
        .max_frame_size(Some(LIMIT))
        .max_message_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Script::new(input), Role::Client, Some(config));
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => seen.data.extend_from_slice(&bytes),
            Ok(Message::Text(text)) => seen.data.extend_from_slice(text.as_bytes()),
            Ok(Message::Ping(bytes)) => seen.pings.push((true, bytes.to_vec())),
            Ok(Message::Pong(bytes)) => seen.pings.push((false, bytes.to_vec())),
            Ok(Message::Close(frame)) => {
                seen.end = End::Closed(frame.map(|frame| frame.code.into()));
                return seen;
            }
            Ok(Message::Frame(_)) => {}
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return seen,
            Err(Error::Protocol(_)) => {
                seen.end = End::Fault;
                return seen;
            }
            Err(_) => {
                seen.end = End::Other;
                return seen;
            }
        }
    }
}

/// Holds what [`Decoder`] finds in the input, given in pieces of the sizes that come around, against
/// what tungstenite's client finds.
///
/// # Panics
/// The two disagree.
pub fn compare(input: &[u8], sizes: &[usize]) {
    let (ours, theirs) = (ours(input, sizes), theirs(input));
    assert!(ours.data.starts_with(&theirs.data), "{ours:?} {theirs:?}");
    assert!(ours.pings.starts_with(&theirs.pings), "{ours:?} {theirs:?}");
    match theirs.end {
        // It sees a fault in a header only when the payload has come as well.
        End::Open | End::Other => {}
        End::Fault => assert_eq!(ours.end, End::Fault),
        End::Closed(Some(PROTOCOL)) => {
            assert!(matches!(
                ours.end,
                End::Fault | End::Closed(Some(PROTOCOL | BAD_GATEWAY))
            ));
        }
        closed @ End::Closed(_) => assert_eq!(ours.end, closed),
    }
    if theirs.end != End::Other {
        let (whole, part) = frames(input);
        let carried = [whole.as_slice(), &part].concat();
        assert!(carried.starts_with(&ours.data), "{ours:?} {carried:?}");
        if ours.end == End::Open {
            assert!(ours.data.starts_with(&whole), "{ours:?} {whole:?}");
        }
    }
}

/// Holds the frames that a client makes against what tungstenite's server takes them for.
///
/// # Panics
/// It takes them for something else.
pub fn hand_over(payload: &[u8], key: [u8; 4]) {
    let mut room = [&[0; HEADER_ROOM][..], payload].concat();
    let end = room.len();
    let begin = enclose(&mut room, HEADER_ROOM..end, key);
    let mut bytes = room.split_off(begin);
    append_control(&mut bytes, Control::Pong, payload, key);
    let mut server = WebSocket::from_raw_socket(Script::new(&bytes), Role::Server, None);
    let message = server.read().expect("a message");
    assert_eq!(message, Message::Binary(payload.to_vec().into()));
    let body = payload.get(..BODY_LIMIT).unwrap_or(payload);
    let message = server.read().expect("a message");
    assert_eq!(message, Message::Pong(body.to_vec().into()));
}

/// What all data frames of the input carry, and what there is of the last.
fn frames(input: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut data = Vec::new();
    let mut rest = input;
    while let [first, second, after @ ..] = rest {
        let size = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, payload)) = after.split_at_checked(size) else {
            break;
        };
        let length = match size {
            0 => u64::from(second & 0x7f),
            _ => length
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let is_data = first & 0x08 == 0;
        let whole = usize::try_from(length)
            .ok()
            .and_then(|length| payload.split_at_checked(length));
        match whole {
            Some((payload, after)) if is_data => {
                data.extend_from_slice(payload);
                rest = after;
            }
            Some((_, after)) => rest = after,
            None if is_data => return (data, payload.to_vec()),
            None => break,
        }
    }
    (data, Vec::new())
}

/// Gives prepared bytes and takes all that is written.
struct Script(Cursor<Vec<u8>>);

impl Script {
    fn new(input: &[u8]) -> Self {
        Self(Cursor::new(input.to_vec()))
    }
}

impl Read for Script {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.read(room)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
