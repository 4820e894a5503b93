//! One request over HTTP, and its answer: what is asked of the platform besides MQTT and tunnels.
//!
//! A connection serves one request. The answer is read as far as a limit allows and not a byte
//! further; redirects are handed to the caller like any other answer, because what is sent is a
//! secret that only the configured server may see.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::address::Endpoint;
use super::error::TransportError;
use super::head::{BodyFault, Head, HeadError, HeadFault, Step};
use super::transport::Transport;
use crate::secret::Secret;

/// What is sent with POST.
pub(crate) struct Post<'a> {
    /// Visible ASCII with `/` at its start.
    pub path: &'a str,
    /// The value of `Authorization`, where there is one.
    pub authorization: Option<&'a Secret>,
    /// Name and value, each visible ASCII.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// What an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the server's name to the last byte of the answer.
    pub time: Duration,
    /// Bytes of the answer's body.
    pub body: usize,
}

/// An answer of any status.
#[derive(Debug)]
pub(crate) struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The server was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It did not answer in time.
    #[error("{server} did not answer the request within {}", humantime::format_duration(*limit))]
    Silent {
        /// Host and port.
        server: Endpoint,
        /// The time for all of the exchange.
        limit: Duration,
    },
    /// What it answers is no HTTP.
    #[error("{server} does not answer in HTTP as it should: {fault}")]
    Head {
        /// Host and port.
        server: Endpoint,
        /// What is wrong with the answer.
        fault: HeadFault,
    },
    /// The answer's body does not come whole, or has no end.
    #[error("{server} answers with HTTP {status}, but {fault}")]
    Body {
        /// Host and port.
        server: Endpoint,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the body.
        fault: BodyFault,
    },
    /// The connection broke.
    #[error("the connection to {server} broke before it had answered")]
    Broken {
        /// Host and port.
        server: Endpoint,
        /// What the system said.
        source: io::Error,
    },
}

impl Transport {
    /// Sends a request on a connection of its own and reads the answer. Dropping the future closes
    /// the connection.
    ///
    /// # Errors
    /// There is no whole answer within the limits.
    pub(crate) async fn post(
        &self,
        server: &Endpoint,
        post: &Post<'_>,
        limits: Limits,
    ) -> Result<Response, RequestError> {
        let began = Instant::now();
        let stream = self.connect(server, limits.time).await?;
        let left = limits.time.saturating_sub(began.elapsed());
        let exchange = exchange(stream, server, post, limits.body);
        timeout(left, exchange).await.unwrap_or_else(|_| {
            Err(RequestError::Silent {
                server: server.clone(),
                limit: limits.time,
            })
        })
    }
}

/// Sends a request to the server at the other end of `stream`, and reads the answer.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    server: &Endpoint,
    post: &Post<'_>,
    body_limit: usize,
) -> Result<Response, RequestError> {
    let broken = |source| RequestError::Broken {
        server: server.clone(),
        source,
    };
    let head = head(server, post);
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    stream.write_all(post.body).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let (head, received) =
        Head::receive(&mut stream, Step::Any)
            .await
            .map_err(|error| match error {
                HeadError::Fault(fault) => RequestError::Head {
                    server: server.clone(),
                    fault,
                },
                HeadError::Broken(source) => broken(source),
            })?;
    let body = head.read_whole(&mut stream, received, body_limit).await;
    let body = body.map_err(|fault| RequestError::Body {
        server: server.clone(),
        status: head.status,
        fault,
    })?;
    Ok(Response { head, body })
}

fn head(server: &Endpoint, post: &Post<'_>) -> Zeroizing<String> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Connection: close\r\n\
         Content-Length: {length}\r\n\
         User-Agent: adit/{version}\r\n",
        path = post.path,
        host = server.host_header(),
        length = post.body.len(),
        version = env!("CARGO_PKG_VERSION"),
    );
    for (name, value) in post.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if let Some(authorization) = post.authorization {
        head.extend(["Authorization: ", authorization.expose(), "\r\n"]);
    }
    head.push_str("\r\n");
    Zeroizing::new(head)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::words::failure_reason;

    fn server() -> Endpoint {
        Endpoint {
            tls: true,
            host: "cloud.example.com".to_owned(),
            port: 443,
        }
    }

    fn post<'a>(authorization: &'a Secret) -> Post<'a> {
        Post {
            path: "/service",
            authorization: Some(authorization),
            headers: &[("Content-Type", "text/plain")],
            body: b"asked",
        }
    }

    /// Asks a server that answers with `answer` and then ends.
    async fn ask(answer: &[u8]) -> (String, Result<Response, RequestError>) {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let secret = Secret::new("Bearer abc");
        let response = exchange(near, &server(), &post(&secret), 16).await;
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        (asked, response)
    }

    #[tokio::test]
    async fn asks_once_and_returns_what_is_answered() {
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone, and more";
        let (asked, response) = ask(answer).await;
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            asked,
            format!(
                "POST /service HTTP/1.1\r\nHost: cloud.example.com\r\nConnection: close\r\n\
                 Content-Length: 5\r\nUser-Agent: adit/{version}\r\nContent-Type: text/plain\r\n\
                 Authorization: Bearer abc\r\n\r\nasked"
            )
        );
        let response = response.unwrap();
        assert_eq!(response.head.status, 201);
        assert_eq!(response.body, b"done");
    }

    #[tokio::test]
    async fn waits_for_no_body_where_there_is_none() {
        for answer in [
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
        ] {
            // The connection stays open.
            let (near, mut far) = tokio::io::duplex(1 << 20);
            far.write_all(answer.as_bytes()).await.unwrap();
            let secret = Secret::new("Bearer abc");
            let (server, post) = (server(), post(&secret));
            let asked = timeout(Duration::from_secs(5), exchange(near, &server, &post, 16));
            let response = asked.await.expect("an answer in time").unwrap();
            assert_eq!(response.body, b"", "{answer}");
        }
    }

    #[tokio::test]
    async fn says_why_there_is_no_answer() {
        let long = "x".repeat(17);
        for (answer, words) in [
            (
                "",
                "cloud.example.com:443 does not answer in HTTP as it should: the connection was \
                 closed without an answer",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n",
                "cloud.example.com:443 answers with HTTP 200, but its body is longer than 16 bytes",
            ),
            (
                &format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
                "cloud.example.com:443 answers with HTTP 200, but its body is longer than 16 bytes",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                "cloud.example.com:443 answers with HTTP 200, but nobody can tell where its body \
                 ends",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nx",
                "cloud.example.com:443 answers with HTTP 200, but its body is cut",
            ),
        ] {
            let error = ask(answer.as_bytes()).await.1.unwrap_err();
            assert_eq!(failure_reason(&error, 500), words);
        }
    }
}
