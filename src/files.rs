//! Files of this machine, which somebody else writes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// No configuration, password or bundle of certificates is longer.
const FILE_LIMIT: u64 = 4 << 20;

/// A file that was read.
#[derive(Clone)]
pub struct FileContent {
    /// All of it; may hold secrets.
    pub bytes: Vec<u8>,
    /// Whether every user of the machine may read it.
    pub world_readable: bool,
}

/// Reads a file of this machine.
///
/// # Errors
/// What the system says, or that the file is too long to be meant.
pub fn read(path: &Path) -> io::Result<FileContent> {
    const EVERYBODY_READS: u32 = 0o004;
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        let words = format!("it is longer than {FILE_LIMIT} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
    }
    Ok(FileContent {
        bytes,
        world_readable: mode & EVERYBODY_READS != 0,
    })
}
