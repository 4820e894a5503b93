//! As much HTTP as a WebSocket handshake needs.
//!
//! The request is read here and not by the WebSocket library, because a simulated platform must
//! be able to wait before it answers, and to answer what no library would.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::options::Login;
use crate::stream::Stream;

const MAX_HEAD: usize = 16 * 1024;
/// Above what any test sends in one message.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// The library fills the whole buffer with zeros before each read.
const READ_BUFFER: usize = 64 * 1024;

/// The body of a request that is read to its end.
const MAX_BODY: usize = 64 * 1024;

/// The head of a request.
pub(crate) struct Request {
    /// `GET` or `POST`.
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    /// What came behind the head.
    rest: Vec<u8>,
}

impl Request {
    /// Reads a head; what is no HTTP is an error.
    pub(crate) async fn read(stream: &mut Stream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if bytes.len() > MAX_HEAD {
                return Err(io::Error::other("the request head is too long"));
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let rest = bytes.split_off(end + 4);
        let head = String::from_utf8_lossy(&bytes);
        let mut lines = head.lines();
        let (method, path) = lines
            .next()
            .and_then(|line| line.strip_suffix(" HTTP/1.1")?.split_once(' '))
            .filter(|(method, _)| ["GET", "POST"].contains(method))
            .map(|(method, path)| (method.to_owned(), path.to_owned()))
            .ok_or_else(|| io::Error::other("neither GET nor POST of HTTP 1.1"))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Self {
            method,
            path,
            headers,
            rest,
        })
    }

    /// Reads the body, whose length the head tells.
    pub(crate) async fn read_body(&mut self, stream: &mut Stream) -> io::Result<Vec<u8>> {
        let length = self
            .header("content-length")
            .and_then(|text| text.parse().ok());
        let length = length.unwrap_or(0);
        if length > MAX_BODY {
            return Err(io::Error::other("the request body is too long"));
        }
        let mut body = std::mem::take(&mut self.rest);
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(body)
    }

    /// Returns user and password of `Authorization: Basic`, with a colon between.
    pub(crate) fn basic(&self) -> Option<String> {
        let (scheme, value) = self.header("authorization")?.split_once(' ')?;
        let is_basic = scheme.eq_ignore_ascii_case("basic");
        let pair = STANDARD.decode(value.trim()).ok().filter(|_| is_basic)?;
        String::from_utf8(pair).ok()
    }

    /// Returns the value of a header, whose name is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the scheme of `Authorization`.
    pub(crate) fn authorization_scheme(&self) -> Option<&str> {
        self.header("authorization")?.split_whitespace().next()
    }

    /// Returns the token of `Authorization: Bearer`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// Returns the value of a cookie.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let mut pairs = self.header("cookie")?.split(';');
        pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the subprotocols that are asked for.
    pub(crate) fn protocols(&self) -> Vec<String> {
        self.header("sec-websocket-protocol")
            .map(|value| {
                value
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Returns whether the request comes from `login`.
    pub(crate) fn is_from(&self, login: &Login) -> bool {
        let Login {
            tenant,
            user,
            password,
        } = login;
        let expected = STANDARD.encode(format!("{tenant}/{user}:{password}"));
        self.header("authorization")
            .and_then(|value| value.split_once(' '))
            .is_some_and(|(scheme, value)| {
                scheme.eq_ignore_ascii_case("basic") && value.trim() == expected
            })
    }

    /// Returns the answer to the client's challenge; `None` if it does not want a WebSocket.
    pub(crate) fn accept_key(&self) -> Option<String> {
        let wanted = self.header("upgrade")?.eq_ignore_ascii_case("websocket")
            && self.header("sec-websocket-version")? == "13";
        let key = self.header("sec-websocket-key")?;
        wanted.then(|| derive_accept_key(key.as_bytes()))
    }

    /// Answers with 101 and returns the WebSocket.
    pub(crate) async fn upgrade(
        self,
        mut stream: Stream,
        accept_key: &str,
        protocol: Option<&str>,
    ) -> io::Result<WebSocketStream<Stream>> {
        let protocol = protocol
            .map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"))
            .unwrap_or_default();
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept_key}\r\n{protocol}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        let config = Some(web_socket_config());
        Ok(WebSocketStream::from_partially_read(stream, self.rest, Role::Server, config).await)
    }
}

/// Returns limits that no test runs into.
pub(crate) fn web_socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Answers with an error and ends the connection.
pub(crate) async fn refuse(stream: &mut Stream, status: u16, body: &str) -> io::Result<()> {
    let challenge = match status {
        401 => "WWW-Authenticate: Basic realm=\"Cloud of Things\"\r\n",
        _ => "",
    };
    respond(stream, status, challenge, body).await
}

/// Answers with JSON and ends the connection; each of the further headers ends its line.
pub(crate) async fn respond(
    stream: &mut Stream,
    status: u16,
    headers: &str,
    body: &str,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n",
        phrase(status),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Returns an error's body in the manner of the platform.
pub(crate) fn error_body(status: u16) -> String {
    let (error, message) = match status {
        401 => (
            "security/Unauthorized",
            "Invalid credentials! : Bad credentials",
        ),
        403 => ("security/Forbidden", "Access is denied"),
        404 => ("remoteaccess/Not Found", "There is no such connection"),
        409 => ("remoteaccess/Conflict", "The connection key was used"),
        503 => ("general/unavailable", "Service Unavailable"),
        _ => ("general/internalError", "Something went wrong"),
    };
    format!(r#"{{"error":"{error}","message":"{message}"}}"#)
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        410 => "Gone",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}
