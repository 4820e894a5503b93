//! The templates of adit's that not every platform knows. An older one answers `40,<template>,…` on
//! `s/e`.

/// A template that came with a version of the platform.
pub(crate) struct NewerTemplate {
    pub(crate) id: &'static str,
    /// The platform's version that it came with.
    pub(crate) since: &'static str,
    /// What is different without it.
    pub(crate) without: &'static str,
}

const NEWER_TEMPLATES: [NewerTemplate; 2] = [
    NewerTemplate {
        id: "150",
        since: "10.20.325",
        without: "it does not show which protocols remote access takes",
    },
    NewerTemplate {
        id: "507",
        since: "10.18.114",
        without: "what was executing when adit was killed stays so",
    },
];

impl NewerTemplate {
    /// Returns it by its id.
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        NEWER_TEMPLATES.iter().find(|newer| newer.id == id)
    }
}
