//! The process between the one that is followed and the one that is to follow.
//!
//! Whoever supervises adit, as systemd does, learns of the end of the main process only where that is its
//! child or an orphan that it has taken in. A process cannot give a child away, but leaves it by its own
//! end. So the program is started twice: the first waits for the second and ends as that does, until the
//! second is in charge and the old process ends the first. Up to then, the second ends with the first.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitCode, ExitStatus};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use super::{BETWEEN_VARIABLE, Inheritance, Program};

impl Inheritance {
    /// Starts the process that is to follow and ends as that does; `None` where this is that process.
    pub fn stand_between(&self) -> Option<ExitCode> {
        let Ok(between) = env::var(BETWEEN_VARIABLE) else {
            return Some(self.start_and_wait());
        };
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        // It may have ended before that.
        let is_left = Pid::as_raw(getppid()).to_string() != between;
        is_left.then_some(ExitCode::FAILURE)
    }

    fn start_and_wait(&self) -> ExitCode {
        let program = Program::of_this_process(self.host_name().map(str::to_owned));
        let started = program.and_then(|program| {
            let mut command = program.command();
            command.env(BETWEEN_VARIABLE, process::id().to_string());
            command.spawn()
        });
        match started.and_then(|mut child| child.wait()) {
            Ok(status) => end_as(status),
            Err(error) => {
                self.refuse(&format!("it cannot be started once more: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// Lets this process live on when the one between ends.
pub(super) fn stand_alone() {
    let _ = set_parent_process_death_signal(None);
}

/// Ends this process as another has ended.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // Rust's own handler takes the first of those that a bad access to memory causes.
        for _ in 0..2 {
            let _ = kill_process(getpid(), signal);
        }
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
