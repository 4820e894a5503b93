//! Who may come in, and who may stay: what somebody has shown may stop being good while they watch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE};

use super::Door;
use super::sessions::{self, Sessions};
use crate::secret::Secret;

/// Knows the token of now, and the browsers that have shown it.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    door: Door,
    sessions: Arc<Mutex<Sessions>>,
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
    /// A token counts before a session.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(token) = value(AUTHORIZATION).and_then(sessions::bearer) {
            return Self::Token(token);
        }
        let session = value(COOKIE).and_then(sessions::cookie);
        session.map_or(Self::Nothing, Self::Session)
    }
}

impl Guard {
    pub(super) fn new(door: Door) -> Self {
        Self {
            door,
            sessions: Arc::default(),
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
