//! Looks at the heart for all who come, and not more often than it should be looked at.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::inquiry::{Inquirer, NoAnswer};
use crate::state::Snapshot;

/// For how long what was seen is shown to others too.
const FRESH: Duration = Duration::from_millis(250);

/// What was seen last.
pub(super) struct Looking {
    inquirer: Inquirer,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Looking {
    pub(super) fn new(inquirer: Inquirer) -> Self {
        Self {
            inquirer,
            last: Mutex::new(None),
        }
    }

    /// Returns what adit does, or did a moment ago. All who come at the same time wait for one answer.
    pub(super) async fn look(&self) -> Result<Arc<Snapshot>, NoAnswer> {
        let mut last = self.last.lock().await;
        if let Some((at, snapshot)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = Arc::new(self.inquirer.look().await?);
        *last = Some((Instant::now(), Arc::clone(&snapshot)));
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inquiry::{self, Inquiry};

    #[tokio::test(start_paused = true)]
    async fn asks_the_heart_once_however_many_look() {
        let (inquirer, mut inquiries, ..) = inquiry::channel();
        let looking = Looking::new(inquirer);
        let heart = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(Inquiry::Look(answer)) = inquiries.recv().await {
                asked += 1;
                let _ = answer.send(Snapshot::default());
            }
            asked
        });
        for _ in 0..3 {
            for _ in 0..100 {
                looking.look().await.unwrap();
            }
            tokio::time::advance(FRESH).await;
        }
        drop(looking);
        assert_eq!(heart.await.unwrap(), 3);
    }
}
