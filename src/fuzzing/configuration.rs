//! A configuration from all its sources: a file, variables and flags, with a NUL between them.
//!
//! A configuration comes of it or at least one fault, each a legible line, and no fault shows what
//! stands in a place for secrets.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::is_legible;
use crate::config::{Config, Sources};
use crate::files::FileContent;

/// Stands wherever a fuzzed configuration has a secret.
const SECRET: &str = "s3cr3t-7f3a9";

pub(super) fn run(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let (mut environment, mut settings) = (Vec::new(), Vec::new());
    for part in parts {
        if part.starts_with(b"ADIT_") {
            let mut halves = part.splitn(2, |byte| *byte == b'=');
            let mut half = || OsString::from_vec(halves.next().unwrap_or_default().to_vec());
            environment.push((half(), half()));
        } else {
            settings.push(String::from_utf8_lossy(part).into_owned());
        }
    }
    let read = |path: &Path| match path.to_str() {
        Some("adit.toml") => Ok(content(file)),
        Some("secret") => Ok(content(SECRET.as_bytes())),
        Some("device.pem") => Ok(content(file)),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let sources = Sources {
        file: Some(PathBuf::from("adit.toml")),
        settings,
        environment,
        host_name: Some("gateway".to_owned()),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        read: &read,
    };
    match Config::load(&sources) {
        Ok(config) => {
            for warning in &config.warnings {
                assert!(is_legible(warning), "{warning:?}");
            }
            let _ = format!("{config:?}");
        }
        Err(faults) => {
            let faults = faults.to_string();
            assert!(!faults.is_empty());
            for fault in faults.lines() {
                assert!(is_legible(fault), "{fault:?}");
            }
        }
    }
}

fn content(bytes: &[u8]) -> FileContent {
    FileContent {
        bytes: bytes.to_vec(),
        world_readable: false,
    }
}
