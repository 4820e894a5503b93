//! The token that stands for the device's credentials at the WebSocket.
//!
//! An empty publish on `s/uat` asks for one and `71,<JWT>` on `s/dat` brings it. It is kept in
//! memory only and lives from minutes to hours; a new one is asked for when half of its life has
//! passed and a tunnel needs it. The device's clock may be wrong, so a life is the time between
//! the token's own two stamps where it has both.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use smartrest::{CredentialsError, Row, Token};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::mqtt::outbox::Message;
use crate::mqtt::publisher::Publisher;
use crate::secret::Secret;

/// How long the platform may take to answer. Less than a tunnel has to open, so that the operator
/// reads that it was the token that did not come.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// Life of a token that does not tell: the shortest that the platform gives.
const UNTOLD_LIFE: Duration = Duration::from_mins(5);

/// Why there is no token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoToken {
    /// Nothing has come.
    #[error(
        "the cloud sent no token for the WebSocket within {ANSWER_LIMIT:?} (asked on s/uat over MQTT)"
    )]
    Silent,
    /// What came is none.
    #[error("what the cloud sent as a token for the WebSocket is none")]
    Rubbish,
}

/// Asks for tokens, one request at a time however many tunnels wait, and keeps the last.
#[derive(Debug)]
pub struct Tokens {
    publisher: Publisher,
    request: Message,
    known: Mutex<Known>,
    /// Counts answers, so that whoever asked notices one.
    answers: watch::Sender<u64>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    held: Option<Held>,
    rubbish: bool,
    /// When the last request failed, and how.
    failure: Option<(Instant, NoToken)>,
}

#[derive(Debug)]
struct Held {
    header: Secret,
    renew_at: Instant,
    ends_at: Instant,
}

impl Tokens {
    /// Asks by `request` through a session that is subscribed to the answers.
    pub fn new(publisher: Publisher, request: Message) -> Self {
        Self {
            publisher,
            request,
            known: Mutex::default(),
            answers: watch::Sender::new(0),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns the value of an `Authorization` header, with a new token where the old one has passed
    /// half of its life.
    ///
    /// # Errors
    /// No token came and none that is still good is held.
    pub async fn authorization(&self) -> Result<Secret, NoToken> {
        let since = Instant::now();
        if let Some(header) = self.fresh() {
            return Ok(header);
        }
        let _turn = self.turn.lock().await;
        if let Some(header) = self.fresh() {
            return Ok(header);
        }
        // Whoever had the turn before may have failed for all who waited.
        let failed = self.known().failure.filter(|(at, _)| *at >= since);
        let failure = match failed {
            Some((_, failure)) => failure,
            None => match self.fetch().await {
                Ok(header) => return Ok(header),
                Err(failure) => failure,
            },
        };
        self.still_good().ok_or(failure)
    }

    /// Forgets a token that the WebSocket refused, unless another has come since.
    pub fn refused(&self, header: &Secret) {
        self.known().held.take_if(|held| held.header == *header);
    }

    /// Takes a row of the topic of tokens.
    pub fn take(&self, row: &Row) {
        let mut known = self.known();
        match read(row) {
            Ok((header, life)) => {
                debug!(?life, "token received");
                let now = Instant::now();
                known.held = Some(Held {
                    header,
                    renew_at: now + life / 2,
                    ends_at: now + life,
                });
                known.rubbish = false;
            }
            Err(error) => {
                warn!(
                    error = error.to_string(),
                    "no token in the answer to the request for one"
                );
                known.rubbish = true;
            }
        }
        drop(known);
        self.answers.send_modify(|count| *count += 1);
    }

    async fn fetch(&self) -> Result<Secret, NoToken> {
        let mut answers = self.answers.subscribe();
        debug!("asking for a token");
        self.publisher.ask(self.request.clone());
        let answered = timeout(ANSWER_LIMIT, answers.changed()).await;
        if let Some(header) = self.fresh() {
            return Ok(header);
        }
        let failure = match answered {
            Ok(_) if self.known().rubbish => NoToken::Rubbish,
            _ => NoToken::Silent,
        };
        self.known().failure = Some((Instant::now(), failure));
        Err(failure)
    }

    fn fresh(&self) -> Option<Secret> {
        let known = self.known();
        let held = known
            .held
            .as_ref()
            .filter(|held| Instant::now() < held.renew_at);
        held.map(|held| held.header.clone())
    }

    fn still_good(&self) -> Option<Secret> {
        let known = self.known();
        let held = known
            .held
            .as_ref()
            .filter(|held| Instant::now() < held.ends_at);
        held.map(|held| held.header.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the value of an `Authorization` header, and how long it lives, from an answer to a request
/// for a token.
pub(crate) fn read(row: &Row) -> Result<(Secret, Duration), CredentialsError> {
    let token = Token::from_row(row)?;
    if row.template() != Token::TEMPLATE {
        return Err(CredentialsError::Token);
    }
    let life = life(&token, SystemTime::now()).unwrap_or(UNTOLD_LIFE);
    let header = Secret::new(format!("Bearer {}", token.expose()));
    Ok((header, life))
}

/// The two stamps of a JWT, in seconds since 1970 (RFC 7519, 4.1).
#[derive(Deserialize)]
struct Claims {
    exp: f64,
    iat: Option<f64>,
}

/// Longest life that is believed; a stamp may be anything.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// How long a token lives from when it was made, or from `now` where it does not tell when.
fn life(token: &Token, now: SystemTime) -> Option<Duration> {
    let payload = token.expose().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let seconds = claims.exp - claims.iat.unwrap_or(now);
    let life = Duration::try_from_secs_f64(seconds).ok()?;
    (life > Duration::ZERO).then_some(life.min(LONGEST_LIFE))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn row(token: &str) -> Row {
        Row::new(["71", token])
    }

    fn tokens() -> (Arc<Tokens>, Publisher) {
        let publisher = Publisher::default();
        let request = Message::new("s/uat", "");
        (Arc::new(Tokens::new(publisher.clone(), request)), publisher)
    }

    #[test]
    fn reads_how_long_a_token_lives() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (claims, seconds) in [
            (r#"{"iat":5000000,"exp":5003600}"#, Some(3600)),
            (r#"{"exp":1000300}"#, Some(300)),
            (r#"{"exp":1000300.5,"sub":"x"}"#, Some(300)),
            (r#"{"iat":0,"exp":1e300}"#, None),
            (r#"{"iat":0,"exp":1e12}"#, Some(24 * 3600)),
            (r#"{"exp":999999}"#, None),
            (r#"{"exp":"soon"}"#, None),
            (r#"{}"#, None),
            ("", None),
        ] {
            let token = Token::parse(&jwt(claims)).unwrap();
            assert_eq!(
                life(&token, now).map(|life| life.as_secs()),
                seconds,
                "{claims}"
            );
        }
        assert_eq!(life(&Token::parse("rubbish").unwrap(), now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn asks_once_however_many_tunnels_wait() {
        let (tokens, publisher) = tokens();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let tokens = Arc::clone(&tokens);
                tokio::spawn(async move { tokens.authorization().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(publisher.take_asked().len(), 1);
        tokens.take(&row(&jwt(r#"{"iat":0,"exp":600}"#)));
        for waiter in waiting {
            assert!(
                waiter
                    .await
                    .unwrap()
                    .unwrap()
                    .expose()
                    .starts_with("Bearer e30.")
            );
        }
        assert_eq!(publisher.take_asked().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn fails_all_who_wait_when_no_token_comes() {
        let (tokens, publisher) = tokens();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let tokens = Arc::clone(&tokens);
                tokio::spawn(async move { tokens.authorization().await })
            })
            .collect();
        let start = Instant::now();
        for waiter in waiting {
            assert_eq!(waiter.await.unwrap().unwrap_err(), NoToken::Silent);
        }
        assert_eq!(start.elapsed().as_secs(), ANSWER_LIMIT.as_secs());
        assert_eq!(publisher.take_asked().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn renews_when_half_of_the_life_has_passed() {
        let (tokens, publisher) = tokens();
        tokens.take(&row(&jwt(r#"{"iat":0,"exp":600}"#)));
        tokio::time::advance(Duration::from_secs(299)).await;
        let first = tokens.authorization().await.unwrap();
        assert_eq!(publisher.take_asked().len(), 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        // Nothing comes; the old one is still good and then is not.
        assert_eq!(tokens.authorization().await.unwrap(), first);
        assert_eq!(publisher.take_asked().len(), 1);
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(tokens.authorization().await.unwrap_err(), NoToken::Silent);
    }

    #[tokio::test(start_paused = true)]
    async fn asks_again_for_a_token_that_was_refused() {
        let (tokens, publisher) = tokens();
        tokens.take(&row(&jwt(r#"{"iat":0,"exp":600}"#)));
        let refused = tokens.authorization().await.unwrap();
        tokens.refused(&refused);
        let again = tokio::spawn({
            let tokens = Arc::clone(&tokens);
            async move { tokens.authorization().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(publisher.take_asked().len(), 1);
        tokens.take(&row(&jwt(r#"{"iat":1,"exp":601}"#)));
        let second = again.await.unwrap().unwrap();
        assert_ne!(second, refused);
        tokens.refused(&refused);
        assert_eq!(
            tokens.authorization().await.unwrap(),
            second,
            "the newer one stays"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn says_that_rubbish_is_no_token() {
        for answer in [row("not a token"), Row::new(["71"]), Row::new(["41", "x"])] {
            let (tokens, _publisher) = tokens();
            let waiting = tokio::spawn({
                let tokens = Arc::clone(&tokens);
                async move { tokens.authorization().await }
            });
            tokio::task::yield_now().await;
            tokens.take(&answer);
            assert_eq!(waiting.await.unwrap().unwrap_err(), NoToken::Rubbish);
        }
    }

    #[test]
    fn shows_no_token_in_its_debug() {
        let (tokens, _publisher) = tokens();
        let token = jwt(r#"{"iat":0,"exp":600}"#);
        tokens.take(&row(&token));
        assert!(!format!("{tokens:?}").contains(&token));
    }
}
