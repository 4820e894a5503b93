//! What happens in a schedule: all of it follows from the seed. When exactly it happens does not,
//! because time and the kernel are real.

mod draw;

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::judge::Way;
use crate::side::Part;
use draw::{AT_THE_BROKER, ELSEWHERE, Odds, disasters, milliseconds, passage, wish};

/// How a side of a connection is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    /// RST; what was not yet read is lost.
    Reset,
    /// FIN, without a word of what is spoken above TCP.
    Fin,
}

/// How the way between adit and somebody else breaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Break {
    /// Both sides are closed.
    Cut { near: How, far: How },
    /// Adit's side stays open and hears nothing any more, as when the box on the way has lost its
    /// memory: the far side is closed, or forgotten as well.
    HalfOpen {
        /// What adit says is still taken; otherwise the buffers of its kernel fill.
        reads: bool,
        far: Option<How>,
    },
}

impl Break {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cut {
                near: How::Reset, ..
            } => "reset",
            Self::Cut { near: How::Fin, .. } => "end without a word",
            Self::HalfOpen { reads: true, .. } => "half-open",
            Self::HalfOpen { reads: false, .. } => "half-open, never read",
        }
    }
}

/// What bytes meet in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Treatment {
    /// The first so many pieces are of so many bytes at most, each with a pause before it.
    pub(crate) pieces: Option<(usize, usize, Duration)>,
    /// After so many bytes nothing passes for so long.
    pub(crate) stall: Option<(usize, Duration)>,
}

/// What one connection meets. `Up` is from adit, whoever it speaks to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passage {
    /// How late it is accepted.
    pub(crate) late: Duration,
    pub(crate) up: Treatment,
    pub(crate) down: Treatment,
    /// It breaks after so many bytes in a direction, be that within a record of TLS.
    pub(crate) breaks: Option<(Way, usize, Break)>,
}

/// A tunnel that can open.
#[derive(Clone, Debug)]
pub(crate) struct Opens {
    pub(crate) machine: Part,
    pub(crate) cloud: Part,
    /// Bytes of a WebSocket message from the cloud at most.
    pub(crate) frame: usize,
    pub(crate) lan: Passage,
}

/// What an operator asks for.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A tunnel to a machine that listens.
    Opens(Box<Opens>),
    Refused,
    /// A machine that answers no SYN.
    Hangs,
    Keyless,
    Denied,
}

/// Something that is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// An operation of this number is created.
    Operation(usize),
    /// An operation is delivered once more.
    Redeliver(usize),
    /// The connection to the broker breaks.
    BreakBroker(Break),
    /// Nobody listens at the broker's address for a while, and what stood there is cut.
    BrokerRefuses(Duration),
    /// Nobody listens at the cloud's address for a while; tunnels stay.
    CloudRefuses(Duration),
    /// Mosquitto is stopped by SIGSTOP for a while.
    FreezeBroker(Duration),
    /// Mosquitto ends by SIGKILL or SIGTERM, and is started again.
    RestartBroker { kill: bool },
    /// Adit ends by SIGKILL or SIGTERM, and is started again.
    RestartAgent { kill: bool },
}

/// How a gateway is set up, and how much of it lives from one schedule to the next.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Kind {
    /// TLS for MQTT and for the WebSockets.
    pub(crate) tls: bool,
    pub(crate) with_ids: bool,
    /// One adit plays schedule after schedule, and its connection to the broker seldom breaks:
    /// after each break it waits longer before the next attempt.
    pub(crate) lasts: bool,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::new(true, false, true),
        Self::new(true, true, false),
        Self::new(false, true, true),
        Self::new(true, false, false),
    ];

    const fn new(tls: bool, with_ids: bool, lasts: bool) -> Self {
        Self {
            tls,
            with_ids,
            lasts,
        }
    }

    /// The kind that plays a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let kinds = Self::ALL.len() as u64;
        Self::ALL[(seed % kinds) as usize]
    }
}

/// A schedule.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// What the connections to the broker meet, in their order.
    pub(crate) broker: Vec<Passage>,
    /// The same for those to the cloud.
    pub(crate) cloud: Vec<Passage>,
    pub(crate) wishes: Vec<(Whose, Wish)>,
    /// Each with the wait before it.
    pub(crate) steps: Vec<(Duration, Step)>,
}

/// Whose operation it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whose {
    Gateway,
    Child,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        // Neighbouring seeds are to be strangers.
        let mut dice = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kind = Kind::of(seed);
        let is_calm = dice.u8(0..10) == 0;
        let count = dice.usize(2..=7);
        let wishes: Vec<_> = (0..count)
            .map(|_| {
                let whose = match dice.u8(0..3) {
                    0 => Whose::Child,
                    _ => Whose::Gateway,
                };
                (whose, wish(is_calm, &mut dice))
            })
            .collect();
        let mut steps = Vec::new();
        let is_burst = dice.u8(0..3) == 0;
        for number in 0..count {
            let wait = if is_burst { 20 } else { 400 };
            steps.push((milliseconds(wait, &mut dice), Step::Operation(number)));
            if dice.u8(0..8) == 0 {
                let again = Step::Redeliver(dice.usize(..=number));
                steps.push((milliseconds(300, &mut dice), again));
            }
        }
        if !is_calm {
            for step in disasters(kind, &mut dice) {
                let place = dice.usize(1..=steps.len());
                steps.insert(place, (milliseconds(500, &mut dice), step));
            }
        }
        let mut passages = |count: usize, odds: Odds| -> Vec<Passage> {
            let passage = |_| passage(is_calm, odds, &mut dice);
            (0..count).map(passage).collect()
        };
        Self {
            seed,
            // Each break makes the wait before the next attempt longer.
            broker: match kind.lasts {
                true => Vec::new(),
                false => passages(2, AT_THE_BROKER),
            },
            cloud: passages(count, ELSEWHERE),
            wishes,
            steps,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::of(self.seed)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} {:?}", self.seed, self.kind())?;
        for (place, passages) in [("broker", &self.broker), ("cloud", &self.cloud)] {
            for (number, passage) in passages.iter().enumerate() {
                writeln!(f, "{place}, connection {number}: {passage:?}")?;
            }
        }
        for (wait, step) in &self.steps {
            write!(f, "{wait:?} later: {step:?}")?;
            match step {
                Step::Operation(number) => {
                    let (whose, wish) = &self.wishes[*number];
                    writeln!(f, " of {whose:?}: {wish:?}")?;
                }
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_the_same_plan_from_the_same_seed() {
        for seed in 0..50 {
            let [one, other] = [(); 2].map(|()| Plan::draw(seed).to_string());
            assert_eq!(one, other);
        }
    }

    #[test]
    fn draws_every_step_and_every_break() {
        let plans: Vec<_> = (0..400).map(|seed| Plan::draw(seed).to_string()).collect();
        for word in [
            "Redeliver",
            "BreakBroker",
            "BrokerRefuses",
            "CloudRefuses",
            "FreezeBroker",
            "RestartBroker { kill: true",
            "RestartBroker { kill: false",
            "RestartAgent { kill: true",
            "RestartAgent { kill: false",
            "HalfOpen { reads: true, far: None",
            "HalfOpen { reads: false, far: Some(Reset)",
            "Cut { near: Reset, far: Fin",
            "stall: Some",
            "Hangs",
            "Keyless",
        ] {
            assert!(plans.iter().any(|plan| plan.contains(word)), "{word}");
        }
    }
}
