//! What adit may still do to this machine once it has read what it starts from.
//!
//! Whoever should get hold of a running adit from outside is to find little: it writes only where
//! it is configured to, reads only what it may have to read again, executes nothing but its own program,
//! which can do no more than it can, and leaves no core. The first three are done by Landlock (`landlock(7)`), which takes rights from a process
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
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, prlimit, set_dumpable_behavior,
};
use tracing::{info, warn};

use crate::files::directory;

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
/// What a program that is executed needs besides itself.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
/// Where distributions keep the certificates that they trust; links may lead out of `/etc`.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
];
/// Name another file of them, and directories, as OpenSSL reads them.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";
const ROOT_DIRECTORIES_VARIABLE: &str = "SSL_CERT_DIR";
/// Where distributions keep them one by one, mostly as links.
const ROOT_DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];
/// Where such links lead.
const ROOT_STORES: [&str; 3] = [
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];
/// May be a link that leads out of `/etc`.
const NAME_SERVERS: &str = "/etc/resolv.conf";

/// Links that lead to one another, as many as the kernel follows.
const LINKS: usize = 40;
/// Where services of this machine make directories of their own as they start.
const SERVICES: &str = "/run";

/// What is said where the kernel takes no further confinement.
pub(crate) const INHERITED: &str = "adit lives in the confinements of the processes before it, and the \
                                    kernel takes no further one; the next restart begins anew";

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
    lists: BTreeSet<PathBuf>,
    writes: BTreeSet<PathBuf>,
    sockets: BTreeSet<PathBuf>,
    executes: BTreeSet<PathBuf>,
    ports: BTreeSet<u16>,
    abstract_sockets: bool,
    /// Links to where nothing is yet that may be read.
    unseen: BTreeSet<PathBuf>,
}

/// What has become of a confinement.
#[derive(Clone, Debug)]
pub enum Confined {
    /// It holds.
    Yes {
        /// The version of the kernel's Landlock, from 1.
        abi: i32,
        /// What holds, in words.
        what: String,
        /// What this version does not keep adit from.
        gaps: Vec<&'static str>,
        /// Links whose files adit may not read once they are there.
        unseen: Vec<PathBuf>,
    },
    /// The kernel cannot do it, with a clause that says why.
    Unsupported(&'static str),
    /// So many hold already, of the processes before this one, that the kernel takes no further one.
    Inherited,
    /// The kernel would not do it.
    Failed(String),
    /// Whoever started adit wants none.
    Off,
}

impl Confined {
    /// Tells the log, except of what whoever started adit wants.
    pub fn log(&self) {
        match self {
            Self::Yes {
                abi,
                what,
                gaps,
                unseen,
            } => {
                let gaps = (!gaps.is_empty()).then(|| gaps.join(", "));
                info!(landlock = abi, what, gaps, "adit is confined");
                for link in unseen {
                    warn!(
                        link = %link.display(),
                        "a link leads to a directory that is not there, and adit may not read \
                         there once it is; start adit again then"
                    );
                }
            }
            Self::Unsupported(reason) => info!(reason, "adit is not confined"),
            Self::Inherited => info!("{INHERITED}"),
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
            lists: BTreeSet::new(),
            writes: BTreeSet::new(),
            sockets: BTreeSet::new(),
            executes: BTreeSet::new(),
            ports: BTreeSet::new(),
            abstract_sockets: false,
            unseen: BTreeSet::new(),
        }
        .read_again(Path::new(NAME_SERVERS))
    }

    /// Allows a file to be read, and whatever comes to stand in its place: all files of its directory,
    /// and of the one that it lies in if it is a link. What a link leads to may be made only later, as
    /// `resolv.conf` is when the network comes up.
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
        if target.is_err() && file.is_symlink() {
            match place_to_come(file) {
                Some(place) => self.reads.insert(place),
                None => self.unseen.insert(file.to_owned()),
            };
        }
        self
    }

    /// Allows a file to be made, written, replaced and removed, and the others of its directory with it.
    #[must_use]
    pub fn write(mut self, file: &Path) -> Self {
        self.writes.insert(directory(file).to_owned());
        self
    }

    /// Allows a socket to be made and removed, and with it others, and files to be removed, in its
    /// directory.
    #[must_use]
    pub fn make_socket(mut self, file: &Path) -> Self {
        self.sockets.insert(directory(file).to_owned());
        self
    }

    /// Allows to listen at a TCP port.
    #[must_use]
    pub fn listen(mut self, port: u16) -> Self {
        self.ports.insert(port);
        self
    }

    /// Allows to connect to sockets that are in no file system: the kernel knows all of them or none.
    #[must_use]
    pub fn reach_abstract_sockets(mut self) -> Self {
        self.abstract_sockets = true;
        self
    }

    /// Allows a program to be executed, and whatever comes to stand in its place, with the libraries that
    /// it needs: all files of its directory. What is executed lives in the same confinement.
    #[must_use]
    pub fn execute(mut self, program: &Path) -> Self {
        let target = program.canonicalize();
        let places = [Some(program), target.as_deref().ok()]
            .into_iter()
            .flatten();
        self.executes
            .extend(places.map(|path| directory(path).to_owned()));
        let libraries = LIBRARIES
            .iter()
            .filter_map(|path| Path::new(path).canonicalize().ok());
        self.executes.extend(libraries);
        self
    }

    /// Allows to read again and again what this machine trusts, and whatever comes to stand in its place,
    /// where that does not lie in what is allowed anyway.
    #[must_use]
    pub fn trust_again(self) -> Self {
        let named = std::env::var_os(ROOTS_VARIABLE).map(PathBuf::from);
        let files = named.into_iter().chain(ROOTS.iter().map(PathBuf::from));
        let directories = std::env::var_os(ROOT_DIRECTORIES_VARIABLE).unwrap_or_default();
        let directories = std::env::split_paths(&directories)
            .filter(|named| !named.as_os_str().is_empty())
            .chain(ROOT_DIRECTORIES.iter().map(PathBuf::from));
        self.trust_again_in(files, directories)
    }

    fn trust_again_in(
        self,
        files: impl Iterator<Item = PathBuf>,
        directories: impl Iterator<Item = PathBuf>,
    ) -> Self {
        let mut this = files.fold(self, |confinement, file| {
            let is_allowed = |path: &Path| {
                let mut reads = confinement.reads.iter();
                reads.any(|place| path.starts_with(place))
            };
            match file.canonicalize() {
                Ok(target) if !is_allowed(&target) || !is_allowed(&file) => {
                    confinement.read_again(&file)
                }
                _ => confinement,
            }
        });
        this.lists
            .extend(directories.filter_map(|path| path.canonicalize().ok()));
        let stores = ROOT_STORES.iter().map(Path::new);
        this.reads
            .extend(stores.filter_map(|path| path.canonicalize().ok()));
        this
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
            ("lists", &self.lists),
            ("writes", &self.writes),
            ("makes sockets", &self.sockets),
            ("executes", &self.executes),
        ] {
            let places = places.iter().map(|path| path.display().to_string());
            let places: Vec<_> = places.collect();
            if !places.is_empty() {
                write!(f, "{verb} only in {}; ", places.join(", "))?;
            }
        }
        for port in &self.ports {
            write!(f, "listens only at port {port}; ")?;
        }
        if self.abstract_sockets {
            f.write_str("reaches abstract sockets; ")?;
        }
        f.write_str(match (self.writes.is_empty(), self.executes.is_empty()) {
            (true, true) => "writes and executes nothing",
            (false, true) => "executes nothing",
            (true, false) => "writes nothing",
            (false, false) => "and nothing else",
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

/// Returns the directory that has to be allowed for the file that a link leads to, where there is none yet:
/// its own, or the nearest that there is. `None` where that one is for others too.
fn place_to_come(link: &Path) -> Option<PathBuf> {
    let mut path = link.to_owned();
    for _ in 0..LINKS {
        let own = directory(&path);
        let Ok(own) = own.canonicalize() else {
            let mut above = own.ancestors();
            let nearest = above.find_map(|place| place.canonicalize().ok())?;
            return is_of_one_service(&nearest).then_some(nearest);
        };
        let Ok(target) = own.join(path.file_name()?).read_link() else {
            return (own != Path::new("/")).then_some(own);
        };
        path = own.join(target);
    }
    None
}

/// Whether a directory is what one service has made: above it lies what others keep, as the secrets of a
/// container (`/run/secrets`).
fn is_of_one_service(place: &Path) -> bool {
    let below = place.strip_prefix(SERVICES);
    below.is_ok_and(|below| matches!(below.components().next(), Some(Component::Normal(_))))
}
