//! `501` to `507`: the device tells the state of an operation.
//!
//! `501`, `502` and `503` name no operation: the platform applies them to the oldest one of the
//! fragment that is pending or executing. `504`, `505` and `506` say the same of one operation by
//! its id. In which order they may be sent is left to the caller.

use crate::row::Row;

/// The fragment that marks an operation as a request for a tunnel.
pub const REMOTE_ACCESS: &str = "c8y_RemoteAccessConnect";

const OLDEST_EXECUTING: &str = "501";
const OLDEST_FAILED: &str = "502";
const OLDEST_SUCCESSFUL: &str = "503";
const EXECUTING_BY_ID: &str = "504";
const FAILED_BY_ID: &str = "505";
const SUCCESSFUL_BY_ID: &str = "506";
const FAIL_EXECUTING: &str = "507";

/// How a status says which operation it means.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum OperationRef {
    /// The oldest operation with this fragment: pending for [`Status::Executing`], else executing.
    Oldest(String),
    /// The operation with this id of the platform.
    Id(String),
}

/// The state of an operation as the platform is told.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Status {
    /// It is being carried out.
    Executing,
    /// It ended badly, for this reason.
    Failed(String),
    /// It ended well.
    Successful,
}

impl OperationRef {
    /// Means the oldest request for a tunnel.
    pub fn oldest_tunnel() -> Self {
        Self::Oldest(REMOTE_ACCESS.to_owned())
    }
}

pub(super) fn status_to_row(operation: &OperationRef, status: &Status) -> Row {
    match (operation, status) {
        (OperationRef::Oldest(fragment), Status::Executing) => {
            Row::new([OLDEST_EXECUTING, fragment])
        }
        (OperationRef::Oldest(fragment), Status::Failed(reason)) => {
            Row::new([OLDEST_FAILED, fragment, reason])
        }
        (OperationRef::Oldest(fragment), Status::Successful) => {
            Row::new([OLDEST_SUCCESSFUL, fragment])
        }
        (OperationRef::Id(id), Status::Executing) => Row::new([EXECUTING_BY_ID, id]),
        (OperationRef::Id(id), Status::Failed(reason)) => Row::new([FAILED_BY_ID, id, reason]),
        (OperationRef::Id(id), Status::Successful) => Row::new([SUCCESSFUL_BY_ID, id]),
    }
}

pub(super) fn fail_executing_to_row(fragment: &str, reason: &str) -> Row {
    Row::new([FAIL_EXECUTING, fragment, reason])
}
