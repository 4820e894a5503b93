//! The answer to a request for a token: as a payload, or as the claims of a token.
//!
//! A life is never nothing and never longer than a day, and what is no token is no header.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use smartrest::{Row, Token, Topics};

use super::RUNTIME;
use crate::auth::token::{Tokens, header};
use crate::platform::downlink::Downlink;

const DAY: Duration = Duration::from_hours(24);

/// The first byte says which of the two.
pub(super) fn run(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let claims = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(rest));
    let payload = match first % 2 {
        0 => rest.to_vec(),
        _ => format!("71,{claims}").into_bytes(),
    };
    let topics = Topics::default();
    let Some(Downlink::Token(answer)) = Downlink::read(&topics, &topics.token(), &payload) else {
        panic!("the topic of tokens brings nothing else");
    };
    let is_token = answer.is_ok();
    if let Ok(token) = &answer {
        check(token);
    }
    let tokens = Tokens::default();
    tokens.take(answer);
    let authorization = RUNTIME.with(|runtime| {
        let _time = runtime.enter();
        tokens.authorization().now_or_never()
    });
    match authorization {
        Some(Ok(header)) => {
            assert!(is_token);
            let value = header.expose();
            assert!(value.starts_with("Bearer "));
            assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
        Some(Err(_)) | None => assert!(!is_token),
    }
}

fn check(token: &Token) {
    let (_, life) = header(token);
    assert!(life > Duration::ZERO && life <= DAY, "{life:?}");
    let again = Row::new(["71", token.expose()]);
    assert!(Token::from_row(&again).is_ok());
}
