//! The plan of the house in `docs/architecture.md` is the one that `tests/house.rs` holds.

use crate::pages::{cells, page};
use crate::source::{Token, sources};

const ARCHITECTURE: &str = "docs/architecture.md";

/// Returns the texts of each list of a constant of `tests/house.rs`.
fn lists(constant: &str) -> Vec<Vec<String>> {
    let sources = sources("tests/house.rs");
    let tokens = &sources[0].tokens;
    let is_start = |token: &Token| *token == Token::Word(constant.to_owned());
    let declared = tokens.iter().skip_while(|token| !is_start(token));
    let value = declared.skip_while(|token| **token != Token::Mark('='));
    let value = value.take_while(|token| **token != Token::Mark(';'));
    let value: Vec<_> = value.cloned().collect();
    let lists = value.split(|token| *token == Token::Mark('['));
    let texts = |list: &[Token]| {
        let texts = list.iter().filter_map(|token| match token {
            Token::Text(text) => Some(text.clone()),
            Token::Word(_) | Token::Mark(_) => None,
        });
        texts.collect::<Vec<_>>()
    };
    lists.map(texts).filter(|list| !list.is_empty()).collect()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn draws_the_floors_as_they_are() {
    let text = page(ARCHITECTURE).text;
    let rows = text.lines().filter_map(cells);
    let rows = rows.skip_while(|cells| cells[0] != "floor").skip(2);
    let drawn: Vec<_> = rows
        .take_while(|cells| cells.len() == 3)
        .map(|cells| quoted(cells[1]))
        .collect();
    let mut floors = lists("FLOORS");
    floors.extend(lists("ROOF"));
    assert!(floors.len() > 10, "{floors:?}");
    assert_eq!(drawn[..floors.len()], floors, "{ARCHITECTURE}");
}

#[test]
fn names_what_is_pure() {
    let text = page(ARCHITECTURE).text;
    let named = text.split("**What decides is pure**").nth(1);
    let named = named.and_then(|rest| rest.split(". The lints").next());
    let named = quoted(named.unwrap_or_default());
    assert_eq!(named, lists("PURE").concat(), "{ARCHITECTURE}");
}
