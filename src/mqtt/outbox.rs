//! What must reach the cloud, in order, until the broker has acknowledged it.
//!
//! The platform requires clean sessions, and with one a broker forgets what it had not yet
//! acknowledged: only the sender can send it again. One message is on its way at a time, because a
//! lost acknowledgement makes it arrive twice and a status that arrives twice may hit another
//! operation: with one at a time that is one message at the most for each lost connection.

use std::collections::VecDeque;

/// More messages than the statuses and events of all tunnels that a gateway can carry. An outbox
/// that is this full means rows without end or a broker that acknowledges nothing.
const ROOM: usize = 4096;

/// A message on its way to the cloud.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// The topic with its prefix.
    pub topic: String,
    /// One or more rows.
    pub payload: String,
    /// What the message belongs to, as its operation; a number of the sender's own. When one of a
    /// group cannot be delivered, the others mean nothing.
    pub group: Option<u64>,
    /// Whether a second copy does no harm. A row that names its operation is so; one that the
    /// platform applies to the oldest operation is not.
    pub is_repeatable: bool,
}

impl Message {
    /// Makes a message that must not arrive twice and belongs to no group.
    pub fn new(topic: impl Into<String>, payload: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            group: None,
            is_repeatable: false,
        }
    }

    /// Puts the message into a group.
    pub fn in_group(self, group: u64) -> Self {
        let group = Some(group);
        Self { group, ..self }
    }

    /// Says that a second copy does no harm, so that others may be on their way beside it.
    pub fn repeatable(self) -> Self {
        let is_repeatable = true;
        Self {
            is_repeatable,
            ..self
        }
    }
}

/// The messages that no broker has acknowledged.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Message>,
    in_flight: Option<u16>,
}

impl Outbox {
    /// Adds a message behind all others. It is kept even beyond [`Outbox::has_room`], which is a
    /// question to ask before work is begun that will have to be reported.
    pub fn push(&mut self, message: Message) {
        self.queue.push_back(message);
    }

    /// Adds a message in the place of those to the same topic, except for one on its way.
    pub fn push_newest(&mut self, message: Message) {
        let on_its_way = usize::from(self.in_flight.is_some());
        let mut place = 0..;
        self.queue.retain(|queued| {
            let is_sent = place.next().is_some_and(|place| place < on_its_way);
            is_sent || queued.topic != message.topic
        });
        self.push(message);
    }

    /// Whether new work may be begun.
    pub fn has_room(&self) -> bool {
        self.queue.len() < ROOM
    }

    /// Whether everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many messages wait, the one on its way included.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns the message to send under `packet_id` now; `None` while another is on its way.
    pub fn send(&mut self, packet_id: u16) -> Option<&Message> {
        if self.in_flight.is_some() {
            return None;
        }
        let message = self.queue.front()?;
        self.in_flight = Some(packet_id);
        Some(message)
    }

    /// Takes an acknowledgement; false if it is for nothing of this outbox.
    pub fn acknowledge(&mut self, packet_id: u16) -> bool {
        if self.in_flight != Some(packet_id) {
            return false;
        }
        self.in_flight = None;
        self.queue.pop_front();
        true
    }

    /// Makes the message that was on its way the next to be sent again.
    pub fn connection_lost(&mut self) {
        self.in_flight = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> Message {
        Message::new("s/us", payload)
    }

    fn outbox(payloads: &[&str]) -> Outbox {
        let mut outbox = Outbox::default();
        payloads
            .iter()
            .for_each(|payload| outbox.push(message(payload)));
        outbox
    }

    #[test]
    fn sends_one_at_a_time_in_order() {
        let mut outbox = outbox(&["501", "503"]);
        assert_eq!(outbox.send(1), Some(&message("501")));
        assert_eq!(outbox.send(2), None);
        assert!(outbox.acknowledge(1));
        assert_eq!(outbox.send(2), Some(&message("503")));
        assert!(outbox.acknowledge(2));
        assert!(outbox.is_empty());
    }

    #[test]
    fn keeps_what_was_not_acknowledged_when_the_connection_is_lost() {
        let mut outbox = outbox(&["501", "503"]);
        outbox.send(7);
        outbox.connection_lost();
        assert_eq!(outbox.send(1), Some(&message("501")));
        assert!(
            !outbox.acknowledge(7),
            "an acknowledgement of the connection before"
        );
        assert_eq!(outbox.len(), 2);
    }

    #[test]
    fn keeps_only_the_newest_of_a_topic_besides_the_one_on_its_way() {
        let newest = |payload: &str| Message::new("s/uc/x", payload);
        let mut outbox = Outbox::default();
        outbox.push_newest(newest("1"));
        outbox.send(1);
        outbox.push_newest(newest("2"));
        outbox.push(message("501"));
        outbox.push_newest(newest("3"));
        assert_eq!(outbox.len(), 3);
        for (id, sent) in [(1, message("501")), (2, newest("3"))] {
            assert!(outbox.acknowledge(id));
            assert_eq!(outbox.send(id + 1), Some(&sent));
        }
        outbox.connection_lost();
        outbox.push_newest(newest("4"));
        assert_eq!(outbox.send(1), Some(&newest("4")));
    }

    #[test]
    fn says_when_no_more_work_should_begin_and_still_drops_nothing() {
        let mut outbox = Outbox::default();
        while outbox.has_room() {
            outbox.push(message("501"));
        }
        outbox.push(message("503"));
        assert_eq!(outbox.len(), ROOM + 1);
    }
}
