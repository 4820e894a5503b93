//! Notes whether the local broker's bridge has the cloud.
//!
//! Behind a bridge the connection to the local broker says nothing of the cloud: operations that are
//! created while the bridge has none are delivered to nobody, and nothing shows that they are missing.
//! Mosquitto tells the state of a bridge on a local topic, retained. Asking for what is missing is left
//! to the caller.

/// What the local broker has told of its bridge.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    /// Nothing is known at first, and after each connection to the local broker.
    has_cloud: Option<bool>,
}

/// What is new of the bridge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// It has lost the cloud, or has none yet.
    Lost,
    /// It has the cloud again: what the platform sent meanwhile is missing.
    Back,
}

impl Bridge {
    /// Takes note of a new connection to the local broker, on which the state is told anew.
    pub(crate) fn connected(&mut self) {
        self.has_cloud = None;
    }

    /// Whether it has told that it has no cloud, and nothing since.
    pub(crate) fn is_lost(&self) -> bool {
        self.has_cloud == Some(false)
    }

    /// Takes a state. The first of a connection is as old as it may
    /// be, so that only a later one with the cloud is a return; that without a loss before it is one too, since
    /// the bridge tells each of its connections.
    pub(crate) fn told(&mut self, has_cloud: bool) -> Option<News> {
        let before = self.has_cloud.replace(has_cloud);
        match (before, has_cloud) {
            (Some(_), true) => Some(News::Back),
            (None | Some(true), false) => Some(News::Lost),
            (None, true) | (Some(false), false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_when_the_bridge_comes_back() {
        use News::{Back, Lost};
        let told: [(&[bool], &[Option<News>]); 4] = [
            (&[true], &[None]),
            (&[true, false, true], &[None, Some(Lost), Some(Back)]),
            (&[false, false, true], &[Some(Lost), None, Some(Back)]),
            (&[true, true], &[None, Some(Back)]),
        ];
        for (states, news) in told {
            let mut bridge = Bridge::default();
            let heard: Vec<_> = states.iter().map(|&state| bridge.told(state)).collect();
            assert_eq!(heard, news, "{states:?}");
        }
    }

    #[test]
    fn knows_nothing_after_a_reconnect() {
        let mut bridge = Bridge::default();
        bridge.told(false);
        bridge.connected();
        assert_eq!(bridge.told(true), None);
    }
}
