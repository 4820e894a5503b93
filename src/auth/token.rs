//! The token that stands for the device's credentials at the WebSocket.
//!
//! It is kept in memory only and lives from minutes to hours; a new one is wanted when half of its
//! life has passed and a tunnel needs it. The device's clock may be wrong, so a life is the time
//! between the token's own two stamps where it has both. How a token is asked for is left to whoever
//! speaks to the platform.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use smartrest::{CredentialsError, Token};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::token_service::TokenService;
use crate::secret::Secret;
use crate::words::failure_reason;

/// How long the platform may take to answer. Less than a tunnel has to open, so that the operator
/// reads that it was the token that did not come.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// The longest wait for an answer over MQTT where there is another way.
const MQTT_WAIT: Duration = Duration::from_secs(3);
/// Of the time that a tunnel has to open: what an answer over MQTT may take where there is another way,
/// and what that may take.
const MQTT_SHARE: u32 = 5;
const SERVICE_SHARE: u32 = 2;
/// Bytes of a reason.
const REASON_LIMIT: usize = 500;
/// A request that could wait for less than this is not made.
const LEAST_TIME: Duration = Duration::from_secs(1);
/// Life of a token that does not tell: the shortest that the platform gives.
const UNTOLD_LIFE: Duration = Duration::from_mins(5);

/// Why there is no token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoToken {
    /// Nothing has come; how long that took.
    #[error("the cloud sent no token for the WebSocket within {0:?} (asked on s/uat over MQTT)")]
    Silent(Duration),
    /// What came is none.
    #[error("what the cloud sent as a token for the WebSocket is none")]
    Rubbish,
    /// The platform gives none to this login.
    #[error(
        "the cloud gives no token over MQTT: the local broker's bridge logs in with a password, and \
         the platform gives tokens only to certificates"
    )]
    Refused,
    /// None was given for the certificate.
    #[error("{0}")]
    Service(String),
    /// Neither way has brought one.
    #[error("{0}; {1}")]
    Neither(Box<Self>, String),
}

/// Keeps the last token, and wants a new one at most once at a time however many tunnels wait.
/// Whoever speaks to the platform waits for [`Tokens::wanted`] and asks.
#[derive(Debug)]
pub struct Tokens {
    known: Mutex<Known>,
    /// Tells whoever waits that an answer has come.
    answers: watch::Sender<()>,
    wanted: Notify,
    /// Whether there is somebody who can ask over MQTT.
    has_session: bool,
    /// The way without MQTT, where there is a certificate. A reload replaces it.
    service: Option<Mutex<Service>>,
    /// One request to the service at a time, however many tunnels wait.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Service {
    service: TokenService,
    /// How long an answer over MQTT may take, and then that of the service.
    mqtt_limit: Duration,
    limit: Duration,
}

impl Service {
    fn new(service: TokenService, connect_timeout: Duration) -> Self {
        Self {
            service,
            mqtt_limit: MQTT_WAIT.min(connect_timeout / MQTT_SHARE),
            limit: connect_timeout / SERVICE_SHARE,
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    held: Option<Held>,
    /// What was wrong with the last answer.
    fault: Option<NoToken>,
    /// When the request was made that has no answer yet.
    asked_at: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    header: Secret,
    came_at: Instant,
    renew_at: Instant,
    ends_at: Instant,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            answers: watch::Sender::new(()),
            wanted: Notify::new(),
            has_session: true,
            service: None,
            asking: tokio::sync::Mutex::default(),
        }
    }
}

impl Tokens {
    /// Asks a service too, where no token comes over MQTT early enough for tunnels that have
    /// `connect_timeout` to open.
    #[must_use]
    pub fn with_service(mut self, service: TokenService, connect_timeout: Duration) -> Self {
        self.service = Some(Mutex::new(Service::new(service, connect_timeout)));
        self
    }

    /// Asks another service from now on, or the same one in another way. Where none is asked, none will
    /// be.
    pub(crate) fn replace_service(&self, service: TokenService, connect_timeout: Duration) {
        if let Some(old) = &self.service {
            *old.lock().unwrap_or_else(PoisonError::into_inner) =
                Service::new(service, connect_timeout);
        }
    }

    fn service(&self) -> Option<Service> {
        let service = self.service.as_ref()?;
        Some(
            service
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }

    /// Asks nobody over MQTT.
    #[must_use]
    pub fn without_session(mut self) -> Self {
        self.has_session = false;
        self
    }

    /// Returns the value of an `Authorization` header, with a new token where the old one has passed
    /// half of its life.
    ///
    /// # Errors
    /// No token came and none that is still good is held.
    pub async fn authorization(&self) -> Result<Secret, NoToken> {
        let over_mqtt = match self.has_session {
            true => match self.over_mqtt().await {
                Ok(header) => return Ok(header),
                Err(failure) => Some(failure),
            },
            false => None,
        };
        let over_tls = match self.service() {
            Some(service) => match self.over_tls(&service).await {
                Ok(header) => return Ok(header),
                Err(failure) => Some(failure),
            },
            None => None,
        };
        self.still_good().ok_or(match (over_mqtt, over_tls) {
            (Some(mqtt), Some(service)) => NoToken::Neither(Box::new(mqtt), service),
            (None, Some(service)) => NoToken::Service(service),
            (Some(mqtt), None) => mqtt,
            (None, None) => NoToken::Silent(Duration::ZERO),
        })
    }

    /// Asks the service, unless somebody else has just done so.
    async fn over_tls(&self, service: &Service) -> Result<Secret, String> {
        let give_up_at = Instant::now() + service.limit;
        // Whoever asks before has no longer than that.
        let _alone = timeout_at(give_up_at, self.asking.lock())
            .await
            .map_err(|_| format!("{} does not answer", service.service.server()))?;
        if let Some(header) = self.fresh() {
            return Ok(header);
        }
        let left = give_up_at.saturating_duration_since(Instant::now());
        debug!("asking for a token over TLS");
        match service.service.fetch(left).await {
            Ok(token) => Ok(self.keep(&token)),
            Err(error) => Err(failure_reason(&error, REASON_LIMIT)),
        }
    }

    /// How long an answer over MQTT may take.
    fn mqtt_limit(&self) -> Duration {
        self.service()
            .map_or(ANSWER_LIMIT, |service| service.mqtt_limit)
    }

    async fn over_mqtt(&self) -> Result<Secret, NoToken> {
        let limit = self.mqtt_limit();
        let give_up_at = Instant::now() + limit;
        let mut answers = self.answers.subscribe();
        loop {
            if let Some(header) = self.fresh() {
                return Ok(header);
            }
            let mut wait_until = self.want();
            if wait_until + LEAST_TIME.min(limit / 2) > give_up_at {
                wait_until = give_up_at;
            }
            match timeout_at(wait_until, answers.changed()).await {
                Ok(_) => {
                    if let Some(fault) = &self.known().fault {
                        return Err(fault.clone());
                    }
                }
                Err(_) if Instant::now() >= give_up_at => return Err(NoToken::Silent(limit)),
                // The end of a request that somebody else had made long before.
                Err(_) => {}
            }
        }
    }

    /// Waits until a token is to be asked for, and forgets one whose life ends meanwhile. Dropping the
    /// future loses nothing.
    pub async fn wanted(&self) {
        loop {
            let end = self.known().held.as_ref().map(|held| held.ends_at);
            tokio::select! {
                () = self.wanted.notified() => break,
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    let now = Instant::now();
                    self.known().held.take_if(|held| held.ends_at <= now);
                }
            }
        }
        debug!("asking for a token");
    }

    /// Takes note of a new connection: a request that has no answer was lost with the old one.
    pub fn connected(&self) {
        let mut known = self.known();
        let now = Instant::now();
        if known
            .asked_at
            .is_some_and(|at| now < at + self.mqtt_limit())
        {
            known.asked_at = Some(now);
            self.wanted.notify_one();
        }
    }

    /// Forgets a token that the WebSocket refused, unless another has come since.
    pub fn refused(&self, header: &Secret) {
        self.known().held.take_if(|held| held.header == *header);
    }

    /// Takes an answer.
    pub fn take(&self, answer: Result<Token, CredentialsError>) {
        self.known().asked_at = None;
        match &answer {
            Ok(token) => drop(self.keep(token)),
            Err(error) => {
                warn!(
                    error = error.to_string(),
                    "no token in the answer to the request for one"
                );
                self.known().fault = Some(match error {
                    CredentialsError::NoCertificate => NoToken::Refused,
                    _ => NoToken::Rubbish,
                });
            }
        }
        self.answers.send_replace(());
    }

    /// Takes note that the platform refuses a token, if one was asked for: it may say so where it says
    /// everything else that it refuses.
    pub fn refuse(&self) {
        let is_asked = self.known().asked_at.is_some();
        if is_asked {
            self.take(Err(CredentialsError::NoCertificate));
        }
    }

    fn keep(&self, token: &Token) -> Secret {
        let (header, life) = header(token);
        debug!(?life, "token received");
        let now = Instant::now();
        let mut known = self.known();
        known.held = Some(Held {
            header: header.clone(),
            came_at: now,
            renew_at: now + life / 2,
            ends_at: now + life,
        });
        known.fault = None;
        header
    }

    /// Returns how old the token is that is held, and how long it is still good.
    pub(crate) fn age(&self) -> Option<(Duration, Duration)> {
        let (known, now) = (self.known(), Instant::now());
        let held = known.held.as_ref()?;
        let left = held.ends_at.checked_duration_since(now)?;
        Some((now - held.came_at, left))
    }

    /// Wants a token unless one is on its way; returns until when that may take.
    fn want(&self) -> Instant {
        let mut known = self.known();
        let now = Instant::now();
        let limit = self.mqtt_limit();
        let asked_at = known.asked_at.filter(|at| now < *at + limit);
        if asked_at.is_none() {
            self.wanted.notify_one();
        }
        let asked_at = asked_at.unwrap_or(now);
        known.asked_at = Some(asked_at);
        asked_at + limit
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

/// Returns the value of an `Authorization` header, and how long it lives.
pub(crate) fn header(token: &Token) -> (Secret, Duration) {
    let life = life(token, SystemTime::now()).unwrap_or(UNTOLD_LIFE);
    (Secret::new(format!("Bearer {}", token.expose())), life)
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn token(claims: &str) -> Result<Token, CredentialsError> {
        Token::parse(&jwt(claims))
    }

    /// Something that waits for a token.
    fn wait_for_one(tokens: &Arc<Tokens>) -> JoinHandle<Result<Secret, NoToken>> {
        let tokens = Arc::clone(tokens);
        tokio::spawn(async move { tokens.authorization().await })
    }

    /// How often a token is wanted in this moment.
    async fn requests(tokens: &Tokens) -> usize {
        let mut count = 0;
        tokio::task::yield_now().await;
        while timeout(Duration::ZERO, tokens.wanted()).await.is_ok() {
            count += 1;
        }
        count
    }

    /// Counts how often a token is wanted from now on.
    fn count_requests(tokens: &Arc<Tokens>) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let (counter, tokens) = (Arc::clone(&count), Arc::clone(tokens));
        tokio::spawn(async move {
            loop {
                tokens.wanted().await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        count
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
            (r#"{"iat":5,"exp":5}"#, None),
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
        let tokens = Arc::default();
        let count = count_requests(&tokens);
        let waiting: Vec<_> = (0..20).map(|_| wait_for_one(&tokens)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokens.take(token(r#"{"iat":0,"exp":600}"#));
        for waiter in waiting {
            let header = waiter.await.unwrap().unwrap();
            assert!(header.expose().starts_with("Bearer e30."));
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn fails_all_who_wait_when_no_token_comes() {
        let tokens = Arc::default();
        let count = count_requests(&tokens);
        let start = Instant::now();
        let mut waiting = Vec::new();
        for _ in 0..20 {
            waiting.push(wait_for_one(&tokens));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for waiter in waiting {
            assert_eq!(
                waiter.await.unwrap().unwrap_err(),
                NoToken::Silent(ANSWER_LIMIT)
            );
        }
        assert_eq!(start.elapsed().as_secs(), ANSWER_LIMIT.as_secs());
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_a_late_waiter_its_own_time_and_request() {
        let tokens = Arc::default();
        let count = count_requests(&tokens);
        let early = wait_for_one(&tokens);
        tokio::time::sleep(ANSWER_LIMIT - Duration::from_millis(100)).await;
        let late = wait_for_one(&tokens);
        assert_eq!(
            early.await.unwrap().unwrap_err(),
            NoToken::Silent(ANSWER_LIMIT)
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
        tokens.take(token(r#"{"iat":0,"exp":600}"#));
        assert!(late.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn asks_once_more_where_an_answer_still_has_time_to_come() {
        for (time_left, requests) in [
            (LEAST_TIME, 2),
            (LEAST_TIME - Duration::from_millis(1), 1),
            (Duration::ZERO, 1),
        ] {
            let tokens = Arc::default();
            let count = count_requests(&tokens);
            let _early = wait_for_one(&tokens);
            tokio::time::sleep(time_left).await;
            let late = wait_for_one(&tokens);
            assert_eq!(
                late.await.unwrap().unwrap_err(),
                NoToken::Silent(ANSWER_LIMIT)
            );
            assert_eq!(count.load(Ordering::Relaxed), requests, "{time_left:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn asks_again_where_a_token_is_refused_before_another_tunnel_has_seen_it() {
        let tokens = Arc::default();
        let waiting = wait_for_one(&tokens);
        assert_eq!(requests(&tokens).await, 1);
        let refused = token(r#"{"iat":0,"exp":600}"#);
        let (refused_header, _) = header(refused.as_ref().unwrap());
        tokens.take(refused);
        tokens.refused(&refused_header);
        assert_eq!(requests(&tokens).await, 1);
        tokens.take(token(r#"{"iat":1,"exp":601}"#));
        assert_ne!(waiting.await.unwrap(), Ok(refused_header));
    }

    #[tokio::test(start_paused = true)]
    async fn asks_again_on_a_new_connection_for_what_was_lost_with_the_old_one() {
        let tokens = Arc::default();
        tokens_connected_for_nothing(&tokens).await;
        let waiting = wait_for_one(&tokens);
        assert_eq!(requests(&tokens).await, 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        tokens.connected();
        assert_eq!(requests(&tokens).await, 1);
        tokens.take(token(r#"{"iat":0,"exp":600}"#));
        assert!(waiting.await.unwrap().is_ok());
        tokens_connected_for_nothing(&tokens).await;
    }

    #[tokio::test(start_paused = true)]
    async fn asks_for_nothing_on_a_new_connection_when_the_time_of_a_request_is_over() {
        let tokens = Arc::default();
        let waiting = wait_for_one(&tokens);
        assert_eq!(requests(&tokens).await, 1);
        assert_eq!(
            waiting.await.unwrap().unwrap_err(),
            NoToken::Silent(ANSWER_LIMIT)
        );
        tokens_connected_for_nothing(&tokens).await;
    }

    async fn tokens_connected_for_nothing(tokens: &Tokens) {
        tokens.connected();
        assert_eq!(requests(tokens).await, 0, "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn renews_when_half_of_the_life_has_passed() {
        let tokens = Arc::new(Tokens::default());
        tokens.take(token(r#"{"iat":0,"exp":600}"#));
        tokio::time::advance(Duration::from_secs(299)).await;
        let first = tokens.authorization().await.unwrap();
        assert_eq!(requests(&tokens).await, 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        // Nothing comes; the old one is still good and then is not.
        assert_eq!(tokens.authorization().await.unwrap(), first);
        assert_eq!(requests(&tokens).await, 1);
        // Who begins to wait now gives up in the moment in which its life is over.
        let rest = Duration::from_secs(300) - 2 * ANSWER_LIMIT;
        tokio::time::advance(rest).await;
        assert_eq!(
            tokens.authorization().await.unwrap_err(),
            NoToken::Silent(ANSWER_LIMIT)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn asks_again_for_a_token_that_was_refused() {
        let tokens = Arc::new(Tokens::default());
        tokens.take(token(r#"{"iat":0,"exp":600}"#));
        let refused = tokens.authorization().await.unwrap();
        tokens.refused(&refused);
        let again = wait_for_one(&tokens);
        assert_eq!(requests(&tokens).await, 1);
        tokens.take(token(r#"{"iat":1,"exp":601}"#));
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
        let tokens = Arc::default();
        for _ in 0..2 {
            let waiting = wait_for_one(&tokens);
            assert_eq!(requests(&tokens).await, 1);
            tokens.take(Token::parse("not a token"));
            assert_eq!(waiting.await.unwrap().unwrap_err(), NoToken::Rubbish);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn says_that_the_platform_refuses_a_token_wherever_it_is_said() {
        let refused = [Tokens::refuse, |tokens: &Tokens| {
            tokens.take(Err(CredentialsError::NoCertificate));
        }];
        for refuse in refused {
            let tokens = Arc::default();
            Tokens::refuse(&tokens);
            let waiting = wait_for_one(&tokens);
            assert_eq!(
                requests(&tokens).await,
                1,
                "what nobody asked for means nothing"
            );
            refuse(&tokens);
            assert_eq!(waiting.await.unwrap().unwrap_err(), NoToken::Refused);
        }
    }

    #[test]
    fn shows_no_token_in_its_debug() {
        let tokens = Tokens::default();
        let claims = r#"{"iat":0,"exp":600}"#;
        tokens.take(token(claims));
        assert!(!format!("{tokens:?}").contains(&jwt(claims)));
    }
}
