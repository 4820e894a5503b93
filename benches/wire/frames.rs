//! WebSocket frames in both roles, as cheap as they can be: neither the driver nor the floor checks
//! what the agent under test has to check.

/// Bytes of the longest head: two, eight of length, four of mask.
pub(crate) const LONGEST_HEAD: usize = 14;

const FINAL_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const CLOSE: u8 = 0x8;
/// Opcodes from here on are control frames.
const FIRST_CONTROL: u8 = 0x8;

/// Appends the head of a binary frame.
pub(crate) fn write_head(into: &mut Vec<u8>, length: usize, mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { MASKED } else { 0 };
    into.push(FINAL_BINARY);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..126), _) => into.push(masked | short),
        (_, Ok(medium)) => {
            into.push(masked | 126);
            into.extend(medium.to_be_bytes());
        }
        _ => {
            into.push(masked | 127);
            into.extend((length as u64).to_be_bytes());
        }
    }
    into.extend(mask.into_iter().flatten());
}

/// Masks or unmasks in place; the loop is one that the compiler vectorises.
pub(crate) fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Takes frames apart that come in pieces of any size.
#[derive(Default)]
pub(crate) struct Unframer {
    head: Vec<u8>,
    /// Bytes of the current frame's payload that are still to come.
    remaining: usize,
    control: bool,
    key: Option<[u8; 4]>,
    closed: bool,
}

impl Unframer {
    /// Appends what data frames carry to `payload`; control frames are skipped.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], payload: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.remaining == 0 {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                self.begin_frame();
                continue;
            }
            let (here, rest) = bytes.split_at(self.remaining.min(bytes.len()));
            if !self.control {
                let start = payload.len();
                payload.extend_from_slice(here);
                if let Some(key) = &mut self.key {
                    mask(&mut payload[start..], *key);
                    key.rotate_left(here.len() % 4);
                }
            }
            self.remaining -= here.len();
            bytes = rest;
        }
    }

    /// Whether a Close frame has come.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Begins a frame if its head is complete.
    fn begin_frame(&mut self) {
        let &[first, second, ref rest @ ..] = &self.head[..] else {
            return;
        };
        let (length_bytes, short) = match second & !MASKED {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, usize::from(short)),
        };
        let key_bytes = if second & MASKED == 0 { 0 } else { 4 };
        if rest.len() < length_bytes + key_bytes {
            return;
        }
        let (length, key) = rest.split_at(length_bytes);
        let long = |length: usize, &byte: &u8| length << 8 | usize::from(byte);
        self.remaining = length.iter().fold(short, long);
        self.key = key.try_into().ok();
        self.control = first & 0xf >= FIRST_CONTROL;
        self.closed |= first & 0xf == CLOSE;
        self.head.clear();
    }
}
