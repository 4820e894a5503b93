//! What the demo is asked to show.

use std::net::SocketAddr;

use clap::Parser;
use smartrest::Target;

/// A tunnel from end to end in one process: an MQTT broker, a simulated cloud, a demo device and
/// the real agent. Nothing leaves this machine, unless --target does.
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "\
Examples:
  cargo run --release --locked --example demo
  cargo run --release --locked --example demo -- --target 127.0.0.1:22
    ssh -p 8530 user@127.0.0.1"
)]
pub(crate) struct Arguments {
    /// Reach this machine instead of the demo device; the agent is allowed to reach nothing else
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<Target>,
    /// Where to listen; each connection becomes a tunnel
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8530")]
    pub(crate) listen: SocketAddr,
}
