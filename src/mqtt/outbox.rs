//! What must reach the cloud, in order, until the broker has acknowledged it.
//!
//! The platform requires clean sessions, and with one a broker forgets what it had not yet
//! acknowledged: only the sender can send it again. A lost acknowledgement makes a message arrive
//! twice. Where that does no harm, as with a status that names its operation, several are on their
//! way at a time. A status that names none may hit another operation when it arrives twice; it is on
//! its way alone, so that this can happen to one at the most for each lost connection.
//!
//! A broker may answer a message with a disconnect, each time it comes. To hold up nothing for ever,
//! such a message is set aside. It is told from a broker that goes down by a trial: the message
//! is sent alone, on a connection that has just answered everything and then stood still for a
//! moment, and the connection is closed at once. Three such trials in a row decide; a connection
//! that ends in any other way acquits. Another client with the same id, or a broker that restarts
//! again and again, would have to come in that very moment three times.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// More messages than the statuses and events of all tunnels that a gateway can carry. An outbox
/// that is this full means rows without end or a broker that acknowledges nothing.
const ROOM: usize = 4096;
/// Messages that are on their way at a time.
const WINDOW: usize = 32;
/// Trials in a row after which a message is set aside.
const TRIALS: u32 = 3;
/// How long a connection must have stood still before a message is tried again on it.
const STILL_FOR: Duration = Duration::from_secs(1);
/// Groups that are remembered when one of their messages was set aside.
const GROUPS: usize = 1024;

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
    /// The payload that is sent in the place of one that no broker takes, before the group is given
    /// up.
    pub instead: Option<String>,
}

impl Message {
    /// Makes a message that must not arrive twice and belongs to no group.
    pub fn new(topic: impl Into<String>, payload: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            group: None,
            is_repeatable: false,
            instead: None,
        }
    }

    /// Puts the message into a group.
    pub fn in_group(self, group: u64) -> Self {
        let group = Some(group);
        Self { group, ..self }
    }

    /// Says what is sent in its place where no broker takes it.
    pub fn or_instead(self, payload: impl Into<String>) -> Self {
        let instead = Some(payload.into());
        Self { instead, ..self }
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

/// How a connection has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConnectionEnd {
    /// The broker closed it with nothing but one message to answer, which had just been sent.
    ClosedAtMessage,
    /// The broker closed it at another time.
    Closed,
    /// It failed.
    Failed,
}

/// A message that a broker takes from nobody.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct SetAside {
    pub(crate) message: Message,
    pub(crate) then: Then,
}

/// What follows where a message is set aside.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Then {
    /// What it has [instead](Message::instead) is the next to be sent.
    Replaced,
    /// So many others of its group are left out with it.
    LeftOut(usize),
}

/// The messages that no broker has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Those on their way stand before all others.
    queue: VecDeque<Entry>,
    /// Groups of which a message was set aside, the oldest first.
    set_aside: VecDeque<u64>,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    state: State,
    /// A broker closed the connection while the message was on its way.
    is_suspect: bool,
    /// Trials in a row that spoke against it.
    trials: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Waiting,
    OnItsWay {
        packet_id: u16,
        /// The broker owed no answer when it was sent.
        is_trial: bool,
    },
    /// Kept for as long as an older one is not, so that both are sent again in order.
    Acknowledged,
}

impl Outbox {
    /// Adds a message behind all others; false if it was left out because one of its group was set
    /// aside. It is kept even beyond [`Outbox::has_room`], which is a question to ask before work is
    /// begun that will have to be reported.
    pub(crate) fn push(&mut self, message: Message) -> bool {
        let is_left_out = message
            .group
            .is_some_and(|group| self.set_aside.contains(&group));
        if !is_left_out {
            self.queue.push_back(Entry {
                message,
                state: State::Waiting,
                is_suspect: false,
                trials: 0,
            });
        }
        !is_left_out
    }

    /// Adds a message in the place of those to the same topic, except for those on their way.
    pub(crate) fn push_newest(&mut self, message: Message) -> bool {
        self.queue
            .retain(|entry| entry.is_sent() || entry.message.topic != message.topic);
        self.push(message)
    }

    /// Returns the messages, in order.
    pub(crate) fn into_messages(self) -> Vec<Message> {
        let unsaid = self.queue.into_iter();
        let unsaid = unsaid.filter(|entry| entry.state != State::Acknowledged);
        unsaid.map(|entry| entry.message).collect()
    }

    /// Whether new work may be begun.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < ROOM
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many messages wait, those on their way included.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Sends what may be on its way now by `publish`, which returns the packet id. `settled_since`
    /// is since when the broker owes no answer. Returns when to try again where only time is
    /// missing.
    pub(crate) fn send(
        &mut self,
        settled_since: Option<Instant>,
        now: Instant,
        mut publish: impl FnMut(&Message) -> u16,
    ) -> Option<Instant> {
        loop {
            let sent = self.queue.iter().take_while(|entry| entry.is_sent());
            let (mut on_their_way, mut may_add) = (0, true);
            for entry in sent {
                on_their_way += 1;
                may_add &= entry.bears_others();
            }
            let next = self.queue.get_mut(on_their_way)?;
            let is_first = on_their_way == 0;
            if !is_first && (!may_add || !next.bears_others() || on_their_way >= WINDOW) {
                return None;
            }
            if next.is_suspect {
                let still_at = settled_since? + STILL_FOR;
                if next.trials > 0 && now < still_at {
                    return Some(still_at);
                }
            }
            next.state = State::OnItsWay {
                packet_id: publish(&next.message),
                is_trial: is_first && settled_since.is_some(),
            };
        }
    }

    /// Takes an acknowledgement; false if it is for nothing of this outbox.
    pub(crate) fn acknowledge(&mut self, packet_id: u16) -> bool {
        let mut entries = self.queue.iter_mut();
        let Some(entry) = entries.find(|entry| entry.packet_id() == Some(packet_id)) else {
            return false;
        };
        entry.state = State::Acknowledged;
        while let Some(first) = self.queue.front()
            && first.state == State::Acknowledged
        {
            self.queue.pop_front();
        }
        true
    }

    /// Makes the messages that were on their way the next to be sent again, in order, and returns
    /// the one that is set aside, if it has come to that.
    pub(crate) fn connection_lost(&mut self, end: ConnectionEnd) -> Option<SetAside> {
        let sent = self.queue.iter().filter(|entry| entry.is_sent()).count();
        for entry in &mut self.queue {
            let state = std::mem::replace(&mut entry.state, State::Waiting);
            match (end, state) {
                (ConnectionEnd::ClosedAtMessage, State::OnItsWay { is_trial: true, .. })
                    if sent == 1 =>
                {
                    entry.trials += 1;
                    entry.is_suspect = true;
                }
                (
                    ConnectionEnd::ClosedAtMessage | ConnectionEnd::Closed,
                    State::OnItsWay { .. },
                ) => {
                    entry.trials = 0;
                    entry.is_suspect = true;
                }
                (ConnectionEnd::Failed, _) | (_, State::Waiting | State::Acknowledged) => {
                    entry.trials = 0;
                    entry.is_suspect = false;
                }
            }
        }
        let is_decided = self
            .queue
            .front()
            .is_some_and(|entry| entry.trials >= TRIALS);
        let mut entry = self.queue.pop_front_if(|_| is_decided)?;
        let message = entry.message.clone();
        if let Some(payload) = entry.message.instead.take() {
            entry.message.payload = payload;
            entry.trials = 0;
            self.queue.push_front(entry);
            let then = Then::Replaced;
            return Some(SetAside { message, then });
        }
        let before = self.queue.len();
        if let Some(group) = message.group {
            self.queue
                .retain(|entry| entry.message.group != Some(group));
            if self.set_aside.len() == GROUPS {
                self.set_aside.pop_front();
            }
            self.set_aside.push_back(group);
        }
        let then = Then::LeftOut(before - self.queue.len());
        Some(SetAside { message, then })
    }
}

impl Entry {
    fn is_sent(&self) -> bool {
        self.state != State::Waiting
    }

    fn packet_id(&self) -> Option<u16> {
        match self.state {
            State::OnItsWay { packet_id, .. } => Some(packet_id),
            State::Waiting | State::Acknowledged => None,
        }
    }

    /// Whether others may be on their way beside it.
    fn bears_others(&self) -> bool {
        self.message.is_repeatable && !self.is_suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> Message {
        Message::new("s/us", payload)
    }

    fn outbox(messages: impl IntoIterator<Item = Message>) -> Outbox {
        let mut outbox = Outbox::default();
        for message in messages {
            outbox.push(message);
        }
        outbox
    }

    /// An outbox and the connection that it sends on.
    struct Line {
        outbox: Outbox,
        now: Instant,
        last_id: u16,
    }

    impl Line {
        fn new(messages: impl IntoIterator<Item = Message>) -> Self {
            Self {
                outbox: outbox(messages),
                now: Instant::now(),
                last_id: 0,
            }
        }

        /// Sends on a connection that has been settled for so long; returns the payloads.
        fn send_after(&mut self, settled: Option<Duration>) -> (Vec<String>, Option<Duration>) {
            let mut sent = Vec::new();
            let since = settled.map(|settled| self.now - settled);
            let again = self.outbox.send(since, self.now, |message| {
                sent.push(message.payload.clone());
                self.last_id += 1;
                self.last_id
            });
            (sent, again.map(|at| at - self.now))
        }

        /// Sends on a connection that has stood still for long.
        fn send(&mut self) -> Vec<String> {
            let (sent, again) = self.send_after(Some(10 * STILL_FOR));
            assert_eq!(again, None);
            sent
        }

        fn lose(&mut self, end: ConnectionEnd) -> Option<String> {
            let aside = self.outbox.connection_lost(end);
            aside.map(|aside| aside.message.payload)
        }
    }

    #[test]
    fn sends_what_must_not_come_twice_one_at_a_time_in_order() {
        let mut line = Line::new([message("501"), message("503")]);
        assert_eq!(line.send(), ["501"]);
        assert!(line.send().is_empty());
        assert!(line.outbox.acknowledge(1));
        assert_eq!(line.send(), ["503"]);
        assert!(!line.outbox.is_empty(), "the broker may have lost it");
        assert!(line.outbox.acknowledge(2));
        assert!(line.outbox.is_empty());
    }

    #[test]
    fn sends_up_to_a_window_of_repeatable_messages_and_no_other_beside_them() {
        let repeatable = |n: usize| message(&format!("506,{n}")).repeatable();
        let mut line = Line::new((0..WINDOW + 1).map(repeatable));
        line.outbox.push(message("503"));
        line.outbox.push(repeatable(100));
        assert_eq!(line.send().len(), WINDOW);
        for id in 1..=WINDOW {
            assert!(line.outbox.acknowledge(u16::try_from(id).unwrap()));
        }
        assert_eq!(line.send(), [format!("506,{WINDOW}")]);
        assert!(line.outbox.acknowledge(33));
        assert_eq!(line.send(), ["503"], "alone");
        assert!(line.outbox.acknowledge(34));
        assert_eq!(line.send(), ["506,100"]);
    }

    #[test]
    fn keeps_what_was_not_acknowledged_in_order_when_the_connection_is_lost() {
        let mut line = Line::new(["1", "2", "3", "4"].map(|n| message(n).repeatable()));
        assert_eq!(line.send().len(), 4);
        assert!(line.outbox.acknowledge(1));
        assert!(line.outbox.acknowledge(3));
        assert_eq!(line.lose(ConnectionEnd::Failed), None);
        // What came before another on its topic comes before it again.
        assert_eq!(line.send(), ["2", "3", "4"]);
        for id in [2, 4] {
            assert!(!line.outbox.acknowledge(id), "of the connection before");
        }
        assert_eq!(line.outbox.len(), 3);
    }

    #[test]
    fn keeps_only_the_newest_of_a_topic_besides_those_on_their_way() {
        let newest = |payload: &str| Message::new("s/uc/x", payload);
        let mut line = Line::new([]);
        line.outbox.push_newest(newest("1"));
        assert_eq!(line.send(), ["1"]);
        line.outbox.push_newest(newest("2"));
        line.outbox.push(message("501"));
        line.outbox.push_newest(newest("3"));
        assert_eq!(line.outbox.len(), 3);
        assert!(line.outbox.acknowledge(1));
        assert_eq!(line.send(), ["501"]);
        assert!(line.outbox.acknowledge(2));
        assert_eq!(line.send(), ["3"]);
        line.lose(ConnectionEnd::Failed);
        line.outbox.push_newest(newest("4"));
        assert_eq!(line.send(), ["4"]);
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

    #[test]
    fn sets_aside_what_a_broker_answers_with_a_disconnect_three_times() {
        let mut line = Line::new([
            message("501").in_group(1),
            message("503").in_group(1),
            message("503 of another").in_group(2),
        ]);
        for trial in 1..=3 {
            assert_eq!(line.send(), ["501"], "trial {trial}");
            let aside = line.outbox.connection_lost(ConnectionEnd::ClosedAtMessage);
            assert_eq!(aside.is_some(), trial == 3);
            if let Some(aside) = aside {
                assert_eq!(aside.message.payload, "501");
                assert_eq!(aside.then, Then::LeftOut(1));
            }
        }
        assert!(!line.outbox.push(message("event").in_group(1)));
        assert!(line.outbox.push(message("501 of a third").in_group(3)));
        assert_eq!(line.send(), ["503 of another"]);
    }

    #[test]
    fn sends_something_else_in_the_place_of_what_a_broker_does_not_take() {
        let mut line = Line::new([
            message("501").in_group(1),
            message("502,reason").in_group(1).or_instead("502,none"),
            message("501 of another").in_group(2),
        ]);
        line.send();
        assert!(line.outbox.acknowledge(1));
        let mut refuse = |payload: &str| {
            for trial in 1..=3 {
                assert_eq!(line.send(), [payload], "trial {trial}");
                let aside = line.outbox.connection_lost(ConnectionEnd::ClosedAtMessage);
                assert_eq!(aside.is_some(), trial == 3);
                if let Some(aside) = aside {
                    assert_eq!(aside.message.payload, payload);
                    return aside.then;
                }
            }
            unreachable!()
        };
        assert_eq!(refuse("502,reason"), Then::Replaced);
        assert_eq!(refuse("502,none"), Then::LeftOut(0));
        assert_eq!(line.send(), ["501 of another"]);
    }

    #[test]
    fn finds_the_one_of_several_that_a_broker_does_not_take() {
        let mut line = Line::new(["1", "2", "3"].map(|n| message(n).repeatable()));
        assert_eq!(line.send().len(), 3);
        assert_eq!(line.lose(ConnectionEnd::Closed), None);
        assert_eq!(line.send(), ["1"], "alone");
        assert!(line.outbox.acknowledge(4));
        for trial in 1..=3 {
            assert_eq!(line.send(), ["2"], "alone");
            let aside = line.lose(ConnectionEnd::ClosedAtMessage);
            assert_eq!(aside.as_deref(), (trial == 3).then_some("2"));
        }
        assert_eq!(line.send(), ["3"]);
    }

    #[test]
    fn tries_a_suspect_only_where_the_connection_has_stood_still() {
        let mut line = Line::new([message("501")]);
        assert_eq!(line.send(), ["501"]);
        line.lose(ConnectionEnd::ClosedAtMessage);
        assert_eq!(line.send_after(None), (vec![], None));
        let (sent, again) = line.send_after(Some(STILL_FOR / 4));
        assert!(sent.is_empty());
        assert_eq!(again, Some(STILL_FOR * 3 / 4));
        assert_eq!(line.send_after(Some(STILL_FOR)).0, ["501"]);
        // Nothing has spoken against it so far, only the connection was closed meanwhile.
        line.lose(ConnectionEnd::Closed);
        assert_eq!(line.send_after(None), (vec![], None));
        assert_eq!(line.send_after(Some(Duration::ZERO)).0, ["501"]);
    }

    #[test]
    fn sets_nothing_aside_for_connections_that_end_otherwise() {
        use ConnectionEnd::{Closed, ClosedAtMessage, Failed};
        for ends in [
            vec![Closed; 9],
            vec![Failed; 9],
            vec![ClosedAtMessage, ClosedAtMessage, Closed, ClosedAtMessage],
            vec![ClosedAtMessage, ClosedAtMessage, Failed, ClosedAtMessage],
        ] {
            let mut line = Line::new([message("501")]);
            for end in &ends {
                assert_eq!(line.send(), ["501"]);
                assert_eq!(line.lose(*end), None, "{ends:?}");
            }
        }
        // A broker that goes down by itself does so also where the suspect waits its turn.
        let mut line = Line::new([message("501")]);
        for _ in 0..9 {
            assert_eq!(line.send(), ["501"]);
            assert_eq!(line.lose(ClosedAtMessage), None);
            assert!(line.send_after(Some(Duration::ZERO)).0.is_empty());
            assert_eq!(line.lose(Closed), None);
        }
        // One that is on its way before the broker has answered everything proves nothing.
        let mut line = Line::new([message("501").repeatable()]);
        for _ in 0..9 {
            line.send_after(None);
            assert_eq!(line.lose(ClosedAtMessage), None);
            assert_eq!(line.lose(Failed), None);
        }
    }

    #[test]
    fn counts_no_trial_where_more_than_one_message_was_sent() {
        let both = || Line::new(["1", "2"].map(|n| message(n).repeatable()));
        let mut on_unsettled = Line::new([message("1")]);
        assert_eq!(on_unsettled.send_after(None).0, ["1"]);

        let mut second = both();
        assert_eq!(second.send(), ["1", "2"]);
        assert!(second.outbox.acknowledge(1));

        let mut first = both();
        assert_eq!(first.send(), ["1", "2"]);
        assert!(first.outbox.acknowledge(2));

        for (mut line, suspect) in [(on_unsettled, "1"), (second, "2"), (first, "1")] {
            for _ in 0..3 {
                assert_eq!(line.lose(ConnectionEnd::ClosedAtMessage), None, "{suspect}");
                assert_eq!(line.send(), [suspect]);
            }
            let aside = line.lose(ConnectionEnd::ClosedAtMessage);
            assert_eq!(aside.as_deref(), Some(suspect));
        }
    }

    #[test]
    fn leaves_out_the_rest_of_every_group_that_was_set_aside_lately() {
        let first = 1;
        let last = first + GROUPS as u64;
        let mut line = Line::new([]);
        for group in first..=last {
            line.outbox.push(message("501").in_group(group));
            for _ in 0..3 {
                line.send();
                line.lose(ConnectionEnd::ClosedAtMessage);
            }
        }
        assert!(line.outbox.is_empty());
        for group in first + 1..=last {
            assert!(!line.outbox.push(message("503").in_group(group)), "{group}");
        }
        // What is remembered has a bound.
        assert!(line.outbox.push(message("503").in_group(first)));
    }
}
