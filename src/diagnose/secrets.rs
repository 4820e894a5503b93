//! The last look at what is about to be given away: is a secret in it, in any of the forms that secrets
//! take on their way? Pure.
//!
//! A secret that is a word which adit says anyway, as `gateway`, is no secret where it stands alone: it
//! counts only where its place tells what it is. To leave such a word out would tell it, since everybody
//! knows what stands there otherwise.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::archive::File;
use crate::config::Known;
use crate::net::Hidden;

/// Bytes of the shortest secret that is looked for: a shorter one is in every text.
const SHORTEST: usize = 4;
/// Letters and digits of the shortest that is also looked for in disguise, where all else is left out.
const SHORTEST_DISGUISED: usize = 6;
/// Characters of base64 that are no accident.
const SHORTEST_BASE64: usize = 8;
/// What tells that a secret is what follows.
const NAMES: [&str; 3] = ["password", "secret", "token"];
/// Characters of the shortest token of the platform.
const SHORTEST_TOKEN: usize = 40;

/// A secret that was found.
#[derive(Debug)]
pub(super) struct Leak {
    /// The file that it is in.
    pub(super) file: &'static str,
    /// Where the secret comes from; nothing of the secret.
    pub(super) secret: String,
}

/// Whether a secret is a word that is in the archive anyway: letters alone or digits alone that stand in
/// one of the `public` texts.
pub(super) fn is_ordinary(known: &Known, public: &[&[u8]]) -> bool {
    let word = known.secret.expose().as_bytes();
    let is_word = word.iter().all(u8::is_ascii_alphabetic) || word.iter().all(u8::is_ascii_digit);
    let is_said = |text: &&[u8]| text.windows(word.len().max(1)).any(|part| part == word);
    is_word && word.len() >= SHORTEST && public.iter().any(is_said)
}

/// Returns all files that hold a secret, with which; an ordinary word is one in a telling place only.
pub(super) fn find(files: &[File], known: &[&Known], ordinary: &[&Known]) -> Vec<Leak> {
    let mut all = Hidden::default();
    for known in known.iter().filter(|known| can_be_disguised(known)) {
        all = all.and(known.secret.expose());
    }
    let mut leaks = Vec::new();
    for File { name, content } in files {
        let text = String::from_utf8_lossy(content);
        let unbroken: String = text.split_whitespace().collect();
        let may_be_disguised = all.is_in(&text);
        let mut leak = |secret: &str| {
            leaks.push(Leak {
                file: name,
                secret: secret.to_owned(),
            });
        };
        for known in known {
            let disguised = may_be_disguised && can_be_disguised(known);
            if is_in(known.secret.expose(), disguised, &text, &unbroken) {
                leak(&known.place);
            }
        }
        for known in ordinary {
            let word = known.secret.expose();
            if is_told(word, &text) || is_in_base64(word, &unbroken) {
                leak(&known.place);
            }
        }
        if has_token(&text) {
            leak("a token of the platform");
        }
        if text.contains("PRIVATE KEY-----") {
            leak("a private key");
        }
    }
    leaks
}

fn is_in(secret: &str, may_be_disguised: bool, text: &str, unbroken: &str) -> bool {
    secret.len() >= SHORTEST && text.contains(secret)
        || may_be_disguised && Hidden::default().and(secret).is_in(text)
        || is_in_base64(secret, unbroken)
}

/// Whether a word stands where only a secret does: behind its name, or as the password of a URL.
fn is_told(word: &str, text: &str) -> bool {
    let is_between = |c: char| " :='\"\\".contains(c);
    let text = text.to_ascii_lowercase();
    let pieces: Vec<_> = text.split(&word.to_ascii_lowercase()).collect();
    pieces.windows(2).any(|pair| {
        let [before, after] = pair else {
            return false;
        };
        let name = before.trim_end_matches(is_between);
        let between = before.strip_prefix(name).unwrap_or_default();
        let has_sign = between.contains([':', '=', '\'', '"']);
        has_sign && NAMES.iter().any(|known| name.ends_with(known))
            || before.ends_with(':') && after.starts_with('@')
    })
}

/// Returns those that are too short to be looked for.
pub(super) fn too_short(known: &[Known]) -> impl Iterator<Item = &Known> {
    let is_short = |known: &&Known| known.secret.expose().len() < SHORTEST;
    known.iter().filter(is_short)
}

fn can_be_disguised(known: &Known) -> bool {
    let letters = known.secret.expose().chars();
    letters.filter(|c| c.is_alphanumeric()).count() >= SHORTEST_DISGUISED
}

/// Whether a text has what base64 makes of a secret wherever it stands in what is encoded, as behind a
/// user and a colon: without the characters that its neighbours have a part in.
fn is_in_base64(secret: &str, unbroken: &str) -> bool {
    const BITS: usize = 6;
    for before in 0..3 {
        let bytes = [&[0; 3][..before], secret.as_bytes()].concat();
        let encoded = BASE64.encode(&bytes);
        let (from, to) = ((before * 8).div_ceil(BITS), bytes.len() * 8 / BITS);
        let form = encoded.get(from..to).unwrap_or_default();
        let for_urls = form.replace('+', "-").replace('/', "_");
        if form.len() >= SHORTEST_BASE64
            && (unbroken.contains(form) || unbroken.contains(&for_urls))
        {
            return true;
        }
    }
    false
}

/// Whether a text has what nobody told of, and what is a token by its looks.
fn has_token(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.split(|c| !is_letter(c)).any(|word| {
        word.len() >= SHORTEST_TOKEN && word.starts_with("eyJ") && word.matches('.').count() == 2
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;
    use crate::secret::Secret;

    const SECRET: &str = "h>nter2?/ü+~9";

    fn known(secret: &str) -> Known {
        Known::new("auth.password", Secret::new(secret))
    }

    fn found(text: &str, secret: &str) -> Vec<String> {
        let content = text.as_bytes().to_vec();
        let files = [File {
            name: "log.txt",
            content,
        }];
        let leaks = find(&files, &[&known(secret)], &[]);
        assert!(leaks.iter().all(|leak| leak.file == "log.txt"));
        leaks.into_iter().map(|leak| leak.secret).collect()
    }

    #[test]
    fn finds_a_secret_in_every_form() {
        for form in [
            SECRET.to_owned(),
            SECRET.to_uppercase(),
            "h%3Enter2%3F%2F%C3%BC%2B~9".to_owned(),
            "h%3enter2%3f%2f%c3%bc%2b%7e9".to_owned(),
            r"h>nter2?\/\u00fc+~9".to_owned(),
            "h&#62;nter2?/&#xfc;+~9".to_owned(),
            STANDARD.encode(SECRET),
            STANDARD.encode(format!("t1/device_gw:{SECRET}")),
            STANDARD.encode(format!("u:{SECRET}")),
            STANDARD.encode(format!("us:{SECRET}, and more")),
            URL_SAFE.encode(format!("abc{SECRET}???")),
        ] {
            let text = format!("before{form}after\n");
            assert_eq!(found(&text, SECRET), ["auth.password"], "{form}");
        }
        let broken = STANDARD.encode(format!("user:{SECRET}"));
        let (one, other) = broken.split_at(14);
        assert_eq!(found(&format!("{one}\n  {other}"), SECRET).len(), 1);
    }

    #[test]
    fn finds_nothing_in_other_words() {
        for text in ["", "hunter2", "auth.password = <set>", "eyJ.a.b", "-----"] {
            assert_eq!(found(text, SECRET), [""; 0], "{text}");
        }
        // A short one is looked for as it is, and the shortest not at all.
        assert_eq!(found("a 1-2-3-4 b", "1234"), [""; 0]);
        assert_eq!(found("a 1234 b", "1234"), ["auth.password"]);
        assert_eq!(found("a 123 b", "123"), [""; 0]);
        assert_eq!(too_short(&[known("123")]).count(), 1);
        assert_eq!(too_short(&[known("1234")]).count(), 0);
    }

    #[test]
    fn knows_an_ordinary_word_by_what_is_public() {
        let public: [&[u8]; 2] = [b"adit at the gateway, port 8883 or x7f9 ", b"fabrik"];
        for (secret, expected) in [
            ("gateway", true),
            ("8883", true),
            ("fabrik", true),
            ("x7f9", false),
            ("Gateway", false),
            ("gateways", false),
            ("the", false),
            ("at the", false),
            ("", false),
        ] {
            assert_eq!(is_ordinary(&known(secret), &public), expected, "{secret}");
        }
    }

    #[test]
    fn takes_an_ordinary_word_for_a_secret_only_where_that_is_told() {
        for (text, is_leak) in [
            ("the gateway of gateway-7: gateway", false),
            ("auth.password = <set> gateway", false),
            ("auth.password_file = \"/etc/gateway\"", false),
            ("no password gateway", false),
            ("{\"password\":\"gateway\"}", true),
            ("{\\\"password\\\": \\\"Gateway\\\"}", true),
            ("a gateway with PASSWORD=gateway", true),
            ("token: gateway", true),
            ("http://gateway:gateway@proxy", true),
            ("http://gateway:8080/@", false),
            (&STANDARD.encode("t1/device_gateway:gateway"), true),
        ] {
            let content = text.as_bytes().to_vec();
            let name = "log.txt";
            let files = [File { name, content }];
            let leaks = find(&files, &[], &[&known("gateway")]);
            assert_eq!(!leaks.is_empty(), is_leak, "{text}");
        }
    }

    #[test]
    fn knows_tokens_and_keys_by_their_looks() {
        let token = format!(
            "Bearer eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl",
            "a".repeat(30)
        );
        assert_eq!(found(&token, SECRET), ["a token of the platform"]);
        let key = "-----BEGIN EC PRIVATE KEY-----";
        assert_eq!(found(key, SECRET), ["a private key"]);
    }
}
