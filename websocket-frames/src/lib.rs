//! The frames of RFC 6455, as a client takes and makes them.
//!
//! Pure, and without a buffer of its own for what users send: bytes go in as they come, in pieces
//! of any size, and out come the ranges of them that are payload. A frame of any size costs the
//! same. The end of a message means nothing to a tunnel, so messages, fragments and text are one
//! stream of bytes here; whether text is UTF-8 is for whoever reads it.
//!
//! A crate of its own because it sees every byte that a tunnel carries: releases are made small, and
//! this is made fast.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

#[cfg(any(test, feature = "oracle"))]
#[expect(
    clippy::expect_used,
    reason = "a panic is how it says that the two disagree"
)]
pub mod oracle;
#[cfg(test)]
mod tests;

use std::array;
use std::fmt;
use std::ops::Range;

use tungstenite::protocol::frame::coding::{Data, OpCode};
use wide::u8x32;

pub use tungstenite::protocol::frame::coding::{CloseCode, Control};

/// Bytes of the longest header that a client makes: a mask of four is part of it.
pub const HEADER_ROOM: usize = 14;
/// Bytes that a control frame carries at most (RFC 6455, 5.5).
pub const BODY_LIMIT: usize = 125;

/// A code for Close frames that the registry of IANA has, and the library's list has not.
const BAD_GATEWAY: u16 = 1014;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Lengths of the second byte that say how many bytes of length follow.
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;

/// What a server sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// Where in the input the user's bytes lie.
    Data(Range<usize>),
    /// To be answered with a Pong of the same [`Decoder::body`].
    Ping,
    /// The answer to a Ping, or one that nobody asked for.
    Pong,
    /// The last frame. The bytes of the [`Decoder::body`] behind the code are its reason.
    Close(Option<CloseCode>),
}

/// How a server broke the protocol. Nothing that it sends afterwards is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A reserved bit is set, which only an extension could give a meaning (RFC 6455, 5.2).
    ReservedBits,
    /// An opcode that means nothing (5.2).
    UnknownOpcode(u8),
    /// A frame is masked, as only those of a client may be (5.1).
    Masked,
    /// A control frame comes in fragments (5.5).
    FragmentedControl,
    /// A control frame is longer than [`BODY_LIMIT`] (5.5).
    LongControl,
    /// A length of 2^63 or more (5.2).
    Length,
    /// A continuation of nothing (5.4).
    NothingToContinue,
    /// A new message within another (5.4).
    MessageWithin,
    /// A Close frame whose body is shorter than a code (5.5.1).
    ShortClose,
    /// A code that no Close frame may carry (7.4).
    CloseCode(u16),
    /// A reason that is not UTF-8 (5.5.1, 8.1).
    CloseReason,
}

impl Fault {
    /// The code that tells the server.
    pub fn code(self) -> CloseCode {
        match self {
            Self::CloseReason => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => f.write_str("Reserved bits are non-zero"),
            Self::UnknownOpcode(opcode) => write!(f, "Encountered invalid opcode: {opcode}"),
            Self::Masked => f.write_str("Received a masked frame from server"),
            Self::FragmentedControl => f.write_str("Fragmented control frame"),
            Self::LongControl => {
                f.write_str("Control frame too big (payload must be 125 bytes or less)")
            }
            Self::Length => f.write_str("Frame of 2^63 bytes or more"),
            Self::NothingToContinue => f.write_str("Continue frame but nothing to continue"),
            Self::MessageWithin => f.write_str("New message while another is not complete"),
            Self::ShortClose => f.write_str("Close frame with half a code"),
            Self::CloseCode(code) => write!(f, "Close frame with code {code}, which means nothing"),
            Self::CloseReason => f.write_str("Close frame with a reason that is not UTF-8"),
        }
    }
}

/// Finds what a server's bytes carry.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Whether a message has begun whose last fragment is still to come.
    in_message: bool,
    had_text: bool,
    /// The beginning of a header that came in pieces; a server's has no mask.
    header: [u8; HEADER_ROOM - 4],
    header_length: usize,
    /// What a control frame carries.
    body: [u8; BODY_LIMIT],
    body_length: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    /// Within the payload of a data frame, of which this much is to come.
    Data(u64),
    /// Within the payload of a control frame, of which this much is to come.
    Control(Control, usize),
    /// Behind a Close frame or a fault.
    Ended,
}

struct Header {
    opcode: OpCode,
    last: bool,
    length: u64,
    /// Of the header itself.
    size: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::Header,
            in_message: false,
            had_text: false,
            header: [0; HEADER_ROOM - 4],
            header_length: 0,
            body: [0; BODY_LIMIT],
            body_length: 0,
        }
    }
}

impl Decoder {
    /// Returns the next thing in `input` from `at` on, and moves `at` behind it; `None` where
    /// nothing is left. The input may go on in the next call wherever it was cut.
    ///
    /// # Errors
    /// The server broke the protocol. What came before was returned before.
    pub fn next(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Item>, Fault> {
        let item = self.step(input, at);
        if let Err(_) | Ok(Some(Item::Close(_))) = item {
            self.state = State::Ended;
        }
        if let State::Ended = self.state
            && !matches!(item, Ok(Some(_)))
        {
            *at = input.len();
        }
        item
    }

    /// What the last Ping, Pong or Close carries.
    pub fn body(&self) -> &[u8] {
        self.body.get(..self.body_length).unwrap_or_default()
    }

    /// Whether a message of text has begun, now or before, for whom that is none of the protocol's.
    pub fn had_text(&self) -> bool {
        self.had_text
    }

    /// Whether the stream would be cut if it ended here: within a frame, or within a message.
    pub fn is_within(&self) -> bool {
        match self.state {
            State::Header => self.in_message || self.header_length > 0,
            State::Data(_) | State::Control(..) => true,
            State::Ended => false,
        }
    }

    fn step(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Item>, Fault> {
        loop {
            let rest = input.get(*at..).unwrap_or_default();
            match self.state {
                State::Ended => return Ok(None),
                State::Header => {
                    let Some(header) = self.take_header(rest, at)? else {
                        return Ok(None);
                    };
                    self.enter(&header)?;
                }
                State::Data(0) => self.state = State::Header,
                State::Data(_) if rest.is_empty() => return Ok(None),
                State::Data(left) => {
                    let length = usize::try_from(left).map_or(rest.len(), |l| l.min(rest.len()));
                    let begin = *at;
                    *at += length;
                    self.state = State::Data(left - length as u64);
                    return Ok(Some(Item::Data(begin..*at)));
                }
                State::Control(kind, left) => {
                    let length = left.min(rest.len());
                    for (to, from) in self
                        .body
                        .iter_mut()
                        .skip(self.body_length)
                        .zip(&rest[..length])
                    {
                        *to = *from;
                    }
                    self.body_length += length;
                    *at += length;
                    if length < left {
                        self.state = State::Control(kind, left - length);
                        return Ok(None);
                    }
                    self.state = State::Header;
                    return self.control(kind).map(Some);
                }
            }
        }
    }

    /// Reads a header; what there is of one that is not complete is kept.
    fn take_header(&mut self, rest: &[u8], at: &mut usize) -> Result<Option<Header>, Fault> {
        if self.header_length == 0
            && let Some(header) = Header::parse(rest)?
        {
            *at += header.size;
            return Ok(Some(header));
        }
        for byte in rest {
            *at += 1;
            if let Some(place) = self.header.get_mut(self.header_length) {
                *place = *byte;
                self.header_length += 1;
            }
            let header = self.header.get(..self.header_length).unwrap_or_default();
            if let Some(header) = Header::parse(header)? {
                self.header_length = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Goes from the header of a frame into its payload.
    fn enter(&mut self, header: &Header) -> Result<(), Fault> {
        match header.opcode {
            OpCode::Data(kind) => {
                match (kind, self.in_message) {
                    (Data::Continue, false) => return Err(Fault::NothingToContinue),
                    (Data::Continue, true) | (_, false) => {}
                    (_, true) => return Err(Fault::MessageWithin),
                }
                self.in_message = !header.last;
                self.had_text |= kind == Data::Text;
                self.state = State::Data(header.length);
            }
            OpCode::Control(kind) => {
                if !header.last {
                    return Err(Fault::FragmentedControl);
                }
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                if length > BODY_LIMIT {
                    return Err(Fault::LongControl);
                }
                self.body_length = 0;
                self.state = State::Control(kind, length);
            }
        }
        Ok(())
    }

    /// The body of a control frame is complete.
    fn control(&self, kind: Control) -> Result<Item, Fault> {
        match kind {
            Control::Ping => Ok(Item::Ping),
            Control::Pong => Ok(Item::Pong),
            Control::Reserved(opcode) => Err(Fault::UnknownOpcode(opcode)),
            Control::Close => match self.body() {
                [] => Ok(Item::Close(None)),
                [_] => Err(Fault::ShortClose),
                [high, low, reason @ ..] => {
                    let number = u16::from_be_bytes([*high, *low]);
                    let code = CloseCode::from(number);
                    if !code.is_allowed() && number != BAD_GATEWAY {
                        return Err(Fault::CloseCode(number));
                    }
                    match std::str::from_utf8(reason) {
                        Ok(_) => Ok(Item::Close(Some(code))),
                        Err(_) => Err(Fault::CloseReason),
                    }
                }
            },
        }
    }
}

impl Header {
    /// Reads a header at the beginning of `bytes`; `None` where it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(Fault::ReservedBits);
        }
        let opcode = match OpCode::from(first & OPCODE) {
            OpCode::Data(Data::Reserved(code)) | OpCode::Control(Control::Reserved(code)) => {
                return Err(Fault::UnknownOpcode(code));
            }
            opcode => opcode,
        };
        if second & MASKED != 0 {
            return Err(Fault::Masked);
        }
        // A length in more bytes than it needs is against 5.2, but means no harm.
        let (length, size) = match second & LENGTH {
            TWO_BYTES => match rest.first_chunk() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 4),
                None => return Ok(None),
            },
            EIGHT_BYTES => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        if length > i64::MAX as u64 {
            return Err(Fault::Length);
        }
        Ok(Some(Self {
            opcode,
            last: first & FIN != 0,
            length,
            size,
        }))
    }
}

/// Makes a binary frame of the payload that lies at `payload` in `room`, at [`HEADER_ROOM`] or
/// later: masks it where it lies, puts a header before it, and returns where that begins.
pub fn enclose(room: &mut [u8], payload: Range<usize>, key: [u8; 4]) -> usize {
    let length = payload.len();
    mask(room.get_mut(payload.clone()).unwrap_or_default(), key);
    let (header, size) = header(OpCode::Data(Data::Binary), length, key);
    let begin = payload.start.saturating_sub(size);
    if let Some(place) = room.get_mut(begin..payload.start) {
        place.copy_from_slice(&header[..place.len()]);
    }
    begin
}

/// Appends a control frame; of the body as much as may be.
pub fn append_control(out: &mut Vec<u8>, kind: Control, body: &[u8], key: [u8; 4]) {
    let body = body.get(..BODY_LIMIT).unwrap_or(body);
    let (header, size) = header(OpCode::Control(kind), body.len(), key);
    out.extend_from_slice(&header[..size]);
    let begin = out.len();
    out.extend_from_slice(body);
    mask(&mut out[begin..], key);
}

fn header(opcode: OpCode, length: usize, key: [u8; 4]) -> ([u8; HEADER_ROOM], usize) {
    let mut header = [0; HEADER_ROOM];
    header[0] = FIN | u8::from(opcode);
    let size = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..TWO_BYTES), _) => {
            header[1] = MASKED | short;
            2
        }
        (_, Ok(medium)) => {
            header[1] = MASKED | TWO_BYTES;
            header[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        }
        _ => {
            header[1] = MASKED | EIGHT_BYTES;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    header[size..size + key.len()].copy_from_slice(&key);
    (header, size + key.len())
}

/// Masks bytes where they lie, or takes the mask away again.
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    // Vectors by name: in a program that is compiled for size, no loop becomes vectors by itself.
    let vector = u8x32::new(array::from_fn(|at| key[at % key.len()]));
    let (blocks, rest) = bytes.as_chunks_mut::<32>();
    for block in blocks {
        *block = (u8x32::new(*block) ^ vector).to_array();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
