//! Which templates the platform is too old for, as far as an adit that runs has heard.
//!
//! A check cannot ask the platform itself without changing something there: whatever is published
//! makes a device count as available, `150` replaces or removes what is shown, and its answers come on
//! the connection that has published. A running adit sends both anyway, and keeps what was answered.

use std::time::Duration;

use tokio::time::timeout;

use super::Subject;
use super::report::Hop;
use crate::admin::client;
use crate::platform::newer::NewerTemplate;
use crate::state::Snapshot;
use crate::words::legible;

const NAME: &str = "templates";
/// How long the agent may take to answer: it is on the same machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Asks the agent of the same gateway; nothing where none runs, or none that has been connected.
pub(super) async fn hop(subject: &Subject<'_>) -> Option<Hop> {
    let asked = timeout(ANSWER_LIMIT, client::status(subject.admin)).await;
    let snapshot = asked.ok()?.ok()?;
    // Another one may have taken the socket.
    (snapshot.device.id == subject.device && snapshot.totals.logins > 0).then(|| judge(&snapshot))
}

fn judge(snapshot: &Snapshot) -> Hop {
    let unknown = &snapshot.connection.unknown_templates;
    if unknown.is_empty() {
        let words = "the platform has refused none to the adit that runs";
        return Hop::passed(NAME, words, Duration::ZERO);
    }
    let words = format!(
        "the platform has refused {} to the adit that runs",
        legible(&unknown.join(", "))
    );
    let hop = Hop::passed(NAME, &words, Duration::ZERO);
    let known = unknown.iter().filter_map(|id| NewerTemplate::find(id));
    known.fold(hop, |hop, NewerTemplate { id, since, without }| {
        hop.with_advice(&format!(
            "{id} came with {since}: until the platform is newer, {without}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_different_on_an_old_platform() {
        let mut snapshot = Snapshot::default();
        let text = |snapshot: &Snapshot| judge(snapshot).to_string();
        assert_eq!(
            text(&snapshot),
            "✓ templates: the platform has refused none to the adit that runs (0 ms)"
        );
        snapshot.connection.unknown_templates = ["150", "507"].map(str::to_owned).to_vec();
        assert_eq!(
            text(&snapshot),
            "✓ templates: the platform has refused 150, 507 to the adit that runs (0 ms)\n    \
             150 came with 10.20.325: until the platform is newer, it does not show which protocols \
             remote access takes\n    \
             507 came with 10.18.114: until the platform is newer, what was executing when adit was \
             killed stays so"
        );
    }
}
