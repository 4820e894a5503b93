//! What the machine says of itself, as far as it bears on a network and on the limits of a process.

use std::path::Path;

use crate::files;
use crate::words::words;

/// Bytes of a file that are taken; of a longer one the beginning.
const LIMIT: usize = 128 << 10;

/// Returns files of the machine one after the other, each with its name; of one that cannot be had, why.
pub(super) fn files(paths: &[&str]) -> String {
    paths.iter().map(|path| file(path)).collect()
}

/// Limits of this process and of the agent.
pub(super) fn limits(agent: Option<u32>) -> String {
    let own = file("/proc/self/limits");
    match agent {
        Some(id) => own + &file(&format!("/proc/{id}/limits")),
        None => own + "== the agent\nnot there: no agent has told its process id\n",
    }
}

fn file(path: &str) -> String {
    let text = match files::read_at_start(Path::new(path)) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content.bytes).into_owned();
            match text.get(..text.floor_char_boundary(LIMIT)) {
                Some(start) if start.len() < text.len() => format!("{start}\n(cut)"),
                _ => text,
            }
        }
        Err(error) => format!("not there: {}", words(&error)),
    };
    format!("== {path}\n{}\n\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_there_is_and_why_the_rest_is_not() {
        let text = files(&["/proc/sys/kernel/ostype", "/nowhere/file", "/dev/zero"]);
        assert_eq!(
            text,
            "== /proc/sys/kernel/ostype\nLinux\n\n\
             == /nowhere/file\nnot there: no such file or directory\n\n\
             == /dev/zero\nnot there: it is a device, and only regular files are read\n\n"
        );
        let text = limits(Some(std::process::id()));
        assert_eq!(text.matches("Max open files").count(), 2, "{text}");
        assert!(limits(None).ends_with("no agent has told its process id\n"));
    }

    #[test]
    fn cuts_what_is_too_long() {
        let path = std::env::temp_dir().join(format!("adit-machine-{}", std::process::id()));
        std::fs::write(&path, "é".repeat(LIMIT)).unwrap();
        let text = file(path.to_str().unwrap());
        std::fs::remove_file(path).unwrap();
        assert!(text.len() < LIMIT + 200, "{}", text.len());
        assert!(text.ends_with("é\n(cut)\n\n"));
    }
}
