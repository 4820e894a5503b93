//! Tunnels that go on when adit has left the broker: what they have to tell is told by the process that
//! has taken over, or where there is none, only logged.

use std::time::Instant;

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::overview::clock;
use super::succession::Heard;
use super::{Agent, MEASURE_INTERVAL, TUNNELS_END, now};
use crate::platform::dialogue::Step;
use crate::state::snapshot::Predecessor;
use crate::succession::{predecessor, successor};
use crate::tunnel::policy::Policy;
use crate::words::seconds;

/// What is left of an agent whose session has ended.
pub(crate) struct Carrier {
    agent: Agent,
    /// When the tunnels are to end, if at all.
    over_at: Option<Instant>,
    /// They are told to end, and have until then.
    ends_by: Option<Instant>,
    /// Its own tunnels have had their end.
    is_over: bool,
    /// The process that has taken over wants to know what is carried, when that of another is known.
    owes_look: bool,
    /// From the process that has taken over, yet another one has.
    is_replaced_twice: bool,
}

impl Carrier {
    /// Lets the tunnels go on until then, or until they end.
    pub(super) fn new(agent: Agent, over_at: Option<Instant>) -> Self {
        Self {
            agent,
            over_at,
            ends_by: None,
            is_over: false,
            owes_look: false,
            is_replaced_twice: false,
        }
    }

    /// Has no tunnels of its own any more, and waits only for the process before this one, until then at
    /// the latest.
    pub(super) fn at_the_end(agent: Agent, ends_by: Instant) -> Self {
        Self {
            ends_by: Some(ends_by),
            is_over: true,
            ..Self::new(agent, None)
        }
    }

    /// Whether another process has everything but the tunnels.
    pub(crate) fn is_replaced(&self) -> bool {
        self.agent.succession.is_replaced
    }

    fn has_tunnels(&self) -> bool {
        !self.is_over && !self.agent.tunnels.is_empty()
    }

    /// Carries until all tunnels have ended, also those of a process before this one, and ends its own
    /// when their time is over.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.agent.succession.doors.close();
        self.say_what_goes_on();
        let mut is_told = stop.is_cancelled();
        let had_tunnels = self.has_tunnels();
        while self.has_tunnels() || self.agent.succession.has_predecessor() {
            let deadline = self.ends_by.or(self.over_at);
            tokio::select! {
                event = self.agent.tunnels.next() => {
                    self.agent.tunnel_event(event);
                    self.pass_on();
                }
                heard = self.agent.succession.next() => self.heard(heard),
                () = stop.cancelled(), if !is_told => {
                    is_told = true;
                    self.is_to_stop();
                }
                () = sleep_until(deadline.unwrap_or_else(now).into()), if deadline.is_some() => {
                    if self.ends_by.is_some() {
                        break;
                    }
                    self.end();
                }
                () = sleep(MEASURE_INTERVAL), if !self.agent.tunnels.is_empty() => {
                    self.agent.tunnels.measure();
                }
            }
        }
        match (self.has_tunnels(), had_tunnels) {
            (true, _) => warn!(
                tunnels = self.agent.tunnels.len(),
                "tunnels did not end in time"
            ),
            (false, true) => info!("all tunnels have ended"),
            (false, false) => {}
        }
        self.agent.succession.close().await;
    }

    fn say_what_goes_on(&self) {
        if !self.has_tunnels() {
            return;
        }
        let tunnels = self.agent.tunnels.len();
        let left = self.over_at.map(|at| at.saturating_duration_since(now()));
        let at_most_s = left.map(seconds);
        if self.agent.succession.is_replaced {
            info!(
                tunnels,
                at_most_s,
                "another process has taken over; this one carries its tunnels until they end"
            );
        } else {
            info!(
                tunnels,
                at_most_s,
                "adit has left the broker; its tunnels go on until they end or remote_access.drain is over"
            );
        }
    }

    /// Has what tunnels have to tell told by the process that has taken over.
    fn pass_on(&mut self) {
        while let Some(step) = self.agent.dialogue.next_step() {
            if let Step::Publish(message) = step
                && let Some(following) = &self.agent.succession.following
            {
                following
                    .successor
                    .have_said(message.topic, message.payload);
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Successor(successor::Said::Look) => {
                self.agent.tunnels.measure();
                let predecessor = self.agent.succession.predecessor.as_mut();
                self.owes_look = predecessor.is_some_and(|it| it.look(now()));
                if !self.owes_look {
                    self.show();
                }
            }
            Heard::Successor(successor::Said::Stop) => self.is_to_stop(),
            Heard::Successor(successor::Said::Policy(rules)) => {
                let Some(policy) = Policy::from_rules(&rules) else {
                    return warn!(
                        "a newer policy is not understood; what is carried goes on as before"
                    );
                };
                self.agent.succession.limit_predecessor(&policy);
                let ended = self.agent.tunnels.set_policy(policy);
                if ended > 0 {
                    info!(ended_tunnels = ended, "the policy is another now");
                }
            }
            Heard::Successor(successor::Said::Replaced) => self.is_replaced_twice = true,
            Heard::Successor(successor::Said::Gone) => {
                self.agent.succession.following = None;
                if self.is_replaced_twice {
                    warn!(
                        "a process between this one and the one in charge has ended; the ends of the \
                         tunnels of this one are only logged"
                    );
                } else {
                    error!(
                        "the process that had taken over has ended: nobody takes operations until adit \
                         is started again"
                    );
                }
            }
            Heard::Successor(_) => {}
            Heard::Predecessor(predecessor::Said::Say { topic, payload }) => {
                if let Some(following) = &self.agent.succession.following {
                    following.successor.have_said(topic, payload);
                }
            }
            heard @ (Heard::Predecessor(_) | Heard::Due) => {
                self.agent.heard(heard);
                if std::mem::take(&mut self.owes_look) {
                    self.show();
                }
            }
        }
    }

    fn show(&self) {
        let succession = &self.agent.succession;
        let Some(following) = &succession.following else {
            return;
        };
        let ends_at = self.ends_by.or(self.over_at);
        let before = succession.predecessor.as_ref();
        following.successor.show(Predecessor {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            tunnels: self.agent.tunnels.overview(&clock()),
            ends_in_s: ends_at.map(|at| seconds(at.saturating_duration_since(now()))),
            predecessor: before
                .and_then(predecessor::Predecessor::carries)
                .map(Box::new),
        });
    }

    /// Gives the tunnels the time that they have when adit is to stop.
    fn is_to_stop(&mut self) {
        self.agent.succession.stop_predecessor();
        if self.ends_by.is_some() {
            return;
        }
        let over_at = now() + self.agent.drain.unwrap_or_default();
        self.over_at = Some(self.over_at.map_or(over_at, |before| before.min(over_at)));
    }

    /// Ends the tunnels, which may still deliver their last bytes.
    fn end(&mut self) {
        let tunnels = self.agent.tunnels.len();
        if tunnels > 0 {
            info!(tunnels, "the time of the tunnels is over; adit ends them");
        }
        self.agent.tunnels.stop();
        self.ends_by = Some(now() + TUNNELS_END);
    }
}
