//! The sources of the command, for tests that hold something against them.

use std::fs;
use std::path::{Path, PathBuf};

/// A file without its unit tests.
pub(crate) struct File {
    /// From the root of this repository.
    pub(crate) path: PathBuf,
    pub(crate) code: String,
}

/// Reads every source file below a folder of this repository, in the order of their paths.
pub(crate) fn files(place: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from(place)];
    while let Some(path) = waiting.pop() {
        let full = root.join(&path);
        if full.is_dir() {
            let entries = fs::read_dir(&full).expect("a folder of this repository");
            waiting.extend(entries.map(|entry| path.join(entry.expect("an entry").file_name())));
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&full).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests {").next();
            let code = code.unwrap_or_default().to_owned();
            found.push(File { path, code });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "{place} is gone");
    found
}
