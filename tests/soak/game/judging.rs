//! Judges a schedule that was played, and tells of it.

use std::time::{Duration, Instant};

use simulated_cloud::{Operation, OperationId, Status};

use super::{Failure, Game, Opening};
use crate::agent::Figures;
use crate::doubt;
use crate::gate::Gate;
use crate::judge::{self, Case, Expected, Verdict, applied};
use crate::link::Fate;
use crate::plan::Step;
use crate::report::Played;
use crate::side::{End, Shared};
use crate::verdict::{self, Tunnel};

/// Within this time adit holds no more than before.
const BACK: Duration = Duration::from_secs(30);

impl Game<'_> {
    /// What adit holds once that is no more than before, or at the end of its time for that.
    pub(super) async fn figures_afterwards(&mut self, faults: &mut Vec<String>) -> Figures {
        let (Some(before), Some(_)) = (self.lane.before, &self.lane.agent) else {
            return Figures::default();
        };
        let figures = |game: &Self| {
            let agent = game.lane.agent.as_ref();
            agent.map(|agent| agent.figures()).unwrap_or_default()
        };
        // A thread that begins has another name for a moment, so what is judged is what was waited for.
        let mut after = None;
        let is_back = |game: &Self| {
            let agent = game.lane.agent.as_ref();
            let now = agent.map(|agent| agent.light_figures()).unwrap_or_default();
            if now.files > before.files || now.threads > before.threads {
                return false;
            }
            let now = figures(game);
            after = verdict::kept(before, now).is_empty().then_some(now);
            after.is_some()
        };
        self.wait(BACK, is_back).await;
        let after = after.unwrap_or_else(|| figures(self));
        faults.extend(verdict::kept(before, after));
        after
    }

    pub(super) fn judge_tunnels(&self, faults: &mut Vec<String>) {
        for opening in &self.openings {
            let [machine, cloud] = [&opening.machine, &opening.cloud].map(Shared::notes);
            let closed = self.closed(opening);
            let tunnel = Tunnel {
                parts: [&opening.parts[0], &opening.parts[1]],
                notes: [&machine, &cloud],
                fates: self.fates(opening),
                is_stopped: opening.is_stopped,
                is_successful: self.status(opening.id) == Some(Status::Successful),
                closed: closed.as_deref(),
            };
            let wrong = tunnel.judge().into_iter();
            faults.extend(wrong.map(|fault| format!("operation {}: {fault}", opening.id)));
        }
    }

    pub(super) fn fates(&self, opening: &Opening) -> [Fate; 2] {
        let (has_begun, port) = opening
            .cloud
            .note(|notes| (notes.began.is_some(), notes.peer_port));
        let cloud = match port {
            Some(port) => self.lane.cloud_gate.fate(port),
            // It was reset before anybody could ask where it came from.
            None if has_begun => Fate::Broken,
            None => Fate::Untouched,
        };
        [opening.lan.worst_fate(), cloud]
    }

    /// What the platform was told of the end of a tunnel.
    fn closed(&self, opening: &Opening) -> Option<String> {
        let prefix = format!("tunnel to 127.0.0.1:{} closed: ", opening.lan.port);
        self.lane.look(|platform| {
            // An earlier schedule may have had the port.
            let own = platform
                .events()
                .iter()
                .filter(|event| event.at >= self.began);
            let mut texts = own.filter_map(|event| event.text.strip_prefix(&prefix));
            texts.next().map(str::to_owned)
        })
    }

    fn status(&self, id: OperationId) -> Option<Status> {
        self.lane
            .look(|platform| platform.operation(id).map(Operation::status))
    }

    /// Where a fault struck on the way, a failure may tell of the way.
    fn allow_for_faults(&mut self) {
        let reason = |words: String| Expected::Reason(vec![words]);
        let cloud = format!("127.0.0.1:{}", self.lane.cloud_gate.port);
        let is_cloud_struck = !self.lane.cloud_gate.struck().is_empty();
        for opening in &self.openings {
            let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == opening.id) else {
                continue;
            };
            let resets = matches!(opening.parts[0].end, End::Reset(_));
            if resets || opening.lan.worst_fate() != Fate::Untouched {
                let machine = format!("127.0.0.1:{}", opening.lan.port);
                asked.expected.push(reason(machine));
            }
            if is_cloud_struck {
                asked.expected.push(reason(cloud.clone()));
            }
        }
        if is_cloud_struck {
            let rows = self.asked.iter_mut();
            for asked in rows.filter(|asked| asked.expected.len() > 1) {
                asked.expected.push(reason(cloud.clone()));
            }
        }
    }

    pub(super) fn judge_statuses(&mut self) -> Verdict {
        self.allow_for_faults();
        let (log, operations, complaints) = self.lane.heard();
        let log = applied(&log);
        let record = self.lane.recorder.look(|record| record.clone());
        doubt::judge(&record, |record| {
            Case {
                gateway: self.lane.gateway(),
                asked: &self.asked,
                record: &record.iter().collect::<Vec<_>>(),
                log: &log,
                operations: &operations,
                complaints: &complaints,
                with_ids: self.lane.kind.with_ids,
                late: &[],
            }
            .judge()
        })
    }

    fn struck(&self) -> Vec<String> {
        let gates = [&self.lane.broker_gate, &self.lane.cloud_gate].into_iter();
        let gates = gates.chain(self.openings.iter().map(|opening| &opening.lan));
        let of_processes = self.steps.iter().filter_map(|(_, step)| match step {
            Step::FreezeBroker(_) => Some("broker: SIGSTOP and SIGCONT"),
            Step::RestartBroker { kill: true } => Some("broker: SIGKILL"),
            Step::RestartBroker { kill: false } => Some("broker: SIGTERM"),
            Step::RestartAgent { kill: true } => Some("adit: SIGKILL"),
            Step::RestartAgent { kill: false } => Some("adit: SIGTERM"),
            Step::Redeliver(_) => Some("row: once more"),
            _ => None,
        });
        let of_processes = of_processes.map(str::to_owned);
        gates.flat_map(Gate::struck).chain(of_processes).collect()
    }

    pub(super) fn played(&self, is_admitted: bool, after: Figures, peak_resident: usize) -> Played {
        let heard = |notes: fn(&Opening) -> &Shared| {
            let all = self.openings.iter().map(notes);
            all.map(|notes| notes.note(|notes| notes.heard)).sum()
        };
        let count = |status| self.lane.count(|o| o.status() == status) as u64;
        Played {
            opened: count(Status::Successful),
            failed: count(Status::Failed),
            admitted: u64::from(is_admitted),
            bytes: [heard(|o| &o.cloud), heard(|o| &o.machine)],
            struck: self.struck(),
            peak: self.peak,
            peak_resident,
            after,
            is_finished: self.unfinished() == 0,
        }
    }

    /// Shows everything that is known.
    pub(super) fn failure(&self, faults: &[String]) -> Failure {
        let faults = faults.join("\n");
        let mut lines: Vec<(Instant, String)> = self.lane.recorder.look(|record| {
            let record = record.iter();
            record.map(|seen| (seen.at, judge::line(seen))).collect()
        });
        let steps = self.steps.iter();
        lines.extend(steps.map(|(at, step)| (*at, format!("        {step:?}"))));
        let asked = self.asked.iter();
        lines.extend(asked.map(|a| (a.at, format!("        asked {} {}", a.id, a.row))));
        lines.sort_by_key(|(at, _)| *at);
        let lines = lines.into_iter().map(|(at, line)| {
            let after = at.saturating_duration_since(self.began).as_secs_f64();
            format!("{after:9.4} {line}")
        });
        let trace = lines.collect::<Vec<_>>().join("\n");
        let (_, operations, complaints) = self.lane.heard();
        let operations: Vec<_> = operations.iter().map(judge::ended).collect();
        let tunnels = self.openings.iter().map(|opening| {
            let [machine, cloud] = [&opening.machine, &opening.cloud].map(Shared::notes);
            let fates = self.fates(opening);
            format!("{}: {fates:?}\n  {machine:?}\n  {cloud:?}", opening.id)
        });
        let tunnels = tunnels.collect::<Vec<_>>().join("\n");
        Failure {
            words: format!(
                "seed {}: {faults}\n{}{trace}\n{}\ncomplaints: {complaints:?}\n{tunnels}\n\
                 struck: {:?}\nadit:\n{}",
                self.plan.seed,
                self.plan,
                operations.join("\n"),
                self.struck(),
                self.lane.log.text(),
            ),
        }
    }
}
