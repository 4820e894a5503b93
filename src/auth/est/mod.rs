//! What the platform's own authority is asked, and what its answers mean (EST, RFC 7030). Pure.
//!
//! The platform tells little: before a device is registered, after it was, and with a wrong password
//! the answer is a 401, and only its words differ. How it is asked is left to enrolment and renewal.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod back_off;
mod choice;
pub(crate) mod key;
pub(crate) mod pkcs7;

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::Value;

pub(crate) use back_off::BackOff;
pub(crate) use choice::{Issued, Unfit, choose};
use key::KeyError;
use pkcs7::Pkcs7Error;

use crate::net::credentials::Hidden;
use crate::net::request::{Limits, RequestError, Response};

/// Where a device gets its first certificate, with a one-time password.
pub(crate) const ENROL: &str = "/.well-known/est/simpleenroll";
/// Where it gets a further one, with a token.
pub(crate) const RENEW: &str = "/.well-known/est/simplereenroll";
/// What both take.
pub(crate) const HEADERS: [(&str, &str); 2] = [
    ("Content-Type", "application/pkcs10"),
    ("Accept", "application/pkcs7-mime"),
];
/// What a request may take. An answer of the platform has some 500 bytes, one with the chain of a
/// large organisation some thousands.
pub(crate) const LIMITS: Limits = Limits {
    time: Duration::from_secs(20),
    body: 64 << 10,
};
/// Bytes of what a peer says that are repeated.
const SAID_LIMIT: usize = 200;

/// Why there is no certificate, as a clause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// There is no whole answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// 401 in the words that the platform has for an id that nobody has entered.
    #[error("the platform has no registration for this id (HTTP 401){}", said(.0))]
    NotRegistered(String),
    /// 401 in other words: the password is wrong, or the token.
    #[error("the platform refuses the password or the token (HTTP 401){}", said(.0))]
    Unauthorized(String),
    /// The id belongs to a device.
    #[error(
        "a device of this id is registered already (HTTP {status}){}: delete it in device \
         management, or give this gateway another device.id",
        said(words)
    )]
    Taken {
        /// The HTTP status.
        status: u16,
        /// What the platform says, made legible.
        words: String,
    },
    /// Nothing is there that issues certificates.
    #[error(
        "this tenant has no certificate authority (HTTP 404){}: an administrator creates it in \
         device management under trusted certificates; if there is one, check cloud.url",
        said(.0)
    )]
    NoAuthority(String),
    /// It takes its time, and may say how much.
    #[error("the authority has not decided yet (HTTP {status})")]
    Later {
        /// The HTTP status.
        status: u16,
        /// How long to wait before it is asked again.
        wait: Option<Duration>,
    },
    /// It sends adit elsewhere.
    #[error(
        "the platform answers with a redirect (HTTP {status}), which adit does not follow{}: \
         cloud.url has to name the platform itself",
        said(location)
    )]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// Where it leads, made legible.
        location: String,
    },
    /// Somebody else answers.
    #[error(
        "this is a web page and no answer of the platform (HTTP {0}): check cloud.url and what is \
         in between"
    )]
    WebPage(u16),
    /// Any other refusal.
    #[error("the platform issues no certificate (HTTP {status}){}", said(words))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the platform says, made legible.
        words: String,
    },
    /// The request cannot be signed.
    #[error("the request for a certificate {0}")]
    Key(#[from] KeyError),
    /// It agrees, and what it sends is none.
    #[error("the authority agrees, but {0}")]
    Rubbish(#[from] Pkcs7Error),
    /// It agrees, and what it sends is of no use.
    #[error("the authority has issued a certificate that this gateway cannot use: {0}")]
    Unfit(#[from] Unfit),
}

/// What is one fault and what another: a fault is told once, however its words change.
pub(crate) type Kind = (Discriminant<Fault>, usize);

fn said(words: &str) -> String {
    match words {
        "" => String::new(),
        words => format!(" ({words})"),
    }
}

impl Fault {
    /// Whether a certificate may have been issued, and lost on its way: there is one for each
    /// registration.
    pub(crate) fn may_be_a_loss(&self) -> bool {
        match self {
            Self::Request(error) => !matches!(error, RequestError::Transport(_)),
            Self::Rubbish(_) | Self::Unfit(_) => true,
            _ => false,
        }
    }

    /// Tells apart what should be said once each.
    pub(crate) fn kind(&self) -> Kind {
        let detail = match self {
            Self::Request(RequestError::Transport(error)) => error.step().1 as usize,
            Self::Request(RequestError::Silent { .. }) => 100,
            Self::Request(RequestError::Head { .. }) => 101,
            Self::Request(RequestError::Body { .. }) => 102,
            Self::Request(RequestError::Broken { .. }) => 103,
            Self::Taken { status, .. }
            | Self::Later { status, .. }
            | Self::Redirect { status, .. }
            | Self::Refused { status, .. }
            | Self::WebPage(status) => (*status).into(),
            Self::Rubbish(error) => *error as usize,
            Self::Unfit(error) => error.number(),
            Self::NotRegistered(_)
            | Self::Unauthorized(_)
            | Self::NoAuthority(_)
            | Self::Key(_) => 0,
        };
        (discriminant(self), detail)
    }
}

/// Reads what the platform answers. What is `hidden` is repeated in no fault.
///
/// # Errors
/// There are no certificates in it.
pub(crate) fn read(
    response: &Response,
    hidden: &Hidden,
) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let Response { head, body } = response;
    let status = head.status;
    let is_page = head
        .all("content-type")
        .any(|media_type| media_type.to_ascii_lowercase().contains("html"))
        || body.trim_ascii_start().starts_with(b"<");
    let words = || message(body, hidden);
    Err(match status {
        300..=399 => Fault::Redirect {
            status,
            location: hidden.words(head.all("location").next().unwrap_or_default(), SAID_LIMIT),
        },
        503 | 429 if head.all("retry-after").next().is_some() => Fault::Later {
            status,
            wait: retry_after(response),
        },
        202 => Fault::Later {
            status,
            wait: retry_after(response),
        },
        _ if is_page => Fault::WebPage(status),
        200 => return Ok(pkcs7::certificates(body)?),
        401 => unauthorized(words()),
        404 => Fault::NoAuthority(words()),
        409 => Fault::Taken {
            status,
            words: words(),
        },
        _ => Fault::Refused {
            status,
            words: words(),
        },
    })
}

/// The platform says "No newDeviceRequest found for this ID. It may already be registered" of an id
/// that is not entered, or no longer.
fn unauthorized(words: String) -> Fault {
    let lower = words.to_ascii_lowercase();
    if words.is_empty() || lower.contains("newdevicerequest") {
        Fault::NotRegistered(words)
    } else if lower.contains("already") {
        Fault::Taken { status: 401, words }
    } else {
        Fault::Unauthorized(words)
    }
}

/// Reads a number of seconds; the other form, a date, asks for a clock that is right.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.head.all("retry-after").next()?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

/// The platform words a refusal as an object with a message.
fn message(body: &[u8], hidden: &Hidden) -> String {
    let text = String::from_utf8_lossy(body);
    let object: Option<Value> = serde_json::from_str(&text).ok();
    let message = object.as_ref().and_then(|object| object.get("message"));
    let message = message.and_then(Value::as_str);
    hidden.words(message.unwrap_or(&text), SAID_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;
    use crate::net::request::{Post, exchange};
    use crate::secret::Secret;
    use crate::words::failure_reason;

    fn server() -> Endpoint {
        Endpoint {
            tls: true,
            host: "cloud.example.com".to_owned(),
            port: 443,
        }
    }

    async fn answer(text: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let post = Post {
            path: ENROL,
            authorization: None,
            headers: &HEADERS,
            body: b"",
        };
        let stream = tokio::io::join(text.as_bytes(), tokio::io::sink());
        let response = exchange(stream, &server(), &post, LIMITS.body).await?;
        let hidden = Hidden::default().and(Secret::new("one-time").expose());
        read(&response, &hidden)
    }

    #[tokio::test]
    async fn says_what_each_answer_means() {
        let json = |status: &str, message: &str| {
            let body = format!(r#"{{"error":"x","message":"{message}"}}"#);
            format!("{status}\r\nContent-Type: application/json\r\n\r\n{body}")
        };
        let page = "200 OK\r\nContent-Type: text/html\r\n\r\n<html>Log in";
        for (answered, words) in [
            (
                json(
                    "401 X",
                    "No newDeviceRequest found for this ID. It may already be registered.",
                ),
                "the platform has no registration for this id (HTTP 401) (No newDeviceRequest \
                 found for this ID. It may already be registered.)",
            ),
            (
                json("401 X", "Invalid credentials"),
                "the platform refuses the password or the token (HTTP 401) (Invalid credentials)",
            ),
            (
                json("401 X", "wrong: one-time"),
                "the platform has no registration for this id (HTTP 401)",
            ),
            (
                json("409 X", "device exists"),
                "a device of this id is registered already (HTTP 409) (device exists): delete it \
                 in device management, or give this gateway another device.id",
            ),
            (
                json("404 X", "Failed to retrieve tenant keypair"),
                "this tenant has no certificate authority (HTTP 404) (Failed to retrieve tenant \
                 keypair): an administrator creates it in device management under trusted \
                 certificates; if there is one, check cloud.url",
            ),
            (
                "202 Accepted\r\nRetry-After: 7\r\n\r\n".to_owned(),
                "the authority has not decided yet (HTTP 202)",
            ),
            (
                "301 X\r\nLocation: https://other.example.com/\r\n\r\n".to_owned(),
                "the platform answers with a redirect (HTTP 301), which adit does not follow \
                 (https://other.example.com/): cloud.url has to name the platform itself",
            ),
            (
                json("500 X", "no\\nway"),
                "the platform issues no certificate (HTTP 500) (no way)",
            ),
            (
                page.to_owned(),
                "this is a web page and no answer of the platform (HTTP 200): check cloud.url and \
                 what is in between",
            ),
            (
                "200 OK\r\n\r\n%%%".to_owned(),
                "the authority agrees, but what it sends is not in base64",
            ),
        ] {
            let fault = answer(&format!("HTTP/1.1 {answered}")).await.unwrap_err();
            assert_eq!(failure_reason(&fault, 500), words, "{answered}");
        }
    }

    #[tokio::test]
    async fn takes_a_fault_for_the_same_whatever_its_words() {
        let kind = async |text: &str| {
            let fault = answer(&format!("HTTP/1.1 {text}")).await.unwrap_err();
            fault.kind()
        };
        let first = kind("500 X\r\n\r\none").await;
        assert_eq!(first, kind("500 Y\r\n\r\ntwo").await);
        for other in [
            "503 X\r\n\r\n",
            "200 X\r\n\r\n%",
            "",
            "404 X\r\n\r\n",
            "302 X\r\n\r\n",
        ] {
            assert_ne!(first, kind(other).await, "{other}");
        }
    }

    #[tokio::test]
    async fn waits_as_it_is_told() {
        for (head, wait) in [
            ("202 X\r\nRetry-After: 7", Some(7)),
            ("503 X\r\nRetry-After: 3", Some(3)),
            ("202 X", None),
            ("202 X\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT", None),
        ] {
            match answer(&format!("HTTP/1.1 {head}\r\n\r\n"))
                .await
                .unwrap_err()
            {
                Fault::Later { wait: told, .. } => {
                    assert_eq!(told, wait.map(Duration::from_secs), "{head}");
                }
                other => panic!("{head}: {other}"),
            }
        }
    }
}
