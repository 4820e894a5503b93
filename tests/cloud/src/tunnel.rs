//! A tunnel whose cloud end a test holds in its own hands.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::sync::oneshot;
use tokio_tungstenite::WebSocketStream;

use crate::board::Board;
use crate::platform::{OperationId, Status};
use crate::stream::Stream;

/// The platform's end of a device's WebSocket, as raw as the library has it.
///
/// It speaks when it is polled: a test that does not read is a platform that answers no ping.
pub type DeviceSocket = WebSocketStream<Stream>;

/// An operation that opens a tunnel, and the place where its socket arrives.
///
/// Dropping it before the socket has arrived revokes the connection key.
pub struct Tunnel {
    /// The operation.
    pub operation: OperationId,
    pub(crate) socket: oneshot::Receiver<DeviceSocket>,
    pub(crate) board: Arc<Board>,
}

impl Tunnel {
    /// Waits for the device's WebSocket. It is an error if the operation fails first.
    pub async fn accept(&mut self, limit: Duration) -> anyhow::Result<DeviceSocket> {
        let id = self.operation;
        let failed = self.board.wait_until(limit, |state| {
            let operation = state.platform.operation(id)?;
            (operation.status() == Status::Failed).then(|| operation.reason.clone())
        });
        tokio::select! {
            biased;
            socket = &mut self.socket => {
                socket.map_err(|_| anyhow!("the socket of operation {id} came and went"))
            }
            failed = failed => match failed {
                Ok(reason) => bail!("operation {id} failed: {}", reason.unwrap_or_default()),
                Err(error) => Err(error.context(format!("no WebSocket for operation {id}"))),
            },
        }
    }
}

/// Resets the TCP connection below a WebSocket: no Close, no FIN, and what is queued is lost.
pub fn reset(socket: DeviceSocket) -> io::Result<()> {
    socket.get_ref().tcp().set_zero_linger()
}
