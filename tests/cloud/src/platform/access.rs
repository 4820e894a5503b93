//! How a device comes by credentials: tokens on request, and registration.
//!
//! Tokens carry the time of this machine, because devices read it from them, unless another beginning is given;
//! nothing else here looks at a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smartrest::{Credentials, Row};
use tokio::time::Instant;

use crate::options::Login;

const NO_CERTIFICATE: &str =
    "MqttAuth: Cannot publish token for device that do not use certificate authentication";

/// What is answered to a request for a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenAnswer {
    /// Nothing.
    Silence,
    /// A token that is good for this long.
    Good(Duration),
    /// A token that the WebSocket refuses.
    Refused(Duration),
    /// This text in place of a token.
    Text(String),
    /// The refusal for whoever logs in without a certificate, in the place of a token or among the
    /// errors.
    NoCertificate {
        /// On `s/e`.
        among_errors: bool,
    },
}

/// Credentials that are handed out.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) answer: TokenAnswer,
    /// To requests over mutual TLS, or the HTTP status that refuses them.
    pub(super) certified: Result<TokenAnswer, u16>,
    pub(super) registered: Option<Login>,
    issued: Vec<(String, Instant)>,
    /// How many tokens were made, so that none is like one before, not even one that was revoked.
    made: usize,
    began: (SystemTime, Instant),
}

impl Default for Access {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            answer: TokenAnswer::Good(HOUR),
            certified: Ok(TokenAnswer::Good(HOUR)),
            registered: None,
            issued: Vec::new(),
            made: 0,
            began: (SystemTime::now(), Instant::now()),
        }
    }
}

impl Access {
    /// Begins at another time than this machine's.
    pub(super) fn begin_at(&mut self, time: SystemTime) {
        self.began = (time, Instant::now());
    }

    /// Returns the row that answers a request for a token, and whether it is among the errors.
    pub(super) fn token(&mut self) -> Option<(Row, bool)> {
        if let TokenAnswer::NoCertificate { among_errors } = self.answer {
            return Some((Row::new(["41", "", NO_CERTIFICATE]), among_errors));
        }
        let token = self.made(&self.answer.clone())?;
        Some((Row::new(["71", &token]), false))
    }

    /// Returns the body that answers a request over mutual TLS, or the HTTP status; nothing for silence.
    pub(super) fn certified_token(&mut self) -> Option<Result<String, u16>> {
        match self.certified.clone() {
            Err(status) => Some(Err(status)),
            Ok(answer) => {
                let token = self.made(&answer)?;
                Some(Ok(format!(r#"{{"accessToken":"{token}"}}"#)))
            }
        }
    }

    fn made(&mut self, answer: &TokenAnswer) -> Option<String> {
        self.made += 1;
        let now = Instant::now();
        let (beginning, began) = self.began;
        let made = beginning + now.duration_since(began);
        Some(match answer {
            TokenAnswer::Silence | TokenAnswer::NoCertificate { .. } => return None,
            TokenAnswer::Text(text) => text.clone(),
            TokenAnswer::Good(life) => {
                let token = token(made, *life, self.made);
                self.issued.push((token.clone(), now + *life));
                token
            }
            TokenAnswer::Refused(life) => token(made, *life, self.made),
        })
    }

    pub(super) fn is_good(&self, token: &str) -> bool {
        let now = Instant::now();
        self.issued
            .iter()
            .any(|(issued, ends)| issued == token && now < *ends)
    }

    pub(super) fn revoke(&mut self) {
        self.issued.clear();
    }

    /// Returns the row that answers a request for credentials, once an operator has accepted it.
    pub(super) fn registration(&self) -> Option<Row> {
        let Login {
            tenant,
            user,
            password,
        } = self.registered.clone()?;
        Some(
            Credentials {
                tenant,
                user,
                password: password.into(),
            }
            .to_row(),
        )
    }
}

fn token(made: SystemTime, life: Duration, number: usize) -> String {
    let made = made.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (made, ends) = (made.as_secs_f64(), (made + life).as_secs_f64());
    let claims = format!(r#"{{"iat":{made:.3},"exp":{ends:.3},"jti":"{number}"}}"#);
    format!(
        "eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl",
        URL_SAFE_NO_PAD.encode(claims)
    )
}
