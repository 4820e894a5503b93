//! Files of this machine, which somebody else writes.

use std::fs::{File, FileType, Metadata, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

/// No configuration, password or bundle of certificates is longer.
const FILE_LIMIT: u64 = 4 << 20;
/// How long a disk may take at the start before it is said what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take at all; whoever has started adit may try again.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long is waited before a lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Linux's number of `/dev/null`, which stands for an empty file.
const DEV_NULL: u64 = 1 << 8 | 3;

/// A file that was read.
#[derive(Clone)]
pub struct FileContent {
    /// All of it; may hold secrets.
    pub bytes: Vec<u8>,
    /// Whether every user of the machine may read it.
    pub world_readable: bool,
}

/// Reads a file of this machine. What may never end, as a pipe or a device, is not even opened.
///
/// # Errors
/// What the system says, that it is no regular file, or that it is too long to be meant.
pub fn read(path: &Path) -> io::Result<FileContent> {
    const EVERYBODY_READS: u32 = 0o004;
    refuse_endless(&path.metadata()?)?;
    let file = File::open(path)?;
    // Somebody may have put another one in its place.
    let metadata = file.metadata()?;
    refuse_endless(&metadata)?;
    let mode = metadata.permissions().mode();
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        let words = format!("it is longer than {FILE_LIMIT} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
    }
    Ok(FileContent {
        bytes,
        world_readable: mode & EVERYBODY_READS != 0 && metadata.is_file(),
    })
}

/// Reads a file as [`read`] does, but waits only so long for its disk, and says that it waits.
///
/// # Errors
/// Those of [`read`], or that the disk hangs; a thread stays behind then.
pub(crate) fn read_at_start(path: &Path) -> io::Result<FileContent> {
    at_start(path, read)
}

/// Whether two paths name one file, also by a link, and also where there is none yet. They do not where
/// the system does not say: whoever uses the file learns why.
pub(crate) fn are_one_file(one: &Path, other: &Path) -> bool {
    let other = other.to_owned();
    one == other || at_start(one, move |one| Ok(is_one_place(one, &other))).unwrap_or(false)
}

fn is_one_place(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|it| (it.dev(), it.ino())).ok();
    match (inode(one), inode(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => place_to_be(one).is_some_and(|one| place_to_be(other) == Some(one)),
        _ => false,
    }
}

/// Where a file will be: its directory without links, and its name.
fn place_to_be(path: &Path) -> Option<PathBuf> {
    let directory = directory(path).canonicalize().ok()?;
    Some(directory.join(path.file_name()?))
}

/// Returns the directory that a file is in; the root is in itself.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Keeps other processes of adit from making files beside `path`, until the result is dropped.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] where another process has not let go within `limit`, or what the system
/// says.
pub(crate) fn lock_directory(path: &Path, limit: Duration) -> io::Result<File> {
    let directory = File::open(directory(path))?;
    let give_up_at = Instant::now() + limit;
    while let Err(error) = directory.try_lock() {
        match error {
            TryLockError::WouldBlock if Instant::now() < give_up_at => thread::sleep(LOCK_PAUSE),
            error => return Err(error.into()),
        }
    }
    Ok(directory)
}

/// Asks the disk something about a file, and waits only so long for the answer.
fn at_start<T: Send + 'static>(
    path: &Path,
    ask: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let file = path.to_owned();
    thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || drop(sender.send(ask(&file))))?;
    if let Ok(answer) = receiver.recv_timeout(PATIENCE) {
        return answer;
    }
    let file = path.display().to_string();
    warn!(file, "still waiting for the disk to give a file");
    receiver
        .recv_timeout(START_LIMIT.saturating_sub(PATIENCE))
        .unwrap_or_else(|_| {
            let hung = NotRead::Hung { limit: START_LIMIT };
            let words = format!(
                "{hung}; look at the disk, or whether the server that it is on can be reached"
            );
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        })
}

fn refuse_endless(metadata: &Metadata) -> io::Result<()> {
    let kind: FileType = metadata.file_type();
    let what = if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() && metadata.rdev() != DEV_NULL {
        "a device"
    } else {
        // The system has words of its own for a directory.
        return Ok(());
    };
    let words = format!("it is {what}, and only regular files are read");
    Err(io::Error::new(io::ErrorKind::InvalidInput, words))
}

/// Why something was not read again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRead {
    /// The disk hangs, now or since an earlier time.
    #[error("the disk does not answer (not within {limit:?})")]
    Hung {
        /// The time that it has to answer.
        limit: Duration,
    },
    /// There is no thread to read in.
    #[error("no thread can be started to read it")]
    NoThread(#[source] io::Error),
    /// The thread ended without a result.
    #[error("it was not read to the end")]
    Broken,
}

/// Reads something again and again while adit runs, each time in a thread of its own and never in
/// two at a time.
///
/// A disk may hang for ever, as a network's whose server is away, and a read of it cannot be taken
/// back. It costs one thread then, and none of those in which names are resolved.
pub(crate) struct Rereader<T>(Mutex<Option<Pending<T>>>);

/// Where the result of a read comes.
type Promise<T> = watch::Receiver<Option<T>>;

struct Pending<T> {
    result: Promise<T>,
    /// Somebody has waited for it in vain, so that nobody need do so again.
    is_overdue: bool,
}

impl<T> Default for Rereader<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Rereader<T> {
    /// Runs `read`, or waits with others for one that has begun, for as long as `limit`.
    ///
    /// While a read hangs, everybody after the first is told so at once.
    pub(crate) async fn read(
        &self,
        limit: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotRead> {
        let hung = || NotRead::Hung { limit };
        let mut result = self.join_or_begin(read)?.ok_or_else(hung)?;
        let Ok(ended) = timeout(limit, result.wait_for(Option::is_some)).await else {
            if let Some(pending) = self.pending().as_mut() {
                pending.is_overdue = true;
            }
            return Err(hung());
        };
        let result = ended.map_err(|_| NotRead::Broken)?;
        result.clone().ok_or(NotRead::Broken)
    }

    /// Returns where the result will come, `None` if it is overdue.
    fn join_or_begin(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<Promise<T>>, NotRead> {
        let mut pending = self.pending();
        if let Some(Pending { result, is_overdue }) = pending.as_ref()
            && result.borrow().is_none()
            && result.has_changed().is_ok()
        {
            return Ok((!is_overdue).then(|| result.clone()));
        }
        let (sender, result) = watch::channel(None);
        thread::Builder::new()
            .name("files".to_owned())
            .spawn(move || drop(sender.send(Some(read()))))
            .map_err(NotRead::NoThread)?;
        *pending = Some(Pending {
            result: result.clone(),
            is_overdue: false,
        });
        Ok(Some(result))
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Option<Pending<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use futures_util::future::join;

    use super::*;

    #[test]
    fn opens_nothing_that_may_never_end() {
        let path = |name: &str| {
            let name = format!("adit-{}-{name}", std::process::id());
            std::env::temp_dir().join(name)
        };
        let (fifo, socket, long) = (path("fifo"), path("socket"), path("long"));
        let status = Command::new("mkfifo").arg(&fifo).status();
        assert!(status.unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        File::create(&long)
            .unwrap()
            .set_len(FILE_LIMIT + 1)
            .unwrap();
        for (path, words) in [
            (
                fifo.as_path(),
                "it is a pipe, and only regular files are read",
            ),
            (&socket, "it is a socket, and only regular files are read"),
            (
                Path::new("/dev/zero"),
                "it is a device, and only regular files are read",
            ),
            (&long, "it is longer than 4194304 bytes"),
            (Path::new("/proc"), "Is a directory (os error 21)"),
        ] {
            let error = read(path).map(drop).unwrap_err();
            assert_eq!(error.to_string(), words, "{}", path.display());
        }
        for path in [fifo, socket, long] {
            std::fs::remove_file(path).unwrap();
        }
        assert!(read(Path::new("/dev/null")).unwrap().bytes.is_empty());
        let release = read(Path::new("/proc/sys/kernel/osrelease")).unwrap();
        assert!(!release.bytes.is_empty());
    }

    #[test]
    fn knows_one_file_by_all_its_names() {
        let name = format!("adit-names-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        let path = |name: &str| directory.join(name);
        for name in ["file", "other"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::hard_link(path("file"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("soft")).unwrap();
        std::os::unix::fs::symlink(&directory, path("here")).unwrap();
        for (one, other, are_one) in [
            ("file", "file", true),
            ("file", "hard", true),
            ("file", "soft", true),
            ("here/file", "sub/../hard", true),
            ("file", "other", false),
            // What is yet to be written.
            ("new", "new", true),
            ("new", "here/new", true),
            ("new", "sub/../new", true),
            ("new", "sub/new", false),
            ("new", "file", false),
            ("none/new", "none/new", true),
            ("none/new", "none/../new", false),
        ] {
            assert_eq!(
                are_one_file(&path(one), &path(other)),
                are_one,
                "{one}, {other}"
            );
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn costs_one_thread_while_a_disk_hangs_and_goes_on_afterwards() {
        let rereader = Rereader::default();
        let (wake, woken) = mpsc::channel();
        let first = rereader.read(SHORT, move || woken.recv().unwrap());
        assert!(matches!(first.await, Err(NotRead::Hung { limit: SHORT })));
        let never = || -> i32 { panic!("a second read began") };
        let began = std::time::Instant::now();
        let second = rereader.read(LONG, never).await;
        assert!(matches!(second, Err(NotRead::Hung { limit: LONG })));
        assert!(began.elapsed() < LONG, "it was waited for once more");

        wake.send(1).unwrap();
        let again = async {
            loop {
                match rereader.read(LONG, || 2).await {
                    Ok(read) => break read,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        assert_eq!(timeout(LONG, again).await, Ok(2));
    }

    #[tokio::test]
    async fn reads_once_for_all_who_ask_at_the_same_time() {
        let rereader = Rereader::default();
        let reads = Arc::new(AtomicUsize::new(0));
        let (wake, woken) = mpsc::channel();
        let counted = Arc::clone(&reads);
        let first = rereader.read(LONG, move || {
            woken.recv().unwrap();
            counted.fetch_add(1, Ordering::Relaxed)
        });
        let counted = Arc::clone(&reads);
        let second = async {
            wake.send(()).unwrap();
            rereader
                .read(LONG, move || counted.fetch_add(1, Ordering::Relaxed))
                .await
        };
        let (first, second) = join(first, second).await;
        assert_eq!(first.unwrap(), 0);
        // The first may have ended before the second was asked for.
        assert_eq!(second.unwrap() + 1, reads.load(Ordering::Relaxed));
    }
}
