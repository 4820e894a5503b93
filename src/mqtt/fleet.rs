//! What a fleet of gateways does to a broker that comes back: their own back-off, a hundred thousand times.
//!
//! The text and the figure of `docs/fleet.md` come from here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use super::reconnect::{Life, Loss, Reconnects};

const AGENTS: u32 = 100_000;
/// How long each connection had stood when the broker went: all of them longer than what counts as stable.
const STOOD: Duration = Duration::from_secs(86_400);
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// An attempt at a broker that is away ends at once, as a refused connection does.
const STEP: u128 = 1_000;
/// Logins a second of the broker that is slow.
const FEW: u32 = 500;
const OUTAGE: Duration = Duration::from_mins(5);
const SHORT_OUTAGE: Duration = Duration::from_mins(1);
static AFTER_AN_OUTAGE: LazyLock<Vec<u32>> = LazyLock::new(|| attempts(OUTAGE, AGENTS));
static AT_A_SLOW_BROKER: LazyLock<Vec<u32>> = LazyLock::new(|| attempts(SHORT_OUTAGE, FEW));
/// Set, the test of the figure writes it.
const WRITE: &str = "ADIT_WRITE_FLEET";
const FIGURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fleet.svg");

/// Attempts in each second from the loss on, until everybody is back; the broker takes `capacity` of
/// them a second from `back` on, and turns the others away.
fn attempts(back: Duration, capacity: u32) -> Vec<u32> {
    fastrand::seed(1);
    let mut agents: Vec<_> = (0..AGENTS).map(|_| Reconnects::new(KEEP_ALIVE)).collect();
    let mut due = BinaryHeap::new();
    for (number, agent) in agents.iter_mut().enumerate() {
        let silence = KEEP_ALIVE.mul_f64(fastrand::f64());
        let loss = Loss::Closed(Life {
            stood: STOOD,
            silence,
            survived: KEEP_ALIVE,
        });
        due.push(Reverse((agent.lost(loss).draw_wait(), number)));
    }
    let mut attempts = Vec::new();
    let mut taken: Vec<u32> = Vec::new();
    while let Some(Reverse((now, number))) = due.pop() {
        let second = usize::try_from(now.as_millis() / STEP).unwrap();
        attempts.resize(attempts.len().max(second + 1), 0);
        taken.resize(attempts.len(), 0);
        attempts[second] += 1;
        if now >= back && taken[second] < capacity {
            taken[second] += 1;
            continue;
        }
        let wait = agents[number].lost(Loss::NeverStood).draw_wait();
        // Opening a connection takes its time, too: nobody tries twice in a millisecond.
        due.push(Reverse((now + wait.max(Duration::from_millis(1)), number)));
    }
    attempts
}

fn worst(attempts: &[u32]) -> u32 {
    attempts.iter().copied().max().unwrap_or(0)
}

/// Where a number stands on a logarithmic scale that begins with nothing.
fn logarithm(count: u32) -> f64 {
    f64::from(count + 1).ln()
}

/// The attempts of each second as a curve on a logarithmic scale, one below the other.
fn figure(curves: &[(&str, &[u32])]) -> String {
    let (width, height, left, gap) = (720.0, 130.0, 70.0, 46.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>text {{ fill: #57606a }} path {{ fill: none; stroke: #0969da; stroke-width: 1.5 }} line {{ stroke: #8c959f }}</style>\n",
        width + left + 20.0,
        curves.len() as f64 * (height + gap) + 20.0,
    );
    for (number, (title, attempts)) in curves.iter().enumerate() {
        let top = number as f64 * (height + gap) + 24.0;
        let (highest, bottom) = (worst(attempts), top + height);
        let place = |second: usize, count: u32| {
            let x = left + width * second as f64 / attempts.len().max(2) as f64;
            format!(
                "{x:.1},{:.1}",
                bottom - height * logarithm(count) / logarithm(highest)
            )
        };
        let points: Vec<_> = attempts
            .iter()
            .enumerate()
            .map(|(at, &count)| place(at, count))
            .collect();
        let right = left + width;
        let _ = write!(
            svg,
            "<text x=\"{left}\" y=\"{}\">{title}</text>\n\
             <text x=\"4\" y=\"{}\">{highest}/s</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} s</text>\n\
             <line x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>\n<path d=\"M{}\"/>\n",
            top - 8.0,
            top + 10.0,
            right,
            bottom + 14.0,
            attempts.len(),
            points.join(" L"),
        );
    }
    svg + "</svg>\n"
}

#[test]
fn after_an_outage_of_minutes_no_second_sees_more_than_a_twentieth_of_the_fleet() {
    let attempts = &*AFTER_AN_OUTAGE;
    let worst = worst(&attempts[60..]);
    assert!(worst <= AGENTS / 20, "{worst}");
    // The longest wait is a minute, so that is when the last one is back.
    assert!(attempts.len() <= 300 + 61, "{}", attempts.len());
}

#[test]
fn a_broker_that_comes_back_at_once_sees_everybody_within_a_second() {
    let attempts = attempts(Duration::ZERO, AGENTS);
    assert_eq!(attempts.iter().sum::<u32>(), AGENTS);
    assert!(attempts.len() <= 2, "{attempts:?}");
}

#[test]
fn a_broker_that_takes_few_at_a_time_is_asked_by_few_at_a_time() {
    let attempts = &*AT_A_SLOW_BROKER;
    // Everybody is back after the least time that the broker needs for them, and that of the longest waits.
    let least = usize::try_from(60 + AGENTS / FEW).unwrap();
    assert!(
        attempts.len() <= least + 180,
        "{} of {least}",
        attempts.len()
    );
    let worst = worst(&attempts[60..]);
    assert!(worst <= AGENTS / 20, "{worst}");
}

#[test]
fn the_figure_of_the_fleet_is_what_the_back_off_does() {
    let figure = figure(&[
        (
            "Attempts a second, logarithmic: the broker is away for 5 minutes, then takes everybody",
            &AFTER_AN_OUTAGE,
        ),
        (
            "Attempts a second, logarithmic: away for a minute, then it takes 500 logins a second",
            &AT_A_SLOW_BROKER,
        ),
    ]);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(FIGURE, &figure).unwrap();
    }
    let found = std::fs::read_to_string(FIGURE).unwrap();
    assert!(
        found == figure,
        "write docs/fleet.svg anew: {WRITE}=1 cargo test --lib fleet"
    );
}
