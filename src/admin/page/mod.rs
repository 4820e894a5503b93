//! The status page: one page without a build step and without anything from outside.
//!
//! The HTML is made here, and a small script only puts new parts in the place of old ones, so the page
//! is whole without the script too. Every name comes from outside and is escaped on its way into it.

mod sections;

use std::collections::{HashMap, HashSet, VecDeque};

use crate::state::Snapshot;
use crate::words::legible;
use sections::Section;

pub(crate) const STYLE: &str = include_str!("style.css");
pub(crate) const SCRIPT: &str = include_str!("script.js");
pub(crate) const ICON: &str = include_str!("icon.svg");

/// Rates of each tunnel that are remembered while somebody watches, one a second.
const RATES: usize = 60;

/// How fast each tunnel has carried of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Bytes a second, up and down, the oldest first.
    rates: HashMap<u64, VecDeque<(u64, u64)>>,
}

impl History {
    /// Takes the rates of now, and forgets tunnels that have ended.
    pub(crate) fn add(&mut self, snapshot: &Snapshot) {
        let alive: HashSet<_> = snapshot.tunnels.iter().map(|tunnel| tunnel.id).collect();
        self.rates.retain(|id, _| alive.contains(id));
        for tunnel in &snapshot.tunnels {
            let rates = self.rates.entry(tunnel.id).or_default();
            if rates.len() == RATES {
                rates.pop_front();
            }
            rates.push_back((tunnel.up_bytes_per_s, tunnel.down_bytes_per_s));
        }
    }

    fn of(&self, id: u64) -> impl ExactSizeIterator<Item = (u64, u64)> + Clone {
        let rates = self.rates.get(&id).map(VecDeque::iter);
        rates.unwrap_or_default().copied()
    }
}

/// Says why a gateway cannot be reached, if it cannot.
pub(crate) fn complaint(snapshot: &Snapshot) -> Option<String> {
    let connection = &snapshot.connection;
    if connection.is_connected {
        return None;
    }
    let why = match (&connection.last_error, snapshot.agent.phase) {
        (_, crate::state::snapshot::Phase::Registering) => {
            ": the platform has not accepted this device yet".to_owned()
        }
        (Some(error), _) => format!(": {}", legible(&error.reason)),
        (None, _) => String::new(),
    };
    Some(format!(
        "not connected to {} for {:.0} s{why}",
        legible(&connection.broker),
        connection.since_s
    ))
}

/// The page as it is without a script.
pub(crate) fn whole(snapshot: &Snapshot, history: &History, has_login: bool) -> String {
    let title = format!("{} · adit", legible(&snapshot.device.id));
    let parts: String = Section::ALL
        .iter()
        .map(|section| {
            format!(
                "<section id=\"{}\">{}</section>\n",
                section.id(),
                section.html(snapshot, history)
            )
        })
        .collect();
    let log_out = match has_login {
        true => {
            "<form method=\"post\" action=\"/logout\"><button type=\"submit\">Log out</button></form>"
        }
        false => "",
    };
    let head = head(&title, "<script src=\"/script.js\" defer></script>");
    format!(
        "{head}<body>\n<p id=\"lost\" role=\"status\" hidden>adit does not answer; what you see is \
         old. It is asked again.</p>\n<main>\n{parts}</main>\n<footer><p>The same as \
         <a href=\"/status.json\">JSON</a> and as <a href=\"/metrics\">metrics</a>.</p>{log_out}\
         </footer>\n</body>\n</html>\n"
    )
}

/// The form that asks for the token.
pub(crate) fn login(was_wrong: bool) -> String {
    let wrong = match was_wrong {
        true => "<p class=\"bad\" role=\"alert\">That is not the token.</p>\n",
        false => "",
    };
    let head = head("Log in · adit", "");
    format!(
        "{head}<body>\n<main class=\"login\">\n<h1>adit</h1>\n{wrong}<form method=\"post\" \
         action=\"/login\">\n<label for=\"token\">Token, as in the file that \
         <code>admin.token_file</code> names on this gateway</label>\n<input id=\"token\" \
         name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\n\
         <button type=\"submit\">Log in</button>\n</form>\n</main>\n</body>\n</html>\n"
    )
}

/// One event of the feed: an object with the HTML of each section by its id.
pub(crate) fn event(snapshot: &Snapshot, history: &History) -> String {
    let parts: serde_json::Map<_, _> = Section::ALL
        .iter()
        .map(|section| {
            let html = section.html(snapshot, history);
            (section.id().to_owned(), html.into())
        })
        .collect();
    // JSON has no line break, which would end the event.
    format!("data: {}\n\n", serde_json::Value::Object(parts))
}

fn head(title: &str, script: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta \
         name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"/icon.svg\">\n<link \
         rel=\"stylesheet\" href=\"/style.css\">\n{script}\n</head>\n",
        sections::escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::snapshot::{Failure, Phase};

    fn snapshot() -> Snapshot {
        let document = include_str!("../../../docs/status.md");
        let example = document.split("```json\n").nth(1).unwrap();
        serde_json::from_str(example.split("```").next().unwrap()).unwrap()
    }

    #[test]
    fn shows_what_there_is_to_know() {
        let html = whole(&snapshot(), &History::default(), false);
        for text in [
            "<title>gateway-7 · adit</title>",
            "connected",
            "mqtts://tenant.example.com:8883",
            "plc-7.lan:22",
            "cannot reach 10.0.0.9:5900: connection refused",
            "allow private",
            "2027-02-03",
            "0.1.0",
        ] {
            assert!(html.contains(text), "{text} is not in\n{html}");
        }
        assert!(!html.contains("Log out"));
        assert!(whole(&snapshot(), &History::default(), true).contains("Log out"));
    }

    #[test]
    fn lets_no_name_from_outside_become_a_part_of_the_page() {
        const EVIL: &str = "<script>alert(1)</script>'\"&\u{202e}\x1b\n";
        let mut snapshot = snapshot();
        let clean = whole(&snapshot, &History::default(), true);
        let evil = || EVIL.to_owned();
        snapshot.device.id = evil();
        snapshot.device.children = vec![evil()];
        snapshot.agent.version = evil();
        snapshot.connection.broker = evil();
        snapshot.connection.cloud = evil();
        snapshot.connection.last_error = Some(Failure {
            reason: evil(),
            ..Failure::default()
        });
        snapshot.authentication.kind = evil();
        snapshot.authentication.certificate_expires_at = Some(evil());
        snapshot.remote_access.policy = evil();
        for tunnel in &mut snapshot.tunnels {
            (tunnel.device, tunnel.target) = (evil(), evil());
        }
        for operation in &mut snapshot.operations {
            (operation.device, operation.target) = (evil(), evil());
            (operation.reason, operation.received_at) = (Some(evil()), evil());
        }
        let html = whole(&snapshot, &History::default(), true);
        let count = |html: &str, what: &str| html.matches(what).count();
        assert_eq!(count(&html, "<script"), count(&clean, "<script"));
        assert!(!html.contains("alert(1)</"));
        assert!(!html.contains(['\u{202e}', '\x1b']));
        let event = event(&snapshot, &History::default());
        assert!(!event.contains("<script"));
        assert_eq!(event.matches('\n').count(), 2, "it would end the event");
    }

    #[test]
    fn says_why_there_is_no_connection() {
        let mut snapshot = snapshot();
        assert_eq!(complaint(&snapshot), None);
        snapshot.connection.is_connected = false;
        snapshot.connection.since_s = 12.4;
        assert_eq!(
            complaint(&snapshot).unwrap(),
            "not connected to mqtts://tenant.example.com:8883 for 12 s: the connection was closed \
             by the broker"
        );
        snapshot.agent.phase = Phase::Registering;
        assert!(
            complaint(&snapshot)
                .unwrap()
                .contains("has not accepted this device yet")
        );
    }

    #[test]
    fn remembers_the_rates_of_tunnels_that_live() {
        let mut snapshot = snapshot();
        let mut history = History::default();
        for rate in 0..100 {
            snapshot.tunnels[0].up_bytes_per_s = rate;
            history.add(&snapshot);
        }
        let rates: Vec<_> = history.of(2).map(|(up, _)| up).collect();
        assert_eq!((rates.len(), rates[0], rates[59]), (60, 40, 99));
        snapshot.tunnels.clear();
        history.add(&snapshot);
        assert!(history.rates.is_empty());
    }

    #[test]
    fn loads_nothing_from_elsewhere() {
        let html = whole(&snapshot(), &History::default(), true) + &login(true);
        for text in [html.as_str(), STYLE, SCRIPT] {
            for elsewhere in [
                "src=\"http",
                "href=\"http",
                "url(http",
                "@import",
                "style=\"",
                "onclick",
            ] {
                assert!(!text.contains(elsewhere), "{elsewhere}");
            }
        }
    }
}
