//! Decides whether the statuses of a row wait for the notification that brings its operation's id.
//!
//! `devicecontrol/notifications` delivers every operation as JSON, with its id, and `s/ds` the same
//! one as a `530` row without. Neither has to come first, and the notification may not come at all:
//! a broker may refuse the topic, a bridge may not carry it. A row therefore waits for a moment
//! only, and for nothing more once three rows in a row have waited in vain. Over how many connections that
//! is makes no difference. The clock is left to the caller.

use std::time::Duration;

/// How long the statuses of a row wait for the id of its operation.
pub(crate) const PAIR_LIMIT: Duration = Duration::from_millis(300);
/// Rows in a row that have waited in vain, after which none waits until a notification comes.
const SILENT_ROWS: usize = 3;

/// What the topic has brought to one process, across all its connections.
#[derive(Debug, Default)]
pub(crate) struct Notifications {
    /// Rows without a notification since the last one came.
    silent_rows: usize,
    /// The broker has refused the subscription, and nothing has come since.
    is_refused: bool,
    has_warned: bool,
}

impl Notifications {
    /// Whether the statuses of a row wait.
    pub(crate) fn are_awaited(&self) -> bool {
        !self.is_refused && self.silent_rows < SILENT_ROWS
    }

    /// Takes note of a notification, of whatever operation.
    pub(crate) fn delivered(&mut self) {
        self.silent_rows = 0;
        self.is_refused = false;
    }

    /// Takes note of rows that have waited in vain; whether somebody should hear that none waits any
    /// more.
    pub(crate) fn missing(&mut self, rows: usize) -> bool {
        self.silent_rows = self.silent_rows.saturating_add(rows);
        self.is_news()
    }

    /// Takes note that the broker refuses the topic; whether somebody should hear that no row waits.
    pub(crate) fn refused(&mut self) -> bool {
        self.is_refused = true;
        self.is_news()
    }

    fn is_news(&mut self) -> bool {
        !self.are_awaited() && !std::mem::replace(&mut self.has_warned, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_awaited_until_three_rows_in_a_row_have_waited_in_vain() {
        let mut notifications = Notifications::default();
        for (rows, awaited, told) in [(1, true, false), (1, true, false), (1, false, true)] {
            assert_eq!(notifications.missing(rows), told);
            assert_eq!(notifications.are_awaited(), awaited);
        }
        notifications.delivered();
        assert!(notifications.are_awaited());
        notifications.missing(2);
        notifications.delivered();
        notifications.missing(2);
        assert!(notifications.are_awaited(), "not in a row");
        assert!(!notifications.missing(7), "said before");
        assert!(!notifications.are_awaited());
    }

    #[test]
    fn is_not_awaited_where_it_is_refused_until_it_comes() {
        let mut notifications = Notifications::default();
        assert!(notifications.refused());
        assert!(!notifications.refused(), "said before");
        assert!(!notifications.are_awaited());
        notifications.delivered();
        assert!(notifications.are_awaited());
    }
}
