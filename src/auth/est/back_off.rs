//! How long to wait before the authority is asked again.

use std::time::Duration;

use super::Fault;

/// Between two requests of a device that nobody has registered yet: a person stands beside it. The
/// platform's own agents do so.
const SHORTEST_POLL: Duration = Duration::from_secs(5);
const LONGEST_POLL: Duration = Duration::from_secs(10);
/// After the first fault; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// What an authority may ask for at least, whatever it says.
const SHORTEST_TOLD: Duration = Duration::from_secs(1);

/// Counts faults, so that an authority in trouble is asked less and less.
#[derive(Debug)]
pub(crate) struct BackOff {
    longest: Duration,
    faults: u32,
}

impl BackOff {
    /// Waits at most `longest`.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, faults: 0 }
    }

    /// Returns how long a device that is to be enrolled waits after a fault; `dice` is from 0 to 1, so
    /// that a thousand gateways do not ask in step.
    pub(crate) fn after(&mut self, fault: &Fault, dice: f64) -> Duration {
        match fault {
            // A person has to do something, and may do it at any moment.
            Fault::NotRegistered(_) | Fault::Unauthorized(_) | Fault::Taken { status: 401, .. } => {
                self.faults = 0;
                SHORTEST_POLL + (LONGEST_POLL - SHORTEST_POLL).mul_f64(dice)
            }
            fault => self.after_failure(Some(fault), dice),
        }
    }

    /// Returns how long to wait where nobody is waited for, whatever the failure.
    pub(crate) fn after_failure(&mut self, fault: Option<&Fault>, dice: f64) -> Duration {
        match fault {
            Some(Fault::Later {
                wait: Some(wait), ..
            }) => {
                self.faults = 0;
                (*wait).clamp(SHORTEST_TOLD, self.longest)
            }
            _ => {
                let factor = 1 << self.faults.min(u32::BITS - 2);
                self.faults = self.faults.saturating_add(1);
                let wait = FIRST_WAIT.saturating_mul(factor).min(self.longest);
                wait.mul_f64((1.0 + dice) / 2.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    fn later(seconds: u64) -> Fault {
        Fault::Later {
            status: 202,
            wait: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn asks_a_faulty_authority_less_and_less() {
        let mut back_off = BackOff::new(LONGEST);
        for (fault, dice, seconds) in [
            (Fault::WebPage(200), 1.0, 5.0),
            (Fault::WebPage(200), 1.0, 10.0),
            (Fault::WebPage(200), 0.0, 10.0),
            (Fault::WebPage(200), 1.0, 40.0),
            (Fault::WebPage(200), 1.0, 60.0),
            (Fault::WebPage(200), 0.0, 30.0),
            (later(7), 0.5, 7.0),
            (Fault::WebPage(200), 1.0, 5.0),
            (later(0), 0.5, 1.0),
            (later(3600), 0.5, 60.0),
        ] {
            let wait = back_off.after(&fault, dice);
            assert_eq!(wait, Duration::from_secs_f64(seconds), "{fault}");
        }
    }

    #[test]
    fn asks_for_an_unregistered_device_every_few_seconds_without_end() {
        let mut back_off = BackOff::new(LONGEST);
        back_off.after(&Fault::WebPage(200), 1.0);
        let words = String::new;
        for dice in [0.0, 0.3, 1.0].repeat(1000) {
            for fault in [
                Fault::NotRegistered(words()),
                Fault::Unauthorized(words()),
                Fault::Taken {
                    status: 401,
                    words: words(),
                },
            ] {
                let wait = back_off.after(&fault, dice);
                assert!((SHORTEST_POLL..=LONGEST_POLL).contains(&wait), "{wait:?}");
            }
        }
        assert_eq!(back_off.after(&Fault::WebPage(200), 1.0), FIRST_WAIT);
    }

    #[test]
    fn never_waits_too_long_however_often_it_fails() {
        let mut back_off = BackOff::new(LONGEST);
        for _ in 0..100 {
            assert!(back_off.after(&Fault::WebPage(200), 1.0) <= LONGEST);
        }
    }
}
