//! The file that keeps the credentials of a registration: TOML with `tenant`, `username` and
//! `password`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use smartrest::Credentials;
use zeroize::Zeroizing;

use super::own_file::{self, WriteError};

/// Bytes that are reserved: what the platform sends at most (16,184), with every character escaped.
const RESERVED: usize = 100 << 10;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content<T> {
    tenant: T,
    username: T,
    password: T,
}

/// Why a credentials file is of no use. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsFileError {
    /// It is not TOML with the three values.
    #[error("does not hold tenant, username and password as adit writes them")]
    Content,
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Reads the content of a credentials file.
///
/// # Errors
/// It is none.
pub(crate) fn parse(content: &[u8]) -> Result<Credentials, CredentialsFileError> {
    let text = str::from_utf8(content).map_err(|_| CredentialsFileError::Content)?;
    // The library's error repeats the line, and a line may be the password.
    let Content::<String> {
        tenant,
        username,
        password,
    } = toml::from_str(text).map_err(|_| CredentialsFileError::Content)?;
    Ok(Credentials {
        tenant,
        user: username,
        password: Zeroizing::new(password),
    })
}

/// Room on the disk for a credentials file.
pub(crate) struct Reservation(own_file::Reservation);

impl Reservation {
    /// Takes the room.
    ///
    /// # Errors
    /// There is none, or the directory is missing or may not be written.
    pub(crate) fn new(path: &Path) -> Result<Self, CredentialsFileError> {
        Ok(Self(own_file::Reservation::new(path, RESERVED)?))
    }

    /// Puts the credentials into the room.
    ///
    /// # Errors
    /// The file or its directory is not there any more, or the disk fails.
    pub(crate) fn fill(self, credentials: &Credentials) -> Result<(), CredentialsFileError> {
        Ok(self.0.fill(text(credentials)?.as_bytes())?)
    }
}

/// Writes a credentials file, whole or not at all.
///
/// # Errors
/// The directory is missing or may not be written, or the disk is full.
pub(crate) fn write(path: &Path, credentials: &Credentials) -> Result<(), CredentialsFileError> {
    Ok(own_file::write(path, text(credentials)?.as_bytes())?)
}

fn text(credentials: &Credentials) -> Result<Zeroizing<String>, CredentialsFileError> {
    let Credentials {
        tenant,
        user,
        password,
    } = credentials;
    let content = Content {
        tenant,
        username: user,
        password,
    };
    let text = toml::to_string(&content).map_err(|_| CredentialsFileError::Content)?;
    Ok(Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(password: &str) -> Credentials {
        let (tenant, user) = ("t12345".to_owned(), "device_gw".to_owned());
        Credentials {
            tenant,
            user,
            password: password.to_owned().into(),
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        for password in ["secret", "\"quoted\" \\ ü\t", ""] {
            let text = text(&credentials(password)).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap(), credentials(password));
        }
    }

    #[test]
    fn says_what_is_wrong_without_the_content() {
        for content in [
            "",
            "password = hunter2",
            "tenant = \"t\"\nhunter2 = 1",
            "\u{0}hunter2",
        ] {
            let complaint = parse(content.as_bytes()).unwrap_err().to_string();
            assert_eq!(
                complaint,
                "does not hold tenant, username and password as adit writes them"
            );
        }
    }
}
