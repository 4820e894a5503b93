//! A password, and the file that it is read from again while adit runs.
//!
//! Somebody else renews the file. It is read each time the password is shown to somebody; where
//! that fails, the last good password goes on, and a warning says so once.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use crate::files::{self, Rereader};
use crate::secret::Secret;

/// How long the disk may take to give the file.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Makes a password of a text; a refusal is a clause to stand behind the text.
pub(crate) type Parse = fn(&str) -> Result<Secret, String>;

/// A password that is always the same, or one that a file holds.
#[derive(Clone)]
pub struct Password(Source);

#[derive(Clone)]
enum Source {
    Fixed(Secret),
    File(Arc<PasswordFile>),
}

struct PasswordFile {
    path: PathBuf,
    parse: Parse,
    reader: Rereader<Result<Secret, String>>,
    state: Mutex<State>,
}

struct State {
    last: Secret,
    /// What is wrong with the file has been said.
    is_warned: bool,
}

impl Password {
    /// Takes a password that is always the same.
    pub fn new(password: Secret) -> Self {
        Self(Source::Fixed(password))
    }

    /// Takes a password that has been read from a file.
    pub(crate) fn of_file(path: PathBuf, password: Secret, parse: Parse) -> Self {
        let state = Mutex::new(State {
            last: password,
            is_warned: false,
        });
        Self(Source::File(Arc::new(PasswordFile {
            path,
            parse,
            reader: Rereader::default(),
            state,
        })))
    }

    /// Returns the password as it is now; from a file that cannot be used, the last good one.
    pub(crate) async fn read(&self) -> Secret {
        match &self.0 {
            Source::Fixed(password) => password.clone(),
            Source::File(file) => file.read().await,
        }
    }

    /// Returns the password as it was last read.
    #[cfg(test)]
    pub(crate) fn last(&self) -> Secret {
        match &self.0 {
            Source::Fixed(password) => password.clone(),
            Source::File(file) => file.state().last.clone(),
        }
    }
}

impl PasswordFile {
    async fn read(&self) -> Secret {
        let (path, parse) = (self.path.clone(), self.parse);
        let read = move || {
            let content = files::read(&path).map_err(|error| error.to_string())?;
            parse_content(content.bytes, parse)
        };
        let read = self.reader.read(READ_LIMIT, read).await;
        let read = read.unwrap_or_else(|not_read| Err(not_read.to_string()));
        let file = self.path.display().to_string();
        let mut state = self.state();
        match read {
            Ok(password) => {
                // Whoever holds the one that it was goes on sharing its place.
                if password != state.last {
                    info!(file, "the password has been renewed");
                    state.last = password;
                }
                state.is_warned = false;
            }
            Err(error) if !state.is_warned => {
                state.is_warned = true;
                warn!(
                    file,
                    error, "the password cannot be read again; the last one goes on"
                );
            }
            Err(_) => {}
        }
        state.last.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Makes a password of the content of a file.
///
/// # Errors
/// A clause to stand behind the name of the file.
pub(crate) fn parse_content(content: Vec<u8>, parse: Parse) -> Result<Secret, String> {
    let text = String::from_utf8(content).map_err(|_| "is not UTF-8 text".to_owned())?;
    // Editors on Windows mark the beginning; an editor or `echo` ends the line.
    let line = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let line = line.strip_suffix('\n').unwrap_or(line);
    parse(line.strip_suffix('\r').unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parse(text: &str) -> Result<Secret, String> {
        match text {
            "" => Err("is empty".to_owned()),
            text => Ok(Secret::new(text)),
        }
    }

    #[tokio::test]
    async fn reads_its_file_again_and_goes_on_with_the_last_good_one() {
        let name = format!("adit-password-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let password = Password::of_file(path.clone(), Secret::new("first"), parse);
        for (content, expected) in [
            (None, "first"),
            (Some("second\r\n"), "second"),
            // As editors on Windows write it.
            (Some("\u{feff}marked\r\n"), "marked"),
            (Some(""), "marked"),
            (Some("third"), "third"),
        ] {
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => assert!(!path.exists()),
            }
            assert_eq!(password.clone().read().await.expose(), expected);
        }
        fs::remove_file(path).unwrap();
        assert_eq!(password.read().await.expose(), "third");
        assert_eq!(format!("{password:?}"), "Password(..)");
    }
}
