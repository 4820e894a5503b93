//! How one process of adit follows another while tunnels go on.
//!
//! The old process starts the program again, with a socket as its standard input and a process between
//! the two. The new one reads its configuration, builds what needs no broker and says that it is ready. The old one then begins
//! nothing any more, has everything acknowledged, leaves the broker and hands over what it knows; the
//! new one logs in with the same client id and says that it is in charge. The old one carries its
//! tunnels until they end. Whatever goes wrong before the new one is in charge, the old one goes on as
//! if nothing had been.
//!
//! Landlock's confinement cannot be lifted, so the new process lives in that of the old one and adds its
//! own. What the old one may do is what both may do.

mod between;
pub(crate) mod course;
pub(crate) mod predecessor;
mod program;
pub(crate) mod successor;
mod wire;

pub use predecessor::Inheritance;
pub use program::Program;
pub(crate) use wire::{Candidate, Handover};

/// Says that standard input is a socket of the process that is to be followed, and which host name that
/// had read: the new one may not be allowed to read it.
pub const SUCCESSOR_VARIABLE: &str = "ADIT_SUCCESSOR";
/// Has the id of the process between in the environment of the one that is to follow.
pub const BETWEEN_VARIABLE: &str = "ADIT_SUCCESSOR_OF";
