//! `adit connect`: one tunnel without MQTT, for debugging and as a plug-in of another agent.

use std::io::{self, Write};
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::auth::authorization::Authorization;
use crate::cli::Tunnel;
use crate::config::Config;
use crate::net::Transport;
use crate::tunnel::Opener;
use crate::words::failure_reason;

/// Bytes of a reason in the log.
const REASON_LIMIT: usize = 1024;

/// Opens the tunnel, prints `CONNECTED` when both ends stand, and carries bytes until it ends.
///
/// The exit code is 0 if one side ended it or `stop` did, and 1 if it did not open or broke.
///
/// # Errors
/// The configuration cannot be used with TLS.
pub async fn run(
    config: &Config,
    Tunnel { target, key }: Tunnel,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let transport =
        Transport::new(&config.cloud.ca)?.with_identity(config.auth.identity().cloned());
    let opener = Opener::new(config, transport, Authorization::new(config, None));
    let opened = tokio::select! {
        opened = opener.open(&target, &key) => opened,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let tunnel = match opened {
        Ok(tunnel) => tunnel,
        Err(failure) => {
            error!(
                reason = failure_reason(&failure, REASON_LIMIT),
                "the tunnel did not open"
            );
            return Ok(ExitCode::FAILURE);
        }
    };
    // Whoever started this may wait for the line, or may have closed the pipe long ago.
    let _ = writeln!(io::stdout(), "CONNECTED").and_then(|()| io::stdout().flush());
    let ended = tunnel.relay(stop.cancelled()).await;
    info!(reason = ended.reason.to_string(), up = ended.up, down = ended.down,
        lasted = ?ended.lasted, "the tunnel has ended");
    Ok(if ended.reason.is_orderly() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
