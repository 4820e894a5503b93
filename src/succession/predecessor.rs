//! The process that is followed, as the new one sees it.

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::SUCCESSOR_VARIABLE;
use super::between;
use super::course::{QUIET_LIMIT, READY_LIMIT};
use super::wire::{Candidate, Handover, Link, ToPredecessor, ToSuccessor};
use crate::state::snapshot;

/// How long the old process may take until it hands over; it gives up earlier by itself.
pub(crate) const HANDOVER_LIMIT: Duration =
    READY_LIMIT.saturating_add(QUIET_LIMIT.saturating_mul(2));
/// How long what is carried may take to be told, after which it is shown without.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// What this process was started with, if it is to follow another: nobody has been answered yet.
pub struct Inheritance {
    stream: UnixStream,
    host_name: Option<String>,
}

/// The process that carries its tunnels on.
pub(crate) struct Predecessor {
    link: Link<ToSuccessor, ToPredecessor>,
    /// What was told last, and when.
    carries: Option<(snapshot::Predecessor, Instant)>,
    asked_at: Option<Instant>,
    /// Whether there is nobody any more.
    has_gone: bool,
}

/// The old process has not handed over.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it has not handed over")]
pub(crate) struct NotHandedOver;

/// What the old process says.
#[derive(Debug)]
pub(crate) enum Said {
    /// Only this process is in charge.
    Confirmed,
    /// What it carries; [`Predecessor::carries`] has it.
    Carries,
    /// What the platform is to be told of a tunnel that has ended.
    Say {
        /// With its prefix.
        topic: String,
        /// Rows.
        payload: String,
    },
    /// What means nothing now.
    Nothing,
    /// It has ended.
    Gone,
}

impl Inheritance {
    /// Looks whether this process was started to follow another.
    pub fn of_this_process() -> Option<Self> {
        let host_name = env::var(SUCCESSOR_VARIABLE).ok()?;
        let stdin = io::stdin().as_fd().try_clone_to_owned().ok()?;
        let stream = UnixStream::from(stdin);
        // Whoever else set the variable has no socket there.
        stream.peer_addr().ok()?;
        Some(Self {
            stream,
            host_name: Some(host_name).filter(|name| !name.is_empty()),
        })
    }

    /// Returns what the old process has read as the name of the machine.
    pub fn host_name(&self) -> Option<&str> {
        self.host_name.as_deref()
    }

    /// Says why this process cannot follow.
    pub fn refuse(&self, reason: &str) {
        let refusal = ToPredecessor::Refused(reason.to_owned());
        if let Ok(line) = serde_json::to_string(&refusal) {
            // Who has gone does not read it; this process ends anyway.
            let _ = writeln!(&self.stream, "{line}");
        }
    }

    /// Says that this process could take over.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn ready(self, candidate: Candidate) -> io::Result<Predecessor> {
        let link = Link::new(self.stream)?;
        link.say(&ToPredecessor::Ready(candidate));
        Ok(Predecessor {
            link,
            carries: None,
            asked_at: None,
            has_gone: false,
        })
    }
}

impl Predecessor {
    /// Waits until it hands over what it knows.
    ///
    /// # Errors
    /// It does not, or `stop` comes before.
    pub(crate) async fn hand_over(
        mut self,
        stop: &CancellationToken,
    ) -> Result<(Self, Handover), NotHandedOver> {
        let waiting = async {
            loop {
                match self.link.next().await {
                    Some(ToSuccessor::TakeOver(handover)) => return Some(handover),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        let handover = tokio::select! {
            handover = timeout(HANDOVER_LIMIT, waiting) => handover.ok().flatten(),
            () = stop.cancelled() => None,
        };
        let handover = handover.ok_or(NotHandedOver)?;
        Ok((self, *handover))
    }

    /// Waits for what it says; [`Said::Gone`] once, when it has ended. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self, now: impl Fn() -> Instant) -> Said {
        if self.has_gone {
            return std::future::pending().await;
        }
        match self.link.next().await {
            Some(ToSuccessor::Confirmed) => Said::Confirmed,
            Some(ToSuccessor::Carries(carries)) => {
                self.carries = Some((*carries, now()));
                self.asked_at = None;
                Said::Carries
            }
            Some(ToSuccessor::Say { topic, payload }) => Said::Say { topic, payload },
            // Once is enough.
            Some(ToSuccessor::TakeOver(_)) => Said::Nothing,
            None => {
                self.has_gone = true;
                (self.carries, self.asked_at) = (None, None);
                Said::Gone
            }
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_gone(&self) -> bool {
        self.has_gone
    }

    /// Says that this process is in charge, and whether the broker has taken its login.
    pub(crate) fn in_charge(&self, is_connected: bool) {
        between::stand_alone();
        self.link.say(&ToPredecessor::InCharge(is_connected));
    }

    /// Has it stop too.
    pub(crate) fn stop(&self) {
        self.link.say(&ToPredecessor::Stop);
    }

    /// Has it end the tunnels whose targets the policy of these rules denies.
    pub(crate) fn limit(&self, rules: String) {
        self.link.say(&ToPredecessor::Policy(rules));
    }

    /// Says that another process is in charge, and no more this one.
    pub(crate) fn replaced(&self) {
        self.link.say(&ToPredecessor::Replaced);
    }

    /// Asks what it carries, unless that is known well enough; whether it is to be waited for.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        if self.has_gone {
            return false;
        }
        let is_fresh = |(_, at): &(_, Instant)| now.saturating_duration_since(*at) < LOOK_LIMIT;
        if self.carries.as_ref().is_some_and(is_fresh) {
            return false;
        }
        if self.asked_at.is_none() {
            self.link.say(&ToPredecessor::Look);
            self.asked_at = Some(now);
        }
        true
    }

    /// Returns until when an answer is waited for.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.asked_at.map(|at| at + LOOK_LIMIT)
    }

    /// Waits for no answer any more.
    pub(crate) fn give_up_looking(&mut self) {
        self.asked_at = None;
    }

    /// Returns what it carried when that was last told.
    pub(crate) fn carries(&self) -> Option<snapshot::Predecessor> {
        self.carries.as_ref().map(|(carries, _)| carries.clone())
    }

    /// Returns how many tunnels it carried then, and those before it.
    pub(crate) fn tunnels(&self) -> u64 {
        let carries = self.carries.as_ref();
        carries.map_or(0, |(carries, _)| carries.all_tunnels())
    }

    /// Waits until what was said is written, for a moment.
    pub(crate) async fn close(self) {
        self.link.close().await;
    }
}
