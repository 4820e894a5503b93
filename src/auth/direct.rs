//! A token for the certificate alone, without MQTT.
//!
//! The platform gives one to whoever shows a device's certificate in the TLS handshake, at a port of
//! its own. That needs no login at the broker, where a second one would throw a running agent out.

use std::time::Duration;

use serde::Deserialize;
use smartrest::Token;

use super::token::header;
use crate::net::credentials::Hidden;
use crate::net::request::{Limits, Post, RequestError};
use crate::net::{Endpoint, Transport};
use crate::secret::Secret;

/// The platform's port for mutual TLS.
const PORT: u16 = 8443;
const PATH: &str = "/devicecontrol/deviceAccessToken";
/// A token has some 770 bytes.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(20),
    body: 16 << 10,
};
/// Bytes of what a peer says that are repeated.
const SAID_LIMIT: usize = 200;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoDirectToken {
    /// There is no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The platform refuses.
    #[error(
        "the platform gives no token at port {PORT} (HTTP {status}){}",
        said(words)
    )]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it says, made legible.
        words: String,
    },
    /// It agrees, and what it sends is none.
    #[error("what the platform sends as a token at port {PORT} is none")]
    Rubbish,
}

fn said(words: &str) -> String {
    match words {
        "" => String::new(),
        words => format!(" ({words})"),
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "accessToken")]
    token: String,
}

/// Asks the platform for a token, and returns the value of an `Authorization` header. `transport`
/// goes the way of the tunnels, and shows the certificate.
///
/// # Errors
/// There is none.
pub(crate) async fn token(
    transport: &Transport,
    platform: &Endpoint,
) -> Result<Secret, NoDirectToken> {
    let server = Endpoint {
        tls: true,
        host: platform.host.clone(),
        port: PORT,
    };
    let post = Post {
        path: PATH,
        authorization: None,
        headers: &[("Accept", "application/json")],
        body: b"",
    };
    let response = transport.post(&server, &post, LIMITS).await?;
    let status = response.head.status;
    if status != 200 {
        let text = String::from_utf8_lossy(&response.body);
        let words = match text.trim_start().starts_with('<') {
            true => String::new(),
            false => Hidden::default().words(&text, SAID_LIMIT),
        };
        return Err(NoDirectToken::Refused { status, words });
    }
    let answer: Answer =
        serde_json::from_slice(&response.body).map_err(|_| NoDirectToken::Rubbish)?;
    let token = Token::parse(&answer.token).map_err(|_| NoDirectToken::Rubbish)?;
    Ok(header(&token).0)
}
