//! What a process has in its memory, as whoever may read it finds it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// Counts how often a text lies in what a process may write to: heap, stacks, data. What was freed
/// counts as well.
///
/// # Errors
/// Whoever runs the test may not read the memory of the process.
pub(crate) fn count(pid: u32, text: &str) -> io::Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut count = 0;
    for map in maps.lines() {
        let mut words = map.split_ascii_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let address = |digits| u64::from_str_radix(digits, 16).unwrap();
        count += count_between(&memory, address(start), address(end), text.as_bytes());
    }
    Ok(count)
}

fn count_between(memory: &File, mut start: u64, end: u64, text: &[u8]) -> usize {
    let (mut held, mut count) = (Vec::<u8>::new(), 0);
    let mut piece = vec![0; PIECE];
    while start < end {
        let length = PIECE.min(usize::try_from(end - start).unwrap());
        // What is not there any more holds nothing.
        let Ok(read @ 1..) = memory.read_at(&mut piece[..length], start) else {
            break;
        };
        held.extend(&piece[..read]);
        count += held.windows(text.len()).filter(|&at| at == text).count();
        // A text may lie across two pieces.
        held.drain(..held.len().saturating_sub(text.len() - 1));
        start += read as u64;
    }
    count
}
