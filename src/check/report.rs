//! What was found at each hop, as text for people and as JSON for scripts.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::words::legible;

/// One hop, and what was found there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Hop {
    /// As "TLS with the broker".
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen, or what went wrong.
    pub detail: String,
    /// What to do, a line each; of a hop that works, what should be looked at.
    pub advice: Vec<String>,
    /// How long it took; a hop that was not tried took no time.
    pub took: Duration,
}

/// How it went at a hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It works.
    Passed,
    /// It is broken.
    Failed,
    /// It was not tried.
    Skipped,
    /// There is nothing to try, as the configuration says.
    #[serde(rename = "not needed")]
    NotNeeded,
}

/// The hops so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    hops: Vec<Hop>,
}

/// As a script reads it.
#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    hops: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    outcome: Outcome,
    detail: &'a str,
    advice: Option<String>,
    milliseconds: u128,
}

impl<'a> Entry<'a> {
    fn of(hop: &'a Hop) -> Self {
        Self {
            name: &hop.name,
            outcome: hop.outcome,
            detail: &hop.detail,
            advice: (!hop.advice.is_empty()).then(|| hop.advice.join("; ")),
            milliseconds: hop.took.as_millis(),
        }
    }
}

impl Hop {
    /// A hop that works. What was seen may come from outside.
    pub(crate) fn passed(name: impl Into<String>, detail: &str, took: Duration) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Passed,
            detail: legible(detail),
            advice: Vec::new(),
            took,
        }
    }

    /// A hop that is broken.
    pub(crate) fn failed(
        name: impl Into<String>,
        detail: &str,
        took: Duration,
        advice: &str,
    ) -> Self {
        Self {
            outcome: Outcome::Failed,
            ..Self::passed(name, detail, took).with_advice(advice)
        }
    }

    /// A hop that was not tried, and why.
    pub(crate) fn skipped(name: impl Into<String>, detail: &str) -> Self {
        Self {
            outcome: Outcome::Skipped,
            ..Self::passed(name, detail, Duration::ZERO)
        }
    }

    /// A hop that the configuration leaves out, and where it says so.
    pub(crate) fn not_needed(name: impl Into<String>, detail: &str) -> Self {
        Self {
            outcome: Outcome::NotNeeded,
            ..Self::passed(name, detail, Duration::ZERO)
        }
    }

    /// Adds what to do, or what to look at.
    #[must_use]
    pub(crate) fn with_advice(mut self, advice: &str) -> Self {
        self.advice.push(legible(advice));
        self
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.outcome {
            Outcome::Passed => '✓',
            Outcome::Failed => '✗',
            Outcome::Skipped | Outcome::NotNeeded => '–',
        };
        write!(f, "{mark} {}: {}", self.name, self.detail)?;
        if matches!(self.outcome, Outcome::Passed | Outcome::Failed) {
            write!(f, " ({})", in_words(self.took))?;
        }
        self.advice
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl Report {
    /// Adds the next hop.
    pub(crate) fn add(&mut self, hop: Hop) {
        self.hops.push(hop);
    }

    /// Whether nothing is broken.
    pub(crate) fn is_good(&self) -> bool {
        self.count(Outcome::Failed) == 0
    }

    /// Returns the last line of the text.
    pub(crate) fn summary(&self) -> String {
        let counted = |outcome, words| match self.count(outcome) {
            0 => String::new(),
            count => format!(", {count} {words}"),
        };
        let skipped = counted(Outcome::Skipped, "skipped");
        let left_out = skipped + &counted(Outcome::NotNeeded, "not needed");
        match self.count(Outcome::Failed) {
            0 => format!("nothing is broken{left_out}"),
            1 => format!("1 hop is broken{left_out}"),
            count => format!("{count} hops are broken{left_out}"),
        }
    }

    /// Returns all hops as text, a line each and what to do below it, and the sum at the end.
    pub(crate) fn to_text(&self) -> String {
        let lines = self.hops.iter().map(ToString::to_string);
        let lines: Vec<_> = lines.chain([self.summary()]).collect();
        lines.join("\n") + "\n"
    }

    /// Returns all hops as one JSON object.
    ///
    /// # Errors
    /// None that these types can cause.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&Document {
            ok: self.is_good(),
            hops: self.hops.iter().map(Entry::of).collect(),
        })
    }

    fn count(&self, outcome: Outcome) -> usize {
        let hops = self.hops.iter();
        hops.filter(|hop| hop.outcome == outcome).count()
    }
}

fn in_words(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops() -> [Hop; 4] {
        let took = Duration::from_millis;
        [
            Hop::passed("name of the broker", "broker is 10.0.0.7", took(0)),
            Hop::failed("TLS", "no\nTLS", took(1260), "check \"mqtt.url\""),
            Hop::skipped("MQTT login", "not tried"),
            Hop::passed("certificate", "'gw-7'", took(7))
                .with_advice("it ends soon")
                .with_advice("renew it"),
        ]
    }

    #[test]
    fn writes_a_line_for_a_hop_and_one_for_each_advice() {
        let text: Vec<_> = hops().iter().map(ToString::to_string).collect();
        assert_eq!(
            text.join("\n"),
            "✓ name of the broker: broker is 10.0.0.7 (0 ms)\n\
             ✗ TLS: no TLS (1.3 s)\n    check 'mqtt.url'\n\
             – MQTT login: not tried\n\
             ✓ certificate: 'gw-7' (7 ms)\n    it ends soon\n    renew it"
        );
    }

    #[test]
    fn writes_one_object_for_scripts() {
        let mut report = Report::default();
        hops().into_iter().for_each(|hop| report.add(hop));
        assert_eq!(
            report.to_json().unwrap(),
            "{\"ok\":false,\"hops\":[\
             {\"name\":\"name of the broker\",\"outcome\":\"passed\",\
             \"detail\":\"broker is 10.0.0.7\",\"advice\":null,\"milliseconds\":0},\
             {\"name\":\"TLS\",\"outcome\":\"failed\",\"detail\":\"no TLS\",\
             \"advice\":\"check 'mqtt.url'\",\"milliseconds\":1260},\
             {\"name\":\"MQTT login\",\"outcome\":\"skipped\",\"detail\":\"not tried\",\
             \"advice\":null,\"milliseconds\":0},\
             {\"name\":\"certificate\",\"outcome\":\"passed\",\"detail\":\"'gw-7'\",\
             \"advice\":\"it ends soon; renew it\",\"milliseconds\":7}]}"
        );
    }

    #[test]
    fn sums_up() {
        let [good, bad, skipped, _] = hops();
        let not_needed = Hop::not_needed("TLS", "none is spoken");
        assert_eq!(not_needed.to_string(), "– TLS: none is spoken");
        for (hops, good_enough, words) in [
            (vec![&good], true, "nothing is broken"),
            (vec![&good, &skipped], true, "nothing is broken, 1 skipped"),
            (
                vec![&not_needed, &skipped, &not_needed],
                true,
                "nothing is broken, 1 skipped, 2 not needed",
            ),
            (vec![&bad, &skipped], false, "1 hop is broken, 1 skipped"),
            (vec![&bad, &bad], false, "2 hops are broken"),
        ] {
            let mut report = Report::default();
            hops.into_iter().for_each(|hop| report.add(hop.clone()));
            assert_eq!(report.summary(), words);
            assert_eq!(report.is_good(), good_enough, "{words}");
        }
    }
}
