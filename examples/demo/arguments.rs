//! What the demo is asked to show.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::Parser;

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

/// The machine behind the gateway. IPv6 addresses stand in brackets where they are written.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is neither HOST:PORT nor [IPv6]:PORT";
        let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(FORM)?;
        match bare.unwrap_or(host) {
            "" => Err(FORM),
            host if bare.is_none() && host.contains(':') => Err(FORM),
            host => Ok(Self {
                host: host.to_owned(),
                port,
            }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
