//! What values look like.

/// What a value looks like, before anyone asks what it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Text,
    /// A text that is never shown.
    Secret,
    /// A text of which a user or password within is never shown.
    Url,
    /// A text that is nowhere where it is empty in a file.
    Place,
    Duration,
    Number,
    Switch,
    /// One of several words, of which two were a switch once.
    Choice,
    List,
}

impl Shape {
    /// Says what is allowed, behind "is not".
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text | Self::Secret | Self::Url | Self::Choice | Self::Place => {
                "a text in quotes"
            }
            Self::Duration => "a duration such as \"15s\" or \"2m\"",
            Self::Number => "a whole number",
            Self::Switch => "true or false",
            Self::List => "a list such as [\"a\", \"b\"]",
        }
    }
}
