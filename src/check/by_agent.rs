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
            (plain(&words), code)
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

/// Takes out what could move a cursor: whoever should get hold of an agent gets no hold of the terminal
/// from which root asks it.
fn plain(words: &str) -> String {
    words.replace(|c: char| c.is_control() && c != '\n', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_lines_and_takes_out_what_moves_a_cursor() {
        assert_eq!(plain("a\n  b\u{1b}[2J\u{9b}c\r\n"), "a\n  b[2Jc\n");
    }
}
