//! A gateway with its broker, its platform, and the fault machine in front of both: it plays one
//! schedule after another.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::{Packet, Publish};
use simulated_cloud::{Cloud, Complaint, Operation, Options, Platform, Record};
use tokio::time::sleep;

use crate::agent::{Agent, Figures, Log};
use crate::broker::Broker;
use crate::gate::{Behind, Gate};
use crate::judge::{Seen, Way, What};
use crate::plan::{Kind, Plan, Whose};
use crate::recorder::Recorder;
use crate::support::{Authority, Directory, Flaw, LIMIT, Port};

/// Of adit, for either side of a tunnel.
pub(crate) const CONNECT_TIMEOUT: &str = "4s";
/// Nothing is said any more when nothing was for this long.
const QUIET: Duration = Duration::from_millis(200);
/// Adit waits a second before it says again what was not acknowledged on another connection.
const QUIET_AFTER_A_BREAK: Duration = Duration::from_millis(1500);
/// The longest that adit waits before it tries the broker again, and some time for the login.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// A gateway and all that belongs to it.
pub(crate) struct Lane {
    pub(crate) kind: Kind,
    gateway: String,
    child: String,
    config: PathBuf,
    pub(crate) log: Log,
    pub(crate) broker: Broker,
    pub(crate) cloud: Cloud,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) broker_gate: Gate,
    pub(crate) cloud_gate: Gate,
    pub(crate) refusing: Port,
    pub(crate) agent: Option<Agent>,
    /// The log of the adit of now begins here.
    has_begun: bool,
    /// What the first idle adit held.
    pub(crate) before: Option<Figures>,
    pub(crate) operations: usize,
    slice: Slice,
    _directory: Directory,
}

/// Where in what the platform keeps a schedule begins.
#[derive(Default)]
struct Slice {
    log: usize,
    operations: usize,
    complaints: usize,
    /// How many rows stand in the log that are older than the schedule.
    opening: Vec<Record>,
}

impl Lane {
    pub(crate) async fn new(number: usize, kind: Kind) -> Self {
        let directory = Directory::new();
        let authority = Authority::new(&directory);
        let issue = |name| authority.server(&directory, name, Ipv4Addr::LOCALHOST, Flaw::None);
        let gateway = format!("soak-{}-{number}", std::process::id());
        let child = format!("{gateway}-plc");
        let mut options = Options::new(&gateway, 0);
        let mut broker = Broker::start().await;
        options.broker.port = broker.port();
        options.tls = kind.tls.then(|| issue("the platform").server);
        let device_login = options.device_login.clone();
        let cloud = Cloud::start(options).await.unwrap();
        cloud.create_device(&child, "a machine", "machine");
        broker.remember_sessions().await;
        let tls = kind.tls.then(|| issue("the broker").server);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, broker.port()));
        let recorder = Arc::new(Recorder::new(address, tls));
        let behind = Behind::Broker(Arc::clone(&recorder));
        let broker_gate = Gate::start("broker", behind, &[]);
        let cloud_gate = Gate::start("cloud", Behind::Tcp(cloud.address()), &[]);
        let (mqtt, http, ca) = match kind.tls {
            true => (
                "mqtts",
                "https",
                format!("ca_file = {:?}\n", authority.file),
            ),
            false => ("mqtt", "http", String::new()),
        };
        let config = directory.write(
            "adit.toml",
            &format!(
                "[device]\nid = {gateway:?}\nchildren = [{child:?}]\n\
                 [cloud]\nurl = \"{http}://127.0.0.1:{}\"\n{ca}\
                 [mqtt]\nurl = \"{mqtt}://127.0.0.1:{}\"\nkeep_alive = \"4s\"\n\
                 [auth]\ntenant = {:?}\nusername = {:?}\npassword = {:?}\n\
                 [remote_access]\nconnect_timeout = {CONNECT_TIMEOUT:?}\n\
                 keep_alive = \"3s\"\noperation_ids = {}\n\
                 [admin]\nsocket = {:?}\n",
                cloud_gate.port,
                broker_gate.port,
                device_login.tenant,
                device_login.user,
                device_login.password,
                kind.with_ids,
                directory.path("adit.sock"),
            ),
        );
        Self {
            kind,
            gateway,
            child,
            config,
            log: Log::new(&directory),
            broker,
            cloud,
            recorder,
            broker_gate,
            cloud_gate,
            refusing: Port::reserve(),
            agent: None,
            has_begun: false,
            before: None,
            operations: 0,
            slice: Slice::default(),
            _directory: directory,
        }
    }

    pub(crate) fn device(&self, whose: Whose) -> &str {
        match whose {
            Whose::Gateway => &self.gateway,
            Whose::Child => &self.child,
        }
    }

    pub(crate) fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Starts another adit in the place of one that has ended.
    pub(crate) fn start_agent(&mut self) {
        self.recorder.next_life();
        self.has_begun = false;
        self.agent = Some(Agent::start(&self.config, &self.log));
    }

    /// What adit holds now, but for its memory, once it has begun.
    pub(crate) fn figures_of_now(&mut self) -> Option<Figures> {
        self.has_begun = self.has_begun || self.log.has_begun();
        let agent = self.agent.as_ref().filter(|_| self.has_begun);
        agent.map(Agent::light_figures)
    }

    /// Waits until a schedule can begin, and forgets what was before.
    ///
    /// # Errors
    /// What does not become ready.
    pub(crate) async fn begin(&mut self, plan: &Plan) -> Result<(), String> {
        self.log.clear();
        self.broker.thaws().await;
        self.broker_gate.opens().await;
        self.cloud_gate.opens().await;
        self.broker_gate.begin(&plan.broker);
        self.cloud_gate.begin(&plan.cloud);
        if self.agent.is_none() {
            self.forget().await;
            self.start_agent();
        }
        let life = self.recorder.life();
        let is_ready = |record: &[Seen]| opening(record, life).map(drop);
        tokio::select! {
            ready = self.recorder.wait_until(READY_LIMIT, is_ready) => {
                ready.ok_or("adit does not become ready")?;
            }
            () = ended(&mut self.agent) => return Err("adit has ended by itself".to_owned()),
        }
        if self.kind.lasts {
            self.forget().await;
        }
        if self.before.is_none() {
            self.before = Some(self.settled().await);
        }
        Ok(())
    }

    /// Waits until nobody says anything, and cuts the records. What has made the connection that
    /// stands ready for operations is kept.
    async fn forget(&mut self) {
        self.quiet(LIMIT).await;
        let life = self.recorder.life();
        let opening = self.recorder.look(|record| {
            let opening = opening(record, life).unwrap_or_default();
            *record = opening.clone();
            opening
        });
        let asked = opening.iter().any(|seen| is_question(&seen.what));
        let opening = |platform: &Platform| {
            let mut log = platform.log().iter().rev();
            let question = log.find(|record| record.row.template() == "500");
            question.filter(|_| asked).cloned()
        };
        self.slice = self.look(|platform| Slice {
            log: platform.log().len(),
            operations: platform.operations().len(),
            complaints: platform.errors().len(),
            opening: opening(platform).into_iter().collect(),
        });
    }

    /// Waits until the record and the platform's log have stood still for a while; where adit runs
    /// it is connected then, and has the acknowledgement of all that it said.
    pub(crate) async fn quiet(&self, limit: Duration) {
        const STEP: Duration = Duration::from_millis(20);
        let life = self.recorder.life();
        let look = || {
            let log = self.look(|platform| platform.log().len());
            self.recorder.look(|record| {
                let is_open = is_unacknowledged(record)
                    || self.agent.is_some() && opening(record, life).is_none();
                let connections = record.iter().map(|seen| seen.connection);
                let is_one = connections.clone().min() == connections.max();
                let quiet = if is_one { QUIET } else { QUIET_AFTER_A_BREAK };
                (log, record.len(), is_open, quiet)
            })
        };
        let (mut last, mut same, mut waited) = (look(), Duration::ZERO, Duration::ZERO);
        while (same < last.3 || last.2) && waited < limit {
            sleep(STEP).await;
            waited += STEP;
            let now = look();
            same = if now == last {
                same + STEP
            } else {
                Duration::ZERO
            };
            last = now;
        }
    }

    /// Whether the connection to the broker stands, and nothing but pings has passed for so long, at
    /// least since then.
    pub(crate) fn is_still(&self, since: Instant, time: Duration) -> bool {
        self.recorder.look(|record| {
            let is_ping =
                |what: &What| matches!(what, What::Packet(_, Packet::PingReq | Packet::PingResp));
            let last = record.iter().rev().find(|seen| !is_ping(&seen.what));
            last.is_some_and(|last| {
                !matches!(last.what, What::Ended(_)) && last.at.max(since).elapsed() > time
            })
        })
    }

    /// What adit holds once that stays the same.
    async fn settled(&self) -> Figures {
        const SAME: u32 = 10;
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let agent = self.agent.as_ref().unwrap();
        let (mut figures, mut same) = (agent.light_figures(), 0);
        while same < SAME {
            sleep(LOOK_AGAIN).await;
            let now = agent.light_figures();
            same = if now == figures { same + 1 } else { 0 };
            figures = now;
        }
        agent.figures()
    }

    /// Looks at the platform.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Platform) -> T) -> T {
        self.cloud.look(look)
    }

    /// The platform's log since the schedule began, its operations and complaints.
    pub(crate) fn heard(&self) -> (Vec<Record>, Vec<Operation>, Vec<Complaint>) {
        let slice = &self.slice;
        self.look(|platform| {
            let log = platform.log()[slice.log..].iter();
            (
                slice.opening.iter().chain(log).cloned().collect(),
                platform.operations()[slice.operations..].to_vec(),
                platform.errors()[slice.complaints..].to_vec(),
            )
        })
    }

    /// Operations since the schedule began that `is_it` is true of.
    pub(crate) fn count(&self, is_it: impl Fn(&Operation) -> bool) -> usize {
        self.look(|platform| {
            let operations = platform.operations()[self.slice.operations..].iter();
            operations.filter(|operation| is_it(operation)).count()
        })
    }
}

async fn ended(agent: &mut Option<Agent>) {
    const LOOK_AGAIN: Duration = Duration::from_millis(100);
    while agent.as_mut().is_some_and(Agent::is_running) {
        sleep(LOOK_AGAIN).await;
    }
}

/// What made the latest connection of a life ready for operations: the question for those that are
/// pending, and its acknowledgement.
fn opening(record: &[Seen], life: usize) -> Option<Vec<Seen>> {
    let last = record.iter().map(|seen| seen.connection).max()?;
    let mut of_last = record
        .iter()
        .filter(|seen| seen.connection == last && seen.life == life);
    let question = of_last.find(|seen| is_question(&seen.what))?;
    let What::Packet(_, Packet::Publish(Publish { pkid, .. })) = &question.what else {
        return None;
    };
    let is_answer = |seen: &&Seen| matches!(&seen.what, What::Packet(Way::Down, Packet::PubAck(answer)) if answer.pkid == *pkid);
    let answer = of_last.clone().find(is_answer)?;
    let is_over = of_last.any(|seen| matches!(seen.what, What::Ended(_)));
    (!is_over).then(|| vec![question.clone(), answer.clone()])
}

fn is_question(what: &What) -> bool {
    matches!(what, What::Packet(Way::Up, Packet::Publish(publish)) if publish.payload == "500")
}

/// Whether a publish on the latest connection waits for its acknowledgement.
fn is_unacknowledged(record: &[Seen]) -> bool {
    let last = record.iter().map(|seen| seen.connection).max();
    let of_last = record
        .iter()
        .filter(|seen| Some(seen.connection) == last)
        .map(|seen| &seen.what);
    let mut open = std::collections::BTreeSet::new();
    for what in of_last {
        match what {
            What::Packet(Way::Up, Packet::Publish(publish)) if publish.pkid > 0 => {
                open.insert(publish.pkid);
            }
            What::Packet(Way::Down, Packet::PubAck(answer)) => {
                open.remove(&answer.pkid);
            }
            What::Ended(_) => open.clear(),
            What::Packet(..) => {}
        }
    }
    !open.is_empty()
}
