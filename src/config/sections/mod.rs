//! The sections of the configuration, made of the values that were found.

mod admin;
mod auth;
mod device;
mod network;
mod remote_access;

use std::path::{Path, PathBuf};

use super::changes;
use super::fault::{Fault, Place};
use super::keys::{Fallback, Key, Setting};
use super::sources::{self, Content, Gathered, Given, Item, Sources};
use crate::files::FileContent;
use crate::password::{self, Password};
use crate::secret::Secret;

/// Makes the sections of the values. A `None` that is not the absence of an optional value always
/// comes with a fault, so that each section reads all its keys before it gives up.
pub(super) use auth::{ISSUED_CERTIFICATE, OWN_KEY};

pub(super) struct SectionBuilder<'a> {
    pub(super) gathered: Gathered,
    pub(super) sources: &'a Sources<'a>,
}

impl SectionBuilder<'_> {
    fn place(&self, key: &Key) -> Option<Place> {
        let given = self.gathered.values.get(&key.full_name())?;
        Some(given.place.clone())
    }

    /// Reads a value, or its default. A required key that is not set is a fault.
    fn get<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        let key = &setting.key;
        if key.default == Fallback::Required && self.place(key).is_none() {
            self.refuse_missing(key, key.about);
        }
        self.get_optional(setting)
    }

    fn get_optional<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        self.list(setting)?.into_iter().next()
    }

    /// Reads all values of a list, or those of its default.
    fn list<T>(&mut self, setting: &Setting<T>) -> Option<Vec<T>> {
        let key = &setting.key;
        let default = |text: &str| Given {
            place: Place::Key(key.full_name()),
            content: Content::Written(text.to_owned()),
        };
        let items = match (self.gathered.values.get(&key.full_name()), key.default) {
            (Some(given), _) => given.items(key),
            (None, Fallback::Value(text)) => default(text).items(key),
            (None, _) => return None,
        };
        let (mut values, mut faults) = (Vec::new(), Vec::new());
        for item in items {
            let value = item.and_then(|Item { place, text }| {
                (setting.parse)(&text).map_err(|clause| {
                    let shown = sources::shown(&text, key.shape);
                    Fault::new(&place, format!("{shown} {clause}"))
                })
            });
            match value {
                Ok(value) => values.push(value),
                Err(fault) => faults.push(fault),
            }
        }
        let complete = faults.is_empty();
        self.gathered.faults.append(&mut faults);
        complete.then_some(values)
    }

    /// A password that is given as it is, or in a file; `None` also if it is not given.
    fn password(&mut self, own: &Setting<Secret>, file: &Setting<PathBuf>) -> Option<Password> {
        if let (Some(own_place), Some(file_place)) = (self.place(&own.key), self.place(&file.key)) {
            let words = format!(
                "{} is set too ({own_place}); only one of them can be",
                own.key.full_name()
            );
            self.refuse(&file_place, words);
            return None;
        }
        if self.place(&file.key).is_none() {
            return self.get_optional(own).map(Password::new);
        }
        let (place, path, content) = self.file(file)?;
        if content.world_readable {
            self.warn_of_readable("password", &path);
        }
        match password::parse_content(content.bytes, own.parse) {
            Ok(password) => Some(Password::of_file(path, password, own.parse)),
            Err(clause) => {
                let words = format!("the content of {:?} {clause}", path.display().to_string());
                self.refuse(&place, words);
                None
            }
        }
    }

    /// Reads a file that is named in the configuration.
    fn file(&mut self, setting: &Setting<PathBuf>) -> Option<(Place, PathBuf, FileContent)> {
        let place = self.place(&setting.key)?;
        let path = self.get(setting)?;
        match (self.sources.read)(&path) {
            Ok(content) => {
                let name = setting.key.full_name();
                let hash = changes::hash(&content.bytes);
                self.gathered.contents.insert(name, hash);
                self.gathered.named_files.push(path.clone());
                Some((place, path, content))
            }
            Err(error) => {
                let shown = path.display().to_string();
                self.refuse(&place, format!("{shown:?} cannot be read: {error}"));
                None
            }
        }
    }

    pub(in crate::config) fn warn_of_exposed_file(&mut self) {
        if let Some(path) = self.gathered.exposed.take() {
            self.warn_of_readable("password", &path);
        }
    }

    fn warn_of_readable(&mut self, secret: &str, path: &Path) {
        self.gathered.warnings.push(format!(
            "every user of this machine can read the {secret} in {}",
            path.display()
        ));
    }

    fn refuse(&mut self, place: &Place, complaint: impl Into<String>) {
        self.gathered.faults.push(Fault::new(place, complaint));
    }

    /// Names a key that has to be set, and its variable, with a clause that says why or what it is.
    fn refuse_missing(&mut self, key: &Key, words: &str) {
        // In a file that was not understood it may well stand.
        if !self.gathered.incomplete {
            if let Some(path) = self.gathered.absent.take() {
                let words = "does not exist, and --config names no other file";
                self.refuse(&Place::File(path), words);
            }
            let complaint = format!("is not set ({}): {words}", key.variable());
            self.refuse(&Place::Key(key.full_name()), complaint);
        }
    }
}
