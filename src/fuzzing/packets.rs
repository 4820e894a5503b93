//! MQTT packets of a broker, in pieces of any size.
//!
//! However the bytes are cut, the same packets come of them up to the same end, and no more is held
//! than one packet of the largest size and the piece that came last.

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use crate::mqtt::framing::{Incoming, PacketCodec};

/// More than the largest packet that is taken.
const HELD_LIMIT: usize = 160 << 10;

/// What came of a stream.
#[derive(Debug, Eq, PartialEq)]
struct Read {
    packets: Vec<Incoming>,
    is_broken: bool,
}

/// The first byte says in which pieces the rest comes.
pub(super) fn run(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else {
        return;
    };
    let whole = read(stream, stream.len());
    for piece in [1 + usize::from(*first), 1 + usize::from(*first) * 67] {
        assert_eq!(read(stream, piece), whole, "in pieces of {piece}");
    }
}

fn read(stream: &[u8], piece: usize) -> Read {
    let (mut codec, mut buffer) = (PacketCodec::default(), BytesMut::new());
    let mut packets = Vec::new();
    for piece in stream.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                // A sign of life, which depends on how the bytes are cut.
                Ok(Some(Incoming::Part)) => {}
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => {
                    return Read {
                        packets,
                        is_broken: true,
                    };
                }
            }
        }
        assert!(buffer.len() <= HELD_LIMIT, "{} bytes held", buffer.len());
    }
    Read {
        packets,
        is_broken: false,
    }
}
