//! The connections that there are, of which the oldest gives way when there are too many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, JoinSet};

/// Set on a connection over which somebody watches the page: it lives long, and gives way last.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark(Arc<AtomicBool>);

/// All connections, each with its task.
pub(super) struct Connections {
    limit: usize,
    tasks: JoinSet<()>,
    /// The oldest first; some may have ended.
    by_age: VecDeque<(AbortHandle, Mark)>,
}

impl Mark {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            tasks: JoinSet::new(),
            by_age: VecDeque::new(),
        }
    }

    /// Waits until one has ended; for ever while there is none.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.by_age.retain(|(task, _)| !task.is_finished());
    }

    /// Adds one, in the place of the oldest where there are too many.
    pub(super) fn add<F>(&mut self, speak: impl FnOnce(Mark) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.by_age.retain(|(task, _)| !task.is_finished());
        if self.by_age.len() >= self.limit {
            let unwatched = self.by_age.iter().position(|(_, mark)| !mark.is_set());
            if let Some((oldest, _)) = self.by_age.remove(unwatched.unwrap_or(0)) {
                oldest.abort();
            }
        }
        let mark = Mark::default();
        let task = self.tasks.spawn(speak(mark.clone()));
        self.by_age.push_back((task, mark));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn lets_the_oldest_give_way_that_nobody_watches() {
        let mut connections = Connections::new(3);
        let mut alive = Vec::new();
        for number in 0..5 {
            let (sender, receiver) = oneshot::channel::<()>();
            connections.add(|mark| {
                if number == 0 {
                    mark.set();
                }
                async move {
                    let _held = sender;
                    std::future::pending::<()>().await;
                }
            });
            alive.push(receiver);
        }
        connections.ended().await;
        connections.ended().await;
        let gone = alive.iter_mut().map(|one| {
            one.try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        });
        assert_eq!(gone.collect::<Vec<_>>(), [false, true, true, false, false]);
    }
}
