//! `adit connect`: one tunnel without MQTT, for debugging and as a plug-in of another agent.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::cli::Tunnel;
use crate::tunnel::{Opener, Traffic};
use crate::words::failure_reason;

/// Bytes of a reason in the log.
const REASON_LIMIT: usize = 1024;

/// Opens the tunnel, prints `CONNECTED` when both ends stand, and carries bytes until it ends.
///
/// The exit code is 0 if one side ended it or `stop` did, and 1 if it did not open or broke.
pub(crate) async fn run(
    opener: &Opener,
    Tunnel { target, key }: Tunnel,
    stop: CancellationToken,
) -> ExitCode {
    // The policy stays as it is.
    let reached = OnceLock::new();
    let opened = tokio::select! {
        opened = opener.open(&target, &key, &reached) => opened,
        () = stop.cancelled() => return ExitCode::SUCCESS,
    };
    let tunnel = match opened {
        Ok(tunnel) => tunnel,
        Err(failure) => {
            error!(
                reason = failure_reason(&failure, REASON_LIMIT),
                "the tunnel did not open"
            );
            return ExitCode::FAILURE;
        }
    };
    // Whoever started this may wait for the line, or may have closed the pipe long ago.
    let _ = writeln!(io::stdout(), "CONNECTED").and_then(|()| io::stdout().flush());
    let ended = tunnel.relay(&Traffic::default(), stop.cancelled()).await;
    ended.log("the tunnel has ended");
    if ended.reason.is_orderly() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
