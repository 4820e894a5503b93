//! What the agent tells the platform of itself at every connect, and what it asks.

use smartrest::{REMOTE_ACCESS, Request, TopicError, Topics};

use super::settings::{Device, OperationIds, RemoteAccess};
use super::uplink::{CollectionTopics, Uplink, fail_orphans, message};
use crate::mqtt::link::Account;
use crate::mqtt::outbox::Message;
use crate::mqtt::session::Options;

const AGENT_NAME: &str = "adit";
/// What the platform shows adit as, among the services of the device.
const SERVICE_TYPE: &str = "service";
/// Behind the device's id, the external id of the service.
const SERVICE_SUFFIX: &str = "_adit";
const UP: &str = "up";
const DOWN: &str = "down";
const SECONDS_PER_MINUTE: u64 = 60;

/// The rows of the announcement, under the topics of this gateway.
pub(crate) struct Announcement {
    /// The topics with the configured prefix.
    pub topics: Topics,
    operation_ids: OperationIds,
    /// The topics of the template collection, if the ids come from one.
    collection: Option<CollectionTopics>,
    device: Device,
    protocols: Vec<String>,
    /// Whether the topic of tokens is subscribed to.
    needs_token: bool,
    /// The children's topics.
    children: Vec<String>,
    service: Option<Service>,
}

/// adit as a service of the device.
struct Service {
    id: String,
    /// For its own rows.
    topic: String,
}

impl Service {
    fn of(device: &str, topics: &Topics) -> Result<Self, TopicError> {
        let id = format!("{device}{SERVICE_SUFFIX}");
        let topic = topics.child_up(&id)?;
        Ok(Self { id, topic })
    }

    /// Creates it.
    fn request(&self) -> Request {
        Request::Service {
            id: self.id.clone(),
            kind: SERVICE_TYPE.to_owned(),
            name: AGENT_NAME.to_owned(),
            status: UP.to_owned(),
        }
    }

    fn status(&self, status: &str) -> Message {
        message(&self.topic, &Request::ServiceStatus(status.to_owned()))
    }
}

impl Announcement {
    /// Announces `device` on topics behind `prefix`.
    ///
    /// # Errors
    /// The prefix or the id of a child cannot stand in a topic.
    pub(crate) fn new(
        device: Device,
        remote_access: &RemoteAccess,
        prefix: &str,
        needs_token: bool,
    ) -> Result<Self, TopicError> {
        let topics = Topics::new(prefix)?;
        let operation_ids = remote_access.operation_ids;
        let has_collection = operation_ids == OperationIds::Templates;
        let collection = has_collection.then(|| CollectionTopics::of(&topics));
        let children = device.children.iter().map(|child| topics.child_up(child));
        let protocols = remote_access.protocols.iter();
        let service = device.service.then(|| Service::of(&device.id, &topics));
        Ok(Self {
            children: children.collect::<Result<_, _>>()?,
            operation_ids,
            collection: collection.transpose()?,
            protocols: protocols.map(ToString::to_string).collect(),
            needs_token,
            service: service.transpose()?,
            device,
            topics,
        })
    }

    /// Says what the session is to publish and to subscribe, as whom.
    pub(crate) fn session_options(&self, account: Account) -> Options {
        let device = &self.device;
        let announced = |messages: Vec<Message>| match device.announce {
            true => messages,
            false => Vec::new(),
        };
        let mut create = vec![self.message(&Request::Device {
            name: device.name.clone(),
            kind: device.device_type.clone(),
        })];
        create.extend(device.children.iter().map(|id| {
            self.message(&Request::Child {
                id: id.clone(),
                name: id.clone(),
                kind: String::new(),
            })
        }));
        let mut once = vec![self.message(&fail_orphans())];
        once.extend(self.to_children(&fail_orphans()));
        let service = self.service.as_ref();
        once.extend(service.map(|service| self.message(&service.request())));
        let status = |status| service.map(|service| service.status(status));
        let mut subscribe_if_granted = vec![self.topics.errors()];
        subscribe_if_granted.extend(self.topics.bridge_state());
        if self.operation_ids == OperationIds::Notifications {
            subscribe_if_granted.push(self.topics.notifications());
        }
        let mut resume = vec![self.message(&Request::PendingOperations)];
        if let Some(collection) = &self.collection {
            subscribe_if_granted.extend([collection.answers.clone(), collection.down.clone()]);
            // Asked when it is decided whether the answer comes with ids.
            resume.clear();
        }
        Options {
            // Where the connection breaks without a word, the broker says it.
            account: Account {
                will: status(DOWN),
                ..account
            },
            create: announced(create),
            subscribe: self.subscriptions(),
            subscribe_if_granted,
            announce: announced(self.capabilities()),
            once,
            greeting: Vec::from_iter(status(UP)),
            resume,
            farewell: Vec::from_iter(status(DOWN)),
        }
    }

    /// Returns what speaks for the gateway besides; events are left out unless wanted.
    pub(crate) fn uplink(&self, events: bool) -> Uplink {
        Uplink::new(
            self.device.id.clone(),
            self.topics.clone(),
            self.collection.clone(),
            events,
            // Said here of these.
            self.device.children.iter().cloned(),
        )
    }

    /// The topics that must be granted before operations are taken.
    pub(crate) fn subscriptions(&self) -> Vec<String> {
        let token = self.needs_token.then(|| self.topics.token());
        [self.topics.down()].into_iter().chain(token).collect()
    }

    fn capabilities(&self) -> Vec<Message> {
        let of_gateway = capabilities(&self.device, self.protocols());
        let of_gateway = of_gateway.iter().map(|request| self.message(request));
        let of_child = [
            Request::SupportedOperations(vec![REMOTE_ACCESS.to_owned()]),
            self.protocols(),
        ];
        let of_children = of_child
            .iter()
            .flat_map(|request| self.to_children(request));
        of_gateway.chain(of_children).collect()
    }

    fn protocols(&self) -> Request {
        Request::RemoteAccessProtocols(self.protocols.clone())
    }

    /// The same for each child, on its own topic.
    fn to_children(&self, request: &Request) -> impl Iterator<Item = Message> {
        let request = request.clone();
        self.children
            .iter()
            .map(move |topic| message(topic, &request))
    }

    fn message(&self, request: &Request) -> Message {
        message(&self.topics.up(), request)
    }
}

fn capabilities(device: &Device, protocols: Request) -> Vec<Request> {
    let others = device
        .supported_operations
        .iter()
        .filter(|name| *name != REMOTE_ACCESS);
    let operations = [REMOTE_ACCESS.to_owned()]
        .into_iter()
        .chain(others.cloned())
        .collect();
    let mut requests = vec![Request::SupportedOperations(operations), protocols];
    if let Some(interval) = device.required_interval {
        let minutes = interval.as_secs() / SECONDS_PER_MINUTE;
        requests.push(Request::RequiredInterval(
            minutes.try_into().unwrap_or(u32::MAX),
        ));
    }
    requests.push(Request::Agent {
        name: AGENT_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: String::new(),
        maintainer: String::new(),
    });
    requests
}
