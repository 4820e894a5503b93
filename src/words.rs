//! Words for an error and its causes, as the operator reads them on an operation.

use std::error::Error;
use std::time::Duration;
use std::{io, iter};

use smartrest::plain_text;

/// Words an error and its causes for the operator, in at most `limit` bytes and on one line.
pub fn failure_reason(error: &(dyn Error + 'static), limit: usize) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    let mut clauses: Vec<String> = chain
        .map(|error| match error.downcast_ref::<io::Error>() {
            Some(error) => words(error),
            None => legible(&error.to_string()),
        })
        .collect();
    // A cause that its wrapper has already told need not be told again.
    clauses.dedup_by(|cause, effect| effect.ends_with(cause.as_str()));
    let mut reason = clauses.join(": ");
    reason.truncate(reason.floor_char_boundary(limit));
    reason
}

/// Words what the system said as a clause: "connection refused", without the number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = legible(&error.to_string());
    let clause = text
        .split_once(" (os error ")
        .map_or(text.as_str(), |(clause, _)| clause);
    let mut letters = clause.chars();
    match letters.next() {
        // The system begins with a capital; a name such as "DNS" keeps its own.
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => clause.to_owned(),
    }
}

/// Makes one line of a text from outside, of any length, without double quotes.
pub(crate) fn legible(text: &str) -> String {
    plain_text(text, usize::MAX)
}

/// Returns a time as a field of the log, whose name ends in `_s`: seconds, to the millisecond.
pub(crate) fn seconds(time: Duration) -> f64 {
    const PER_SECOND: f64 = 1000.0;
    (time.as_secs_f64() * PER_SECOND).round() / PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reach {0}")]
    struct Reach(&'static str, #[source] io::Error);

    #[test]
    fn joins_an_error_and_its_causes() {
        let refused = || io::Error::from_raw_os_error(111);
        for (error, limit, text) in [
            (
                Reach("plc-7:22", refused()),
                200,
                "cannot reach plc-7:22: connection refused",
            ),
            (Reach("plc-7:22", refused()), 16, "cannot reach plc"),
            (Reach("ü", refused()), 14, "cannot reach "),
            (
                Reach("a \"b\"\r\n", io::Error::other("DNS\tdown")),
                200,
                "cannot reach a 'b': DNS down",
            ),
        ] {
            assert_eq!(failure_reason(&error, limit), text);
        }
    }
}
