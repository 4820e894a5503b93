//! What users read says what the code does: the README's table of the configuration and its first
//! example, and the example configuration that packages install.

use std::io;
use std::time::SystemTime;

use adit::config::{Config, Fallback, Key, Sources, keys};

const README: &str = include_str!("../README.md");
const HEAD: &str = "| key | meaning | default | variable |";

const EXAMPLE: &str = include_str!("../deploy/adit.toml");
/// Set, the test of the example writes it.
const WRITE: &str = "ADIT_WRITE_EXAMPLE";

/// The configuration that packages install: every key with what it is for and what holds without it.
fn example() -> String {
    let mut text = String::from(
        "\
# Configuration of adit: every key, with what holds without it. Take away the # of those that are to
# say something else. A gateway needs cloud.url and a way to log in: user and password, a certificate, or
# the user that registers new devices. `adit check` tries what stands here.
# Each key also has a variable, as ADIT_CLOUD_URL, which wins over this file.
",
    );
    let mut section = "";
    for key in keys() {
        if key.section != section {
            section = key.section;
            text += &format!("\n[{section}]\n");
        }
        let default = match key.default {
            Fallback::Required => "Needed".to_owned(),
            Fallback::Value(_) => String::new(),
            Fallback::Derived(words) => format!("Default: {words}"),
        };
        text += &format!("# {}", key.about);
        text += &if default.is_empty() {
            ".".to_owned()
        } else {
            format!(". {default}.")
        };
        text += &format!("\n{}\n", key.commented_out());
    }
    text
}

/// The row that the README has to have for a key.
fn row(key: &Key) -> String {
    let default = match key.default {
        Fallback::Required => "**required**".to_owned(),
        Fallback::Value("") => "empty".to_owned(),
        Fallback::Value(text) => format!("`{text}`"),
        Fallback::Derived(words) => words.to_owned(),
    };
    let (name, variable) = (key.full_name(), key.variable());
    format!("| `{name}` | {} | {default} | `{variable}` |", key.about)
}

#[test]
fn explains_every_key_as_the_code_does_and_no_other() {
    let expected: Vec<_> = keys().iter().map(row).collect();
    let table = README.lines().skip_while(|line| *line != HEAD).skip(2);
    let found: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
    assert!(
        found == expected,
        "below {HEAD} should stand:\n{}",
        expected.join("\n")
    );
}

#[test]
fn shows_a_first_configuration_that_can_be_used() {
    let example = README
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let example = example.expect("no example in toml").to_owned();
    let password = (String::from("/etc/adit/password"), String::from("secret"));
    let files = [(String::from("adit.toml"), example), password];
    let config = Config::load(&Sources {
        file: Some("adit.toml".into()),
        settings: Vec::new(),
        environment: Vec::new(),
        host_name: Some("gateway-7".to_owned()),
        now: SystemTime::now(),
        read: &|path| {
            let named = |(name, _): &&(String, String)| path.to_str() == Some(name);
            let (_, text) = files.iter().find(named).ok_or(io::ErrorKind::NotFound)?;
            let bytes = text.clone().into_bytes();
            Ok(adit::files::FileContent {
                bytes,
                world_readable: false,
            })
        },
    });
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_example_configuration_has_every_key_and_changes_nothing() {
    if std::env::var_os(WRITE).is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/adit.toml");
        std::fs::write(path, example()).expect("cannot write the example");
        return;
    }
    assert!(
        EXAMPLE == example(),
        "write deploy/adit.toml anew: {WRITE}=1 cargo test --test readme"
    );
    let says = |line: &&str| !line.is_empty() && !line.starts_with(['#', '[']);
    assert_eq!(EXAMPLE.lines().find(says), None);
}

#[test]
fn the_example_configuration_is_toml_with_or_without_the_marks() {
    let uncommented: Vec<_> = EXAMPLE
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|line| !line.starts_with(' '))
                .unwrap_or(line)
        })
        .collect();
    for text in [EXAMPLE.to_owned(), uncommented.join("\n")] {
        let table: Result<toml::Table, _> = text.parse();
        assert!(table.is_ok(), "{table:?}");
    }
}

#[test]
fn keeps_its_lines_short_outside_of_tables() {
    const WIDTH: usize = 120;
    let prose = README.lines().filter(|line| !line.starts_with('|'));
    let long: Vec<_> = prose.filter(|line| line.chars().count() > WIDTH).collect();
    assert!(long.is_empty(), "{long:#?}");
}
