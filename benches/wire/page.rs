//! The table, and the documents that it goes into.

use std::fs;
use std::path::Path;

use crate::chart;
use crate::figures::{Figure, Target};
use crate::machine;
use crate::options::Options;

/// What stands between these lines of a document is written by the bench, all else by people.
const BEGIN: &str = "<!-- written by cargo bench --bench wire -->";
const END: &str = "<!-- end -->";

/// The figures as a table in Markdown.
pub(crate) fn table(figures: &[Figure]) -> String {
    let head = [
        "figure",
        "adit",
        "floor",
        "adit ÷ floor",
        "range",
        "floor's noise",
        "target",
    ];
    let rows: Vec<_> = figures.iter().map(row).collect();
    markdown(&head, &rows)
}

/// Writes the results into the documents of the repository.
pub(crate) fn write(figures: &[Figure], options: &Options) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let described = machine::description(options);
    let list = described
        .iter()
        .map(|(name, value)| format!("- {name}: {value}\n"));
    let rounds = options.rounds;
    let page = format!(
        "{}\n{rounds} rounds after one to warm up.\n\n{}",
        list.collect::<String>(),
        table(figures)
    );
    replace(&root.join("docs/performance.md"), &page);
    replace(&root.join("README.md"), &summary(figures));
    fs::write(root.join("docs/performance.svg"), chart::draw(figures)).unwrap();
}

/// The figures that have a target, without what only a person who measures wants to know.
fn summary(figures: &[Figure]) -> String {
    let aimed = |figure: &&Figure| !matches!(figure.target, Target::None);
    let rows = figures.iter().filter(aimed).map(row);
    let rows: Vec<_> = rows
        .map(|[title, adit, _, ratio, ..]| [title, adit, ratio])
        .collect();
    markdown(&["figure", "adit", "÷ floor"], &rows)
}

fn row(figure: &Figure) -> [String; 7] {
    let value = |value: f64| {
        let text = format!("{value:.*} {}", figure.decimals, figure.unit);
        text.trim_end().to_owned()
    };
    let none = || "–".to_owned();
    let mark = match figure.reached() {
        Some(true) => " ✓",
        Some(false) => " ✗",
        None => "",
    };
    let target = match figure.target {
        Target::Ratio(most) => format!("≤ {most:.1} ×{mark}"),
        Target::Value(most) => format!("≤ {most} {}", figure.unit).trim_end().to_owned() + mark,
        Target::None => none(),
    };
    let (floor, ratio, range, noise) = match &figure.beside {
        Some(beside) => (
            value(beside.floor),
            format!("**{:.2} ×**", beside.ratio),
            format!("{:.2} to {:.2}", beside.range.0, beside.range.1),
            format!("{:.0} %", beside.noise * 100.0),
        ),
        None => (none(), none(), none(), none()),
    };
    let adit = value(figure.adit);
    [
        figure.title.clone(),
        adit,
        floor,
        ratio,
        range,
        noise,
        target,
    ]
}

fn markdown<const N: usize>(head: &[&str; N], rows: &[[String; N]]) -> String {
    let rule = ["---"; N].join("|");
    let rows = rows.iter().map(|row| format!("| {} |\n", row.join(" | ")));
    format!(
        "| {} |\n|{rule}|\n{}",
        head.join(" | "),
        rows.collect::<String>()
    )
}

/// Puts `written` between the marks of a document.
fn replace(file: &Path, written: &str) {
    let text = fs::read_to_string(file).unwrap();
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the document marks the beginning");
    let (_, after) = rest.split_once(END).expect("the document marks the end");
    fs::write(file, format!("{before}{BEGIN}\n{written}{END}{after}")).unwrap();
}
