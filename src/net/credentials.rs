//! The value of an `Authorization` header, and what of it no peer may have repeated.
//!
//! A server that refuses a request often says why, and some repeat the request in it: whole, cut
//! into JSON, in a URL, in a page. Whatever a peer said is looked at here before anybody reads it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use smartrest::plain_text;

use crate::secret::Secret;

/// Forms within forms that are taken apart, as percent signs in JSON in a page.
const NESTING_LIMIT: usize = 4;

/// Returns the value of an `Authorization` header for a user without a colon and a password.
pub(crate) fn basic(user: &str, password: &Secret) -> Secret {
    let pair = format!("{user}:{}", password.expose());
    Secret::new(format!("Basic {}", BASE64.encode(pair)))
}

/// What the words of a peer must not show.
#[derive(Default)]
pub(crate) struct Hidden(Vec<Secret>);

impl Hidden {
    /// Hides a text as well.
    #[must_use]
    pub(crate) fn and(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            self.0.push(Secret::new(secret));
        }
        self
    }

    /// Hides the credentials of a header's value as well, and the password in them.
    #[must_use]
    pub(crate) fn and_header(self, value: &Secret) -> Self {
        let value = value.expose();
        let credentials = value.split_once(' ').map_or(value, |pair| pair.1);
        let decoded = BASE64.decode(credentials).ok();
        let password = decoded
            .as_deref()
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| pair.split_once(':'))
            .map_or("", |pair| pair.1);
        self.and(credentials).and(password)
    }

    /// Whether a text repeats something that is hidden: in upper or lower case, broken over lines,
    /// or in the escapes of URLs, JSON and HTML.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let mut text = text.to_lowercase();
        for _ in 0..NESTING_LIMIT {
            let letters = letters(&text);
            let repeats = |secret: &Secret| {
                let secret = secret.expose().to_lowercase();
                let bare = self::letters(&secret);
                text.contains(&secret) || (!bare.is_empty() && letters.contains(&bare))
            };
            if self.0.iter().any(repeats) {
                return true;
            }
            let plainer = unescape(&text).to_lowercase();
            if plainer == text {
                break;
            }
            text = plainer;
        }
        false
    }

    /// Makes what a peer said fit to be shown, in at most `limit` bytes; empty if it must not be.
    pub(crate) fn words(&self, text: &str, limit: usize) -> String {
        match self.is_in(text) {
            true => String::new(),
            false => plain_text(text, limit),
        }
    }
}

fn letters(text: &str) -> String {
    text.replace(|c: char| !c.is_alphanumeric(), "")
}

/// Takes one layer of escapes from a text in lower case: `%2d`, `\u002d`, `\/`, `&#45;`, `&#x2d;`.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, bytes) = escape(rest).unwrap_or_else(|| {
            let mut bytes = [0; 4];
            let bytes = first.encode_utf8(&mut bytes).as_bytes().to_vec();
            (first.len_utf8(), bytes)
        });
        plain.extend(bytes);
        rest = rest.get(length..).unwrap_or_default();
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Returns how long the escape is that a text begins with, and what it stands for.
fn escape(text: &str) -> Option<(usize, Vec<u8>)> {
    let character = |code: u32| char::from_u32(code).unwrap_or(' ').to_string().into_bytes();
    let hex = |digits: &str| match digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => u32::from_str_radix(digits, 16).ok(),
        false => None,
    };
    if let Some(rest) = text.strip_prefix('%') {
        let byte = u8::try_from(hex(rest.get(..2)?)?).ok()?;
        return Some((3, vec![byte]));
    }
    if let Some(rest) = text.strip_prefix("\\u") {
        return Some((6, character(hex(rest.get(..4)?)?)));
    }
    if let Some(rest) = text.strip_prefix('\\') {
        // `\n` is a line break, `\/` a slash; neither is of a secret, but both may stand in one.
        let escaped = rest.chars().next()?;
        let stands_for = match escaped {
            'b' | 'f' | 'n' | 'r' | 't' => ' ',
            other => other,
        };
        return Some((1 + escaped.len_utf8(), stands_for.to_string().into_bytes()));
    }
    let (digits, _) = text.strip_prefix("&#")?.split_once(';')?;
    let code = match digits.strip_prefix('x') {
        Some(digits) => hex(digits)?,
        None => digits.parse().ok()?,
    };
    Some(("&#;".len() + digits.len(), character(code)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "3F2c-Key/é";

    fn hidden() -> Hidden {
        let header = basic("t1/device_gw", &Secret::new("Hunter: 2"));
        Hidden::default().and(KEY).and_header(&header)
    }

    #[test]
    fn finds_a_secret_in_every_disguise() {
        for text in [
            "no tunnel 3F2c-Key/é",
            "NO TUNNEL 3F2C-KEY/É",
            "3f2c-\n\u{7}key é",
            "/service/3F2c%2DKey%2F%C3%A9",
            "%2Fservice%252F3f2c%252dkey%252f%25c3%25a9",
            r#"{"path":"\/3F2c\u002dKey\/\u00e9"}"#,
            r#"{"path":"\u0033\u0046\u0032\u0063-KEY\/\u00C9"}"#,
            "<p>&#51;F2c&#x2D;Key/&#233;</p>",
            r"%5Cu00333f2c-key/%5cu00e9",
            "Authorization: Basic dDEvZGV2aWNlX2d3Okh1bnRlcjogMg==",
            "basic DDEVZGV2AWNLX2D3OKH1BNRLCJOGMG",
            "wrong password 'hunter: 2'",
            r"hunter\u003A\u00202",
            "hunter%3A+2",
        ] {
            assert!(hidden().is_in(text), "{text}");
            assert_eq!(hidden().words(text, 99), "", "{text}");
        }
        let bearer = Hidden::default().and_header(&Secret::new("Bearer eyJ.abc-d_e"));
        assert!(bearer.is_in("token EYJ.ABC-D_E refused"));
    }

    #[test]
    fn leaves_other_words_alone() {
        for (text, shown) in [
            ("", ""),
            ("key 3f2c", "key 3f2c"),
            (
                "100 % of \\ & &#; %zz \\u12 %",
                "100 % of \\ & &#; %zz \\u12 %",
            ),
            (
                "user t1/device_gw\r\n\"unknown\"",
                "user t1/device_gw 'unknown'",
            ),
        ] {
            assert_eq!(hidden().words(text, 99), shown);
            assert_eq!(Hidden::default().and("").words(text, 99), shown);
        }
        assert_eq!(hidden().words("too long", 5), "too l");
    }

    proptest! {
        #[test]
        fn finds_a_secret_in_escapes_of_any_mix(
            before in "[^a-z%&\\\\]{0,5}",
            forms in prop::collection::vec(0..6, 8),
        ) {
            let secret = "k3y-A7/z";
            let escaped: String = secret.chars().zip(forms).map(|(c, form)| {
                let code = u32::from(c);
                match form {
                    0 => format!("%{code:02x}"),
                    1 => format!("%25{code:02X}"),
                    2 => format!("\\u{code:04X}"),
                    3 => format!("&#{code};"),
                    4 => c.to_ascii_uppercase().to_string(),
                    _ => c.to_string(),
                }
            }).collect();
            let text = format!("{before}{escaped}");
            prop_assert!(Hidden::default().and(secret).is_in(&text), "{}", text);
        }

        #[test]
        fn takes_any_text(text: String) {
            hidden().words(&text, 20);
            unescape(&text);
        }
    }
}
