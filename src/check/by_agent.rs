//! `adit check --agent`: the check of the running agent, printed.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::admin::{Settings, client};
use crate::cli::Check;

/// Asks for it, and prints what was found.
pub(crate) async fn run(settings: &Settings, check: &Check) -> ExitCode {
    let Check { target, json, .. } = check;
    let (words, code) = match client::check(settings, target.as_ref()).await {
        Ok(checked) => {
            let code = match checked.is_good {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            };
            let words = match *json {
                true => checked.json + "\n",
                false => checked.text,
            };
            (words, code)
        }
        Err(error) => {
            let code = error.exit_code();
            let error = error.to_string();
            let words = match *json {
                true => serde_json::json!({ "ok": false, "error": error }).to_string(),
                false => error,
            };
            (words + "\n", code)
        }
    };
    // Whoever asked may have read enough; the exit code tells the result too.
    let _ = io::stdout().write_all(words.as_bytes());
    code
}
