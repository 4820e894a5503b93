//! What the relay costs: throughput, latency and processor time over loopback TCP, each as a ratio
//! to the floor, a proxy that only copies between two TCP sockets (`copy_bidirectional`).
//!
//! `cargo bench --bench relay [-- MEBIBYTES]`. Source and sink write and read prepared bytes, so
//! that next to all processor time of the measured thread is the relay's own, the kernel's part
//! included. Ratios of the same run can be compared, numbers of different machines cannot.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench talks to a person and ends at the first fault"
)]

use std::future::pending;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use adit::net::UnbufferedStream;
use adit::tunnel::relay::{CloudSocket, DRAIN_LIMIT, Limits, Traffic, relay};
use tracing::Span;

const PIECE: usize = 64 << 10;
const ROUND_TRIPS: u32 = 20_000;
/// Runs of each measurement; the fastest counts, as what disturbs a run only makes it slower.
const RUNS: usize = 3;
const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xe8];

#[derive(Clone, Copy, PartialEq)]
enum Carrier {
    Floor,
    Relay,
}

#[derive(Clone, Copy)]
struct Cost {
    took: Duration,
    processor: Duration,
}

fn main() {
    let mebibytes = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let total: usize = mebibytes.unwrap_or(1024) << 20;
    println!("{:28}{:>12}{:>12}{:>8}", "", "floor", "relay", "ratio");
    for (name, run) in [
        ("up", bulk_up as fn(Carrier, usize) -> Cost),
        ("down", bulk_down),
    ] {
        let floor = best(|| run(Carrier::Floor, total));
        let relay = best(|| run(Carrier::Relay, total));
        let speed = |cost: Cost| total as f64 / 1e9 / cost.took.as_secs_f64();
        let processor = |cost: Cost| cost.processor.as_secs_f64() / (total as f64 / 1e9);
        report(&format!("{name}, GB/s"), speed(floor), speed(relay));
        report(
            &format!("{name}, processor s/GB"),
            processor(floor),
            processor(relay),
        );
    }
    let floor = best(|| round_trips(Carrier::Floor));
    let relay = best(|| round_trips(Carrier::Relay));
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(ROUND_TRIPS);
    report(
        "1 byte and back, µs",
        micros(floor.took),
        micros(relay.took),
    );
    report(
        "1 byte and back, processor µs",
        micros(floor.processor),
        micros(relay.processor),
    );
}

fn report(name: &str, floor: f64, relay: f64) {
    println!("{name:28}{floor:12.3}{relay:12.3}{:8.2}", relay / floor);
}

fn best(mut run: impl FnMut() -> Cost) -> Cost {
    let runs: Vec<Cost> = (0..RUNS).map(|_| run()).collect();
    Cost {
        took: runs.iter().map(|cost| cost.took).min().unwrap(),
        processor: runs.iter().map(|cost| cost.processor).min().unwrap(),
    }
}

/// The device sends, the cloud counts.
fn bulk_up(carrier: Carrier, total: usize) -> Cost {
    let (mut device, mut cloud, carrying) = start(carrier);
    let began = Instant::now();
    let sending = thread::spawn(move || {
        let piece = vec![0x5a; PIECE];
        for _ in 0..total / PIECE {
            device.write_all(&piece).unwrap();
        }
        device.shutdown(Shutdown::Write).unwrap();
        device
    });
    let mut received = 0;
    let mut room = vec![0; PIECE];
    while received < total {
        received += cloud.read(&mut room).unwrap();
    }
    let took = began.elapsed();
    let mut device = sending.join().unwrap();
    finish(carrier, &mut cloud);
    let _ = device.read(&mut room);
    Cost {
        took,
        processor: carrying.join().unwrap(),
    }
}

/// The cloud sends, the device counts.
fn bulk_down(carrier: Carrier, total: usize) -> Cost {
    let (mut device, mut cloud, carrying) = start(carrier);
    let began = Instant::now();
    let sending = thread::spawn(move || {
        let mut frame = match carrier {
            Carrier::Floor => Vec::new(),
            Carrier::Relay => [&[0x82, 127][..], &(PIECE as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + PIECE, 0x5a);
        for _ in 0..total / PIECE {
            cloud.write_all(&frame).unwrap();
        }
        finish(carrier, &mut cloud);
        cloud
    });
    let mut received = 0;
    let mut room = vec![0; PIECE];
    while received < total {
        received += device.read(&mut room).unwrap();
    }
    let took = began.elapsed();
    drop(device);
    drop(sending.join().unwrap());
    Cost {
        took,
        processor: carrying.join().unwrap(),
    }
}

/// A key goes down, its echo comes up.
fn round_trips(carrier: Carrier) -> Cost {
    let (mut device, mut cloud, carrying) = start(carrier);
    let echo = thread::spawn(move || {
        let mut key = [0];
        while device.read(&mut key).unwrap() > 0 {
            device.write_all(&key).unwrap();
        }
    });
    // A frame with one byte; the echo's has a mask of four as well.
    let (key, mut back) = match carrier {
        Carrier::Floor => (vec![b'x'], vec![0; 1]),
        Carrier::Relay => (vec![0x82, 1, b'x'], vec![0; 7]),
    };
    let began = Instant::now();
    for _ in 0..ROUND_TRIPS {
        cloud.write_all(&key).unwrap();
        cloud.read_exact(&mut back).unwrap();
    }
    let took = began.elapsed();
    finish(carrier, &mut cloud);
    echo.join().unwrap();
    drop(cloud);
    Cost {
        took,
        processor: carrying.join().unwrap(),
    }
}

fn finish(carrier: Carrier, cloud: &mut TcpStream) {
    if carrier == Carrier::Relay {
        cloud.write_all(&CLOSE).unwrap();
    }
    cloud.shutdown(Shutdown::Write).unwrap();
}

/// A device, a cloud, and a thread that carries bytes between them and returns its processor time.
fn start(carrier: Carrier) -> (TcpStream, TcpStream, thread::JoinHandle<Duration>) {
    let (device, lan) = pair();
    let (cloud, client) = pair();
    let carrying = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(carry(carrier, lan, client));
        processor_time()
    });
    (device, cloud, carrying)
}

async fn carry(carrier: Carrier, lan: TcpStream, client: TcpStream) {
    let [mut lan, mut client] = [lan, client].map(|stream| {
        stream.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(stream).unwrap()
    });
    match carrier {
        Carrier::Floor => {
            tokio::io::copy_bidirectional_with_sizes(&mut lan, &mut client, PIECE, PIECE)
                .await
                .unwrap();
        }
        Carrier::Relay => {
            let cloud = CloudSocket::new(UnbufferedStream::plain(client), Vec::new());
            let limits = Limits {
                keep_alive: Duration::from_secs(20),
                drain: DRAIN_LIMIT,
                idle: None,
                max_duration: None,
            };
            let traffic = Traffic::default();
            relay(lan, cloud, &limits, &traffic, Span::none(), pending::<()>()).await;
        }
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    connected.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (connected, accepted)
}

/// What this thread has used so far, from the scheduler and so to the nanosecond.
fn processor_time() -> Duration {
    let account = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = account.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}
