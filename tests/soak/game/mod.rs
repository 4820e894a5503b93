//! One schedule on a gateway: what the plan says is done, and then it is judged.

mod asking;
mod judging;

use std::time::{Duration, Instant};

use simulated_cloud::OperationId;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Figures};
use crate::gate::Gate;
use crate::judge::{Asked, Verdict, is_end};
use crate::lane::Lane;
use crate::link::Fate;
use crate::plan::{Break, How, Plan, Step};
use crate::report::Played;
use crate::side::{Part, Shared};
use crate::support::{BlackHole, LIMIT};

/// Longer than everything that can still happen by itself while adit says nothing.
const STILL: Duration = Duration::from_secs(10);
/// Within this time every operation has its result: the longest wait before the next attempt to
/// reach the broker, and what follows.
const RESULTS: Duration = Duration::from_secs(120);
/// Who stays is given so long before the farewell.
const STAY: Duration = Duration::from_secs(2);
/// Within this time all tunnels have ended after the farewell, half-open ones too.
const ENDS: Duration = Duration::from_secs(60);
/// How long after its row a copy of it may come.
const COPY_AGE: Duration = Duration::from_secs(3);
/// How long a broker may take to hand over what it has taken.
const HOLD: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// One operation that opens a tunnel.
struct Opening {
    id: OperationId,
    parts: [Part; 2],
    machine: Shared,
    cloud: Shared,
    lan: Gate,
    is_stopped: bool,
}

/// A schedule that is played.
pub(crate) struct Game<'a> {
    lane: &'a mut Lane,
    plan: &'a Plan,
    asked: Vec<Asked>,
    openings: Vec<Opening>,
    holes: Vec<BlackHole>,
    /// The machines, and the far ends of tunnels.
    parties: JoinSet<()>,
    farewell: CancellationToken,
    peak: Figures,
    began: Instant,
    steps: Vec<(Instant, Step)>,
}

/// What was wrong, and how it came to that.
pub(crate) struct Failure {
    pub(crate) words: String,
}

impl<'a> Game<'a> {
    pub(crate) fn new(lane: &'a mut Lane, plan: &'a Plan) -> Self {
        Self {
            lane,
            plan,
            asked: Vec::new(),
            openings: Vec::new(),
            holes: Vec::new(),
            parties: JoinSet::new(),
            farewell: CancellationToken::new(),
            peak: Figures::default(),
            began: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Plays the schedule to its end.
    pub(crate) async fn play(mut self) -> Result<Played, Failure> {
        let mut faults = Vec::new();
        if let Err(fault) = self.lane.begin(self.plan).await {
            return Err(self.failure(&[fault]));
        }
        for (wait, step) in &self.plan.steps {
            sleep(*wait).await;
            self.steps.push((Instant::now(), *step));
            self.step(*step, &mut faults).await;
        }
        if !self.wait(RESULTS, Self::has_results).await {
            faults.push(format!("adit finds no rest within {RESULTS:?}"));
        }
        self.wait(STAY, Self::are_over).await;
        self.farewell.cancel();
        // What still holds its connection is told below.
        self.wait(ENDS, Self::are_over).await;
        let after = self.figures_afterwards(&mut faults).await;
        self.wait(ENDS, Self::are_over).await;
        self.judge_tunnels(&mut faults);
        self.lane.broker_gate.release();
        self.lane.cloud_gate.release();
        for opening in &self.openings {
            opening.lan.release();
        }
        self.lane.quiet(RESULTS).await;
        let Verdict {
            faults: wrong,
            admitted,
            ..
        } = self.judge_statuses();
        faults.extend(wrong);
        let peak_resident = self.lane.agent.as_ref().map_or(0, |agent| agent.peak());
        if !self.lane.kind.lasts {
            self.stop_agent(&mut faults).await;
        } else if !self.lane.agent.as_mut().is_some_and(Agent::is_running) {
            faults.push("adit has ended by itself".to_owned());
        }
        if !faults.is_empty() {
            return Err(self.failure(&faults));
        }
        Ok(self.played(!admitted.is_empty(), after, peak_resident))
    }

    async fn step(&mut self, step: Step, faults: &mut Vec<String>) {
        let lane = &mut *self.lane;
        match step {
            Step::Operation(number) => {
                let (whose, wish) = &self.plan.wishes[number];
                self.ask(number, *whose, wish).await;
            }
            Step::Redeliver(number) => {
                let life = lane.recorder.life();
                if let Some(asked) = self.asked.get(number)
                    && asked.life == life
                    && asked.at.elapsed() < COPY_AGE
                {
                    lane.cloud.redeliver(asked.id);
                }
            }
            Step::BreakBroker(how) => lane.broker_gate.strike(how),
            Step::BrokerRefuses(lasts) => {
                lane.broker_gate.refuse(lasts);
                let cut = Break::Cut {
                    near: How::Reset,
                    far: How::Reset,
                };
                lane.broker_gate.strike(cut);
            }
            Step::CloudRefuses(lasts) => lane.cloud_gate.refuse(lasts),
            Step::FreezeBroker(lasts) => lane.broker.freeze(lasts),
            Step::RestartBroker { kill } => self.restart_broker(kill).await,
            Step::RestartAgent { kill } => self.restart_agent(kill, faults).await,
        }
    }

    /// What the broker has acknowledged reaches the platform before it ends, because no agent can do
    /// anything about a broker that loses what it has taken.
    async fn restart_broker(&mut self, kill: bool) {
        let lane = &mut *self.lane;
        lane.recorder.hold(true);
        lane.quiet(HOLD).await;
        lane.broker.end(kill).await;
        lane.broker.start_again().await;
        lane.cloud.wait_for_broker(LIMIT).await.unwrap();
        lane.broker.remember_sessions().await;
        lane.recorder.hold(false);
    }

    async fn restart_agent(&mut self, kill: bool, faults: &mut Vec<String>) {
        self.disturb();
        if kill {
            self.lane.agent.as_mut().unwrap().kill();
        } else {
            self.stop_agent(faults).await;
        }
        // Another operation can have come meanwhile.
        self.disturb();
        self.lane.start_agent();
    }

    async fn stop_agent(&mut self, faults: &mut Vec<String>) {
        let Some(mut agent) = self.lane.agent.take() else {
            return;
        };
        if !agent.is_running() {
            faults.push("adit has ended by itself".to_owned());
            return;
        }
        match agent.stop().await {
            Some(status) if status.success() => {}
            Some(status) => faults.push(format!("adit ends with {status}")),
            None => faults.push("adit does not end when it is asked to".to_owned()),
        }
    }

    fn disturb(&mut self) {
        for asked in &mut self.asked {
            let status = self.lane.cloud.operation(asked.id).unwrap().status();
            asked.disturbed |= !is_end(status);
        }
        for opening in &mut self.openings {
            let mut asked = self.asked.iter();
            opening.is_stopped |= asked.any(|asked| asked.id == opening.id && asked.disturbed);
            opening.is_stopped |= !is_over(opening, [Fate::Untouched; 2]);
        }
    }

    /// Waits until something is so; false: not within the limit.
    async fn wait(&mut self, limit: Duration, mut is_so: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while !is_so(self) {
            if Instant::now() > deadline {
                return false;
            }
            if let Some(figures) = self.lane.figures_of_now() {
                self.peak = self.peak.max(figures);
            }
            sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// Whether every operation has its result, or none comes any more, which the judge looks into:
    /// where a status arrived twice, an operation may have that of another.
    fn has_results(&self) -> bool {
        let last_step = self.steps.last().map_or(self.began, |(at, _)| *at);
        self.unfinished() == 0 || self.lane.is_still(last_step, STILL)
    }

    fn unfinished(&self) -> usize {
        self.lane.count(|operation| !is_end(operation.status()))
    }

    fn are_over(&self) -> bool {
        let mut openings = self.openings.iter();
        openings.all(|opening| is_over(opening, self.fates(opening)))
    }
}

/// Whether both ends are over; one whose connection is dead may wait for ever.
fn is_over(opening: &Opening, fates: [Fate; 2]) -> bool {
    let mut ends = [&opening.machine, &opening.cloud].into_iter().zip(fates);
    // A machine may be reached late, and after all else is over.
    let is_reached = opening.machine.note(|notes| notes.visits) >= opening.lan.accepted();
    is_reached
        && ends.all(|(notes, fate)| {
            fate == Fate::Broken
                || notes.note(|notes| notes.began.is_none() || notes.over.is_some())
        })
}
