//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::figures::NAMES;

/// The argument that cargo gives to a bench, and not to a test.
pub(crate) const BENCH: &str = "--bench";

/// What a tunnel costs, measured from outside beside a floor relay that runs in turns with it. A whole run
/// writes its results into docs/ and README.md.
#[derive(Parser)]
#[command(name = "wire", bin_name = "cargo bench --locked --bench wire --")]
struct CommandLine {
    /// Figures to measure; all of them unless named.
    #[arg(value_parser = PossibleValuesParser::new(NAMES))]
    figures: Vec<String>,
    /// A shortened run, to see whether it works; its figures are worth little.
    #[arg(long)]
    quick: bool,
    /// Rounds of what is measured in turns.
    #[arg(long)]
    rounds: Option<usize>,
    /// The binary to measure; made by `cargo build --release --locked` unless given.
    #[arg(long, value_name = "FILE")]
    adit: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

pub(crate) struct Options {
    pub(crate) figures: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) adit: PathBuf,
    /// Whether the command line named the binary.
    pub(crate) given: bool,
    /// Whether this is the whole run, whose results go into the documents.
    pub(crate) whole: bool,
    /// Bytes of one transfer in one direction.
    pub(crate) bulk: usize,
    /// Bytes each way through each tunnel before memory is measured again.
    pub(crate) burst: usize,
    pub(crate) round_trips: u64,
    /// Tunnels that are opened one after the other in a round.
    pub(crate) openings: usize,
    pub(crate) idle_tunnels: usize,
    /// Tunnels that are opened at once.
    pub(crate) many: usize,
    /// How long wake-ups are counted.
    pub(crate) idle: Duration,
    /// How long an agent may take to begin, and to give memory back.
    pub(crate) rest: Duration,
}

impl Options {
    /// Reads the command line; `build` makes the agent where none is named.
    pub(crate) fn read(build: impl FnOnce() -> PathBuf) -> Self {
        let line = CommandLine::parse();
        let everything = line.figures.is_empty();
        let whole = Self {
            figures: if everything {
                NAMES.map(str::to_owned).to_vec()
            } else {
                line.figures
            },
            rounds: line.rounds.unwrap_or(11),
            given: line.adit.is_some(),
            adit: line.adit.unwrap_or_else(build),
            whole: everything,
            bulk: 128 << 20,
            burst: 64 << 20,
            round_trips: 5000,
            openings: 50,
            idle_tunnels: 100,
            many: 5000,
            idle: Duration::from_secs(60),
            rest: Duration::from_secs(5),
        };
        if !line.quick {
            return whole;
        }
        Self {
            rounds: line.rounds.unwrap_or(2),
            bulk: 16 << 20,
            burst: 2 << 20,
            round_trips: 300,
            openings: 5,
            idle_tunnels: 10,
            many: 100,
            idle: Duration::from_secs(5),
            whole: false,
            ..whole
        }
    }

    /// Measures everything once with as little work as there can be.
    pub(crate) fn trial(adit: PathBuf) -> Self {
        Self {
            figures: NAMES.map(str::to_owned).to_vec(),
            rounds: 1,
            adit,
            given: true,
            whole: false,
            bulk: 1 << 20,
            burst: 1 << 20,
            round_trips: 10,
            openings: 2,
            idle_tunnels: 2,
            many: 20,
            idle: Duration::from_millis(100),
            rest: Duration::from_millis(100),
        }
    }
}
