//! Registration: a gateway that nobody knows asks for credentials until an operator has accepted it.
//!
//! It logs in with credentials that all new devices share, subscribes to `s/dcr` and publishes
//! nothing on `s/ucr` again and again. Once the operator has entered the gateway's id under device
//! registration and accepted it, `70,<tenant>,<user>,<password>` comes, once in the life of a
//! gateway.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smartrest::{Credentials, Topic, Topics};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::credentials_file::{self, CredentialsFileError, Reservation};
use super::settings::{Login, login_of};
use crate::mqtt::conversation::{Conversation, Event, Opening, Pings};
use crate::mqtt::link::{Account, LOGIN_LIMIT, Link, Lost};
use crate::mqtt::outbox::Message;
use crate::mqtt::reconnect::Reconnects;
use crate::net::Transport;
use crate::threads::aside;
use crate::words::{failure_reason, seconds};

/// Time between two requests. The platform hands the credentials out only while it is asked.
const REQUEST_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait between two attempts to connect: a person stands beside the gateway.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often the log repeats what the operator has to do.
const REMINDER_INTERVAL: Duration = Duration::from_mins(5);
/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;
/// Time before credentials that could not be kept are written again; it doubles each time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// What a gateway has been given.
pub(crate) struct Registered {
    /// As whom it logs in from now on.
    pub login: Login,
    /// The credentials, if they could not be kept.
    pub unkept: Option<Unkept>,
}

/// Credentials that could not be kept. The platform does not hand them out again.
pub(crate) struct Unkept {
    path: PathBuf,
    credentials: Credentials,
}

/// Registers a gateway that nobody knows, and keeps what it is given in a file; `None` if it is to
/// stop before.
///
/// # Errors
/// There is no place for what comes.
pub(crate) async fn run(
    account: &Account,
    topics: &Topics,
    transport: &Transport,
    credentials_file: &Path,
    stop: &CancellationToken,
) -> Result<Option<Registered>, CredentialsFileError> {
    let reservation = Reservation::new(credentials_file)?;
    let credentials = tokio::select! {
        credentials = register(account, topics, transport) => credentials,
        () = stop.cancelled() => return Ok(None),
    };
    let mut unkept = None;
    match reservation.fill(&credentials) {
        Ok(()) => kept(credentials_file),
        Err(error) => {
            not_kept(&error, FIRST_RETRY);
            unkept = Some(Unkept {
                path: credentials_file.to_owned(),
                credentials: credentials.clone(),
            });
        }
    }
    let login = login_of(credentials);
    Ok(Some(Registered { login, unkept }))
}

impl Unkept {
    /// Tries to keep the credentials until that has worked.
    pub(crate) async fn keep(&self) {
        let mut retry_in = FIRST_RETRY;
        loop {
            sleep(retry_in).await;
            retry_in = (retry_in * 2).min(LONGEST_RETRY);
            let (path, credentials) = (self.path.clone(), self.credentials.clone());
            // A disk may take its time, and tunnels may be open.
            let written = aside(move || credentials_file::write(&path, &credentials)).await;
            match written {
                Ok(Ok(())) => return kept(&self.path),
                Ok(Err(error)) => not_kept(&error, retry_in),
                Err(error) => not_kept(&error, retry_in),
            }
        }
    }
}

fn kept(file: &Path) {
    info!(file = file.display().to_string(), "credentials kept");
}

fn not_kept(error: &(dyn Error + 'static), retry_in: Duration) {
    warn!(
        error = failure_reason(error, LOGGED_REASON_LIMIT),
        retry_in_s = seconds(retry_in),
        "the credentials are not kept: after a restart, adit must register again"
    );
}

/// Asks for credentials until they come; dropping the future ends that.
async fn register(account: &Account, topics: &Topics, transport: &Transport) -> Credentials {
    let mut reconnects = Reconnects::new(account.keep_alive);
    let mut reminder = Reminder {
        id: &account.client_id,
        next: None,
    };
    loop {
        reminder.show_if_due();
        let (lost, loss) = match account.log_in(transport, LOGIN_LIMIT).await {
            Ok(mut link) => {
                let began = Instant::now();
                let mut conversation = converse(account, topics, began);
                match ask(&mut link, &mut conversation, topics, &mut reminder).await {
                    Ok(credentials) => {
                        info!(user = credentials.user, "registered");
                        link.disconnect().await;
                        return credentials;
                    }
                    Err(lost) => {
                        let now = Instant::now();
                        let loss = lost.after_login(&conversation, now - began, now.into_std());
                        (lost, loss)
                    }
                }
            }
            Err(lost) => {
                let loss = lost.before_login();
                (lost, loss)
            }
        };
        let retry_in = reconnects.lost(loss).within(LONGEST_WAIT).draw_wait();
        let error = failure_reason(&lost, LOGGED_REASON_LIMIT);
        match lost {
            Lost::Refused(_) => warn!(
                error,
                retry_in_s = seconds(retry_in),
                "the platform refuses to register; look at auth.bootstrap_username and its password"
            ),
            lost if lost.is_by_broker() => warn!(
                error,
                retry_in_s = seconds(retry_in),
                "the platform ended the registration, as it does when it was refused or deleted there"
            ),
            _ => warn!(error, retry_in_s = seconds(retry_in), "no registration yet"),
        }
        sleep(retry_in).await;
    }
}

/// Subscribes to the answers.
fn converse(account: &Account, topics: &Topics, now: Instant) -> Conversation {
    let opening = Opening {
        subscribe: vec![topics.registration()],
        ..Opening::default()
    };
    Conversation::new(opening, Pings::every(account.keep_alive), now.into_std())
}

/// Asks on one connection.
async fn ask(
    link: &mut Link,
    conversation: &mut Conversation,
    topics: &Topics,
    reminder: &mut Reminder<'_>,
) -> Result<Credentials, Lost> {
    let request = Message::new(topics.registration_request(), "");
    let mut next_request = Instant::now();
    loop {
        let now = Instant::now();
        if next_request <= now {
            reminder.show_if_due();
            conversation.publish(&request, now.into_std());
            next_request = now + REQUEST_INTERVAL;
        }
        link.send_all(conversation.packets()).await?;
        let deadline = next_request.min(conversation.next_deadline().into());
        tokio::select! {
            biased;
            incoming = link.next() => {
                conversation.receive(incoming?, Instant::now().into_std())?;
            }
            () = sleep_until(deadline) => {}
        }
        conversation.time_passed(Instant::now().into_std())?;
        while let Some(event) = conversation.next_event() {
            match event {
                Event::Received { topic, payload } => {
                    if let Some(credentials) = credentials(topics, &topic, &payload) {
                        return Ok(credentials);
                    }
                }
                Event::Refused { retry_in, .. } => warn!(
                    retry_in_s = seconds(retry_in),
                    "the broker refuses the subscription for the registration"
                ),
                Event::Ready | Event::LeftOut | Event::Skipped(_) | Event::Acknowledged(_) => {
                    debug!("still without credentials");
                }
            }
        }
    }
}

fn credentials(topics: &Topics, topic: &str, payload: &[u8]) -> Option<Credentials> {
    if topics.parse(topic) != Some(Topic::Registration) {
        return None;
    }
    for row in smartrest::decode(payload) {
        if row.template() != Credentials::TEMPLATE {
            continue;
        }
        match Credentials::from_row(&row) {
            Ok(credentials) => return Some(credentials),
            Err(error) => warn!(error = error.to_string(), "credentials that cannot be used"),
        }
    }
    None
}

/// Repeats in the log what a person has to do.
struct Reminder<'a> {
    id: &'a str,
    next: Option<Instant>,
}

impl Reminder<'_> {
    fn show_if_due(&mut self) {
        let now = Instant::now();
        if self.next.is_none_or(|next| next <= now) {
            self.next = Some(now + REMINDER_INTERVAL);
            info!(
                id = self.id,
                "waiting to be registered: in the cloud's device management, enter this id under \
                 device registration, then accept the device when it shows up"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_credentials_from_their_topic_only() {
        let topics = Topics::default();
        for (topic, payload, user) in [
            ("s/dcr", "70,t1,device_gw,secret", Some("device_gw")),
            ("s/dcr", "71,x\n70,t1,device_gw,secret", Some("device_gw")),
            ("s/dcr", "70,t1,device_gw", None),
            (
                "s/dcr",
                "70,t/1,device_gw,secret\n70,t1,gw,secret",
                Some("gw"),
            ),
            (
                "s/dcr",
                "70,t1,device\u{7}_gw,secret\n70,t1,gw,secret",
                Some("gw"),
            ),
            ("s/dcr", "", None),
            ("s/ds", "70,t1,device_gw,secret", None),
        ] {
            let taken = credentials(&topics, topic, payload.as_bytes());
            let taken = taken.map(|credentials| credentials.user);
            assert_eq!(taken.as_deref(), user, "{topic} {payload}");
        }
    }
}
