//! Tunnels that go on when adit has left the broker: what they have to tell is only logged.

use std::time::Instant;

use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use super::{TUNNELS_END, now};
use crate::tunnel::manager::Tunnels;
use crate::words::seconds;

/// What is left of an agent whose session has ended.
pub(crate) struct Carrier {
    pub(super) tunnels: Tunnels,
    /// When the tunnels are to end.
    pub(super) over_at: Instant,
}

impl Carrier {
    /// Carries until all tunnels have ended, and ends them when their time is over.
    pub(crate) async fn run(mut self) {
        if self.tunnels.is_empty() {
            return;
        }
        info!(
            tunnels = self.tunnels.len(),
            at_most_s = seconds(self.over_at.saturating_duration_since(now())),
            "adit has left the broker; its tunnels go on until they end or remote_access.drain is over"
        );
        tokio::select! {
            () = ended(&mut self.tunnels) => return info!("all tunnels have ended"),
            () = sleep_until(self.over_at.into()) => {}
        }
        info!(
            tunnels = self.tunnels.len(),
            "remote_access.drain is over; adit ends its tunnels"
        );
        self.tunnels.stop();
        if timeout(TUNNELS_END, ended(&mut self.tunnels))
            .await
            .is_err()
        {
            warn!(tunnels = self.tunnels.len(), "tunnels did not end in time");
        }
    }
}

async fn ended(tunnels: &mut Tunnels) {
    while tunnels.next().await.is_some() {}
}
