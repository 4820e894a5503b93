//! The template collection of adit: operations with their ids.
//!
//! The collection is the text of `smartrest/templates/adit_1.csv`, which can hold no comment. Its
//! format is that of "SmartREST 2.0" in the platform's documentation,
//! <https://cumulocity.com/docs/smartrest/smartrest-two/>:
//!
//! `11` is a response template: message id, base path, a path that must be there, and the paths of
//! the values. Where an operation is delivered, the external id of its device stands before
//! them unasked; a value that is not there is empty.
//!
//! A collection that exists can never be changed, so its id holds a hash of its text. Who asks for
//! it, and when, is left to the caller.

use crate::row::{FieldError, Row};
use crate::templates::connect::{ConnectRequest, RequestError};
use crate::templates::operation::OperationRef;

/// The collection as it is uploaded.
pub const COLLECTION: &str = include_str!("../../templates/adit_1.csv");

/// The id of the collection: name, version, and the hash of its text.
pub const COLLECTION_ID: &str = "adit_1_c3576f73";

const OPERATION: &str = "901";

const EXISTS: &str = "20";
const IS_MISSING: &str = "41";

/// Places of the values in a `901` row.
const DEVICE: usize = 1;
const OPERATION_ID: usize = 2;
/// Hostname, port and connection key, in the order of a `530` row.
const REQUEST: std::ops::Range<usize> = 3..6;

/// Place of the connection key in a `530` row.
const STATIC_KEY: usize = 4;

/// What the platform says of the collection on `s/dt`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CollectionAnswer {
    /// `20`: it exists.
    Exists,
    /// `41`: it does not.
    IsMissing,
}

impl CollectionAnswer {
    /// Reads a row; `None` where it is about another collection, or no answer.
    pub fn from_row(row: &Row) -> Option<Self> {
        if row.get(1) != Some(COLLECTION_ID) {
            return None;
        }
        match row.template() {
            EXISTS => Some(Self::Exists),
            IS_MISSING => Some(Self::IsMissing),
            _ => None,
        }
    }
}

/// An operation that the platform hands out, good or not, and how its statuses address it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PendingOperation {
    operation: OperationRef,
    /// In the layout of a `530` row.
    row: Row,
}

impl PendingOperation {
    /// Takes a row of `s/ds`; `None` unless it is a `530`.
    pub fn from_static_row(row: &Row) -> Option<Self> {
        (row.template() == ConnectRequest::TEMPLATE).then(|| Self {
            operation: OperationRef::oldest_tunnel(),
            row: row.clone(),
        })
    }

    /// Takes a row of `s/dc/<X-ID>`; `None` unless it is that of an operation.
    ///
    /// # Errors
    /// The operation has no id. Its `530` row speaks for it.
    pub fn from_collection_row(row: &Row) -> Option<Result<Self, FieldError>> {
        (row.template() == OPERATION).then(|| {
            let id = row.required(OPERATION_ID, "operation id")?;
            let value = |index| row.get(index).unwrap_or_default();
            let request = REQUEST.map(value);
            let fields = [ConnectRequest::TEMPLATE, value(DEVICE)];
            Ok(Self {
                operation: OperationRef::Id(id.to_owned()),
                row: Row::new(fields.into_iter().chain(request)),
            })
        })
    }

    /// Takes an operation that names itself, with its device, hostname, port and connection key; what
    /// is empty is missing.
    pub fn with_id(id: String, request: [String; 4]) -> Self {
        let fields = [ConnectRequest::TEMPLATE.to_owned()];
        Self {
            operation: OperationRef::Id(id),
            row: Row::new(fields.into_iter().chain(request)),
        }
    }

    /// Names the device where the operation names none.
    #[must_use]
    pub fn or_of(self, device: &str) -> Self {
        if self.device().is_ok() {
            return self;
        }
        let mut fields = self.row.fields().to_vec();
        if let Some(field) = fields.get_mut(DEVICE) {
            device.clone_into(field);
        }
        Self {
            row: Row::new(fields),
            ..self
        }
    }

    /// How its statuses name the operation.
    pub fn reference(&self) -> &OperationRef {
        &self.operation
    }

    /// Returns the device that it names.
    pub fn device(&self) -> Result<&str, FieldError> {
        ConnectRequest::device_of(&self.row)
    }

    /// Returns what may be the connection key. The text is a secret.
    pub fn key(&self) -> Option<&str> {
        self.row.get(STATIC_KEY)
    }

    /// Reads what it asks for.
    pub fn request(&self) -> Result<ConnectRequest, RequestError> {
        ConnectRequest::from_row(&self.row)
    }

    /// Whether both ask for the same, however the operation is addressed. Missing values are the
    /// same as empty ones.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        self.values() == other.values()
    }

    /// Returns the device, the hostname, the port and the connection key. The text of the last is a
    /// secret.
    pub fn values(&self) -> [Option<&str>; 4] {
        [DEVICE, DEVICE + 1, DEVICE + 2, STATIC_KEY].map(|index| self.row.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{decode, encode, payload_limit};

    fn row(line: &str) -> Row {
        decode(line.as_bytes()).remove(0)
    }

    fn by_id(line: &str) -> PendingOperation {
        PendingOperation::from_collection_row(&row(line))
            .unwrap()
            .unwrap()
    }

    /// FNV-1a with 32 bits.
    fn hash(text: &str) -> u32 {
        text.bytes().fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
    }

    #[test]
    fn asks_for_the_same_where_all_values_but_the_id_are() {
        let asked = |line: &str| PendingOperation::from_static_row(&row(line)).unwrap();
        let own = asked("530,gw,plc,22,k");
        assert_eq!(own.values(), ["gw", "plc", "22", "k"].map(Some));
        assert!(own.asks_for_the_same(&by_id("901,gw,1001,plc,22,k")));
        for other in [
            "530,cam,plc,22,k",
            "530,gw,hmi,22,k",
            "530,gw,plc,23,k",
            "530,gw,plc,22,l",
        ] {
            assert!(!own.asks_for_the_same(&asked(other)), "{other}");
        }
    }

    #[test]
    fn gives_a_changed_collection_another_id() {
        let id = format!("adit_1_{:08x}", hash(COLLECTION));
        assert_eq!(
            COLLECTION_ID, id,
            "the text has changed, and what exists under the old id never will"
        );
    }

    #[test]
    fn uploads_templates_in_one_packet() {
        assert!(COLLECTION.len() < payload_limit("s/ut/") - COLLECTION_ID.len());
        let rows = decode(COLLECTION.as_bytes());
        let ids: Vec<_> = rows.iter().map(|row| row.get(1)).collect();
        assert_eq!(ids, [Some(OPERATION)]);
    }

    #[test]
    fn reads_what_the_platform_says_of_the_collection() {
        for (line, answer) in [
            (
                format!("20,{COLLECTION_ID},8812"),
                Some(CollectionAnswer::Exists),
            ),
            (
                format!("41,{COLLECTION_ID}"),
                Some(CollectionAnswer::IsMissing),
            ),
            (format!("50,{COLLECTION_ID}"), None),
            ("20,another,8812".to_owned(), None),
            ("41".to_owned(), None),
        ] {
            assert_eq!(CollectionAnswer::from_row(&row(&line)), answer, "{line}");
        }
    }

    #[test]
    fn reads_an_operation_with_its_id() {
        let operation = by_id("901,gw,1001,plc,22,k");
        assert_eq!(operation.reference(), &OperationRef::Id("1001".to_owned()));
        assert_eq!((operation.device(), operation.key()), (Ok("gw"), Some("k")));
        let request = operation.request().unwrap();
        assert_eq!(encode([&request.to_row()]), "530,gw,plc,22,k");
    }

    #[test]
    fn says_what_is_wrong_with_an_operation() {
        for (line, complaint) in [
            ("901,,1001,plc,22,k", "the device id is missing"),
            ("901,gw,1001", "the hostname is missing"),
            ("901,gw,1001,plc,22,", "the connection key is missing"),
            ("901,gw,1001,plc,0,k", "port 0 is not from 1 to 65535"),
        ] {
            let error = by_id(line).request().unwrap_err();
            assert_eq!(error.to_string(), complaint, "{line}");
        }
        let without_id = PendingOperation::from_collection_row(&row("901,gw,,plc,22,k")).unwrap();
        let error = without_id.unwrap_err();
        assert_eq!(error.to_string(), "the operation id is missing");
    }

    #[test]
    fn takes_no_row_of_another_template() {
        assert_eq!(
            PendingOperation::from_collection_row(&row("530,gw,plc,22,k")),
            None
        );
        assert_eq!(
            PendingOperation::from_static_row(&row("901,gw,1,plc,22,k")),
            None
        );
    }

    #[test]
    fn knows_both_rows_of_one_operation() {
        for (custom, other, same) in [
            ("901,gw,1,plc,22,", "530,gw,plc,22", true),
            ("901,gw,1,,22,k", "530,gw,,22,k", true),
            ("901,gw,1,plc,22,", "530,gw,plc,23", false),
            ("901,gw,1,plc,22,", "530,child,plc,22", false),
        ] {
            let other = PendingOperation::from_static_row(&row(other)).unwrap();
            assert_eq!(by_id(custom).asks_for_the_same(&other), same, "{custom}");
        }
    }

    #[test]
    fn takes_an_operation_that_names_itself() {
        let request = |device: &str| [device, "plc", "22", "k"].map(str::to_owned);
        let operation = PendingOperation::with_id("7".to_owned(), request("gw"));
        assert_eq!(operation, by_id("901,gw,7,plc,22,k"));
        assert_eq!(operation.clone().or_of("other"), operation);
        let of_nobody = PendingOperation::with_id("7".to_owned(), request(""));
        assert_eq!(of_nobody.or_of("gw"), operation);
    }

    #[test]
    fn shows_no_key_in_debug() {
        let operation = by_id("901,gw,1001,plc,22,hunter2");
        assert!(!format!("{operation:?}").contains("hunter2"));
    }
}
