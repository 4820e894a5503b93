//! What happened in a schedule, a line each. It is written only when somebody wants to read it: the
//! same seed brings the same lines again.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Takes lines, or drops them. Clones write into the same trace.
#[derive(Clone)]
pub(crate) struct Trace {
    lines: Option<Arc<Mutex<String>>>,
    began: Instant,
}

impl Trace {
    /// Begins at the present moment of virtual time.
    pub(crate) fn new(is_kept: bool) -> Self {
        Self {
            lines: is_kept.then(Arc::default),
            began: Instant::now(),
        }
    }

    /// Writes a line; see [`note!`](crate::note).
    pub(crate) fn write(&self, who: &str, what: fmt::Arguments<'_>) {
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            let time = self.began.elapsed().as_secs_f64();
            // A string takes everything.
            let _ = writeln!(lines, "{time:9.3} {who:<9} {what}");
        }
    }

    /// Whether lines are kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.lines.is_some()
    }

    /// Returns the lines so far.
    pub(crate) fn text(&self) -> String {
        let text = |lines: &Arc<Mutex<String>>| {
            let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.clone()
        };
        self.lines.as_ref().map(text).unwrap_or_default()
    }
}

/// Writes a line into a trace: `note!(trace, "broker", "CONNACK {code}")`. The line must not tell
/// what the seed does not decide: a masked byte, a nonce, the order of a hash table.
#[macro_export]
macro_rules! note {
    ($trace:expr, $who:expr, $($what:tt)+) => {
        $trace.write($who, format_args!($($what)+))
    };
}
