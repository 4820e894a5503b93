//! What adit tells of a tunnel at its end, held against what the two sides have noticed.

use std::time::Duration;

/// Before its end adit may have counted what did not arrive, and not again: what a silent cloud has not
/// taken is counted before the machine is told, and that is given twice the time of a drain.
const COUNTED_BEFORE: Duration = Duration::from_secs(16);
/// How long the network may take to tell that something has arrived, and what is lost in rounding.
const ON_THE_WAY: Duration = Duration::from_secs(1);
const SILENT: &str = "the cloud did not answer";

/// What adit said at the end of a tunnel.
#[derive(Debug, PartialEq)]
pub(crate) struct Closed<'a> {
    pub(crate) reason: &'a str,
    lasted: Duration,
    up: u64,
    down: u64,
}

/// What is known of one way of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// To the cloud, or to the device.
    pub(crate) name: &'static str,
    pub(crate) said: u64,
    pub(crate) heard: u64,
    /// The end has read all that came, up to an end in good order.
    pub(crate) is_read_out: bool,
    /// It was not cut off, and so heard what adit can know, no more and no less.
    pub(crate) is_known: bool,
    /// What it had heard when adit counted, where nothing held up the word of it.
    pub(crate) heard_then: Option<u64>,
}

impl<'a> Closed<'a> {
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let (reason, rest) = text.rsplit_once("; open for ")?;
        let (lasted, rest) = rest.split_once(" s, ")?;
        let (up, rest) = rest.split_once(" bytes to the cloud, ")?;
        let down = rest.strip_suffix(" bytes to the device")?;
        Some(Self {
            reason,
            lasted: Duration::try_from_secs_f64(lasted.parse().ok()?).ok()?,
            up: up.parse().ok()?,
            down: down.parse().ok()?,
        })
    }

    /// Bytes that did not reach one end, as far as adit knows.
    fn undelivered(&self, way: &str) -> u64 {
        let [one, more] = ["byte", "bytes"].map(|word| format!(" {word} did not reach the {way}"));
        let mut clauses = self.reason.split("; ");
        let count = clauses.find_map(|clause| {
            let count = clause.strip_suffix(&more);
            count.or_else(|| clause.strip_suffix(&one))
        });
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// How long after its beginning what the tunnel carried was counted, and the word of it there.
    pub(crate) fn counted_after(&self) -> Option<Duration> {
        let before = match self.reason.starts_with(SILENT) {
            true => COUNTED_BEFORE,
            false => ON_THE_WAY,
        };
        self.lasted.checked_sub(before)
    }

    /// Says what is wrong with the counts of one way, if anything is.
    pub(crate) fn judge(&self, way: &Way) -> Option<String> {
        let undelivered = self.undelivered(way.name);
        // Frames to the cloud are told apart only so far: docs/guarantees.md, "Bytes".
        let (count, slack) = match way.name {
            "cloud" => (self.up, undelivered.div_ceil(3) + 1),
            _ => (self.down, 0),
        };
        // What was on its way when adit gave up may have arrived or not.
        let is_lost_silently = count + undelivered < way.heard;
        let is_too_much = way.is_read_out && count > way.heard;
        let is_denied = way.heard_then.is_some_and(|then| count + slack < then);
        let is_wrong = way.is_known && (is_lost_silently || is_too_much || is_denied);
        (is_wrong || count + undelivered > way.said).then(|| {
            format!(
                "adit tells of {count} bytes to the {}, and of {undelivered} that did not arrive: {way:?}",
                way.name
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "closed by the device; 40 bytes did not reach the cloud; 1 byte did not \
                        reach the device; open for 20.6 s, 60 bytes to the cloud, 7 bytes to the device";

    fn way() -> Way {
        Way {
            name: "cloud",
            said: 100,
            heard: 60,
            is_read_out: false,
            is_known: true,
            heard_then: Some(60),
        }
    }

    #[test]
    fn reads_the_end_of_a_tunnel() {
        let closed = Closed::read(TEXT).unwrap();
        assert_eq!((closed.up, closed.down), (60, 7));
        assert_eq!(closed.undelivered("cloud"), 40);
        assert_eq!(closed.undelivered("device"), 1);
        assert_eq!(closed.counted_after(), Some(Duration::from_millis(19_600)));
        assert_eq!(Closed::read("closed"), None);
    }

    #[test]
    fn finds_counts_that_cannot_be() {
        let closed = Closed::read(TEXT).unwrap();
        assert_eq!(closed.judge(&way()), None);
        type Deed = fn(&mut Way);
        let right: [Deed; 4] = [
            |way| way.heard = 100,
            |way| way.is_read_out = true,
            |way| way.heard_then = Some(75),
            |way| (way.is_known, way.heard_then) = (false, Some(100)),
        ];
        for deed in right {
            let mut way = way();
            deed(&mut way);
            assert_eq!(closed.judge(&way), None);
        }
        let wrong: [Deed; 4] = [
            |way| way.said = 99,
            |way| way.heard = 101,
            |way| (way.is_read_out, way.heard) = (true, 59),
            |way| way.heard_then = Some(76),
        ];
        for deed in wrong {
            let mut way = way();
            deed(&mut way);
            assert!(closed.judge(&way).is_some(), "{way:?}");
        }
        let down = Way {
            name: "device",
            said: 8,
            heard: 7,
            heard_then: Some(8),
            ..way()
        };
        assert!(closed.judge(&down).is_some());
    }
}
