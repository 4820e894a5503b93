//! What a device says to the platform: every word becomes a message here, with what the outbox has
//! to know of it.

use std::collections::HashSet;

use smartrest::{
    COLLECTION, COLLECTION_ID, OperationRef, REMOTE_ACCESS, Request, Status, Target, TopicError,
    Topics, encode, plain_text,
};

use super::fragment::Fragment;
use super::operations::Report;
use crate::mqtt::outbox::Message;
use crate::state::record::End;

/// What the platform shows on operations that a former life of adit left executing.
const ORPHAN_REASON: &str = "begun before adit started; connect again";
/// What the platform shows on an operation whose own result no broker takes.
const UNSENT_REASON: &str = "the reason could not be sent";
const UNSENT_SUCCESS: &str = "the tunnel opened but that could not be sent";
/// Bytes of an event's text.
const EVENT_LIMIT: usize = 500;
/// More children than a gateway has; their names come from outside.
const CHILDREN_LIMIT: usize = 4096;

/// The words of one gateway and its children.
#[derive(Debug)]
pub(crate) struct Uplink {
    gateway: String,
    topics: Topics,
    collection: Option<CollectionTopics>,
    /// Whether tunnels are told of by events.
    events: bool,
    /// The children on which nothing is executing any more that a former life left.
    cleared: HashSet<String>,
}

/// The topics of adit's template collection.
#[derive(Clone, Debug)]
pub(crate) struct CollectionTopics {
    create: String,
    pub(super) down: String,
    pub(super) answers: String,
}

impl CollectionTopics {
    pub(crate) fn of(topics: &Topics) -> Result<Self, TopicError> {
        Ok(Self {
            create: topics.templates_request(COLLECTION_ID)?,
            down: topics.custom_down(COLLECTION_ID)?,
            answers: topics.templates(),
        })
    }
}

impl Uplink {
    /// Speaks for a gateway. Of `cleared` children it is said elsewhere that nothing that a former
    /// life left is executing.
    pub(crate) fn new(
        gateway: String,
        topics: Topics,
        collection: Option<CollectionTopics>,
        events: bool,
        cleared: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            gateway,
            topics,
            collection,
            events,
            cleared: cleared.into_iter().collect(),
        }
    }

    /// Tells of tunnels by events from now on, or does not.
    pub(super) fn send_events(&mut self, events: bool) {
        self.events = events;
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    pub(super) fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Returns the topic for the words about a device.
    ///
    /// # Errors
    /// Its id cannot stand in a topic.
    pub(super) fn topic(&self, device: &str) -> Result<String, TopicError> {
        match device == self.gateway {
            true => Ok(self.topics.up()),
            false => self.topics.child_up(device),
        }
    }

    /// Tells how an operation stands.
    ///
    /// Before the first word about a child that nobody has named, what a former life left executing
    /// there is failed: the first result would land on it.
    ///
    /// # Errors
    /// The id of the device cannot stand in a topic.
    pub(super) fn report(&mut self, report: Report) -> Result<Vec<Message>, TopicError> {
        let Report {
            device,
            id,
            operation,
            status,
        } = report;
        let topic = self.topic(&device)?;
        let mut messages = Vec::new();
        let is_known = device == self.gateway || self.cleared.contains(&device);
        if !is_known && self.cleared.len() < CHILDREN_LIMIT {
            messages.push(message(&topic, &fail_orphans()));
            self.cleared.insert(device);
        }
        let instead = instead_of(&status).map(|reason| Request::Status {
            operation: operation.clone(),
            status: Status::Failed(reason.to_owned()),
        });
        let mut status = message(&topic, &Request::Status { operation, status }).in_group(id.0);
        if let Some(instead) = instead {
            status = status.or_instead(encode([&instead.to_row()]));
        }
        messages.push(status);
        Ok(messages)
    }

    /// Tells that a tunnel has opened.
    pub(super) fn opened(&self, device: &str, target: &Target) -> Option<Message> {
        let text = format!("tunnel to {target} opened");
        self.event(device, "c8y_RemoteAccessOpened", &text)
    }

    /// Tells that a tunnel has ended; `None`: by a fault in adit.
    pub(super) fn closed(
        &self,
        device: &str,
        target: &Target,
        closed: Option<&End>,
    ) -> Option<Message> {
        let text = match closed {
            Some(End {
                reason,
                up,
                down,
                lasted,
            }) => format!(
                "tunnel to {target} closed: {reason}; open for {:.1} s, {up} bytes to the cloud, \
                 {down} bytes to the device",
                lasted.as_secs_f64()
            ),
            None => format!("tunnel to {target} closed: internal fault in adit, see its log"),
        };
        self.event(device, "c8y_RemoteAccessClosed", &text)
    }

    fn event(&self, device: &str, kind: &str, text: &str) -> Option<Message> {
        let topic = self.topic(device).ok().filter(|_| self.events)?;
        let (kind, text) = (kind.to_owned(), plain_text(text, EVENT_LIMIT));
        Some(message(&topic, &Request::Event { kind, text }))
    }

    /// Asks for all pending operations.
    pub(super) fn pending_operations(&self) -> Message {
        message(&self.topics.up(), &Request::PendingOperations)
    }

    /// Asks for a token.
    pub(super) fn token_request(&self) -> Message {
        Message::new(self.topics.token_request(), "")
    }

    /// Asks whether the template collection exists.
    pub(super) fn ask_for_collection(&self) -> Option<Message> {
        let topics = self.collection.as_ref()?;
        Some(Message::new(topics.create.clone(), ""))
    }

    /// Creates the template collection.
    pub(super) fn create_collection(&self) -> Option<Message> {
        let topics = self.collection.as_ref()?;
        Some(Message::new(topics.create.clone(), COLLECTION.trim_end()))
    }

    /// Brings the fragment of the device up to date.
    pub(super) fn fragment(&self, fragment: &Fragment) -> Option<Message> {
        let topic = self.topics.inventory_update(&self.gateway).ok()?;
        Some(Message::new(topic, fragment.to_json().ok()?).repeatable())
    }
}

/// Returns the reason of the failure that is reported where no broker takes a status. Without a
/// result an operation stays executing, and those that name none fall on it.
fn instead_of(status: &Status) -> Option<&'static str> {
    match status {
        Status::Executing => None,
        Status::Failed(_) => Some(UNSENT_REASON),
        Status::Successful => Some(UNSENT_SUCCESS),
    }
}

/// Makes a message of one row.
pub(super) fn message(topic: &str, request: &Request) -> Message {
    let message = Message::new(topic, encode([&request.to_row()]));
    match is_repeatable(request) {
        true => message.repeatable(),
        false => message,
    }
}

/// Fails what a former life of adit left executing on the device whose topic carries it.
pub(super) fn fail_orphans() -> Request {
    Request::FailExecuting {
        fragment: REMOTE_ACCESS.to_owned(),
        reason: ORPHAN_REASON.to_owned(),
    }
}

/// Whether a second copy of a request does no harm: it falls on no other operation.
fn is_repeatable(request: &Request) -> bool {
    match request {
        Request::Event { .. } | Request::ServiceStatus(_) => true,
        Request::Status { operation, .. } => matches!(operation, OperationRef::Id(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::operations::OperationId;
    use std::time::Duration;

    use super::*;

    fn uplink(events: bool) -> Uplink {
        let topics = Topics::new("c8y/").unwrap();
        Uplink::new("gw".into(), topics, None, events, ["known".to_owned()])
    }

    fn report(device: &str, operation: OperationRef) -> Report {
        Report {
            device: device.to_owned(),
            id: OperationId(7),
            operation,
            status: Status::Executing,
        }
    }

    fn rows(messages: &[Message]) -> Vec<String> {
        let row = |message: &Message| format!("{} {}", message.topic, message.payload);
        messages.iter().map(row).collect()
    }

    #[test]
    fn clears_a_child_that_nobody_has_named_once_before_the_first_word_about_it() {
        let mut uplink = uplink(true);
        for (device, said) in [
            ("gw", &["c8y/s/us 501,c8y_RemoteAccessConnect"][..]),
            ("known", &["c8y/s/us/known 501,c8y_RemoteAccessConnect"][..]),
            (
                "new",
                &[
                    "c8y/s/us/new 507,c8y_RemoteAccessConnect,begun before adit started; connect \
                     again",
                    "c8y/s/us/new 501,c8y_RemoteAccessConnect",
                ][..],
            ),
            ("new", &["c8y/s/us/new 501,c8y_RemoteAccessConnect"][..]),
        ] {
            let report = report(device, OperationRef::oldest_tunnel());
            assert_eq!(rows(&uplink.report(report).unwrap()), said);
        }
    }

    #[test]
    fn marks_what_may_come_twice_and_what_belongs_together() {
        let mut uplink = uplink(true);
        for (operation, is_repeatable) in [
            (OperationRef::oldest_tunnel(), false),
            (OperationRef::Id("4711".to_owned()), true),
        ] {
            let messages = uplink.report(report("new", operation)).unwrap();
            let status = messages.last().unwrap();
            assert_eq!(status.group, Some(7));
            assert_eq!(status.is_repeatable, is_repeatable);
            // What is said of the child itself belongs to no operation.
            assert!(messages.len() == 1 || messages[0].group.is_none());
        }
    }

    #[test]
    fn has_another_result_for_a_broker_that_does_not_take_the_first() {
        let mut uplink = uplink(true);
        let failed = || Status::Failed("the reason".to_owned());
        for (operation, status, instead) in [
            (OperationRef::oldest_tunnel(), Status::Executing, None),
            (
                OperationRef::oldest_tunnel(),
                failed(),
                Some("502,c8y_RemoteAccessConnect,the reason could not be sent"),
            ),
            (
                OperationRef::Id("47".to_owned()),
                failed(),
                Some("505,47,the reason could not be sent"),
            ),
            (
                OperationRef::Id("47".to_owned()),
                Status::Successful,
                Some("505,47,the tunnel opened but that could not be sent"),
            ),
        ] {
            let mut report = report("gw", operation);
            report.status = status;
            let [message] = &uplink.report(report).unwrap()[..] else {
                panic!("more than the status");
            };
            assert_eq!(message.instead.as_deref(), instead);
        }
    }

    #[test]
    fn says_nothing_of_a_device_that_no_topic_can_name() {
        let mut uplink = uplink(true);
        let report = report("a/b", OperationRef::oldest_tunnel());
        assert!(uplink.report(report).is_err());
        assert_eq!(uplink.opened("a/b", &"plc:22".parse().unwrap()), None);
    }

    #[test]
    fn words_events_and_leaves_them_out_where_nobody_wants_them() {
        let target = "plc:22".parse().unwrap();
        let end = End {
            reason: "closed by \"the cloud\"".to_owned(),
            up: 1,
            down: 2,
            lasted: Duration::from_millis(1234),
        };
        let said = uplink(true).closed("gw", &target, Some(&end)).unwrap();
        assert!(said.is_repeatable);
        assert_eq!(
            said.payload,
            "400,c8y_RemoteAccessClosed,\"tunnel to plc:22 closed: closed by 'the cloud'; open for \
             1.2 s, 1 bytes to the cloud, 2 bytes to the device\""
        );
        assert_eq!(uplink(false).closed("gw", &target, Some(&end)), None);
        assert_eq!(uplink(false).opened("gw", &target), None);
    }
}
