//! In which order ciphers are offered.
//!
//! AES is fast where the processor has instructions for it, and several times slower than ChaCha20
//! where it has not, as on 32-bit ARM (for which the library has no such code at all) and on some
//! boards with ARMv8. That is decided on the machine at hand. A server that heeds the order of its
//! client takes the first; the others stay on offer.

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};

/// Says whether AES is done by instructions of the processor, which the TLS library uses.
pub(super) fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let answer = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let answer = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let answer = false;
    answer
}

/// The ciphers by name, in the order in which they are offered.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Cipher {
    Aes128,
    Aes256,
    ChaCha20,
}

impl Cipher {
    fn of(suite: CipherSuite) -> Self {
        match suite {
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Self::Aes256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Self::ChaCha20,
            _ => Self::Aes128,
        }
    }

    /// Lower is earlier. AES-128 is as good as AES-256 for what a tunnel carries, and a fifth
    /// faster.
    fn rank(self, has_aes: bool) -> u8 {
        match (self, has_aes) {
            (Self::ChaCha20, false) => 0,
            (Self::Aes128, _) => 1,
            (Self::Aes256, _) => 2,
            (Self::ChaCha20, true) => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "AES-128-GCM",
            Self::Aes256 => "AES-256-GCM",
            Self::ChaCha20 => "ChaCha20-Poly1305",
        }
    }
}

/// Returns the TLS library's algorithms with the ciphers in order.
pub(super) fn provider(has_aes: bool) -> CryptoProvider {
    let mut provider = ring::default_provider();
    // Stable: within a cipher, the order of versions and signatures is the library's.
    let rank = |suite: &SupportedCipherSuite| Cipher::of(suite.suite()).rank(has_aes);
    let (mut new, mut old): (Vec<_>, Vec<_>) = provider
        .cipher_suites
        .into_iter()
        .partition(|suite| suite.tls13().is_some());
    new.sort_by_key(rank);
    old.sort_by_key(rank);
    new.append(&mut old);
    provider.cipher_suites = new;
    provider
}

/// Says what was agreed on, and what was offered.
pub(super) fn in_words(
    version: Option<ProtocolVersion>,
    suite: SupportedCipherSuite,
    has_aes: bool,
) -> String {
    let version = match version {
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS 1.3",
    };
    let mut order = [Cipher::Aes128, Cipher::Aes256, Cipher::ChaCha20];
    order.sort_by_key(|cipher| cipher.rank(has_aes));
    let [first, second, third] = order.map(Cipher::name);
    let has = if has_aes { "has" } else { "has no" };
    format!(
        "{version} with {}; offered were {first}, {second} and {third} in this order, as this \
         processor {has} AES instructions",
        Cipher::of(suite.suite()).name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_first_what_is_fast_on_this_machine() {
        for (has_aes, order) in [
            (true, [Cipher::Aes128, Cipher::Aes256, Cipher::ChaCha20]),
            (false, [Cipher::ChaCha20, Cipher::Aes128, Cipher::Aes256]),
        ] {
            let suites = provider(has_aes).cipher_suites;
            let (new, old): (Vec<SupportedCipherSuite>, Vec<_>) =
                suites.iter().partition(|suite| suite.tls13().is_some());
            for suites in [&new, &old] {
                let mut ciphers: Vec<_> = suites
                    .iter()
                    .map(|suite| Cipher::of(suite.suite()))
                    .collect();
                ciphers.dedup();
                assert_eq!(ciphers, order, "{has_aes}");
            }
            // TLS 1.3 comes before TLS 1.2, and nothing is lost.
            assert!(suites.starts_with(&new));
            assert_eq!(suites.len(), ring::default_provider().cipher_suites.len());
        }
    }

    #[test]
    fn says_what_is_spoken_and_why() {
        let suite = ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
        assert_eq!(
            in_words(Some(ProtocolVersion::TLSv1_2), suite, false),
            "TLS 1.2 with AES-256-GCM; offered were ChaCha20-Poly1305, AES-128-GCM and AES-256-GCM in \
             this order, as this processor has no AES instructions"
        );
        let suite = ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        assert!(in_words(Some(ProtocolVersion::TLSv1_3), suite, true).starts_with(
            "TLS 1.3 with AES-128-GCM; offered were AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305"
        ));
    }
}
