//! A whole session with the platform: any messages on any topics, while tunnels open, fail and end,
//! statuses are delivered and time passes.
//!
//! Whatever the platform says, every operation that was begun gets one result and no more, a result
//! by id names what was begun by id, and every message that goes up is one that a broker takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use smartrest::row::PACKET_LIMIT;
use smartrest::{COLLECTION_ID, REMOTE_ACCESS, Topics, decode};

use crate::mqtt::outbox::Message;
use crate::platform::dialogue::{Backlog, Dialogue, Step};
use crate::platform::downlink::Downlink;
use crate::platform::operations::OperationId;
use crate::platform::settings::OperationIds;
use crate::platform::uplink::{CollectionTopics, Uplink};
use crate::state::record::End;
use crate::words::legible;

const GATEWAY: &str = "gw";
/// Between two events; a topic and a payload have a line end between them.
const SEPARATOR: &[u8] = b"\n--";
/// Steps that one event may lead to: the rows of a packet, and some for each.
const STEP_LIMIT: usize = 200_000;

/// The first byte chooses the settings; then come events, each a letter and what it needs.
pub(super) fn run(bytes: &[u8]) {
    let Some((settings, events)) = bytes.split_first() else {
        return;
    };
    let operation_ids = match (settings & 1 != 0, settings & 4 != 0) {
        (true, _) => OperationIds::Templates,
        (false, true) => OperationIds::Notifications,
        (false, false) => OperationIds::None,
    };
    let mut session = Session::new(operation_ids, settings & 2 != 0);
    for event in split(events) {
        session.event(event);
    }
    session.wind_up();
}

fn split(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut events = Vec::new();
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|w| w == SEPARATOR) {
        events.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    events.push(rest);
    events
}

struct Session {
    dialogue: Dialogue,
    now: Instant,
    backlog: Backlog,
    opening: VecDeque<OperationId>,
    open: VecDeque<OperationId>,
    known: BTreeSet<u64>,
    /// By topic: how many were said to be executing, and how many to have ended.
    said: BTreeMap<String, (usize, usize)>,
}

impl Session {
    fn new(operation_ids: OperationIds, is_bridged: bool) -> Self {
        let prefix = if is_bridged { "c8y/" } else { "" };
        let topics = Topics::new(prefix).unwrap();
        let collection = (operation_ids == OperationIds::Templates)
            .then(|| CollectionTopics::of(&topics).unwrap());
        let uplink = Uplink::new(GATEWAY.into(), topics, collection, true, []);
        Self {
            dialogue: Dialogue::new(uplink, operation_ids, 64, "allow private"),
            now: Instant::now(),
            backlog: Backlog {
                waiting: 0,
                has_room: true,
            },
            opening: VecDeque::new(),
            open: VecDeque::new(),
            known: BTreeSet::new(),
            said: BTreeMap::new(),
        }
    }

    fn event(&mut self, event: &[u8]) {
        let Some((kind, rest)) = event.split_first() else {
            return;
        };
        match kind {
            b's' => self.hear("s/ds", rest),
            b'c' => self.hear(&format!("s/dc/{COLLECTION_ID}"), rest),
            b't' => self.hear("s/dt", rest),
            b'n' => self.hear("devicecontrol/notifications", rest),
            b'e' => self.hear("s/e", rest),
            b'b' => self.hear("bridge/state", rest),
            b'm' => {
                let mut parts = rest.splitn(2, |byte| *byte == b'\n');
                let topic = String::from_utf8_lossy(parts.next().unwrap_or_default());
                let payload = parts.next().unwrap_or_default();
                self.hear_on(&topic, payload);
            }
            b'o' => {
                if let Some(id) = self.opening.pop_front() {
                    self.dialogue.opened(id);
                    self.open.push_back(id);
                }
            }
            b'O' => {
                if let Some(id) = self.opening.pop_back() {
                    self.dialogue.opened(id);
                    self.open.push_front(id);
                }
            }
            b'f' => {
                if let Some(id) = self.opening.pop_front() {
                    let reason = legible(&String::from_utf8_lossy(rest));
                    self.dialogue.failed(id, reason);
                }
            }
            b'x' => {
                if let Some(id) = self.open.pop_front() {
                    self.dialogue.ended(id, closed(rest).as_ref());
                }
            }
            b'd' => self.dialogue.delivered(self.backlog, self.now),
            b'r' => self.dialogue.connected(self.backlog, self.now),
            b'l' => self.dialogue.disconnected(),
            b'N' => {
                let topic = self.dialogue.topics().notifications();
                self.dialogue.refused(&topic);
            }
            b'T' => self.dialogue.ask_for_token(),
            b'w' => {
                let full = rest.first().is_some_and(|byte| byte % 2 != 0);
                self.backlog = Backlog {
                    waiting: usize::from(full) * 4096,
                    has_room: !full,
                };
            }
            b'p' => {
                let seconds = rest.first().copied().unwrap_or_default();
                self.now += Duration::from_secs(seconds.into());
                self.pass();
            }
            _ => {}
        }
        self.take_steps();
        self.dialogue.update_fragment(self.now);
        self.take_steps();
    }

    fn hear(&mut self, topic: &str, payload: &[u8]) {
        let topic = format!("{}{topic}", self.dialogue.topics().prefix());
        self.hear_on(&topic, payload);
    }

    fn hear_on(&mut self, topic: &str, payload: &[u8]) {
        if let Some(said) = Downlink::read(self.dialogue.topics(), topic, payload) {
            self.dialogue.heard(said, self.backlog, self.now);
        }
    }

    /// Passes a deadline, if one is over. It must not be due again at once for ever.
    fn pass(&mut self) {
        for _ in 0..64 {
            match self.dialogue.next_deadline() {
                Some(at) if at <= self.now => {
                    self.dialogue.deadline_passed(self.backlog, self.now);
                    self.dialogue.update_fragment(self.now);
                    self.take_steps();
                }
                _ => return,
            }
        }
        panic!("a deadline passes again and again");
    }

    fn take_steps(&mut self) {
        for _ in 0..STEP_LIMIT {
            match self.dialogue.next_step() {
                Some(Step::Publish(message)) => self.published(&message),
                Some(Step::PublishNewest(message) | Step::Ask(message)) => check(&message),
                Some(Step::Open(id, request)) => {
                    assert!(self.known.insert(id.0), "opened twice: {}", request.target);
                    self.opening.push_back(id);
                }
                Some(_) => {}
                None => return,
            }
        }
        panic!("steps without end");
    }

    fn published(&mut self, message: &Message) {
        check(message);
        for row in decode(message.payload.as_bytes()) {
            let (executing, ended) = self.said.entry(message.topic.clone()).or_default();
            match row.template() {
                "501" | "504" => *executing += 1,
                "502" | "503" | "505" | "506" => *ended += 1,
                _ => continue,
            }
            assert!(*ended <= *executing, "{}: {row:?}", message.topic);
            let names = row.get(1).unwrap_or_default();
            match row.template() {
                "501" | "502" | "503" => assert_eq!(names, REMOTE_ACCESS),
                _ => assert!(!names.is_empty()),
            }
        }
    }

    /// Brings every tunnel to its end: nothing may be left without a result.
    fn wind_up(&mut self) {
        self.dialogue.stopping();
        self.take_steps();
        while let Some(id) = self.opening.pop_back() {
            self.dialogue.failed(id, "adit is stopping".to_owned());
            self.take_steps();
        }
        while let Some(id) = self.open.pop_back() {
            self.dialogue.ended(id, None);
            self.take_steps();
        }
        self.dialogue.finish_fragment(self.now);
        self.take_steps();
        for (topic, (executing, ended)) in &self.said {
            assert_eq!(executing, ended, "{topic}");
        }
    }
}

fn closed(reason: &[u8]) -> Option<End> {
    (!reason.is_empty()).then(|| End {
        reason: legible(&String::from_utf8_lossy(reason)),
        up: 1,
        down: u64::MAX,
        lasted: Duration::from_secs(7),
    })
}

/// Whether a broker takes it: one packet, with a topic that can be published on.
fn check(message: &Message) {
    let Message { topic, payload, .. } = message;
    assert!(
        !topic.is_empty() && !topic.contains(['#', '+', '\0']),
        "{topic:?}"
    );
    let size = topic.len() + payload.len() + 16;
    assert!(size <= PACKET_LIMIT, "{size} bytes on {topic}");
}
