//! Where values come from: the file, the environment, the command line. What comes later wins.
//!
//! Here a name becomes a key, or a fault if there is none. What the values say is left to others.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place};
use super::keys::{KEYS, Key, PREFIX, Shape};
use crate::files::{self, FileContent};

/// Read if no file is named, unless it does not exist.
pub const DEFAULT_FILE: &str = "/etc/adit/adit.toml";
/// The variable behind `--log-level`, which is no key of the configuration.
pub const LOG_LEVEL_VARIABLE: &str = "ADIT_LOG_LEVEL";
/// The variable behind `--log-format`, which is no key of the configuration.
pub const LOG_FORMAT_VARIABLE: &str = "ADIT_LOG_FORMAT";

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
    /// The file, if there is one.
    pub(super) file: Option<PathBuf>,
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
            read: &files::read,
        }
    }
}

/// Collects the values of all sources.
pub(super) fn gather(sources: &Sources<'_>) -> Gathered {
    let mut gathered = Gathered {
        values: BTreeMap::new(),
        faults: Vec::new(),
        incomplete: false,
        file: None,
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
            let is_text = matches!(key.shape, Shape::Text | Shape::Secret | Shape::Url);
            let is_empty = matches!(&given.content, Content::Text(text) if text.is_empty());
            if !(is_text && is_empty) {
                self.values.insert(full_name, given);
            }
        }
    }

    fn take_environment(&mut self, environment: &[(OsString, OsString)]) {
        // Kubernetes tells every container of a service named "adit" with variables of its own.
        let service = environment
            .iter()
            .any(|(name, _)| name == "ADIT_SERVICE_HOST");
        let of_kubernetes = |name: &str| {
            service && (name.starts_with("ADIT_SERVICE_") || name.starts_with("ADIT_PORT"))
        };
        let own = |name: &str| {
            name.starts_with(PREFIX)
                && name != LOG_LEVEL_VARIABLE
                && name != LOG_FORMAT_VARIABLE
                && !of_kubernetes(name)
        };
        for (name, text) in environment {
            let name = name.to_string_lossy();
            // Compose files set variables to nothing that nobody gave a value.
            if text.is_empty() || !own(&name) {
                continue;
            }
            let place = Place::Variable(name.to_string());
            let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
                let logging = [LOG_LEVEL_VARIABLE, LOG_FORMAT_VARIABLE].map(str::to_owned);
                let known = KEYS.iter().map(Key::variable).chain(logging);
                let complaint = unknown(nearest(&name, known));
                self.faults.push(Fault { place, complaint });
                continue;
            };
            match text.to_str() {
                Some(text) => self.write(key, place, text),
                None => self.faults.push(Fault::new(&place, "is not UTF-8 text")),
            }
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
                Some(key) if text.is_empty() => {
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
        let name = full_name.rsplit('.').next().unwrap_or_default();
        let mut namesakes = KEYS.iter().filter(|key| key.name == name);
        // Right key, wrong section.
        let hint = match (namesakes.next(), namesakes.next()) {
            (Some(key), None) => Some(key.full_name()),
            _ => nearest(full_name, KEYS.iter().map(Key::full_name)),
        };
        let complaint = unknown(hint);
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
            let start = error.span().map_or(0, |span| span.start);
            let (line, column) = self.position(start);
            let message = firsts.entry(line).or_insert((column, error.message()));
            *message = (*message).min((column, error.message()));
        }
        let fault = |(line, (column, message)): (usize, (usize, &str))| Fault {
            place: Place::Point {
                file: self.path.to_owned(),
                line,
                column,
            },
            complaint: message.to_owned(),
        };
        firsts.into_iter().map(fault).collect()
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
            | (Content::Text(text), Shape::Text | Shape::Secret | Shape::Url | Shape::Duration)
            | (Content::Number(text), Shape::Number) => Ok(self.item(text)),
            (Content::Switch(switch), Shape::Switch) => Ok(self.item(&switch.to_string())),
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

fn unknown(hint: Option<String>) -> String {
    let hint = hint.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("no such key{hint}")
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
