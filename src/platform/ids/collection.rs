//! Decides whether operations come with their ids, and which row speaks for one that comes twice.
//!
//! An adit that wants ids asks at every connect for its template collection and creates it where
//! it is missing. Until that is decided no operation is taken and `500` is not asked: what is
//! pending stays so on the platform, and the answer to `500` then brings all of it in order.
//! A platform with the collection sends each operation in both templates, in any order. The one
//! without the id waits for the other for a moment, and is taken as it is when that does not come.
//! Sending, receiving and the clock are left to the caller.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smartrest::{CollectionAnswer, FieldError, PendingOperation};

/// How long the platform may take to answer for the collection.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a `530` waits for the row with the id of its operation.
pub(crate) const ROW_LIMIT: Duration = Duration::from_secs(3);
/// The pause before a collection that was just created is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Requests that wait or are remembered.
const HELD_LIMIT: usize = 4096;

/// What is to be done now, in order.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Ask the platform whether the collection exists.
    Ask,
    /// Create the collection.
    Create,
    /// Ask for all pending operations.
    Resume,
    /// Say that operations are taken without ids.
    WarnOfFallback,
    /// Carry out these requests of one payload.
    Take(Vec<PendingOperation>),
    /// Log that an operation came without its id.
    WithoutId(FieldError),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Nothing is known yet.
    Undecided,
    /// Both templates are delivered.
    Installed,
    /// The platform has not answered; only the static templates are delivered.
    FallenBack,
}

/// The collection of one process, across all its connections.
#[derive(Debug)]
pub(crate) struct Collection {
    state: State,
    /// When to do without it; set while undecided and connected.
    answer_by: Option<Instant>,
    /// It was created on this connection.
    created: bool,
    ask_again_at: Option<Instant>,
    held: VecDeque<Held>,
    /// There was no room for a row, nor is there for any younger one.
    left_out: bool,
    /// Requests without a key that came with an id, whose `530` may still come.
    answered: VecDeque<(Instant, PendingOperation)>,
}

/// The static rows of one payload. Those that are known already are kept among them: they tell the
/// age of the others.
#[derive(Debug)]
struct Held {
    until: Instant,
    pending: Vec<PendingOperation>,
}

impl Default for Collection {
    fn default() -> Self {
        Self {
            state: State::Undecided,
            answer_by: None,
            created: false,
            ask_again_at: None,
            held: VecDeque::new(),
            left_out: false,
            answered: VecDeque::new(),
        }
    }
}

impl Collection {
    /// Takes note that there is no connection, or no cloud behind it: no answer and no id can come.
    ///
    /// What is held is forgotten: nothing was said of it, so the answer to `500` brings it again.
    pub(crate) fn disconnected(&mut self) {
        self.answer_by = None;
        self.created = false;
        self.ask_again_at = None;
        self.held.clear();
        self.left_out = false;
    }

    /// Takes note of a connection that is ready. A collection that was there is still asked for,
    /// since somebody may have deleted it, but nothing waits for the answer.
    pub(crate) fn connected(&mut self, now: Instant) -> Vec<Action> {
        self.disconnected();
        if self.state == State::Undecided {
            self.answer_by = Some(now + ANSWER_LIMIT);
            return vec![Action::Ask];
        }
        vec![Action::Ask, Action::Resume]
    }

    /// Takes the answers of `s/dt`.
    pub(crate) fn answered(&mut self, answers: &[CollectionAnswer], now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for answer in answers {
            match answer {
                CollectionAnswer::Exists => actions.extend(self.installed()),
                CollectionAnswer::IsMissing if self.created => {
                    self.ask_again_at = self.answer_by.map(|_| now + ASK_AGAIN);
                }
                CollectionAnswer::IsMissing => {
                    self.created = true;
                    actions.extend([Action::Create, Action::Ask]);
                }
            }
        }
        actions
    }

    fn installed(&mut self) -> Option<Action> {
        self.answer_by = None;
        self.ask_again_at = None;
        let is_new = self.state != State::Installed;
        self.state = State::Installed;
        is_new.then_some(Action::Resume)
    }

    /// Takes the rows of one payload of `s/ds`, of which `is_known` tells those that came before.
    ///
    /// Where too many wait, the rows are left to their copies: taken at once, they would be reported
    /// without ids before older ones, on which the platform would put the results. `500` is asked
    /// again when nothing waits any more, in case that no copies came.
    pub(crate) fn static_rows(
        &mut self,
        mut pending: Vec<PendingOperation>,
        now: Instant,
        is_known: impl Fn(&PendingOperation) -> bool,
    ) -> Vec<Action> {
        match self.state {
            State::Undecided => return Vec::new(),
            State::FallenBack => return take(pending),
            State::Installed => {}
        }
        self.forget(now);
        pending.retain(|operation| {
            let is_copy =
                |(_, answered): &(Instant, PendingOperation)| answered.asks_for_the_same(operation);
            let place = self.answered.iter().position(is_copy);
            place.is_none_or(|place| self.answered.remove(place).is_none())
        });
        let waiting: usize = self.held.iter().map(|held| held.pending.len()).sum();
        if pending.iter().all(is_known) {
            return take(pending);
        }
        let has_room = self.held.is_empty() || waiting + pending.len() <= HELD_LIMIT;
        if self.left_out || !has_room {
            self.left_out = true;
            return Vec::new();
        }
        let until = now + ROW_LIMIT;
        self.held.push_back(Held { until, pending });
        Vec::new()
    }

    /// Takes the rows of one payload of `s/dc/<X-ID>`: with its id an operation waits for nothing.
    /// That they come says as much as an answer.
    pub(crate) fn rows(
        &mut self,
        rows: Vec<Result<PendingOperation, FieldError>>,
        now: Instant,
    ) -> Vec<Action> {
        let mut pending = Vec::new();
        let mut actions = Vec::new();
        for operation in rows {
            match operation {
                Ok(operation) => {
                    // A key tells the copy from others for ever, and without one this has to.
                    if operation.key().is_none() && !self.release_copy(&operation) {
                        self.answered
                            .push_back((now + ROW_LIMIT, operation.clone()));
                    }
                    pending.push(operation);
                }
                Err(missing) => actions.push(Action::WithoutId(missing)),
            }
        }
        let surplus = self.answered.len().saturating_sub(HELD_LIMIT);
        self.answered.drain(..surplus);
        if !pending.is_empty() {
            actions.extend(self.installed());
        }
        actions.extend(take(pending));
        actions
    }

    /// Forgets a held row that asks for the same; says whether there was one.
    fn release_copy(&mut self, operation: &PendingOperation) -> bool {
        for held in &mut self.held {
            let is_copy = |copy: &PendingOperation| copy.asks_for_the_same(operation);
            if let Some(place) = held.pending.iter().position(is_copy) {
                held.pending.remove(place);
                return true;
            }
        }
        false
    }

    /// Returns when [`Collection::deadline_passed`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let held = self.held.front().map(|held| held.until);
        [self.answer_by, self.ask_again_at, held]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what the time has come for.
    pub(crate) fn deadline_passed(&mut self, now: Instant) -> Vec<Action> {
        let has_come = |at: &mut Instant| *at <= now;
        let mut actions = Vec::new();
        if self.answer_by.take_if(has_come).is_some() {
            self.state = State::FallenBack;
            self.ask_again_at = None;
            actions.extend([Action::WarnOfFallback, Action::Resume]);
        }
        if self.ask_again_at.take_if(has_come).is_some() {
            actions.push(Action::Ask);
        }
        while let Some(held) = self.held.pop_front_if(|held| held.until <= now) {
            actions.extend(take(held.pending));
        }
        if self.held.is_empty() && std::mem::take(&mut self.left_out) {
            actions.push(Action::Resume);
        }
        self.forget(now);
        actions
    }

    fn forget(&mut self, now: Instant) {
        self.answered.retain(|(until, _)| *until > now);
    }
}

fn take(pending: Vec<PendingOperation>) -> Vec<Action> {
    if pending.is_empty() {
        return Vec::new();
    }
    vec![Action::Take(pending)]
}

#[cfg(test)]
mod tests {
    use smartrest::{COLLECTION_ID, Topics};

    use super::super::super::downlink::Downlink;
    use super::*;

    /// A collection, and the clock that it is shown.
    struct Story {
        collection: Collection,
        start: Instant,
        known: Vec<PendingOperation>,
    }

    impl Story {
        fn new() -> Self {
            Self {
                collection: Collection::default(),
                start: Instant::now(),
                known: Vec::new(),
            }
        }

        /// Does one thing, some seconds after the start, and returns what follows: `connect`, `lose`,
        /// `wait`, or a payload behind `s/dt`, `s/ds` or `s/dc`.
        fn step(&mut self, at: f64, event: &str) -> Vec<String> {
            let now = self.start + Duration::from_secs_f64(at);
            let (topic, payload) = event.split_once(' ').unwrap_or((event, ""));
            let payload = payload.replace("ID", COLLECTION_ID).replace('|', "\n");
            let full = match topic {
                "s/dc" => format!("s/dc/{COLLECTION_ID}"),
                topic => topic.to_owned(),
            };
            let heard = Downlink::read(&Topics::default(), &full, payload.as_bytes());
            let actions = match topic {
                "connect" => self.collection.connected(now),
                "lose" => {
                    self.collection.disconnected();
                    assert_eq!(self.collection.next_deadline(), None);
                    Vec::new()
                }
                "wait" => {
                    let deadline = self.collection.next_deadline();
                    assert!(deadline.is_some_and(|at| at <= now), "{at}: {deadline:?}");
                    self.collection.deadline_passed(now)
                }
                _ => match heard {
                    Some(Downlink::Collection(answers)) => self.collection.answered(&answers, now),
                    Some(Downlink::OperationsById(rows)) => self.collection.rows(rows, now),
                    Some(Downlink::Operations(pending)) => {
                        let is_known = |operation: &PendingOperation| {
                            let mut known = self.known.iter();
                            known.any(|known| known.key() == operation.key())
                        };
                        self.collection.static_rows(pending, now, is_known)
                    }
                    other => panic!("{other:?}"),
                },
            };
            let words: Vec<_> = actions.iter().map(said).collect();
            for action in actions {
                if let Action::Take(pending) = action {
                    let with_key = pending
                        .into_iter()
                        .filter(|operation| operation.key().is_some());
                    self.known.extend(with_key);
                }
            }
            words
        }

        fn installed() -> Self {
            let mut story = Self::new();
            story.step(0.0, "connect");
            story.step(0.0, "s/dt 20,ID,1");
            story
        }
    }

    /// An action in a word; a request by its device, and its key if it came without an id.
    fn said(action: &Action) -> String {
        match action {
            Action::Take(pending) => {
                let pending = pending.iter().map(|operation| match operation.reference() {
                    smartrest::OperationRef::Id(id) => format!("#{id}"),
                    smartrest::OperationRef::Oldest(_) => operation.key().unwrap_or("?").to_owned(),
                });
                format!("take {}", pending.collect::<Vec<_>>().join(" "))
            }
            Action::WarnOfFallback => "warn".to_owned(),
            Action::WithoutId(error) => error.to_string(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    #[test]
    fn gives_the_platform_a_moment_before_it_asks_for_a_new_collection_again() {
        let mut story = Story::new();
        story.step(0.0, "connect");
        story.step(0.1, "s/dt 41,ID");
        story.step(0.2, "s/dt 41,ID");
        let next = story.collection.next_deadline().unwrap();
        assert_eq!(next - story.start, Duration::from_millis(1200));
    }

    fn tell(mut story: Story, steps: &[(f64, &str, &[&str])]) {
        for (at, event, actions) in steps {
            assert_eq!(story.step(*at, event), *actions, "{event} at {at}");
        }
    }

    #[test]
    fn creates_the_collection_where_it_is_missing_and_then_asks_for_operations() {
        tell(
            Story::new(),
            &[
                (0.0, "connect", &["ask"]),
                (0.1, "s/dt 20,another,7|41,another", &[]),
                (0.2, "s/dt 41,ID", &["create", "ask"]),
                (0.3, "s/dt 20,ID,8", &["resume"]),
                (0.4, "s/dt 20,ID,8", &[]),
                (9.0, "connect", &["ask", "resume"]),
                (9.1, "s/dt 20,ID,8", &[]),
            ],
        );
    }

    #[test]
    fn asks_again_while_a_collection_is_being_created() {
        tell(
            Story::new(),
            &[
                (0.0, "connect", &["ask"]),
                (0.1, "s/dt 41,ID", &["create", "ask"]),
                (0.2, "s/dt 41,ID", &[]),
                (1.2, "wait", &["ask"]),
                (1.3, "s/dt 41,ID", &[]),
                (2.3, "wait", &["ask"]),
                (2.4, "s/dt 20,ID,8", &["resume"]),
            ],
        );
    }

    #[test]
    fn does_without_ids_where_the_platform_does_not_answer() {
        tell(
            Story::new(),
            &[
                (0.0, "connect", &["ask"]),
                (1.0, "s/ds 530,gw,plc,22,early", &[]),
                (2.0, "connect", &["ask"]),
                (12.0, "wait", &["warn", "resume"]),
                (12.1, "s/ds 530,gw,plc,22,early", &["take early"]),
                (12.2, "s/ds 530,gw,plc,22,k", &["take k"]),
                (20.0, "connect", &["ask", "resume"]),
                (20.1, "s/ds 530,gw,plc,22,k2", &["take k2"]),
                (20.2, "s/dt 20,ID,8", &["resume"]),
                (20.3, "s/ds 530,gw,plc,22,k3", &[]),
                (23.3, "wait", &["take k3"]),
            ],
        );
    }

    #[test]
    fn gives_up_a_collection_that_is_never_created() {
        tell(
            Story::new(),
            &[
                (0.0, "connect", &["ask"]),
                (0.1, "s/dt 41,ID", &["create", "ask"]),
                (9.9, "s/dt 41,ID", &[]),
                (10.0, "wait", &["warn", "resume"]),
                (11.0, "s/dt 41,ID", &[]),
            ],
        );
    }

    #[test]
    fn creates_again_what_somebody_has_deleted() {
        tell(
            Story::installed(),
            &[
                (5.0, "connect", &["ask", "resume"]),
                (5.1, "s/dt 41,ID", &["create", "ask"]),
                (5.2, "s/dt 20,ID,9", &[]),
            ],
        );
    }

    #[test]
    fn takes_an_operation_with_its_id_and_lets_its_copy_go() {
        tell(
            Story::installed(),
            &[
                (1.0, "s/ds 530,gw,plc,22,a", &[]),
                (1.1, "s/dc 901,gw,1,plc,22,a", &["take #1"]),
                (2.0, "s/dc 901,gw,2,plc,22,b", &["take #2"]),
                // All of it is known, and the caller ignores it.
                (2.1, "s/ds 530,gw,plc,22,b", &["take b"]),
                // The copy of the first is known by now too.
                (4.0, "wait", &["take a"]),
            ],
        );
    }

    #[test]
    fn takes_a_row_without_an_id_where_no_other_comes() {
        tell(
            Story::installed(),
            &[
                (1.0, "s/ds 530,gw,plc,22,a|530,gw,plc,22,b", &[]),
                (1.5, "s/ds 530,gw,plc,22,c", &[]),
                (2.0, "s/dc 901,gw,2,plc,22,b", &["take #2"]),
                (4.0, "wait", &["take a b"]),
                (4.5, "wait", &["take c"]),
            ],
        );
    }

    #[test]
    fn knows_the_copy_of_a_row_without_a_key() {
        tell(
            Story::installed(),
            &[
                (1.0, "s/ds 530,gw,plc,22|530,gw,plc,23,k", &[]),
                (1.1, "s/dc 901,gw,1,plc,22,", &["take #1"]),
                (2.0, "s/dc 901,gw,2,plc,22,", &["take #2"]),
                (2.1, "s/ds 530,gw,plc,22", &[]),
                (2.2, "s/ds 530,gw,plc,22", &[]),
                (4.0, "wait", &["take k"]),
                (5.2, "wait", &["take ?"]),
                (6.0, "s/dc 901,gw,3,plc,22,", &["take #3"]),
                (9.0, "s/ds 530,gw,plc,22", &[]),
                (12.0, "wait", &["take ?"]),
            ],
        );
    }

    #[test]
    fn leaves_a_row_without_an_id_to_its_copy() {
        let missing = "the operation id is missing";
        tell(
            Story::installed(),
            &[
                (
                    1.0,
                    "s/dc 901,gw,,plc,22,a|901,gw,1,plc,22,b",
                    &[missing, "take #1"],
                ),
                (1.1, "s/ds 530,gw,plc,22,a", &[]),
                (4.1, "wait", &["take a"]),
            ],
        );
    }

    #[test]
    fn holds_nothing_over_a_reconnect_that_comes_again() {
        tell(
            Story::installed(),
            &[
                (1.0, "s/ds 530,gw,plc,22", &[]),
                (2.0, "connect", &["ask", "resume"]),
                (2.1, "s/ds 530,gw,plc,22", &[]),
                (2.2, "s/dc 901,gw,1,plc,22,", &["take #1"]),
                (3.0, "s/ds 530,gw,plc,22,k", &[]),
                (6.0, "wait", &["take k"]),
            ],
        );
    }

    #[test]
    fn takes_nothing_without_its_id_while_no_id_can_come() {
        tell(
            Story::installed(),
            &[
                (1.0, "s/ds 530,gw,plc,22|530,gw,plc,23,k", &[]),
                (1.1, "lose", &[]),
                (9.0, "connect", &["ask", "resume"]),
                (9.1, "s/dc 901,gw,1,plc,22,", &["take #1"]),
                (9.2, "s/dc 901,gw,2,plc,23,k", &["take #2"]),
                (9.3, "s/ds 530,gw,plc,22|530,gw,plc,23,k", &["take k"]),
            ],
        );
    }

    #[test]
    fn does_not_do_without_ids_because_there_was_no_connection() {
        tell(
            Story::new(),
            &[
                (0.0, "connect", &["ask"]),
                (0.1, "s/dt 41,ID", &["create", "ask"]),
                (0.2, "s/dt 41,ID", &[]),
                (0.3, "lose", &[]),
                (60.0, "connect", &["ask"]),
                (60.1, "s/dt 20,ID,8", &["resume"]),
            ],
        );
    }

    #[test]
    fn takes_a_row_of_the_collection_for_an_answer() {
        tell(
            Story::new(),
            &[
                (0.0, "connect", &["ask"]),
                (0.1, "s/dc 999,gw,1", &[]),
                (0.2, "s/dc 901,gw,1,plc,22,a", &["resume", "take #1"]),
                (0.3, "s/dt 20,ID,8", &[]),
            ],
        );
    }

    #[test]
    fn leaves_out_every_row_that_is_younger_than_one_without_room() {
        let mut story = Story::installed();
        for number in 0..HELD_LIMIT {
            story.step(1.0, &format!("s/ds 530,gw,plc,22,k{number}"));
        }
        assert!(story.step(2.0, "s/ds 530,gw,plc,22,x").is_empty());
        // A copy of its own brings it all the same.
        assert_eq!(story.step(2.1, "s/dc 901,gw,7,plc,22,x"), ["take #7"]);
        // There would be room now, but what was left out is older.
        story.collection.held.truncate(1);
        assert!(story.step(2.2, "s/ds 530,gw,plc,22,y").is_empty());
        assert_eq!(story.step(4.0, "wait"), ["take k0", "resume"]);
        // A connection that is lost has its own question.
        for number in 0..=HELD_LIMIT {
            story.step(5.0, &format!("s/ds 530,gw,plc,22,l{number}"));
        }
        story.step(5.1, "lose");
        assert_eq!(story.step(6.0, "connect"), ["ask", "resume"]);
        story.step(6.1, "s/ds 530,gw,plc,22,z");
        assert_eq!(story.step(9.1, "wait"), ["take z"]);
    }

    #[test]
    fn holds_a_bounded_number_of_rows() {
        let mut story = Story::installed();
        for number in 0..HELD_LIMIT {
            let row = format!("s/ds 530,gw,plc,22,k{number}");
            assert!(story.step(1.0, &row).is_empty());
        }
        // Nothing without an id may overtake what is held.
        assert!(story.step(1.0, "s/ds 530,gw,plc,22,x").is_empty());
        let taken = story.step(4.0, "wait");
        assert_eq!(taken.len(), HELD_LIMIT + 1);
        assert_eq!(
            [&taken[0], &taken[HELD_LIMIT - 1], &taken[HELD_LIMIT]],
            ["take k0", "take k4095", "resume"]
        );
        assert!(story.step(4.1, "s/ds 530,gw,plc,22,x").is_empty());
        assert_eq!(story.step(7.1, "wait"), ["take x"]);
        // Each would be held against all of the others.
        let mut story = Story::installed();
        for number in 0..2 * HELD_LIMIT {
            story.step(1.0, &format!("s/dc 901,gw,{number},plc{number},22,"));
        }
        assert_eq!(story.collection.answered.len(), HELD_LIMIT);
    }
}
