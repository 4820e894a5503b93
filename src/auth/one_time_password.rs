//! The password that a device is registered with, once in its life.
//!
//! One that adit has made is kept until the certificate has come: the link in the log, and what an
//! operator has entered, stay good over a restart.

use std::io;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::own_file::{self, WriteError};
use crate::files;
use crate::net::identity::Files;
use crate::secret::Secret;

/// Characters of a password; the platform takes no more.
pub(crate) const LENGTH: usize = 32;
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPassword {
    /// What was kept cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a one-time password")]
    NoRandomness,
}

/// Returns where a password is kept: beside the certificate that it is for.
pub(crate) fn file(files: &Files) -> PathBuf {
    files.certificate.with_extension("one-time-password")
}

/// Returns the password that is kept in a file, or makes one and keeps it there.
///
/// # Errors
/// The file cannot be used.
pub(crate) fn kept_or_new(path: &Path) -> Result<Secret, NoPassword> {
    match files::read_at_start(path) {
        Ok(content) => {
            if let Some(password) = parse(&content.bytes) {
                return Ok(password);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            let path = path.to_owned();
            return Err(NoPassword::Read { path, source });
        }
    }
    let password = generate().ok_or(NoPassword::NoRandomness)?;
    own_file::write(path, password.expose().as_bytes())?;
    Ok(password)
}

fn parse(content: &[u8]) -> Option<Secret> {
    let is_one = content.len() == LENGTH && content.iter().all(|byte| LETTERS.contains(byte));
    let text = str::from_utf8(content).ok().filter(|_| is_one)?;
    Some(Secret::new(text))
}

/// Makes a password with letters of both cases and digits, as rules for passwords want them.
fn generate() -> Option<Secret> {
    let random = SystemRandom::new();
    loop {
        let mut password = Zeroizing::new(String::with_capacity(LENGTH));
        while password.len() < LENGTH {
            let mut bytes = Zeroizing::new([0; LENGTH]);
            random.fill(bytes.as_mut()).ok()?;
            // A byte beyond the last whole row of letters is left out, so that all are as likely.
            let even = bytes.iter().filter(|byte| **byte < 4 * LETTERS.len() as u8);
            let letters = even.filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
            let room = LENGTH - password.len();
            password.extend(letters.take(room).map(|&letter| char::from(letter)));
        }
        let has = |kind: fn(&u8) -> bool| password.as_bytes().iter().any(kind);
        if has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit) {
            return Some(Secret::new(password.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn makes_passwords_that_nobody_guesses() {
        let made: BTreeSet<_> = (0..1000)
            .map(|_| generate().unwrap().expose().to_owned())
            .collect();
        assert_eq!(made.len(), 1000);
        for password in &made {
            assert!(parse(password.as_bytes()).is_some(), "{password}");
        }
        let letters: BTreeSet<_> = made.iter().flat_map(|password| password.bytes()).collect();
        assert_eq!(letters.len(), LETTERS.len());
    }

    #[test]
    fn keeps_a_password_and_replaces_what_is_none() {
        let name = format!("adit-one-time-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let first = kept_or_new(&path).unwrap();
        assert_eq!(kept_or_new(&path).unwrap(), first);
        for content in ["", "short", &"ü".repeat(16), &"a\n".repeat(16)] {
            fs::write(&path, content).unwrap();
            let made = kept_or_new(&path).unwrap();
            assert!(made != first && made.expose().len() == LENGTH, "{content}");
        }
        fs::remove_file(path).unwrap();
    }
}
