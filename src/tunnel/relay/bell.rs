//! Notes that something rare has happened, so that it need not be asked at each wake-up.
//!
//! A tunnel is woken for every key stroke, its alarm and the stop signal are ready once in a long
//! while, and to ask both costs more than to carry the key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// What is polled with [`Bell::waker`] rings when it wants to be polled again.
#[derive(Debug)]
pub(super) struct Bell {
    shared: Arc<Shared>,
    waker: Waker,
    /// The task that is woken, too.
    task: Waker,
}

#[derive(Debug)]
struct Shared {
    rung: AtomicBool,
    task: Mutex<Waker>,
}

impl Bell {
    /// Makes a bell that has rung, because nothing has been polled yet.
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared {
            rung: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            waker: Arc::clone(&shared).into(),
            shared,
            task: Waker::noop().clone(),
        }
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether it has rung since it was asked before, or another task asks. The task of `cx` is woken
    /// when it rings next.
    pub(super) fn has_rung(&mut self, cx: &Context<'_>) -> bool {
        let is_another = !self.task.will_wake(cx.waker());
        if is_another {
            self.task.clone_from(cx.waker());
            // Before the look at `rung`, or a ring in between would wake nobody.
            self.shared.set_task(self.task.clone());
        }
        let rung = &self.shared.rung;
        rung.load(Ordering::Acquire) && rung.swap(false, Ordering::AcqRel) || is_another
    }
}

impl Shared {
    fn set_task(&self, task: Waker) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Task {
        fn was_woken(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    #[test]
    fn has_rung_once_for_each_ring_and_wakes_the_task_that_asked_last() {
        let [first, last] = [Arc::new(Task::default()), Arc::new(Task::default())];
        let [first_waker, last_waker] = [&first, &last].map(|task| Waker::from(Arc::clone(task)));
        let mut bell = Bell::new();
        assert!(bell.has_rung(&Context::from_waker(&first_waker)));
        assert!(!bell.has_rung(&Context::from_waker(&first_waker)));
        bell.waker().wake_by_ref();
        assert!(first.was_woken());
        assert!(bell.has_rung(&Context::from_waker(&last_waker)));
        assert!(!bell.has_rung(&Context::from_waker(&last_waker)));
        bell.waker().wake_by_ref();
        assert!(last.was_woken() && !first.was_woken());
        assert!(bell.has_rung(&Context::from_waker(&last_waker)));
    }
}
