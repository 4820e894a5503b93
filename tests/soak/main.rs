//! The real command on real sockets in bad times: a fault machine stands between adit and the broker,
//! the cloud and the machines of the LAN, and does by a seed what networks do. Brokers and adits
//! are ended and started again. Every schedule is judged at its end, and by then adit holds no more
//! files, threads and memory than before it.
//!
//! docs/testing.md says what strikes, what is promised, and how a seed is repeated.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that fails says so by panicking, and shows the logs"
)]

mod agent;
mod broker;
mod doubt;
mod far_end;
mod game;
mod gate;
#[path = "../judge/mod.rs"]
mod judge;
mod lane;
mod link;
mod machine;
mod plan;
mod queue;
mod recorder;
mod report;
mod side;
mod support;
mod verdict;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use game::Game;
use lane::Lane;
use plan::{Kind, Plan};
use report::Report;

/// Schedules that are played where nobody says how many.
const SCHEDULES: u64 = 200;
/// Says for how many hours instead.
const HOURS: &str = "ADIT_SOAK_HOURS";
/// Chooses the seeds, as `1-100,250`; with [`HOURS`], the first.
const SEEDS: &str = "ADIT_SOAK_SEEDS";
/// Gateways of each kind that play at the same time; each mostly waits.
const GATEWAYS: usize = 8;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(60);

/// Where the seeds come from, and what came of them.
struct Soak {
    seeds: Mutex<Seeds>,
    report: Mutex<Report>,
    failed: Mutex<Vec<u64>>,
}

struct Seeds {
    /// By kind of gateway.
    waiting: BTreeMap<Kind, VecDeque<u64>>,
    /// Until then, every seed has a successor.
    until: Option<Instant>,
}

impl Seeds {
    fn chosen() -> Self {
        let chosen = std::env::var(SEEDS).ok().map(|text| {
            let range = |part: &str| {
                let (from, to) = part.split_once('-').unwrap_or((part, part));
                from.parse::<u64>().unwrap()..=to.parse().unwrap()
            };
            text.split(',').flat_map(range).collect::<Vec<_>>()
        });
        let hours = std::env::var(HOURS).ok();
        let lasts =
            hours.map(|hours| Duration::from_secs_f64(hours.parse::<f64>().unwrap() * 3600.0));
        let kinds = Kind::ALL.len() as u64;
        let seeds = match (chosen, lasts) {
            (Some(seeds), None) => seeds,
            (None, None) => (0..SCHEDULES).collect(),
            (chosen, Some(_)) => {
                let first = chosen.and_then(|seeds| seeds.first().copied()).unwrap_or(0);
                (first..first + kinds).collect()
            }
        };
        let mut waiting = BTreeMap::<_, VecDeque<_>>::new();
        for seed in seeds {
            waiting.entry(Kind::of(seed)).or_default().push_back(seed);
        }
        Self {
            waiting,
            until: lasts.map(|lasts| Instant::now() + lasts),
        }
    }

    /// The next for a kind of gateway.
    fn next(&mut self, kind: Kind) -> Option<u64> {
        let waiting = self.waiting.get_mut(&kind)?;
        if self.until.is_some_and(|until| Instant::now() > until) {
            return None;
        }
        let seed = waiting.pop_front()?;
        if self.until.is_some() {
            waiting.push_back(seed + Kind::ALL.len() as u64);
        }
        Some(seed)
    }
}

impl Soak {
    /// Plays schedules on one gateway after another, which goes on as long as nothing fails.
    async fn play(self: Arc<Self>, number: usize, kind: Kind) {
        let mut lane = None;
        loop {
            let next = self.seeds.lock().unwrap().next(kind);
            let Some(seed) = next else { return };
            let plan = Plan::draw(seed);
            let mut playing = match lane.take() {
                Some(lane) => lane,
                None => Lane::new(number, kind).await,
            };
            match Game::new(&mut playing, &plan).play().await {
                Ok(played) => {
                    lane = played.is_finished.then_some(playing);
                    let mut report = self.report.lock().unwrap();
                    report.add(number, kind.lasts, played);
                }
                Err(failure) => {
                    eprintln!("{}", failure.words);
                    self.failed.lock().unwrap().push(seed);
                }
            }
        }
    }

    async fn tell_progress(self: Arc<Self>) {
        loop {
            sleep(PROGRESS).await;
            let mut report = self.report.lock().unwrap();
            report.take_row();
            eprintln!("{}", report.progress());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_its_promises_on_real_sockets_in_bad_times() {
    let soak = Arc::new(Soak {
        seeds: Mutex::new(Seeds::chosen()),
        report: Mutex::new(Report::new()),
        failed: Mutex::default(),
    });
    let mut telling = JoinSet::new();
    telling.spawn(Arc::clone(&soak).tell_progress());
    let mut gateways = JoinSet::new();
    for kind in Kind::ALL {
        for _ in 0..GATEWAYS {
            let number = gateways.len();
            gateways.spawn(Arc::clone(&soak).play(number, kind));
        }
    }
    while let Some(ended) = gateways.join_next().await {
        ended.unwrap();
    }
    let mut report = soak.report.lock().unwrap();
    report.take_row();
    eprintln!("{report}");
    let failed = soak.failed.lock().unwrap();
    assert!(
        failed.is_empty(),
        "{SEEDS}={failed:?}; what happened is above"
    );
}
