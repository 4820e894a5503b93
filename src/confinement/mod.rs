//! What adit may still do to this machine once it has read what it starts from.
//!
//! Whoever should get hold of a running adit from outside is to find little: it writes only where
//! it is configured to, reads only what it may have to read again, executes nothing, and leaves no
//! core. The first three are done by Landlock (`landlock(7)`), which takes rights from a process
//! for good, and from every thread that it starts later.
//!
//! A rule holds for the file or directory that is there when adit confines itself. A file that
//! somebody replaces is another one afterwards, so that its directory has to be allowed; and what
//! is mounted over that directory later is not seen.
//!
//! A part that opens something while adit runs has it allowed here. What listens is opened before
//! adit confines itself, and what is read of `/proc` too: a rule for `/proc/self` ends as soon as
//! the kernel, short of memory, forgets the entry and makes it anew.

mod kernel;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, prlimit, set_dumpable_behavior,
};
use tracing::{info, warn};

/// What the C library reads to resolve a name, for as long as adit runs: its configuration, which
/// others replace while the network changes, and the modules that are named there
/// (`nsswitch.conf(5)`).
const RESOLVER: [&str; 6] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
];
/// May be a link that leads out of `/etc`.
const NAME_SERVERS: &str = "/etc/resolv.conf";

/// Whether adit confines itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sandbox {
    /// As far as the kernel can.
    On,
    /// For debuggers, and where others stand in the same process.
    Off,
}

/// What adit may do. Nothing else of what can be taken from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Confinement {
    reads: BTreeSet<PathBuf>,
    writes: BTreeSet<PathBuf>,
    removes: BTreeSet<PathBuf>,
}

/// What has become of a confinement.
#[derive(Debug)]
pub enum Confined {
    /// It holds.
    Yes {
        /// The version of the kernel's Landlock, from 1.
        abi: i32,
        /// What holds, in words.
        what: String,
        /// What this version does not keep adit from.
        gaps: Vec<&'static str>,
    },
    /// The kernel cannot do it, with a clause that says why.
    Unsupported(&'static str),
    /// The kernel would not do it.
    Failed(String),
    /// Whoever started adit wants none.
    Off,
}

impl Confined {
    /// Tells the log, except of what whoever started adit wants.
    pub fn log(&self) {
        match self {
            Self::Yes { abi, what, gaps } => {
                let gaps = (!gaps.is_empty()).then(|| gaps.join(", "));
                info!(landlock = abi, what, gaps, "adit is confined");
            }
            Self::Unsupported(reason) => info!(reason, "adit is not confined"),
            Self::Failed(error) => warn!(error, "adit is not confined"),
            Self::Off => {}
        }
    }
}

impl Confinement {
    /// Allows what it takes to resolve names, and nothing besides.
    pub fn new() -> Self {
        Self {
            reads: RESOLVER
                .iter()
                .filter_map(|path| Path::new(path).canonicalize().ok())
                .collect(),
            writes: BTreeSet::new(),
            removes: BTreeSet::new(),
        }
        .read_again(Path::new(NAME_SERVERS))
    }

    /// Allows a file to be read, and whatever comes to stand in its place: all files of its directory,
    /// and of the one that it lies in if it is a link.
    ///
    /// A file in the root of the file system is allowed by itself.
    #[must_use]
    pub fn read_again(mut self, file: &Path) -> Self {
        let target = file.canonicalize();
        for path in [Some(file), target.as_deref().ok()].into_iter().flatten() {
            let place = match directory(path) {
                root if root == Path::new("/") => path,
                directory => directory,
            };
            self.reads.insert(place.to_owned());
        }
        self
    }

    /// Allows a file to be made, written, replaced and removed, and the others of its directory with it.
    #[must_use]
    pub fn write(mut self, file: &Path) -> Self {
        self.writes.insert(directory(file).to_owned());
        self
    }

    /// Allows a file to be removed, and the others of its directory with it.
    #[must_use]
    pub fn remove(mut self, file: &Path) -> Self {
        self.removes.insert(directory(file).to_owned());
        self
    }

    /// Takes all other rights from this thread and from those that it starts, for good.
    pub fn apply(&self) -> Confined {
        kernel::restrict(self)
    }
}

impl Default for Confinement {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verb, places) in [
            ("reads", &self.reads),
            ("writes", &self.writes),
            ("removes", &self.removes),
        ] {
            let places = places.iter().map(|path| path.display().to_string());
            let places: Vec<_> = places.collect();
            if !places.is_empty() {
                write!(f, "{verb} only in {}; ", places.join(", "))?;
            }
        }
        f.write_str(match self.writes.is_empty() {
            true => "writes and executes nothing",
            false => "executes nothing",
        })
    }
}

/// Keeps what lies in memory to this process: no core is written, and nobody but root may look into
/// it, no debugger either (`PR_SET_DUMPABLE` of `prctl(2)`).
///
/// # Errors
/// What the system says.
pub fn keep_memory_private() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    // The flag forbids a core too, and a program that `core_pattern` names heeds no limit.
    let _ = prlimit(None, Resource::Core, none);
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => file,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn allows_what_comes_to_stand_in_the_place_of_a_file() {
        let usual = Confinement::new();
        let added = |file: &str| {
            let confinement = usual.clone().read_again(Path::new(file));
            let added = confinement.reads.difference(&usual.reads).cloned();
            added.collect::<Vec<_>>()
        };
        for (file, place) in [
            ("/nonexistent/adit/password", "/nonexistent/adit"),
            ("/nonexistent-password", "/nonexistent-password"),
            ("password", "."),
        ] {
            assert_eq!(added(file), [Path::new(place)], "{file}");
        }
        assert_eq!(added("/etc/adit-password"), Vec::<PathBuf>::new());
    }

    #[test]
    fn allows_the_directory_that_a_link_leads_to() {
        let directory = Directory::new("links");
        symlink("../other/file", directory.path("own/link")).unwrap();
        let confinement = Confinement::new().read_again(&directory.path("own/link"));
        let other = directory.path("other").canonicalize().unwrap();
        let expected = BTreeSet::from([directory.path("own"), other]);
        assert!(confinement.reads.is_superset(&expected));
    }

    /// Runs in a thread of its own, which is all that is confined.
    fn confined<T: Send>(
        confinement: &Confinement,
        run: impl FnOnce(i32) -> T + Send,
    ) -> Option<T> {
        thread::scope(|scope| {
            let confined = scope.spawn(|| match confinement.apply() {
                Confined::Yes { abi, .. } => Some(run(abi)),
                Confined::Unsupported(why) => {
                    eprintln!("not tested: {why}");
                    None
                }
                other => panic!("{other:?}"),
            });
            confined.join().unwrap()
        })
    }

    /// A directory of the test's own, outside of all that is allowed by itself.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("adit-confinement-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            for part in ["own", "other"] {
                fs::create_dir_all(path.join(part)).unwrap();
                fs::write(path.join(part).join("file"), part).unwrap();
            }
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    const DENIED: Option<ErrorKind> = Some(ErrorKind::PermissionDenied);

    fn outcome<T>(result: io::Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn writes_where_it_may_and_nowhere_else() {
        let directory = Directory::new("writes");
        let (own, other) = (directory.path("own/file"), directory.path("other/file"));
        let confinement = Confinement::new().write(&own);
        confined(&confinement, |abi| {
            let beside = directory.path("own/new");
            assert_eq!(outcome(fs::write(&beside, "renewed")), None);
            assert_eq!(outcome(fs::rename(&beside, &own)), None);
            let folder = fs::File::open(directory.path("own")).unwrap();
            assert_eq!(outcome(folder.sync_all()), None);
            assert_eq!(fs::read_to_string(&own).unwrap(), "renewed");
            for result in [
                fs::write(&other, "renewed"),
                fs::write(directory.path("other/new"), ""),
                fs::write(directory.path("new"), ""),
                fs::write("/etc/adit-confinement", ""),
                fs::remove_file(&other),
                fs::create_dir(directory.path("own/folder")),
                fs::create_dir(directory.path("other/folder")),
                symlink(&other, directory.path("own/link")),
                UnixListener::bind(directory.path("own/socket")).map(drop),
            ] {
                assert_eq!(outcome(result), DENIED);
            }
            if abi >= 2 {
                let moved = fs::rename(&own, directory.path("other/moved"));
                assert_ne!(outcome(moved), None);
            }
            assert_eq!(outcome(fs::remove_file(&own)), None);
        });
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
    }

    #[test]
    fn removes_what_it_may_and_nothing_else() {
        let directory = Directory::new("removes");
        let (own, other) = (directory.path("own/file"), directory.path("other/file"));
        confined(&Confinement::new().remove(&own), |_| {
            assert_eq!(outcome(fs::write(&own, "")), DENIED);
            assert_eq!(outcome(fs::remove_file(&own)), None);
            assert_eq!(outcome(fs::remove_file(&other)), DENIED);
        });
    }

    #[test]
    fn reads_what_it_may_and_nothing_else() {
        let directory = Directory::new("reads");
        let (own, other) = (directory.path("own/file"), directory.path("other/file"));
        let confinement = Confinement::new().read_again(&own);
        confined(&confinement, |_| {
            assert_eq!(fs::read_to_string(&own).unwrap(), "own");
            // As somebody does who is not confined.
            let replaced = thread::scope(|scope| scope.spawn(|| fs::write(&own, "")).join());
            assert_eq!(
                outcome(replaced.unwrap()),
                DENIED,
                "a thread is confined too"
            );
            assert_eq!(outcome(fs::read("/etc/hosts")), None);
            for path in [
                other.as_path(),
                Path::new("/usr/bin/env"),
                Path::new("/proc/version"),
            ] {
                assert_eq!(outcome(fs::File::open(path)), DENIED, "{}", path.display());
            }
        });
    }

    #[test]
    fn reads_a_file_that_has_been_replaced() {
        let directory = Directory::new("replaced");
        let own = &directory.path("own/file");
        let (replaced, wait) = mpsc::channel();
        let (confined_by_now, ready) = mpsc::channel();
        thread::scope(|scope| {
            let reader = scope.spawn(move || {
                confined(&Confinement::new().read_again(own), move |_| {
                    confined_by_now.send(()).unwrap();
                    wait.recv().unwrap();
                    fs::read_to_string(own).unwrap()
                })
            });
            if ready.recv().is_ok() {
                let new = directory.path("own/new");
                fs::write(&new, "new").unwrap();
                fs::rename(&new, own).unwrap();
                replaced.send(()).unwrap();
            }
            let read = reader.join().unwrap();
            assert!(read.is_none_or(|content| content == "new"));
        });
    }

    #[test]
    fn reaches_others_and_lets_nobody_reach_it() {
        let directory = Directory::new("network");
        let machine = TcpListener::bind("127.0.0.1:0").unwrap();
        let path = directory.path("own/socket");
        let _socket = UnixListener::bind(&path).unwrap();
        let name = format!("adit-confinement-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(name).unwrap();
        let _hidden = UnixListener::bind_addr(&hidden).unwrap();
        confined(&Confinement::new(), |abi| {
            let connected = TcpStream::connect(machine.local_addr().unwrap());
            assert_eq!(outcome(connected), None);
            assert_eq!(outcome(UdpSocket::bind("127.0.0.1:0")), None);
            // As the daemons are reached that answer for the resolver.
            assert_eq!(outcome(UnixStream::connect(&path)), None);
            let resolved = "localhost:0".to_socket_addrs().unwrap();
            assert!(
                resolved
                    .into_iter()
                    .any(|address| address.ip().is_loopback())
            );
            if abi >= 4 {
                assert_eq!(outcome(TcpListener::bind("127.0.0.1:0")), DENIED);
            }
            if abi >= 6 {
                assert_eq!(outcome(UnixStream::connect_addr(&hidden)), DENIED);
            }
        });
    }

    #[test]
    fn executes_nothing() {
        confined(
            &Confinement::new().write(&std::env::temp_dir().join("x")),
            |_| {
                assert_eq!(outcome(Command::new("/bin/true").status()), DENIED);
            },
        );
    }

    #[test]
    fn says_what_is_left() {
        let confinement = Confinement {
            reads: BTreeSet::from(["/etc".into(), "/lib".into()]),
            writes: BTreeSet::new(),
            removes: BTreeSet::new(),
        };
        assert_eq!(
            confinement.to_string(),
            "reads only in /etc, /lib; writes and executes nothing"
        );
        let confinement = confinement
            .write(Path::new("/var/lib/adit/credentials.toml"))
            .remove(Path::new("/run/adit/adit.sock"));
        assert_eq!(
            confinement.to_string(),
            "reads only in /etc, /lib; writes only in /var/lib/adit; removes only in /run/adit; \
             executes nothing"
        );
    }
}
