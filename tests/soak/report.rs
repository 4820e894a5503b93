//! What was played so far, in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::agent::Figures;

/// The sum of many schedules.
pub(crate) struct Report {
    began: Instant,
    pub(crate) schedules: u64,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Operations that ended as the guarantees admit.
    pub(crate) admitted: u64,
    /// Bytes that arrived in the cloud, and at the machines.
    pub(crate) bytes: [u64; 2],
    /// Faults by place and kind.
    pub(crate) struck: BTreeMap<String, u64>,
    /// The most that any adit held at any time.
    pub(crate) peak: Figures,
    pub(crate) peak_resident: usize,
    rows: Vec<Row>,
    /// By gateway, what an adit that lasts holds after its latest schedule.
    lasting: BTreeMap<usize, Figures>,
}

/// What the adits that last held at one time.
struct Row {
    after: Duration,
    schedules: u64,
    files: [usize; 2],
    threads: [usize; 2],
    memory: [usize; 2],
}

/// One schedule.
#[derive(Debug, Default)]
pub(crate) struct Played {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    pub(crate) admitted: u64,
    pub(crate) bytes: [u64; 2],
    pub(crate) struck: Vec<String>,
    pub(crate) peak: Figures,
    pub(crate) peak_resident: usize,
    pub(crate) after: Figures,
    /// No operation is left that a later status could fall on.
    pub(crate) is_finished: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            schedules: 0,
            opened: 0,
            failed: 0,
            admitted: 0,
            bytes: [0; 2],
            struck: BTreeMap::new(),
            peak: Figures::default(),
            peak_resident: 0,
            rows: Vec::new(),
            lasting: BTreeMap::new(),
        }
    }

    /// Adds a schedule that a gateway has played, whose adit lasts or not.
    pub(crate) fn add(&mut self, gateway: usize, lasts: bool, played: Played) {
        self.schedules += 1;
        self.opened += played.opened;
        self.failed += played.failed;
        self.admitted += played.admitted;
        for (sum, bytes) in self.bytes.iter_mut().zip(played.bytes) {
            *sum += bytes;
        }
        for name in played.struck {
            *self.struck.entry(name).or_default() += 1;
        }
        self.peak = self.peak.max(played.peak);
        self.peak_resident = self.peak_resident.max(played.peak_resident);
        if lasts {
            self.lasting.insert(gateway, played.after);
        }
    }

    /// Keeps what the adits that last hold now.
    pub(crate) fn take_row(&mut self) {
        let range = |figure: fn(&Figures) -> usize| {
            let all = self.lasting.values().map(figure);
            [all.clone().min().unwrap_or(0), all.max().unwrap_or(0)]
        };
        self.rows.push(Row {
            after: self.began.elapsed(),
            schedules: self.schedules,
            files: range(|figures| figures.files),
            threads: range(|figures| figures.threads),
            memory: range(|figures| figures.memory),
        });
    }

    /// The latest row in one line.
    pub(crate) fn progress(&self) -> String {
        let row = self.rows.last().map_or_else(String::new, Row::to_string);
        let faults: u64 = self.struck.values().sum();
        format!("{row}; {faults} faults struck")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            after,
            schedules,
            files: [least_files, most_files],
            threads: [least_threads, most_threads],
            memory: [least, most],
        } = self;
        let minutes = after.as_secs_f64() / 60.0;
        write!(
            f,
            "{minutes:6.1} min {schedules:7} schedules; adits that last, least and most: \
             {least_files}–{most_files} files, {least_threads}–{most_threads} threads, \
             {least}–{most} KiB"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            schedules,
            opened,
            failed,
            admitted,
            bytes: [up, down],
            peak,
            peak_resident,
            ..
        } = self;
        let seconds = self.began.elapsed().as_secs();
        writeln!(f, "{schedules} schedules in {seconds} s")?;
        writeln!(
            f,
            "operations: {opened} successful, {failed} failed; schedules with what is admitted: {admitted}"
        )?;
        writeln!(f, "bytes: {up} to the cloud, {down} to machines")?;
        writeln!(
            f,
            "peak of one adit: {} files, {} threads, {peak_resident} KiB resident",
            peak.files, peak.threads
        )?;
        for (name, count) in &self.struck {
            writeln!(f, "struck: {count:7} {name}")?;
        }
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}
