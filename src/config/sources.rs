//! Where values come from: the file, the environment, the command line. What comes later wins.
//!
//! Here a name becomes a key, or a fault if there is none. What the values say is left to others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place};
use super::keys::{KEYS, Key, PREFIX};
use super::shape::Shape;
use crate::files::{self, FileContent};
use crate::succession::{BETWEEN_VARIABLE, SUCCESSOR_VARIABLE};
use crate::words::legible;

/// Read if no file is named, unless it does not exist.
pub const DEFAULT_FILE: &str = "/etc/adit/adit.toml";
/// The variable behind `--log-level`, which is no key of the configuration.
pub const LOG_LEVEL_VARIABLE: &str = "ADIT_LOG_LEVEL";
/// The variable behind `--log-format`, which is no key of the configuration.
pub const LOG_FORMAT_VARIABLE: &str = "ADIT_LOG_FORMAT";
/// The variable that leaves the sandbox out, which is no key of the configuration.
pub const NO_SANDBOX_VARIABLE: &str = "ADIT_NO_SANDBOX";

/// Variables of adit that are read elsewhere.
const OTHER_VARIABLES: [&str; 5] = [
    LOG_LEVEL_VARIABLE,
    LOG_FORMAT_VARIABLE,
    NO_SANDBOX_VARIABLE,
    SUCCESSOR_VARIABLE,
    BETWEEN_VARIABLE,
];

/// Longer values are cut where they are shown.
const SHOWN_LIMIT: usize = 100;

/// Everything a configuration is made of.
pub struct Sources<'a> {
    /// The file of `--config`; without it [`DEFAULT_FILE`], if that exists.
    pub file: Option<PathBuf>,
    /// The values of `--set`, as `section.key=value`.
    pub settings: Vec<String>,
    /// All variables; the others are left alone.
    pub environment: Vec<(OsString, OsString)>,
    /// Stands in for a device id.
    pub host_name: Option<String>,
    /// Tells whether a certificate has expired.
    pub now: SystemTime,
    /// Reads the file, and the files that are named in it.
    pub read: &'a dyn Fn(&Path) -> io::Result<FileContent>,
}

/// The values that were found, each under its full name, and what is wrong besides.
pub(super) struct Gathered {
    pub(super) values: BTreeMap<String, Given>,
    pub(super) faults: Vec<Fault>,
    /// The file could not be read to its end, so that a key may seem to be missing.
    pub(super) incomplete: bool,
    /// What can be used and should be looked at, a clause each.
    pub(super) warnings: Vec<String>,
    /// The file, if there is one.
    pub(super) file: Option<PathBuf>,
    /// The default file, if it was looked for and is not there.
    pub(super) absent: Option<PathBuf>,
    /// The content of the files that are named, by the names of their keys, as hashes.
    pub(super) contents: BTreeMap<String, u64>,
    /// The files that are named and were read, or may be there one day.
    pub(super) named_files: Vec<PathBuf>,
    /// The file, if every user of the machine may read it.
    pub(super) exposed: Option<PathBuf>,
}

/// A value, and where it stands. It has no `Debug`: it may be a secret.
pub(super) struct Given {
    pub(super) place: Place,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Of a variable or a flag: a value of any shape, written out.
    Written(String),
    Text(String),
    Number(String),
    Switch(bool),
    List(Vec<Given>),
    /// What no key takes, in words.
    Other(&'static str),
}

/// A text to read a value from.
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) text: String,
}

impl Sources<'static> {
    /// Takes the environment, the host name and the files of this machine.
    pub fn of_this_machine(file: Option<PathBuf>, settings: Vec<String>) -> Self {
        // The host name of the kernel is that of the container, if adit runs in one.
        let host_name = files::read(Path::new("/proc/sys/kernel/hostname"))
            .or_else(|_| files::read(Path::new("/etc/hostname")))
            .ok()
            .map(|content| String::from_utf8_lossy(&content.bytes).trim().to_owned())
            .filter(|name| !name.is_empty());
        Self {
            file,
            settings,
            environment: std::env::vars_os().collect(),
            host_name,
            now: SystemTime::now(),
            read: &files::read_at_start,
        }
    }
}

/// Collects the values of all sources.
pub(super) fn gather(sources: &Sources<'_>) -> Gathered {
    let mut gathered = Gathered {
        values: BTreeMap::new(),
        faults: Vec::new(),
        incomplete: false,
        warnings: Vec::new(),
        file: None,
        absent: None,
        contents: BTreeMap::new(),
        named_files: Vec::new(),
        exposed: None,
    };
    gathered.take_file(sources);
    gathered.take_environment(&sources.environment);
    gathered.take_settings(&sources.settings);
    gathered
}

impl Gathered {
    fn take_file(&mut self, sources: &Sources<'_>) {
        let path = sources.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let content = match (sources.read)(path) {
            Ok(content) => content,
            Err(error) if sources.file.is_none() && error.kind() == io::ErrorKind::NotFound => {
                self.absent = Some(path.to_owned());
                return;
            }
            Err(error) => return self.spoil(path, format!("cannot be read: {error}")),
        };
        self.file = Some(path.to_owned());
        let Ok(text) = String::from_utf8(content.bytes) else {
            return self.spoil(path, "is not UTF-8 text".to_owned());
        };
        let (document, errors) = DeTable::parse_recoverable(&text);
        let reader = FileReader { path, text: &text };
        if errors.is_empty() {
            self.take_sections(&reader, document.get_ref());
        } else {
            // One mistake may make more of its line, and values that were not meant.
            self.incomplete = true;
            self.faults.extend(reader.syntax_faults(&errors));
        }
        let secret = |key: &Key| match (self.values.get(&key.full_name()), key.shape) {
            (Some(_), Shape::Secret) => true,
            (Some(given), Shape::Url) => {
                matches!(&given.content, Content::Text(text) if text.contains('@'))
            }
            _ => false,
        };
        if content.world_readable && KEYS.iter().any(secret) {
            self.exposed = Some(path.to_owned());
        }
    }

    fn spoil(&mut self, path: &Path, complaint: String) {
        self.incomplete = true;
        let place = Place::File(path.to_owned());
        self.faults.push(Fault { place, complaint });
    }

    fn take_sections(&mut self, reader: &FileReader<'_>, document: &DeTable<'_>) {
        for (section, content) in document {
            let known = KEYS.iter().any(|key| key.section == section.get_ref());
            let place = reader.place(section, section.get_ref().to_string());
            match content.get_ref() {
                DeValue::Table(table) if known => self.take_keys(reader, section.get_ref(), table),
                DeValue::Table(_) => {
                    let sections = KEYS.iter().map(|key| key.section.to_owned());
                    let hint = nearest(section.get_ref(), sections)
                        .map_or_else(String::new, |name| format!("; did you mean [{name}]?"));
                    let complaint = format!("no such section{hint}");
                    self.faults.push(Fault { place, complaint });
                }
                _ if known => self
                    .faults
                    .push(Fault::new(&place, "is a section, not a key")),
                _ => self.refuse_name(place, section.get_ref()),
            }
        }
    }

    fn take_keys(&mut self, reader: &FileReader<'_>, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full_name = format!("{section}.{}", name.get_ref());
            let place = reader.place(name, full_name.clone());
            let Some(key) = find(&full_name) else {
                self.refuse_name(place, &full_name);
                continue;
            };
            let given = reader.given(place, value);
            // A text that is empty says nothing, as in `username = ""`.
            let is_text = matches!(
                key.shape,
                Shape::Text | Shape::Secret | Shape::Url | Shape::Choice
            );
            let is_empty = matches!(&given.content, Content::Text(text) if text.is_empty());
            if !(is_text && is_empty) {
                self.values.insert(full_name, given);
            }
        }
    }

    fn take_environment(&mut self, environment: &[(OsString, OsString)]) {
        let mut strangers = Vec::new();
        for (name, text) in environment {
            let name = name.to_string_lossy();
            let is_own = name.starts_with(PREFIX)
                && !OTHER_VARIABLES.contains(&&*name)
                && !is_of_kubernetes(&name, &text.to_string_lossy());
            if !is_own {
                continue;
            }
            let place = Place::Variable(name.to_string());
            let key = KEYS.iter().find(|key| key.variable() == name);
            // Compose files set variables to nothing that nobody gave a value.
            if text.is_empty() && key.is_none_or(|key| key.shape != Shape::List) {
                continue;
            }
            match (key, text.to_str()) {
                (Some(key), Some(text)) => self.write(key, place, text),
                (Some(_), None) => self.faults.push(Fault::new(&place, "is not UTF-8 text")),
                (None, _) => {
                    let others = OTHER_VARIABLES.map(str::to_owned);
                    let known = KEYS.iter().map(Key::variable).chain(others);
                    let slip = nearest(&name, known);
                    if slip.is_some() || is_in_a_section(&name) {
                        let complaint = unknown(slip.as_slice());
                        self.faults.push(Fault { place, complaint });
                    } else {
                        strangers.push(legible(&name));
                    }
                }
            }
        }
        if !strangers.is_empty() {
            strangers.sort();
            self.warnings.push(format!(
                "{}: no part of the configuration has such a name, so it is left alone",
                strangers.join(", ")
            ));
        }
    }

    fn take_settings(&mut self, settings: &[String]) {
        for setting in settings {
            let Some((name, text)) = setting.split_once('=') else {
                // It may be a secret that lost its name, so it is not repeated.
                let place = Place::Flag("…".to_owned());
                let complaint = "is not of the form section.key=value";
                self.faults.push(Fault::new(&place, complaint));
                continue;
            };
            let place = Place::Flag(name.to_owned());
            match find(name) {
                None => self.refuse_name(place, name),
                Some(key) if key.shape == Shape::Url && text.contains('@') => {
                    let words = format!(
                        "every user of the machine sees a command line; use the file or {}",
                        key.variable()
                    );
                    self.faults.push(Fault::new(&place, words));
                }
                Some(key) if key.shape == Shape::Secret => {
                    let complaint = format!(
                        "every user of the machine sees a command line; use {}_file or {}",
                        key.full_name(),
                        key.variable()
                    );
                    self.faults.push(Fault { place, complaint });
                }
                Some(key) if text.is_empty() && key.shape != Shape::List => {
                    self.values.remove(&key.full_name());
                }
                Some(key) => self.write(key, place, text),
            }
        }
    }

    fn write(&mut self, key: &Key, place: Place, text: &str) {
        let content = Content::Written(text.to_owned());
        self.values
            .insert(key.full_name(), Given { place, content });
    }

    fn refuse_name(&mut self, place: Place, full_name: &str) {
        let complaint = unknown(&meant(full_name));
        self.faults.push(Fault { place, complaint });
    }
}

struct FileReader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl FileReader<'_> {
    fn given(&self, place: Place, value: &Spanned<DeValue<'_>>) -> Given {
        let content = match value.get_ref() {
            DeValue::String(text) => Content::Text(text.to_string()),
            DeValue::Integer(number) => Content::Number(number.to_string()),
            DeValue::Boolean(switch) => Content::Switch(*switch),
            DeValue::Array(items) => {
                let given = |item| self.given(self.item_place(&place, item), item);
                Content::List(items.iter().map(given).collect())
            }
            DeValue::Float(_) => Content::Other("a fraction"),
            DeValue::Datetime(_) => Content::Other("a date or a time"),
            DeValue::Table(_) => Content::Other("a table"),
        };
        Given { place, content }
    }

    /// An item of a list has a line of its own, and the name of the list.
    fn item_place(&self, list: &Place, item: &Spanned<DeValue<'_>>) -> Place {
        let name = match list {
            Place::Line { name, .. } => name.clone(),
            other => other.to_string(),
        };
        self.place(item, name)
    }

    fn place<T>(&self, what: &Spanned<T>, name: String) -> Place {
        Place::Line {
            file: self.path.to_owned(),
            line: self.position(what.span().start).0,
            name,
        }
    }

    /// Line and column of a byte, both from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let last = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, last.chars().count() + 1)
    }

    /// The first mistake of each line. The `Display` of the errors would show the line.
    fn syntax_faults(&self, errors: &[toml::de::Error]) -> Vec<Fault> {
        let mut firsts = BTreeMap::new();
        for error in errors {
            let span = error.span().unwrap_or_default();
            let (line, column) = self.position(span.start);
            let found = (column, self.in_words(error.message(), span));
            match firsts.entry(line) {
                Entry::Vacant(entry) => drop(entry.insert(found)),
                Entry::Occupied(mut entry) if found < *entry.get() => drop(entry.insert(found)),
                Entry::Occupied(_) => {}
            }
        }
        let fault = |(line, (column, complaint)): (usize, (usize, String))| Fault {
            place: Place::Point {
                file: self.path.to_owned(),
                line,
                column,
            },
            complaint,
        };
        firsts.into_iter().map(fault).collect()
    }

    /// Names the key that is there twice. Other messages may stand at a value.
    fn in_words(&self, message: &str, span: Range<usize>) -> String {
        match (message, self.text.get(span)) {
            ("duplicate key", Some(key)) => format!("{message} {}", legible(key)),
            _ => message.to_owned(),
        }
    }
}

impl Given {
    /// Brings a value into the shape of its key: one text, or the texts of a list.
    pub(super) fn items(&self, key: &Key) -> Vec<Result<Item, Fault>> {
        match (&self.content, key.shape) {
            (Content::Written(text), Shape::List) => {
                let parts = text.split(',').map(str::trim);
                let parts = parts.filter(|part| !part.is_empty());
                parts.map(|part| Ok(self.item(part))).collect()
            }
            (Content::List(list), Shape::List) => {
                list.iter().map(|given| given.scalar(Shape::Text)).collect()
            }
            (_, shape) => vec![self.scalar(shape)],
        }
    }

    fn scalar(&self, shape: Shape) -> Result<Item, Fault> {
        match (&self.content, shape) {
            (Content::Written(text), _)
            | (
                Content::Text(text),
                Shape::Text
                | Shape::Secret
                | Shape::Url
                | Shape::Place
                | Shape::Duration
                | Shape::Choice,
            )
            | (Content::Number(text), Shape::Number) => Ok(self.item(text)),
            (Content::Switch(switch), Shape::Switch | Shape::Choice) => {
                Ok(self.item(&switch.to_string()))
            }
            (content, shape) => {
                let complaint = format!("{} is not {}", content.shown(shape), shape.expected());
                Err(Fault::new(&self.place, complaint))
            }
        }
    }

    fn item(&self, text: &str) -> Item {
        Item {
            place: self.place.clone(),
            text: text.to_owned(),
        }
    }
}

impl Content {
    fn shown(&self, shape: Shape) -> String {
        match self {
            Self::Written(text) | Self::Text(text) => shown(text, shape),
            _ if shape == Shape::Secret => "the value".to_owned(),
            Self::Number(number) => number.clone(),
            Self::Switch(switch) => switch.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(words) => (*words).to_owned(),
        }
    }
}

/// Shows a value in a fault, without what nobody must see.
pub(super) fn shown(text: &str, shape: Shape) -> String {
    let text = match shape {
        Shape::Secret => return "the value".to_owned(),
        // Where a password ends is hard to tell in a URL that is not well formed.
        Shape::Url if text.contains('@') => match text.split_once("://") {
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphabetic()) => {
                format!("{scheme}://…")
            }
            _ => "…".to_owned(),
        },
        _ => text.to_owned(),
    };
    let end = text.floor_char_boundary(SHOWN_LIMIT);
    match text.get(..end) {
        Some(start) if start.len() < text.len() => format!("\"{}…\"", start.escape_debug()),
        _ => format!("{text:?}"),
    }
}

fn find(full_name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.full_name() == full_name)
}

/// Whether a variable is one of those by which Kubernetes tells every container of a service.
fn is_of_kubernetes(name: &str, text: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    let is_address = |text: &str| {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| PROTOCOLS.contains(&scheme))
    };
    // As "80_TCP" and "80_TCP_ADDR".
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        let protocol = parts.next().unwrap_or_default().to_ascii_lowercase();
        number && PROTOCOLS.contains(&protocol.as_str())
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_address(text))
        || name
            .match_indices("_PORT_")
            .any(|(at, port)| is_port(&name[at + port.len()..]))
}

fn is_in_a_section(variable: &str) -> bool {
    KEYS.iter().any(|key| {
        let section = format!("{PREFIX}{}_", key.section.to_ascii_uppercase());
        variable.starts_with(&section)
    })
}

/// The keys that an unknown name may have been meant to be.
fn meant(full_name: &str) -> Vec<String> {
    let name = full_name.rsplit('.').next().unwrap_or_default();
    // Right key, wrong section or none.
    let namesakes = |name: &str| -> Vec<_> {
        let namesakes = KEYS.iter().filter(|key| key.name == name);
        namesakes.map(Key::full_name).collect()
    };
    if let Some(slip) = nearest(full_name, KEYS.iter().map(Key::full_name)) {
        return vec![slip];
    }
    let slip = || nearest(name, KEYS.iter().map(|key| key.name.to_owned()));
    match namesakes(name) {
        none if none.is_empty() => slip().map_or_else(Vec::new, |name| namesakes(&name)),
        namesakes => namesakes,
    }
}

fn unknown(meant: &[String]) -> String {
    match meant {
        [] => "no such key".to_owned(),
        meant => format!("no such key; did you mean {}?", meant.join(" or ")),
    }
}

/// The known name that a mistyped one was meant to be, if it is near enough to tell.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    /// One slip in so many characters is a slip; more is another word.
    const CHARACTERS_PER_SLIP: usize = 4;
    let name = name.to_ascii_lowercase();
    known
        .map(|known| {
            let slips = strsim::damerau_levenshtein(&name, &known.to_ascii_lowercase());
            (slips, known)
        })
        .min()
        .filter(|(slips, known)| slips * CHARACTERS_PER_SLIP <= known.len())
        .map(|(_, known)| known)
}
