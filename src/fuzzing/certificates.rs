//! Certificates and keys, as DER from a server and as PEM from a file.
//!
//! What is said about them is one legible line, whatever stands in them.

use std::path::PathBuf;

use super::is_legible;
use crate::net::certificate::Certificate;
use crate::net::identity::{Files, Identity};

pub(super) fn run(bytes: &[u8]) {
    if let Some(certificate) = Certificate::read(bytes) {
        let words = certificate.to_string();
        assert!(is_legible(&words), "{words:?}");
    }
    let files = Files {
        certificate: PathBuf::from("device.pem"),
        key: PathBuf::from("device.key"),
    };
    match Identity::parse(files, bytes, bytes) {
        Ok(identity) => assert!(!identity.name().is_empty()),
        Err(error) => {
            let words = error.to_string();
            assert!(is_legible(&words), "{words:?}");
        }
    }
}
