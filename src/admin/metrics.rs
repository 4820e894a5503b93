//! A snapshot in the text format of OpenMetrics, for Prometheus and all that reads the same.
//!
//! Names end in their unit. No label has a value from outside: there is a fixed number of series,
//! whatever the cloud asks for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::http::Figures;
use crate::state::Snapshot;
use crate::state::histogram::{BOUNDS, Histogram};
use crate::state::snapshot::TunnelState;

/// That of the text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes a snapshot, and what the process costs.
///
/// # Errors
/// The library refuses a name, which no snapshot can cause.
pub(crate) fn text(snapshot: Arc<Snapshot>, process: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics { snapshot, process }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Metrics {
    snapshot: Arc<Snapshot>,
    process: Figures,
}

/// Writes one family after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.agent(&mut families)?;
        self.connection(&mut families)?;
        self.authentication(&mut families)?;
        self.tunnels(&mut families)?;
        self.operations(&mut families)?;
        self.process(&mut families)
    }
}

impl Metrics {
    fn agent(&self, families: &mut Families<'_>) -> fmt::Result {
        let agent = &self.snapshot.agent;
        let version = [("version", agent.version.as_str())];
        families.info("adit_build", "The version of adit.", &version)?;
        families.gauge(
            ("adit_uptime", Some(Unit::Seconds)),
            "How long the process runs.",
            agent.uptime_s,
        )
    }

    fn connection(&self, families: &mut Families<'_>) -> fmt::Result {
        let (connection, totals) = (&self.snapshot.connection, &self.snapshot.totals);
        families.gauge(
            ("adit_mqtt_connected", None),
            "1 while the broker has accepted the login and the connection stands, else 0.",
            switch(connection.is_connected),
        )?;
        families.gauge(
            ("adit_mqtt_ready", None),
            "1 while everything is announced and operations come, else 0.",
            switch(connection.is_ready),
        )?;
        families.gauge(
            ("adit_mqtt_state_age", Some(Unit::Seconds)),
            "For how long it is connected, or not.",
            connection.since_s,
        )?;
        families.gauge(
            ("adit_mqtt_unsent_messages", None),
            "Messages that the broker has not acknowledged.",
            count(connection.unsent_messages),
        )?;
        families.counter(
            ("adit_mqtt_logins", None),
            "Logins that the broker accepted.",
            totals.logins,
        )?;
        let losses = totals.losses.iter();
        families.counters(
            ("adit_mqtt_losses", None),
            "Attempts to connect that failed and connections that were lost, by reason.",
            "reason",
            losses.map(|(reason, count)| (reason.as_str(), *count)),
        )
    }

    fn authentication(&self, families: &mut Families<'_>) -> fmt::Result {
        let authentication = &self.snapshot.authentication;
        families.gauge_if(
            ("adit_token_age", Some(Unit::Seconds)),
            "How old the token is that tunnels show the cloud.",
            authentication.token_age_s,
        )?;
        families.gauge_if(
            ("adit_token_left", Some(Unit::Seconds)),
            "How long that token is still good.",
            authentication.token_left_s,
        )?;
        families.gauge_if(
            ("adit_certificate_left", Some(Unit::Seconds)),
            "How long the certificate of the device is still good; below zero when it has expired.",
            authentication.certificate_left_s,
        )
    }

    fn tunnels(&self, families: &mut Families<'_>) -> fmt::Result {
        let (snapshot, totals) = (&self.snapshot, &self.snapshot.totals);
        let of_state = |state| {
            let of_it = snapshot
                .tunnels
                .iter()
                .filter(|tunnel| tunnel.state == state);
            of_it.count() as u64
        };
        let states = [
            ("opening", of_state(TunnelState::Opening)),
            ("open", of_state(TunnelState::Open)),
            ("ending", of_state(TunnelState::Ending)),
        ];
        families.gauges(
            ("adit_tunnels", None),
            "Tunnels that there are, by state.",
            "state",
            states,
        )?;
        families.gauge(
            ("adit_tunnels_limit", None),
            "How many tunnels there may be (remote_access.max_tunnels).",
            count(snapshot.remote_access.max_tunnels),
        )?;
        let before = snapshot.predecessor.as_ref();
        families.gauge(
            ("adit_predecessor_tunnels", None),
            "Tunnels that the processes before this one carry to their end after an upgrade.",
            count(before.map_or(0, |before| before.all_tunnels())),
        )?;
        families.counter(
            ("adit_tunnels_opened", None),
            "Tunnels that have opened.",
            totals.operations_successful,
        )?;
        families.counter(
            ("adit_tunnels_ended", None),
            "Tunnels that had opened and have ended.",
            totals.tunnels_ended,
        )?;
        let ways = [("up", totals.up_bytes), ("down", totals.down_bytes)];
        families.counters(
            ("adit_tunnel_traffic", Some(Unit::Bytes)),
            "Bytes that tunnels have carried: up to the cloud, down to the machines; with what was lost at their ends.",
            "direction",
            ways,
        )?;
        families.histogram(
            "adit_target_connect",
            "How long it took to reach a machine, its name included.",
            &totals.target_connect,
        )?;
        families.histogram(
            "adit_cloud_connect",
            "How long it took to open the WebSocket to the cloud.",
            &totals.cloud_connect,
        )
    }

    fn operations(&self, families: &mut Families<'_>) -> fmt::Result {
        let totals = &self.snapshot.totals;
        let failed = totals.operations_failed.iter();
        families.counters(
            ("adit_operations", None),
            "Operations that have come to a result.",
            "result",
            [
                ("successful", totals.operations_successful),
                ("failed", totals.operations_failed.values().sum()),
            ],
        )?;
        families.counters(
            ("adit_operation_failures", None),
            "Operations whose tunnel did not open, by reason.",
            "reason",
            failed.map(|(kind, count)| (kind.as_str(), *count)),
        )?;
        families.histogram(
            "adit_operation_duration",
            "How long it took from an operation to its result.",
            &totals.operation,
        )
    }

    fn process(&self, families: &mut Families<'_>) -> fmt::Result {
        let process = &self.process;
        if let Some(seconds) = process.cpu_seconds {
            families.family(
                ("process_cpu", Some(Unit::Seconds)),
                "Time of processors in user and kernel mode.",
                MetricType::Counter,
                |mut metric| metric.encode_counter::<NoLabelSet, _, f64>(&seconds, None),
            )?;
        }
        let bytes = process.resident_bytes.map(count);
        families.gauge_if(
            ("process_resident_memory", Some(Unit::Bytes)),
            "Memory in use.",
            bytes,
        )?;
        families.gauge_if(
            ("process_threads", None),
            "Threads.",
            process.threads.map(count),
        )?;
        families.gauge_if(
            ("process_open_fds", None),
            "Open files.",
            process.open_files.map(count),
        )?;
        families.gauge_if(
            ("process_max_fds", None),
            "How many files may be open.",
            process.max_files.map(count),
        )
    }
}

/// The name of a family without its unit, and the unit.
type Name = (&'static str, Option<Unit>);

impl Families<'_> {
    fn family(
        &mut self,
        (name, unit): Name,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.0.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    fn info(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.family((name, None), help, MetricType::Info, |mut metric| {
            metric.encode_info(&labels)
        })
    }

    fn gauge(&mut self, name: Name, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut metric| {
            metric.encode_gauge(&value)
        })
    }

    /// One that is left out where there is no value.
    fn gauge_if(&mut self, name: Name, help: &str, value: Option<f64>) -> fmt::Result {
        match value {
            Some(value) => self.gauge(name, help, value),
            None => Ok(()),
        }
    }

    fn counter(&mut self, name: Name, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    fn counters<'v>(
        &mut self,
        name: Name,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        self.labelled(
            name,
            help,
            MetricType::Counter,
            label,
            values,
            |metric, value| metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        )
    }

    fn gauges<'v>(
        &mut self,
        name: Name,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        self.labelled(
            name,
            help,
            MetricType::Gauge,
            label,
            values,
            |metric, value| metric.encode_gauge(&count(value)),
        )
    }

    /// A value for each text of a label.
    fn labelled<'v>(
        &mut self,
        name: Name,
        help: &str,
        kind: MetricType,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
        write: impl Fn(&mut MetricEncoder<'_>, u64) -> fmt::Result,
    ) -> fmt::Result {
        self.family(name, help, kind, |mut metric| {
            for (text, value) in values {
                write(&mut metric.encode_family(&[(label, text)])?, value)?;
            }
            Ok(())
        })
    }

    fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) -> fmt::Result {
        // The library adds them up.
        let within: u64 = histogram.buckets.iter().sum();
        let longer = histogram.count.saturating_sub(within);
        let bounded = BOUNDS.iter().copied().zip(histogram.buckets);
        let buckets: Vec<_> = bounded.chain([(f64::INFINITY, longer)]).collect();
        let name = (name, Some(Unit::Seconds));
        self.family(name, help, MetricType::Histogram, |mut metric| {
            metric.encode_histogram::<NoLabelSet>(histogram.sum_s, histogram.count, &buckets, None)
        })
    }
}

fn switch(is_on: bool) -> f64 {
    f64::from(u8::from(is_on))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "above 2^53 a few bytes more or less are no news"
)]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::snapshot::FailureKind;

    fn snapshot() -> Snapshot {
        let document = include_str!("../../docs/status.md");
        let example = document.split("```json\n").nth(1).unwrap();
        serde_json::from_str(example.split("```").next().unwrap()).unwrap()
    }

    fn figures() -> Figures {
        Figures {
            cpu_seconds: Some(1.5),
            resident_bytes: Some(5 << 20),
            threads: Some(2),
            open_files: Some(17),
            max_files: Some(1024),
        }
    }

    /// The families of a text, each with its type, its unit, and its samples.
    struct Family {
        name: String,
        kind: String,
        unit: Option<String>,
        samples: Vec<(String, f64)>,
    }

    /// Reads a text by the rules of OpenMetrics 1.0 that hold for what adit writes, and by those
    /// that `promtool check metrics` adds.
    fn read(text: &str) -> Vec<Family> {
        let body = text.strip_suffix("# EOF\n").expect("an end");
        let mut families: Vec<Family> = Vec::new();
        let mut has_help = false;
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(help.ends_with('.') && help.len() > 5, "{line}");
                assert!(!has_help, "{line}");
                has_help = true;
                assert!(
                    families.iter().all(|family| family.name != name),
                    "{name} twice"
                );
                families.push(Family {
                    name: name.to_owned(),
                    kind: String::new(),
                    unit: None,
                    samples: Vec::new(),
                });
                continue;
            }
            let family = families.last_mut().expect("a family");
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, family.name);
                kind.clone_into(&mut family.kind);
                has_help = false;
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap();
                assert_eq!(name, family.name);
                assert!(name.ends_with(&format!("_{unit}")), "{line}");
                family.unit = Some(unit.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let name = series.split('{').next().unwrap();
                let suffixes: &[&str] = match family.kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    kind => panic!("{kind}"),
                };
                let suffix = name.strip_prefix(family.name.as_str()).expect(line);
                assert!(suffixes.contains(&suffix), "{line}");
                let is_new = family.samples.iter().all(|(other, _)| other != series);
                assert!(is_new, "{series} twice");
                family
                    .samples
                    .push((series.to_owned(), value.parse().unwrap()));
            }
        }
        families
    }

    #[test]
    fn follows_the_rules_of_the_format() {
        let text = text(snapshot().into(), figures()).unwrap();
        let families = read(&text);
        assert!(families.len() > 25, "{}", families.len());
        for family in &families {
            let Family {
                name,
                kind,
                unit,
                samples,
            } = family;
            assert!(!samples.is_empty(), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            for (word, unit_of_word) in [("seconds", "seconds"), ("bytes", "bytes")] {
                let is_told = unit.as_deref() == Some(unit_of_word);
                assert_eq!(name.ends_with(word), is_told, "{name}");
            }
            if kind == "histogram" {
                let buckets: Vec<_> = samples
                    .iter()
                    .filter(|(n, _)| n.contains("_bucket"))
                    .collect();
                assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name}");
                let (last, all) = buckets.last().unwrap();
                assert!(last.ends_with("le=\"+Inf\"}"), "{last}");
                let count = samples.iter().find(|(n, _)| n.ends_with("_count")).unwrap();
                assert!((count.1 - all).abs() < f64::EPSILON, "{name}");
            }
        }
    }

    #[test]
    fn tells_what_the_snapshot_does() {
        let text = text(snapshot().into(), figures()).unwrap();
        for line in [
            "adit_build_info{version=\"0.1.0\"} 1",
            "adit_mqtt_connected 1.0",
            "adit_mqtt_losses_total{reason=\"closed\"} 1",
            "adit_operations_total{result=\"failed\"} 1",
            "adit_operation_failures_total{reason=\"unreachable\"} 1",
            "adit_tunnels{state=\"open\"} 1.0",
            "adit_tunnel_traffic_bytes_total{direction=\"up\"} 98000",
            "adit_operation_duration_seconds_bucket{le=\"0.25\"} 2",
            "adit_operation_duration_seconds_bucket{le=\"+Inf\"} 2",
            "adit_token_left_seconds 2880.0",
            "process_cpu_seconds_total 1.5",
            "process_resident_memory_bytes 5242880.0",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line} is not in\n{text}"
            );
        }
        let nothing = super::text(Arc::default(), Figures::default()).unwrap();
        assert!(!nothing.contains("adit_token"), "{nothing}");
        read(&nothing);
    }

    #[test]
    fn has_as_many_series_whatever_the_cloud_asks_for() {
        let mut snapshot = snapshot();
        let before = text(snapshot.clone().into(), figures())
            .unwrap()
            .lines()
            .count();
        for number in 0..100 {
            let mut tunnel = snapshot.tunnels[0].clone();
            tunnel.target = format!("plc-{number}:\"22\n");
            tunnel.device = tunnel.target.clone();
            snapshot.tunnels.push(tunnel);
        }
        for kind in FailureKind::ALL {
            *snapshot.totals.operations_failed.entry(kind).or_default() += 7;
        }
        let text = text(snapshot.into(), figures()).unwrap();
        assert_eq!(text.lines().count(), before);
        assert!(!text.contains("plc"));
    }

    /// What stands in a file of `deploy/observability` and looks like a name of adit's metrics.
    fn names(file: &str) -> Vec<&str> {
        let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let words = file.split(|c| !is_of_name(c));
        let ours = |word: &&str| word.starts_with("adit_") || word.starts_with("process_");
        words.filter(ours).collect()
    }

    #[test]
    fn has_every_metric_that_is_watched_in_deploy() {
        let text = text(snapshot().into(), figures()).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let known: Vec<_> = samples
            .map(|line| line.split(['{', ' ']).next().unwrap())
            .collect();
        for (name, file) in [
            (
                "alerts",
                include_str!("../../deploy/observability/alerts.yaml"),
            ),
            (
                "dashboard",
                include_str!("../../deploy/observability/dashboard.json"),
            ),
        ] {
            let names = names(file);
            assert!(names.len() > 5, "{name}");
            for metric in names {
                assert!(known.contains(&metric), "{name} watches {metric}");
            }
        }
    }
}
