//! The device WebSocket: the handshake, and its failures in words.
//!
//! The URL holds the connection key and a header the credentials. Nothing of the request is ever
//! part of an error, not even where the server sends it back.

use std::io;
use std::time::Duration;

use serde_json::Value;
use smartrest::ConnectionKey;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::net::credentials::Hidden;
use crate::net::head::{Head, HeadError, Step};
use crate::net::tcp;
use crate::net::upgrade::{self, UpgradeFault};
use crate::net::{Endpoint, Stream, Transport, TransportError, UnbufferedStream};
use crate::secret::Secret;
use crate::tunnel::relay::CloudSocket;

const PATH: &str = "/service/remoteaccess/device/";
const SUBPROTOCOL: &str = "binary";

/// Bytes of an answer that are repeated.
const HINT_LIMIT: usize = 120;
/// Unsent bytes that the kernel takes for a connection. A ping waits behind them, and on a slow
/// line the megabytes that the kernel would otherwise take delay it until the cloud seems dead.
const UNSENT_LIMIT: u32 = 128 << 10;

/// Why the WebSocket did not open.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// TCP, TLS or the name failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The cloud was reached and said nothing.
    #[error("{cloud} did not open the WebSocket within {}", humantime::format_duration(*limit))]
    Timeout {
        /// Host and port.
        cloud: String,
        /// The time it had.
        limit: Duration,
    },
    /// The cloud refused with an HTTP status.
    #[error(
        "{cloud} refused the WebSocket with HTTP {status}: {}{}",
        meaning(*status, *author), said(hint)
    )]
    Refused {
        /// Host and port.
        cloud: String,
        /// The HTTP status.
        status: u16,
        /// Whoever wrote the answer.
        author: Author,
        /// What the server said in the answer, made legible; empty if nothing.
        hint: String,
    },
    /// An answer that does not open a WebSocket as RFC 6455 says.
    #[error("{cloud} does not speak WebSocket: {fault}")]
    NotWebSocket {
        /// Host and port.
        cloud: String,
        /// What is wrong with the answer.
        fault: UpgradeFault,
    },
    /// The connection broke between the request and the answer.
    #[error("the connection to {cloud} broke before the WebSocket was open")]
    Broken {
        /// Host and port.
        cloud: String,
        /// What the system said.
        source: io::Error,
    },
    /// The credentials would change the request.
    #[error("the credentials contain characters that cannot stand in an HTTP header")]
    Credentials,
}

/// Who seems to have written a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Author {
    /// It is as the platform's refusals are.
    Platform,
    /// It is a page for a browser: a web server, or a box in between.
    WebServer,
    /// It could be anybody's.
    Anybody,
}

impl EndpointError {
    /// Returns the HTTP status of a refusal; 401 may be worth another attempt with a new token.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Opens the device WebSocket of a connection key within `limit`.
///
/// `authorization` is the whole value of the header. Dropping the future
/// closes what is half open.
pub(crate) async fn connect(
    transport: &Transport,
    cloud: &Endpoint,
    key: &ConnectionKey,
    authorization: &Secret,
    limit: Duration,
) -> Result<CloudSocket<Stream>, EndpointError> {
    let began = Instant::now();
    let stream = transport.connect_unbuffered(cloud, limit).await?;
    limit_unsent(stream.stream());
    let left = limit.saturating_sub(began.elapsed());
    timeout(left, open(stream, cloud, key, authorization))
        .await
        .map_err(|_| EndpointError::Timeout {
            cloud: cloud.to_string(),
            limit,
        })?
}

fn limit_unsent(stream: &Stream) {
    if let Err(error) = tcp::limit_unsent(stream.tcp(), UNSENT_LIMIT) {
        tracing::debug!(%error, "the kernel does not limit unsent bytes");
    }
}

pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: UnbufferedStream<S>,
    cloud: &Endpoint,
    key: &ConnectionKey,
    authorization: &Secret,
) -> Result<CloudSocket<S>, EndpointError> {
    let nonce = generate_key();
    let request = request(cloud, key, authorization, &nonce)?;
    let place = cloud.to_string();
    let broken = |source| EndpointError::Broken {
        cloud: place.clone(),
        source,
    };
    let no_websocket = |fault| EndpointError::NotWebSocket {
        cloud: place.clone(),
        fault,
    };
    stream
        .write_all(request.expose().as_bytes())
        .await
        .map_err(broken)?;
    stream.flush().await.map_err(broken)?;

    let (head, mut rest) =
        Head::receive(&mut stream, Step::Any)
            .await
            .map_err(|error| match error {
                HeadError::Fault(fault) => no_websocket(UpgradeFault::Head(fault)),
                HeadError::Broken(source) => broken(source),
            })?;
    let hidden = hidden(key, authorization);
    if head.status != 101 {
        let body = head.read_body(&mut stream, &mut rest).await;
        return Err(EndpointError::Refused {
            cloud: place,
            status: head.status,
            author: author(&head, body.as_deref(), &rest),
            hint: hint(&head, body.as_deref(), &hidden),
        });
    }
    upgrade::check(&head, &nonce, SUBPROTOCOL)
        .map_err(|fault| no_websocket(without_secrets(fault, &hidden)))?;
    Ok(CloudSocket::new(stream, rest))
}

fn request(
    cloud: &Endpoint,
    key: &ConnectionKey,
    authorization: &Secret,
    nonce: &str,
) -> Result<Secret, EndpointError> {
    let authorization = authorization.expose();
    if !authorization.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(EndpointError::Credentials);
    }
    let path = format!("{PATH}{}", key.expose());
    let head = upgrade::request(cloud, &path, SUBPROTOCOL, nonce);
    Ok(Secret::new(format!(
        "{head}Authorization: {authorization}\r\n\r\n"
    )))
}

fn meaning(status: u16, author: Author) -> String {
    let meaning = match status {
        300..=399 => "the platform is somewhere else, check cloud.url",
        400 => "the request was not understood",
        401 => "the credentials are refused, or the connection key was used or has expired",
        403 => "the device's user may not open tunnels, or the connection key has expired",
        404 => "the connection key is unknown, was used or has expired",
        407 => "a proxy on the way wants credentials",
        429 => "the platform is asked too often",
        500..=599 => "the platform, or something in front of it, has a fault",
        200..=299 => "this is a web server, but not a WebSocket, check cloud.url",
        _ => "the platform does not want the tunnel",
    };
    match (author, status) {
        // These say already that somebody else may be speaking, or are nobody's secret.
        (_, 200..=399 | 407 | 429 | 500..=599) | (Author::Platform | Author::Anybody, _) => {
            meaning.to_owned()
        }
        (Author::WebServer, _) => format!(
            "this is a web page and no answer of the platform, check cloud.url and what is in \
             between; if both are right, {meaning}"
        ),
    }
}

fn said(hint: &str) -> String {
    match hint {
        "" => String::new(),
        hint => format!(" ({hint})"),
    }
}

/// Says who wrote a refusal; `received` is what came of its body, whole or not.
fn author(head: &Head, body: Option<&str>, received: &[u8]) -> Author {
    let types: Vec<_> = head
        .all("content-type")
        .map(str::to_ascii_lowercase)
        .collect();
    let is_of_type = |part| types.iter().any(|media_type| media_type.contains(part));
    let beginning = String::from_utf8_lossy(received).to_ascii_lowercase();
    // The platform words each refusal as an object of a code, a message and a link.
    let refusal = body.and_then(object).is_some_and(|object| {
        ["error", "message"]
            .iter()
            .all(|name| object.get(*name).is_some_and(Value::is_string))
    });
    if refusal || is_of_type("cumulocity") {
        Author::Platform
    } else if is_of_type("html")
        || body.is_some_and(|body| body.trim_start().starts_with('<'))
        || beginning.contains("<html")
        || beginning.contains("<!doctype")
    {
        Author::WebServer
    } else {
        Author::Anybody
    }
}

fn object(body: &str) -> Option<serde_json::Map<String, Value>> {
    serde_json::from_str(body).ok()
}

/// Returns what a refusal says, if that is short text for people, and nothing of what it repeats.
fn hint(head: &Head, body: Option<&str>, hidden: &Hidden) -> String {
    if let 300..=399 = head.status {
        let location = head.all("location").next().unwrap_or_default();
        let whole = hidden.words(location, HINT_LIMIT);
        return match whole.is_empty() {
            true => hidden.words(origin(location).unwrap_or_default(), HINT_LIMIT),
            false => whole,
        };
    }
    let body = body.unwrap_or_default();
    if body.trim_start().starts_with('<') {
        return String::new();
    }
    let whole = hidden.words(body, HINT_LIMIT);
    if !whole.is_empty() {
        return whole;
    }
    // Where the path is repeated beside it, the message alone may still be shown.
    let object = object(body).unwrap_or_default();
    let message = object.get("message").and_then(Value::as_str);
    hidden.words(message.unwrap_or_default(), HINT_LIMIT)
}

/// Returns scheme and host of a URL, `None` if it has none or somebody's password.
fn origin(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let origin = url.get(..scheme.len() + "://".len() + length)?;
    (!origin.contains('@')).then_some(origin)
}

fn without_secrets(fault: UpgradeFault, hidden: &Hidden) -> UpgradeFault {
    match fault {
        UpgradeFault::Subprotocol { named, asked } => UpgradeFault::Subprotocol {
            named: match hidden.words(&named, HINT_LIMIT) {
                named if named.is_empty() => "…".to_owned(),
                named => named,
            },
            asked,
        },
        fault => fault,
    }
}

fn hidden(key: &ConnectionKey, authorization: &Secret) -> Hidden {
    Hidden::default()
        .and(key.expose())
        .and_header(authorization)
}

/// Whether a text repeats something that nobody may read, in whatever disguise.
pub(crate) fn repeats_secret(text: &str, key: &ConnectionKey, authorization: &Secret) -> bool {
    hidden(key, authorization).is_in(text)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::SinkExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::task::JoinHandle;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::net::basic;
    use crate::net::head::{BODY_LIMIT, HEAD_LIMIT};
    use crate::words::failure_reason;

    const LIMIT: Duration = Duration::from_secs(10);
    const KEY: &str = "3f2c-key";
    const PASSWORD: &str = "hunter2";

    fn credentials() -> Secret {
        basic("t1/device_gw", &Secret::new(PASSWORD))
    }

    fn key() -> ConnectionKey {
        ConnectionKey::parse(KEY).unwrap()
    }

    fn transport() -> Transport {
        Transport::new(&[]).unwrap()
    }

    /// A server that gives one answer, `{accept}` in it filled in, and `early` in the same breath;
    /// it returns the request and the stream.
    async fn server(
        answer: String,
        early: &'static [u8],
    ) -> (Endpoint, JoinHandle<(String, tokio::net::TcpStream)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let request = String::from_utf8(request).unwrap();
            let nonce = header(&request, "Sec-WebSocket-Key");
            let accept = derive_accept_key(nonce.as_bytes());
            let answer = answer.replace("{accept}", &accept);
            let all = [answer.as_bytes(), early].concat();
            stream.write_all(&all).await.unwrap();
            (request, stream)
        });
        let cloud = Endpoint {
            tls: false,
            host: "127.0.0.1".into(),
            port,
        };
        (cloud, serving)
    }

    fn header<'a>(request: &'a str, name: &str) -> &'a str {
        let prefix = format!("{name}: ");
        let mut lines = request.lines();
        lines.find_map(|line| line.strip_prefix(&prefix)).unwrap()
    }

    fn switching(more: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
             Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: {{accept}}\r\n{more}\r\n"
        )
    }

    async fn refusal(answer: String) -> (EndpointError, String) {
        let (cloud, serving) = server(answer, b"").await;
        let error = connect(&transport(), &cloud, &key(), &credentials(), LIMIT)
            .await
            .unwrap_err();
        let text = failure_reason(&error, 1000).replace(&cloud.to_string(), "CLOUD");
        serving.await.unwrap();
        (error, text)
    }

    #[tokio::test]
    async fn asks_as_the_platform_wants_it() {
        let (cloud, serving) = server(switching("Sec-WebSocket-Protocol: binary\r\n"), b"").await;
        connect(&transport(), &cloud, &key(), &credentials(), LIMIT)
            .await
            .unwrap();
        let (request, _) = serving.await.unwrap();
        assert!(
            request.starts_with("GET /service/remoteaccess/device/3f2c-key HTTP/1.1\r\n"),
            "{request}"
        );
        for (name, value) in [
            ("Host", cloud.to_string().as_str()),
            ("Authorization", "Basic dDEvZGV2aWNlX2d3Omh1bnRlcjI="),
            ("Sec-WebSocket-Protocol", "binary"),
            ("Sec-WebSocket-Version", "13"),
            ("User-Agent", concat!("adit/", env!("CARGO_PKG_VERSION"))),
        ] {
            assert_eq!(header(&request, name), value);
        }
    }

    #[test]
    fn names_the_port_only_where_it_is_not_the_usual_one() {
        for (tls, host, port, expected) in [
            (true, "tenant.example.com", 443, "tenant.example.com"),
            (true, "tenant.example.com", 8443, "tenant.example.com:8443"),
            (false, "tenant.example.com", 443, "tenant.example.com:443"),
            (false, "fd00::7", 80, "[fd00::7]"),
            (false, "fd00::7", 8080, "[fd00::7]:8080"),
        ] {
            let cloud = Endpoint {
                tls,
                host: host.into(),
                port,
            };
            let request = request(&cloud, &key(), &credentials(), "n").unwrap();
            assert_eq!(header(request.expose(), "Host"), expected);
        }
    }

    #[tokio::test]
    async fn works_with_and_without_a_subprotocol_and_keeps_early_bytes() {
        for more in ["", "sec-websocket-protocol: binary\r\n"] {
            let (cloud, serving) = server(switching(more), b"\x82\x05early").await;
            let mut socket = connect(&transport(), &cloud, &key(), &credentials(), LIMIT)
                .await
                .unwrap();
            let (_, stream) = serving.await.unwrap();
            let mut server = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            server.send(Message::binary("late")).await.unwrap();
            let received = socket.first_bytes(13).await;
            assert_eq!(received, b"\x82\x05early\x82\x04late", "{more}");
        }
    }

    #[tokio::test]
    async fn says_why_the_cloud_refused() {
        let long = "x".repeat(BODY_LIMIT + 1);
        for (answer, status, text) in [
            (
                "401 Unauthorized\r\nContent-Length: 15\r\n\r\nBad credentials".to_owned(),
                401,
                "CLOUD refused the WebSocket with HTTP 401: the credentials are refused, or the \
                 connection key was used or has expired (Bad credentials)",
            ),
            (
                "404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n\
                 10\r\n{\"error\":\"gone\"}\r\n0\r\n\r\n"
                    .to_owned(),
                404,
                "CLOUD refused the WebSocket with HTTP 404: the connection key is unknown, was \
                 used or has expired ({'error':'gone'})",
            ),
            (
                format!("403 Forbidden\r\nContent-Length: {}\r\n\r\n{long}", long.len()),
                403,
                "CLOUD refused the WebSocket with HTTP 403: the device's user may not open \
                 tunnels, or the connection key has expired",
            ),
            (
                // In chunks, and behind an interim answer.
                "103 Early Hints\r\nLink: </s.css>\r\n\r\nHTTP/1.1 404 Not Found\r\n\
                 Transfer-Encoding: chunked\r\n\r\n\
                 9\r\n{\"error\":\r\n7;x=y\r\n\"gone\"}\r\n0\r\nX: y\r\n\r\n"
                    .to_owned(),
                404,
                "CLOUD refused the WebSocket with HTTP 404: the connection key is unknown, was \
                 used or has expired ({'error':'gone'})",
            ),
            (
                "404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9999\r\n\r\n404"
                    .to_owned(),
                404,
                "CLOUD refused the WebSocket with HTTP 404: this is a web page and no answer of \
                 the platform, check cloud.url and what is in between; if both are right, the \
                 connection key is unknown, was used or has expired",
            ),
            (
                "403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n\
                 f\r\n<!DOCTYPE html>\r\n0\r\n\r\n"
                    .to_owned(),
                403,
                "CLOUD refused the WebSocket with HTTP 403: this is a web page and no answer of \
                 the platform, check cloud.url and what is in between; if both are right, the \
                 device's user may not open tunnels, or the connection key has expired",
            ),
            (
                "503 Down\r\nContent-Length: 30\r\n\r\n<html><h1>Down</h1></html>    ".to_owned(),
                503,
                "CLOUD refused the WebSocket with HTTP 503: the platform, or something in front \
                 of it, has a fault",
            ),
            (
                "500 Oops\r\nContent-Length: 9\r\n\r\na\n\u{1b}[2J\0 b".to_owned(),
                500,
                "CLOUD refused the WebSocket with HTTP 500: the platform, or something in front \
                 of it, has a fault (a [2J b)",
            ),
            (
                "302 Found\r\nLocation: https://elsewhere.example.com/\r\nContent-Length: 0\r\n\r\n"
                    .to_owned(),
                302,
                "CLOUD refused the WebSocket with HTTP 302: the platform is somewhere else, check \
                 cloud.url (https://elsewhere.example.com/)",
            ),
            (
                "200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
                200,
                "CLOUD refused the WebSocket with HTTP 200: this is a web server, but not a \
                 WebSocket, check cloud.url",
            ),
        ] {
            // The version that load balancers speak when they have nobody to ask.
            for version in ["HTTP/1.0", "HTTP/1.1"] {
                let (error, said) = refusal(format!("{version} {answer}")).await;
                assert_eq!(error.status(), Some(status));
                assert_eq!(said, text);
            }
        }
    }

    #[tokio::test]
    async fn repeats_no_secret_that_the_cloud_sends_back() {
        let token = credentials().expose().replace("Basic ", "");
        for body in [
            format!("no tunnel {KEY}"),
            "no tunnel 3f2c-\n\u{7}key".to_owned(),
            "no tunnel 3F2C-KEY".to_owned(),
            "no tunnel 3f2c%2Dkey".to_owned(),
            r#"{"path":"\/service\/3f2c\u002dkey"}"#.to_owned(),
            format!("Authorization: Basic {token}"),
            format!("AUTHORIZATION: BASIC {}", token.to_uppercase()),
            format!("wrong password {PASSWORD}"),
        ] {
            let answer = format!(
                "HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let (_, said) = refusal(answer).await;
            assert!(said.ends_with("the request was not understood"), "{said}");
        }
        let body = format!(r#"{{"status":404,"error":"x","message":"gone","path":"/{KEY}"}}"#);
        let (_, said) = refusal(format!(
            "HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        assert!(said.ends_with("not understood (gone)"), "{said}");
        for (location, shown) in [
            ("/x/3F2C-key", "check cloud.url"),
            (
                "https://login.example.com:8443?to=3f2c%2Dkey",
                "(https://login.example.com:8443)",
            ),
            ("https://a:b@example.com/3f2c-key", "check cloud.url"),
            ("https://3f2c-key.example.com/3f2c-key", "check cloud.url"),
        ] {
            let (_, said) = refusal(format!(
                "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
            assert!(said.ends_with(shown), "{said}");
        }
        let (_, said) = refusal(switching(&format!("Sec-WebSocket-Protocol: {KEY}\r\n"))).await;
        assert!(!said.contains(KEY), "{said}");
    }

    #[tokio::test]
    async fn says_what_is_no_websocket() {
        for (answer, fault) in [
            (
                "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
                "the answer is not HTTP",
            ),
            (
                "\0\0\0\u{4}\0\0\0\0\0".to_owned(),
                "the answer is HTTP/2, and nobody there speaks HTTP/1.1",
            ),
            (
                switching("Sec-WebSocket-Protocol: mqtt\r\n"),
                "the answer names the subprotocol 'mqtt' where 'binary' was asked for",
            ),
            (
                switching("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
                "the answer names an extension where none was asked for",
            ),
            (
                switching("").replace("{accept}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
                "the answer belongs to another request (sec-websocket-accept)",
            ),
            (
                switching("").replace("WebSocket\r\nC", "h2c\r\nC"),
                "the answer does not say 'upgrade: websocket'",
            ),
            (
                format!("HTTP/1.1 101 X\r\nA: {}", "x".repeat(HEAD_LIMIT)),
                "the answer's head has no end",
            ),
        ] {
            let (error, said) = refusal(answer).await;
            assert_eq!(error.status(), None);
            assert_eq!(said, format!("CLOUD does not speak WebSocket: {fault}"));
        }
    }

    #[tokio::test]
    async fn tells_silence_from_a_closed_door() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Nobody listens there, and nobody else can.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let attempt = async |at: SocketAddr, limit| {
            let cloud = Endpoint {
                tls: false,
                host: at.ip().to_string(),
                port: at.port(),
            };
            let error = connect(&transport(), &cloud, &key(), &credentials(), limit)
                .await
                .unwrap_err();
            failure_reason(&error, 1000).replace(&cloud.to_string(), "CLOUD")
        };
        assert_eq!(
            attempt(silent.local_addr().unwrap(), Duration::from_millis(50)).await,
            "CLOUD did not open the WebSocket within 50ms"
        );
        assert_eq!(
            attempt(closed.local_addr().unwrap(), LIMIT).await,
            "cannot reach CLOUD: connection refused"
        );
    }

    #[test]
    fn does_not_let_credentials_write_headers() {
        let cloud = Endpoint {
            tls: true,
            host: "tenant.example.com".into(),
            port: 443,
        };
        let smuggled = Secret::new("Bearer x\r\nHost: elsewhere.example.com");
        let error = request(&cloud, &key(), &smuggled, "n").unwrap_err();
        assert!(matches!(error, EndpointError::Credentials));
    }
}
