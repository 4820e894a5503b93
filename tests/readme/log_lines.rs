//! Every line that adit logs at warn and error stands in `docs/operate.md` with what to do, and no
//! other does.

use std::collections::BTreeSet;

use crate::pages::{cells, page};
use crate::source::{Source, Token, arguments, sources};

const OPERATE: &str = "docs/operate.md";
const HEAD: [&str; 2] = ["level", "message"];
const LEVELS: [&str; 2] = ["error", "warn"];
/// What stands for something that varies.
const VARIES: &str = "…";

/// A line of the log: its level and its message.
type Line = (String, String);

/// Lines whose whole message varies, and what the page says of them.
const WITHOUT_WORDS: [(&str, &str); 4] = [
    (
        "src/assembly/reload.rs",
        "a **warning about the configuration**",
    ),
    (
        "src/check/mod.rs",
        "the MQTT login throws an agent that runs as",
    ),
    ("src/main.rs", "a **fault of the configuration**"),
    ("src/main.rs", "a **warning about the configuration**"),
];

/// The rows of the tables of [`OPERATE`] that begin with `head`, without their back-quotes.
fn rows(head: &[&str]) -> Vec<Vec<String>> {
    rows_of(OPERATE, head)
}

fn rows_of(path: &str, head: &[&str]) -> Vec<Vec<String>> {
    let page = page(path);
    let mut is_ours = false;
    let mut found = Vec::new();
    for line in page.text.lines() {
        match cells(line) {
            None => is_ours = false,
            Some(cells) if cells.starts_with(head) => is_ours = true,
            Some(cells) if is_ours && !cells.concat().trim_matches('-').is_empty() => {
                found.push(
                    cells
                        .iter()
                        .map(|cell| cell.trim_matches('`').to_owned())
                        .collect(),
                );
            }
            Some(_) => {}
        }
    }
    found
}

/// Returns the message of a call: the first argument that is a text.
fn message(source: &Source, call: &[Token]) -> String {
    let arguments = arguments(call);
    let text = arguments
        .iter()
        .find_map(|argument| match argument.first() {
            Some(Token::Text(text)) if argument.len() == 1 => Some(text.clone()),
            _ => None,
        });
    let path = source.path.display();
    let text = text.unwrap_or_else(|| panic!("{path}: a line without a message: {call:?}"));
    let mut parts = text.split('{');
    let mut message = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, tail) = part.split_once('}').unwrap_or((part, ""));
        message += source.constants().get(name).copied().unwrap_or(VARIES);
        message += tail;
    }
    message
}

/// Returns what is logged at a level, with the files of lines whose whole message varies.
fn logged(level: &str, wordless: &mut Vec<String>) -> BTreeSet<Line> {
    let mut lines = BTreeSet::new();
    for source in sources("src") {
        for call in source.calls(level) {
            match message(&source, call) {
                message if message == VARIES => wordless.push(source.path.display().to_string()),
                message => {
                    lines.insert((level.to_owned(), message));
                }
            }
        }
    }
    lines
}

#[test]
fn explains_every_line_at_warn_and_error_and_no_other() {
    let mut wordless = Vec::new();
    let logged: BTreeSet<_> = LEVELS
        .iter()
        .flat_map(|level| logged(level, &mut wordless))
        .collect();
    assert!(
        logged.len() > 50,
        "the sources are read wrongly: {logged:#?}"
    );
    let explained: Vec<Line> = rows(&HEAD)
        .into_iter()
        .filter(|row| row[0] != "info")
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let twice: Vec<_> = (1..)
        .zip(&explained)
        .filter(|(next, line)| explained[*next..].contains(line))
        .collect();
    assert!(twice.is_empty(), "twice in {OPERATE}: {twice:#?}");
    let explained: BTreeSet<_> = explained.into_iter().collect();
    let unexplained: Vec<_> = logged.difference(&explained).collect();
    let unknown: Vec<_> = explained.difference(&logged).collect();
    assert!(
        unexplained.is_empty() && unknown.is_empty(),
        "in the tables of {OPERATE} (level, message, what to do) are missing: {unexplained:#?}\n\
         nothing logs: {unknown:#?}"
    );

    wordless.sort();
    let known: Vec<_> = WITHOUT_WORDS.iter().map(|(file, _)| *file).collect();
    assert_eq!(wordless, known, "give the line a message of its own");
    let text = page(OPERATE).text;
    for (_, words) in WITHOUT_WORDS {
        assert!(text.contains(words), "{OPERATE} does not say: {words}");
    }
}

#[test]
fn tells_what_to_do_about_each() {
    for row in rows(&HEAD) {
        let action = row.get(2).map_or("", String::as_str);
        assert!(!action.is_empty() && row.len() == 3, "{row:?}");
    }
}

#[test]
fn explains_no_line_at_info_that_nothing_logs() {
    let logged = logged("info", &mut Vec::new());
    let places = sources("src");
    // The end of a tunnel is worded in one place and logged in another.
    let texts: BTreeSet<_> = places.iter().flat_map(Source::texts).collect();
    let explained = rows(&HEAD).into_iter().filter(|row| row[0] == "info");
    for row in explained {
        let line = (row[0].clone(), row[1].clone());
        assert!(
            logged.contains(&line) || texts.contains(row[1].as_str()),
            "{line:?}"
        );
    }
}

#[test]
fn logs_by_the_macros_that_are_read_here() {
    for source in sources("src") {
        for name in ["event", "enabled_event"] {
            assert_eq!(source.calls(name).count(), 0, "{}", source.path.display());
        }
    }
}

#[test]
fn explains_every_warning_about_the_configuration() {
    let places = sources("src/config");
    let is_push = |tokens: &&[Token]| {
        let word = |token: &Token, name: &str| *token == Token::Word(name.to_owned());
        word(&tokens[0], "warnings") && word(&tokens[2], "push")
    };
    let pushes: usize = places
        .iter()
        .map(|source| source.tokens.windows(3).filter(is_push).count())
        .sum();
    let rows = rows(&["warning"]);
    assert_eq!(
        rows.len(),
        pushes,
        "each place that warns has a row below \"Warnings about the configuration\" in {OPERATE}"
    );
    let mut texts = BTreeSet::new();
    for source in &places {
        texts.extend(source.texts().map(crate::shown::template));
    }
    for row in rows {
        assert!(texts.contains(&row[0]), "nothing warns: {}", row[0]);
    }
}

#[test]
fn explains_ends_of_tunnels_that_there_are() {
    let places = sources("src/tunnel");
    let texts: BTreeSet<_> = places
        .iter()
        .flat_map(Source::texts)
        .map(crate::shown::template)
        .collect();
    let rows = rows_of("docs/troubleshoot.md", &["reason"]);
    assert!(rows.len() > 5, "{rows:?}");
    for row in rows {
        for reason in row[0].split("`, `") {
            assert!(texts.contains(reason), "no tunnel ends so: {reason}");
        }
    }
}
