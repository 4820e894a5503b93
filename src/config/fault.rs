//! What is wrong with a configuration, and where it stands.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::words::legible;

/// Everything that is wrong with a configuration, in the order of its sources, a fault a line.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Fault {
    pub(super) place: Place,
    /// A clause to stand behind the place; it shows no secret.
    pub(super) complaint: String,
}

/// Where a value stands, or should stand; ordered as an operator goes through them.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Place {
    /// The file as a whole.
    File(PathBuf),
    /// A point where the file is no TOML. Lines and columns count from 1.
    Point {
        file: PathBuf,
        line: usize,
        column: usize,
    },
    /// A key or a section.
    Line {
        file: PathBuf,
        line: usize,
        name: String,
    },
    /// A variable of the environment.
    Variable(String),
    /// A `--set` on the command line, by its key.
    Flag(String),
    /// Nowhere: a default, or a key that is missing.
    Key(String),
}

impl Faults {
    /// Sorts what was found.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort();
        Self(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Fault {
    pub(super) fn new(place: &Place, complaint: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            complaint: complaint.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.complaint)
    }
}

/// Names may come from anywhere, and what they hold is not to move the cursor of a terminal.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |file: &Path| legible(&file.display().to_string());
        match self {
            Self::File(file) => f.write_str(&shown(file)),
            Self::Point { file, line, column } => {
                write!(f, "{}, line {line}, column {column}", shown(file))
            }
            Self::Line { file, line, name } => {
                write!(f, "{}, line {line}, {}", shown(file), legible(name))
            }
            Self::Variable(name) => f.write_str(&legible(name)),
            Self::Flag(key) => write!(f, "--set {}", legible(key)),
            Self::Key(key) => f.write_str(key),
        }
    }
}
