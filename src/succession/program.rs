//! The program that this process was started from, to be started again.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf, absolute};
use std::process::{Child, Command, Stdio};

use super::{BETWEEN_VARIABLE, SUCCESSOR_VARIABLE};

/// Names the process that a supervisor means; the next one is another.
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    host_name: String,
}

impl Program {
    /// Finds it by the name that it was started by, because the file behind that is another after an
    /// upgrade. `host_name` is what a successor takes for that of the machine.
    ///
    /// # Errors
    /// What the system says.
    pub fn of_this_process(host_name: Option<String>) -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let running = env::current_exe()?;
        let path = named(&name, env::var_os("PATH").as_deref(), &running).unwrap_or(running);
        Ok(Self {
            path,
            arguments: arguments.collect(),
            host_name: host_name.unwrap_or_default(),
        })
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it again, and returns the end of a socket whose other end is its standard input.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (own, its) = UnixStream::pair()?;
        let child = self
            .command()
            .stdin(Stdio::from(OwnedFd::from(its)))
            .env(SUCCESSOR_VARIABLE, &self.host_name)
            .env_remove(BETWEEN_VARIABLE)
            .env_remove(WATCHDOG_PROCESS)
            .spawn()?;
        Ok((child, own))
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// Returns the path that a name of a command means, if that is the program that runs.
fn named(name: &OsStr, path: Option<&OsStr>, running: &Path) -> Option<PathBuf> {
    let is_it = |candidate: &Path| candidate.canonicalize().is_ok_and(|real| real == running);
    if Path::new(name).components().count() > 1 {
        return absolute(name).ok().filter(|path| is_it(path));
    }
    let directories = env::split_paths(path?);
    let candidates = directories.filter_map(|directory| absolute(directory.join(name)).ok());
    candidates.into_iter().find(|candidate| is_it(candidate))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn takes_the_name_that_it_was_started_by_and_not_the_file_behind_it() {
        let directory = env::temp_dir().join(format!("adit-program-{}", std::process::id()));
        let (bin, versions) = (directory.join("bin"), directory.join("1.0"));
        for place in [&bin, &versions] {
            fs::create_dir_all(place).unwrap();
        }
        let file = versions.join("adit");
        fs::write(&file, "").unwrap();
        let link = bin.join("adit");
        symlink(&file, &link).unwrap();
        let running = file.canonicalize().unwrap();
        let path = env::join_paths([Path::new("/nonexistent"), &bin]).unwrap();
        for (name, found) in [
            (link.as_os_str(), Some(&link)),
            (file.as_os_str(), Some(&file)),
            (OsStr::new("adit"), Some(&link)),
            (OsStr::new("other"), None),
            (OsStr::new("/bin/sh"), None),
        ] {
            assert_eq!(
                named(name, Some(&path), &running).as_ref(),
                found,
                "{name:?}"
            );
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
