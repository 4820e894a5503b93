//! Texts that adit words itself: failure reasons and events.

/// Makes a text that every reader of SmartREST takes in the same way, in at most `limit` bytes.
///
/// Readers disagree on how a double quote is escaped, so `'` stands for it. Line breaks and other
/// control characters become spaces, so that a reason stays on one line. White space around the
/// text goes.
pub fn plain_text(text: &str, limit: usize) -> String {
    // What is kept is at most `limit` bytes from where the text begins, so a text of megabytes
    // costs no more than that.
    let text = text.trim_start_matches(is_blank);
    let start = &text[..text.floor_char_boundary(limit)];
    let plain: String = start.chars().map(plain_char).collect();
    plain.trim_end().to_owned()
}

fn plain_char(character: char) -> char {
    match character {
        '"' => '\'',
        '\u{2028}' | '\u{2029}' => ' ',
        _ if character.is_control() => ' ',
        _ => character,
    }
}

fn is_blank(character: char) -> bool {
    plain_char(character).is_whitespace()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keeps_a_text_on_one_line_without_double_quotes() {
        for (text, limit, plain) in [
            ("cannot reach plc-7:22", 99, "cannot reach plc-7:22"),
            (r#"said "no""#, 99, "said 'no'"),
            (
                "one\ntwo\r\nthree\tfour\u{2028}five",
                99,
                "one two  three four five",
            ),
            ("\0a\u{7f}b\u{85}c\u{1b}[1m", 99, "a b c [1m"),
            ("  around \n", 99, "around"),
            ("cut here", 4, "cut"),
            ("über", 1, ""),
            ("über", 2, "ü"),
            ("", 0, ""),
            ("\n\n", 9, ""),
        ] {
            assert_eq!(plain_text(text, limit), plain, "{text:?} in {limit}");
        }
    }

    proptest! {
        #[test]
        fn stays_within_the_limit_and_changes_nothing_twice(text: String, limit in 0_usize..64) {
            let plain = plain_text(&text, limit);
            prop_assert!(plain.len() <= limit);
            prop_assert!(!plain.contains(|c: char| c == '"' || c.is_control()));
            prop_assert_eq!(plain_text(&plain, limit), plain);
        }
    }
}
