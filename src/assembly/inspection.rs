//! The check that the running agent makes itself: with its rights, its environment and its network,
//! which are another thing than those of a shell on the same machine. It does not log in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smartrest::Target;

use super::subject;
use crate::admin::{Checked, Examine};
use crate::check;
use crate::config::Config;
use crate::confinement::Confined;
use crate::net::Transport;

/// How long all hops may take together: less than a command waits for an answer.
const LIMIT: Duration = Duration::from_secs(40);

/// What the agent works with at this moment.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) config: Config,
    pub(super) transport: Transport,
    pub(super) confined: Confined,
}

/// Shared with whoever changes it.
#[derive(Clone)]
pub(super) struct Inspection {
    current: Arc<Mutex<Current>>,
    /// Held while a check goes on.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl Inspection {
    pub(super) fn new(current: Current) -> Self {
        Self {
            current: Arc::new(Mutex::new(current)),
            busy: Arc::default(),
        }
    }

    /// Works with something else from now on.
    pub(super) fn set(&self, config: &Config, transport: &Transport) {
        let mut current = self.current();
        current.config = config.clone();
        current.transport = transport.clone();
    }

    /// Returns what makes a check.
    pub(super) fn examine(&self) -> Examine {
        let inspection = self.clone();
        Arc::new(move |target| {
            let inspection = inspection.clone();
            Box::pin(async move { inspection.check(target).await })
        })
    }

    async fn check(&self, target: Option<Target>) -> Result<Checked, String> {
        let busy = self.busy.try_lock();
        let _busy = busy.map_err(|_| "another check goes on; wait for its end".to_owned())?;
        let Current {
            config,
            transport,
            confined,
        } = self.current().clone();
        let subject = subject(&config, confined).map_err(|error| format!("{error:#}"))?;
        let report = check::examine(&subject, transport, target, LIMIT).await;
        Ok(Checked {
            is_good: report.is_good(),
            text: report.to_text(),
            json: report.to_json().map_err(|error| error.to_string())?,
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
