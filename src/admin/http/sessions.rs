//! Who may come in: whoever shows the token, and for people, a browser that has shown it before.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use subtle::ConstantTimeEq;

use crate::secret::Secret;

/// Browsers that are known at the same time; the oldest is forgotten for a new one.
const SESSIONS: usize = 64;
/// How long a browser is known.
const LIFE: Duration = Duration::from_hours(12);
/// Random bytes of a session's id.
const ID_SIZE: usize = 32;

/// The browsers that have shown a token; forgotten when the process ends.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// The oldest first.
    known: VecDeque<Session>,
}

#[derive(Debug)]
struct Session {
    id: Secret,
    began: Instant,
    /// The token that was shown: with another one, everybody has to come anew.
    token: Secret,
}

/// Whether both are the same; how long that takes tells nothing but the length.
pub(super) fn is_same(one: &Secret, other: &Secret) -> bool {
    one.expose()
        .as_bytes()
        .ct_eq(other.expose().as_bytes())
        .into()
}

/// Returns the token in the value of an `Authorization` header.
pub(super) fn bearer(header: &str) -> Option<Secret> {
    let (scheme, token) = header.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| Secret::new(token.trim()))
}

/// Returns the name of the cookie of the agent at a port: a browser tells cookies of the ports of a
/// machine apart by nothing else.
pub(super) fn cookie_name(port: u16) -> String {
    format!("adit_session_{port}")
}

/// Returns the id of a session in the value of a `Cookie` header.
pub(super) fn cookie(header: &str, name: &str) -> Option<Secret> {
    let mut cookies = header.split(';').map(str::trim);
    let value = cookies.find_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('='))?;
    Some(Secret::new(value))
}

impl Sessions {
    /// Begins a session for somebody who has shown the token; returns its id, or `None` where the
    /// system has no random numbers.
    pub(super) fn begin(&mut self, token: &Secret, now: Instant) -> Option<Secret> {
        let mut random = [0; ID_SIZE];
        let source = ring::default_provider().secure_random;
        source.fill(&mut random).ok()?;
        let id = random.iter().fold(String::new(), |mut id, byte| {
            // Writing to a text cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        });
        let id = Secret::new(id);
        if self.known.len() == SESSIONS {
            self.known.pop_front();
        }
        self.known.push_back(Session {
            id: id.clone(),
            began: now,
            token: token.clone(),
        });
        Some(id)
    }

    /// Whether a session has begun, and with the token of now.
    pub(super) fn knows(&self, id: &Secret, token: &Secret, now: Instant) -> bool {
        let known = self.known.iter().filter(|session| {
            now.saturating_duration_since(session.began) < LIFE && is_same(&session.token, token)
        });
        // All are looked at, whichever it is.
        known.fold(false, |found, session| found | is_same(&session.id, id))
    }

    /// Forgets a session.
    pub(super) fn end(&mut self, id: &Secret) {
        self.known.retain(|session| !is_same(&session.id, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_has_shown_the_token_for_half_a_day() {
        let now = Instant::now();
        let (token, other) = (Secret::new("token"), Secret::new("other"));
        let mut sessions = Sessions::default();
        let id = sessions.begin(&token, now).unwrap();
        assert_eq!(id.expose().len(), 2 * ID_SIZE);
        assert!(sessions.knows(&id, &token, now));
        assert!(!sessions.knows(&id, &other, now), "the token has changed");
        assert!(!sessions.knows(&Secret::new(""), &token, now));
        assert!(!sessions.knows(&id, &token, now + LIFE));
        sessions.end(&id);
        assert!(!sessions.knows(&id, &token, now));
    }

    #[test]
    fn forgets_the_oldest_of_many() {
        let now = Instant::now();
        let token = Secret::new("token");
        let mut sessions = Sessions::default();
        let ids: Vec<_> = (0..=SESSIONS)
            .map(|_| sessions.begin(&token, now).unwrap())
            .collect();
        assert!(!sessions.knows(&ids[0], &token, now));
        assert!(sessions.knows(&ids[1], &token, now));
        assert!(sessions.knows(&ids[SESSIONS], &token, now));
        assert!(ids[1] != ids[2]);
    }

    #[test]
    fn reads_headers() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
        ] {
            let read = bearer(header);
            assert_eq!(read.as_ref().map(Secret::expose), token, "{header}");
        }
        for (header, id) in [
            ("adit_session_80=7", Some("7")),
            ("adit_session_8=5; adit_session_80=7;c=d", Some("7")),
            ("adit_session_8=7", None),
            ("adit_session_800=7", None),
            ("", None),
        ] {
            let read = cookie(header, &cookie_name(80));
            assert_eq!(read.as_ref().map(Secret::expose), id, "{header}");
        }
    }
}
