//! Draws the parts of a schedule.

use std::time::Duration;

use fastrand::Rng;

use super::{Break, How, Kind, Opens, Passage, Step, Treatment, Wish};
use crate::judge::Way;
use crate::side::{End, Pace, Part, Piece};

/// The longest a way is silent without being taken for dead.
const STALL: u64 = 1500;
/// One schedule in so many breaks the connection to the broker of an adit that lasts.
const SELDOM: u8 = 12;

pub(super) fn disasters(kind: Kind, dice: &mut Rng) -> Vec<Step> {
    let mut steps = Vec::new();
    if dice.u8(0..6) == 0 {
        steps.push(Step::CloudRefuses(milliseconds(1500, dice)));
    }
    if dice.u8(0..6) == 0 {
        steps.push(Step::FreezeBroker(milliseconds(2500, dice)));
    }
    let breaks = match kind.lasts {
        true => usize::from(dice.u8(0..SELDOM) == 0),
        false => dice.usize(0..=2),
    };
    for _ in 0..breaks {
        steps.push(match dice.u8(0..8) {
            0..=1 => Step::BreakBroker(cut(dice)),
            2 => Step::BreakBroker(half_open(dice)),
            3..=4 => Step::BrokerRefuses(milliseconds(1500, dice)),
            _ => Step::RestartBroker { kill: dice.bool() },
        });
    }
    if !kind.lasts && dice.u8(0..3) == 0 {
        steps.push(Step::RestartAgent {
            kill: dice.u8(0..3) > 0,
        });
    }
    steps
}

pub(super) fn wish(is_calm: bool, dice: &mut Rng) -> Wish {
    match dice.u8(0..20) {
        0 => Wish::Hangs,
        1..=2 => Wish::Refused,
        3 => Wish::Keyless,
        4 => Wish::Denied,
        _ => Wish::Opens(Box::new(within_what_ends(Opens {
            machine: part(true, dice),
            cloud: part(false, dice),
            frame: 1 << dice.usize(6..17),
            lan: passage(is_calm, ELSEWHERE, dice),
        }))),
    }
}

/// A machine that answers TCP and never reads is waited for as one that pauses, for as long as all buffers are
/// full: the end of the cloud stands behind what they do not take. So to such a one less is said.
fn within_what_ends(mut opens: Opens) -> Opens {
    const ALL_BUFFERS: usize = 1 << 20;
    if let Some((_, _, Break::HalfOpen { reads: false, .. })) = opens.lan.breaks {
        let pieces = opens.cloud.says.len().max(1);
        for piece in &mut opens.cloud.says {
            piece.bytes = piece.bytes.min(ALL_BUFFERS / pieces);
        }
    }
    opens
}

/// One connection in so many breaks, and of those one in so many is half open.
#[derive(Clone, Copy)]
pub(super) struct Odds {
    breaks: u8,
    half_open: u8,
}

/// A login that is never answered takes half a minute.
pub(super) const AT_THE_BROKER: Odds = Odds {
    breaks: 4,
    half_open: 12,
};
pub(super) const ELSEWHERE: Odds = Odds {
    breaks: 5,
    half_open: 3,
};

/// Draws what a connection meets.
pub(super) fn passage(is_calm: bool, odds: Odds, dice: &mut Rng) -> Passage {
    if is_calm {
        return Passage::default();
    }
    let late = match dice.u8(0..8) {
        0 => milliseconds(800, dice),
        _ => Duration::ZERO,
    };
    let [up, down] = [(); 2].map(|()| treatment(dice));
    let breaks = (dice.u8(0..odds.breaks) == 0).then(|| {
        let way = match dice.bool() {
            true => Way::Up,
            false => Way::Down,
        };
        let how = match dice.u8(0..odds.half_open) {
            0 => half_open(dice),
            _ => cut(dice),
        };
        (way, log_uniform(17, dice), how)
    });
    Passage {
        late,
        up,
        down,
        breaks,
    }
}

fn treatment(dice: &mut Rng) -> Treatment {
    let pieces = match dice.u8(0..8) {
        // Tiny segments.
        0 => Some((dice.usize(1..300), dice.usize(1..40), Duration::ZERO)),
        // A slow drip.
        1 => {
            let pause = milliseconds(15, dice);
            Some((dice.usize(1..80), dice.usize(1..300), pause))
        }
        _ => None,
    };
    let stall = (dice.u8(0..8) == 0).then(|| (log_uniform(17, dice), milliseconds(STALL, dice)));
    Treatment { pieces, stall }
}

fn cut(dice: &mut Rng) -> Break {
    let [near, far] = [(); 2].map(|()| match dice.bool() {
        true => How::Reset,
        false => How::Fin,
    });
    Break::Cut { near, far }
}

fn half_open(dice: &mut Rng) -> Break {
    Break::HalfOpen {
        reads: dice.bool(),
        far: [None, Some(How::Reset), Some(How::Fin)][dice.usize(..3)],
    }
}

fn part(is_machine: bool, dice: &mut Rng) -> Part {
    // Mostly little, sometimes more than all buffers on the way hold.
    let most = match dice.u8(0..12) {
        0 => 22,
        1..=4 => 18,
        _ => 13,
    };
    let says = (0..dice.usize(0..4))
        .map(|_| Piece {
            after: match dice.u8(0..3) {
                0 => milliseconds(300, dice),
                _ => Duration::ZERO,
            },
            bytes: log_uniform(most, dice),
        })
        .collect();
    let pace = match dice.u8(0..8) {
        0 => Pace::Slow(1 << dice.usize(14..17), milliseconds(5, dice)),
        1 => Pace::Pauses(log_uniform(16, dice) as u64, milliseconds(STALL, dice)),
        _ => Pace::Fast,
    };
    let after = match dice.bool() {
        true => Duration::ZERO,
        false => milliseconds(500, dice),
    };
    let end = match (dice.u8(0..12), is_machine) {
        (0..=4, _) => End::Stays,
        (5..=8, _) => End::InOrder(after),
        (9..=10, _) => End::Reset(after),
        (_, true) => End::InOrder(after),
        (_, false) => End::Cut(after),
    };
    Part {
        says,
        pace,
        end,
        echoes: is_machine && dice.u8(0..4) == 0,
    }
}

/// Draws a number with at most so many bits, and not only large ones.
fn log_uniform(bits: usize, dice: &mut Rng) -> usize {
    let bits = dice.usize(bits / 3..=bits);
    dice.usize(0..1 << bits)
}

pub(super) fn milliseconds(most: u64, dice: &mut Rng) -> Duration {
    Duration::from_millis(dice.u64(0..most))
}
