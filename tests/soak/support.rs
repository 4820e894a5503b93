//! What these tests share with those from end to end.

use std::time::Duration;

#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/lan.rs"]
mod lan;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/pki.rs"]
mod pki;
#[path = "../end_to_end/support/ports.rs"]
mod ports;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../end_to_end/support/process.rs"]
mod process;
#[path = "../end_to_end/support/temporary.rs"]
mod temporary;

pub(crate) use lan::BlackHole;
pub(crate) use pki::{Authority, Flaw};
pub(crate) use ports::Port;
pub(crate) use process::{Process, command};
pub(crate) use temporary::Directory;

/// No step of a test takes this long unless something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
