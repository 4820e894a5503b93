//! The builder: makes each part of its own section of the configuration, and puts them together.
//!
//! Only this module and the command line see the whole configuration. What a part does not get
//! here it cannot depend on.

mod diagnose;
mod inspection;
mod reload;

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use smartrest::Topics;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin::{self, Insight};
use crate::agent::overview::{Facts, Told, kind};
use crate::agent::succession::Succession;
use crate::agent::{Agent, Wires};
use crate::auth::authorization::Authorization;
use crate::auth::enrolment::{self, Enrolment};
use crate::auth::invitation::Invitation;
use crate::auth::registration::{self, Registered, Unkept};
use crate::auth::renewal::{self, Renewal};
use crate::auth::settings::{Auth, Authority, Login};
use crate::auth::token::Tokens;
use crate::auth::token_service::TokenService;
use crate::check::{self, Subject};
use crate::cli::{self, Check, Tunnel};
use crate::config::Config;
use crate::confinement::{Confined, Confinement, Sandbox};
use crate::connect;
use crate::enrol;
use crate::inquiry::{self, Inquirer, Inquiries, ReloadWishes, UpgradeWishes};
use crate::limits;
use crate::logging;
use crate::mqtt::link::Account;
use crate::mqtt::session::Session;
use crate::net::identity::Identity;
use crate::net::{self, BrokerEndpoint, Endpoint, Transport};
use crate::notify::{self, Supervisor};
use crate::platform::announcement::Announcement;
use crate::platform::dialogue::Dialogue;
use crate::state::record::Record;
use crate::state::reloaded::Reloaded;
use crate::state::snapshot::{Device, RemoteAccess};
use crate::state::upgraded::Upgraded;
use crate::status;
use crate::succession::{Candidate, Inheritance, Program};
use crate::tunnel::Opener;
use crate::tunnel::manager::Tunnels;
use crate::words::failure_reason;
pub use diagnose::diagnose;
use inspection::{Current, Inspection};
use reload::Reloader;
pub use reload::{Source, why_forbidden};

/// What an agent that is a process of its own takes from outside.
pub struct Surroundings {
    /// Where a new configuration comes from.
    pub reload: Source,
    /// When, and how, the program is started again.
    pub upgrade: Upgrade,
    /// The process that is to be followed.
    pub inheritance: Option<Inheritance>,
}

/// When, and how, the program is started again.
pub struct Upgrade {
    /// Asks for it, as SIGUSR2 does.
    pub signals: mpsc::Receiver<()>,
    /// What is started.
    pub program: Option<Program>,
}

/// Runs the agent until `stop`; a gateway that nobody knows is registered first.
///
/// # Errors
/// The configuration cannot be used with TLS or MQTT, or there is no place for the credentials of a
/// registration; nothing that happens later is an error.
pub async fn agent(
    config: &Config,
    source: Option<Surroundings>,
    sandbox: Sandbox,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (source, wanted, inheritance) = match source {
        Some(source) => (
            Some(source.reload),
            Some(source.upgrade),
            source.inheritance,
        ),
        None => (None, None, None),
    };
    let built = transport(config).and_then(|transport| {
        announcement(config, &config.auth)?;
        // Nobody would serve the gateway while a person is waited for.
        if inheritance.is_some() && config.auth.is_to_be_given() {
            bail!("the new configuration has no credentials yet, which needs a restart");
        }
        Ok(transport)
    });
    let transport = built.inspect_err(|error| {
        if let Some(inheritance) = &inheritance {
            inheritance.refuse(&failure_reason(error.as_ref(), usize::MAX));
        }
    })?;
    let mut facts = facts(config, &transport);
    let supervisor = Arc::new(Supervisor::of_this_process());
    let (inquirer, mut inquiries, mut wishes, mut upgrades) = inquiry::channel();
    let candidate = candidate(config);
    let program = wanted.as_ref().and_then(|wanted| wanted.program.clone());
    let path = program.as_ref().map(Program::path);
    let places = match &inheritance {
        None => Some(admin::Places::take(&config.admin)),
        // The process before this one has them.
        Some(_) => None,
    };
    let confined = confine(config, sandbox, path);
    confined.log();
    let inspection = Inspection::new(Current {
        config: config.clone(),
        transport: transport.clone(),
        confined,
    });
    let insight = Insight {
        last_lines: logging::last_lines,
        examine: inspection.examine(),
    };
    // Whoever drops this future closes what is looked through as well.
    let mut doors = admin::Doors::new(&config.admin, inquirer.clone(), insight);
    let mut inherited = None;
    if let Some(inheritance) = inheritance {
        let predecessor = inheritance.ready(candidate.clone());
        let predecessor = predecessor.context("cannot speak with the process before this one")?;
        inherited = Some(predecessor.hand_over(&stop).await.context(
            "the process before this one goes on, and this one ends without having done anything",
        )?);
    }
    doors.open(match places {
        Some(places) => places,
        None => admin::Places::take_over(&config.admin).await,
    });
    let confirmed = CancellationToken::new();
    if inherited.is_none() {
        confirmed.cancel();
    }
    let mut besides = JoinSet::new();
    besides.spawn(tell_that_adit_lives(
        Arc::clone(&supervisor),
        confirmed.clone(),
    ));
    if let Some(wanted) = wanted {
        besides.spawn(upgrade_on_signal(wanted.signals, inquirer));
    }
    let logged_in = tokio::select! {
        logged_in = log_in_as(config, &transport, &stop) => logged_in?,
        never = answer_meanwhile(&facts, &mut inquiries, &mut wishes, &mut upgrades) => match never {},
    };
    let Some((auth, account, unkept)) = logged_in else {
        return Ok(());
    };
    facts.authentication = kind(&auth);
    let transport = transport.with_identity(auth.identity().cloned());
    facts.transport = transport.clone();
    inspection.set(&config.with_auth(auth.clone()), &transport);
    let announcement = announcement(config, &auth)?;
    let finish = CancellationToken::new();
    let (session, publisher, session_events) = Session::new(
        announcement.session_options(account),
        transport.clone().through(config.mqtt.proxy.clone()),
        finish.clone(),
    );
    let tokens = Arc::new(match token_service(config, &auth, &transport) {
        Some(service) => Tokens::default().with_service(service, config.tunnels.connect_timeout),
        None => Tokens::default(),
    });
    let (renewals, renewed) = mpsc::channel(1);
    let to_cloud = transport.clone().through(config.cloud.proxy.clone());
    let (to_cloud, way_to_cloud) = watch::channel(to_cloud);
    if let Some(source) = source {
        let reloader = Reloader {
            source,
            wishes,
            config: config.with_auth(auth.clone()),
            transport: transport.clone(),
            tokens: Arc::clone(&tokens),
            to_cloud,
            door: doors.door(),
            renewals,
            supervisor: Arc::clone(&supervisor),
            inspection,
        };
        besides.spawn(reloader.run());
    }
    let renewal = Renewal {
        renew_before: config.authority.as_ref().map(|it| it.renew_before),
        id: config.device.id.clone(),
        server: config.cloud.endpoint.clone(),
        transport: way_to_cloud,
        tokens: Arc::clone(&tokens),
        publisher: publisher.clone(),
        topic: announcement.topics.up(),
    };
    let opener = opener(
        config,
        transport,
        Authorization::new(&auth, Some(Arc::clone(&tokens))),
    );
    info!(
        version = env!("CARGO_PKG_VERSION"),
        device = config.device.id,
        broker = config.mqtt.endpoint.server.to_string(),
        cloud = config.cloud.endpoint.to_string(),
        policy = config.tunnels.policy.to_string(),
        "adit is starting"
    );
    limits::allow_files_for(config.tunnels.max_tunnels, connections(config));
    let mut dialogue = Dialogue::new(
        announcement.uplink(config.remote_access.events),
        config.remote_access.operation_ids,
        config.tunnels.max_tunnels,
        &config.tunnels.policy.to_string(),
    );
    let mut record = Record::default();
    let mut succession = Succession::new(program, candidate, doors);
    if let Some((predecessor, handover)) = inherited {
        let now = Instant::now().into_std();
        dialogue = dialogue.remembering(handover.memory, now);
        record.remember(handover.operations, now);
        publisher.standing().is_greeted = handover.is_greeted;
        succession = succession.after(predecessor, confirmed);
    }
    let agent = Agent {
        dialogue,
        tunnels: Tunnels::new(opener, config.tunnels.max_tunnels),
        publisher,
        tokens,
        record,
        facts,
        drain: config.tunnels.drain,
        supervisor,
        told: Told::default(),
        is_stopping: false,
        succession,
    };
    let wires = Wires::new(session_events, inquiries, renewed, upgrades);
    let beside = async {
        if let Some(unkept) = unkept {
            unkept.keep().await;
        }
        renewal.run().await
    };
    let carrier = tokio::select! {
        ended = agent.run(session, wires, finish, stop.clone()) => ended?,
        never = beside => match never {},
    };
    if carrier.is_replaced() {
        // Another process reads the configuration, and lives for whoever watches over adit.
        besides.shutdown().await;
    }
    carrier.run(stop).await;
    Ok(())
}

/// Connections to the port of those who look, at most.
fn connections(config: &Config) -> usize {
    config.admin.listen.map_or(0, |_| admin::http::CONNECTIONS)
}

/// Has the program started again whenever a signal wants it.
async fn upgrade_on_signal(mut signals: mpsc::Receiver<()>, inquirer: Inquirer) {
    while signals.recv().await.is_some() {
        inquirer.want_upgrade();
    }
}

/// Tells whoever watches over adit that it is there, once that is so, and that it is not stuck, as often
/// as that is wanted.
async fn tell_that_adit_lives(supervisor: Arc<Supervisor>, is_there: CancellationToken) {
    is_there.cancelled().await;
    supervisor.ready();
    let Some(period) = supervisor.watch_interval() else {
        return;
    };
    let mut ticks = interval(period);
    loop {
        ticks.tick().await;
        supervisor.alive();
    }
}

/// Has the running agent read its configuration again, and prints what became of it.
pub async fn reload(settings: &admin::Settings, reload: cli::Reload) -> ExitCode {
    let level = reload.log_level.map(Into::into);
    crate::reload::run(settings, level).await
}

/// Has the program started again in the place of the running agent, and prints what became of it.
pub async fn upgrade(settings: &admin::Settings) -> ExitCode {
    crate::upgrade::run(settings).await
}

/// Opens one tunnel without MQTT.
///
/// # Errors
/// The configuration cannot be used with TLS.
pub async fn connect(
    config: &Config,
    tunnel: Tunnel,
    sandbox: Sandbox,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let transport = transport(config)?;
    let tokens = token_service(config, &config.auth, &transport).map(|service| {
        let tokens = Tokens::default().with_service(service, config.tunnels.connect_timeout);
        Arc::new(tokens.without_session())
    });
    let authorization = Authorization::new(&config.auth, tokens);
    let opener = opener(config, transport, authorization);
    confine(config, sandbox, None).log();
    Ok(connect::run(&opener, tunnel, stop).await)
}

/// Has the running agent try the way to the cloud, and prints what it finds.
pub async fn check_by_agent(settings: &admin::Settings, check: &cli::Check) -> ExitCode {
    check::by_agent::run(settings, check).await
}

/// Asks the running agent what it does, and prints it.
pub async fn status(settings: &admin::Settings, status: cli::Status) -> ExitCode {
    status::run(settings, status).await
}

/// Tries every hop.
///
/// # Errors
/// The configuration cannot be used with TLS or MQTT.
pub async fn check(
    config: &Config,
    check: Check,
    sandbox: Sandbox,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let transport = transport(config)?;
    check::run(
        &subject(config, confine_as_agent(config, sandbox))?,
        transport,
        check,
        stop,
    )
    .await
}

/// What a check tries.
fn subject(config: &Config, confined: Confined) -> anyhow::Result<Subject<'_>> {
    let announcement = announcement(config, &config.auth)?;
    let login = match &config.auth {
        Auth::Bootstrap(bootstrap) => Some((bootstrap.user.clone(), bootstrap.password.clone())),
        _ => config.mqtt.login.clone(),
    };
    Ok(Subject {
        file: config.file.as_deref(),
        warnings: &config.warnings,
        confined,
        auth: &config.auth,
        authority: config.authority.as_ref(),
        device: &config.device.id,
        admin: &config.admin,
        cloud: &config.cloud,
        mqtt: &config.mqtt,
        tunnels: &config.tunnels,
        account: account(config, login),
        subscriptions: match config.auth {
            Auth::Bootstrap(_) => vec![announcement.topics.registration()],
            _ => announcement.subscriptions(),
        },
        topics: announcement.topics,
    })
}

/// Confines this process as an agent is, which may execute its program to be followed by another.
fn confine_as_agent(config: &Config, sandbox: Sandbox) -> Confined {
    let program = Program::of_this_process(None).ok();
    confine(config, sandbox, program.as_ref().map(Program::path))
}

/// Takes from this process what it does not need for the rest of its life. Nobody outside has been
/// heard by now.
fn confine(config: &Config, sandbox: Sandbox, program: Option<&Path>) -> Confined {
    match sandbox {
        Sandbox::On => {
            net::tcp::prepare();
            confinement(config, program).apply()
        }
        Sandbox::Off => Confined::Off,
    }
}

/// What somebody may renew while adit runs, what adit itself writes, and what another process of the
/// program needs that lives in the same confinement.
fn confinement(config: &Config, program: Option<&Path>) -> Confinement {
    let mut confinement = Confinement::new().trust_again();
    if let Auth::Bootstrap(bootstrap) = &config.auth {
        confinement = confinement.write(&bootstrap.credentials_file);
    }
    if let Some(authority) = &config.authority {
        for file in [&authority.files.certificate, &authority.files.key] {
            confinement = confinement.read_again(file).write(file);
        }
    }
    for file in config.file.iter().chain(&config.named_files) {
        confinement = confinement.read_again(file);
    }
    let Some(program) = program else {
        return confinement;
    };
    if let Some(socket) = &config.admin.socket {
        confinement = confinement.make_socket(socket);
    }
    if let Some(listen) = config.admin.listen {
        confinement = confinement.listen(listen.port());
    }
    // What this process is connected to by then, the one that follows it is not.
    if notify::is_told_at_an_abstract_socket() {
        confinement = confinement.reach_abstract_sockets();
    }
    confinement.execute(program)
}

/// Who this is to the process before it, or to the one that is to follow.
fn candidate(config: &Config) -> Candidate {
    let admin = &config.admin;
    Candidate {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: std::process::id(),
        device: config.device.id.clone(),
        places: format!("{:?} {:?}", admin.listen, admin.socket),
    }
}

/// Gets the gateway its credentials, unless they are there.
///
/// With `renew` a certificate of the platform's own authority gets a successor. The exit code is 0 once
/// the credentials are there, 1 if `stop` came before, and 2 where nothing is configured that could be
/// got.
///
/// # Errors
/// The configuration cannot be used with TLS or MQTT, or there is no place for what comes.
pub async fn enrol(
    config: &Config,
    cli::Enrol { renew }: cli::Enrol,
    sandbox: Sandbox,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let transport = transport(config)?;
    confine(config, sandbox, None).log();
    match (&config.auth, &config.authority) {
        (Auth::Certificate(_), Some(authority)) if renew => {
            let transport = transport.through(config.cloud.proxy.clone());
            let (id, server) = (&config.device.id, &config.cloud.endpoint);
            tokio::select! {
                identity = renewal::renew_now(authority, id, server, &transport) => {
                    Ok(enrol::renewed(&identity))
                }
                () = stop.cancelled() => Ok(enrol::stopped()),
            }
        }
        (Auth::Unenrolled(_), _) if renew => Ok(enrol::nothing_to_renew()),
        _ if renew => Ok(enrol::not_issued()),
        (Auth::Unenrolled(_), Some(authority)) => {
            let show = enrol::show_invitation;
            let issued = have_issued(config, authority, &transport, show, &stop).await?;
            Ok(match issued {
                Some(identity) => enrol::issued(&identity),
                None => enrol::stopped(),
            })
        }
        (Auth::Bootstrap(_), _) => {
            enrol::show_registration(&config.device.id);
            let Some((.., unkept)) = log_in_as(config, &transport, &stop).await? else {
                return Ok(enrol::stopped());
            };
            if let Some(unkept) = unkept {
                tokio::select! {
                    () = unkept.keep() => {}
                    () = stop.cancelled() => return Ok(enrol::stopped()),
                }
            }
            Ok(enrol::registered(&config.device.id))
        }
        (Auth::Certificate(identity), _) => Ok(enrol::is_certified(identity)),
        (Auth::Password { user, .. }, _) => Ok(enrol::has_user(user)),
        (Auth::None | Auth::Unenrolled(_), _) => Ok(enrol::nothing_to_get()),
    }
}

/// Trusts and shows what the configuration says, and connects directly.
fn transport(config: &Config) -> anyhow::Result<Transport> {
    let transport = Transport::new(&config.cloud.ca)?;
    Ok(transport.with_identity(config.auth.identity().cloned()))
}

/// What is shown of the agent that does not change by itself.
fn facts(config: &Config, transport: &Transport) -> Facts {
    let tunnels = &config.tunnels;
    Facts {
        began: Instant::now().into_std(),
        device: Device {
            id: config.device.id.clone(),
            children: config.device.children.clone(),
        },
        broker: url_of_broker(&config.mqtt.endpoint),
        cloud: url_of_cloud(&config.cloud.endpoint),
        authentication: kind(&config.auth),
        transport: transport.clone(),
        remote_access: RemoteAccess {
            policy: tunnels.policy.to_string(),
            max_tunnels: tunnels.max_tunnels as u64,
        },
    }
}

fn url_of_broker(broker: &BrokerEndpoint) -> String {
    let scheme = match (broker.server.tls, &broker.websocket) {
        (true, None) => "mqtts",
        (false, None) => "mqtt",
        (true, Some(_)) => "wss",
        (false, Some(_)) => "ws",
    };
    format!("{scheme}://{}", broker.server)
}

fn url_of_cloud(cloud: &Endpoint) -> String {
    let scheme = if cloud.tls { "https" } else { "http" };
    format!("{scheme}://{cloud}")
}

/// Answers whoever looks while there is no agent yet.
async fn answer_meanwhile(
    facts: &Facts,
    inquiries: &mut Inquiries,
    wishes: &mut ReloadWishes,
    upgrades: &mut UpgradeWishes,
) -> Infallible {
    loop {
        tokio::select! {
            Some(inquiry) = inquiries.recv() => facts.answer(inquiry),
            Some(wish) = upgrades.recv() => drop(wish.answer.send(Upgraded::refused(
                "adit waits to be registered, and carries nothing: start it again",
            ))),
            // Nothing but the registration goes on, and it waits for somebody else.
            Some(wish) = wishes.recv() => drop(wish.answer.send(Reloaded {
                faults: vec![
                    "adit waits to be registered, and reads its configuration when it is started \
                     again"
                        .to_owned(),
                ],
                ..Reloaded::default()
            })),
            else => std::future::pending().await,
        }
    }
}

fn announcement(config: &Config, auth: &Auth) -> anyhow::Result<Announcement> {
    Ok(Announcement::new(
        config.device.clone(),
        &config.remote_access,
        &config.mqtt.topic_prefix,
        auth.needs_token(),
    )?)
}

fn opener(config: &Config, transport: Transport, authorization: Authorization) -> Opener {
    let cloud = &config.cloud;
    Opener::new(
        &config.tunnels,
        cloud.endpoint.clone(),
        transport.through(cloud.proxy.clone()),
        authorization,
    )
}

/// Where there is a certificate, the platform gives tokens for it without MQTT.
fn token_service(config: &Config, auth: &Auth, transport: &Transport) -> Option<TokenService> {
    auth.identity()?;
    let cloud = &config.cloud;
    let transport = transport.clone().through(cloud.proxy.clone());
    Some(TokenService::new(transport, &cloud.endpoint))
}

fn account(config: &Config, login: Option<Login>) -> Account {
    Account {
        broker: config.mqtt.endpoint.clone(),
        client_id: config.device.id.clone(),
        login,
        keep_alive: config.mqtt.keep_alive,
        will: None,
    }
}

/// Has the platform's own authority issue a certificate; `None` if it is to stop before.
async fn have_issued(
    config: &Config,
    authority: &Authority,
    transport: &Transport,
    show: impl FnOnce(&Invitation),
    stop: &CancellationToken,
) -> anyhow::Result<Option<Identity>> {
    let enrolment = Enrolment {
        authority,
        id: &config.device.id,
        server: &config.cloud.endpoint,
        transport: &transport.clone().through(config.cloud.proxy.clone()),
    };
    let enrolled = enrolment::run(&enrolment, show, stop).await;
    enrolled.context("auth.certificate_authority")
}

/// Returns who adit is, to the platform and to the broker, and what it was given and could not keep;
/// `None` if it is to stop before that is known.
async fn log_in_as(
    config: &Config,
    transport: &Transport,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Auth, Account, Option<Unkept>)>> {
    let bootstrap = match (&config.auth, &config.authority) {
        (Auth::Bootstrap(bootstrap), _) => bootstrap,
        (Auth::Unenrolled(_), Some(authority)) => {
            let identity =
                have_issued(config, authority, transport, enrol::show_code, stop).await?;
            let account = account(config, config.mqtt.login.clone());
            return Ok(identity.map(|identity| (Auth::Certificate(identity), account, None)));
        }
        (auth, _) => {
            let account = account(config, config.mqtt.login.clone());
            return Ok(Some((auth.clone(), account, None)));
        }
    };
    let login = Some((bootstrap.user.clone(), bootstrap.password.clone()));
    let registered = registration::run(
        &account(config, login),
        &Topics::new(&config.mqtt.topic_prefix)?,
        &transport.clone().through(config.mqtt.proxy.clone()),
        &bootstrap.credentials_file,
        stop,
    )
    .await
    .context("auth.credentials_file")?;
    let Some(Registered { login, unkept }) = registered else {
        return Ok(None);
    };
    let (user, password) = login;
    let at_broker = config.mqtt.login.clone();
    let at_broker = at_broker.unwrap_or_else(|| (user.clone(), password.clone()));
    let auth = Auth::Password { user, password };
    let account = account(config, Some(at_broker));
    Ok(Some((auth, account, unkept)))
}
