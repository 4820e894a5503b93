//! Logs of adit go to standard error, as text for people or as JSON for collectors.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::cli::{LogFormat, LogLevel};

/// Installs the log for the whole process; the first call counts.
///
/// Only what adit itself logs comes through: libraries do not know which of their values are
/// secrets.
pub fn install(level: LogLevel, format: LogFormat) {
    let ours = Targets::new().with_target("adit", LevelFilter::from_level(level.into()));
    let layer = match format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal();
            fmt::layer()
                .with_writer(io::stderr)
                .with_target(false)
                .with_ansi(colour)
                .boxed()
        }
        LogFormat::Json => fmt::layer()
            .json()
            .with_writer(io::stderr)
            .with_target(false)
            .boxed(),
    };
    // A second installation finds the first one standing, which is what it wants.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(ours))
        .try_init();
}
