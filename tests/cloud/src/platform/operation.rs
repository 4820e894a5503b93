//! What the platform asks of a device, and how far that is.

use std::fmt;

use smartrest::Row;

/// Number of an operation; a higher one is younger.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OperationId(pub u64);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Not yet taken up by the device.
    Pending,
    /// Taken up.
    Executing,
    /// Ended as it should.
    Successful,
    /// Ended otherwise.
    Failed,
}

/// A connection key: whoever holds it can take the tunnel. `Debug` shows nothing of it.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Key(String);

impl Key {
    /// Makes a key of a given text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Makes a fresh key, shaped like the platform's.
    pub fn random() -> Self {
        let n = fastrand::u128(..);
        Self(format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            (n >> 80) & 0xffff,
            (n >> 64) & 0xffff,
            (n >> 48) & 0xffff,
            n & 0xffff_ffff_ffff
        ))
    }

    /// The key itself, to be sent or compared.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// An operation and its history. `Debug` leaves out the row, which may hold a connection key.
#[derive(Clone)]
pub struct Operation {
    /// Its number.
    pub id: OperationId,
    /// External id of the device that is to do it.
    pub device: String,
    /// What is asked, as `c8y_RemoteAccessConnect`.
    pub fragment: String,
    /// The row that is delivered.
    pub row: Row,
    /// Every status it has had, the present one last.
    pub history: Vec<Status>,
    /// The row that brought each status behind the first.
    pub reports: Vec<Row>,
    /// Why it failed.
    pub reason: Option<String>,
    /// How often its row was published.
    pub deliveries: usize,
    /// Whether it was notified of.
    pub(super) is_notified: bool,
}

impl Operation {
    /// Takes note of what a row reports.
    pub(super) fn report(&mut self, status: Status, row: &Row) {
        self.history.push(status);
        self.reports.push(row.clone());
    }

    /// Returns the present status.
    pub fn status(&self) -> Status {
        self.history.last().copied().unwrap_or(Status::Pending)
    }

    /// Returns the connection key of a `530` row.
    pub fn key(&self) -> Option<Key> {
        const KEY_FIELD: usize = 4;
        (self.row.template() == "530")
            .then(|| self.row.get(KEY_FIELD).map(Key::new))
            .flatten()
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("id", &self.id.0)
            .field("device", &self.device)
            .field("fragment", &self.fragment)
            .field("history", &self.history)
            .field("reason", &self.reason)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}
