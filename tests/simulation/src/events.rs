//! Judges what adit tells the platform of its tunnels: that they opened, that they ended, how many
//! bytes they carried, and why they ended.

use simulated_cloud::Event;

use crate::faults::Strike;
use crate::judge::closed::{Closed, Way};
use crate::network::Fate;
use crate::schedule::{Deed, Order, Wish};
use crate::side::{End, Heard, Left, Notes};
use crate::world::World;

const OPENED: &str = "c8y_RemoteAccessOpened";
const CLOSED: &str = "c8y_RemoteAccessClosed";
/// The fault that takes an event for ever.
pub(crate) const POISON: &str = "broker: takes no such event";

/// The events of one tunnel, and what its ends have noticed.
pub(crate) struct Tunnel<'a> {
    pub(crate) order: &'a Order,
    pub(crate) machine: &'a Notes,
    pub(crate) cloud: &'a Notes,
    /// The platform shows a success that is surely this tunnel's.
    pub(crate) is_successful: bool,
}

impl Tunnel<'_> {
    /// Adds what is wrong with the events of the tunnel.
    pub(crate) fn judge(&self, world: &World, faults: &mut Vec<String>) {
        let Wish::Tunnel(..) = self.order.wish else {
            return;
        };
        let (events, connections) = world.broker.with(|broker, _| {
            let all = broker.platform().events().iter();
            let own = all.filter(|event| event.device == self.order.device);
            (own.cloned().collect::<Vec<_>>(), broker.connections())
        });
        let target = self.order.target();
        let texts = |kind: &str, prefix: &str| {
            let of_kind = events.iter().filter(|event: &&Event| event.kind == kind);
            let texts = of_kind.filter_map(|event| event.text.strip_prefix(prefix));
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let opened = texts(OPENED, &format!("tunnel to {target} opened"));
        let closed = texts(CLOSED, &format!("tunnel to {target} closed: "));
        let stood = self.machine.began.is_some() && self.cloud.stands;
        if !stood && opened.len() + closed.len() > 0 {
            faults.push("an event tells of a tunnel that never stood".to_owned());
        }
        // Both may come again on a later connection.
        for (events, what) in [(&opened, "opened"), (&closed, "closed")] {
            if events.len() > connections {
                faults.push(format!("{} events tell that it {what}", events.len()));
            }
        }
        if self.is_complete(world) {
            if opened.is_empty() != closed.is_empty() {
                let counts = (opened.len(), closed.len());
                faults.push(format!("events of opening and end: {counts:?}"));
            }
            if self.is_successful && opened.is_empty() {
                faults.push("no event tells of a tunnel that stood".to_owned());
            }
        }
        if let Some(first) = closed.first() {
            if closed.iter().any(|other| other != first) {
                faults.push(format!("the end is told in two ways: {closed:?}"));
            }
            match Closed::read(first) {
                Some(closed) => self.judge_end(world, &closed, faults),
                None => faults.push(format!("an end in unknown words: {first}")),
            }
        }
    }

    /// Whether no event may be missing.
    fn is_complete(&self, world: &World) -> bool {
        let struck = world.network.faults().struck();
        let is_poisoned = struck.iter().any(|Strike(name, _)| *name == POISON);
        let mut deeds = world.schedule.deeds.iter();
        let is_restarted = deeds.any(|(_, deed)| matches!(deed, Deed::Restart { .. }));
        world.schedule.settings.events && !is_poisoned && !is_restarted
    }

    fn judge_end(&self, world: &World, closed: &Closed<'_>, faults: &mut Vec<String>) {
        let (machine, cloud) = (self.machine, self.cloud);
        if machine.visits > 1 || cloud.visits > 1 {
            return;
        }
        for (name, said, end) in [
            ("cloud", machine.said, cloud),
            ("device", cloud.said, machine),
        ] {
            let fate = end.connection.map(|id| world.network.fate(id));
            // Whoever is cut off may have heard more than adit can know.
            let resets = end
                .left
                .is_some_and(|left| matches!(left.how, End::Reset(_)));
            let counted = closed.counted_after().zip(cloud.began);
            let counted = counted.filter(|_| fate == Some(Fate::Untouched));
            let way = Way {
                name,
                said,
                heard: end.heard,
                // A reset that a write was told of is an end to the next read.
                is_read_out: end.said_all
                    && matches!(end.told, Some((_, Heard::End | Heard::Close(_)))),
                is_known: fate != Some(Fate::Broken) && !resets,
                heard_then: counted.map(|(after, began)| end.heard_by(began + after)),
            };
            faults.extend(closed.judge(&way));
        }
        let is_untouched = |notes: &Notes| {
            let fate = notes.connection.map(|id| world.network.fate(id));
            fate.is_none_or(|fate| fate == Fate::Untouched)
        };
        if is_untouched(machine) && is_untouched(cloud) {
            let words = self.possible_reasons();
            if !words.iter().any(|word| closed.reason.starts_with(word)) {
                faults.push(format!("the end has the reason {:?}", closed.reason));
            }
        }
    }

    /// How the reason may begin where no fault has struck the connections.
    fn possible_reasons(&self) -> Vec<&'static str> {
        let own = |notes: &Notes| notes.left.filter(|left: &Left| left.is_own);
        let (machine, cloud) = (own(self.machine), own(self.cloud));
        // Whoever is slow for long looks dead, and adit itself may be told to stop.
        let mut words = vec!["the cloud did not answer", "adit is stopping"];
        if let Some(left) = machine {
            words.extend(match left.how {
                End::Reset(_) => ["reset by the device", "closed by the device"],
                _ => ["closed by the device"; 2],
            });
        }
        if let Some(left) = cloud {
            words.extend(match left.how {
                End::InOrder(_) | End::Stays => ["closed by the cloud"; 2],
                End::Cut(_) => ["closed by the cloud without a Close frame"; 2],
                End::CutWithinFrame(_) => ["the cloud's stream was cut"; 2],
                End::Violation(_) => ["the cloud broke the protocol"; 2],
                End::Reset(_) => ["reset by the cloud", "closed by the cloud"],
            });
        }
        words
    }
}
