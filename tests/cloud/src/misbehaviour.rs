//! What the platform can be told to do wrong.

use std::time::Duration;

/// A way to misbehave, for every device WebSocket until it is taken back.
///
/// Only the address given to devices misbehaves; operators in the same process have their own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Misbehaviour {
    /// Answers the handshake with an HTTP status and a body. The key stays unused.
    Answer {
        /// HTTP status.
        status: u16,
        /// Body, as is.
        body: String,
    },
    /// Waits before it looks at the request.
    Delay(Duration),
    /// Accepts the connection, reads the request and never answers.
    NeverAnswer,
    /// Resets the TCP connection as soon as it stands.
    ResetAtAccept,
    /// Answers with bytes that are not HTTP.
    Garbage,
    /// Upgrades and sends a Close (1011) at once. The key is used up.
    CloseAfterUpgrade,
    /// Upgrades and resets the TCP connection at once. The key is used up.
    ResetAfterUpgrade,
    /// Upgrades without `Sec-WebSocket-Protocol`.
    NoSubprotocol,
    /// Neither reads nor writes nor answers pings, on the standing sockets that are piped to an
    /// operator too. A socket that a test holds is silent whenever the test is.
    Silence,
}

impl Misbehaviour {
    /// Returns the refusal with an HTTP status, in the platform's words.
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            body: crate::http::error_body(status),
        }
    }
}
