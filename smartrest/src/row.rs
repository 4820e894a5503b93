//! Rows of SmartREST 2.0 text.
//!
//! A row is a line of comma-separated values, of which the first is the template id. Software on
//! both ends disagrees on how a double quote stands inside a quoted value: `\"` and `""` are both
//! in the field. Both are read; `\"` is written. What a row means is left to
//! [`templates`](crate::templates).
//!
//! # Backslashes
//!
//! - In a value without quotes a backslash is a character like any other.
//! - In a quoted value `\"` is read as `"` and `\\` as `\`. Before anything else a backslash stands
//!   for itself, so that a path quoted by software that knows no `\\`, `"C:\tmp,x"`, keeps it.
//! - In a quoted value `\\` is written for `\`. Otherwise a value that ends in a backslash would
//!   swallow its closing quote, and readers that drop a backslash before any character would lose
//!   it.
//! - One reading stays open: software that writes a last backslash singly, `"C:\tmp,\"`, cannot be
//!   told from software that means a quote there. It is read as a quote.

use std::cell::RefCell;
use std::fmt;

use csv_core::ReadRecordResult;
use zeroize::{Zeroize, Zeroizing};

use crate::text::plain_text;

/// Bytes of the largest MQTT packet that the platform takes, header included, as documented at
/// <https://cumulocity.com/docs/device-integration/mqtt>.
pub const PACKET_LIMIT: usize = 16_184;

/// Bytes of a QoS 1 publish besides topic and payload: type, remaining length (2 bytes up to
/// 16,383), the topic's length and the packet id (2 bytes each).
const PUBLISH_OVERHEAD: usize = 1 + 2 + 2 + 2;

/// Bytes of a template id that `Debug` shows; real ones have three digits.
const SHOWN_TEMPLATE: usize = 16;

/// Takes the place of a backslash that escapes nothing while `csv_core` reads. No UTF-8 text has
/// this byte.
const PLAIN_BACKSLASH: u8 = 0xff;

/// Bytes of the stack that are wiped once a payload is read, more than reading takes.
const STACK: usize = 16 << 10;

/// Values of a row for which there is room at first; rows of more are read as well.
const FIELDS: usize = 16;

/// One message: the template id and its values.
///
/// `Debug` shows the template id only, because values may be connection keys and passwords; there
/// is no `Display` for the same reason, and they are wiped when the row is dropped.
#[derive(Clone, Eq, Hash, PartialEq)]
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

    /// Returns the value at `index`, counted with the template id as 0; `None` where it is missing
    /// or empty, which the platform does not tell apart.
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

    /// Nothing, or one empty value: on the line that is the same.
    fn is_blank(&self) -> bool {
        matches!(self.fields.as_slice(), [] | [_]) && self.template().is_empty()
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.fields.zeroize();
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = plain_text(self.template(), SHOWN_TEMPLATE);
        write!(f, "Row({template}, {} fields)", self.fields.len())
    }
}

/// Reads the rows of a payload. Any bytes are rows of some kind.
///
/// LF, CRLF and CR end a row, except in quotes; blank lines are skipped. Bytes that are not UTF-8
/// become U+FFFD. A quoted value that is never closed reaches to the end of the payload. A byte
/// order mark is a character like any other.
pub fn decode(payload: &[u8]) -> Vec<Row> {
    let rows = read(payload);
    wipe_stack();
    rows
}

/// Overwrites the stack below its caller: parts of a value may lie there, where whoever compared or
/// copied it kept them for a moment.
#[inline(never)]
fn wipe_stack() {
    let mut below = [0_u8; STACK];
    below.zeroize();
}

thread_local! {
    /// Making its tables takes longer than reading a payload with them.
    static READER: RefCell<csv_core::Reader> = RefCell::new(
        csv_core::ReaderBuilder::new()
            .escape(Some(b'\\'))
            .double_quote(true)
            .build(),
    );
}

/// In a frame of its own, so that it can be wiped.
#[inline(never)]
fn read(payload: &[u8]) -> Vec<Row> {
    let marked = Zeroizing::new(mark_plain_backslashes(&String::from_utf8_lossy(payload)));
    READER.with_borrow_mut(|reader| {
        reader.reset();
        read_all(reader, &marked)
    })
}

fn read_all(reader: &mut csv_core::Reader, mut rest: &[u8]) -> Vec<Row> {
    let mut rows = Vec::new();
    // The values of one row, and where each of them ends. They are never longer than the payload.
    let mut text = Zeroizing::new(vec![0; rest.len()]);
    let mut ends = vec![0; FIELDS];
    let (mut filled, mut count) = (0, 0);
    loop {
        let room = text.get_mut(filled..).unwrap_or_default();
        let room_for_ends = ends.get_mut(count..).unwrap_or_default();
        let (result, taken, written, ended) = reader.read_record(rest, room, room_for_ends);
        rest = rest.get(taken..).unwrap_or_default();
        filled += written;
        count += ended;
        match result {
            // Asked once more, it says whether a row ends with the payload.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputEndsFull => ends.resize(ends.len() * 2, 0),
            ReadRecordResult::Record => {
                let row = row(&text, ends.get(..count).unwrap_or_default());
                rows.extend(Some(row).filter(|row| !row.is_blank()));
                (filled, count) = (0, 0);
            }
            ReadRecordResult::OutputFull | ReadRecordResult::End => return rows,
        }
    }
}

fn row(text: &[u8], ends: &[usize]) -> Row {
    let starts = [0].iter().chain(ends);
    let values = starts.zip(ends).map(|(&start, &end)| text.get(start..end));
    Row::new(values.map(|value| restore_backslashes(value.unwrap_or_default())))
}

/// Writes rows as one payload, separated by `\n`, without a newline at the end.
///
/// Reading it with [`decode`] gives the same rows, except that one with no value but an empty one
/// is left out: its line would be blank.
pub fn encode<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let rows = rows.into_iter().filter(|row| !row.is_blank());
    rows.map(line).collect::<Vec<_>>().join("\n")
}

/// Returns how many bytes of payload fit into a packet to `topic`.
pub fn payload_limit(topic: &str) -> usize {
    PACKET_LIMIT.saturating_sub(PUBLISH_OVERHEAD + topic.len())
}

fn line(row: &Row) -> String {
    let mut line = String::new();
    for (index, field) in row.fields.iter().enumerate() {
        if index > 0 {
            line.push(',');
        }
        push_field(&mut line, field);
    }
    line
}

/// `csv_core` can write neither: it doubles a backslash nowhere, and quotes no outer white space.
fn push_field(line: &mut String, field: &str) {
    if !needs_quotes(field) {
        line.push_str(field);
        return;
    }
    line.push('"');
    for character in field.chars() {
        if matches!(character, '"' | '\\') {
            line.push('\\');
        }
        line.push(character);
    }
    line.push('"');
}

fn needs_quotes(field: &str) -> bool {
    field.contains(['"', ',', '\n', '\r', '\t']) || field.trim().len() < field.len()
}

/// Prepares a payload for `csv_core`, which in quotes drops the backslash before any character.
///
/// Backslashes are paired from the left whether in quotes or not. That is right for both: no run of
/// them goes across an opening or closing quote, and outside of quotes `csv_core` leaves pairs
/// alone.
fn mark_plain_backslashes(text: &str) -> Vec<u8> {
    let mut marked = Vec::with_capacity(text.len() + 1);
    // A blank line is skipped, and after it `csv_core` takes no byte order mark away.
    marked.push(b'\n');
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            marked.push(byte);
        } else if let Some(escaped) = bytes.next_if(|next| matches!(next, b'"' | b'\\')) {
            marked.extend([byte, escaped]);
        } else {
            marked.push(PLAIN_BACKSLASH);
        }
    }
    marked
}

fn restore_backslashes(field: &[u8]) -> String {
    let restore = |&byte: &u8| if byte == PLAIN_BACKSLASH { b'\\' } else { byte };
    let bytes: Vec<u8> = field.iter().map(restore).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(payload: impl AsRef<[u8]>) -> Vec<Vec<String>> {
        let rows = decode(payload.as_ref());
        rows.iter().map(|row| row.fields().to_vec()).collect()
    }

    #[test]
    fn reads_what_is_in_the_field() {
        let cases: &[(&[u8], &[&[&str]])] = &[
            // Rows
            (b"530,gw,plc,22,k", &[&["530", "gw", "plc", "22", "k"]]),
            (
                b"1,a\n2,b\r\n3,c\r4,d\n",
                &[&["1", "a"], &["2", "b"], &["3", "c"], &["4", "d"]],
            ),
            (b"", &[]),
            (b"\n\r\n\n", &[]),
            (b"\n1\n\n\n2\n\n", &[&["1"], &["2"]]),
            (b"\"\"\n1", &[&["1"]]),
            (b",", &[&["", ""]]),
            (b"100,,", &[&["100", "", ""]]),
            (b" 1 , a ", &[&[" 1 ", " a "]]),
            // Quotes
            (br#""1","a,b""#, &[&["1", "a,b"]]),
            (b"1,\"a\nb\r\nc\",d", &[&["1", "a\nb\r\nc", "d"]]),
            (br#"1,"say ""no"" twice""#, &[&["1", r#"say "no" twice"#]]),
            (br#"1,"say \"no\" twice""#, &[&["1", r#"say "no" twice"#]]),
            (br#"1,"""","\"""#, &[&["1", "\"", "\""]]),
            (br#"1,a"b"c"#, &[&["1", r#"a"b"c"#]]),
            (br#"1, "a,b""#, &[&["1", r#" "a"#, r#"b""#]]),
            (br#"1,"a"b,c"#, &[&["1", "ab", "c"]]),
            (b"1,\"never closed,2\n3", &[&["1", "never closed,2\n3"]]),
            (br#"1,""#, &[&["1", ""]]),
            // Backslashes
            (br"1,C:\tmp\,\\srv\x", &[&["1", r"C:\tmp\", r"\\srv\x"]]),
            (br#"1,a\"b"#, &[&["1", r#"a\"b"#]]),
            (br#"1,"C:\tmp,x""#, &[&["1", r"C:\tmp,x"]]),
            (br#"1,"C:\\tmp,x\\",y"#, &[&["1", r"C:\tmp,x\", "y"]]),
            (br#"1,"\\\"\\\\""#, &[&["1", r#"\"\\"#]]),
            (br#"1,"C:\tmp,\",y"#, &[&["1", r#"C:\tmp,",y"#]]),
            (br#"1,"a\"#, &[&["1", r"a\"]]),
            // Bytes
            (
                b"1,\xff\xfe,\xc3,\xc3\xa4",
                &[&["1", "\u{fffd}\u{fffd}", "\u{fffd}", "ä"]],
            ),
            (b"1,\0,\"\0\"", &[&["1", "\0", "\0"]]),
            (b"\xef\xbb\xbf1,a", &[&["\u{feff}1", "a"]]),
        ];
        for &(payload, rows) in cases {
            assert_eq!(fields(payload), rows, "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn writes_quotes_where_the_platform_needs_them() {
        for (field, written) in [
            ("plain", "plain"),
            ("two words", "two words"),
            ("it's; fine", "it's; fine"),
            ("", ""),
            (r"C:\tmp\", r"C:\tmp\"),
            ("a,b", r#""a,b""#),
            (r#"say "no""#, r#""say \"no\"""#),
            (" a", r#"" a""#),
            ("a\u{a0}", "\"a\u{a0}\""),
            ("a\tb", "\"a\tb\""),
            ("a\nb", "\"a\nb\""),
            ("a\rb", "\"a\rb\""),
            (r"C:\a,b\", r#""C:\\a,b\\""#),
            (r#"\""#, r#""\\\"""#),
        ] {
            let row = Row::new(["1", field]);
            assert_eq!(encode([&row]), format!("1,{written}"), "{field:?}");
        }
    }

    #[test]
    fn separates_rows_and_leaves_out_blank_ones() {
        let rows = [
            Row::new(["500"]),
            Row::new([""]),
            Row::new(Vec::<String>::new()),
            Row::new(["", ""]),
            Row::new(["501", "x"]),
        ];
        assert_eq!(encode(&rows), "500\n,\n501,x");
        assert_eq!(encode([]), "");
    }

    #[test]
    fn takes_missing_values_for_empty_ones() {
        for payload in ["100", "100,", "100,,"] {
            let rows = decode(payload.as_bytes());
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].template(), "100");
            assert_eq!((rows[0].get(1), rows[0].get(2)), (None, None), "{payload}");
            let missing = rows[0].required(1, "name").unwrap_err();
            assert_eq!(missing.to_string(), "the name is missing");
        }
    }

    #[test]
    fn reads_rows_of_any_number_of_fields() {
        for count in [1, FIELDS, FIELDS + 1, 2 * FIELDS + 1, 10 * FIELDS] {
            let row: Vec<_> = (0..count).map(|n| format!("field {n}")).collect();
            let payload = [row.join(","), row.join(",")].join("\n");
            assert_eq!(fields(payload), [row.clone(), row], "{count}");
        }
    }

    #[test]
    fn reads_very_large_rows() {
        let payload = format!("1,\"{}\",{}", "a,".repeat(1 << 20), ",".repeat(10_000));
        let rows = fields(payload);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][1].len(), 2 << 20);
        assert_eq!(rows[0].len(), 2 + 10_001);
    }

    #[test]
    fn shows_no_value_in_debug() {
        let rows = decode(b"530,gw-1,plc,22,eb5e9d13\n\"a\"\"\nbcdefghijklmnopq\",secret");
        assert_eq!(
            format!("{rows:?}"),
            "[Row(530, 5 fields), Row(a' bcdefghijklmn, 2 fields)]"
        );
    }

    #[test]
    fn tells_how_much_fits_into_a_packet() {
        assert_eq!(payload_limit("s/us"), 16_173);
    }

    /// Fields in which what matters to the text is as frequent as it is in nobody's data.
    fn any_field() -> impl Strategy<Value = String> {
        prop_oneof!["[\"\\\\,\n\r\t a\u{feff}]{0,8}", any::<String>()]
    }

    fn any_row() -> impl Strategy<Value = Row> {
        prop::collection::vec(any_field(), 1..6)
            .prop_map(Row::new)
            .prop_filter("blank", |row| !row.is_blank())
    }

    proptest! {
        #[test]
        fn reads_what_it_has_written(rows in prop::collection::vec(any_row(), 0..5)) {
            let text = encode(&rows);
            prop_assert_eq!(decode(text.as_bytes()), rows, "{}", text);
        }

        #[test]
        fn writes_again_what_it_has_read_of_any_bytes(payload in any::<Vec<u8>>()) {
            let rows = decode(&payload);
            prop_assert_eq!(decode(encode(&rows).as_bytes()), rows);
        }

        #[test]
        fn writes_again_what_it_has_read_of_any_quoting(payload in "[\"\\\\,\n\r1 ]{0,24}") {
            let rows = decode(payload.as_bytes());
            prop_assert_eq!(decode(encode(&rows).as_bytes()), rows);
        }
    }
}
