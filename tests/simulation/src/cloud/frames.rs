//! Frames of the WebSocket as a server sees them: those of the client come masked, its own go bare.

use std::mem;

/// The longest body of a control frame.
const CONTROL_LIMIT: u64 = 125;

/// What a frame is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// What the client has sent.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Item {
    /// Some of the user's bytes.
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>),
    /// What adit never sends: a mask that lacks, a fragment, reserved bits.
    Nonsense,
}

/// Takes the stream of a client apart.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    head: Vec<u8>,
    /// Of a frame whose head is complete.
    frame: Option<Frame>,
}

#[derive(Debug)]
struct Frame {
    opcode: u8,
    mask: [u8; 4],
    left: u64,
    place: usize,
    body: Vec<u8>,
}

impl Decoder {
    /// Takes bytes and returns what is in them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        while !bytes.is_empty() || self.frame.as_ref().is_some_and(|frame| frame.left == 0) {
            let Some(frame) = &mut self.frame else {
                let Some((&first, rest)) = bytes.split_first() else {
                    break;
                };
                self.head.push(first);
                bytes = rest;
                match read_head(&self.head) {
                    Ok(None) => {}
                    Ok(Some(frame)) => {
                        self.head.clear();
                        self.frame = Some(frame);
                    }
                    Err(()) => {
                        items.push(Item::Nonsense);
                        return items;
                    }
                }
                continue;
            };
            let count = bytes
                .len()
                .min(usize::try_from(frame.left).unwrap_or(usize::MAX));
            let (piece, rest) = bytes.split_at(count);
            bytes = rest;
            frame.left -= count as u64;
            let unmasked = piece.iter().map(|byte| {
                frame.place += 1;
                byte ^ frame.mask[(frame.place - 1) % 4]
            });
            frame.body.extend(unmasked);
            let is_whole = frame.left == 0;
            if frame.opcode == Kind::Binary as u8 && !frame.body.is_empty() {
                items.push(Item::Data(mem::take(&mut frame.body)));
            }
            if is_whole && let Some(frame) = self.frame.take() {
                items.extend(frame.item());
            }
        }
        items
    }
}

impl Frame {
    fn item(self) -> Option<Item> {
        match self.opcode {
            opcode if opcode == Kind::Close as u8 => Some(Item::Close(self.body)),
            opcode if opcode == Kind::Ping as u8 => Some(Item::Ping(self.body)),
            opcode if opcode == Kind::Pong as u8 => Some(Item::Pong),
            _ => None,
        }
    }
}

/// Reads a head of a client's frame; `None` if it is not complete.
fn read_head(bytes: &[u8]) -> Result<Option<Frame>, ()> {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let opcode = first & 0x0f;
    let is_known = [Kind::Binary, Kind::Close, Kind::Ping, Kind::Pong]
        .iter()
        .any(|&kind| opcode == kind as u8);
    if first & 0xf0 != FIN || second & MASKED == 0 || !is_known {
        return Err(());
    }
    let (left, rest) = match (second & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
        }
        (126 | 127, _) => return Ok(None),
        (short, rest) => (short.into(), rest),
    };
    if opcode >= Kind::Close as u8 && left > CONTROL_LIMIT {
        return Err(());
    }
    let Ok(mask) = <[u8; 4]>::try_from(rest) else {
        return Ok(None);
    };
    Ok(Some(Frame {
        opcode,
        mask,
        left,
        place: 0,
        body: Vec::new(),
    }))
}

/// Writes a frame of a server.
pub(crate) fn frame(out: &mut Vec<u8>, kind: Kind, is_last: bool, body: &[u8]) {
    out.push(kind as u8 | if is_last { 0x80 } else { 0 });
    match (u8::try_from(body.len()), u16::try_from(body.len())) {
        (Ok(short @ ..126), _) => out.push(short),
        (_, Ok(length)) => {
            out.push(126);
            out.extend(length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend((body.len() as u64).to_be_bytes());
        }
    }
    out.extend(body);
}

/// Returns how many bytes such a frame has besides its body.
pub(crate) fn overhead(length: usize) -> usize {
    match length {
        ..126 => 2,
        126..0x1_0000 => 4,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a client writes it.
    fn masked(first: u8, body: &[u8]) -> Vec<u8> {
        let mask = [7, 0, 99, 255];
        let mut out = vec![first, 0x80 | 127];
        out.extend((body.len() as u64).to_be_bytes());
        out.extend(mask);
        out.extend(
            body.iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        out
    }

    #[test]
    fn takes_apart_what_a_client_sends_in_pieces_of_any_size() {
        let stream = [
            masked(0x82, b"user"),
            masked(0x89, b"ping"),
            masked(0x82, b""),
            masked(0x8a, b""),
            masked(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        for size in [1, 2, 7, 100] {
            let mut decoder = Decoder::default();
            let (mut data, mut others) = (Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                for item in decoder.feed(piece) {
                    match item {
                        Item::Data(bytes) => data.extend(bytes),
                        other => others.push(other),
                    }
                }
            }
            assert_eq!(data, b"user");
            let close = Item::Close(b"\x03\xe8bye".to_vec());
            assert_eq!(others, [Item::Ping(b"ping".to_vec()), Item::Pong, close]);
        }
    }

    #[test]
    fn knows_what_no_client_may_send() {
        for (first, second) in [
            (0x82, 1),
            (0x02, 0x81),
            (0xc2, 0x81),
            (0x81, 0x81),
            (0x89, 0xfe),
        ] {
            let mut decoder = Decoder::default();
            let items = decoder.feed(&[first, second, 0, 126, 1, 1, 1, 1, 1]);
            assert_eq!(items, [Item::Nonsense], "{first:x} {second:x}");
        }
    }

    #[test]
    fn writes_every_length() {
        for (length, head) in [
            (0, vec![0x82, 0]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            frame(&mut out, Kind::Binary, true, &vec![1; length]);
            assert_eq!(out[..head.len()], head);
            assert_eq!(out.len(), head.len() + length);
            assert_eq!(overhead(length), head.len());
        }
    }
}
