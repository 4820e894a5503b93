//! The ratios to the floor as bars.

use std::fmt::Write as _;

use crate::figures::{Figure, Target};

const WIDTH: f64 = 760.0;
/// Room for the titles, left of the bars.
const LABELS: f64 = 330.0;
/// Room for the numbers, right of the longest bar.
const NUMBERS: f64 = 70.0;
const ROW: f64 = 30.0;
const TOP: f64 = 46.0;

/// Draws every figure that has a floor; colours are legible on white and on black.
pub(crate) fn draw(figures: &[Figure]) -> String {
    let rows: Vec<_> = figures
        .iter()
        .filter_map(|figure| Some((figure, figure.beside.as_ref()?)))
        .collect();
    let longest = rows
        .iter()
        .map(|(_, beside)| beside.range.1)
        .fold(1.5, f64::max);
    let scale = (WIDTH - LABELS - NUMBERS) / longest;
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let one = LABELS + scale;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#808080\">\n\
         <title>adit as a ratio to the floor, less is better</title>\n\
         <text x=\"{one:.1}\" y=\"16\" text-anchor=\"middle\">floor</text>\n\
         <text x=\"{LABELS}\" y=\"36\" text-anchor=\"end\" dx=\"-10\" font-size=\"11\">\
         less is better; tick: target, line: range of the rounds</text>\n"
    );
    for (index, (figure, beside)) in rows.iter().enumerate() {
        let top = TOP + ROW * index as f64;
        let middle = top + 8.0;
        let text = top + 13.0;
        let bar = beside.ratio * scale;
        let (low, high) = (
            LABELS + beside.range.0 * scale,
            LABELS + beside.range.1 * scale,
        );
        let title = &figure.title;
        let colour = match figure.reached() {
            Some(true) => "#2f8f5b",
            Some(false) => "#d9822b",
            None => "#6f87a8",
        };
        let labels = LABELS - 10.0;
        let number = high.max(LABELS + bar) + 8.0;
        let ratio = beside.ratio;
        let _ = write!(
            svg,
            "<text x=\"{labels}\" y=\"{text}\" text-anchor=\"end\">{title}</text>\n\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{bar:.1}\" height=\"16\" rx=\"2\" \
             fill=\"{colour}\"/>\n\
             <path d=\"M{low:.1} {middle}H{high:.1}\" stroke=\"#808080\"/>\n\
             <text x=\"{number:.1}\" y=\"{text}\">{ratio:.2} ×</text>\n"
        );
        if let Target::Ratio(most) = figure.target {
            let x = LABELS + most * scale;
            let (from, to) = (top - 3.0, top + 19.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {from}V{to}\" stroke=\"#808080\" stroke-width=\"2\"/>"
            );
        }
    }
    let bottom = height - 6.0;
    let _ = write!(
        svg,
        "<path d=\"M{one:.1} 24V{bottom}\" stroke=\"#808080\" stroke-dasharray=\"3 4\"/>\n</svg>\n"
    );
    svg
}
