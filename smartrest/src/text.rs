//! Texts that adit words itself: failure reasons and events.

/// Makes a text that every reader of SmartREST takes in the same way, in at most `limit` bytes.
///
/// Readers disagree on how a double quote is escaped, so `'` stands for it. Line breaks, other
/// control characters and marks of direction become spaces, so that a reason stays on one line and
/// reads as it is written. White space around the
/// text goes, and a run of it becomes one space.
pub fn plain_text(text: &str, limit: usize) -> String {
    let mut plain = String::new();
    let mut gap = false;
    for character in text.chars().map(plain_char) {
        if character.is_whitespace() {
            gap = !plain.is_empty();
            continue;
        }
        // Nothing is read beyond what is kept, so a text of megabytes costs no more than that.
        if plain.len() + usize::from(gap) + character.len_utf8() > limit {
            break;
        }
        if std::mem::take(&mut gap) {
            plain.push(' ');
        }
        plain.push(character);
    }
    plain
}

fn plain_char(character: char) -> char {
    match character {
        '"' => '\'',
        // Whoever can turn the direction can make a line of the log read as another.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            ' '
        }
        _ if character.is_control() => ' ',
        _ => character,
    }
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
                "one two three four five",
            ),
            ("\0a\u{7f}b\u{85}c\u{1b}[1m", 99, "a b c [1m"),
            ("a\u{202e}b\u{2067}c\u{200f}d\u{61c}", 99, "a b c d"),
            ("  around  a gap \n", 99, "around a gap"),
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
