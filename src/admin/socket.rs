//! The Unix socket by which commands on the gateway speak with the running agent.
//!
//! A connection is one line from the command, as `status`, and one line of JSON back. The socket
//! belongs to the user that adit runs as, and to nobody else: whoever owns its directory decides.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as Listener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use smartrest::TargetError;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::Inside;
use super::http::Process;
use super::{Insight, metrics};
use crate::files::lock_directory;
use crate::inquiry::{Inquirer, UPGRADE_LIMIT};

/// Asks what the agent does.
pub(super) const STATUS: &str = "status";
/// Has the configuration read again; the new level of the log may stand behind it.
pub(super) const RELOAD: &str = "reload";
/// Asks for its metrics and the last lines of its log.
pub(super) const INSIDE: &str = "inside";
/// Has it try the way to the cloud itself; a machine to reach may stand behind it.
pub(super) const CHECK: &str = "check";
/// Has the program started again, and the tunnels go on.
pub(super) const UPGRADE: &str = "upgrade";

/// Commands that are answered at the same time; others wait in the system's queue.
const CONNECTIONS: usize = 16;
/// Bytes of a question; the longest is a word and the name of a machine.
const QUESTION_LIMIT: u64 = 512;
/// How long one question and its answer may take, whoever is slow.
const CONVERSATION_LIMIT: Duration = UPGRADE_LIMIT.saturating_add(Duration::from_secs(5));
/// How long a question may take to come.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// How long it is waited after the system could not give a connection, as for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const UNKNOWN_QUESTION: &str =
    "this adit does not know the question; is the command of another version?";
/// For the user that adit runs as alone.
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// How long another adit may take to make its socket: it waits for no disk, and tunnels may wait meanwhile.
const LOCK_LIMIT: Duration = Duration::from_millis(500);

/// A socket that adit has made, until it is dropped.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: UnixListener,
    process: Arc<Process>,
    _own: Own,
}

/// Where answers come from.
#[derive(Clone)]
struct Sources {
    inquirer: Inquirer,
    process: Arc<Process>,
    insight: Insight,
}

/// The file of the socket; somebody else's may stand in its place one day.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSocket {
    /// Somebody listens there.
    #[error("another adit runs and has the socket {}", .0.display())]
    Taken(PathBuf),
    /// What is there was not made by adit.
    #[error("{} is there already, and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The directory cannot be written to, or the like.
    #[error("cannot make the socket {}", path.display())]
    System {
        /// Of the socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl AdminSocket {
    /// Makes the socket, and its directory where that is missing; one that a former adit has left
    /// is replaced. It has its mode before it has its name. Of two that start at the same time the
    /// second sees the socket of the first; a process that is confined may not open the directory, and
    /// is one that follows another.
    ///
    /// # Errors
    /// A living adit has it, or the system does not allow it.
    pub(crate) fn bind(path: &Path) -> Result<Self, NoSocket> {
        let system = |source| NoSocket::System {
            path: path.to_owned(),
            source,
        };
        make_directory(path).map_err(system)?;
        let lock = lock_directory(path, LOCK_LIMIT);
        if let Err(error) = &lock
            && error.kind() == ErrorKind::WouldBlock
        {
            let socket = path.display().to_string();
            warn!(
                socket,
                "somebody keeps the directory of admin.socket locked; adit makes its socket all the same"
            );
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(NoSocket::NotASocket(path.to_owned()));
            }
            Ok(_) if is_alive(path).map_err(system)? => {
                return Err(NoSocket::Taken(path.to_owned()));
            }
            _ => {}
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let bound = bind_at(&beside, path);
        if bound.is_err() {
            // Nothing is there, or nothing that anybody needs.
            let _ = fs::remove_file(&beside);
        }
        bound.map_err(system)
    }

    /// Answers until it is dropped. Once it is `closed` the socket is gone, and only those are answered
    /// that have come before.
    pub(crate) async fn serve(
        self,
        inquirer: Inquirer,
        insight: Insight,
        closed: CancellationToken,
    ) {
        let sources = Sources {
            inquirer,
            process: Arc::clone(&self.process),
            insight,
        };
        let mut conversations = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = closed.cancelled() => break,
                Some(_) = conversations.join_next() => continue,
                accepted = self.listener.accept(), if conversations.len() < CONNECTIONS => accepted,
            };
            match accepted {
                Ok((stream, _)) => drop(conversations.spawn(converse(stream, sources.clone()))),
                Err(error) => {
                    warn!(error = error.to_string(), "no connection to the socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self);
        while conversations.join_next().await.is_some() {}
    }
}

async fn converse(stream: UnixStream, sources: Sources) {
    match timeout(CONVERSATION_LIMIT, answer(stream, &sources)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a command has gone"),
        Err(_) => debug!("a command was too slow"),
    }
}

async fn answer(mut stream: UnixStream, sources: &Sources) -> io::Result<()> {
    let inquirer = &sources.inquirer;
    let (reader, mut writer) = stream.split();
    let mut question = String::new();
    let mut reader = BufReader::new(reader.take(QUESTION_LIMIT));
    timeout(QUESTION_TIME, reader.read_line(&mut question)).await??;
    let mut words = question.split_whitespace();
    let mut answer = match (words.next(), words.next()) {
        (Some(STATUS), None) => match inquirer.look().await {
            Ok(snapshot) => serde_json::to_vec(&snapshot).map_err(io::Error::other)?,
            Err(error) => complaint(&error.to_string()),
        },
        (Some(INSIDE), None) => match inquirer.look().await {
            Ok(snapshot) => serde_json::to_vec(&Inside {
                metrics: metrics::text(Arc::new(snapshot), sources.process.figures())
                    .map_err(io::Error::other)?,
                log: (sources.insight.last_lines)(),
            })
            .map_err(io::Error::other)?,
            Err(error) => complaint(&error.to_string()),
        },
        (Some(CHECK), target) => match target.map(str::parse).transpose() {
            Ok(target) => match (sources.insight.examine)(target).await {
                Ok(checked) => serde_json::to_vec(&checked).map_err(io::Error::other)?,
                Err(error) => complaint(&error),
            },
            Err(error) => complaint(&TargetError::to_string(&error)),
        },
        (Some(RELOAD), level) => match level.map(str::parse).transpose() {
            Ok(level) => match inquirer.reload(level).await {
                Ok(reloaded) => serde_json::to_vec(&reloaded).map_err(io::Error::other)?,
                Err(error) => complaint(&error.to_string()),
            },
            Err(_) => complaint(UNKNOWN_QUESTION),
        },
        (Some(UPGRADE), None) => match inquirer.upgrade().await {
            Ok(upgraded) => serde_json::to_vec(&upgraded).map_err(io::Error::other)?,
            Err(error) => complaint(&error.to_string()),
        },
        _ => complaint(UNKNOWN_QUESTION),
    };
    answer.push(b'\n');
    writer.write_all(&answer).await
}

fn complaint(error: &str) -> Vec<u8> {
    serde_json::json!({ "error": error })
        .to_string()
        .into_bytes()
}

/// Whether somebody listens at a socket. Nobody is waited for.
fn is_alive(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // Its queue is full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    if directory.exists() {
        return Ok(());
    }
    match fs::create_dir(directory) {
        // Another adit has made it since, and gives it its mode.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

fn bind_at(beside: &Path, path: &Path) -> io::Result<AdminSocket> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = Listener::bind(beside)?;
    fs::set_permissions(beside, Permissions::from_mode(MODE))?;
    listener.set_nonblocking(true)?;
    let metadata = fs::symlink_metadata(beside)?;
    fs::rename(beside, path)?;
    Ok(AdminSocket {
        process: Arc::new(Process::open()),
        listener: UnixListener::from_std(listener)?,
        _own: Own {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        },
    })
}

impl Drop for Own {
    fn drop(&mut self) {
        let is_own = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_own {
            // A stale one is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("adit-socket-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn socket(&self) -> PathBuf {
            self.0.join("adit.sock")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn is_its_users_alone_and_goes_with_it() {
        let directory = Directory::new("modes");
        let path = directory.socket();
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(&directory.0)), (0o600, 0o700));
        drop(socket);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn is_the_one_of_the_first_of_many_that_start_at_once() {
        let runtime = tokio::runtime::Handle::current();
        for round in 0..50 {
            let directory = Directory::new("race");
            let path = &directory.socket();
            let start = &Barrier::new(4);
            let bound = std::thread::scope(|scope| {
                let starting = [(); 4].map(|()| {
                    let runtime = runtime.clone();
                    scope.spawn(move || {
                        let _entered = runtime.enter();
                        start.wait();
                        AdminSocket::bind(path)
                    })
                });
                starting.map(|one| one.join().unwrap())
            });
            let (first, others): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
            assert_eq!(first.len(), 1, "round {round}: {first:?}");
            let is_taken = |other: &Result<_, _>| matches!(other, Err(NoSocket::Taken(_)));
            assert!(others.iter().all(is_taken), "round {round}: {others:?}");
            assert!(is_alive(path).unwrap(), "round {round}");
        }
    }

    #[tokio::test]
    async fn is_made_though_somebody_keeps_its_directory_locked() {
        let directory = Directory::new("locked");
        fs::create_dir(&directory.0).unwrap();
        let locked = fs::File::open(&directory.0).unwrap();
        locked.lock().unwrap();
        let socket = AdminSocket::bind(&directory.socket()).unwrap();
        assert!(is_alive(&directory.socket()).unwrap());
        drop((socket, locked));
    }

    #[tokio::test]
    async fn replaces_what_a_dead_one_left_and_nothing_else() {
        let directory = Directory::new("stale");
        fs::create_dir(&directory.0).unwrap();
        let path = directory.socket();
        drop(Listener::bind(&path).unwrap());
        assert!(path.exists(), "the system has removed it");
        let living = AdminSocket::bind(&path).unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(error, NoSocket::Taken(_)), "{error}");
        // Somebody else has taken its place since.
        fs::remove_file(&path).unwrap();
        let next = AdminSocket::bind(&path).unwrap();
        drop(living);
        assert!(path.exists(), "it was another's");
        drop(next);
        fs::write(&path, "precious").unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(error, NoSocket::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
