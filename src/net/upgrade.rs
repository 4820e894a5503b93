//! The handshake that makes a WebSocket of a connection, for tunnels and for MQTT.
//!
//! It is written here and not left to tungstenite, whose client gives up where a server names no
//! subprotocol and reads no further than the head of a refusal; what the server says in the body is
//! often the only hint. From the first frame on, a WebSocket is tungstenite's.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::address::Endpoint;
use crate::words::legible;

/// Bytes of an answer's head; the platform's have a tenth of it.
pub(crate) const HEAD_LIMIT: usize = 16 << 10;
const HEADER_LIMIT: usize = 64;
/// Bytes of a refusal's body. A longer one is a page for a browser, and says little.
pub(crate) const BODY_LIMIT: usize = 4 << 10;
/// How long a refusal's body may come after its head.
const BODY_WAIT: Duration = Duration::from_millis(500);
/// What is wrong with an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not HTTP at all.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// The stream ended before the head was complete.
    #[error("the connection was closed without an answer")]
    Closed,
    /// The head is longer than any that makes sense.
    #[error("the answer's head has no end")]
    Endless,
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

/// Returns the head of a request without the blank line at its end. A path is visible ASCII.
pub(crate) fn request(server: &Endpoint, path: &str, subprotocol: &str, nonce: &str) -> String {
    let default_port = if server.tls { 443 } else { 80 };
    let host = if server.port == default_port {
        server.bracketed_host()
    } else {
        server.to_string()
    };
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

/// The head of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    length: usize,
}

/// Why there is no answer.
pub(crate) enum ReceiveError {
    Fault(Fault),
    Broken(io::Error),
}

impl Answer {
    /// Reads the head of an answer; behind it is returned what was read of what follows.
    pub(crate) async fn receive(
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<(Self, Vec<u8>), ReceiveError> {
        let mut received = Vec::new();
        let answer = loop {
            match Self::parse(&received).map_err(ReceiveError::Fault)? {
                Some(answer) => break answer,
                None if received.len() >= HEAD_LIMIT => {
                    return Err(ReceiveError::Fault(Fault::Endless));
                }
                None => {}
            }
            match stream.read_buf(&mut received).await {
                Ok(0) => return Err(ReceiveError::Fault(Fault::Closed)),
                Ok(_) => {}
                // TLS that ended without saying so.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ReceiveError::Fault(Fault::Closed));
                }
                Err(error) => return Err(ReceiveError::Broken(error)),
            }
        };
        let rest = received.split_off(answer.length);
        Ok((answer, rest))
    }

    /// Reads a head, `None` if it is not complete yet.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Fault::Endless),
            Err(_) => return Err(Fault::NotHttp),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        Ok(Some(Self {
            status: answer.code.ok_or(Fault::NotHttp)?,
            headers: answer
                .headers
                .iter()
                .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
                .collect(),
            length,
        }))
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |header| header.0 == name);
        named.map(|header| header.1.as_str())
    }

    /// The values of a header that is a list of words.
    fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(|v| v.split(',')).map(str::trim)
    }

    /// Holds an answer with status 101 against RFC 6455, 4.1.
    pub(crate) fn check(&self, nonce: &str, subprotocol: &'static str) -> Result<(), Fault> {
        let lists = |name, word| self.words(name).any(|w| w.eq_ignore_ascii_case(word));
        if !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
            return Err(Fault::Upgrade);
        }
        let accept = derive_accept_key(nonce.as_bytes());
        if !self.all("sec-websocket-accept").eq([accept.as_str()]) {
            return Err(Fault::Accept);
        }
        if self
            .words("sec-websocket-extensions")
            .any(|w| !w.is_empty())
        {
            return Err(Fault::Extension);
        }
        // None at all is against the RFC's spirit, but means no harm: bytes are bytes.
        match self
            .words("sec-websocket-protocol")
            .find(|&word| word != subprotocol)
        {
            Some(other) => Err(Fault::Subprotocol {
                named: legible(other),
                asked: subprotocol,
            }),
            None => Ok(()),
        }
    }

    /// Reads the body of a refusal, `None` if it is not text, or does not come whole and soon.
    pub(crate) async fn read_body(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        body: &mut Vec<u8>,
    ) -> Option<String> {
        let length = match self.all("content-length").next() {
            Some(length) => Some(length.parse::<usize>().ok()?),
            None => None,
        };
        let chunked = self
            .words("transfer-encoding")
            .any(|word| word == "chunked");
        let whole = |body: &[u8]| match length {
            Some(length) => length <= body.len(),
            None => chunked && body.ends_with(b"\r\n0\r\n\r\n"),
        };
        let read = async {
            while !whole(body) && body.len() <= BODY_LIMIT {
                if stream.read_buf(body).await.ok()? == 0 {
                    return (length.is_none() && !chunked).then_some(());
                }
            }
            (body.len() <= BODY_LIMIT).then_some(())
        };
        timeout(BODY_WAIT, read).await.ok()??;
        let text = std::str::from_utf8(body).ok()?;
        if !chunked {
            return Some(text.to_owned());
        }
        // A short body comes in one chunk; it stands between its length and the end of all chunks.
        let (_, text) = text.split_once("\r\n")?;
        Some(text.strip_suffix("\r\n0\r\n\r\n")?.to_owned())
    }
}
