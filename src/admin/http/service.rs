//! From a request to its answer.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{
    self, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, SET_COOKIE,
    WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::body::Payload;
use super::connections::Mark;
use super::feed::Feed;
use super::guard::{Guard, Pass};
use super::looking::Looking;
use super::process::Process;
use super::sessions;
use super::{Door, form};
use crate::admin::{HEALTH_PATH, HEALTHY, STATUS_PATH, metrics, page};
use crate::inquiry::{Inquirer, NoAnswer};
use crate::secret::Secret;
use crate::state::Snapshot;

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// Nothing but what this server itself serves is loaded, run or embedded, and nobody embeds it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

type Answer = Response<Payload>;

/// What answers, for all connections.
pub(super) struct Service {
    guard: Guard,
    /// Whether the port is for this machine alone.
    is_local: bool,
    /// The name of the cookie.
    cookie: String,
    looking: Arc<Looking>,
    feed: Feed,
    process: Process,
}

impl Service {
    pub(super) fn new(
        listen: SocketAddr,
        door: Door,
        inquirer: Inquirer,
        process: Process,
    ) -> Self {
        let guard = Guard::new(door);
        Self {
            is_local: listen.ip().to_canonical().is_loopback(),
            cookie: sessions::cookie_name(listen.port()),
            looking: Arc::new(Looking::new(inquirer)),
            feed: Feed::new(guard.clone()),
            guard,
            process,
        }
    }

    /// Answers one request; `mark` learns what the connection is worth.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        mark: &Mark,
    ) -> Result<Answer, Infallible> {
        let mut answer = self.answer_to(request, mark).await;
        for (name, value) in HEADERS {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        Ok(answer)
    }

    async fn answer_to(&self, request: Request<Incoming>, mark: &Mark) -> Answer {
        let path = request.uri().path().to_owned();
        let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
        match path.as_str() {
            HEALTH_PATH if is_look => return self.health().await,
            "/style.css" if is_look => return found("text/css; charset=utf-8", page::STYLE),
            "/icon.svg" if is_look => return found("image/svg+xml", page::ICON),
            "/script.js" if is_look => {
                return found("text/javascript; charset=utf-8", page::SCRIPT);
            }
            _ => {}
        }
        let token = self.guard.token();
        if token.is_none() && self.is_local && !is_this_machine(request.headers()) {
            // A page of the Internet whose name leads here would be the same site to a browser.
            return plain(
                StatusCode::MISDIRECTED_REQUEST,
                "without admin.token_file, adit is looked at by an address or a name of this machine \
                 alone, as http://127.0.0.1 or http://localhost\n",
            );
        }
        if path == "/login" && request.method() == Method::POST {
            return self.log_in(request, token, mark).await;
        }
        let pass = Pass::of(request.headers(), &self.cookie);
        if !matches!(pass, Pass::Nothing) {
            mark.has_shown_a_pass();
        }
        let is_admitted = self.guard.admits(&pass);
        if token.is_some() && matches!(pass, Pass::Token(_)) {
            self.guard.hesitate(is_admitted).await;
        }
        if !is_admitted {
            return unauthorized(&path, matches!(pass, Pass::Token(_)));
        }
        match (path.as_str(), is_look) {
            ("/", true) => self.page(token.is_some()).await,
            ("/events", true) => self.events(pass, mark),
            ("/metrics", true) => self.metrics().await,
            (STATUS_PATH, true) => self.status().await,
            ("/logout", false) if request.method() == Method::POST => self.log_out(&request),
            ("/" | "/events" | "/metrics" | STATUS_PATH | HEALTH_PATH, false) => {
                let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
                set(&mut answer, ALLOW, "GET, HEAD");
                answer
            }
            ("/login" | "/logout", true) => see_other("/"),
            _ => plain(
                StatusCode::NOT_FOUND,
                "there are /, /healthz, /metrics and /status.json\n",
            ),
        }
    }

    async fn health(&self) -> Answer {
        self.seen(|snapshot| match page::complaint(&snapshot) {
            None => plain(StatusCode::OK, HEALTHY),
            Some(complaint) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{complaint}\n")),
        })
        .await
    }

    async fn metrics(&self) -> Answer {
        self.seen(|snapshot| {
            let text = metrics::text(snapshot, self.process.figures());
            written(metrics::CONTENT_TYPE, text)
        })
        .await
    }

    async fn status(&self) -> Answer {
        self.seen(|snapshot| written(JSON, serde_json::to_vec(&*snapshot)))
            .await
    }

    async fn page(&self, has_login: bool) -> Answer {
        self.seen(|snapshot| {
            let html = page::whole(&snapshot, &self.feed.history(), has_login);
            found(HTML, html)
        })
        .await
    }

    /// Shows what adit does, or says that it does not answer.
    async fn seen(&self, show: impl FnOnce(Arc<Snapshot>) -> Answer) -> Answer {
        match self.looking.look().await {
            Ok(snapshot) => show(snapshot),
            Err(NoAnswer) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{NoAnswer}\n")),
        }
    }

    fn events(&self, pass: Pass, mark: &Mark) -> Answer {
        let Some(events) = self.feed.watch(pass, &self.looking) else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many watch already\n");
        };
        mark.is_watched_from_now_on();
        answer(StatusCode::OK, EVENTS, Payload::Events(events))
    }

    async fn log_in(
        &self,
        request: Request<Incoming>,
        token: Option<Secret>,
        mark: &Mark,
    ) -> Answer {
        let Some(token) = token else {
            return see_other("/");
        };
        let shown = form::token(request.into_body()).await;
        if shown.is_some() {
            mark.has_shown_a_pass();
        }
        let is_right = shown.is_some_and(|shown| sessions::is_same(&shown, &token));
        self.guard.hesitate(is_right).await;
        if !is_right {
            return unauthorized("/", true);
        }
        let Some(id) = self.guard.sessions().begin(&token, Instant::now()) else {
            let words = "the system has no random numbers\n";
            return plain(StatusCode::INTERNAL_SERVER_ERROR, words);
        };
        let mut answer = see_other("/");
        let cookie = format!(
            "{}={}; HttpOnly; SameSite=Strict; Path=/",
            self.cookie,
            id.expose()
        );
        set(&mut answer, SET_COOKIE, &cookie);
        answer
    }

    fn log_out(&self, request: &Request<Incoming>) -> Answer {
        if let Pass::Session(id) = Pass::of(request.headers(), &self.cookie) {
            self.guard.sessions().end(&id);
        }
        let mut answer = see_other("/");
        let cookie = format!(
            "{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0",
            self.cookie
        );
        set(&mut answer, SET_COOKIE, &cookie);
        answer
    }
}

/// Asks people for the token, and tells programs that one is wanted.
fn unauthorized(path: &str, was_wrong: bool) -> Answer {
    let mut answer = match path {
        "/" => answer(
            StatusCode::UNAUTHORIZED,
            HTML,
            Payload::of(page::login(was_wrong)),
        ),
        _ => plain(
            StatusCode::UNAUTHORIZED,
            "show the token of admin.token_file, as Authorization: Bearer TOKEN\n",
        ),
    };
    set(&mut answer, WWW_AUTHENTICATE, "Bearer realm=\"adit\"");
    answer
}

/// Whether a request names this machine, or nobody, as the one that it is for.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

fn see_other(path: &'static str) -> Answer {
    let mut answer = plain(StatusCode::SEE_OTHER, "");
    set(&mut answer, LOCATION, path);
    answer
}

fn written(
    content_type: &'static str,
    body: Result<impl Into<bytes::Bytes>, impl Display>,
) -> Answer {
    match body {
        Ok(body) => found(content_type, body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn found(content_type: &'static str, body: impl Into<bytes::Bytes>) -> Answer {
    answer(StatusCode::OK, content_type, Payload::of(body))
}

fn plain(status: StatusCode, words: impl Into<bytes::Bytes>) -> Answer {
    answer(status, TEXT, Payload::of(words))
}

fn answer(status: StatusCode, content_type: &'static str, payload: Payload) -> Answer {
    let mut answer = Response::new(payload);
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, content_type);
    answer
}

/// Sets a header to a value of adit's own, in which there is nothing that cannot stand there.
fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_names_of_its_own_machine() {
        for (host, is_own) in [
            (Some("127.0.0.1:9590"), true),
            (Some("127.8.8.8"), true),
            (Some("localhost:9590"), true),
            (Some("LOCALHOST"), true),
            (Some("[::1]:9590"), true),
            (None, true),
            (Some("gateway.example.com"), false),
            (Some("127.0.0.1.example.com"), false),
            (Some("10.0.0.7:9590"), false),
            (Some(""), false),
            (Some("[::1"), true),
            (Some("[fd00::1]:80"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            }
            assert_eq!(is_this_machine(&headers), is_own, "{host:?}");
        }
    }
}
