//! The sources as tokens: enough of the language to find what is logged and what is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::code::{File, files};

/// A token of a source file. Comments and blanks are none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    /// A name, a keyword or a number.
    Word(String),
    /// A text, as it is when the program runs.
    Text(String),
    /// Anything else.
    Mark(char),
}

/// A file without its unit tests.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) tokens: Vec<Token>,
}

impl Source {
    /// Returns all texts.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Text(text) => Some(text.as_str()),
            Token::Word(_) | Token::Mark(_) => None,
        })
    }

    /// Returns the constants that are a text, by name.
    pub(crate) fn constants(&self) -> BTreeMap<&str, &str> {
        let named = |tokens: &[Token]| match tokens {
            [
                Token::Word(keyword),
                Token::Word(_),
                Token::Mark(':'),
                Token::Mark('&'),
                Token::Word(kind),
                Token::Mark('='),
                Token::Text(_),
            ] => keyword == "const" && kind == "str",
            _ => false,
        };
        let found = self.tokens.windows(7).filter(|tokens| named(tokens));
        found
            .filter_map(|tokens| match (tokens.get(1)?, tokens.last()?) {
                (Token::Word(name), Token::Text(text)) => Some((name.as_str(), text.as_str())),
                _ => None,
            })
            .collect()
    }

    /// Returns what stands between the parentheses of each call of a macro.
    pub(crate) fn calls<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [Token]> {
        let is_call = move |at: &usize| match self.tokens.get(*at..*at + 3) {
            Some([Token::Word(word), Token::Mark('!'), Token::Mark('(')]) => word == name,
            _ => false,
        };
        let starts = (0..self.tokens.len()).filter(is_call);
        starts.filter_map(|at| within(self.tokens.get(at + 3..)?))
    }
}

/// What stands before the parenthesis that closes one before `tokens`.
fn within(tokens: &[Token]) -> Option<&[Token]> {
    let mut depth = 1;
    let end = tokens.iter().position(|token| {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    tokens.get(..end)
}

/// Parts the arguments of a call at its commas.
pub(crate) fn arguments(tokens: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0;
    let is_comma = |token: &Token| {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        depth == 0 && *token == Token::Mark(',')
    };
    tokens.split(is_comma).collect()
}

/// Reads every source file of the command below a folder of this repository.
pub(crate) fn sources(place: &str) -> Vec<Source> {
    let with_tokens = |File { path, code }| Source {
        path,
        tokens: tokens(&code),
    };
    files(place).into_iter().map(with_tokens).collect()
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let tail = &rest[c.len_utf8()..];
        rest = if rest.starts_with("//") {
            rest.split_once('\n').map_or("", |(_, tail)| tail)
        } else if rest.starts_with("/*") {
            behind_comment(rest)
        } else if let Some((text, tail)) = raw_text(rest) {
            tokens.push(Token::Text(text));
            tail
        } else if c == '"' || rest.starts_with("b\"") {
            let (text, tail) = text(rest.trim_start_matches('b'));
            tokens.push(Token::Text(text));
            tail
        } else if c == '\'' {
            behind_character_or_lifetime(tail)
        } else if is_of_word(c) {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            &rest[end..]
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Mark(c));
            }
            tail
        };
    }
    tokens
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn behind_comment(code: &str) -> &str {
    let mut depth = 0;
    let mut rest = code;
    loop {
        if let Some(tail) = rest.strip_prefix("/*") {
            depth += 1;
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("*/") {
            depth -= 1;
            rest = tail;
        } else {
            let mut chars = rest.chars();
            if chars.next().is_none() {
                return rest;
            }
            rest = chars.as_str();
        }
        if depth == 0 {
            return rest;
        }
    }
}

/// `r"…"` and `r#"…"#`, also of bytes.
fn raw_text(code: &str) -> Option<(String, &str)> {
    let rest = code.strip_prefix('b').unwrap_or(code).strip_prefix('r')?;
    let fences = rest.len() - rest.trim_start_matches('#').len();
    let rest = rest[fences..].strip_prefix('"')?;
    let (text, tail) = rest.split_once(&format!("\"{}", "#".repeat(fences)))?;
    Some((text.to_owned(), tail))
}

/// A text from its opening quotation mark on.
fn text(code: &str) -> (String, &str) {
    let mut text = String::new();
    let mut rest = code[1..].chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => match rest.next() {
                // A line that goes on: the blanks that begin the next are left out.
                Some('\n') => rest = rest.as_str().trim_start().chars(),
                Some('n') => text.push('\n'),
                Some('u') => {
                    let (digits, tail) = rest.as_str()[1..].split_once('}').unwrap();
                    text.extend(
                        u32::from_str_radix(digits, 16)
                            .ok()
                            .and_then(char::from_u32),
                    );
                    rest = tail.chars();
                }
                Some(c) => text.push(c),
                None => break,
            },
            c => text.push(c),
        }
    }
    (text, rest.as_str())
}

/// `'a'` and `'\n'` are characters, `'a` is not.
fn behind_character_or_lifetime(code: &str) -> &str {
    let mut chars = code.chars();
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => {
            let end = code[2..].find('\'').map_or(code.len(), |end| end + 3);
            &code[end..]
        }
        (Some(_), Some('\'')) => chars.as_str(),
        _ => code,
    }
}

#[test]
fn reads_rust() {
    let word = |word: &str| Token::Word(word.to_owned());
    let text = |text: &str| Token::Text(text.to_owned());
    let code = r####"
        // warn!("no")
        /* /* "no" */ "no" */
        fn a<'b>(c: &'b str) -> char { '"' } '\'' '\u{2026}'
        "a \"quoted\" {b}, \
         on" r#"raw "text""# b"bytes" "\u{2026}"
    "####;
    let texts: Vec<_> = tokens(code)
        .into_iter()
        .filter(|token| matches!(token, Token::Text(_)))
        .collect();
    assert_eq!(
        texts,
        [
            text("a \"quoted\" {b}, on"),
            text("raw \"text\""),
            text("bytes"),
            text("…")
        ]
    );
    assert!(tokens(code).contains(&word("char")));
}
