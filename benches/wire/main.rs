//! What a tunnel costs, measured from outside: `cargo bench --locked --bench wire`.
//!
//! The agent is the release binary in a process of its own, driven over MQTT by `530` rows. The
//! cloud's end, the machine of the LAN and the driver are this process. In turns with the agent a
//! floor relay does the same work, which is this program once more; ratios to it say more than
//! seconds, which tell of the machine. Processor time is what the kernel has booked for the process
//! that is measured.

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
    let options = Options::read(build);
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
