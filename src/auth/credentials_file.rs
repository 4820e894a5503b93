//! The file that keeps the credentials of a registration.
//!
//! It is TOML with `tenant`, `username` and `password`, readable by its owner only. It is written
//! beside its place and moved there when it is on the disk, so that a power cut leaves the whole
//! file or none: half of one would make the gateway unreachable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smartrest::Credentials;
use zeroize::Zeroizing;

const OWNER_ONLY: u32 = 0o600;
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
    #[error("cannot write {}", path.display())]
    Write {
        /// What could not be written: the file, or the one beside it that is moved there.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
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

/// Room on the disk for a credentials file, taken before there is anything to write.
///
/// The platform hands the credentials out once: a disk that is full by then must not lose them.
/// Dropping it gives the room back.
pub(crate) struct Reservation {
    path: PathBuf,
    /// Beside the place of the credentials file, and as long as that may be.
    file: File,
}

impl Reservation {
    /// Takes the room.
    ///
    /// # Errors
    /// There is none, or the directory is missing or may not be written.
    pub(crate) fn new(path: &Path) -> Result<Self, CredentialsFileError> {
        let beside = beside(path);
        let mut file = create(&beside)?;
        let written = file
            .write_all(&[b'\n'; RESERVED])
            .and_then(|()| file.sync_all());
        let reservation = Self {
            path: path.to_owned(),
            file,
        };
        match written {
            Ok(()) => Ok(reservation),
            Err(error) => Err(failed(&beside)(error)),
        }
    }

    /// Puts the credentials into the room.
    ///
    /// # Errors
    /// The file or its directory is not there any more, or the disk fails.
    pub(crate) fn fill(mut self, credentials: &Credentials) -> Result<(), CredentialsFileError> {
        let text = text(credentials)?;
        self.file
            .rewind()
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .and_then(|()| self.file.set_len(text.len() as u64))
            .and_then(|()| self.file.sync_all())
            .map_err(failed(&beside(&self.path)))?;
        put_in_place(&self.path)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // It has become the credentials file, or somebody has removed it.
        let _ = fs::remove_file(beside(&self.path));
    }
}

/// Writes a credentials file, whole or not at all.
///
/// # Errors
/// The directory is missing or may not be written, or the disk is full.
pub(crate) fn write(path: &Path, credentials: &Credentials) -> Result<(), CredentialsFileError> {
    let text = text(credentials)?;
    let beside = beside(path);
    let mut file = create(&beside)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed(&beside))?;
    put_in_place(path)
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

/// Moves what was written beside to its place, and has that on the disk too.
fn put_in_place(path: &Path) -> Result<(), CredentialsFileError> {
    fs::rename(beside(path), path).map_err(failed(path))?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(failed(path))
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn create(beside: &Path) -> Result<File, CredentialsFileError> {
    // One that is left from a power cut may have other rights.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(beside)(error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(beside)
        .map_err(failed(beside))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CredentialsFileError {
    let path = path.to_owned();
    move |source| CredentialsFileError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn credentials(password: &str) -> Credentials {
        let (tenant, user) = ("t12345".to_owned(), "device_gw".to_owned());
        Credentials {
            tenant,
            user,
            password: password.to_owned().into(),
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("adit-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn reads_what_it_wrote_and_lets_nobody_else_read_it() {
        let directory = directory("credentials");
        let path = directory.join("credentials.toml");
        for password in ["secret", "\"quoted\" \\ ü\t", ""] {
            fs::write(directory.join("credentials.new"), "half a fi").unwrap();
            write(&path, &credentials(password)).unwrap();
            let read = parse(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(read, credentials(password));
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn keeps_room_until_it_is_filled() {
        let directory = directory("reservation");
        let path = directory.join("credentials.toml");
        let reserved = directory.join("credentials.new");
        let reservation = Reservation::new(&path).unwrap();
        assert_eq!(fs::metadata(&reserved).unwrap().len(), RESERVED as u64);
        drop(reservation);
        assert!(!reserved.exists());
        let reservation = Reservation::new(&path).unwrap();
        reservation.fill(&credentials("secret")).unwrap();
        let read = parse(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, credentials("secret"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
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
        let path = Path::new("/nonexistent/credentials.toml");
        let error = write(path, &credentials("hunter2")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write /nonexistent/credentials.new"
        );
    }
}
