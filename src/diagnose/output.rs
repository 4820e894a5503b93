//! Where the archive goes: whole or not at all, for its owner alone, and over no other file.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// For whoever has asked alone: names of machines are nobody else's business.
const MODE: u32 = 0o600;

/// Writes a file in the place of none, or with `force` of any.
///
/// # Errors
/// The file is there, or what the system says.
pub(super) fn write(path: &Path, content: &[u8], force: bool) -> io::Result<()> {
    let beside = beside(path);
    let written = write_beside(&beside, content).and_then(|()| put_in_place(&beside, path, force));
    if written.is_err() {
        // It may not have been made at all.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn write_beside(beside: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(MODE);
    let mut file = options.open(beside)?;
    file.write_all(content)?;
    file.sync_all()
}

fn put_in_place(beside: &Path, path: &Path, force: bool) -> io::Result<()> {
    if force {
        return fs::rename(beside, path);
    }
    match renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE) {
        // Not every file system can do that.
        Err(Errno::INVAL | Errno::NOSYS) if path.symlink_metadata().is_err() => {
            fs::rename(beside, path)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_nothing_unless_it_is_told_to() {
        let directory = std::env::temp_dir().join(format!("adit-archive-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("a.tar.gz");
        write(&path, b"first", false).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = write(&path, b"second", false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write(&path, b"third", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "litter");
        fs::remove_dir_all(&directory).unwrap();
        let error = write(&path, b"x", false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
