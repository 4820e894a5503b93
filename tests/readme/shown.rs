//! What the documents show of `adit check` and of the log is what adit says.

use std::collections::BTreeSet;

use crate::pages::{self, Page};
use crate::source::sources;

/// What stands for a part of a text that varies.
const VARIES: &str = "…";
/// A text with less of its own would fit everything.
const LEAST: usize = 6;
/// What a line of `adit check` begins with.
const OUTCOMES: [char; 3] = ['✓', '✗', '–'];

/// A format with `…` for what it takes in.
pub(crate) fn template(format: &str) -> String {
    let mut template = String::new();
    let mut rest = format;
    while let Some((before, tail)) = rest.split_once('{') {
        template += before;
        template += VARIES;
        rest = tail.split_once('}').map_or("", |(_, tail)| tail);
    }
    template + rest
}

/// Whether a text may have come from a template.
fn fits(text: &str, template: &str) -> bool {
    let parts: Vec<_> = template.split(VARIES).collect();
    let (Some((first, rest)), Some(last)) = (parts.split_first(), parts.last()) else {
        return false;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    if rest.is_empty() {
        return left.is_empty();
    }
    for part in rest {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

fn templates(places: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for place in places {
        for source in sources(place) {
            let texts = source.texts().map(template);
            found.extend(texts.filter(|text| text.replace(VARIES, "").len() >= LEAST));
        }
    }
    found
}

fn shown(page: &Page) -> Vec<&str> {
    page.examples("text").flat_map(str::lines).collect()
}

#[test]
fn shows_hops_and_advice_that_check_knows() {
    let known = templates(&["src/check", "src/config", "src/confinement"]);
    let hops = [
        "policy",
        "target",
        "token",
        "certificate",
        "configuration",
        "confinement",
    ];
    let mut strange = Vec::new();
    let mut seen = 0;
    for page in pages::all() {
        let mut is_check = false;
        for line in shown(&page) {
            if let Some(hop) = line.strip_prefix(OUTCOMES) {
                is_check = true;
                seen += 1;
                let name = hop.trim_start().split(':').next().unwrap_or_default();
                if !hops.contains(&name) && !known.iter().any(|known| fits(name, known)) {
                    strange.push(format!("{}: {line}", page.path.display()));
                }
            } else if let (true, Some(advice)) = (is_check, line.strip_prefix("    ")) {
                if !known.iter().any(|known| fits(advice, known)) {
                    strange.push(format!("{}: {line}", page.path.display()));
                }
            } else {
                is_check = false;
            }
        }
    }
    assert!(seen > 0, "no example of adit check is found");
    assert!(
        strange.is_empty(),
        "adit check says nothing like it: {strange:#?}"
    );
}

#[test]
fn shows_lines_of_the_log_that_are_logged() {
    let known = templates(&["src"]);
    let mut strange = Vec::new();
    for page in pages::all() {
        for line in shown(&page) {
            for level in [" INFO ", " WARN ", "ERROR "] {
                let Some((_, said)) = line.split_once(level) else {
                    continue;
                };
                // A span stands before the message, and fields behind it.
                let said = said.split_once("}: ").map_or(said, |(_, said)| said);
                let message = said.split(" error=").next().unwrap_or(said);
                let is_known = |known: &String| {
                    let words: Vec<_> = known.split(VARIES).collect();
                    message.starts_with(words[0]) && !words[0].is_empty()
                };
                let short = ["opened", "ended"];
                if !short.iter().any(|word| message.starts_with(word))
                    && !known.iter().any(is_known)
                {
                    strange.push(format!("{}: {line}", page.path.display()));
                }
            }
        }
    }
    assert!(
        strange.is_empty(),
        "adit logs nothing like it: {strange:#?}"
    );
}

#[test]
fn compares_with_templates() {
    assert_eq!(template("a {b} c {d:?}"), "a … c …");
    for (text, template, does) in [
        ("TCP to the broker", "TCP to …", true),
        ("TCP to the broker", "TLS with …", false),
        (
            "check the host in mqtt.url, please",
            "check the host in …, please",
            true,
        ),
        (
            "check the host in mqtt.url",
            "check the host in …, please",
            false,
        ),
        ("exactly", "exactly", true),
        ("exactly so", "exactly", false),
    ] {
        assert_eq!(fits(text, template), does, "{text} {template}");
    }
}
