//! What goes and what does not, tried in threads that confine themselves.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};
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

#[test]
fn allows_the_directory_of_a_file_that_a_link_leads_to_before_it_is_there() {
    let directory = Directory::new("late");
    let other = directory.path("other").canonicalize().unwrap();
    let link = |name: &str, target: &str| {
        let link = directory.path(name);
        symlink(target, &link).unwrap();
        link
    };
    link("other/further", "late");
    link("turned", "own/../other");
    link("own/loop", "loop");
    let absolute = other.join("late").display().to_string();
    let usual = Confinement::new();
    for (name, target, is_allowed) in [
        ("own/relative", "../other/late", true),
        ("own/absolute", &absolute, true),
        ("own/by-another", "../other/further", true),
        ("own/by-a-directory", "../turned/late", true),
        ("own/without-directory", "../none/late", false),
        ("own/root", "/adit-late", false),
        ("own/to-loop", "loop", false),
    ] {
        let link = link(name, target);
        let confinement = usual.clone().read_again(&link);
        let mut allowed = BTreeSet::from([directory.path("own")]);
        allowed.extend(is_allowed.then(|| other.clone()));
        let added = confinement.reads.difference(&usual.reads).cloned();
        assert_eq!(added.collect::<BTreeSet<_>>(), allowed, "{name}");
        let unseen = (!is_allowed).then_some(link);
        assert_eq!(confinement.unseen, unseen.into_iter().collect(), "{name}");
    }
}

#[test]
fn opens_nothing_of_others_for_a_directory_that_is_not_there() {
    for (nearest, is_of_one) in [
        ("/", false),
        ("/run", false),
        ("/run/", false),
        ("/run/NetworkManager", true),
        ("/run/systemd/resolve", true),
        ("/runner", false),
        ("/tmp", false),
        ("/var/lib", false),
    ] {
        assert_eq!(
            is_of_one_service(Path::new(nearest)),
            is_of_one,
            "{nearest}"
        );
    }
}

#[test]
fn reads_what_this_machine_trusts_again_once_others_have_replaced_it() {
    let directory = Directory::new("roots");
    let (file, listed) = (directory.path("own/roots.pem"), directory.path("other"));
    fs::write(&file, "old").unwrap();
    let (files, directories) = ([file.clone()], [listed.clone()]);
    let confinement = Confinement::new();
    let confinement = confinement.trust_again_in(files.into_iter(), directories.into_iter());
    let (ask, asked) = mpsc::channel();
    let (say, said) = mpsc::channel();
    let (directory, file, listed) = (&directory, &file, &listed);
    thread::scope(|scope| {
        // As a package manager does, while adit runs.
        scope.spawn(move || {
            if asked.recv().is_ok() {
                fs::write(directory.path("new"), "new").unwrap();
                fs::rename(directory.path("new"), file).unwrap();
                fs::write(listed.join("one.pem"), "one").unwrap();
                say.send(()).unwrap();
            }
        });
        confined(&confinement, move |_| {
            ask.send(()).unwrap();
            said.recv().unwrap();
            assert_eq!(fs::read_to_string(file).unwrap(), "new");
            // What every test has there, and what is new.
            assert_eq!(fs::read_dir(listed).unwrap().count(), 2);
            assert_eq!(fs::read_to_string(listed.join("one.pem")).unwrap(), "one");
            // Nothing else is listed.
            assert_eq!(outcome(fs::read_dir(directory.path("own"))), DENIED);
        });
    });
}

/// Runs in a thread of its own, which is all that is confined.
fn confined<T: Send>(confinement: &Confinement, run: impl FnOnce(i32) -> T + Send) -> Option<T> {
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
fn makes_sockets_where_it_may_and_nowhere_else() {
    let directory = Directory::new("sockets");
    let (own, other) = (directory.path("own/file"), directory.path("other/file"));
    confined(&Confinement::new().make_socket(&own), |_| {
        let (beside, socket) = (directory.path("own/new"), directory.path("own/socket"));
        for _ in 0..2 {
            assert_eq!(outcome(UnixListener::bind(&beside)), None);
            assert_eq!(outcome(fs::rename(&beside, &socket)), None);
        }
        assert_eq!(outcome(fs::remove_file(&socket)), None);
        let elsewhere = UnixListener::bind(directory.path("other/socket"));
        assert_eq!(outcome(elsewhere), DENIED);
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
        // A thread that it starts is confined too.
        let replaced = thread::scope(|scope| scope.spawn(|| fs::write(&own, "")).join());
        assert_eq!(outcome(replaced.unwrap()), DENIED);
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
    is_read_once_it_is_put(&directory, &directory.path("own/file"), "own/file");
}

#[test]
fn reads_a_file_that_a_link_led_to_before_it_was_there() {
    let directory = Directory::new("put-later");
    let link = directory.path("own/link");
    symlink("../other/late", &link).unwrap();
    is_read_once_it_is_put(&directory, &link, "other/late");
}

/// Reads `own` once a file was put at `place`, by somebody who is confined before.
fn is_read_once_it_is_put(directory: &Directory, own: &Path, place: &str) {
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
            fs::rename(&new, directory.path(place)).unwrap();
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
    confined(&Confinement::new().reach_abstract_sockets(), |_| {
        assert_eq!(outcome(UnixStream::connect_addr(&hidden)), None);
    });
    let port = machine.local_addr().unwrap().port();
    drop(machine);
    confined(&Confinement::new().listen(port), |abi| {
        // Somebody else may have taken it by now; that it is allowed is seen all the same.
        assert_ne!(outcome(TcpListener::bind(("127.0.0.1", port))), DENIED);
        if abi >= 4 {
            assert_eq!(outcome(TcpListener::bind("127.0.0.1:0")), DENIED);
        }
    });
}

#[test]
fn executes_its_program_in_the_same_confinement() {
    let directory = Directory::new("executes");
    let (program, other) = (directory.path("own/cat"), directory.path("other/cat"));
    for place in [&program, &other] {
        fs::copy("/bin/cat", place).unwrap();
    }
    let file = directory.path("own/file");
    confined(&Confinement::new().execute(&program), |_| {
        let run = |program: &Path, file: &str| {
            // No /dev/null can be opened.
            let stdin = Stdio::inherit();
            let output = Command::new(program).arg(file).stdin(stdin).output()?;
            Ok::<_, io::Error>((output.status.success(), output.stdout))
        };
        let allowed = run(&program, &file.display().to_string()).unwrap();
        assert_eq!(allowed, (true, b"own".to_vec()));
        for denied in ["/proc/version", "/usr/bin/env"] {
            assert!(!run(&program, denied).unwrap().0, "{denied}");
        }
        assert_eq!(outcome(run(&other, "/etc/hosts")), DENIED);
        assert_eq!(outcome(run(Path::new("/bin/cat"), "/etc/hosts")), DENIED);
    });
}

#[test]
fn goes_on_with_what_it_inherited_where_no_further_confinement_fits() {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut confined: Vec<_> = (0..20).map(|_| Confinement::new().apply()).collect();
            let last = confined.pop().unwrap();
            if let Confined::Unsupported(why) = last {
                return eprintln!("not tested: {why}");
            }
            assert!(matches!(last, Confined::Inherited), "{last:?}");
            let held = confined
                .iter()
                .filter(|it| matches!(it, Confined::Yes { .. }));
            assert_eq!(held.count(), 16);
            assert_eq!(outcome(fs::File::open("/proc/version")), DENIED);
        });
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
        lists: BTreeSet::new(),
        writes: BTreeSet::new(),
        sockets: BTreeSet::new(),
        executes: BTreeSet::new(),
        ports: BTreeSet::new(),
        abstract_sockets: false,
        unseen: BTreeSet::new(),
    };
    assert_eq!(
        confinement.to_string(),
        "reads only in /etc, /lib; writes and executes nothing"
    );
    let confinement = confinement
        .write(Path::new("/var/lib/adit/credentials.toml"))
        .make_socket(Path::new("/run/adit/adit.sock"))
        .listen(9590)
        .reach_abstract_sockets();
    assert_eq!(
        confinement.to_string(),
        "reads only in /etc, /lib; writes only in /var/lib/adit; makes sockets only in /run/adit; \
         listens only at port 9590; reaches abstract sockets; executes nothing"
    );
    let confinement = Confinement {
        executes: BTreeSet::from(["/usr/bin".into()]),
        writes: BTreeSet::new(),
        ..confinement
    };
    assert_eq!(
        confinement.to_string(),
        "reads only in /etc, /lib; makes sockets only in /run/adit; executes only in /usr/bin; \
         listens only at port 9590; reaches abstract sockets; writes nothing"
    );
}
