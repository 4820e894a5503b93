//! Tells all who watch the page how it changes, once for all of them, and only while there is somebody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::guard::{Guard, Pass};
use super::looking::Looking;
use crate::admin::page::{self, History};

/// Who watches at the same time.
const WATCHERS: usize = 16;
/// How often the page changes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait for somebody slow; who has as many waiting misses the next.
const QUEUE: usize = 2;

/// Those who watch.
#[derive(Clone)]
pub(super) struct Feed {
    guard: Guard,
    watchers: Arc<Mutex<Watchers>>,
}

#[derive(Default)]
struct Watchers {
    /// Each with what was shown to come in.
    queues: Vec<(Pass, mpsc::Sender<Bytes>)>,
    history: History,
    is_running: bool,
}

impl Feed {
    /// Shows nothing to those whom `guard` does not admit any more.
    pub(super) fn new(guard: Guard) -> Self {
        Self {
            guard,
            watchers: Arc::default(),
        }
    }

    /// Adds somebody who was admitted; `None` where too many watch already.
    pub(super) fn watch(
        &self,
        pass: Pass,
        looking: &Arc<Looking>,
    ) -> Option<mpsc::Receiver<Bytes>> {
        let mut watchers = self.watchers();
        watchers.queues.retain(|(_, queue)| !queue.is_closed());
        if watchers.queues.len() >= WATCHERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        watchers.queues.push((pass, sender));
        if !std::mem::replace(&mut watchers.is_running, true) {
            tokio::spawn(tell(self.clone(), Arc::clone(looking)));
        }
        Some(receiver)
    }

    /// What is known of the rates of each tunnel.
    pub(super) fn history(&self) -> History {
        self.watchers().history.clone()
    }

    /// Forgets those who have gone or may not stay; whether nobody is left.
    fn forget_those_who_left(&self) -> bool {
        let mut watchers = self.watchers();
        // The end of the events has a browser ask again, and it is then asked for the token.
        watchers
            .queues
            .retain(|(pass, queue)| !queue.is_closed() && self.guard.admits(pass));
        if !watchers.queues.is_empty() {
            return false;
        }
        watchers.is_running = false;
        watchers.history = History::default();
        true
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells until nobody watches any more. It belongs to the server's thread, and ends with that.
async fn tell(feed: Feed, looking: Arc<Looking>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if feed.forget_those_who_left() {
            return;
        }
        let seen = looking.look().await;
        // Somebody may have lost the right to it meanwhile.
        if feed.forget_those_who_left() {
            return;
        }
        let mut watchers = feed.watchers();
        // Whoever watches sees by the missing events that nobody answers.
        let Ok(snapshot) = seen else { continue };
        watchers.history.add(&snapshot);
        let event = Bytes::from(page::event(&snapshot, &watchers.history));
        for (_, queue) in &watchers.queues {
            // Who is slow misses one.
            let _ = queue.try_send(event.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::admin::http::Door;
    use crate::inquiry::{self, Inquiry};
    use crate::state::Snapshot;

    #[tokio::test(start_paused = true)]
    async fn looks_no_more_once_nobody_watches() {
        let (inquirer, mut inquiries, ..) = inquiry::channel();
        let looking = Arc::new(Looking::new(inquirer));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(Inquiry::Look(answer)) = inquiries.recv().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = answer.send(Snapshot::default());
            }
        });
        let feed = Feed::new(Guard::new(Door::new(None)));
        let mut events = feed.watch(Pass::Nothing, &looking).unwrap();
        assert!(events.recv().await.is_some());
        drop(events);
        tokio::time::sleep(10 * INTERVAL).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(!feed.watchers().is_running);
        // Somebody comes again.
        let mut events = feed.watch(Pass::Nothing, &looking).unwrap();
        assert!(events.recv().await.is_some());
    }
}
