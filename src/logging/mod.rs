//! Logs of adit go to standard error, as text for people or as JSON for collectors.
//!
//! A field that is a time has its unit in its name, as `retry_in_s`, and is a number of seconds;
//! people read it as `retry_in=1.5s`. The journal of systemd gets each line with its priority; a flood
//! of warnings from one place is summed up; the last lines are kept for whoever asks later.

mod flood;
mod journal;
mod output;
mod ring;
mod tally;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::callsite::rebuild_interest_cache;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, error, warn};
use tracing_subscriber::field::{RecordFields, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as layers};

use crate::cli::{LogFormat, LogLevel};
use output::{Log, Output};

/// How long the last lines may take at the end of the process.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// Ends the name of a field that is a number of seconds.
const SECONDS: &str = "_s";

/// The target of messages that are each about something else although they come from one place, as
/// the faults of a configuration: all of them are logged, however many.
pub const EACH: &str = "adit::each";

/// What the targets of adit's own messages are, or begin with.
const TARGET: &str = "adit";
const MODULES: &str = "adit::";
const LEVELS: [Level; 5] = [
    Level::ERROR,
    Level::WARN,
    Level::INFO,
    Level::DEBUG,
    Level::TRACE,
];

/// Where the level of now stands among [`LEVELS`].
static LEVEL: AtomicUsize = AtomicUsize::new(2);
static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

/// Installs the log for the whole process; the first call counts.
///
/// Only what adit itself logs comes through: libraries do not know which of their values are
/// secrets.
///
/// # Errors
/// What the system says where it cannot give standard error.
pub fn install(level: LogLevel, format: LogFormat) -> io::Result<()> {
    if OUTPUT.get().is_some() {
        return Ok(());
    }
    let output = Arc::new(Output::new(output::standard_error()?, tell_dropped));
    let output = Arc::clone(OUTPUT.get_or_init(|| output));
    let log = Log::new(output);
    set_level(level.into());
    let layer = match format {
        LogFormat::Text => layers::layer()
            .with_ansi(wants_colour(
                io::stderr().is_terminal(),
                std::env::var_os("NO_COLOR").as_deref(),
            ))
            .fmt_fields(TextFields)
            .with_writer(log)
            .with_target(false)
            .boxed(),
        // The innermost span names the tunnel; there is none around it.
        LogFormat::Json => layers::layer()
            .json()
            .with_span_list(false)
            .with_writer(log)
            .with_target(false)
            .boxed(),
    };
    // A second installation finds the first one standing, which is what it wants.
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(Ours)
        .try_init();
    Ok(())
}

/// Logs messages of this importance and more from now on.
pub(crate) fn set_level(level: Level) {
    let place = LEVELS.iter().position(|known| *known == level);
    LEVEL.store(place.unwrap_or_default(), Ordering::Relaxed);
    rebuild_interest_cache();
}

/// Lets through what adit itself logs, at the level of now, but no flood. It filters for all layers: a
/// filter of one layer may not refuse an event that it has called interesting.
struct Ours;

impl Ours {
    fn allows(metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours = target == TARGET || target.starts_with(MODULES);
        is_ours && *metadata.level() <= level()
    }
}

impl<S: Subscriber> Layer<S> for Ours {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Self::allows(metadata)
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match Self::allows(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        tally::allows(event)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(level()))
    }
}

fn level() -> Level {
    let place = LEVEL.load(Ordering::Relaxed);
    LEVELS.get(place).copied().unwrap_or(Level::INFO)
}

/// Says what keeps adit from starting, as it is to the person at a terminal.
pub fn refuse(format: LogFormat, fault: &str) {
    match (format, OUTPUT.get()) {
        (LogFormat::Text, Some(output)) => {
            let log = Log::new(Arc::clone(output));
            log.write(Level::ERROR, format!("{fault}\n").as_bytes());
        }
        _ => error!(target: EACH, fault, "the configuration cannot be used"),
    }
}

/// Waits a moment for whoever reads the log to take the last lines.
pub fn flush() {
    tally::flush();
    if let Some(output) = OUTPUT.get() {
        output.flush(FLUSH_LIMIT);
    }
}

/// Returns the last lines of the log, as they were logged, the oldest first.
pub(crate) fn last_lines() -> Vec<String> {
    OUTPUT
        .get()
        .map_or_else(Vec::new, |output| output.last_lines())
}

fn tell_dropped(lines: u64) {
    warn!(lines, "log lines dropped: nobody took them in time");
}

/// Colour is for a terminal, unless `NO_COLOR` says otherwise (<https://no-color.org>).
pub(crate) fn wants_colour(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Fields as people read them.
struct TextFields;

struct TextVisitor<'a> {
    default: DefaultVisitor<'a>,
    has_colour: bool,
}

impl<'a> FormatFields<'a> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let has_colour = writer.has_ansi_escapes();
        let default = DefaultVisitor::new(writer, true);
        let mut visitor = TextVisitor {
            default,
            has_colour,
        };
        fields.record(&mut visitor);
        visitor.default.finish()
    }
}

impl Visit for TextVisitor<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let name = field.name().strip_suffix(SECONDS);
        let time = Duration::try_from_secs_f64(value);
        let (Some(name), Ok(time)) = (name, time) else {
            return self.default.record_f64(field, value);
        };
        // A message stands before, so there is always something to part it from.
        let written = match self.has_colour {
            true => write!(
                self.default.writer(),
                " \x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{time:?}"
            ),
            false => write!(self.default.writer(), " {name}={time:?}"),
        };
        // The next field fails in the same way, and says so.
        let _ = written;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.default.record_str(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.default.record_error(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.default.record_debug(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::info;

    use super::*;
    use crate::words::seconds;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(has_colour: bool, log: impl FnOnce()) -> String {
        let shared = Shared::default();
        let writer = shared.clone();
        let subscriber = layers()
            .with_ansi(has_colour)
            .fmt_fields(TextFields)
            .with_writer(move || writer.clone())
            .with_target(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
    }

    fn layers() -> tracing_subscriber::fmt::SubscriberBuilder {
        tracing_subscriber::fmt()
    }

    #[test]
    fn colours_a_terminal_whose_owner_does_not_object() {
        for (is_terminal, no_color, colour) in [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (false, None, false),
        ] {
            let no_color = no_color.map(OsStr::new);
            assert_eq!(wants_colour(is_terminal, no_color), colour, "{no_color:?}");
        }
    }

    #[test]
    fn shows_people_a_time_with_its_unit() {
        let line = logged(false, || {
            info!(
                up = 7,
                retry_in_s = seconds(Duration::from_micros(1_734_400)),
                lasted_s = 0.3,
                share = 0.5,
                why = "x",
                "lost"
            );
        });
        let words = " INFO lost up=7 retry_in=1.734s lasted=300ms share=0.5 why=\"x\"\n";
        assert_eq!(line, words);
        let line = logged(true, || info!(retry_in_s = 2.0, "lost"));
        assert!(
            line.contains("\x1b[3mretry_in\x1b[0m\x1b[2m=\x1b[0m2s"),
            "{line:?}"
        );
    }
}
