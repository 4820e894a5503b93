//! Words an error for a person, in the log and on an operation.

use std::error::Error;
use std::iter;

/// Joins an error and its causes to one line of at most `limit` bytes.
///
/// A cause that the clause before it already quotes is not said twice. What would depend on how
/// other software quotes (double quotes, line breaks) is replaced.
pub fn failure_reason(error: &(dyn Error + 'static), limit: usize) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    let mut clauses: Vec<String> = Vec::new();
    for clause in chain.map(|error| error.to_string().trim().to_owned()) {
        if clauses.last().is_none_or(|last| !last.contains(&clause)) {
            clauses.push(clause);
        }
    }
    smartrest::plain_text(&clauses.join(": "), limit)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reach \"plc-7\"\n")]
    struct Outer(#[source] io::Error);

    #[test]
    fn joins_causes_to_one_clause() {
        let error = Outer(io::Error::other("connection refused"));
        assert_eq!(
            failure_reason(&error, 100),
            "cannot reach 'plc-7': connection refused"
        );
        assert_eq!(failure_reason(&error, 12), "cannot reach");
    }

    #[test]
    fn says_nothing_twice() {
        let error = io::Error::other(io::Error::other("connection refused"));
        assert_eq!(failure_reason(&error, 100), "connection refused");
    }
}
