//! The form in which somebody types the token.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Bytes of a form: a token at its longest, each character written with three.
const SIZE_LIMIT: usize = 16 << 10;
/// How long it may take to come.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Returns the token of a form; `None` where there is none, or it is too long or too slow.
pub(super) async fn token(body: Incoming) -> Option<Secret> {
    let bytes = timeout(TIME_LIMIT, whole(body)).await.ok()??;
    let fields = bytes.split(|&byte| byte == b'&');
    let mut tokens = fields.filter_map(|field| field.strip_prefix(b"token="));
    decode(tokens.next()?).map(|text| Secret::new(text.trim()))
}

async fn whole(mut body: Incoming) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SIZE_LIMIT));
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.ok()?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > SIZE_LIMIT {
            return None;
        }
        bytes.extend_from_slice(&data);
    }
    Some(bytes)
}

/// Decodes `application/x-www-form-urlencoded`.
fn decode(text: &[u8]) -> Option<Zeroizing<String>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_browser_makes_of_a_text() {
        for (written, text) in [
            (&b"a+b%2Bc%26%3d"[..], Some("a b+c&=")),
            (b"", Some("")),
            (b"%c3%bc", Some("\u{fc}")),
            (b"%c3", None),
            (b"%4", None),
            (b"%zz", None),
        ] {
            assert_eq!(decode(written).as_deref().map(String::as_str), text);
        }
    }
}
