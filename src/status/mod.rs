//! `adit status`: what the running agent does, for people and for scripts.

mod text;

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use crate::admin::Settings;
use crate::admin::client::{self, Unanswered};
use crate::cli::Status;
use crate::logging::wants_colour;
use crate::state::Snapshot;
use text::Style;

/// Exit code where the agent runs and has no connection.
const NOT_CONNECTED: u8 = 1;
/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Puts what follows in the place of what a terminal shows.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Asks the agent and prints the answer, with `watch` again and again until nobody reads it.
pub(crate) async fn run(settings: &Settings, status: Status) -> ExitCode {
    let is_terminal = io::stdout().is_terminal();
    let no_color = std::env::var_os("NO_COLOR");
    let style = Style {
        has_colour: wants_colour(is_terminal, no_color.as_deref().map(OsStr::new)),
    };
    loop {
        let answer = client::status(settings).await;
        let code = code(&answer);
        let mut shown = match status.json {
            true => json(&answer),
            false => match &answer {
                Ok(snapshot) => text::of(snapshot, style),
                Err(error) => format!("{error}\n"),
            },
        };
        if status.watch && is_terminal && !status.json {
            shown.insert_str(0, CLEAR);
        }
        let is_said = io::stdout()
            .write_all(shown.as_bytes())
            .and_then(|()| io::stdout().flush());
        if !status.watch || is_said.is_err() {
            return code;
        }
        sleep(WATCH_INTERVAL).await;
    }
}

fn code(answer: &Result<Snapshot, Unanswered>) -> ExitCode {
    match answer {
        Ok(snapshot) if snapshot.connection.is_connected => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(NOT_CONNECTED),
        Err(error) => error.exit_code(),
    }
}

/// One line; where there is no answer, an object with `error` alone.
fn json(answer: &Result<Snapshot, Unanswered>) -> String {
    let json = match answer {
        Ok(snapshot) => serde_json::to_string(snapshot).unwrap_or_default(),
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
    };
    format!("{json}\n")
}
