//! What the platform's own authority answers: base64, PKCS#7 in DER or BER, and certificates in it.
//!
//! Whatever comes, what is taken out of it is part of it, and no more than a few certificates; the
//! raw form and its base64 mean the same; and what is said about it is one legible line.

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::is_legible;
use crate::auth::est::key::Key;
use crate::auth::est::{choose, pkcs7};
use crate::net::identity::Files;

/// More than any message holds that is taken.
const MANY: usize = 17;

thread_local! {
    static KEY: Key = Key::generate().unwrap();
}

pub(super) fn run(bytes: &[u8]) {
    let read = pkcs7::certificates(bytes);
    let encoded = pkcs7::certificates(STANDARD.encode(bytes).as_bytes());
    for read in [read, encoded] {
        let certificates = match read {
            Ok(certificates) => certificates,
            Err(error) => {
                assert!(is_legible(&error.to_string()));
                continue;
            }
        };
        assert!((1..MANY).contains(&certificates.len()));
        let all: usize = certificates.iter().map(|der| der.len()).sum();
        assert!(all <= bytes.len(), "more than there was");
        let files = Files {
            certificate: PathBuf::from("device.pem"),
            key: PathBuf::from("device.key"),
        };
        KEY.with(|key| {
            let now = SystemTime::UNIX_EPOCH;
            if let Err(unfit) = choose(&certificates, key, "gateway-7", &files, now) {
                assert!(is_legible(&unfit.to_string()), "{unfit}");
            }
        });
    }
}
