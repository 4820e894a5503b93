//! Masking keys for the frames of a WebSocket.

use std::io;

use rustls::crypto::SecureRandom;

const KEY: usize = 4;
/// Masking keys that are made in one go.
const KEYS: usize = 64;

/// Gives keys that nobody can guess (RFC 6455, 5.3), each once.
pub(crate) struct Masks {
    source: &'static dyn SecureRandom,
    bytes: [u8; KEY * KEYS],
    used: usize,
}

impl Default for Masks {
    fn default() -> Self {
        Self {
            source: rustls::crypto::ring::default_provider().secure_random,
            bytes: [0; KEY * KEYS],
            used: KEY * KEYS,
        }
    }
}

impl Masks {
    /// Returns the next key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn next(&mut self) -> io::Result<[u8; KEY]> {
        if self.used >= self.bytes.len() {
            let filled = self.source.fill(&mut self.bytes);
            filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
            self.used = 0;
        }
        let key = self.bytes.get(self.used..).and_then(<[u8]>::first_chunk);
        self.used += KEY;
        key.copied()
            .ok_or_else(|| io::Error::other("no masking key"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn gives_a_masking_key_once() {
        let mut masks = Masks::default();
        let keys: HashSet<_> = (0..3 * KEYS).map(|_| masks.next().unwrap()).collect();
        assert_eq!(keys.len(), 3 * KEYS);
        assert!(!keys.contains(&[0; KEY]));
    }
}
