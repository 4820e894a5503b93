//! Who may come in, and who may stay: what somebody has shown may stop being good while they watch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE};
use tokio::time::sleep;

use super::Door;
use super::sessions::{self, Sessions};
use crate::secret::Secret;

/// How long it takes to learn that a token is wrong: who guesses needs time.
const PAUSE: Duration = Duration::from_secs(1);

/// Knows the token of now, and the browsers that have shown it.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    door: Door,
    sessions: Arc<Mutex<Sessions>>,
    /// When a token was wrong last.
    last_wrong: Arc<Mutex<Option<Instant>>>,
}

/// What somebody shows.
#[derive(Clone, Debug)]
pub(super) enum Pass {
    Nothing,
    Token(Secret),
    /// The id of a session.
    Session(Secret),
}

impl Pass {
    /// A token counts before a session, whose id is in the cookie of this name.
    pub(super) fn of(headers: &HeaderMap, cookie: &str) -> Self {
        let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(token) = value(AUTHORIZATION).and_then(sessions::bearer) {
            return Self::Token(token);
        }
        let session = value(COOKIE).and_then(|value| sessions::cookie(value, cookie));
        session.map_or(Self::Nothing, Self::Session)
    }
}

impl Guard {
    pub(super) fn new(door: Door) -> Self {
        Self {
            door,
            sessions: Arc::default(),
            last_wrong: Arc::default(),
        }
    }

    /// What is wanted now, if anything is.
    pub(super) fn token(&self) -> Option<Secret> {
        self.door.token()
    }

    /// Whether what is shown lets in, at this moment.
    pub(super) fn admits(&self, pass: &Pass) -> bool {
        let Some(token) = self.token() else {
            return true;
        };
        match pass {
            Pass::Nothing => false,
            Pass::Token(shown) => sessions::is_same(shown, &token),
            Pass::Session(id) => self.sessions().knows(id, &token, Instant::now()),
        }
    }

    /// Takes its time before a wrong token is answered, and before a right one that comes while somebody
    /// guesses: else a guess that is not answered at once would be known to be wrong.
    pub(super) async fn hesitate(&self, is_right: bool) {
        if self.is_guessed(is_right) || !is_right {
            sleep(PAUSE).await;
        }
    }

    /// Whether somebody has guessed wrongly a moment ago.
    fn is_guessed(&self, is_right: bool) -> bool {
        let last = self.last_wrong.lock();
        let mut last = last.unwrap_or_else(PoisonError::into_inner);
        let is_guessed = last.is_some_and(|last| last.elapsed() < PAUSE);
        if !is_right {
            *last = Some(Instant::now());
        }
        is_guessed
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_for_as_long_as_what_is_shown_is_good() {
        let (first, second) = (Secret::new("first"), Secret::new("second"));
        let door = Door::new(Some(first.clone()));
        let guard = Guard::new(door.clone());
        let id = guard.sessions().begin(&first, Instant::now()).unwrap();
        let passes = [
            Pass::Nothing,
            Pass::Token(first),
            Pass::Session(id.clone()),
            Pass::Token(second.clone()),
        ];
        let admitted = || passes.each_ref().map(|pass| guard.admits(pass));
        assert_eq!(admitted(), [false, true, true, false]);
        guard.sessions().end(&id);
        assert_eq!(admitted(), [false, true, false, false]);
        door.set(Some(second));
        assert_eq!(admitted(), [false, false, false, true]);
        door.set(None);
        assert_eq!(admitted(), [true; 4]);
    }
}
