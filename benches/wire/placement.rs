//! Which processors the driver and whoever is measured run on.
//!
//! Left to itself the kernel puts both on one processor in one run and on two in the next, and what
//! it costs to wake an idle processor is many times what a relay does for a key stroke.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[derive(Clone, Copy)]
pub(crate) enum Placement {
    /// Whoever is measured has a processor of its own.
    Apart,
    /// All are on one processor, so that none has to be woken.
    Together,
}

/// The processors that this program was given.
pub(crate) struct Processors {
    all: CpuSet,
    measured: CpuSet,
    others: CpuSet,
}

impl Processors {
    pub(crate) fn given() -> Self {
        let all = sched_getaffinity(None).unwrap();
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu));
        let last = last.expect("this runs on a processor");
        let mut measured = CpuSet::new();
        measured.set(last);
        let mut others = all;
        if all.count() > 1 {
            others.unset(last);
        }
        Self {
            all,
            measured,
            others,
        }
    }

    /// Places this thread, and with it those that it will start.
    pub(crate) fn place_driver(&self, placement: Placement) {
        let processors = match placement {
            Placement::Apart => &self.others,
            Placement::Together => &self.measured,
        };
        sched_setaffinity(None, processors).unwrap();
    }

    /// Places a process that has one thread.
    pub(crate) fn place_measured(&self, pid: u32) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        sched_setaffinity(pid, &self.measured).unwrap();
    }

    /// Gives this thread all processors again.
    pub(crate) fn release(&self) {
        sched_setaffinity(None, &self.all).unwrap();
    }
}
