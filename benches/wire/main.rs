//! What a tunnel costs, measured from outside: `cargo bench --locked --bench wire`.
//!
//! The agent is the release binary in a process of its own, driven over MQTT by `530` rows. The
//! cloud's end, the machine of the LAN and the driver are this process. In turns with the agent a
//! floor relay does the same work, which is this program once more; ratios to it say more than
//! seconds, which tell of the machine. Processor time is what the kernel has booked for the process
//! that is measured.
//!
//! `cargo test` runs it too, with the agent that the tests have and next to no work, so that a change
//! that breaks it is seen.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench talks to a person and ends at the first fault"
)]

mod account;
mod broker;
mod chart;
mod cloud;
mod contender;
mod figures;
mod floor;
mod frames;
mod machine;
mod options;
mod page;
mod placement;
mod site;
mod statistics;

use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use options::Options;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(contender::FLOOR) {
        let authority = arguments.next().expect("the bench names a file");
        return floor::run(&authority);
    }
    let options = if std::env::args().any(|argument| argument == options::BENCH) {
        Options::read(build)
    } else if is_left_out() {
        return;
    } else {
        Options::trial(env!("CARGO_BIN_EXE_adit").into())
    };
    raise_file_limit();
    let mut measured = Vec::new();
    for name in &options.figures {
        eprintln!("measuring {name}");
        measured.extend(figures::measure(name, &options));
    }
    println!("{}", page::table(&measured));
    if options.whole {
        page::write(&measured, &options);
    }
}

/// Whether the arguments of `cargo test` name other tests.
fn is_left_out() -> bool {
    let mut names = std::env::args().skip(1);
    let is_name = |argument: &String| !argument.starts_with('-');
    names.any(|argument| is_name(&argument) && !env!("CARGO_CRATE_NAME").contains(&argument))
}

/// Makes the agent as it is released, without what tests and benches switch on in its libraries.
fn build() -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--bin", "adit"])
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the agent does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| PathBuf::from(root).join("target"), PathBuf::from);
    target.join("release/adit")
}

/// Thousands of tunnels have twice as many files, here and in the agent, which inherits the limit.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised to the hard one");
}
