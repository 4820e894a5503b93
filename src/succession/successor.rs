//! The process that is to follow, as the old one sees it.

use std::io;
use std::process::{Child, ExitStatus};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::Program;
use super::wire::{Candidate, Handover, Link, ToPredecessor, ToSuccessor};
use crate::state::snapshot::Predecessor;
use crate::threads::aside;

/// How long a process that is killed is waited for.
const END_LIMIT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A process that was started to follow.
pub(crate) struct Successor {
    /// The one between, or itself.
    child: Child,
    process_id: u32,
    link: Link<ToPredecessor, ToSuccessor>,
}

/// What the new process says.
#[derive(Debug)]
pub(crate) enum Said {
    /// It could take over.
    Ready(Candidate),
    /// It cannot.
    Refused(String),
    /// It has taken over; whether the broker has taken its login.
    InCharge(bool),
    /// It wants to know what is carried.
    Look,
    /// Everybody is to stop.
    Stop,
    /// What tunnels may reach from now on: rules of a policy.
    Policy(String),
    /// Yet another process is in charge, whatever becomes of this one.
    Replaced,
    /// It has ended.
    Gone,
}

impl Successor {
    /// Starts it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(program: &Program) -> io::Result<Self> {
        let (mut child, stream) = program.start()?;
        match Link::new(stream) {
            Ok(link) => Ok(Self {
                process_id: child.id(),
                child,
                link,
            }),
            Err(error) => {
                // Without its socket it does nothing.
                drop(aside(move || child.kill().and_then(|()| child.wait())));
                Err(error)
            }
        }
    }

    /// Returns the id of the process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Waits for what it says; [`Said::Gone`] again and again once it has ended. Dropping the future
    /// loses nothing.
    pub(crate) async fn next(&mut self) -> Said {
        match self.link.next().await {
            Some(ToPredecessor::Ready(candidate)) => {
                if candidate.process_id != 0 {
                    self.process_id = candidate.process_id;
                }
                Said::Ready(candidate)
            }
            Some(ToPredecessor::Refused(reason)) => Said::Refused(reason),
            Some(ToPredecessor::InCharge(is_connected)) => Said::InCharge(is_connected),
            Some(ToPredecessor::Look) => Said::Look,
            Some(ToPredecessor::Stop) => Said::Stop,
            Some(ToPredecessor::Policy(policy)) => Said::Policy(policy),
            Some(ToPredecessor::Replaced) => Said::Replaced,
            None => Said::Gone,
        }
    }

    /// Gives it what is known.
    pub(crate) fn hand_over(&self, handover: Handover) {
        self.link.say(&ToSuccessor::TakeOver(Box::new(handover)));
    }

    /// Tells it that nobody else is in charge any more.
    pub(crate) fn confirm(&self) {
        self.link.say(&ToSuccessor::Confirmed);
    }

    /// Tells it what is carried.
    pub(crate) fn show(&self, carried: Predecessor) {
        self.link.say(&ToSuccessor::Carries(Box::new(carried)));
    }

    /// Has it tell the platform something.
    pub(crate) fn have_said(&self, topic: String, payload: String) {
        self.link.say(&ToSuccessor::Say { topic, payload });
    }

    /// Ends it, and returns how it has ended. A process that waits for a disk that hangs does not end
    /// before that answers; it is not waited for.
    pub(crate) async fn kill(mut self) -> String {
        let ended = match end(&mut self.child).await {
            Ok(Some(status)) => status.to_string(),
            Err(error) => return error.to_string(),
            Ok(None) => {
                drop(aside(move || self.child.wait()));
                return "it hangs".to_owned();
            }
        };
        // With the one between it ends too, and gives up what this process is to have again.
        if !self.is_gone().await && self.process_id != self.child.id() {
            // It was in charge a moment ago, and ends no more with the one between. As long as it holds its end
            // of the link, the number is its own.
            let process = i32::try_from(self.process_id).ok().and_then(Pid::from_raw);
            if let Some(process) = process {
                match kill_process(process, Signal::KILL) {
                    // It may just have ended by itself.
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => return error.to_string(),
                }
            }
            self.is_gone().await;
        }
        ended
    }

    /// Waits until it holds nothing of the link any more, for a moment; whether that is so.
    async fn is_gone(&mut self) -> bool {
        let gone = async { while self.link.next().await.is_some() {} };
        timeout(END_LIMIT, gone).await.is_ok()
    }

    /// Ends the process between, so that the new one belongs to whoever takes in orphans: systemd, where
    /// that supervises adit.
    pub(crate) async fn let_go(&mut self) {
        if self.process_id != self.child.id() {
            // Whatever it says, this process has nothing more to do with it.
            let _ = end(&mut self.child).await;
        }
    }

    /// Waits until what was said to it is written, for a moment, and leaves it to itself.
    pub(crate) async fn close(self) {
        self.link.close().await;
    }
}

/// Ends a process, and returns how it has ended; `None` where it does not at once.
async fn end(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    // It may have ended by itself.
    let _ = child.kill();
    let until = Instant::now() + END_LIMIT;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || until < Instant::now() {
            return Ok(status);
        }
        sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn says_how_the_process_ended_that_it_started_though_the_other_has_just_gone() {
        // No process has that number, and somebody still holds the other end.
        const NOBODY: u32 = i32::MAX.cast_unsigned();
        let (stream, _held) = UnixStream::pair().unwrap();
        let successor = Successor {
            child: Command::new("sleep").arg("100").spawn().unwrap(),
            process_id: NOBODY,
            link: Link::new(stream).unwrap(),
        };
        assert_eq!(successor.kill().await, "signal: 9 (SIGKILL)");
    }
}
