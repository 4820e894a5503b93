//! Logs of adit go to standard error, as text for people or as JSON for collectors.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the log for the whole process; the first call counts.
///
/// Only what adit itself logs comes through: libraries do not know which of their values are
/// secrets.
pub fn install(level: Level, format: Format) {
    let ours = Targets::new().with_target("adit", LevelFilter::from_level(level));
    let layer = match format {
        Format::Text => {
            let colour = io::stderr().is_terminal();
            fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(colour).boxed()
        }
        Format::Json => fmt::layer().json().with_writer(io::stderr).with_target(false).boxed(),
    };
    // A second installation finds the first one standing, which is what it wants.
    let _ = tracing_subscriber::registry().with(layer.with_filter(ours)).try_init();
}
