//! A new configuration in the place of the old one, while tunnels go on.

use std::time::Duration;

use tracing::info;

use super::Agent;
use crate::mqtt::outbox::Message;
use crate::mqtt::session::Options;
use crate::net::Transport;
use crate::tunnel::Opener;
use crate::tunnel::policy::Policy;

/// All of the agent that a reload replaces.
pub(crate) struct Renewal {
    /// For the tunnels that open from now on.
    pub opener: Opener,
    /// Tunnels at the same time.
    pub max_tunnels: usize,
    /// How long tunnels may go on once adit is to stop.
    pub drain: Option<Duration>,
    /// For the tunnels that are open, too.
    pub policy: Policy,
    /// What is said at the next login, and as whom.
    pub options: Options,
    /// The way to the broker from the next login on.
    pub transport: Transport,
    /// What is to be announced now.
    pub announce: Vec<Message>,
    /// External ids of the devices behind the gateway.
    pub children: Vec<String>,
    /// Whether the platform gets an event for each tunnel.
    pub events: bool,
}

/// Returns what has to be announced of `new` that was not announced of `old`.
pub(crate) fn news(old: &Options, new: &Options) -> Vec<Message> {
    let said: Vec<_> = [&old.create[..], &old.announce].concat();
    let to_say = [&new.create[..], &new.announce].concat();
    to_say
        .into_iter()
        .filter(|message| !said.contains(message))
        .collect()
}

impl Agent {
    /// Takes what is new; returns how many tunnels are ended because the policy denies their targets.
    pub(super) fn renew(&mut self, renewal: Renewal) -> u64 {
        let policy = renewal.policy.to_string();
        self.drain = renewal.drain;
        for message in renewal.announce {
            self.publisher.publish(message);
        }
        self.dialogue
            .renew(renewal.max_tunnels, &policy, renewal.events);
        self.facts.transport = renewal.transport.clone();
        self.facts.device.children = renewal.children;
        self.facts.remote_access.policy.clone_from(&policy);
        self.facts.remote_access.max_tunnels = renewal.max_tunnels as u64;
        self.publisher.renew(renewal.options, renewal.transport);
        self.succession.limit_predecessor(&renewal.policy);
        let ended = self
            .tunnels
            .renew(renewal.opener, renewal.max_tunnels, renewal.policy);
        info!(policy, ended_tunnels = ended, "the new configuration holds");
        ended
    }
}
