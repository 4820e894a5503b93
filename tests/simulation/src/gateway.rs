//! The gateway: adit as a release builds it, but for the network below it.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit::assembly;
use adit::config::{Config, Sources};
use adit::confinement::Sandbox;
use adit::net::tcp::simulated::{self, Answer, Connection, Installed};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::network::{Network, Process, Socket};
use crate::note;

/// Adit ends within this time, whatever hangs: the drains and the outbox have their limits.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Adit in this network, in one run after the other.
pub(crate) struct Gateway {
    network: Network,
    config: Arc<Config>,
    runs: u32,
    running: Option<Running>,
    /// Stays until the next run begins: the tasks of a killed one are not gone at once.
    installed: Option<Installed>,
    /// What was found wrong at the end of a run.
    faults: Vec<String>,
}

struct Running {
    process: Process,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Gateway {
    /// Makes one that does not run yet. A setting is written as for `--set`,
    /// as `device.id=gateway-7`.
    ///
    /// # Panics
    /// Adit refuses the settings.
    pub(crate) fn new(network: &Network, settings: &[&str]) -> Self {
        let sources = Sources {
            file: None,
            settings: Vec::new(),
            // Nobody looks at a gateway that lives in another time.
            environment: settings
                .iter()
                .chain(&["admin.socket=none"])
                .filter_map(|setting| variable(setting))
                .collect(),
            host_name: None,
            now: std::time::SystemTime::UNIX_EPOCH,
            read: &|_| Err(io::ErrorKind::NotFound.into()),
        };
        let config = match Config::load(&sources) {
            Ok(config) => Arc::new(config),
            Err(faults) => panic!("{faults}"),
        };
        Self {
            network: network.clone(),
            config,
            runs: 0,
            running: None,
            installed: None,
            faults: Vec::new(),
        }
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Process {
        let process = Process(self.runs);
        self.runs += 1;
        note!(
            self.network.trace(),
            "gateway",
            "adit starts, run {}",
            process.0
        );
        let kernel = Kernel {
            network: self.network.clone(),
            process,
        };
        self.installed = None;
        self.installed = Some(simulated::install(Arc::new(kernel)));
        let stop = CancellationToken::new();
        let (config, stopped) = (Arc::clone(&self.config), stop.clone());
        self.running = Some(Running {
            process,
            stop,
            task: tokio::spawn(async move {
                assembly::agent(&config, None, Sandbox::Off, stopped).await
            }),
        });
        process
    }

    /// Ends it at once, and all that it held.
    pub(crate) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            note!(self.network.trace(), "gateway", "adit is killed");
            self.network.kill(running.process);
            running.task.abort();
        }
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        note!(self.network.trace(), "gateway", "adit is to stop");
        let began = Instant::now();
        running.stop.cancel();
        match timeout(END_LIMIT, &mut running.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => self.faults.push(format!("adit gave up: {error:#}")),
            Ok(Err(error)) => self.faults.push(format!("adit crashed: {error}")),
            Err(_) => {
                self.faults
                    .push(format!("adit did not end within {END_LIMIT:?}"));
                self.network.kill(running.process);
                running.task.abort();
            }
        }
        note!(
            self.network.trace(),
            "gateway",
            "adit has stopped after {:?}",
            began.elapsed()
        );
        self.faults.extend(self.network.held_by(running.process));
    }

    /// Returns what was found wrong with its ends.
    pub(crate) fn take_faults(&mut self) -> Vec<String> {
        if let Some(running) = &self.running
            && running.task.is_finished()
        {
            self.faults.push("adit ended by itself".to_owned());
        }
        std::mem::take(&mut self.faults)
    }
}

/// Secrets may be in no other place.
fn variable(setting: &str) -> Option<(OsString, OsString)> {
    let (key, value) = setting.split_once('=')?;
    let name = format!("ADIT_{}", key.replace('.', "_").to_uppercase());
    Some((name.into(), value.into()))
}

/// The network as the kernel of the gateway shows it to one run of adit.
struct Kernel {
    network: Network,
    process: Process,
}

impl simulated::Network for Kernel {
    fn connect(&self, address: SocketAddr) -> Answer<Box<dyn Connection>> {
        let (network, process) = (self.network.clone(), self.process);
        Box::pin(async move {
            let socket = network.connect(process, address).await?;
            Ok(Box::new(socket) as Box<dyn Connection>)
        })
    }

    fn resolve(&self, name: &str) -> Answer<Vec<IpAddr>> {
        let (network, name) = (self.network.clone(), name.to_owned());
        Box::pin(async move { network.resolve(&name).await })
    }
}

impl adit::net::Socket for Socket {
    fn held(&self, _: Instant) -> u64 {
        self.held()
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        self.read_now(room)
    }

    fn reset_when_closed(&self) -> io::Result<()> {
        self.reset_when_closed();
        Ok(())
    }
}

impl Connection for Socket {
    fn local_addr(&self) -> SocketAddr {
        self.local_addr()
    }

    fn peer_addr(&self) -> SocketAddr {
        self.peer_addr()
    }
}
