//! What the fuzz targets feed: everything that reads what comes from outside, with what must hold
//! whatever comes.
//!
//! Each target takes any bytes and panics where something does not hold. `fuzz/` runs them under
//! libFuzzer, `tests/corpus.rs` feeds them what is kept there. No release is built with this.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target says that something does not hold"
)]

mod certificates;
mod configuration;
mod heads;
mod issued;
mod packets;
mod policy;
mod rows;
mod session;
mod tokens;

use tokio::runtime::{Builder, Runtime};
use websocket_frames::oracle;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 10] = [
    ("certificates", certificates::run),
    ("configuration", configuration::run),
    ("frames", frames),
    ("heads", heads::run),
    ("issued", issued::run),
    ("packets", packets::run),
    ("policy", policy::run),
    ("rows", rows::run),
    ("session", session::run),
    ("tokens", tokens::run),
];

/// Runs a target.
///
/// # Panics
/// Something does not hold, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.expect("a target of this name").1(bytes);
}

/// Holds what the frame codec finds against what tungstenite does. The first byte says in which
/// pieces the rest comes; in the other direction the bytes are a payload.
fn frames(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let size = usize::from(*first);
    oracle::compare(rest, &[]);
    oracle::compare(rest, &[size, 1 + size / 16]);
    oracle::hand_over(rest, [*first, 0x5a, 0xff, 1]);
}

/// Whether a text may stand in a log or on a terminal: nothing in it moves a cursor.
fn is_legible(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
