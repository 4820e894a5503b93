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
    /// Writes the text of a variable as the value of a file; a text that is not there, as an empty one.
    pub(super) fn written(self, text: &str) -> String {
        match self {
            Self::Text | Self::Secret | Self::Url | Self::Place | Self::Duration | Self::Choice => {
                format!("{text:?}")
            }
            Self::Number | Self::Switch => text.to_owned(),
            Self::List => {
                let texts = text.split(',').map(str::trim);
                let texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
                format!("{texts:?}")
            }
        }
    }

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
