//! The table of exit codes has every command, and every code that its help names.

use crate::pages::{cells, page};
use crate::source::sources;

const OPERATE: &str = "docs/operate.md";

/// The commands whose help tells exit codes, with these.
fn commands() -> Vec<(String, Vec<String>)> {
    let sources = sources("src/cli");
    let texts = sources.iter().flat_map(|source| source.texts());
    let told = texts.filter_map(|help| {
        let (examples, codes) = help.split_once("Exit status:")?;
        let command = examples.split("\n  adit ").nth(1)?;
        let command = command.split_whitespace().next()?;
        let words = codes.split(|c: char| !c.is_alphanumeric());
        let codes = words.filter(|word| word.parse::<u8>().is_ok());
        Some((command.to_owned(), codes.map(str::to_owned).collect()))
    });
    // That of the command as a whole names no command of its own.
    told.filter(|(command, _)| !command.starts_with('-'))
        .collect()
}

#[test]
fn tells_the_exit_codes_of_every_command() {
    let text = page(OPERATE).text;
    let rows = text.lines().filter_map(cells);
    let mut rows = rows.skip_while(|cells| !cells.starts_with(&["code"]));
    let head = rows.next().unwrap();
    let rows: Vec<_> = rows.take_while(|cells| cells.len() == head.len()).collect();
    let commands = commands();
    assert!(commands.len() > 4, "the help is read wrongly: {commands:?}");
    for (command, codes) in commands {
        let name = format!("`adit {command}`");
        let column = head.iter().position(|cell| *cell == name);
        let column = column.unwrap_or_else(|| panic!("no column {name} in {OPERATE}, Exit codes"));
        for code in codes {
            let row = rows.iter().find(|cells| cells[0] == code);
            let cell = row.and_then(|cells| cells.get(column)).copied();
            assert!(
                cell.is_some_and(|cell| !cell.is_empty()),
                "{OPERATE}, Exit codes: nothing of {code} for {name}"
            );
        }
    }
}
