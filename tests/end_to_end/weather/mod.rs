//! Every operation gets its own result in bad weather.
//!
//! A seed draws a schedule: operations of all kinds, a network that is late, comes in pieces and
//! breaks in the middle of a packet, copies of rows, and restarts. What the platform shows at the end
//! is held against what was asked. `ADIT_WEATHER_SEEDS=1-100,250` chooses the seeds.

mod front;
mod proxy;
mod schedule;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::{StreamExt, stream};
use simulated_cloud::{OperationId, REMOTE_ACCESS, Tunnel};
use smartrest::{Row, encode};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::judge::{self, Asked, Expected, Seen, Verdict, What, ended, is_end};
use crate::support::{Adit, BlackHole, LIMIT, Lan, Site, refusing_port};
use front::Front;
use proxy::Proxy;
use schedule::{DEVICES, Step, Whose, Wish};

/// Chooses other seeds.
const SEEDS: &str = "ADIT_WEATHER_SEEDS";
/// Schedules that run at the same time; each mostly waits.
const AT_ONCE: usize = 8;
/// Of adit, for either side of a tunnel.
const CONNECT_TIMEOUT: &str = "2s";
/// Longer than everything that can still happen by itself while nothing passes on a connection.
const QUIET: Duration = Duration::from_secs(6);
/// How long after its row a copy of it may come.
const COPY_AGE: Duration = Duration::from_secs(3);

/// One schedule and what it plays on.
struct Weather {
    site: Site,
    proxy: Proxy,
    _front: Front,
    adit: Option<Adit>,
    settings: Vec<String>,
    devices: [String; 3],
    asked: Vec<Asked>,
    life: usize,
    lan: Lan,
    refusing: crate::support::Port,
    silent: Vec<BlackHole>,
    /// Holds the far ends of tunnels, and wakes machines.
    others: JoinSet<()>,
    began: Instant,
    steps: Vec<(Instant, Step)>,
}

impl Weather {
    async fn new(random: &mut Rng, settings: &[&str]) -> Self {
        let site = Site::new().await;
        let proxy = Proxy::start(site.broker.gateway_port()).await;
        let front = Front::start(site.cloud.address(), random.fork()).await;
        let devices = [
            site.gateway.clone(),
            site.child("listed"),
            site.child("unlisted"),
        ];
        let mut all = vec![
            format!("mqtt.url=mqtt://127.0.0.1:{}", proxy.port),
            format!("cloud.url=http://{}", front.address),
            format!("device.children={}", devices[Whose::Child as usize]),
            format!("remote_access.connect_timeout={CONNECT_TIMEOUT}"),
        ];
        all.extend(settings.iter().map(|&setting| setting.to_owned()));
        let mut weather = Self {
            site,
            proxy,
            _front: front,
            adit: None,
            settings: all,
            devices,
            asked: Vec::new(),
            life: 0,
            lan: Lan::echo().await,
            refusing: refusing_port(),
            silent: Vec::new(),
            others: JoinSet::new(),
            began: Instant::now(),
            steps: Vec::new(),
        };
        weather.start_adit();
        let adit = weather.adit.take().unwrap();
        weather.adit = Some(adit.ready().await);
        weather
    }

    fn start_adit(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(String::as_str).collect();
        self.adit = Some(self.site.start_adit(&settings));
    }

    async fn step(&mut self, step: Step) {
        self.steps.push((Instant::now(), step));
        match step {
            Step::Wait(time) => sleep(time).await,
            Step::Operation(whose, wish) => self.ask(whose, wish).await,
            Step::Redeliver(number) => {
                let is_recent =
                    |asked: &&Asked| asked.life == self.life && asked.at.elapsed() < COPY_AGE;
                let recent: Vec<_> = self.asked.iter().filter(is_recent).collect();
                if let Some(asked) = recent.get(number % recent.len().max(1)) {
                    self.site.cloud.redeliver(asked.id);
                }
            }
            Step::Cut(cut) => self.proxy.cut(cut),
            Step::Arm(way, bytes, cut) => self.proxy.arm(way, bytes, cut),
            Step::Outage(lasts, cut) => self.proxy.outage(lasts, cut),
            Step::Slow(pause, piece) => self.proxy.slow_down(pause, piece),
            Step::Restart { kill } => self.restart(kill).await,
        }
    }

    async fn restart(&mut self, kill: bool) {
        self.disturb();
        let mut adit = self.adit.take().unwrap();
        if kill {
            adit.kill();
        } else {
            adit.terminate();
            adit.exit().await;
        }
        // Another operation can have come meanwhile.
        self.disturb();
        self.proxy.next_life();
        self.life += 1;
        self.start_adit();
    }

    fn disturb(&mut self) {
        for asked in &mut self.asked {
            let status = self.site.cloud.operation(asked.id).unwrap().status();
            asked.disturbed |= !is_end(status);
        }
    }

    async fn ask(&mut self, whose: Whose, wish: Wish) {
        let number = self.asked.len();
        let device = self.devices[whose as usize].clone();
        let local = self.lan.port.to_string();
        let key = format!("key-{number}");
        let reason = |words: &[&str]| {
            Expected::Reason(words.iter().map(|&words| words.to_owned()).collect())
        };
        let (id, expected) = match wish {
            Wish::Opens => (
                self.open(&device, "127.0.0.1", self.lan.port),
                Expected::Success,
            ),
            Wish::Wakes => {
                let hole = BlackHole::new().await;
                let id = self.open(&device, "127.0.0.1", hole.port);
                self.others.spawn(async move {
                    // The next SYN comes after a second.
                    sleep(Duration::from_millis(300)).await;
                    let _lan = hole.wake();
                    std::future::pending().await
                });
                (id, Expected::Success)
            }
            Wish::Silent => {
                let hole = BlackHole::new().await;
                let target = format!("127.0.0.1:{}", hole.port);
                let id = self.open(&device, "127.0.0.1", hole.port);
                self.silent.push(hole);
                let words = format!("{target} did not answer within {CONNECT_TIMEOUT}");
                (id, reason(&[&words]))
            }
            Wish::Refused => {
                let host = Ipv4Addr::new(127, 1, 0, number as u8).to_string();
                let id = self.open(&device, &host, self.refusing.number);
                let target = format!("{host}:{}", self.refusing.number);
                let words = format!("cannot reach {target}: connection refused");
                (id, reason(&[&words]))
            }
            Wish::Answer(status, late) => {
                let key = format!("{}{status}-{late}-{number}", front::ANSWER);
                let id = self.row(&device, &["127.0.0.1", &local, &key]);
                let words = [format!("HTTP {status}"), format!("mark {number}.")];
                (id, Expected::Reason(words.into()))
            }
            Wish::Keyless => {
                let id = self.row(&device, &[&format!("plc-{number}"), "22"]);
                (id, reason(&["the connection key is missing"]))
            }
            Wish::PortZero => {
                let id = self.row(&device, &[&format!("plc-{number}"), "0", &key]);
                (id, reason(&["port 0 is not from 1 to 65535"]))
            }
            Wish::Denied => {
                let host = Ipv4Addr::new(198, 51, 100, number as u8).to_string();
                let words = format!("the policy does not allow {host}:22");
                (self.row(&device, &[&host, "22", &key]), reason(&[&words]))
            }
        };
        let row = self.site.cloud.operation(id).unwrap().row;
        self.asked.push(Asked {
            id,
            device,
            row: encode([&row]),
            expected: vec![expected],
            at: Instant::now(),
            life: self.life,
            disturbed: false,
        });
    }

    fn open(&mut self, device: &str, host: &str, port: u16) -> OperationId {
        let cloud = &self.site.cloud;
        let tunnel = cloud.open_tunnel(device, host, port).unwrap();
        let id = tunnel.operation;
        self.others.spawn(hold(tunnel));
        id
    }

    /// Creates an operation with a row of its own.
    fn row(&self, device: &str, fields: &[&str]) -> OperationId {
        let row = Row::new(["530", device].iter().chain(fields).copied());
        let cloud = &self.site.cloud;
        cloud.create_operation(device, REMOTE_ACCESS, row).unwrap()
    }

    /// Lets the weather become fine, and waits until all that can come has come.
    async fn end(&mut self) {
        self.proxy.calm();
        // A child that nobody has named is cleared with the next word about it.
        for whose in DEVICES {
            self.ask(whose, Wish::Refused).await;
        }
        let all_ended = self.site.cloud.wait_until(2 * LIMIT, |platform| {
            let mut operations = platform.operations().iter();
            operations.all(|o| is_end(o.status())).then_some(())
        });
        tokio::select! {
            _ = all_ended => {}
            () = self.quiet() => {}
        }
        // What comes too much comes now.
        sleep(Duration::from_millis(300)).await;
    }

    async fn quiet(&self) {
        let is_quiet = || {
            self.proxy.look(|record| {
                let last = record.last();
                last.is_some_and(|last| {
                    !matches!(last.what, What::Ended(_)) && last.at.elapsed() > QUIET
                })
            })
        };
        while !is_quiet() {
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn judge(&self, with_ids: bool) -> Verdict {
        self.proxy.look(|record| {
            judge::Case {
                gateway: &self.site.gateway,
                asked: &self.asked,
                record: &record.iter().collect::<Vec<_>>(),
                log: &judge::applied(&self.site.cloud.log()),
                operations: &self.site.cloud.operations(),
                complaints: &self.site.cloud.errors(),
                with_ids,
                late: &[],
            }
            .judge()
        })
    }

    /// What happened, in the order in which it did.
    fn trace(&self) -> String {
        let mut lines: Vec<(Instant, String)> = self.proxy.look(|record| {
            let line = |seen: &Seen| (seen.at, judge::line(seen));
            record.iter().map(line).collect()
        });
        let steps = self.steps.iter();
        lines.extend(steps.map(|(at, step)| (*at, format!("        {step:?}"))));
        let asked = self.asked.iter();
        lines.extend(asked.map(|a| (a.at, format!("        asked {} {}", a.id, a.row))));
        lines.sort_by_key(|(at, _)| *at);
        let mut trace: Vec<_> = lines
            .into_iter()
            .map(|(at, line)| {
                let after = at.saturating_duration_since(self.began).as_secs_f64();
                format!("{after:9.4} {line}")
            })
            .collect();
        let operations = self.site.cloud.operations();
        trace.extend(operations.iter().map(ended));
        trace.push(format!("complaints: {:?}", self.site.cloud.errors()));
        trace.join("\n")
    }
}

/// Takes a tunnel, and holds it for ever: its key is good whatever the platform thinks of it.
async fn hold(mut tunnel: Tunnel) {
    let _far_end = tunnel.accept(2 * LIMIT).await;
    std::future::pending().await
}

fn seeds(count: u64) -> Vec<u64> {
    let Ok(chosen) = std::env::var(SEEDS) else {
        return (1..=count).collect();
    };
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.parse::<u64>().unwrap()..=to.parse().unwrap()
    };
    chosen.split(',').flat_map(range).collect()
}

/// Plays one seed; the error says what was wrong, and how it came to that.
async fn play(seed: u64, settings: &[&str], with_ids: bool) -> Result<Vec<String>, String> {
    let mut random = Rng::with_seed(seed);
    let mut weather = Weather::new(&mut random, settings).await;
    for step in schedule::draw(&mut random) {
        weather.step(step).await;
    }
    weather.end().await;
    let Verdict {
        faults, admitted, ..
    } = weather.judge(with_ids);
    if faults.is_empty() {
        return Ok(admitted);
    }
    Err(format!(
        "seed {seed}: {}\nadmitted: {admitted:?}\n{}\nadit:\n{}",
        faults.join("\n"),
        weather.trace(),
        weather.adit.as_ref().unwrap().log(),
    ))
}

async fn play_all(count: u64, settings: &[&str], with_ids: bool) {
    let played: Vec<_> = stream::iter(seeds(count))
        .map(|seed| async move { (seed, play(seed, settings, with_ids).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut failed = Vec::new();
    for (seed, outcome) in played {
        match outcome {
            Ok(admitted) => eprintln!("seed {seed}: {admitted:?}"),
            Err(trace) => {
                eprintln!("{trace}");
                failed.push(seed);
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{SEEDS}={failed:?}; the traces are above"
    );
}

#[tokio::test]
async fn gives_every_operation_its_own_result_in_bad_weather() {
    play_all(6, &["remote_access.operation_ids=none"], false).await;
}

#[tokio::test]
async fn gives_every_operation_its_own_result_by_its_id_in_bad_weather() {
    for ids in ["notifications", "templates"] {
        let setting = format!("remote_access.operation_ids={ids}");
        play_all(4, &[&setting], true).await;
    }
}
