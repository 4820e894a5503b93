//! Tells on standard output what happens, step by step.
//!
//! There are two witnesses: the simulated platform knows the rows, the agent's log knows the two
//! ends and the bytes. They speak over different ways, so what they say of one tunnel is put into
//! the order in which one thing led to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simulated_cloud::{Cloud, Operation, Platform, Status};
use smartrest::Row;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The platform is looked at whenever it changes, and after this time unasked.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// What is shown of the rows that announce the gateway: everything but what belongs to a tunnel.
const TUNNEL_ROWS: [&str; 7] = ["400", "501", "502", "503", "504", "505", "506"];
/// How many tunnels are open, which is told with each tunnel.
const FRAGMENT: &str = "inventory/";

/// Where the story is told. Whoever pauses the terminal pauses the demo.
pub(crate) struct Story {
    state: Mutex<State>,
    colour: bool,
}

#[derive(Default)]
struct State {
    /// The tunnels whose end was not told, by their number.
    tunnels: BTreeMap<u64, Told>,
    rows_seen: usize,
    operations_seen: Vec<usize>,
}

/// What was told of a tunnel, and what waits for its turn.
#[derive(Default)]
struct Told {
    last: Option<Stage>,
    waiting: Vec<Step>,
}

/// Something that happened to a tunnel.
struct Step {
    stage: Stage,
    fact: String,
    words: String,
}

#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Stage {
    Asked,
    Executing,
    BothEnds,
    Successful,
    Failed,
    Ended,
}

impl Stage {
    /// What led to it.
    fn after(self) -> Option<Self> {
        match self {
            Self::Asked => None,
            Self::Executing => Some(Self::Asked),
            Self::BothEnds | Self::Failed => Some(Self::Executing),
            Self::Successful => Some(Self::BothEnds),
            Self::Ended => Some(Self::Successful),
        }
    }

    fn is_last(self) -> bool {
        matches!(self, Self::Failed | Self::Ended)
    }

    /// Where it goes, for a reader who runs the eye down the column, and its colour.
    fn sign(self) -> (&'static str, Colour) {
        match self {
            Self::Asked => ("<-", Colour::Blue),
            Self::Executing => ("->", Colour::Yellow),
            Self::BothEnds => ("==", Colour::Plain),
            Self::Successful => ("->", Colour::Green),
            Self::Failed => ("->", Colour::Red),
            Self::Ended => ("==", Colour::Cyan),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Plain = 0,
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Cyan = 36,
}

impl Story {
    /// Uses colour where a person looks who did not refuse it (<https://no-color.org>).
    pub(crate) fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = io::stdout().is_terminal() && !refused;
        Self {
            state: Mutex::default(),
            colour,
        }
    }

    /// Tells a line that belongs to no tunnel.
    pub(crate) fn line(&self, colour: Colour, words: &str) {
        let line = self.painted(colour, words);
        // Whoever has stopped to listen changes nothing.
        let _ = writeln!(io::stdout(), "{line}");
    }

    /// Tells what the platform sees, until it is dropped.
    pub(crate) async fn watch(&self, cloud: &Cloud) {
        loop {
            let change = cloud.wait_until(LOOK_AGAIN, |platform| self.look(platform).then_some(()));
            // After a long time without a change there is nothing to tell.
            let _ = change.await;
        }
    }

    /// Tells what is left to tell, and returns how many tunnels were asked for.
    pub(crate) fn finish(&self) -> usize {
        let mut state = self.lock();
        for (number, mut told) in std::mem::take(&mut state.tunnels) {
            told.waiting.sort_by_key(|step| step.stage);
            for step in told.waiting {
                self.step(number, &step);
            }
        }
        state.operations_seen.len()
    }

    /// Tells what is new on the platform, and returns whether there was anything.
    pub(crate) fn look(&self, platform: &Platform) -> bool {
        let mut state = self.lock();
        let rows = platform.log().get(state.rows_seen..).unwrap_or_default();
        state.rows_seen += rows.len();
        for record in rows {
            let is_of_tunnel = TUNNEL_ROWS.contains(&record.row.template());
            if !is_of_tunnel && !record.topic.starts_with(FRAGMENT) {
                let row = smartrest::encode([&record.row]);
                self.line(Colour::Dim, &format!("     -> {row}"));
            }
        }
        let mut news = !rows.is_empty();
        for (index, operation) in platform.operations().iter().enumerate() {
            if state.operations_seen.len() <= index {
                state.operations_seen.push(0);
            }
            let seen =
                std::mem::replace(&mut state.operations_seen[index], operation.history.len());
            // The agent counts its operations from 1, and gets all of them.
            let number = index as u64 + 1;
            for place in seen..operation.history.len() {
                self.told(&mut state, number, reported(operation, place));
                news = true;
            }
        }
        news
    }

    /// Tells a step if what led to it was told, and otherwise keeps it.
    fn told(&self, state: &mut State, number: u64, step: Step) {
        let told = state.tunnels.entry(number).or_default();
        told.waiting.push(step);
        while let Some(index) = told
            .waiting
            .iter()
            .position(|s| s.stage.after() == told.last)
        {
            let step = told.waiting.remove(index);
            told.last = Some(step.stage);
            self.step(number, &step);
        }
        if told.last.is_some_and(Stage::is_last) {
            state.tunnels.remove(&number);
        }
    }

    fn step(&self, number: u64, Step { stage, fact, words }: &Step) {
        let (sign, colour) = stage.sign();
        let number = self.painted(Colour::Dim, &format!("{:>4}", format!("#{number}")));
        let words = self.painted(colour, words);
        let _ = writeln!(io::stdout(), "{number} {sign} {fact:<48} {words}");
    }

    fn painted(&self, colour: Colour, words: &str) -> String {
        match colour {
            Colour::Plain => words.to_owned(),
            _ if !self.colour => words.to_owned(),
            colour => format!("\x1b[{}m{words}\x1b[0m", colour as u8),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Words one status of an operation's history.
fn reported(operation: &Operation, place: usize) -> Step {
    let (stage, words) = match operation.history.get(place) {
        None | Some(Status::Pending) => {
            let words = "the cloud asks for a tunnel".to_owned();
            return Step {
                stage: Stage::Asked,
                fact: without_key(&operation.row),
                words,
            };
        }
        Some(Status::Executing) => (Stage::Executing, "EXECUTING".to_owned()),
        Some(Status::Successful) => (Stage::Successful, "SUCCESSFUL".to_owned()),
        Some(Status::Failed) => {
            let reason = operation.reason.as_deref().unwrap_or("without a reason");
            (Stage::Failed, format!("FAILED: {reason}"))
        }
    };
    // The reason is told beside it.
    let row = place
        .checked_sub(1)
        .and_then(|at| operation.reports.get(at));
    let fields = row.map(Row::fields).unwrap_or_default().iter().take(2);
    Step {
        stage,
        fact: smartrest::encode([&Row::new(fields.cloned())]),
        words,
    }
}

/// Whoever holds the connection key can take the tunnel, so it is not shown even here.
fn without_key(row: &Row) -> String {
    let mut fields = row.fields().to_vec();
    if let Some(key) = fields.last_mut() {
        "<key>".clone_into(key);
    }
    smartrest::encode([&Row::new(fields)])
}

/// Listens to the agent's log.
pub(crate) struct Listener {
    pub(crate) story: Arc<Story>,
}

/// The tunnel that a span is about.
struct Tunnel {
    number: u64,
    target: String,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), Some(number)) = (context.span(id), fields.number("id")) {
            let target = fields.take("target");
            span.extensions_mut().insert(Tunnel { number, target });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.take("message");
        let span = context.event_span(event);
        let extensions = span.as_ref().map(|span| span.extensions());
        let tunnel = extensions
            .as_ref()
            .and_then(|extensions| extensions.get::<Tunnel>());
        match (tunnel, message.as_str()) {
            (Some(Tunnel { number, target }), "opened") => {
                let fact = format!("{target} and the cloud's WebSocket");
                let words = "both ends stand".to_owned();
                self.tell(
                    *number,
                    Step {
                        stage: Stage::BothEnds,
                        fact,
                        words,
                    },
                );
            }
            (Some(Tunnel { number, .. }), "ended") => {
                let (up, down) = (fields.take("up"), fields.take("down"));
                let fact = format!("{up} bytes to the cloud, {down} to the device");
                let words = format!("ended: {}", fields.take("reason"));
                self.tell(
                    *number,
                    Step {
                        stage: Stage::Ended,
                        fact,
                        words,
                    },
                );
            }
            // The platform tells it too, as FAILED with the reason.
            (_, "did not open") => {}
            _ if *event.metadata().level() <= Level::WARN => {
                self.story
                    .line(Colour::Red, &format!("     !! {message}{fields}"));
            }
            _ => {}
        }
    }
}

impl Listener {
    fn tell(&self, number: u64, step: Step) {
        let mut state = self.story.lock();
        self.story.told(&mut state, number, step);
    }
}

/// The fields of a span or an event as texts.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.parse().ok()
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}={value:?}"))
    }
}
