//! The builder: makes each part of its own section of the configuration, and puts them together.
//!
//! Only this module and the command line see the whole configuration. What a part does not get
//! here it cannot depend on.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use smartrest::Topics;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::agent::Agent;
use crate::auth::authorization::Authorization;
use crate::auth::registration::{self, Registered, Unkept};
use crate::auth::settings::{Auth, Login};
use crate::auth::token::Tokens;
use crate::check::{self, Subject};
use crate::cli::{Check, Tunnel};
use crate::config::Config;
use crate::connect;
use crate::limits;
use crate::mqtt::link::Account;
use crate::mqtt::session::Session;
use crate::net::Transport;
use crate::platform::announcement::Announcement;
use crate::platform::dialogue::Dialogue;
use crate::tunnel::Opener;
use crate::tunnel::manager::Tunnels;

/// Runs the agent until `stop`; a gateway that nobody knows is registered first.
///
/// # Errors
/// The configuration cannot be used with TLS or MQTT, or there is no place for the credentials of a
/// registration; nothing that happens later is an error.
pub async fn agent(config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
    let transport = transport(config)?;
    let Some((auth, account, unkept)) = log_in_as(config, &transport, &stop).await? else {
        return Ok(());
    };
    let announcement = announcement(config, &auth)?;
    let finish = CancellationToken::new();
    let (session, publisher, session_events) = Session::new(
        announcement.session_options(account),
        transport.clone().through(config.mqtt.proxy.clone()),
        finish.clone(),
    );
    let tokens = Arc::<Tokens>::default();
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
    limits::allow_files_for(config.tunnels.max_tunnels);
    let agent = Agent {
        dialogue: Dialogue::new(
            announcement.uplink(config.remote_access.events),
            config.device.id.clone(),
            config.tunnels.max_tunnels,
            &config.tunnels.policy.to_string(),
        ),
        tunnels: Tunnels::new(opener, config.tunnels.max_tunnels),
        publisher,
        tokens,
    };
    let mut running = pin!(agent.run(session, session_events, finish, stop));
    if let Some(unkept) = unkept {
        tokio::select! {
            ended = &mut running => return ended,
            () = unkept.keep() => {}
        }
    }
    running.await
}

/// Opens one tunnel without MQTT.
///
/// # Errors
/// The configuration cannot be used with TLS.
pub async fn connect(
    config: &Config,
    tunnel: Tunnel,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let authorization = Authorization::new(&config.auth, None);
    let opener = opener(config, transport(config)?, authorization);
    Ok(connect::run(&opener, tunnel, stop).await)
}

/// Tries every hop.
///
/// # Errors
/// The configuration cannot be used with TLS or MQTT.
pub async fn check(
    config: &Config,
    check: Check,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let announcement = announcement(config, &config.auth)?;
    let login = match &config.auth {
        Auth::Bootstrap(bootstrap) => Some((bootstrap.user.clone(), bootstrap.password.clone())),
        _ => config.mqtt.login.clone(),
    };
    let subject = Subject {
        file: config.file.as_deref(),
        warnings: &config.warnings,
        auth: &config.auth,
        cloud: &config.cloud,
        mqtt: &config.mqtt,
        tunnels: &config.tunnels,
        account: account(config, login),
        subscriptions: match config.auth {
            Auth::Bootstrap(_) => vec![announcement.topics.registration()],
            _ => announcement.subscriptions(),
        },
        topics: announcement.topics,
    };
    check::run(&subject, transport(config)?, check, stop).await
}

/// Trusts and shows what the configuration says, and connects directly.
fn transport(config: &Config) -> anyhow::Result<Transport> {
    let transport = Transport::new(&config.cloud.ca)?;
    Ok(transport.with_identity(config.auth.identity().cloned()))
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

fn account(config: &Config, login: Option<Login>) -> Account {
    Account {
        broker: config.mqtt.endpoint.clone(),
        client_id: config.device.id.clone(),
        login,
        keep_alive: config.mqtt.keep_alive,
    }
}

/// Returns who adit is, to the platform and to the broker, and what it was given and could not keep;
/// `None` if it is to stop before that is known.
async fn log_in_as(
    config: &Config,
    transport: &Transport,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Auth, Account, Option<Unkept>)>> {
    let Auth::Bootstrap(bootstrap) = &config.auth else {
        let account = account(config, config.mqtt.login.clone());
        return Ok(Some((config.auth.clone(), account, None)));
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
