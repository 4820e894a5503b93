//! The demo: a tunnel from end to end, on a machine with nothing but Rust.
//!
//! An MQTT broker, the simulated platform, a device with a web page and the real agent run in this
//! process and speak to each other over loopback sockets, as they would over a network. Each
//! connection to the local port goes the whole way.

mod arguments;
mod broker;
mod device;
mod server;
mod story;
mod tls;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit::assembly;
use adit::config::{Config, Sources};
use adit::confinement::Sandbox;
use adit::files;
use anyhow::{Context, anyhow};
use clap::Parser;
use simulated_cloud::{Cloud, Login, Options, Status};
use smartrest::Target;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use arguments::Arguments;
use broker::Broker;
use device::Device;
use story::{Colour, Listener, Story};
use tls::{Authority, Front};

const GATEWAY: &str = "demo-gateway";
/// The last row of the announcement: send me what is pending.
const ASKS_FOR_OPERATIONS: &str = "500";
/// Longer than the agent tries, so that whoever waits for a tunnel that failed does not wait long.
const KEY_LIFETIME: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: &str = "5s";
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(20);
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
const SSH_PORT: u16 = 22;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let story = Arc::new(Story::new());
    let listener = Listener {
        story: Arc::clone(&story),
    };
    let agent_only = Targets::new().with_target("adit", LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(listener.with_filter(agent_only))
        .init();
    match run(&arguments, &story) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, story: &Story) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let shown = runtime.block_on(show(arguments, story));
    // A name that is still being resolved holds a thread that cannot be stopped.
    runtime.shutdown_background();
    shown
}

async fn show(arguments: &Arguments, story: &Story) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    // First, because it is what most likely fails.
    let listener = listen(arguments.listen).await?;
    let open = listener.local_addr()?;
    let authority = Authority::new().context("cannot make an authority for the demo's TLS")?;
    let mut broker = Broker::start().await?;
    let front = Front::bind(&authority.servers, broker.address)
        .await
        .context("cannot start TLS for the broker")?;
    let mut options = Options::new(GATEWAY, broker.address.port());
    options.key_lifetime = KEY_LIFETIME;
    options.tls = Some(Arc::clone(&authority.servers));
    // Here nobody shall wait for the end of a time-out to see what the terminal tells already.
    options.operators_see_failures = true;
    let cloud = tokio::select! {
        started = Cloud::start(options) => started?,
        error = broker.failed() => return Err(error),
    };
    let device = Device::bind(GATEWAY, open)
        .await
        .context("cannot start the demo device")?;
    let target = match &arguments.target {
        Some(target) => target.clone(),
        None => device.address.to_string().parse()?,
    };
    let page = free_address()
        .await
        .context("no port for the status page")?;
    let gateway = Gateway {
        cloud: &cloud,
        broker: front.address,
        authority: &authority,
        target: &target,
        page,
    };
    let config = gateway.config()?;

    story.line(
        Colour::Bold,
        "adit demo: broker, cloud, device and the real agent in one process",
    );
    let login = &cloud.options().operator_login;
    for line in [
        format!("broker   mqtts://{}", front.address),
        format!("cloud    {}, simulated", cloud.url()),
        format!("target   {target}, all that the agent may reach"),
        format!("status   http://{page}, what the agent tells of itself"),
        format!("c8ylp    {}", c8ylp(&cloud, login)),
        format!("gateway  {GATEWAY} announces itself:"),
    ] {
        story.line(Colour::Plain, &format!("  {line}"));
    }
    let opening = async {
        announced(&cloud, story).await?;
        cloud.forward(listener, GATEWAY, target.host(), target.port());
        if !open.ip().is_loopback() {
            story.line(
                Colour::Red,
                &format!("whoever reaches {open} reaches {target}"),
            );
        }
        story.line(Colour::Bold, &invitation(arguments, open));
        anyhow::Ok(())
    };
    let background = async { tokio::join!(story.watch(&cloud), device.serve(), front.serve()) };
    let performing = async {
        perform(&config, opening, &mut signals, story).await?;
        settled(&cloud).await;
        anyhow::Ok(())
    };
    let performed = tokio::select! {
        performed = performing => performed,
        error = broker.failed() => Err(error),
        _ = background => Ok(()),
    };
    cloud.shutdown().await;
    let tunnels = story.finish();
    performed?;
    story.line(Colour::Bold, &format!("done, tunnels: {tunnels}"));
    Ok(())
}

/// Runs the agent until a signal comes and it has closed what was open.
async fn perform(
    config: &Config,
    opening: impl Future<Output = anyhow::Result<()>>,
    signals: &mut Signals,
    story: &Story,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut agent = pin!(assembly::agent(config, None, Sandbox::Off, stop.clone()));
    let open = async {
        opening.await?;
        std::future::pending().await
    };
    tokio::select! {
        () = signals.next() => {}
        failed = open => return failed,
        ended = &mut agent => return ended.and(Err(anyhow!("the agent has stopped"))),
    }
    story.line(Colour::Bold, "stopping: the agent closes its tunnels");
    stop.cancel();
    tokio::select! {
        ended = &mut agent => ended,
        () = signals.next() => Err(anyhow!("stopped half-way by a second signal")),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => anyhow!(
                "{address} is taken by another program; choose another port with --listen {}:PORT \
             (0 takes a free one)",
                address.ip()
            ),
            _ => anyhow!("cannot listen at {address}: {error}"),
        })
}

/// What the agent is told of the world.
struct Gateway<'a> {
    cloud: &'a Cloud,
    broker: SocketAddr,
    authority: &'a Authority,
    target: &'a Target,
    page: SocketAddr,
}

impl Gateway<'_> {
    /// Configures the agent as its engineer would, with variables.
    fn config(&self) -> anyhow::Result<Config> {
        let login = &self.cloud.options().device_login;
        let variables = [
            ("ADIT_DEVICE_ID", GATEWAY.to_owned()),
            ("ADIT_DEVICE_NAME", "Demo gateway".to_owned()),
            ("ADIT_CLOUD_URL", self.cloud.url()),
            (
                "ADIT_CLOUD_CA_FILE",
                self.authority.file.display().to_string(),
            ),
            // Whatever leads this machine to the internet leads to none of this.
            ("ADIT_CLOUD_PROXY", "none".to_owned()),
            ("ADIT_MQTT_URL", format!("mqtts://{}", self.broker)),
            ("ADIT_AUTH_TENANT", login.tenant.clone()),
            ("ADIT_AUTH_USERNAME", login.user.clone()),
            ("ADIT_AUTH_PASSWORD", login.password.clone()),
            ("ADIT_REMOTE_ACCESS_ALLOW", self.target.to_string()),
            (
                "ADIT_REMOTE_ACCESS_CONNECT_TIMEOUT",
                CONNECT_TIMEOUT.to_owned(),
            ),
            ("ADIT_ADMIN_LISTEN", self.page.to_string()),
            ("ADIT_ADMIN_SOCKET", "none".to_owned()),
        ];
        let config = Config::load(&Sources {
            file: None,
            settings: Vec::new(),
            environment: variables
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            host_name: None,
            now: SystemTime::now(),
            read: &files::read,
        });
        config.with_context(|| format!("the agent cannot be configured to reach {}", self.target))
    }
}

/// How an operator's own client comes in. It knows no authority but those of the world, hence the flag.
fn c8ylp(cloud: &Cloud, login: &Login) -> String {
    format!(
        "C8Y_PASSWORD={} c8ylp server {GATEWAY} --host {} --tenant {} --user {} --port 8531 --ignore-ssl-validate",
        login.password,
        cloud.url(),
        login.tenant,
        login.user
    )
}

/// An address that nobody listens at now: the agent binds by itself and does not say where.
async fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await?
        .local_addr()
}

/// Waits for the last row of the announcement, and tells all of it.
async fn announced(cloud: &Cloud, story: &Story) -> anyhow::Result<()> {
    let asked = cloud.wait_until(ANNOUNCE_LIMIT, |platform| {
        story.look(platform);
        let mut rows = platform.log().iter().map(|record| record.row.template());
        rows.any(|template| template == ASKS_FOR_OPERATIONS)
            .then_some(())
    });
    asked.await.context("the agent has not announced itself")
}

/// Waits for the last statuses, which are on their way from the broker to the platform. An
/// operation that came too late for the agent stays pending.
async fn settled(cloud: &Cloud) {
    let all_told = cloud.wait_until(SETTLE_LIMIT, |platform| {
        let mut operations = platform.operations().iter();
        let is_final = |status| matches!(status, Status::Successful | Status::Failed);
        operations
            .all(|operation| is_final(operation.status()))
            .then_some(())
    });
    let _ = all_told.await;
}

fn invitation(arguments: &Arguments, open: SocketAddr) -> String {
    let port = open.port();
    let what = match &arguments.target {
        None => format!("open http://{open}"),
        Some(target) if target.port() == SSH_PORT => {
            format!("open: ssh -p {port} USER@{}", open.ip())
        }
        Some(_) => format!("open {open}"),
    };
    format!("{what} (each connection is a tunnel, Ctrl-C ends the demo)")
}

/// What ends the demo: SIGINT, which is Ctrl-C, and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
