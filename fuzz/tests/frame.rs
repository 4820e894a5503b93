//! The unit tests of the frame codec, in a crate that is small enough for Miri.

#[path = "../../src/tunnel/relay/frame/mod.rs"]
#[expect(dead_code, reason = "the tunnel needs more of it")]
mod frame;
