//! Notes whether the local broker's bridge has the cloud.
//!
//! Behind a bridge the connection to the local broker says nothing of the cloud: operations that are
//! created while the bridge has none are delivered to nobody, and nothing shows that they are missing.
//! Mosquitto tells the state of a bridge on a local topic, retained. Asking for what is missing is left
//! to the caller.

/// What the local broker has told of its bridge.
#[derive(Debug, Default)]
pub struct Bridge {
    /// Nothing is known at first, and after each connection to the local broker.
    has_cloud: Option<bool>,
}

/// What is new of the bridge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum News {
    /// It has lost the cloud, or has none yet.
    Lost,
    /// It has the cloud again: what the platform sent meanwhile is missing.
    Back,
}

impl Bridge {
    /// Takes note of a new connection to the local broker, on which the state is told anew.
    pub fn connected(&mut self) {
        self.has_cloud = None;
    }

    /// Takes a state: `1` with the cloud, `0` without. The first of a connection is as old as it may
    /// be, so that only a later `1` is a return; one without a `0` before it is one too, since the
    /// bridge tells each of its connections.
    pub fn told(&mut self, state: &[u8]) -> Option<News> {
        let has_cloud = match state {
            b"0" => false,
            b"1" => true,
            _ => return None,
        };
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
        let told: [(&[&str], &[Option<News>]); 6] = [
            (&["1"], &[None]),
            (&["1", "0", "1"], &[None, Some(Lost), Some(Back)]),
            (&["0", "0", "1"], &[Some(Lost), None, Some(Back)]),
            (&["1", "1"], &[None, Some(Back)]),
            (&["0", "connected", "1"], &[Some(Lost), None, Some(Back)]),
            (&["", "2", "1"], &[None, None, None]),
        ];
        for (states, news) in told {
            let mut bridge = Bridge::default();
            let heard: Vec<_> = states.iter().map(|s| bridge.told(s.as_bytes())).collect();
            assert_eq!(heard, news, "{states:?}");
        }
    }

    #[test]
    fn knows_nothing_after_a_reconnect() {
        let mut bridge = Bridge::default();
        bridge.told(b"0");
        bridge.connected();
        assert_eq!(bridge.told(b"1"), None);
    }
}
