//! Whether the log goes to systemd's journal, and how the journal is told what a line weighs.
//!
//! A line that begins with `<4>` has the priority of a warning there, and loses the mark
//! (`sd-daemon(3)`). Native fields would need another socket and a protocol of their own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use tracing::Level;

/// Device and inode of what leads to the journal (`systemd.exec(5)`).
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether a file of this process leads to the journal. A child that has its own standard error
/// inherits the variable all the same.
pub(super) fn is_journal(file: &File) -> bool {
    let metadata = file.metadata();
    let named = std::env::var_os(VARIABLE);
    metadata.is_ok_and(|file| is_named(named.as_deref(), file.dev(), file.ino()))
}

fn is_named(variable: Option<&OsStr>, device: u64, inode: u64) -> bool {
    let named = variable.and_then(OsStr::to_str);
    let named = named.and_then(|text| text.split_once(':'));
    named.is_some_and(|(named_device, named_inode)| {
        (named_device.parse(), named_inode.parse()) == (Ok(device), Ok(inode))
    })
}

/// The mark of a line: the priorities of syslog (`syslog(3)`).
pub(super) fn mark(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        Level::DEBUG | Level::TRACE => b"<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_journal_by_device_and_inode() {
        for (variable, is_journal) in [
            (Some("8:4711"), true),
            (Some("8:4712"), false),
            (Some("9:4711"), false),
            (Some("8"), false),
            (Some(""), false),
            (None, false),
        ] {
            let variable = variable.map(OsStr::new);
            assert_eq!(is_named(variable, 8, 4711), is_journal, "{variable:?}");
        }
    }
}
