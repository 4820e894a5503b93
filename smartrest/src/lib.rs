//! SmartREST 2.0 as adit speaks it: rows of text to values and back, without I/O.
//!
//! Everything that arrives is hostile: bytes that are not UTF-8, rows that end early, numbers that
//! are none. Decoding never fails and never panics; what a row lacks is an error of the message
//! that is read from it. Memory stays in proportion to the payload, whose size is for the receiver
//! to limit.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod row;
pub mod target;
pub mod templates;
pub mod text;
pub mod topic;

pub use row::{FieldError, Row, decode, encode};
pub use target::{Target, TargetError};
pub use templates::collection::{COLLECTION, COLLECTION_ID, CollectionAnswer, PendingOperation};
pub use templates::connect::{ConnectRequest, ConnectionKey, RequestError};
pub use templates::credentials::{Credentials, CredentialsError, Token};
pub use templates::operation::{OperationRef, REMOTE_ACCESS, Status};
pub use templates::request::Request;
pub use text::plain_text;
pub use topic::{Topic, TopicError, Topics, is_noncharacter};
