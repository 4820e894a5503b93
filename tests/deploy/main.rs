//! What `deploy/` holds, as it is used: the bridge between two real brokers, the image as a running
//! container, the files for Compose against their schema and against the code, and the unit.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that fails says so by panicking, and shows the logs"
)]

mod booted;
mod bridge;
mod cable;
mod compose;
mod container;
mod package;
mod support;
mod systemd;
