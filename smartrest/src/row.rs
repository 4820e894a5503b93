//! Rows of SmartREST 2.0 text.

use std::fmt;

/// One message: the template id and its values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    fields: Vec<String>,
}

/// What a row lacks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the {name} is missing")]
pub struct FieldError {
    /// The field in the words of the platform.
    pub name: &'static str,
}

impl Row {
    /// Makes a row of a template id and its values.
    pub fn new<T: Into<String>>(fields: impl IntoIterator<Item = T>) -> Self {
        Self {
            fields: fields.into_iter().map(Into::into).collect(),
        }
    }

    /// Returns the template id.
    pub fn template(&self) -> &str {
        self.fields.first().map_or("", String::as_str)
    }

    /// Returns the value at `index`, counted with the template id as 0; `None` where it is missing or empty.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.fields
            .get(index)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Returns the value at `index`, or an error that says what is missing.
    pub fn required(&self, index: usize, name: &'static str) -> Result<&str, FieldError> {
        self.get(index).ok_or(FieldError { name })
    }

    /// Returns all fields, the template id first.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode([self]))
    }
}

/// Reads the rows of a payload. Blank lines are skipped; bytes that are not UTF-8 become U+FFFD.
pub fn decode(payload: &[u8]) -> Vec<Row> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .escape(Some(b'\\'))
        .double_quote(true)
        .from_reader(payload);
    reader
        .byte_records()
        .filter_map(Result::ok)
        .map(|record| Row::new(record.iter().map(|field| String::from_utf8_lossy(field))))
        .collect()
}

/// Writes rows as one payload, separated by `\n`, without a newline at the end.
pub fn encode<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let rows: Vec<String> = rows.into_iter().map(|row| row.fields.join(",")).collect();
    rows.join("\n")
}
