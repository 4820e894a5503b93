//! All parties of a schedule, and what is done with them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use simulated_cloud::OperationId;
use smartrest::encode;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::broker::{self, Broker};
use crate::cloud::{Answer, Cloud, Place};
use crate::gateway::Gateway;
use crate::judge::Asked;
use crate::lan;
use crate::network::{self, Fate, Network, Process};
use crate::places;
use crate::schedule::{Deed, Ids, LISTED_CHILD, Machine, Order, Schedule, UNLISTED_CHILD, Wish};
use crate::side::{self, Notes, Stream};

/// How long the broker has been back when no result may be missing.
pub(crate) const SETTLED: Duration = Duration::from_secs(120);
/// How long the ends of tunnels may take after the farewell: some kilobytes in frames of two bytes, through
/// the smallest buffers over the longest way, take hours.
const ENDS: Duration = Duration::from_secs(6 * 60 * 60);
/// How long after its row a copy of it may come.
const COPY_AGE: Duration = Duration::from_secs(3);
/// The header of whoever has the password: `t1/device_gw:hunter2`.
const PASSWORD: &str = "Basic dDEvZGV2aWNlX2d3Omh1bnRlcjI=";
/// How long a name server takes.
const LOOKUP: Duration = Duration::from_millis(5);
/// How often is looked whether they have ended.
const LOOK: Duration = Duration::from_secs(1);

fn name_of(network: &Network, name: &str, address: SocketAddr) {
    network.name(name, network::Answer::Addresses(vec![address.ip()], LOOKUP));
}

/// What is known of an operation.
pub(crate) struct Played {
    pub(crate) order: Order,
    /// `None` where the device did not exist yet.
    pub(crate) id: Option<OperationId>,
    pub(crate) machine: side::Shared,
    pub(crate) cloud: side::Shared,
    /// Adit ended in some way while its tunnel may have been open or opening.
    pub(crate) is_stopped: bool,
    /// Adit was asked to stop when both ends stood and none had left.
    pub(crate) was_open: bool,
}

/// Plays the schedule of a network, and returns what is wrong.
pub(crate) async fn play(network: &Network) -> Vec<String> {
    play_schedule(network, Schedule::draw(network.faults())).await
}

/// Plays a schedule in a network, and returns what is wrong.
pub(crate) async fn play_schedule(network: &Network, schedule: Schedule) -> Vec<String> {
    crate::note!(network.trace(), "schedule", "{schedule}");
    let settings = schedule.settings.for_adit();
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let mut gateway = Gateway::new(network, &settings);
    World::new(network.clone(), schedule)
        .play(&mut gateway)
        .await
}

/// A world. Clones are the same.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) broker: broker::Shared,
    cloud: Cloud,
    farewell: CancellationToken,
    life: Arc<AtomicUsize>,
    played: Arc<Mutex<Vec<Played>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Operations that were not over when all had to be.
    late: Arc<Mutex<Vec<OperationId>>>,
    /// What was found wrong on the way.
    faults: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// Puts everybody into their places.
    pub(crate) fn new(network: Network, schedule: Schedule) -> Self {
        let farewell = CancellationToken::new();
        let mut broker = Broker::new(network.faults().clone());
        if schedule.settings.ids == Ids::Notifications {
            broker.notify();
        }
        broker.create_device(UNLISTED_CHILD);
        for (name, address) in [
            (places::BROKER_NAME, places::BROKER),
            (places::CLOUD_NAME, places::CLOUD),
        ] {
            name_of(&network, name, address);
        }
        let broker = broker::Shared::new(broker);
        let (has_password, platform) = (schedule.settings.has_password, broker.clone());
        let is_authorized = move |header: &str| match header.strip_prefix("Bearer ") {
            Some(token) => platform.with(|broker, _| broker.takes_token(token)),
            None => has_password && header == PASSWORD,
        };
        let world = Self {
            cloud: Cloud::new(network.clone(), farewell.clone(), is_authorized),
            schedule: Arc::new(schedule),
            broker,
            farewell,
            life: Arc::default(),
            played: Arc::default(),
            asked: Arc::default(),
            late: Arc::default(),
            faults: Arc::default(),
            network,
        };
        let life = Arc::clone(&world.life);
        let life = move || life.load(Ordering::Relaxed);
        let (network, broker) = (world.network.clone(), world.broker.clone());
        let over_websocket = world.schedule.settings.over_websocket;
        let serving = broker::serve(network, broker, life, over_websocket);
        world.network.spawn(serving);
        world.network.spawn(world.cloud.clone().serve());
        world
    }

    /// Plays the schedule, and returns what is wrong.
    pub(crate) async fn play(&self, gateway: &mut Gateway) -> Vec<String> {
        let mut process = gateway.start();
        for (wait, deed) in self.schedule.deeds.clone() {
            sleep(wait).await;
            match deed {
                Deed::Order(number) => self.order(&self.schedule.orders[number]),
                Deed::Repeat(number) => self.repeat(number),
                Deed::Say(topic, rows) => {
                    self.broker.with(|broker, now| broker.say(topic, rows, now))
                }
                Deed::Stall(zone, time) => self.network.stall(zone, time),
                Deed::ThrowOut => self.broker.with(Broker::throw_out),
                Deed::LosePubAck => self.broker.with(|broker, _| broker.lose_puback()),
                Deed::Restart { kill, after } => {
                    self.disturb();
                    if !kill {
                        self.note_open();
                    }
                    match kill {
                        true => gateway.kill(),
                        false => gateway.stop().await,
                    }
                    self.disturb();
                    sleep(after).await;
                    // Others can have come meanwhile, and they are not disturbed by this.
                    self.life.fetch_add(1, Ordering::Relaxed);
                    process = gateway.start();
                }
            }
        }
        self.settle().await;
        self.part(process).await;
        // A slow way takes its time for the last events.
        sleep(SETTLED).await;
        gateway.stop().await;
        let mut faults = std::mem::take(&mut *self.faults());
        faults.extend(gateway.take_faults());
        faults.extend(crate::verdict::judge(self));
        faults
    }

    fn order(&self, order: &Order) {
        let number = order.number;
        let (machine, cloud) = (side::Shared::default(), side::Shared::default());
        if let Some(name) = &order.name {
            name_of(&self.network, name, places::machine(number));
        }
        if let Wish::Tunnel(wanted, answer) = &order.wish {
            let mut echoes = false;
            match wanted {
                Machine::Listens(part) => {
                    echoes = part.echoes;
                    let machine = machine.clone();
                    let farewell = self.farewell.clone();
                    let network = self.network.clone();
                    self.network.spawn(lan::serve(
                        network,
                        number,
                        part.clone(),
                        machine,
                        farewell,
                    ));
                }
                Machine::Silent => self.network.swallow(places::machine(number).ip(), true),
                Machine::Refuses => {}
            }
            let hears = match echoes {
                true => Stream::down(number),
                false => Stream::up(number),
            };
            let place = Place {
                answer: *answer.clone(),
                hears,
                notes: cloud.clone(),
            };
            self.cloud.expect(&order.key(), number, place);
        }
        let row = order.row();
        let life = self.life.load(Ordering::Relaxed);
        crate::note!(
            self.network.trace(),
            "operator",
            "operation {number}: {}",
            encode([&row])
        );
        let (id, at) = self
            .broker
            .with(|broker, now| (broker.create_operation(order.device, row.clone(), now), now));
        if let Some(id) = id {
            self.asked().push(Asked {
                id,
                device: order.device.to_owned(),
                row: encode([&row]),
                expected: order.expected(&self.schedule.settings),
                at,
                life,
                disturbed: false,
            });
        }
        self.played().push(Played {
            order: order.clone(),
            id,
            machine,
            cloud,
            is_stopped: false,
            was_open: false,
        });
    }

    /// A copy is never much younger than what it copies.
    fn repeat(&self, number: usize) {
        let id = self.played().get(number).and_then(|played| played.id);
        let life = self.life.load(Ordering::Relaxed);
        let now = Instant::now().into_std();
        let is_recent = |asked: &Asked| asked.life == life && now - asked.at < COPY_AGE;
        let asked = self.asked();
        if let Some(asked) = asked.iter().find(|asked| Some(asked.id) == id)
            && is_recent(asked)
        {
            self.broker
                .with(|broker, now| broker.redeliver(asked.id, now));
        }
    }

    /// Takes note of what is not over when adit ends. Where a status without an id fell on another operation of
    /// the device, it is another one that the platform shows as open than adit has.
    fn disturb(&self) {
        let open = crate::verdict::unfinished(self);
        let mut all = self.asked();
        let open_now = all.iter().filter(|asked| open.contains(&asked.id));
        let devices: BTreeSet<_> = open_now.map(|asked| asked.device.clone()).collect();
        let has_ids = self.schedule.settings.ids != Ids::None;
        for asked in all.iter_mut() {
            asked.disturbed |= match has_ids {
                true => open.contains(&asked.id),
                false => devices.contains(&asked.device),
            };
        }
        drop(all);
        for played in self.played().iter_mut() {
            played.is_stopped |= side::note(&played.cloud, |notes| notes.over.is_none())
                || side::note(&played.machine, |notes| notes.over.is_none());
        }
    }

    /// Takes note of the tunnels that adit has to end when it is asked to stop: it has read that they
    /// are open.
    fn note_open(&self) {
        let has_read = |notes: &Notes| {
            let taken = notes.connection.map_or(0, |id| self.network.taken(id));
            notes.stands && taken >= notes.opening
        };
        for played in self.played().iter_mut() {
            let machine = side::note(&played.machine, |n| n.began.is_some() && n.left.is_none());
            let cloud = side::note(&played.cloud, |n| has_read(n) && n.left.is_none());
            played.was_open = machine && cloud;
        }
    }

    /// Lets all faults be over, and waits until no result may be missing.
    async fn settle(&self) {
        let faults = self.network.faults();
        sleep_until(faults.end()).await;
        faults.stop();
        let connections = self.broker.with(|broker, _| broker.connections());
        // A child that nobody has named is cleared with the next word about it.
        let last = self.schedule.orders.len();
        for (number, device) in (last..).zip([crate::broker::GATEWAY, LISTED_CHILD, UNLISTED_CHILD])
        {
            self.order(&Order {
                number,
                device,
                wish: Wish::Tunnel(Machine::Refuses, Box::new(Answer::Silence)),
                name: None,
            });
        }
        sleep(SETTLED).await;
        // A broker that had struck one of these with silence, or has just swallowed another, is not back for adit
        // before it has tried again.
        if let Some(back) = self.broker.with(|broker, _| broker.back_since(connections)) {
            sleep_until(Instant::from_std(back) + SETTLED).await;
        }
        *self.late() = crate::verdict::unfinished(self);
    }

    /// Ends all tunnels, and waits until they have.
    async fn part(&self, process: Process) {
        self.farewell.cancel();
        let until = Instant::now() + ENDS;
        // What is left is the connection to the broker.
        while self.network.held_by(process).len() > 1 && Instant::now() < until {
            sleep(LOOK).await;
        }
        let held = self.network.held_by(process);
        if held.len() > 1 {
            self.faults().extend(held);
        }
        // Whoever reads slowly has not come to the end yet that adit has sent.
        while self.is_anybody_reading() && Instant::now() < until {
            sleep(LOOK).await;
        }
    }

    /// Whether an end of a tunnel holds a connection on which word of the end can still come.
    fn is_anybody_reading(&self) -> bool {
        let reads = |notes: &Notes| {
            let fate = notes.connection.map(|id| self.network.fate(id));
            notes.began.is_some() && notes.over.is_none() && fate != Some(Fate::Broken)
        };
        let played = self.played();
        let mut ends = played.iter().flat_map(|p| [&p.machine, &p.cloud]);
        ends.any(|end| side::note(end, |notes| reads(notes)))
    }

    /// Everything asked, in order.
    pub(crate) fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything played, in order.
    pub(crate) fn played(&self) -> MutexGuard<'_, Vec<Played>> {
        self.played.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came too late.
    pub(crate) fn late(&self) -> MutexGuard<'_, Vec<OperationId>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Vec<String>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
