//! The handshake that makes a WebSocket of a connection, for tunnels and for MQTT.
//!
//! It is written here and not left to tungstenite, whose client gives up where a server names no
//! subprotocol and reads no further than the head of a refusal; what the server says in the body is
//! often the only hint.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::address::Endpoint;
use super::head::{Head, HeadFault};
use crate::words::legible;

/// What is wrong with an answer to a request for a WebSocket.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UpgradeFault {
    /// There is no answer that can be read.
    #[error("{0}{hint}", hint = hint(*.0))]
    Head(HeadFault),
    /// A 101 to something else.
    #[error("the answer does not say \"upgrade: websocket\"")]
    Upgrade,
    /// The proof that the server has understood the request is wrong.
    #[error("the answer belongs to another request (sec-websocket-accept)")]
    Accept,
    /// A subprotocol that was not asked for.
    #[error("the answer names the subprotocol '{named}' where '{asked}' was asked for")]
    Subprotocol {
        /// What it names, made legible.
        named: String,
        /// What was asked for.
        asked: &'static str,
    },
    /// An extension, and none was asked for.
    #[error("the answer names an extension where none was asked for")]
    Extension,
}

fn hint(fault: HeadFault) -> &'static str {
    match fault {
        HeadFault::Closed => ", as a server does that speaks HTTP/2 only",
        _ => "",
    }
}

/// Returns the head of a request without the blank line at its end. A path is visible ASCII.
pub(crate) fn request(server: &Endpoint, path: &str, subprotocol: &str, nonce: &str) -> String {
    let host = server.host_header();
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {nonce}\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\
         User-Agent: adit/{version}\r\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Holds an answer with status 101 against RFC 6455, 4.1.
pub(crate) fn check(
    head: &Head,
    nonce: &str,
    subprotocol: &'static str,
) -> Result<(), UpgradeFault> {
    let lists = |name, word| head.words(name).any(|w| w.eq_ignore_ascii_case(word));
    if !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
        return Err(UpgradeFault::Upgrade);
    }
    let accept = derive_accept_key(nonce.as_bytes());
    if !head.all("sec-websocket-accept").eq([accept.as_str()]) {
        return Err(UpgradeFault::Accept);
    }
    if head
        .words("sec-websocket-extensions")
        .any(|w| !w.is_empty())
    {
        return Err(UpgradeFault::Extension);
    }
    // None at all is against the RFC's spirit, but means no harm: bytes are bytes.
    match head
        .words("sec-websocket-protocol")
        .find(|&word| word != subprotocol)
    {
        Some(other) => Err(UpgradeFault::Subprotocol {
            named: legible(other),
            asked: subprotocol,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_server_does_that_closes_without_an_answer() {
        for (fault, text) in [
            (
                HeadFault::Closed,
                "the connection was closed without an answer, as a server does that speaks HTTP/2 \
                 only",
            ),
            (HeadFault::NotHttp, "the answer is not HTTP"),
            (HeadFault::Endless, "the answer's head has no end"),
        ] {
            assert_eq!(UpgradeFault::Head(fault).to_string(), text);
        }
    }
}
