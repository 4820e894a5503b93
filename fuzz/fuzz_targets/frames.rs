//! Feeds any bytes to the frame codec and to tungstenite, and compares what they find.
//!
//! The first byte says in which pieces the rest comes. In the other direction the bytes are a
//! payload, and the frames made of it are read by tungstenite's server.

#![no_main]

#[path = "../../src/tunnel/relay/frame/mod.rs"]
#[expect(dead_code, reason = "the tunnel needs more of it")]
mod frame;
#[path = "../../src/tunnel/relay/frame/oracle.rs"]
mod oracle;

use frame::{BODY_LIMIT, Decoder, HEADER_ROOM, Item, append_control, enclose};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let size = usize::from(*first);
    oracle::compare(rest, &[]);
    oracle::compare(rest, &[size, 1 + size / 16]);
    oracle::hand_over(rest, [*first, 0x5a, 0xff, 1]);
});
