//! What happens in one stretch of bad weather: all of it follows from a seed.

use std::time::Duration;

use fastrand::Rng;

use super::proxy::Cut;
use crate::judge::Way;

/// What an operation asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// A tunnel that opens.
    Opens,
    /// A tunnel to a machine that answers late.
    Wakes,
    /// A machine that refuses.
    Refused,
    /// A machine that never answers.
    Silent,
    /// A platform that answers with another status than 101, after so many milliseconds.
    Answer(u16, u64),
    /// A row without a connection key.
    Keyless,
    /// A row with a port that is none.
    PortZero,
    /// A target that the policy does not allow.
    Denied,
}

/// Whose operation it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    Gateway,
    /// A child that the configuration names.
    Child,
    /// A child that it does not name.
    UnlistedChild,
}

/// Every device, in the order of [`Whose`].
pub(super) const DEVICES: [Whose; 3] = [Whose::Gateway, Whose::Child, Whose::UnlistedChild];

/// One step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Wait(Duration),
    Operation(Whose, Wish),
    /// Publishes the row of an operation of the last seconds once more.
    Redeliver(usize),
    Cut(Cut),
    /// Cuts after so many more bytes in a direction.
    Arm(Way, usize, Cut),
    Outage(Duration, Cut),
    /// Makes every read late, and cuts what is read into pieces.
    Slow(Duration, usize),
    /// Another adit takes the place of this one, which is killed or asked to stop.
    Restart {
        kill: bool,
    },
}

/// Draws the steps of a seed.
pub(super) fn draw(random: &mut Rng) -> Vec<Step> {
    let mut steps: Vec<_> = (0..random.usize(12..=20))
        .map(|_| Step::Operation(whose(random), wish(random)))
        .collect();
    // Each makes the wait before the next attempt longer.
    let mut others: Vec<_> = (0..random.usize(2..=4)).map(|_| breaks(random)).collect();
    others.extend((0..random.usize(0..=4)).map(|_| Step::Redeliver(random.usize(..))));
    for _ in 0..random.usize(0..=2) {
        let pause = Duration::from_millis(random.u64(1..40));
        others.push(Step::Slow(pause, random.usize(1..200)));
    }
    if random.f32() < 0.35 {
        let kill = random.f32() < 0.7;
        others.push(Step::Restart { kill });
    }
    for other in others {
        steps.insert(random.usize(1..=steps.len()), other);
    }
    let waits = |random: &mut Rng| {
        let is_burst = random.f32() < 0.4;
        (!is_burst).then(|| Step::Wait(Duration::from_millis(random.u64(1..400))))
    };
    steps
        .into_iter()
        .flat_map(|step| [waits(random), Some(step)])
        .flatten()
        .collect()
}

fn whose(random: &mut Rng) -> Whose {
    match random.u8(0..10) {
        0..=5 => Whose::Gateway,
        6..=7 => Whose::Child,
        _ => Whose::UnlistedChild,
    }
}

fn wish(random: &mut Rng) -> Wish {
    const STATUSES: [u16; 4] = [200, 404, 410, 500];
    match random.u8(0..20) {
        0..=5 => Wish::Opens,
        6..=7 => Wish::Wakes,
        8..=9 => Wish::Refused,
        10 => Wish::Silent,
        11..=13 => {
            let status = STATUSES[random.usize(..STATUSES.len())];
            Wish::Answer(status, random.u64(0..800))
        }
        14..=17 => Wish::Keyless,
        18 => Wish::PortZero,
        _ => Wish::Denied,
    }
}

fn breaks(random: &mut Rng) -> Step {
    let cut = match random.bool() {
        true => Cut::Reset,
        false => Cut::Close,
    };
    match random.u8(0..8) {
        0..=1 => Step::Cut(cut),
        2..=3 => Step::Arm(Way::Up, random.usize(0..200), cut),
        4..=5 => Step::Arm(Way::Down, random.usize(0..80), cut),
        _ => Step::Outage(Duration::from_millis(random.u64(100..1500)), cut),
    }
}
