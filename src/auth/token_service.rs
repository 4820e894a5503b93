//! A token without MQTT: whoever shows a certificate in TLS is given one over HTTP.
//!
//! `POST https://<host>:8443/devicecontrol/deviceAccessToken` over mutual TLS answers
//! `{"accessToken":"…"}`; without a certificate, and at the port of tunnels, it answers 401. When it is
//! asked is left to the caller.

use std::time::Duration;

use serde::Deserialize;
use smartrest::Token;

use crate::net::request::{Limits, Post, RequestError};
use crate::net::{Endpoint, Transport};

/// Where the platform takes certificates over HTTP.
const PORT: u16 = 8443;
const PATH: &str = "/devicecontrol/deviceAccessToken";
/// Bytes of the answer: more than the largest token that an HTTP header holds.
const ANSWER_LIMIT: usize = 16 << 10;

/// Where the platform gives tokens to certificates.
#[derive(Clone, Debug)]
pub struct TokenService {
    transport: Transport,
    server: Endpoint,
}

/// Why no token was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenServiceError {
    /// There is no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer is another one.
    #[error("{server} gives no token for the certificate (HTTP {status})")]
    Refused {
        /// Host and port.
        server: Endpoint,
        /// The HTTP status.
        status: u16,
    },
    /// What came is none.
    #[error("what {0} sent as a token is none")]
    Rubbish(Endpoint),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "accessToken")]
    access_token: String,
}

impl TokenService {
    /// Asks the host of the cloud. The transport shows the certificate, and goes through the proxy.
    pub fn new(transport: Transport, cloud: &Endpoint) -> Self {
        let server = Endpoint {
            tls: true,
            host: cloud.host.clone(),
            port: PORT,
        };
        Self { transport, server }
    }

    /// Host and port.
    pub(crate) fn server(&self) -> &Endpoint {
        &self.server
    }

    /// Asks for a token. Dropping the future closes the connection.
    ///
    /// # Errors
    /// No token came within `limit`.
    pub(crate) async fn fetch(&self, limit: Duration) -> Result<Token, TokenServiceError> {
        let post = Post {
            path: PATH,
            authorization: None,
            headers: &[("Accept", "application/json")],
            body: b"",
        };
        let limits = Limits {
            time: limit,
            body: ANSWER_LIMIT,
        };
        let answer = self.transport.post(&self.server, &post, limits).await?;
        token(answer.head.status, &answer.body, &self.server)
    }
}

fn token(status: u16, body: &[u8], server: &Endpoint) -> Result<Token, TokenServiceError> {
    if !(200..=299).contains(&status) {
        return Err(TokenServiceError::Refused {
            server: server.clone(),
            status,
        });
    }
    let rubbish = || TokenServiceError::Rubbish(server.clone());
    let answer: Answer = serde_json::from_slice(body).map_err(|_| rubbish())?;
    Token::parse(&answer.access_token).map_err(|_| rubbish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_token_out_of_the_answer_and_shows_nothing_of_another() {
        let server = Endpoint {
            tls: true,
            host: "cloud.example.com".to_owned(),
            port: PORT,
        };
        let read = |status, body: &str| token(status, body.as_bytes(), &server);
        let good = read(201, r#"{"x":[1],"accessToken":"eyJh.eyJz.c2ln"}"#).unwrap();
        assert_eq!(good.expose(), "eyJh.eyJz.c2ln");
        let rubbish = "what cloud.example.com:8443 sent as a token is none";
        let refused = |status| {
            format!("cloud.example.com:8443 gives no token for the certificate (HTTP {status})")
        };
        for (status, body, words) in [
            (401, r#"{"accessToken":"hunter2"}"#, refused(401)),
            (302, "", refused(302)),
            (200, "", rubbish.to_owned()),
            (200, "hunter2", rubbish.to_owned()),
            (200, r#"{"accessToken":"hunter 2"}"#, rubbish.to_owned()),
            (200, r#"{"accessToken":7}"#, rubbish.to_owned()),
            (200, r#"{"token":"hunter2"}"#, rubbish.to_owned()),
        ] {
            assert_eq!(read(status, body).unwrap_err().to_string(), words, "{body}");
        }
    }
}
