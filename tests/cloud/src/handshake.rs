//! A record of what a device asked at the WebSocket endpoint.

use std::fmt;
use std::time::Instant;

use crate::platform::OperationId;

/// A device's request for a WebSocket. `Debug` hides the path, which ends with a connection key.
#[derive(Clone)]
pub struct Handshake {
    /// When it arrived.
    pub at: Instant,
    /// As in the request line.
    pub path: String,
    /// The operation whose key the path names.
    pub operation: Option<OperationId>,
    /// The scheme of `Authorization`, as `Basic`, if the header was there.
    pub authorization: Option<String>,
    /// The subprotocols that were asked for.
    pub protocols: Vec<String>,
    /// Value of `Host`.
    pub host: Option<String>,
    /// The HTTP status that was answered, once it was.
    pub answer: Option<u16>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("operation", &self.operation)
            .field("authorization", &self.authorization)
            .field("protocols", &self.protocols)
            .field("host", &self.host)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}
