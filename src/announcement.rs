//! What the agent tells the platform of itself at every connect, and what it asks.

use smartrest::{REMOTE_ACCESS, Request, TopicError, Topics};

use crate::cloud::broker::Account;
use crate::cloud::outbox::Message;
use crate::cloud::session::Options;
use crate::config::Config;

const AGENT_NAME: &str = "adit";
const AGENT_URL: &str = env!("CARGO_PKG_REPOSITORY");
/// What the platform shows on operations that a former life of adit left executing.
const ORPHAN_REASON: &str = "adit was restarted while the tunnel was opening";
const SECONDS_PER_MINUTE: u64 = 60;

/// The rows of the announcement, under the topics of this gateway.
pub struct Announcement {
    /// The topics with the configured prefix.
    pub topics: Topics,
}

impl Announcement {
    /// Takes the prefix from the configuration.
    ///
    /// # Errors
    /// The prefix cannot stand in a topic.
    pub fn of(config: &Config) -> Result<Self, TopicError> {
        Ok(Self {
            topics: Topics::new(&config.mqtt.topic_prefix)?,
        })
    }

    /// Says what the session is to publish and to subscribe.
    pub fn session_options(&self, config: &Config) -> Options {
        let device = &config.device;
        let announced = |requests: Vec<Request>| {
            let requests = if device.announce {
                requests
            } else {
                Vec::new()
            };
            requests
                .iter()
                .map(|request| self.message(request))
                .collect()
        };
        let mqtt = &config.mqtt;
        Options {
            account: Account {
                broker: mqtt.endpoint.clone(),
                client_id: device.id.clone(),
                login: Some((mqtt.username.clone(), mqtt.password.clone())),
                keep_alive: mqtt.keep_alive,
            },
            create: announced(vec![Request::Device {
                name: device.name.clone(),
                kind: device.device_type.clone(),
            }]),
            subscribe: vec![self.topics.down()],
            subscribe_if_granted: vec![self.topics.errors()],
            announce: announced(capabilities(config)),
            once: vec![self.message(&Request::FailExecuting {
                fragment: REMOTE_ACCESS.to_owned(),
                reason: ORPHAN_REASON.to_owned(),
            })],
            resume: vec![self.message(&Request::PendingOperations)],
        }
    }

    fn message(&self, request: &Request) -> Message {
        Message {
            topic: self.topics.up(),
            payload: smartrest::encode([&request.to_row()]),
        }
    }
}

fn capabilities(config: &Config) -> Vec<Request> {
    let others = config
        .device
        .supported_operations
        .iter()
        .filter(|name| *name != REMOTE_ACCESS);
    let operations = [REMOTE_ACCESS.to_owned()]
        .into_iter()
        .chain(others.cloned())
        .collect();
    let protocols = config
        .remote_access
        .protocols
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut requests = vec![
        Request::SupportedOperations(operations),
        Request::RemoteAccessProtocols(protocols),
    ];
    if let Some(interval) = config.device.required_interval {
        let minutes = interval.as_secs() / SECONDS_PER_MINUTE;
        requests.push(Request::RequiredInterval(
            minutes.try_into().unwrap_or(u32::MAX),
        ));
    }
    requests.push(Request::Agent {
        name: AGENT_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: AGENT_URL.to_owned(),
        maintainer: String::new(),
    });
    requests
}
