//! Holds the plan of the house against the sources: who may import whom, and who stays pure.

#![expect(clippy::expect_used, reason = "what fails here fails a test")]

mod code;

use std::collections::BTreeSet;
use std::path::Path;

use code::{File, files};

/// The rooms from the ground up. None imports one of a floor above it, and none one beside it.
const FLOORS: [&[&str]; 13] = [
    &["files", "secret", "threads", "words"],
    &["confinement", "notify", "password", "state"],
    &["inquiry"],
    &["net"],
    &["mqtt"],
    &["auth"],
    &["platform"],
    &["tunnel"],
    &["admin", "succession"],
    &["config"],
    &["cli"],
    &["agent", "check", "connect", "enrol", "limits", "logging"],
    &["diagnose", "reload", "status", "upgrade"],
];

/// A floor may be forbidden although it is below: a tunnel knows no MQTT and no row but its own.
const FORBIDDEN: [(&str, &str); 4] = [
    ("tunnel", "mqtt"),
    ("tunnel", "platform"),
    ("admin", "tunnel"),
    ("platform", "auth"),
];

/// On the roof: they see everything, and nobody sees them.
const ROOF: [&str; 4] = ["assembly", "fuzzing", "lib", "main"];

/// What decides, and knows neither a clock nor a socket nor tokio.
const PURE: [&str; 12] = [
    "src/auth/est",
    "src/platform",
    "src/state",
    "src/succession/course.rs",
    "src/mqtt/conversation",
    "src/mqtt/framing.rs",
    "src/mqtt/outbox.rs",
    "src/mqtt/pace.rs",
    "src/mqtt/reconnect.rs",
    "src/tunnel/policy",
    "smartrest/src",
    "websocket-frames/src",
];

/// The lints behind the names in `clippy.toml`, which a pure part has to switch on.
const GUARD: &str = "deny(clippy::disallowed_methods, clippy::disallowed_types)";

/// A clock, a socket and tasks come from there.
const IMPURE: &str = "tokio::";

#[test]
fn imports_only_from_floors_below() {
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let mut faults = BTreeSet::new();
    for File { path, code } in files("src") {
        let room = room(&path);
        if ROOF.contains(&room.as_str()) {
            continue;
        }
        let own = floor(&room).unwrap_or_else(|| panic!("{room} has no place in the house"));
        for other in imports(&code) {
            let is_above = floor(&other).is_none_or(|floor| floor >= own);
            let is_forbidden = FORBIDDEN.contains(&(room.as_str(), other.as_str()));
            if other != room && (is_above || is_forbidden) {
                faults.insert(format!("{} imports {other}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn keeps_what_decides_free_of_clocks_and_sockets() {
    let mut faults = BTreeSet::new();
    for place in PURE {
        let sources = files(place);
        let guarded = sources.iter().any(|source| source.code.contains(GUARD));
        if !guarded {
            faults.insert(format!("{place} does not switch its lints on"));
        }
        for File { path, code } in sources {
            if code.contains(IMPURE) {
                faults.insert(format!("{} knows tokio", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The folder or file right below `src`.
fn room(path: &Path) -> String {
    let within = path.strip_prefix("src").expect("below src");
    let first = within.components().next().expect("a name");
    let name = Path::new(first.as_os_str()).with_extension("");
    name.display().to_string()
}

/// The rooms that stand behind `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    let behind = code.split("crate::").skip(1);
    let first_words = behind.filter_map(|rest| rest.split(|c| !is_letter(c)).next());
    first_words.map(str::to_owned).collect()
}
