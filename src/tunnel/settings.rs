//! What tunnels may reach, and what they may cost.

use std::time::Duration;

use super::policy::Policy;

/// What tunnels may do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Private addresses unless set.
    pub policy: Policy,
    /// At least 1. 64 unless set.
    pub max_tunnels: usize,
    /// How long the LAN host and the cloud may each take to accept the connection. 15 seconds
    /// unless set.
    pub connect_timeout: Duration,
    /// Interval of WebSocket pings; zero sends none. 20 seconds unless set.
    pub keep_alive: Duration,
    /// Silence that ends a tunnel. `None`, which is never, unless set.
    pub idle_timeout: Option<Duration>,
    /// Age that ends a tunnel. `None`, which is never, unless set.
    pub max_duration: Option<Duration>,
    /// How long open tunnels may go on once adit is to stop. `None`, which is not at all, unless set.
    pub drain: Option<Duration>,
}
