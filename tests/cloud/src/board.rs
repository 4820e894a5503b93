//! What all parts of the platform share, and how one waits for a change of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use smartrest::encode;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::handshake::Handshake;
use crate::platform::{Delivery, Platform};

/// Number of a remote access configuration of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConfigurationId(pub u64);

/// A machine that an operator can reach through a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Configuration {
    /// External id of the device.
    pub device: String,
    /// The machine, as the device knows it.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The state behind the lock.
pub(crate) struct State {
    pub(crate) platform: Platform,
    pub(crate) handshakes: Vec<Handshake>,
    configurations: Vec<Configuration>,
}

/// The shared state, its changes, and the way to the broker.
pub(crate) struct Board {
    state: Mutex<State>,
    changes: watch::Sender<()>,
    deliveries: mpsc::Sender<Delivery>,
}

impl Board {
    pub(crate) fn new(platform: Platform, deliveries: mpsc::Sender<Delivery>) -> Self {
        let state = State {
            platform,
            handshakes: Vec::new(),
            configurations: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changes: watch::Sender::new(()),
            deliveries,
        }
    }

    /// Looks at the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and wakes whoever waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changes.send_replace(());
        result
    }

    /// Changes the platform and hands what it publishes to the broker's side, in order.
    pub(crate) fn publish<T>(&self, change: impl FnOnce(&mut Platform) -> (T, Vec<Delivery>)) -> T {
        self.change(|state| {
            let (result, deliveries) = change(&mut state.platform);
            // Still under the lock, so that no other delivery comes between.
            for delivery in deliveries {
                if self.deliveries.try_send(delivery).is_err() {
                    warn!("a publish was dropped, the broker has been away for too long");
                }
            }
            result
        })
    }

    /// Waits until `look` finds something.
    pub(crate) async fn wait_until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut changes = self.changes.subscribe();
        let found = tokio::time::timeout(limit, async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = self.look(&mut look) {
                    return Ok(found);
                }
                changes.changed().await.context("the platform is gone")?;
            }
        });
        found
            .await
            .unwrap_or_else(|_| Err(anyhow!("not within {limit:?}; {}", self.look(summary))))
    }

    pub(crate) fn add_handshake(&self, handshake: Handshake) -> usize {
        self.change(|state| {
            state.handshakes.push(handshake);
            state.handshakes.len() - 1
        })
    }

    pub(crate) fn answer_handshake(&self, index: usize, status: u16) {
        self.change(|state| {
            if let Some(handshake) = state.handshakes.get_mut(index) {
                handshake.answer = Some(status);
            }
        });
    }

    pub(crate) fn add_configuration(&self, configuration: Configuration) -> ConfigurationId {
        self.change(|state| {
            state.configurations.push(configuration);
            ConfigurationId(state.configurations.len() as u64)
        })
    }

    /// Returns a configuration; the device is named by its external id or that of its object.
    pub(crate) fn configuration(&self, device: &str, id: &str) -> Option<Configuration> {
        let index: usize = id.parse().ok()?;
        self.look(|state| {
            let configuration = state.configurations.get(index.checked_sub(1)?)?;
            let known = state.platform.device(&configuration.device);
            let is_object = known.is_some_and(|known| known.object.to_string() == device);
            (configuration.device == device || is_object).then(|| configuration.clone())
        })
    }

    /// Returns the configurations of a device with their ids.
    pub(crate) fn configurations(&self, device: &str) -> Vec<(ConfigurationId, Configuration)> {
        let own = |(id, configuration): (u64, &Configuration)| {
            (configuration.device == device).then(|| (ConfigurationId(id), configuration.clone()))
        };
        self.look(|state| (1..).zip(&state.configurations).filter_map(own).collect())
    }

    pub(crate) fn receive(&self, topic: &str, payload: &[u8]) {
        let at = Instant::now();
        self.publish(|platform| ((), platform.receive(topic, payload, at)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what there is, for whoever waited for something else.
fn summary(state: &State) -> String {
    const ROWS: usize = 10;
    let log = state.platform.log();
    let rows: Vec<_> = log[log.len().saturating_sub(ROWS)..]
        .iter()
        .map(|record| format!("{} {}", record.topic, encode([&record.row])))
        .collect();
    format!(
        "operations: {:?}; errors: {:?}; handshakes: {:?}; last of {} rows: {rows:?}",
        state.platform.operations(),
        state.platform.errors(),
        state.handshakes,
        log.len(),
    )
}
