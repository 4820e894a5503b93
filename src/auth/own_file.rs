//! Files that adit writes itself, readable by their owner only.
//!
//! Each is written beside its place and moved there when it is on the disk, so that a power cut
//! leaves the whole file or none: half of one would make the gateway unreachable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::{directory, lock_directory};

const OWNER_ONLY: u32 = 0o600;
/// How long another process may take to make its files: a slow card takes seconds to sync one.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub(crate) struct WriteError {
    /// What could not be written: the file, or the one beside it that is moved there.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

/// Keeps other processes of adit from making files beside `path` that there are none of yet, until the
/// result is dropped. Nothing is held where the file system has no locks, or another process does not let
/// go: that is no reason to do without a certificate.
pub(crate) fn lock_beside(path: &Path) -> Option<File> {
    lock_directory(path, LOCK_LIMIT).ok()
}

/// Room on the disk for a file, taken before there is anything to write.
///
/// The platform hands out once what is kept here: a disk that is full by then must not lose it. What
/// never writes over what is there (btrfs, JFFS2, UBIFS) takes new room for the content: there it is
/// only known that there was enough a moment ago. Dropping it gives the room back.
pub(crate) struct Reservation {
    path: PathBuf,
    /// Beside the place of the file, and as long as that may be.
    file: File,
}

impl Reservation {
    /// Takes room for a file of at most `bytes`.
    ///
    /// # Errors
    /// There is none, or the directory is missing or may not be written.
    pub(crate) fn new(path: &Path, bytes: usize) -> Result<Self, WriteError> {
        let beside = beside(path);
        let mut file = create(&beside)?;
        // Of equal bytes a file system that compresses keeps next to nothing.
        let mut noise = vec![0; bytes];
        fastrand::Rng::new().fill(&mut noise);
        let written = file.write_all(&noise).and_then(|()| file.sync_all());
        let reservation = Self {
            path: path.to_owned(),
            file,
        };
        match written {
            Ok(()) => Ok(reservation),
            Err(error) => Err(failed(&beside)(error)),
        }
    }

    /// Puts the content into the room.
    ///
    /// # Errors
    /// The file or its directory is not there any more, or the disk fails.
    pub(crate) fn fill(mut self, content: &[u8]) -> Result<(), WriteError> {
        self.file
            .rewind()
            .and_then(|()| self.file.write_all(content))
            .and_then(|()| self.file.set_len(content.len() as u64))
            .and_then(|()| self.file.sync_all())
            .map_err(failed(&beside(&self.path)))?;
        match self.is_there() {
            true => put_in_place(&self.path),
            false => write(&self.path, content),
        }
    }

    /// Whether the room has its name: another adit may have taken room for the same file since.
    fn is_there(&self) -> bool {
        let own = self.file.metadata();
        let found = fs::symlink_metadata(beside(&self.path));
        own.is_ok_and(|own| {
            found.is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_there() {
            // The next one replaces it.
            let _ = fs::remove_file(beside(&self.path));
        }
    }
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// The directory is missing or may not be written, or the disk is full.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let beside = beside(path);
    let mut file = create(&beside)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed(&beside))?;
    put_in_place(path)
}

/// Moves what was written beside to its place, and has that on the disk too.
fn put_in_place(path: &Path) -> Result<(), WriteError> {
    fs::rename(beside(path), path).map_err(failed(path))?;
    File::open(directory(path))
        .and_then(|directory| directory.sync_all())
        .map_err(failed(path))
}

/// Where a file is written before it is moved to its place; what was there is removed.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn create(beside: &Path) -> Result<File, WriteError> {
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

fn failed(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError { path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("adit-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn writes_the_whole_file_for_its_owner_only() {
        let directory = directory("own-file");
        let path = directory.join("device.key");
        for content in ["secret", ""] {
            fs::write(directory.join("device.new"), "half a fi").unwrap();
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
        let path = Path::new("/nonexistent/device.key");
        let error = write(path, b"secret").unwrap_err();
        assert_eq!(error.to_string(), "cannot write /nonexistent/device.new");
    }

    #[test]
    fn keeps_room_until_it_is_filled() {
        let directory = directory("reservation");
        let path = directory.join("credentials.toml");
        let reserved = directory.join("credentials.new");
        let reservation = Reservation::new(&path, 1000).unwrap();
        let room = fs::read(&reserved).unwrap();
        let kinds: BTreeSet<_> = room.iter().collect();
        assert!(room.len() == 1000 && kinds.len() > 100, "it is compressed");
        drop(reservation);
        assert!(!reserved.exists());
        let reservation = Reservation::new(&path, 1000).unwrap();
        reservation.fill(b"secret").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn loses_nothing_where_another_process_takes_room_for_the_same_file() {
        let directory = directory("two-reservations");
        let path = directory.join("device.pem");
        let first = Reservation::new(&path, 1000).unwrap();
        let second = Reservation::new(&path, 1000).unwrap();
        first.fill(b"secret").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        drop(second);
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }
}
