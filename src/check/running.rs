//! What an adit that runs for the same gateway has found out already.
//!
//! Whether its login is taken, so that a check without a login can tell. And which templates the
//! platform is too old for, which a check cannot ask without changing something there: whatever is
//! published makes a device count as available, `150` replaces or removes what is shown, and its
//! answers come on the connection that has published. A running adit sends both anyway, and keeps what
//! was answered.

use std::time::Duration;

use tokio::time::timeout;

use super::report::Hop;
use super::way::NOT_TRIED;
use super::{LOGIN, SUBSCRIPTIONS, Subject};
use crate::admin::client;
use crate::platform::newer::NewerTemplate;
use crate::state::Snapshot;
use crate::words::legible;

const TEMPLATES: &str = "templates";
/// How long the agent may take to answer: it is on the same machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Asks the agent of the same gateway; nothing where none runs.
pub(super) async fn ask(subject: &Subject<'_>) -> Option<Snapshot> {
    let asked = timeout(ANSWER_LIMIT, client::status(subject.admin)).await;
    let snapshot = asked.ok()?.ok()?;
    // Another one may have taken the socket.
    (snapshot.device.id == subject.device).then_some(snapshot)
}

/// Tells what became of its logins, for a check that reaches the broker and makes none.
pub(super) fn login(Snapshot { connection, .. }: &Snapshot) -> [Hop; 2] {
    let ready = "the adit that runs is ready for operations";
    let (login, subscriptions) = match (&connection.last_error, connection.is_connected) {
        (_, true) => (
            Hop::passed(LOGIN, "the adit that runs is connected", Duration::ZERO),
            match connection.is_ready {
                true => Hop::passed(SUBSCRIPTIONS, ready, Duration::ZERO),
                false => Hop::skipped(
                    SUBSCRIPTIONS,
                    "not granted yet to the adit that runs: if it stays so, the device's user lacks \
                     the role of a device",
                ),
            },
        ),
        (Some(failure), false) => (
            Hop::failed(
                LOGIN,
                &format!("the adit that runs is not connected: {}", failure.reason),
                Duration::ZERO,
                "it tries again by itself; `adit check` without --agent and --no-login tries the \
                 login now, and says what to do",
            ),
            Hop::skipped(SUBSCRIPTIONS, NOT_TRIED),
        ),
        (None, false) => (
            Hop::skipped(LOGIN, "the adit that runs has no answer yet"),
            Hop::skipped(SUBSCRIPTIONS, NOT_TRIED),
        ),
    };
    [login, subscriptions]
}

/// Tells of the templates; nothing where it has never been connected.
pub(super) fn templates(snapshot: &Snapshot) -> Option<Hop> {
    (snapshot.totals.logins > 0).then(|| judge(snapshot))
}

fn judge(snapshot: &Snapshot) -> Hop {
    let unknown = &snapshot.connection.unknown_templates;
    if unknown.is_empty() {
        let words = "the platform has refused none to the adit that runs";
        return Hop::passed(TEMPLATES, words, Duration::ZERO);
    }
    let words = format!(
        "the platform has refused {} to the adit that runs",
        legible(&unknown.join(", "))
    );
    let hop = Hop::passed(TEMPLATES, &words, Duration::ZERO);
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
    use crate::state::snapshot::{Connection, Failure};

    #[test]
    fn tells_what_became_of_the_logins_of_the_agent() {
        let told = |connection| {
            let snapshot = Snapshot {
                connection,
                ..Snapshot::default()
            };
            login(&snapshot).map(|hop| hop.to_string()).join("\n")
        };
        let ready = Connection {
            is_connected: true,
            is_ready: true,
            ..Connection::default()
        };
        assert_eq!(
            told(ready.clone()),
            "✓ MQTT login: the adit that runs is connected (0 ms)\n\
             ✓ subscriptions: the adit that runs is ready for operations (0 ms)"
        );
        let new = Connection {
            is_ready: false,
            ..ready
        };
        assert!(told(new).contains("– subscriptions: not granted yet"));
        let refused = Connection {
            last_error: Some(Failure {
                reason: "the broker refused the connection".to_owned(),
                ..Failure::default()
            }),
            ..Connection::default()
        };
        let refused = told(refused);
        let words = "✗ MQTT login: the adit that runs is not connected: the broker refused";
        assert!(refused.starts_with(words), "{refused}");
        assert!(told(Connection::default()).starts_with("– MQTT login: "));
    }

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
