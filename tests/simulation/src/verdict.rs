//! Holds what every party has noticed against what was promised.

use std::collections::BTreeMap;
use std::time::Duration;

use simulated_cloud::{OperationId, Record, Status};

use crate::broker::REVOKED;
use crate::cloud::Answer;
use crate::events;
use crate::faults::Strike;
use crate::judge::{self, Case, Expected, is_end};
use crate::network::{ConnectionId, Fate, Zone};
use crate::schedule::{Deed, Ids, Machine, Order, Wish};
use crate::side::{End, Heard, Left, Notes, Pace, Part, note};
use crate::world::{Played, World};

/// A pause that is shorter than a drain takes no bytes away.
const SHORT_PAUSE: Duration = Duration::from_secs(4);
/// Within this time an undisturbed end reaches the other side where both are fast: three times what a drain
/// waits for a sign of life, where a machine that echoes takes nothing before its echo is taken, and what
/// the network needs to tell of it.
const END_LIMIT: Duration = Duration::from_secs(16);
/// Adit waits so long at least for an end that takes nothing.
const GIVES_UP_AFTER: Duration = Duration::from_secs(5);
/// Bytes that a slow side takes within the ceiling of a drain.
const DRAIN_TIME: Duration = Duration::from_secs(400);

/// Returns what is wrong.
pub(crate) fn judge(world: &World) -> Vec<String> {
    let mut faults = statuses(world);
    for played in world.played().iter() {
        let mut found = Vec::new();
        Tunnel::new(world, played).judge(&mut found);
        let number = played.order.number;
        let id = played.id.map_or(0, |id| id.0);
        let found = found.into_iter();
        faults.extend(found.map(|fault| format!("operation {number} ({id}): {fault}")));
    }
    faults
}

/// Every operation has its statuses.
fn statuses(world: &World) -> Vec<String> {
    allow_for_faults(world);
    let asked = world.asked();
    let late = world.late().clone();
    world.broker.with(|broker, _| {
        let taken = |connection| world.network.taken(connection);
        let log = judge::applied(broker.platform().log());
        let judge = |unseen: &BTreeMap<usize, usize>| {
            let case = Case {
                gateway: crate::broker::GATEWAY,
                asked: &asked,
                record: &broker.seen(taken, unseen),
                log: &log,
                operations: broker.platform().operations(),
                complaints: broker.platform().errors(),
                with_ids: world.schedule.settings.ids != Ids::None,
                late: &late,
            };
            case.judge().faults
        };
        let first = judge(&BTreeMap::new());
        if first.is_empty() {
            return first;
        }
        // What adit read last before a connection ended, it need not have looked at. Of many connections
        // not every combination can be tried: what explains most comes first.
        let (mut doubt, mut fewest) = (BTreeMap::new(), first.len());
        loop {
            let others = broker.doubts_beside(&doubt, taken).into_iter();
            let best = others
                .map(|other| (judge(&other).len(), other))
                .min_by_key(|(faults, _)| *faults);
            match best {
                Some((0, _)) => return Vec::new(),
                Some((faults, other)) if faults < fewest => (fewest, doubt) = (faults, other),
                _ => break,
            }
        }
        for doubt in broker.doubts(taken) {
            if judge(&doubt).is_empty() {
                return Vec::new();
            }
        }
        first
    })
}

/// Where a fault struck on the way, a failure may tell of the way.
fn allow_for_faults(world: &World) {
    let struck = world.network.faults().struck();
    let is_struck = |zone: &str| struck.iter().any(|strike| strike.0.starts_with(zone));
    let names = is_struck("names: ");
    let lan = is_struck("lan: ") || names;
    let cloud = is_struck("cloud: ") || is_struck("uplink: ") || names;
    let settings = &world.schedule.settings;
    let on_the_way = ["broker: ", "uplink: ", "names: "];
    // One token that is revoked is no harm: whoever shows it gets another.
    let token_faults = |strike: &&Strike| strike.0.starts_with("token: ");
    let mut token_faults = struck.iter().filter(token_faults);
    let is_harmful = match token_faults.next() {
        Some(Strike(name, _)) => *name != REVOKED || token_faults.next().is_some(),
        None => false,
    };
    let mut deeds = world.schedule.deeds.iter();
    let is_rubbish = |(_, deed): &(Duration, Deed)| matches!(deed, Deed::Say("s/dat", _));
    let is_bad = is_harmful && !settings.has_password;
    let is_revoked = is_struck(REVOKED) && !settings.has_password;
    let is_late = !settings.has_password
        && (on_the_way.into_iter().any(is_struck)
            || world.network.was_slow(Zone::Broker)
            || deeds.any(is_rubbish));
    let played = world.played();
    for asked in world.asked().iter_mut() {
        let Some(played) = played.iter().find(|played| played.id == Some(asked.id)) else {
            continue;
        };
        let order = &played.order;
        let connection = note(&played.cloud, |notes| notes.connection);
        let is_slow = match connection {
            // Whoever comes twice may be slow the second time, whether or not that request has come through.
            Some(id) => {
                let is_second = note(&played.cloud, |notes| notes.visits > 1)
                    || !settings.has_password && refuses_first(order);
                world.network.fate(id) != Fate::Untouched
                    || is_second && world.network.was_slow(Zone::Cloud)
            }
            // The request has not come through.
            None => world.network.was_slow(Zone::Cloud),
        };
        if let Wish::Tunnel(..) = order.wish {
            let reason = |words: String| Expected::Reason(vec![words]);
            let cloud = cloud || is_slow;
            asked.expected.extend(lan.then(|| reason(order.host())));
            let host = settings.cloud_host();
            asked.expected.extend(cloud.then(|| reason(host)));
            let none = (is_bad || is_late).then(|| reason("token".to_owned()));
            let is_refused = is_bad || is_revoked && refuses_first(order);
            let refused = is_refused.then(|| reason("HTTP 401".to_owned()));
            asked.expected.extend(none.into_iter().chain(refused));
        }
    }
}

/// Whether the first token is refused, whatever it is worth: with the second one nothing may go wrong.
fn refuses_first(order: &Order) -> bool {
    match &order.wish {
        Wish::Tunnel(_, answer) => matches!(**answer, Answer::Status(401, _)),
        _ => false,
    }
}

/// A tunnel that was asked for.
struct Tunnel<'a> {
    world: &'a World,
    played: &'a Played,
    machine: Notes,
    cloud: Notes,
    status: Option<Status>,
}

impl<'a> Tunnel<'a> {
    fn new(world: &'a World, played: &'a Played) -> Self {
        Self {
            world,
            played,
            machine: note(&played.machine, |notes| notes.clone()),
            cloud: note(&played.cloud, |notes| notes.clone()),
            status: played.id.and_then(|id| status(world, id)),
        }
    }

    fn judge(&self, faults: &mut Vec<String>) {
        let Wish::Tunnel(machine, answer) = &self.played.order.wish else {
            return;
        };
        let (m, c) = (&self.machine, &self.cloud);
        let mut deeds = self.world.schedule.deeds.iter();
        let is_restarted = deeds.any(|(_, deed)| matches!(deed, Deed::Restart { .. }));
        for (name, one, other) in [("machine", m, c), ("cloud", c, m)] {
            // A second visit, of the next adit, is another stream, whichever of the two is visited.
            let is_one_stream = one.visits <= 1 && other.visits <= 1;
            if let Some(place) = one.wrong_at.filter(|_| is_one_stream) {
                faults.push(format!("byte {place} at the {name} is not what was sent"));
            }
            if one.heard > other.said {
                faults.push(format!("the {name} heard {} of {}", one.heard, other.said));
            }
            if one.told.is_some_and(|(_, told)| told == Heard::Nonsense) {
                faults.push(format!("the {name} was sent what no client may send"));
            }
            let may_return = name == "cloud" && self.may_be_asked_twice(answer);
            if one.visits > 1 && !is_restarted && !may_return {
                faults.push(format!("the {name} had {} visits", one.visits));
            }
            // A machine whose connection is dead may wait for ever.
            let is_dead = one
                .connection
                .is_some_and(|id| self.fate(id) == Fate::Broken);
            if one.began.is_some() && one.over.is_none() && !is_dead {
                faults.push(format!("the {name} still holds its connection"));
            }
        }
        let both = m.began.is_some() && c.stands;
        if self.status == Some(Status::Successful) && self.has_ids() && !both {
            faults.push("it is SUCCESSFUL, and no tunnel stood".to_owned());
        }
        let events = events::Tunnel {
            order: &self.played.order,
            machine: m,
            cloud: c,
            is_successful: self.status == Some(Status::Successful) && self.has_ids(),
        };
        events.judge(self.world, faults);
        if let Answer::Opens(_, part, _) = &**answer {
            self.judge_stop(part, faults);
        }
        // Where statuses name no operation, the success of another may stand there.
        let limit = self.world.schedule.settings.connect_timeout;
        if let (Machine::Listens(machine), Answer::Opens(after, cloud, _)) = (machine, &**answer)
            && *after < limit
            && both
            && self.is_undisturbed()
        {
            self.judge_ends(machine, cloud, faults);
        }
    }

    /// A tunnel that adit ends because it is to stop is closed in order.
    fn judge_stop(&self, cloud: &Part, faults: &mut Vec<String>) {
        let (m, c) = (&self.machine, &self.cloud);
        let is_own = |notes: &Notes| notes.left.is_some_and(|left| left.is_own);
        let is_untouched = [m, c].iter().all(|notes| {
            let fate = notes.connection.map(|id| self.fate(id));
            fate == Some(Fate::Untouched) && notes.visits == 1
        });
        let is_asked = self.played.was_open && is_untouched && is_fast(cloud);
        if !is_asked || is_own(m) || is_own(c) {
            return;
        }
        if !matches!(c.told, Some((_, Heard::Close(1001)))) {
            faults.push(format!("the cloud was told {:?} of a stop", c.told));
        }
    }

    /// Whoever is refused with a token comes once more, with another.
    fn may_be_asked_twice(&self, answer: &Answer) -> bool {
        let has_token = !self.world.schedule.settings.has_password;
        has_token && self.cloud.visits == 2 && matches!(answer, Answer::Status(401, _))
    }

    /// Whether every status of the device named its operation. Where ids are asked for and are late, it
    /// has the limits of those without, and the next operation may get the result of this one.
    fn has_ids(&self) -> bool {
        let topic = match self.played.order.device {
            crate::broker::GATEWAY => "s/us".to_owned(),
            child => format!("s/us/{child}"),
        };
        let is_nameless = |record: &Record| {
            record.topic == topic && ["501", "502", "503"].contains(&record.row.template())
        };
        let named = |broker: &mut crate::broker::Broker, _| {
            let mut log = broker.platform().log().iter();
            !log.any(is_nameless)
        };
        self.world.schedule.settings.ids != Ids::None && self.world.broker.with(named)
    }

    fn is_undisturbed(&self) -> bool {
        let fate = |notes: &Notes| {
            notes
                .connection
                .map_or(Fate::Untouched, |id| self.world.network.fate(id))
        };
        let is_untouched = [&self.machine, &self.cloud]
            .iter()
            .all(|notes| fate(notes) == Fate::Untouched && notes.visits == 1);
        is_untouched && !self.played.is_stopped && self.carried()
    }

    fn fate(&self, id: ConnectionId) -> Fate {
        self.world.network.fate(id)
    }

    /// Whether both ends met: adit may have given up at the last moment.
    fn carried(&self) -> bool {
        self.status == Some(Status::Successful)
    }

    fn judge_ends(&self, machine: &Part, cloud: &Part, faults: &mut Vec<String>) {
        let (m, c) = (&self.machine, &self.cloud);
        let (Some(m_left), Some(c_left)) = (m.left, c.left) else {
            faults.push("one end never left".to_owned());
            return;
        };
        let is_orderly = |left: Left| matches!(left.how, End::InOrder(_) | End::Stays);
        let is_cut = |left: Left| matches!(left.how, End::Cut(_));
        // Whoever answers a ping that adit sent before it gave up meets a closed socket, and may lose what
        // it has not read.
        let keep_alive = self.world.schedule.settings.keep_alive;
        let is_pinged = keep_alive > Duration::ZERO && !is_fast(cloud);
        let first = m_left.at.min(c_left.at);
        let is_given_up = c.told.is_some_and(|(at, told)| {
            told == Heard::Reset && at.duration_since(first) >= GIVES_UP_AFTER
        });
        let cloud_takes = takes_all(cloud, m.said) && !(is_pinged && is_given_up);
        let machine_takes = takes_all(machine, c.said);
        // Silence may look like death.
        if !cloud_takes && keep_alive > Duration::ZERO {
            return;
        }
        if is_orderly(m_left) && !c_left.is_own && cloud_takes {
            if c.heard != m.said {
                faults.push(format!("the cloud heard {} of {}", c.heard, m.said));
            }
            if !matches!(c.told, Some((_, Heard::Close(1000)))) {
                faults.push(format!("the cloud was told {:?} at the end", c.told));
            }
        }
        let says_all = is_orderly(c_left) || (is_cut(c_left) && c_left.is_own);
        if says_all && is_orderly(m_left) && machine_takes && cloud_takes {
            if m.heard != c.said {
                faults.push(format!("the machine heard {} of {}", m.heard, c.said));
            }
            if !matches!(m.told, Some((_, Heard::End))) {
                faults.push(format!("the machine was told {:?} at the end", m.told));
            }
        }
        if m_left.is_own && matches!(m_left.how, End::Reset(_)) && !c_left.is_own && cloud_takes {
            // A reset before the tunnel stood is a connection that does not open.
            if !matches!(c.told, Some((_, Heard::Close(1011)))) {
                faults.push(format!("the cloud was told {:?} of a reset", c.told));
            }
        }
        if is_fast(machine) && is_fast(cloud) {
            // What ends before the tunnel stands is told when it does.
            let stood = m.began.max(c.began);
            let first = m_left.at.min(c_left.at);
            let first = stood.map_or(first, |stood| first.max(stood));
            for (name, notes) in [("machine", m), ("cloud", c)] {
                let over = notes.over.unwrap_or(first);
                if over.duration_since(first) > END_LIMIT {
                    let late = over - first;
                    faults.push(format!(
                        "the {name}'s connection ended {late:?} after the first end"
                    ));
                }
            }
        }
    }
}

/// Whether an end takes so many bytes however adit's patience is.
fn takes_all(part: &Part, bytes: u64) -> bool {
    match part.pace {
        Pace::Fast => true,
        Pace::Pauses(_, pause) => pause < SHORT_PAUSE,
        Pace::Slow(size, pause) => {
            let reads = u32::try_from(bytes / size.max(1) as u64).unwrap_or(u32::MAX);
            pause.saturating_mul(reads) < DRAIN_TIME
        }
    }
}

fn is_fast(part: &Part) -> bool {
    part.pace == Pace::Fast
}

fn status(world: &World, id: OperationId) -> Option<Status> {
    let operation = |broker: &mut crate::broker::Broker, _| {
        broker
            .platform()
            .operation(id)
            .map(simulated_cloud::Operation::status)
    };
    world.broker.with(operation)
}

/// Returns the operations that are not over.
pub(crate) fn unfinished(world: &World) -> Vec<OperationId> {
    world.broker.with(|broker, _| {
        let operations = broker.platform().operations().iter();
        let open = operations.filter(|operation| !is_end(operation.status()));
        open.map(|operation| operation.id).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use judge::{Asked, BY_ADIT, Expected, Seen, Way, What};
    use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS};
    use simulated_cloud::Platform;

    use super::*;

    fn publish(packet_id: u16, topic: &str, row: &str) -> Packet {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, row);
        publish.pkid = packet_id;
        Packet::Publish(publish)
    }

    /// What the judge says of statuses that name no operation.
    fn faults(asked: &[Asked], record: &[Seen], platform: &Platform) -> Vec<String> {
        let case = Case {
            gateway: "gw",
            asked,
            record: &record.iter().collect::<Vec<_>>(),
            log: &judge::applied(platform.log()),
            operations: &[],
            complaints: &[],
            with_ids: false,
            late: &[],
        };
        case.judge().faults
    }

    /// What adit says of a row without a key that comes once more so long after its result.
    fn statuses_of_a_keyless_row_that_comes_again(after: Duration) -> Vec<String> {
        const STATUSES: [&str; 2] = [
            "501,c8y_RemoteAccessConnect",
            "502,c8y_RemoteAccessConnect,no key",
        ];
        let began = Instant::now();
        let mut platform = Platform::new("gw", false);
        let mut record = Vec::new();
        let mut packet_id = 0;
        let mut say = |at, way, topic: &str, row: &str| {
            packet_id += 1;
            let said = What::Packet(way, publish(packet_id, topic, row));
            record.push(Seen::new(at, 0, 0, said));
            if way == Way::Up {
                let answer = Packet::PubAck(PubAck::new(packet_id));
                record.push(Seen::new(at, 0, 0, What::Packet(Way::Down, answer)));
                platform.receive(topic, row.as_bytes(), at);
            }
        };
        say(began, Way::Up, "s/us", "500");
        for at in [began, began + after] {
            say(at, Way::Down, "s/ds", "530,gw,10.0.0.1,22");
            for status in STATUSES {
                say(at, Way::Up, "s/us", status);
            }
        }
        let asked = Asked {
            id: OperationId(1),
            device: "gw".to_owned(),
            row: "530,gw,10.0.0.1,22".to_owned(),
            expected: vec![Expected::Reason(vec!["no key".to_owned()])],
            at: began,
            life: 0,
            disturbed: false,
        };
        faults(&[asked], &record, &platform)
    }

    /// What the judge says where a result of the gateway and an EXECUTING of a child are the last that got
    /// through, and two connections more ended `how` before the adit was stopped.
    fn statuses_that_never_come(how: &'static str, is_let_in: bool) -> Vec<String> {
        let began = Instant::now();
        let (mut platform, mut record) = (Platform::new("gw", false), Vec::new());
        let mut note = |connection, what| record.push(Seen::new(began, connection, 0, what));
        let mut asked = Vec::new();
        for (number, device) in [(1, "gw"), (2, "plc")] {
            let row = format!("530,{device},10.0.0.1,22,key-{number}");
            note(0, What::Packet(Way::Down, publish(0, "s/ds", &row)));
            asked.push(Asked {
                id: OperationId(number),
                device: device.to_owned(),
                row,
                expected: vec![Expected::Success],
                at: began,
                life: 0,
                disturbed: false,
            });
        }
        let said = [
            ("s/us", "500"),
            ("s/us", "501,c8y_RemoteAccessConnect"),
            ("s/us/plc", "501,c8y_RemoteAccessConnect"),
            ("s/us", "503,c8y_RemoteAccessConnect"),
        ];
        for (packet_id, (topic, row)) in (1..).zip(said) {
            note(0, What::Packet(Way::Up, publish(packet_id, topic, row)));
            if packet_id < 4 {
                let answer = Packet::PubAck(PubAck::new(packet_id));
                note(0, What::Packet(Way::Down, answer));
                platform.receive(topic, row.as_bytes(), began);
            }
        }
        note(0, What::Ended(how));
        for connection in [1, 2] {
            if is_let_in {
                let answer = ConnAck::new(ConnectReturnCode::Success, false);
                note(connection, What::Packet(Way::Down, Packet::ConnAck(answer)));
            }
            note(connection, What::Ended(how));
        }
        faults(&asked, &record, &platform)
    }

    #[test]
    fn takes_a_status_for_set_aside_only_where_three_connections_may_have_ended_at_it() {
        let of_child = "adit was shown [2] of plc and says no more";
        assert_eq!(statuses_that_never_come("by the broker", true), [of_child]);
        for (how, is_let_in) in [(BY_ADIT, true), ("by the broker", false)] {
            let faults = statuses_that_never_come(how, is_let_in);
            assert!(faults[0].contains("is not what comes next"), "{faults:?}");
            assert!(faults.contains(&of_child.to_owned()), "{faults:?}");
        }
    }

    #[test]
    fn grants_a_second_answer_to_a_row_without_a_key_when_adit_has_forgotten_it() {
        let faults = statuses_of_a_keyless_row_that_comes_again;
        assert_eq!(faults(Duration::from_secs(60)), [""; 0]);
        assert_ne!(faults(Duration::from_secs(59)), [""; 0]);
    }
}
