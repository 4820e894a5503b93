//! A link as a QR code on a terminal, so that a telephone can open it.

use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around a code (ISO/IEC 18004, 9.1).
const QUIET: i32 = 4;
/// Black on white whatever the terminal's colours are: cameras read no white on black.
const COLOURS: &str = "\u{1b}[30;107m";
const PLAIN: &str = "\u{1b}[0m";

/// Draws a text, two rows of modules in a line; `None` if it is too long for a code.
pub(super) fn of(text: &str) -> Option<String> {
    // The least redundancy makes the smallest code; nothing soils a screen.
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let modules = || -QUIET..code.size() + QUIET;
    let mut drawn = String::new();
    for y in modules().step_by(2) {
        drawn.push_str(COLOURS);
        for x in modules() {
            drawn.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        drawn.push_str(PLAIN);
        drawn.push('\n');
    }
    Some(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_a_camera_reads() {
        let drawn = of("https://tenant.example.com/").unwrap();
        let lines: Vec<Vec<char>> = drawn
            .lines()
            .map(|line| {
                let line = line.strip_prefix(COLOURS).unwrap();
                line.strip_suffix(PLAIN).unwrap().chars().collect()
            })
            .collect();
        // A code of 25 modules, the size for 27 characters, and what is around it.
        let width: usize = 25 + 2 * 4;
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(lines.iter().all(|line| line.len() == width));
        let is_dark = |x: usize, y: usize| {
            let drawn = (lines[y / 2][x], y % 2);
            matches!(drawn, ('█', _) | ('▀', 0) | ('▄', 1))
        };
        // The three finders: seven modules, dark around light around dark.
        for (left, top) in [(4, 4), (4 + 18, 4), (4, 4 + 18)] {
            for (y, row) in [
                "#######", "#     #", "# ### #", "# ### #", "# ### #", "#     #", "#######",
            ]
            .into_iter()
            .enumerate()
            {
                let drawn: String = (0..7)
                    .map(|x| if is_dark(left + x, top + y) { '#' } else { ' ' })
                    .collect();
                assert_eq!(drawn, row);
            }
        }
        assert!((0..width).all(|at| !is_dark(at, 0) && !is_dark(0, at)));
    }

    #[test]
    fn draws_no_text_that_is_too_long() {
        assert_eq!(of(&"x".repeat(3000)), None);
    }
}
