//! The figures: how each is measured, and what is said of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Instant;

use crate::account;
use crate::contender::{Agent, Contender, Floor};
use crate::frames::write_head;
use crate::options::Options;
use crate::placement::{Placement, Processors};
use crate::site::{Site, Tunnel};
use crate::statistics::{median, percentile, spread};

pub(crate) const GB: f64 = 1e9;
pub(crate) const KIB: f64 = 1024.0;
pub(crate) const MIB: f64 = 1024.0 * 1024.0;
/// What an operator's key and its echo come to, with what SSH adds.
const KEY_STROKE: usize = 64;

/// What a figure is to reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// At most so many times the floor.
    Ratio(f64),
    /// At most so much, in the unit of the figure.
    Value(f64),
    None,
}

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
    /// Median over the rounds.
    pub(crate) adit: f64,
    pub(crate) beside: Option<Beside>,
    pub(crate) target: Target,
}

/// The floor in the same rounds.
pub(crate) struct Beside {
    /// Median over the rounds.
    pub(crate) floor: f64,
    /// Median of the ratios within a round.
    pub(crate) ratio: f64,
    /// Lowest and highest of the ratios.
    pub(crate) range: (f64, f64),
    /// How far the floor's own figures lie apart, as a part of their median.
    pub(crate) noise: f64,
}

impl Figure {
    /// Whether it reaches its target; `None` where it has none.
    pub(crate) fn reached(&self) -> Option<bool> {
        match self.target {
            // What is printed counts.
            Target::Ratio(most) => {
                Some((self.beside.as_ref()?.ratio * 100.0).round() <= most * 100.0)
            }
            Target::Value(most) => Some(self.adit <= most),
            Target::None => None,
        }
    }

    fn alone(title: &str, unit: &'static str, decimals: usize, adit: f64, target: Target) -> Self {
        Self {
            title: title.to_owned(),
            unit,
            decimals,
            adit,
            beside: None,
            target,
        }
    }
}

/// What can be measured, by the name that the command line takes.
pub(crate) const NAMES: [&str; 9] = [
    "down-16k",
    "up",
    "down-1k",
    "echo",
    "open",
    "idle-agent",
    "idle-tunnel",
    "many",
    "size",
];

pub(crate) fn measure(name: &str, options: &Options) -> Vec<Figure> {
    match name {
        "down-16k" => down(options, "16 KiB frames", 16 << 10, Target::Ratio(1.0)),
        "down-1k" => down(options, "1 KiB frames", 1 << 10, Target::Ratio(1.1)),
        "up" => up(options),
        "echo" => echo(options),
        "open" => open(options),
        "idle-agent" => idle_agent(options),
        "idle-tunnel" => idle_tunnel(options),
        "many" => many(options),
        "size" => size(options),
        other => unreachable!("{other} is no figure"),
    }
}

/// A quantity that is measured of both in turns.
struct Quantity {
    title: String,
    unit: &'static str,
    decimals: usize,
    target: Target,
}

/// Measures the agent and the floor in turns, whoever was second being first in the next round.
fn in_turns<const N: usize>(
    options: &Options,
    placement: Placement,
    quantities: [Quantity; N],
    mut measure: impl FnMut(&mut Site, &mut Contender) -> [f64; N],
) -> Vec<Figure> {
    let processors = Processors::given();
    processors.place_driver(placement);
    let mut site = Site::new();
    let mut contenders = [Agent::start(&site, &options.adit), Floor::start(&site)];
    for contender in &contenders {
        processors.place_measured(contender.pid());
    }
    let mut seen: [[Vec<f64>; 2]; N] = std::array::from_fn(|_| Default::default());
    // The first round only warms up.
    for round in 0..=options.rounds {
        for turn in 0..2 {
            let who = (round + turn) % 2;
            let values = measure(&mut site, &mut contenders[who]);
            if round > 0 {
                for (series, value) in seen.iter_mut().zip(values) {
                    series[who].push(value);
                }
            }
        }
    }
    processors.release();
    let figure = |(quantity, [adit, floor]): (Quantity, [Vec<f64>; 2])| {
        let ratios: Vec<_> = adit
            .iter()
            .zip(&floor)
            .map(|(adit, floor)| adit / floor)
            .collect();
        let beside = Beside {
            floor: median(&floor),
            ratio: median(&ratios),
            range: (percentile(&ratios, 0.0), percentile(&ratios, 1.0)),
            noise: spread(&floor),
        };
        Figure {
            title: quantity.title,
            unit: quantity.unit,
            decimals: quantity.decimals,
            adit: median(&adit),
            beside: Some(beside),
            target: quantity.target,
        }
    };
    quantities.into_iter().zip(seen).map(figure).collect()
}

fn down(options: &Options, frames: &str, frame: usize, target: Target) -> Vec<Figure> {
    let load = load(options.bulk);
    let per_gb = Quantity {
        title: format!("CPU per GB, cloud to LAN, {frames}"),
        unit: "s",
        decimals: 3,
        target,
    };
    in_turns(options, Placement::Together, [per_gb], |site, contender| {
        let mut tunnel = site.open(contender);
        let sealed = tunnel.cloud.seal(&framed(&load, frame));
        let before = account::processor_time(contender.pid());
        let arrived = thread::scope(|scope| {
            let mut cloud = &tunnel.cloud.stream;
            scope.spawn(move || cloud.write_all(&sealed).unwrap());
            read_bulk(&mut tunnel.lan, load.len())
        });
        let used = account::processor_time(contender.pid()) - before;
        assert!(arrived == load, "{} has changed bytes", contender.name());
        close(tunnel);
        [used.as_secs_f64() / (load.len() as f64 / GB)]
    })
}

fn up(options: &Options) -> Vec<Figure> {
    let load = load(options.bulk);
    let per_gb = Quantity {
        title: "CPU per GB, LAN to cloud".to_owned(),
        unit: "s",
        decimals: 3,
        target: Target::Ratio(1.0),
    };
    in_turns(options, Placement::Together, [per_gb], |site, contender| {
        let mut tunnel = site.open(contender);
        let before = account::processor_time(contender.pid());
        let arrived = thread::scope(|scope| {
            let mut lan = &tunnel.lan;
            let load = &load;
            scope.spawn(move || lan.write_all(load).unwrap());
            tunnel.cloud.receive_bulk(load.len())
        });
        let used = account::processor_time(contender.pid()) - before;
        assert!(arrived == load, "{} has changed bytes", contender.name());
        close(tunnel);
        [used.as_secs_f64() / (load.len() as f64 / GB)]
    })
}

fn echo(options: &Options) -> Vec<Figure> {
    let quantity = |title: &str, most| Quantity {
        title: format!("64 bytes and back, {title}"),
        unit: "µs",
        decimals: 1,
        target: Target::Ratio(most),
    };
    let quantities = [
        quantity("p50", 1.0),
        quantity("p99", 1.1),
        quantity("CPU per round trip", 1.0),
    ];
    in_turns(
        options,
        Placement::Together,
        quantities,
        |site, contender| {
            let mut tunnel = site.open(contender);
            let before = account::processor_time(contender.pid());
            let mut trip = |n: u64| {
                let key = key_stroke(n);
                let began = Instant::now();
                tunnel.cloud.send(&key);
                echo_once(&mut tunnel.lan);
                let back = tunnel.cloud.receive(KEY_STROKE);
                let took = began.elapsed().as_secs_f64() * 1e6;
                assert!(back == key, "another echo has come");
                took
            };
            let times: Vec<_> = (0..options.round_trips).map(&mut trip).collect();
            let used = account::processor_time(contender.pid()) - before;
            close(tunnel);
            [
                percentile(&times, 0.5),
                percentile(&times, 0.99),
                used.as_secs_f64() * 1e6 / times.len() as f64,
            ]
        },
    )
}

fn open(options: &Options) -> Vec<Figure> {
    let quantities = [
        Quantity {
            title: "operation received to first byte echoed, p50".to_owned(),
            unit: "ms",
            decimals: 2,
            target: Target::None,
        },
        Quantity {
            title: "CPU per opened and closed tunnel".to_owned(),
            unit: "ms",
            decimals: 2,
            target: Target::None,
        },
    ];
    in_turns(options, Placement::Apart, quantities, |site, contender| {
        let before = account::processor_time(contender.pid());
        let mut opening = |n: usize| {
            let key = key_stroke(n as u64);
            let began = Instant::now();
            site.request(contender);
            let mut cloud = site.cloud_end(contender);
            cloud.send(&key);
            let mut lan = site.lan_end(contender);
            echo_once(&mut lan);
            assert!(cloud.receive(KEY_STROKE) == key, "another echo has come");
            let took = began.elapsed();
            close(Tunnel { cloud, lan });
            took.as_secs_f64() * 1e3
        };
        let times: Vec<_> = (0..options.openings).map(&mut opening).collect();
        let used = account::processor_time(contender.pid()) - before;
        [
            median(&times),
            used.as_secs_f64() * 1e3 / times.len() as f64,
        ]
    })
}

fn idle_agent(options: &Options) -> Vec<Figure> {
    let site = Site::new();
    let agent = Agent::start(&site, &options.adit);
    thread::sleep(options.rest);
    let before = account::wake_ups(agent.pid());
    thread::sleep(options.idle);
    let wake_ups = account::wake_ups(agent.pid()) - before;
    let a_minute = wake_ups * 60.0 / options.idle.as_secs_f64();
    let memory = account::memory(agent.pid()) / MIB;
    let threads = account::threads(agent.pid()) as f64;
    vec![
        Figure::alone(
            "idle agent, memory (PSS)",
            "MiB",
            1,
            memory,
            Target::Value(4.3),
        ),
        Figure::alone("idle agent, threads", "", 0, threads, Target::Value(1.0)),
        Figure::alone(
            "idle agent, wake-ups a minute",
            "",
            0,
            a_minute,
            Target::Value(4.0),
        ),
    ]
}

fn idle_tunnel(options: &Options) -> Vec<Figure> {
    let mut site = Site::new();
    let mut agent = Agent::start(&site, &options.adit);
    // One tunnel pays what all of them share.
    let mut first = site.open(&mut agent);
    exchange(&mut first, &load(options.burst));
    thread::sleep(options.rest);
    let bare = account::memory(agent.pid());
    let mut tunnels: Vec<_> = (0..options.idle_tunnels)
        .map(|_| site.open(&mut agent))
        .collect();
    thread::sleep(options.rest);
    let each = |memory: f64| (memory - bare) / KIB / options.idle_tunnels as f64;
    let idle = each(account::memory(agent.pid()));
    let burst = load(options.burst);
    for tunnel in &mut tunnels {
        exchange(tunnel, &burst);
    }
    thread::sleep(options.rest);
    let rested = each(account::memory(agent.pid()));
    let after = format!(
        "idle tunnel, memory, {} s after {} MiB each way",
        options.rest.as_secs(),
        options.burst >> 20
    );
    vec![
        Figure::alone(
            "idle tunnel, memory (PSS)",
            "KiB",
            1,
            idle,
            Target::Value(12.0),
        ),
        Figure::alone(&after, "KiB", 1, rested, Target::Value(12.0)),
    ]
}

fn many(options: &Options) -> Vec<Figure> {
    let mut site = Site::new();
    let mut agent = Agent::start(&site, &options.adit);
    let count = options.many;
    let before = account::processor_time(agent.pid());
    let began = Instant::now();
    for _ in 0..count {
        site.request(&mut agent);
    }
    let mut tunnels: Vec<_> = (0..count).map(|_| site.opened(&agent)).collect();
    let opening = began.elapsed().as_secs_f64();
    let used = account::processor_time(agent.pid()) - before;
    let began = Instant::now();
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.cloud.send(&key_stroke(n as u64));
    }
    for tunnel in &mut tunnels {
        echo_once(&mut tunnel.lan);
    }
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        let back = tunnel.cloud.receive(KEY_STROKE);
        assert!(back == key_stroke(n as u64), "another echo has come");
        tunnel.cloud.rest();
    }
    let echoing = began.elapsed().as_secs_f64();
    let memory = account::memory(agent.pid()) / MIB;
    let title = |what: &str| format!("{count} tunnels at once, {what}");
    let rate = count as f64 / opening;
    let each = used.as_secs_f64() * 1e3 / count as f64;
    vec![
        Figure::alone(
            &title("memory of the agent (PSS)"),
            "MiB",
            1,
            memory,
            Target::Value(100.0),
        ),
        Figure::alone(&title("opened a second"), "", 0, rate, Target::None),
        Figure::alone(&title("CPU per opened tunnel"), "ms", 2, each, Target::None),
        Figure::alone(
            &title("all have echoed after"),
            "s",
            2,
            echoing,
            Target::None,
        ),
    ]
}

fn size(options: &Options) -> Vec<Figure> {
    let bytes = std::fs::metadata(&options.adit).unwrap().len() as f64;
    vec![Figure::alone(
        "stripped release binary",
        "MiB",
        2,
        bytes / MIB,
        Target::Value(4.5),
    )]
}

/// Bytes that do not repeat, so that a lost or a doubled piece is seen.
fn load(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

fn key_stroke(n: u64) -> Vec<u8> {
    n.to_be_bytes().repeat(KEY_STROKE / 8)
}

fn framed(load: &[u8], frame: usize) -> Vec<u8> {
    let mut frames = Vec::with_capacity(load.len() + load.len() / frame * 16 + 16);
    for payload in load.chunks(frame) {
        write_head(&mut frames, payload.len(), None);
        frames.extend_from_slice(payload);
    }
    frames
}

fn read_bulk(lan: &mut TcpStream, length: usize) -> Vec<u8> {
    // Not zero, so that the pages are there before the clock runs.
    let mut arrived = vec![1; length];
    lan.read_exact(&mut arrived).unwrap();
    arrived
}

fn echo_once(lan: &mut TcpStream) {
    let mut key = [0; KEY_STROKE];
    lan.read_exact(&mut key).unwrap();
    lan.write_all(&key).unwrap();
}

/// Sends the load both ways at once.
fn exchange(tunnel: &mut Tunnel, load: &[u8]) {
    let sealed = tunnel.cloud.seal(&framed(load, 16 << 10));
    let mut cloud = tunnel.cloud.stream.try_clone().unwrap();
    let (mut writer, mut reader) = (&tunnel.lan, tunnel.lan.try_clone().unwrap());
    let (down, up) = thread::scope(|scope| {
        scope.spawn(move || cloud.write_all(&sealed).unwrap());
        scope.spawn(move || writer.write_all(load).unwrap());
        let down = scope.spawn(move || read_bulk(&mut reader, load.len()));
        let up = tunnel.cloud.receive_bulk(load.len());
        (down.join().unwrap(), up)
    });
    assert!(down == load && up == load, "bytes have changed");
    tunnel.cloud.rest();
}

/// Ends a tunnel and waits until whoever carried it has let go of both ends.
fn close(tunnel: Tunnel) {
    let Tunnel { cloud, mut lan } = tunnel;
    let ending = cloud.begin_close();
    let _ = lan.read_to_end(&mut Vec::new());
    let _ = lan.shutdown(Shutdown::Write);
    ending.finish();
}
