//! The last lines of the log, for whoever looks at a running adit after the fact. Pure.

use std::collections::VecDeque;

/// Lines that are kept at most.
const LINES: usize = 500;
/// Bytes of all lines that are kept.
const BYTES: usize = 64 << 10;
/// Bytes of a line; of a longer one the beginning is kept.
const LINE: usize = 4 << 10;

/// The last lines, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Ring {
    /// Adds a line, and forgets the oldest where there are too many.
    pub(super) fn add(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.get(..LINE).unwrap_or(line);
        self.bytes += line.len();
        self.lines.push_back(line.into());
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }

    /// Returns what is kept.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.lines.iter();
        let text = lines.map(|line| String::from_utf8_lossy(line).into_owned());
        text.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_in_order() {
        let mut ring = Ring::default();
        for number in 0..LINES + 3 {
            ring.add(format!("{number}\n").as_bytes());
        }
        let lines = ring.lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].as_str(), lines[LINES - 1].as_str()), ("3", "502"));
    }

    #[test]
    fn is_bounded_however_long_lines_are() {
        let mut ring = Ring::default();
        for _ in 0..100 {
            ring.add(&[b'x'; 3 * LINE]);
        }
        assert!(ring.lines().iter().all(|line| line.len() == LINE));
        assert_eq!(ring.lines().len() * LINE, BYTES);
        ring.add(b"\n");
        assert_eq!(ring.bytes, ring.lines().concat().len());
    }
}
