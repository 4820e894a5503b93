//! A `.tar.gz` of a few files in memory. Pure.
//!
//! A tar of regular files is a header of 512 bytes for each (ustar, `tar(5)`), and gzip takes blocks
//! that are stored as they are (RFC 1951, 3.2.4). A compressor would make the program larger by 23 KB
//! for archives of some 100 KB.

use std::time::{Duration, SystemTime};

/// A file of the archive.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Without a directory, and short.
    pub(super) name: &'static str,
    pub(super) content: Vec<u8>,
}

/// Bytes that tar counts in.
const BLOCK: usize = 512;
/// Bytes of a name in a header.
const NAME: usize = 100;
/// Bytes of a block of deflate that is stored.
const STORED: usize = 0xffff;

/// Returns the archive. Its files lie in one directory, and belong to root, who alone may read them.
pub(super) fn tar_gz(directory: &str, files: &[File], now: SystemTime) -> Vec<u8> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or(Duration::ZERO).as_secs();
    let mut tar = Vec::new();
    for File { name, content } in files {
        tar.extend(header(&format!("{directory}/{name}"), content.len(), now));
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks are the end.
    tar.resize(tar.len() + 2 * BLOCK, 0);
    gzip(&tar)
}

fn header(name: &str, size: usize, now: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        let places = header.iter_mut().skip(at);
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
    };
    put(0, name.as_bytes().get(..NAME).unwrap_or(name.as_bytes()));
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{now:011o}\0").as_bytes());
    // The checksum counts as spaces in itself; then the type of a regular file.
    put(148, b"        0");
    put(257, b"ustar\x0000");
    put(265, b"root");
    put(297, b"root");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    let places = header.iter_mut().skip(148);
    places
        .zip(sum.bytes())
        .for_each(|(place, byte)| *place = byte);
    header
}

fn gzip(content: &[u8]) -> Vec<u8> {
    // Deflate, no flags, no time, no hint, written on Unix.
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let last = content.len().div_ceil(STORED).saturating_sub(1);
    for (number, block) in content.chunks(STORED).enumerate() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        gzip.push(u8::from(number == last));
        gzip.extend(length.to_le_bytes());
        gzip.extend((!length).to_le_bytes());
        gzip.extend(block);
    }
    gzip.extend(crc32(content).to_le_bytes());
    // Counted modulo 2^32.
    let length = (content.len() as u64).to_le_bytes();
    gzip.extend(length.get(..4).unwrap_or_default());
    gzip
}

/// The checksum of gzip (RFC 1952, 8), without a table: it is made once.
fn crc32(content: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    !content.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// What a program of the system makes of an archive on its standard input.
    fn read_by(program: &str, arguments: &[&str], archive: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let archive = archive.to_vec();
        let writing = std::thread::spawn(move || stdin.write_all(&archive));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}");
        output.stdout
    }

    fn files() -> Vec<File> {
        let lengths = [0, 1, BLOCK - 1, BLOCK, STORED, 3 * STORED + 7];
        let names = ["none", "one", "less", "block", "stored", "more"];
        let content = |length| (0..length).map(|n| (n * 7 % 251) as u8).collect();
        let file = |(name, length)| File {
            name,
            content: content(length),
        };
        names.into_iter().zip(lengths).map(file).collect()
    }

    #[test]
    fn is_read_by_tar_and_gzip() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_000_000);
        let archive = tar_gz("a-directory", &files(), now);
        read_by("gzip", &["-t"], &archive);
        let list = read_by("tar", &["tzvf", "-", "--utc", "--full-time"], &archive);
        let list = String::from_utf8(list).unwrap();
        assert_eq!(list.lines().count(), files().len());
        for (line, File { name, content }) in list.lines().zip(files()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let size = content.len().to_string();
            let name = format!("a-directory/{name}");
            assert_eq!(words[..3], ["-rw-------", "root/root", &size], "{line}");
            assert_eq!(words[3..5], ["2026-11-30", "00:53:20"], "{line}");
            assert_eq!(words[5], name);
            let read = read_by("tar", &["xzOf", "-", &name], &archive);
            assert!(read == content, "{name}");
        }
    }

    #[test]
    fn has_the_checksum_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
