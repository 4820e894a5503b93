//! The README says what the code does: the table of the configuration, and the first example.

use std::io;
use std::time::SystemTime;

use adit::config::{Config, Fallback, Key, Sources, keys};

const README: &str = include_str!("../README.md");
const HEAD: &str = "| key | meaning | default | variable |";

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
fn keeps_its_lines_short_outside_of_tables() {
    const WIDTH: usize = 120;
    let prose = README.lines().filter(|line| !line.starts_with('|'));
    let long: Vec<_> = prose.filter(|line| line.chars().count() > WIDTH).collect();
    assert!(long.is_empty(), "{long:#?}");
}
