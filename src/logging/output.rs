//! Standard error, written without ever waiting for whoever reads there.
//!
//! adit does all on one thread, so a log that waited for its reader would stop every tunnel. The
//! flags of standard error belong to all who share it, so it is not made non-blocking itself. A
//! line is written at once where there is room. Else it waits in a queue, and a thread that lives
//! as long as the queue is not empty waits for the reader. What the queue cannot hold is dropped,
//! counted, and told when there is room again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::journal;
use super::ring::Ring;

/// Bytes that wait at most. A pipe holds 64 KiB besides.
const QUEUE_LIMIT: usize = 256 << 10;
/// Bytes that a pipe takes whole when it has room at all (`PIPE_BUF`).
const PIECE: usize = 4096;
/// Bytes of the stack of the thread that waits for the reader; it formats one line at most.
const STACK_SIZE: usize = 256 << 10;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Where lines are written to.
pub(super) struct Output {
    file: File,
    /// Tells how many lines were dropped; called on the thread that waits for the reader.
    tell_dropped: fn(u64),
    state: Mutex<State>,
    last: Mutex<Ring>,
    /// The thread that waits for the reader has ended.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Of all that waits, and of what is being written.
    bytes: usize,
    /// Lines since the last that was taken.
    dropped: u64,
    /// There is a thread that writes what waits.
    is_draining: bool,
}

/// The log, as it is written to its output.
pub(super) struct Log {
    output: Arc<Output>,
    is_journal: bool,
}

/// Takes whole lines of one level, one with each `write`.
pub(super) struct Lines<'a> {
    log: &'a Log,
    level: Level,
}

impl Output {
    pub(super) fn new(file: File, tell_dropped: fn(u64)) -> Self {
        Self {
            file,
            tell_dropped,
            state: Mutex::default(),
            last: Mutex::default(),
            drained: Condvar::new(),
        }
    }

    /// Writes a line, or lets it wait, or drops it; never blocks.
    pub(super) fn write_line(self: &Arc<Self>, line: &[u8]) {
        let mut state = self.state();
        let is_quiet = !state.is_draining && state.waiting.is_empty() && state.dropped == 0;
        let written = match is_quiet {
            true => self.write_what_fits(line),
            false => Ok(0),
        };
        match written {
            Ok(written) if written == line.len() => {}
            // The rest of a line that has begun must follow.
            Ok(written @ 1..) => state.add(&line[written..]),
            Ok(0) if state.has_room_for(line) => state.add(line),
            Ok(0) | Err(_) => state.dropped += 1,
        }
        if !state.waiting.is_empty() && !state.is_draining {
            let output = Arc::clone(self);
            let drainer = thread::Builder::new()
                .name("log".to_owned())
                .stack_size(STACK_SIZE)
                .spawn(move || output.drain());
            // Without a thread it is tried again with the next line.
            state.is_draining = drainer.is_ok();
        }
    }

    /// Returns the last lines that were logged, written or not.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.ring().lines()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all is written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let is_draining = |state: &mut State| state.is_draining;
        // What has not been taken by then is lost with the process.
        drop(
            self.drained
                .wait_timeout_while(self.state(), limit, is_draining),
        );
    }

    /// Writes what waits, as fast as it is read.
    fn drain(&self) {
        let mut state = self.state();
        while let Some(line) = state.waiting.pop_front() {
            drop(state);
            let written = self.write_all(&line);
            state = self.state();
            state.bytes -= line.len();
            if written.is_err() {
                state.dropped += 1;
            } else if state.dropped > 0 && state.is_half_empty() {
                let dropped = std::mem::take(&mut state.dropped);
                drop(state);
                (self.tell_dropped)(dropped);
                state = self.state();
            }
        }
        state.is_draining = false;
        self.drained.notify_all();
    }

    fn write_what_fits(&self, line: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < line.len() && self.has_room(Some(&AT_ONCE))? {
            match self.write_piece(&line[written..])? {
                0 => break,
                count => written += count,
            }
        }
        Ok(written)
    }

    fn write_all(&self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            self.has_room(None)?;
            let count = self.write_piece(line)?;
            line = &line[count..];
        }
        Ok(())
    }

    fn has_room(&self, limit: Option<&Timespec>) -> io::Result<bool> {
        let mut files = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut files, limit) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes no more than is sure to fit; 0 where that was somebody else's room.
    fn write_piece(&self, line: &[u8]) -> io::Result<usize> {
        match (&self.file).write(&line[..line.len().min(PIECE)]) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(0)
            }
            written => written,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.waiting.push_back(line.to_vec());
    }

    /// Once lines were dropped, there is room only when the drops have been told.
    fn has_room_for(&self, line: &[u8]) -> bool {
        self.bytes + line.len() <= QUEUE_LIMIT && (self.dropped == 0 || self.is_half_empty())
    }

    fn is_half_empty(&self) -> bool {
        self.bytes <= QUEUE_LIMIT / 2
    }
}

impl Log {
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self {
            is_journal: journal::is_journal(&output.file),
            output,
        }
    }

    /// Writes a line of this level.
    pub(super) fn write(&self, level: Level, line: &[u8]) {
        self.output.ring().add(line);
        match self.is_journal {
            true => self
                .output
                .write_line(&[journal::mark(level), line].concat()),
            false => self.output.write_line(line),
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        let level = Level::INFO;
        Lines { log: self, level }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Lines<'a> {
        let level = *metadata.level();
        Lines { log: self, level }
    }
}

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log.write(self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns standard error; where it can be had without the flags of others, without blocking.
///
/// A pipe that several programs write to, or a terminal, may have less room than was seen a moment
/// before. Opened anew it has flags of its own. A socket cannot be opened, nor a pipe of another
/// user; a file must keep the position that it shares.
pub(super) fn standard_error() -> io::Result<File> {
    let shared = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let kind = shared.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let own = OpenOptions::new()
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open("/proc/self/fd/2");
        return Ok(own.unwrap_or(shared));
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const LINE: usize = 1000;

    fn output(tell_dropped: fn(u64)) -> (PipeReader, Arc<Output>) {
        let (reader, writer) = pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        (reader, Arc::new(Output::new(file, tell_dropped)))
    }

    fn line(number: usize) -> String {
        format!("{number:0width$}\n", width = LINE - 1)
    }

    #[test]
    fn writes_a_line_at_once_where_there_is_room() {
        let (mut reader, output) = output(|_| ());
        output.write_line(b"a line\n");
        assert!(!output.state().is_draining, "a thread for nothing");
        let mut text = [0; 7];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"a line\n");
    }

    #[test]
    fn keeps_what_the_reader_is_late_for_in_order_and_whole() {
        let (mut reader, output) = output(|_| ());
        let long = "x".repeat(3 * PIECE) + "\n";
        let lines: Vec<_> = (0..200).map(line).chain([long, line(200)]).collect();
        for line in &lines {
            output.write_line(line.as_bytes());
        }
        let expected = lines.concat();
        let mut text = vec![0; expected.len()];
        reader.read_exact(&mut text).unwrap();
        assert!(text == expected.as_bytes());
        output.flush(LIMIT);
        assert!(!output.state().is_draining, "the thread stays");
    }

    #[test]
    fn counts_what_it_drops_and_tells_it_once_there_is_room() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        const LINES: usize = 1000;
        let (mut reader, output) = output(|dropped| {
            TOLD.fetch_add(dropped, Ordering::Relaxed);
        });
        let began = Instant::now();
        for number in 0..LINES {
            output.write_line(line(number).as_bytes());
        }
        output.flush(Duration::from_millis(1));
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        output.flush(LIMIT);
        drop(output);
        let text = reading.join().unwrap();
        let kept = text.lines().count();
        assert!(kept * LINE >= QUEUE_LIMIT, "{kept}");
        let expected: String = (0..kept).map(line).collect();
        assert!(text == expected, "other lines than the first");
        let told = TOLD.load(Ordering::Relaxed);
        assert_eq!(told, (LINES - kept) as u64);
    }

    #[test]
    fn forgets_a_reader_that_has_gone() {
        let (reader, output) = output(|_| ());
        drop(reader);
        for number in 0..1000 {
            output.write_line(line(number).as_bytes());
        }
        output.flush(LIMIT);
        let state = output.state();
        assert!(!state.is_draining);
        assert_eq!((state.bytes, state.waiting.len()), (0, 0));
    }
}
