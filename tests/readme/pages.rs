//! The documents of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// A document.
pub(crate) struct Page {
    /// From the root of the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Reads a document.
pub(crate) fn page(path: &str) -> Page {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(&full).unwrap_or_else(|error| panic!("{path}: {error}"));
    Page {
        path: path.into(),
        text,
    }
}

/// Reads the README, what is in `docs/`, and the other pages for people.
pub(crate) fn all() -> Vec<Page> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = fs::read_dir(docs).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        format!("docs/{name}")
    });
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    names.extend(["README.md", "CONTRIBUTING.md", "deploy/README.md"].map(str::to_owned));
    names.iter().map(|name| page(name)).collect()
}

/// Takes the cells of a row of a table, if a line is one.
pub(crate) fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// What GitHub makes of a heading, so that links lead there.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

impl Page {
    /// Returns the lines outside of examples.
    pub(crate) fn prose(&self) -> impl Iterator<Item = &str> {
        let mut is_example = false;
        self.text.lines().filter(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            is_example ^= is_fence;
            !is_example && !is_fence
        })
    }

    /// Returns what stands in the examples of a kind, as `text`.
    pub(crate) fn examples(&self, kind: &str) -> impl Iterator<Item = &str> {
        let fence = format!("```{kind}\n");
        let found: Vec<_> = self.text.split(&fence).skip(1).collect();
        found
            .into_iter()
            .filter_map(|rest| rest.split("```").next())
    }

    /// Returns the anchors of all headings.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings
            .map(|line| anchor(line.trim_start_matches('#')))
            .collect()
    }

    /// Returns where the links lead.
    pub(crate) fn links(&self) -> Vec<&str> {
        let prose = self.prose().flat_map(|line| line.split("](").skip(1));
        prose.filter_map(|rest| rest.split(')').next()).collect()
    }

    /// Replaces what stands between two marks, if it differs and `is_writing`; returns whether it does
    /// not differ.
    pub(crate) fn holds(&self, expected: &str, is_writing: bool) -> bool {
        const BEGIN: &str = "<!-- written by ADIT_WRITE_KEYS=1 cargo test --test readme -->\n";
        const END: &str = "<!-- end -->";
        let (before, rest) = match self.text.find(BEGIN) {
            Some(at) => self.text.split_at(at + BEGIN.len()),
            None => panic!("{} has no {BEGIN}", self.path.display()),
        };
        let (found, after) = rest.split_at(rest.find(END).unwrap());
        if found != expected && is_writing {
            let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(&self.path);
            fs::write(full, format!("{before}{expected}{after}")).unwrap();
            return true;
        }
        found == expected
    }
}
