//! What happens in a schedule, faults apart: what operators ask for, how the machines and the cloud
//! behave that they ask for, and when adit is stopped. All of it follows from the seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use smartrest::Row;

use crate::broker::GATEWAY;
use crate::cloud::{Answer, Style};
use crate::faults::Faults;
use crate::judge::Expected;
use crate::network::Zone;
use crate::places;
use crate::side::{End, Pace, Part, Piece};

/// A child that the configuration names.
pub(crate) const LISTED_CHILD: &str = "plc";
/// A child that it does not name.
pub(crate) const UNLISTED_CHILD: &str = "cam";
/// One schedule in so many is large.
const LARGE: u64 = 25;
/// A machine or a cloud that is only late is at least so much earlier than the limit, for what the
/// way there takes; or so much later.
const MARGIN: Duration = Duration::from_secs(4);

/// How adit is configured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) ids: Ids,
    /// Tunnels show a token where there is none.
    pub(crate) has_password: bool,
    /// Everybody has a name.
    pub(crate) has_names: bool,
    pub(crate) max_tunnels: usize,
    pub(crate) connect_timeout: Duration,
    /// Of tunnels.
    pub(crate) keep_alive: Duration,
    /// Of the connection to the broker.
    pub(crate) mqtt_keep_alive: Duration,
    /// MQTT is spoken in the messages of a WebSocket.
    pub(crate) over_websocket: bool,
    pub(crate) events: bool,
}

/// Where the ids of operations come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ids {
    None,
    Templates,
    Notifications,
    /// They are to come by notifications, and what carries those carries none.
    SilentNotifications,
}

impl Ids {
    fn for_adit(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Templates => "templates",
            Self::Notifications | Self::SilentNotifications => "notifications",
        }
    }
}

/// A schedule.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) settings: Settings,
    /// Each with the wait before it.
    pub(crate) deeds: Vec<(Duration, Deed)>,
    pub(crate) orders: Vec<Order>,
}

/// Something that is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Deed {
    /// An operation is created; its number.
    Order(usize),
    /// An operation is delivered once more.
    Repeat(usize),
    /// Rows that ask for nothing that can be answered.
    Say(&'static str, &'static [u8]),
    /// Adit is killed, or asked to stop, and started again after a while.
    Restart { kill: bool, after: Duration },
    /// Nothing comes from this zone to the gateway for so long, and then all of it at once. Not drawn.
    Stall(Zone, Duration),
    /// The broker resets every connection. Not drawn.
    ThrowOut,
    /// The broker never acknowledges the next message that it takes. Not drawn.
    LosePubAck,
}

/// What an operator asks for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) number: usize,
    pub(crate) device: &'static str,
    pub(crate) wish: Wish,
    /// Of the machine, where its address is not known.
    pub(crate) name: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Tunnel(Machine, Box<Answer>),
    Keyless,
    PortZero,
    Denied,
}

/// The machine that is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Machine {
    Listens(Part),
    Refuses,
    Silent,
}

impl Schedule {
    /// Draws one.
    pub(crate) fn draw(faults: &Faults) -> Self {
        let mut dice = faults.rng("schedule");
        let settings = Settings {
            over_websocket: faults.rng("websocket").u8(0..4) == 0,
            ..Settings::draw(&mut dice)
        };
        let count = match dice.u64(0..LARGE) {
            0 => dice.usize(10..=40),
            _ => dice.usize(1..=8),
        };
        let orders: Vec<_> = (0..count)
            .map(|number| Order::draw(number, &settings, &mut dice))
            .collect();
        let mut deeds = Vec::new();
        let is_burst = dice.u8(0..4) == 0;
        for number in 0..count {
            let wait = match is_burst || dice.u8(0..3) == 0 {
                true => dice.u64(0..20),
                false => 1 << dice.u64(0..15),
            };
            deeds.push((Duration::from_millis(wait), Deed::Order(number)));
            if dice.u8(0..6) == 0 {
                let wait = Duration::from_millis(1 << dice.u64(0..15));
                deeds.push((wait, Deed::Repeat(dice.usize(..=number))));
            }
            if dice.u8(0..12) == 0 {
                let (topic, rows) = RUBBISH[dice.usize(..RUBBISH.len())];
                deeds.push((Duration::ZERO, Deed::Say(topic, rows)));
            }
        }
        if dice.u8(0..4) == 0 {
            let kill = dice.u8(0..3) > 0;
            let after = Duration::from_millis(1 << dice.u64(0..14));
            let wait = Duration::from_millis(1 << dice.u64(0..15));
            let place = dice.usize(..=deeds.len());
            deeds.insert(place, (wait, Deed::Restart { kill, after }));
        }
        Self {
            settings,
            deeds,
            orders,
        }
    }

    /// How long it takes until all is asked for.
    pub(crate) fn time(&self) -> Duration {
        self.deeds.iter().map(|(wait, _)| *wait).sum()
    }
}

/// What no agent can do anything with.
const RUBBISH: [(&str, &[u8]); 9] = [
    ("s/ds", b""),
    ("s/ds", b"530"),
    ("s/ds", b"530,,plc,22,key"),
    ("s/ds", b"510,gw\n511,gw,reboot"),
    ("s/ds", b"\xff\xfe,\"\n\"\"\",,,"),
    ("s/ds", b"530,cam/x,10.1.0.1,22,key"),
    ("s/e", b"41,100,Device already existing"),
    ("s/dat", b"41,,MqttAuth"),
    ("s/dt", b"20"),
];

impl Settings {
    fn draw(dice: &mut Rng) -> Self {
        let seconds = |choice: &[u64], dice: &mut Rng| {
            Duration::from_secs(choice[dice.usize(..choice.len())])
        };
        Self {
            ids: [
                Ids::None,
                Ids::Templates,
                Ids::Notifications,
                Ids::SilentNotifications,
            ][dice.usize(..4)],
            has_password: dice.u8(0..3) > 0,
            has_names: dice.u8(0..4) == 0,
            max_tunnels: match dice.u8(0..10) {
                0 => dice.usize(1..4),
                _ => 64,
            },
            connect_timeout: seconds(&[15, 15, 10, 30], dice),
            keep_alive: seconds(&[20, 20, 5, 0], dice),
            mqtt_keep_alive: seconds(&[60, 60, 30, 10], dice),
            over_websocket: false,
            events: dice.u8(0..4) > 0,
        }
    }
}

impl Settings {
    /// Writes them as for `--set`.
    pub(crate) fn for_adit(&self) -> Vec<String> {
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        let broker = match self.has_names {
            true => places::BROKER_NAME.to_owned(),
            false => places::BROKER.ip().to_string(),
        };
        let scheme = match self.over_websocket {
            true => "ws",
            false => "mqtt",
        };
        let mut settings = vec![
            format!("device.id={GATEWAY}"),
            format!("device.children={LISTED_CHILD}"),
            format!(
                "cloud.url=http://{}:{}",
                self.cloud_host(),
                places::CLOUD.port()
            ),
            format!("mqtt.url={scheme}://{broker}:{}", places::BROKER.port()),
            format!("mqtt.keep_alive={}", seconds(self.mqtt_keep_alive)),
            format!("remote_access.max_tunnels={}", self.max_tunnels),
            format!(
                "remote_access.connect_timeout={}",
                seconds(self.connect_timeout)
            ),
            format!("remote_access.keep_alive={}", seconds(self.keep_alive)),
            format!("remote_access.events={}", self.events),
            format!("remote_access.operation_ids={}", self.ids.for_adit()),
        ];
        if self.has_password {
            settings.extend([
                "auth.tenant=t1".to_owned(),
                format!("auth.username=device_{GATEWAY}"),
                "auth.password=hunter2".to_owned(),
            ]);
        }
        settings
    }

    /// What adit calls the cloud.
    pub(crate) fn cloud_host(&self) -> String {
        match self.has_names {
            true => places::CLOUD_NAME.to_owned(),
            false => places::CLOUD.ip().to_string(),
        }
    }
}

impl Order {
    fn draw(number: usize, settings: &Settings, dice: &mut Rng) -> Self {
        let device = match dice.u8(0..10) {
            0..=5 => GATEWAY,
            6..=7 => LISTED_CHILD,
            _ => UNLISTED_CHILD,
        };
        let wish = match dice.u8(0..20) {
            0..=2 => Wish::Keyless,
            3 => Wish::PortZero,
            4 => Wish::Denied,
            5..=7 => Wish::Tunnel(machine(dice), Box::new(cloud(settings, dice))),
            8..=9 => Wish::Tunnel(
                Machine::Listens(part(true, dice)),
                Box::new(cloud(settings, dice)),
            ),
            10..=11 => Wish::Tunnel(machine(dice), Box::new(opens(settings, dice))),
            _ => Wish::Tunnel(
                Machine::Listens(part(true, dice)),
                Box::new(opens(settings, dice)),
            ),
        };
        let is_named = settings.has_names && matches!(wish, Wish::Tunnel(..));
        Self {
            number,
            device,
            wish,
            name: is_named.then(|| places::machine_name(number)),
        }
    }

    /// The key of the tunnel.
    pub(crate) fn key(&self) -> String {
        format!("key-{}", self.number)
    }

    /// The address or the name of the machine.
    pub(crate) fn host(&self) -> String {
        match (&self.name, &self.wish) {
            (Some(name), _) => name.clone(),
            (None, Wish::Denied) => places::forbidden(self.number).ip().to_string(),
            (None, _) => places::machine(self.number).ip().to_string(),
        }
    }

    /// The same with the port.
    pub(crate) fn target(&self) -> String {
        format!("{}:{}", self.host(), places::PORT)
    }

    /// The row by which it is delivered.
    pub(crate) fn row(&self) -> Row {
        let (host, port) = (self.host(), places::PORT.to_string());
        let row = |fields: &[&str]| Row::new([&["530", self.device], fields].concat());
        match self.wish {
            Wish::Tunnel(..) | Wish::Denied => row(&[&host, &port, &self.key()]),
            Wish::Keyless => row(&[&host, &port]),
            Wish::PortZero => row(&[&host, "0", &self.key()]),
        }
    }

    /// How it may end where no fault comes in between.
    pub(crate) fn expected(&self, settings: &Settings) -> Vec<Expected> {
        let target = self.target();
        let reason = |words: &[&str]| {
            Expected::Reason(words.iter().map(|&words| words.to_owned()).collect())
        };
        let mut expected = match &self.wish {
            Wish::Keyless => return vec![reason(&["the connection key is missing"])],
            Wish::PortZero => return vec![reason(&["port 0 is not from 1 to 65535"])],
            Wish::Denied => vec![reason(&["the policy does not allow", &target])],
            Wish::Tunnel(machine, cloud) => {
                let machine = match machine {
                    Machine::Listens(_) => None,
                    Machine::Refuses => Some(reason(&["cannot reach", &target, "refused"])),
                    Machine::Silent => Some(reason(&[&target, "did not answer within"])),
                };
                let cloud = in_the_cloud(cloud, self.number, settings).map(|words| {
                    let words: Vec<_> = words.iter().map(String::as_str).collect();
                    reason(&words)
                });
                match (machine, cloud) {
                    (None, None) => vec![Expected::Success],
                    // The first to fail is told.
                    (machine, cloud) => machine.into_iter().chain(cloud).collect(),
                }
            }
        };
        if settings.max_tunnels < MANY {
            expected.push(reason(&["tunnels"]));
        }
        expected
    }
}

/// Tunnels that are never open at the same time here.
const MANY: usize = 64;

/// What is said where the cloud does not open the WebSocket.
fn in_the_cloud(answer: &Answer, number: usize, settings: &Settings) -> Option<Vec<String>> {
    let words = |words: &[&str]| {
        let cloud = settings.cloud_host();
        let words = words.iter().map(|&words| words.to_owned());
        Some([cloud].into_iter().chain(words).collect())
    };
    let late = |after: &Duration| *after > settings.connect_timeout;
    match answer {
        Answer::Opens(after, ..) if !late(after) => None,
        Answer::Status(status, after) if !late(after) => {
            words(&[&format!("HTTP {status}"), &format!("mark {number}.")])
        }
        Answer::Opens(..) | Answer::Status(..) | Answer::Silence => {
            words(&["did not open the WebSocket within"])
        }
        Answer::Rubbish | Answer::WrongAccept => words(&["does not speak WebSocket"]),
        Answer::HangsUp | Answer::Resets => words(&[]),
    }
}

fn machine(dice: &mut Rng) -> Machine {
    match dice.u8(0..4) {
        0..=1 => Machine::Refuses,
        2 => Machine::Silent,
        _ => Machine::Listens(part(true, dice)),
    }
}

fn cloud(settings: &Settings, dice: &mut Rng) -> Answer {
    const STATUSES: [u16; 6] = [401, 403, 404, 410, 500, 502];
    match dice.u8(0..8) {
        0..=3 => Answer::Status(STATUSES[dice.usize(..STATUSES.len())], late(settings, dice)),
        4 => Answer::Silence,
        5 => [Answer::Rubbish, Answer::WrongAccept][dice.usize(..2)].clone(),
        6 => Answer::HangsUp,
        _ => Answer::Resets,
    }
}

fn opens(settings: &Settings, dice: &mut Rng) -> Answer {
    let style = Style {
        frame: 1 << dice.usize(0..17),
        is_text: dice.u8(0..6) == 0,
        fragments: dice.u8(0..4) == 0,
        pings: dice.u8(0..6) == 0,
    };
    Answer::Opens(late(settings, dice), part(false, dice), style)
}

fn late(settings: &Settings, dice: &mut Rng) -> Duration {
    match dice.u8(0..10) {
        0 => settings.connect_timeout + MARGIN,
        1..=3 => {
            let most = settings.connect_timeout.saturating_sub(MARGIN).as_millis();
            Duration::from_millis(dice.u64(0..=most.try_into().unwrap_or(0)))
        }
        _ => Duration::from_millis(dice.u64(0..50)),
    }
}

fn part(is_machine: bool, dice: &mut Rng) -> Part {
    let milliseconds = |bits: u64, dice: &mut Rng| Duration::from_millis(1 << dice.u64(0..bits));
    let most = match dice.u8(0..10) {
        0 => 17,
        1..=2 => 13,
        _ => 8,
    };
    let says = (0..dice.usize(0..5))
        .map(|_| {
            let bits = dice.u64(0..most);
            Piece {
                after: match dice.u8(0..3) {
                    0 => milliseconds(14, dice),
                    _ => Duration::ZERO,
                },
                bytes: dice.usize(0..1 << bits),
            }
        })
        .collect();
    let pace = match dice.u8(0..8) {
        0 => Pace::Slow(1 << dice.usize(6..14), milliseconds(10, dice)),
        1 => Pace::Pauses(dice.u64(0..2000), milliseconds(17, dice)),
        _ => Pace::Fast,
    };
    let after = match dice.bool() {
        true => Duration::ZERO,
        false => milliseconds(15, dice),
    };
    let end = match (dice.u8(0..12), is_machine) {
        (0..=3, _) => End::Stays,
        (4..=8, _) => End::InOrder(after),
        (9, _) | (10..=11, true) => End::Reset(after),
        (10, false) => End::Cut(after),
        (11, false) => [End::CutWithinFrame(after), End::Violation(after)][dice.usize(..2)],
        _ => End::Stays,
    };
    Part {
        says,
        pace,
        end,
        echoes: is_machine && dice.u8(0..4) == 0,
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.settings)?;
        for (wait, deed) in &self.deeds {
            write!(f, "{:>9.3} s later: ", wait.as_secs_f64())?;
            match deed {
                Deed::Order(number) => {
                    let Order { device, wish, .. } = &self.orders[*number];
                    writeln!(f, "operation {number} of {device}: {wish:?}")?;
                }
                other => writeln!(f, "{other:?}")?,
            }
        }
        Ok(())
    }
}
