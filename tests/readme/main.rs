//! What users read says what the code does: the tables of the configuration, its examples, the example
//! configuration that packages install, the lines of the log, what `adit check` prints, and links.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here fails a test"
)]

#[path = "../code/mod.rs"]
mod code;
mod exits;
mod house;
mod log_lines;
mod pages;
mod shown;
mod source;

use std::io;
use std::path::Path;
use std::time::SystemTime;

use adit::config::{Config, Effect, Fallback, Key, Sources, keys};
use pages::{anchor, page};

const CONFIGURE: &str = "docs/configure.md";
const EXAMPLE: &str = include_str!("../../deploy/adit.toml");
/// Set, the tests write what follows from the keys: the example, and tables of the documents.
const WRITE: &str = "ADIT_WRITE_KEYS";

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

fn is_writing() -> bool {
    std::env::var_os(WRITE).is_some()
}

/// The row of a key.
fn row(key: &Key) -> String {
    let default = match key.default {
        Fallback::Required => "**required**".to_owned(),
        Fallback::Value("") => "empty".to_owned(),
        Fallback::Value(text) => format!("`{text}`"),
        Fallback::Derived(words) => words.to_owned(),
    };
    let (name, variable) = (key.full_name(), key.variable());
    format!("| `{name}` | {} | {default} | `{variable}` |\n", key.about)
}

#[test]
fn explains_every_key_as_the_code_does_and_no_other() {
    let mut tables = String::new();
    let mut section = "";
    for key in keys() {
        if key.section != section {
            section = key.section;
            tables += &format!(
                "\n### {section}\n\n| key | meaning | default | variable |\n|---|---|---|---|\n"
            );
        }
        tables += &row(key);
    }
    tables += "\n";
    assert!(
        page(CONFIGURE).holds(&tables, is_writing()),
        "write {CONFIGURE} anew: {WRITE}=1 cargo test --test readme"
    );
}

#[test]
fn says_of_every_key_whether_it_needs_a_restart() {
    let mut table = String::from("| holds | keys |\n|---|---|\n");
    for (words, effect) in [
        ("now", Effect::Immediate),
        (
            "from the next login and the next tunnel on",
            Effect::NextLogin,
        ),
        ("after a restart", Effect::Restart),
    ] {
        let keys = keys().iter().filter(|key| key.effect() == effect);
        let names: Vec<_> = keys.map(|key| format!("`{}`", key.full_name())).collect();
        table += &format!("| {words} | {} |\n", names.join(", "));
    }
    assert!(
        page("docs/operate.md").holds(&table, is_writing()),
        "write docs/operate.md anew: {WRITE}=1 cargo test --test readme"
    );
}

#[test]
fn shows_configurations_that_can_be_used() {
    for path in ["README.md", CONFIGURE, "docs/security.md"] {
        for example in page(path).examples("toml") {
            use_configuration(example);
        }
    }
}

fn use_configuration(example: &str) {
    let mut parameters = rcgen::CertificateParams::default();
    let name = rcgen::DnType::CommonName;
    parameters.distinguished_name.push(name, "gateway-7");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    let files = [
        ("adit.toml", example.to_owned()),
        ("/etc/adit/password", "secret".to_owned()),
        ("/etc/adit/bootstrap", "secret".to_owned()),
        ("/etc/adit/device.pem", certificate.clone()),
        ("/etc/adit/device.key", key.serialize_pem()),
        ("/etc/adit/ca.pem", certificate),
    ];
    let config = Config::load(&Sources {
        file: Some("adit.toml".into()),
        settings: Vec::new(),
        environment: Vec::new(),
        host_name: Some("gateway-7".to_owned()),
        now: SystemTime::now(),
        read: &|path| {
            let named = |(name, _): &&(&str, String)| path.to_str() == Some(name);
            let (_, text) = files.iter().find(named).ok_or(io::ErrorKind::NotFound)?;
            let bytes = text.clone().into_bytes();
            Ok(adit::files::FileContent {
                bytes,
                world_readable: false,
            })
        },
    });
    let config = config.unwrap_or_else(|faults| panic!("{faults}\n{example}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_example_configuration_has_every_key_and_changes_nothing() {
    if is_writing() {
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
fn keeps_the_readme_short() {
    const WIDTH: usize = 120;
    const LINES: usize = 200;
    let readme = page("README.md").text;
    let prose = readme.lines().filter(|line| !line.starts_with('|'));
    let long: Vec<_> = prose.filter(|line| line.chars().count() > WIDTH).collect();
    assert!(long.is_empty(), "{long:#?}");
    let lines = readme.lines().count();
    assert!(
        lines < LINES,
        "the README has {lines} lines: move some into docs/"
    );
}

#[test]
fn links_to_every_document_from_the_readme() {
    let readme = page("README.md");
    for document in pages::all() {
        let path = document.path.display().to_string();
        if path.starts_with("docs/") {
            assert!(readme.links().contains(&path.as_str()), "no link to {path}");
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dead = Vec::new();
    for document in pages::all() {
        let folder = document.path.parent().unwrap();
        for link in document.links() {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let path = match file {
                "" => document.path.clone(),
                file => folder.join(file),
            };
            let is_there = root.join(&path).exists()
                && (place.is_empty()
                    || page(&path.display().to_string())
                        .anchors()
                        .contains(&anchor(place)));
            if !is_there {
                dead.push(format!("{}: {link}", document.path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn names_files_that_are_there() {
    const PLACES: [&str; 7] = [
        "benches/",
        "deploy/",
        "docs/",
        "examples/",
        "fuzz/",
        "src/",
        "tests/",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for document in pages::all() {
        let quoted = document
            .prose()
            .flat_map(|line| line.split('`').skip(1).step_by(2));
        for name in quoted.filter(|name| PLACES.iter().any(|place| name.starts_with(place))) {
            let is_path = !name.contains([' ', '*', '{', '…']);
            if is_path && !root.join(name).exists() {
                missing.push(format!("{}: {name}", document.path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
