//! The agent between the process that it follows and the one that follows it. How an upgrade goes on is
//! decided by its course; here that is carried out.

use std::future;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::overview::clock;
use super::{Agent, now};
use crate::admin::Doors;
use crate::inquiry::UpgradeWish;
use crate::mqtt::outbox::Message;
use crate::state::Snapshot;
use crate::state::upgraded::Upgraded;
use crate::succession::course::{Course, Do, Happened};
use crate::succession::predecessor::{self, Predecessor};
use crate::succession::successor::{self, Successor};
use crate::succession::{Candidate, Handover, Program};
use crate::tunnel::policy::Policy;
use crate::words::legible;

/// How long a process that takes over waits for the broker before it says that it is in charge: the
/// network may be away, and the process before it would have no broker either.
const LOGIN_WAIT: Duration = Duration::from_secs(10);
/// Looks that wait for what the process before this one carries; others are answered without.
const LOOKS: usize = 64;
/// The process that nobody can take the place of.
const FIRST_PROCESS: u32 = 1;

/// Who was before, and who is to come.
pub(crate) struct Succession {
    /// How a process is started that is to follow; `None` where this is part of another program.
    program: Option<Program>,
    /// Who this process is to whoever is to follow it.
    candidate: Candidate,
    pub(super) doors: Doors,
    pub(super) following: Option<Following>,
    pub(super) predecessor: Option<Predecessor>,
    looks: Vec<(Box<Snapshot>, oneshot::Sender<Snapshot>)>,
    /// Until when the broker is waited for, where this process is not in charge yet.
    charge_by: Option<Instant>,
    /// Cancelled once nobody else is in charge.
    confirmed: CancellationToken,
    /// Another process is in charge.
    pub(super) is_replaced: bool,
    /// Why the one that was to follow is to be ended.
    given_up: Option<String>,
}

/// A process that is to follow, or that has taken over.
pub(super) struct Following {
    pub(super) course: Course,
    pub(super) successor: Successor,
    /// `None` once it is given.
    answer: Option<oneshot::Sender<Upgraded>>,
    version: String,
    is_connected: bool,
}

/// What comes from another process, or from the time.
pub(super) enum Heard {
    Successor(successor::Said),
    Predecessor(predecessor::Said),
    Due,
}

impl Succession {
    /// Begins with nobody before. What adit is looked at through is to be open.
    pub(crate) fn new(program: Option<Program>, candidate: Candidate, doors: Doors) -> Self {
        Self {
            program,
            candidate,
            doors,
            following: None,
            predecessor: None,
            looks: Vec::new(),
            charge_by: None,
            confirmed: CancellationToken::new(),
            is_replaced: false,
            given_up: None,
        }
    }

    /// Follows a process that has handed over; `confirmed` is cancelled once nobody else is in charge.
    pub(crate) fn after(self, predecessor: Predecessor, confirmed: CancellationToken) -> Self {
        Self {
            predecessor: Some(predecessor),
            charge_by: Some(now() + LOGIN_WAIT),
            confirmed,
            ..self
        }
    }

    /// Waits for what is heard next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Heard {
        let deadline = self.next_deadline();
        let successor = async {
            match &mut self.following {
                Some(following) => following.successor.next().await,
                None => future::pending().await,
            }
        };
        let predecessor = async {
            match &mut self.predecessor {
                Some(predecessor) => predecessor.next(now).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            said = successor => Heard::Successor(said),
            said = predecessor => Heard::Predecessor(said),
            () = sleep_until(deadline.unwrap_or_else(now).into()), if deadline.is_some() => Heard::Due,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let course = self.following.as_ref();
        let course = course.and_then(|following| following.course.next_deadline());
        let look = self
            .predecessor
            .as_ref()
            .and_then(Predecessor::next_deadline);
        [course, look, self.charge_by].into_iter().flatten().min()
    }

    /// Whether a process before this one still carries tunnels, and nothing else.
    pub(super) fn has_predecessor(&self) -> bool {
        let is_in_charge = self.charge_by.is_none();
        is_in_charge && self.predecessor.as_ref().is_some_and(|it| !it.has_gone())
    }

    /// Has the process before this one stop too.
    pub(super) fn stop_predecessor(&self) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.stop();
        }
    }

    /// Has the process before this one end the tunnels whose targets a policy denies.
    pub(super) fn limit_predecessor(&self, policy: &Policy) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.limit(policy.to_rules());
        }
    }

    /// Asks what the process before this one carries.
    pub(super) fn look(&mut self) {
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.look(now());
        }
    }

    /// Returns how many tunnels the processes before this one were last known to carry.
    pub(super) fn carried(&self) -> u64 {
        self.predecessor.as_ref().map_or(0, Predecessor::tunnels)
    }

    /// Whether another process is about to follow.
    pub(super) fn is_followed(&self) -> bool {
        self.following.is_some()
    }

    /// Whether it is open which of two processes goes on.
    pub(super) fn is_upgrading(&self) -> bool {
        self.is_followed() || self.charge_by.is_some()
    }

    /// Whether this is the process that whoever supervises adit listens to.
    pub(super) fn is_main(&self) -> bool {
        self.predecessor.is_none() || self.confirmed.is_cancelled()
    }

    /// Answers a look once it is known what the process before this one carries.
    pub(super) fn answer(
        &mut self,
        mut snapshot: Box<Snapshot>,
        answer: oneshot::Sender<Snapshot>,
    ) {
        if let Some(predecessor) = &mut self.predecessor {
            if self.looks.len() < LOOKS && predecessor.look(now()) {
                return self.looks.push((snapshot, answer));
            }
            snapshot.predecessor = predecessor.carries().map(Box::new);
        }
        // Who asked may have gone.
        let _ = answer.send(*snapshot);
    }

    fn answer_looks(&mut self) {
        let carries = self.predecessor.as_ref().and_then(Predecessor::carries);
        for (mut snapshot, answer) in std::mem::take(&mut self.looks) {
            snapshot.predecessor = carries.clone().map(Box::new);
            let _ = answer.send(*snapshot);
        }
    }

    /// Says that this process is in charge, if that is not said yet.
    fn take_charge(&mut self, is_connected: bool) {
        if self.charge_by.take().is_none() {
            return;
        }
        info!(is_connected, "this process is in charge now");
        if let Some(predecessor) = &self.predecessor {
            predecessor.in_charge(is_connected);
        }
    }

    /// Waits until what was said to other processes and to whoever asked is written, for a moment.
    pub(super) async fn close(self) {
        if let Some(following) = self.following {
            following.successor.close().await;
        }
        if let Some(predecessor) = self.predecessor {
            predecessor.close().await;
        }
        self.doors.end().await;
    }

    /// Returns why nobody can follow now.
    fn obstacle(&self) -> Option<&'static str> {
        if std::process::id() == FIRST_PROCESS {
            return Some(
                "process 1 cannot be replaced: start the new container; see remote_access.drain",
            );
        }
        if self.following.is_some() {
            return Some("an upgrade is under way already");
        }
        if self.charge_by.is_some() {
            return Some("this process is just taking over from another; ask again in a moment");
        }
        self.program
            .is_none()
            .then_some("this adit is part of another program, which cannot be started again")
    }

    /// Returns why this is nobody to follow.
    fn objection(&self, candidate: &Candidate) -> Option<String> {
        let own = &self.candidate;
        if candidate.device != own.device {
            return Some(format!(
                "device.id is {} in the new configuration, which needs a restart",
                legible(&candidate.device)
            ));
        }
        (candidate.places != own.places).then(|| {
            "admin.listen or admin.socket is another in the new configuration, which needs a restart"
                .to_owned()
        })
    }
}

impl Agent {
    /// Starts the process that is to follow.
    pub(super) fn upgrade(&mut self, wish: UpgradeWish) {
        let succession = &mut self.succession;
        let obstacle = self.is_stopping.then_some("adit is stopping");
        let obstacle = obstacle.or_else(|| succession.obstacle());
        let started = match (obstacle, &succession.program) {
            (None, Some(program)) => {
                info!(program = %program.path().display(), "a new process of adit is started");
                Successor::start(program).map_err(|error| {
                    format!("{} cannot be started: {error}", program.path().display())
                })
            }
            (obstacle, _) => Err(obstacle.unwrap_or_default().to_owned()),
        };
        match started {
            Ok(successor) => {
                succession.following = Some(Following {
                    course: Course::new(now()),
                    successor,
                    answer: Some(wish.answer),
                    version: String::new(),
                    is_connected: false,
                });
            }
            Err(reason) => {
                warn!(reason, "no upgrade");
                // Who asked may have gone.
                let _ = wish.answer.send(Upgraded::refused(reason));
            }
        }
    }

    /// Does what follows from what another process says, or from the time.
    pub(super) fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Successor(said) => self.successor_said(said),
            Heard::Predecessor(said) => self.predecessor_said(said),
            Heard::Due => {
                let now = now();
                let succession = &mut self.succession;
                if succession.charge_by.is_some_and(|by| by <= now) {
                    succession.take_charge(false);
                }
                if let Some(predecessor) = &mut succession.predecessor
                    && predecessor.next_deadline().is_some_and(|at| at <= now)
                {
                    predecessor.give_up_looking();
                    succession.answer_looks();
                }
                let following = succession.following.as_mut();
                let step = following.and_then(|following| following.course.time_passed(now));
                self.follow(step);
            }
        }
    }

    fn successor_said(&mut self, said: successor::Said) {
        let Some(following) = &mut self.succession.following else {
            return;
        };
        let happened = match said {
            successor::Said::Ready(candidate) => {
                following.version.clone_from(&candidate.version);
                match self.succession.objection(&candidate) {
                    Some(reason) => Happened::Refused(reason),
                    None => Happened::Ready,
                }
            }
            successor::Said::Refused(reason) => Happened::Refused(reason),
            successor::Said::InCharge(is_connected) => {
                following.is_connected = is_connected;
                Happened::InCharge
            }
            successor::Said::Gone => Happened::Gone("the new process has ended".to_owned()),
            // It has nothing to say of this before it is in charge.
            _ => return,
        };
        self.upgrade_goes_on(happened);
    }

    /// Takes note of something that an upgrade may wait for.
    pub(super) fn upgrade_goes_on(&mut self, happened: Happened) {
        let following = self.succession.following.as_mut();
        let step = following.and_then(|it| it.course.happened(happened, now()));
        self.follow(step);
    }

    /// Looks whether everything that was begun is at its end, where an upgrade waits for that.
    pub(super) fn look_for_quiet(&mut self) {
        let following = self.succession.following.as_ref();
        let is_waited_for = following.is_some_and(|it| it.course.waits_for_quiet());
        if is_waited_for && self.dialogue.all_is_said() && self.publisher.waiting() == 0 {
            self.upgrade_goes_on(Happened::Quiet);
        }
    }

    fn predecessor_said(&mut self, said: predecessor::Said) {
        match said {
            predecessor::Said::Say { topic, payload } => {
                // An event; nothing else is said of a tunnel that has ended.
                self.publisher
                    .publish(Message::new(topic, payload).repeatable());
            }
            predecessor::Said::Carries => self.succession.answer_looks(),
            predecessor::Said::Confirmed => {
                self.succession.confirmed.cancel();
                // This process may have been started with another.
                let policy = self.tunnels.policy();
                self.succession.limit_predecessor(&policy);
                self.succession.look();
            }
            predecessor::Said::Nothing => {}
            predecessor::Said::Gone => {
                info!("the process before this one has ended");
                self.succession.confirmed.cancel();
                self.succession.answer_looks();
            }
        }
    }

    /// Takes note of a connection that is set up.
    pub(super) fn is_set_up(&mut self) {
        self.succession.take_charge(true);
    }

    /// Gives an upgrade up because adit is to stop.
    pub(super) fn stop_upgrade(&mut self) {
        let following = self.succession.following.as_mut();
        let step = following.and_then(|following| following.course.stopped());
        self.follow(step);
    }

    fn follow(&mut self, step: Option<Do>) {
        match step {
            None => {}
            Some(Do::BeginNothing) => {
                info!("the new process is ready; operations are left to it");
                self.dialogue.leave();
            }
            Some(Do::LeaveBroker) => self.publisher.rest(),
            Some(Do::HandOver) => {
                self.succession.doors.close();
                let handover = Handover {
                    memory: self.dialogue.memory(),
                    operations: self.record.operations(&clock()),
                    is_greeted: self.publisher.standing().is_greeted,
                };
                if let Some(following) = &self.succession.following {
                    following.successor.hand_over(handover);
                }
            }
            Some(Do::Carry) => self.succession.is_replaced = true,
            Some(Do::GoOn(reason)) => self.succession.given_up = Some(reason),
        }
    }

    /// Leaves everything but the open tunnels to the process that has taken over.
    pub(super) async fn step_back(&mut self) {
        let Some(following) = &mut self.succession.following else {
            return;
        };
        // Before systemd is told, which asks then whether it would learn of the end of that process.
        following.successor.let_go().await;
        let successor = &following.successor;
        self.supervisor.main_process(successor.process_id());
        successor.confirm();
        if let Some(predecessor) = &self.succession.predecessor {
            predecessor.replaced();
        }
        // Tunnels have ended while there was no session.
        for message in self.publisher.take_waiting() {
            successor.have_said(message.topic, message.payload);
        }
        if let Some(answer) = following.answer.take() {
            // Who asked may have gone.
            let _ = answer.send(Upgraded {
                fault: None,
                version: following.version.clone(),
                process_id: successor.process_id(),
                is_connected: following.is_connected,
                old_process_id: std::process::id(),
                old_tunnels: self.tunnels.len() as u64,
            });
        }
    }

    /// Ends the new process where that is decided, which takes a moment, and does again what was left to
    /// it. Not to be dropped half-way.
    pub(super) async fn go_on_if_given_up(&mut self) {
        let Some(reason) = self.succession.given_up.take() else {
            return;
        };
        let Some(following) = self.succession.following.take() else {
            return;
        };
        let ended = following.successor.kill().await;
        let reason = format!("{} ({ended})", legible(&reason));
        error!(reason, "no upgrade: this process goes on");
        if let Some(answer) = following.answer {
            let _ = answer.send(Upgraded::refused(reason));
        }
        self.succession.doors.open_again();
        self.dialogue.begin_again();
        self.carry_out();
        self.publisher.go_on();
    }
}
