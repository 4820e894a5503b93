//! What comes before the agent runs: a gateway that nobody knows is registered, once in its life.

use smartrest::Topics;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::credentials_file;
use crate::auth::registration;
use crate::config::{Auth, Config};
use crate::mqtt::link::Account;
use crate::net::Transport;
use crate::words::failure_reason;

/// Bytes of a reason in the log.
const REASON_LIMIT: usize = 500;

/// Returns the configuration to run with: of a gateway that nobody knows, once it is registered;
/// `None` if it is to stop before.
///
/// # Errors
/// What comes could not be kept.
pub async fn registered(
    config: &Config,
    transport: &Transport,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Config>> {
    let Auth::Bootstrap(bootstrap) = &config.auth else {
        return Ok(Some(config.clone()));
    };
    // The platform hands credentials out once, so a place for them must be sure before.
    credentials_file::check(&bootstrap.credentials_file)?;
    let account = Account {
        broker: config.mqtt.endpoint.clone(),
        client_id: config.device.id.clone(),
        login: Some((bootstrap.user.clone(), bootstrap.password.clone())),
        keep_alive: config.mqtt.keep_alive,
    };
    let topics = Topics::new(&config.mqtt.topic_prefix)?;
    let transport = transport.clone().through(config.mqtt.proxy.clone());
    let credentials = tokio::select! {
        credentials = registration::register(&account, &topics, &transport) => credentials,
        () = stop.cancelled() => return Ok(None),
    };
    let path = &bootstrap.credentials_file;
    match credentials_file::write(path, &credentials) {
        Ok(()) => info!(file = path.display().to_string(), "credentials kept"),
        Err(error) => {
            let error = failure_reason(&error, REASON_LIMIT);
            warn!(
                error,
                "the credentials are not kept: after a restart, adit must register again"
            );
        }
    }
    Ok(Some(config.with_credentials(credentials)))
}
