//! Registration: a gateway that nobody knows asks for credentials until an operator has accepted it.
//!
//! It logs in with credentials that all new devices share, subscribes to `s/dcr` and publishes
//! nothing on `s/ucr` again and again. Once the operator has entered the gateway's id under device
//! registration and accepted it, `70,<tenant>,<user>,<password>` comes, once in the life of a
//! gateway.

use std::path::Path;
use std::time::Duration;

use rumqttc::{Packet, PubAck, Publish, QoS, Subscribe, SubscribeReasonCode};
use smartrest::{Credentials, Topic, Topics};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::credentials_file::{self, CredentialsFileError};
use super::settings::{Login, login_of};
use crate::mqtt::link::{Account, Link, Lost};
use crate::mqtt::reconnect::{Loss, Reconnects};
use crate::net::Transport;
use crate::words::failure_reason;

/// Time between two requests. The platform hands the credentials out only while it is asked.
const REQUEST_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait between two attempts to connect: a person stands beside the gateway.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often the log repeats what the operator has to do.
const REMINDER_INTERVAL: Duration = Duration::from_mins(5);
/// Bytes of a reason in the log.
const LOGGED_REASON_LIMIT: usize = 1024;
const SUBSCRIBE_ID: u16 = 1;

/// Registers a gateway that nobody knows, and keeps what it is given in a file; `None` if it is to
/// stop before.
///
/// # Errors
/// What comes could not be kept.
pub async fn run(
    account: &Account,
    topics: &Topics,
    transport: &Transport,
    credentials_file: &Path,
    stop: &CancellationToken,
) -> Result<Option<Login>, CredentialsFileError> {
    // The platform hands credentials out once, so a place for them must be sure before.
    credentials_file::check(credentials_file)?;
    let credentials = tokio::select! {
        credentials = register(account, topics, transport) => credentials,
        () = stop.cancelled() => return Ok(None),
    };
    match credentials_file::write(credentials_file, &credentials) {
        Ok(()) => info!(
            file = credentials_file.display().to_string(),
            "credentials kept"
        ),
        Err(error) => {
            let error = failure_reason(&error, LOGGED_REASON_LIMIT);
            warn!(
                error,
                "the credentials are not kept: after a restart, adit must register again"
            );
        }
    }
    Ok(Some(login_of(credentials)))
}

/// Asks for credentials until they come; dropping the future ends that.
async fn register(account: &Account, topics: &Topics, transport: &Transport) -> Credentials {
    let mut reconnects = Reconnects::default();
    let mut reminder = Reminder::default();
    loop {
        reminder.show_if_due(&account.client_id);
        let (lost, loss) = match account.log_in(transport).await {
            Ok(link) => {
                let since = Instant::now();
                match ask(link, topics, &account.client_id, &mut reminder).await {
                    Ok(credentials) => return credentials,
                    Err(lost) => (lost, Loss::Failed(since.elapsed())),
                }
            }
            Err(lost) => (lost, Loss::NeverStood),
        };
        let wait = reconnects
            .lost(loss)
            .wait_up_to
            .min(LONGEST_WAIT)
            .mul_f64(fastrand::f64());
        let error = failure_reason(&lost, LOGGED_REASON_LIMIT);
        let retry_in = Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX));
        match lost {
            Lost::Refused(_) => warn!(
                error,
                ?retry_in,
                "the platform refuses to register; look at auth.bootstrap_username and its password"
            ),
            lost if lost.is_by_broker() => warn!(
                error,
                ?retry_in,
                "the platform ended the registration, as it does when it was refused or deleted there"
            ),
            _ => warn!(error, ?retry_in, "no registration yet"),
        }
        sleep(wait).await;
    }
}

/// Asks on one connection.
async fn ask(
    mut link: Link,
    topics: &Topics,
    id: &str,
    reminder: &mut Reminder,
) -> Result<Credentials, Lost> {
    let mut subscribe = Subscribe::new(topics.registration(), QoS::AtLeastOnce);
    subscribe.pkid = SUBSCRIBE_ID;
    link.send(Packet::Subscribe(subscribe)).await?;
    let mut next_request = Instant::now();
    let mut packet_id = SUBSCRIBE_ID;
    loop {
        tokio::select! {
            packet = link.next() => match packet? {
                Packet::Publish(publish) => {
                    if publish.qos == QoS::AtLeastOnce {
                        link.send(Packet::PubAck(PubAck::new(publish.pkid))).await?;
                    }
                    if let Some(credentials) = credentials(topics, &publish) {
                        info!(user = credentials.user, "registered");
                        link.disconnect().await;
                        return Ok(credentials);
                    }
                }
                Packet::SubAck(answer)
                    if answer.return_codes.contains(&SubscribeReasonCode::Failure) =>
                {
                    warn!("the broker refuses the subscription for the registration");
                }
                other => debug!(kind = kind(&other), "packet while waiting for credentials"),
            },
            () = sleep_until(next_request) => {
                reminder.show_if_due(id);
                packet_id = packet_id.checked_add(1).unwrap_or(1);
                let mut request =
                    Publish::new(topics.registration_request(), QoS::AtLeastOnce, Vec::new());
                request.pkid = packet_id;
                link.send(Packet::Publish(request)).await?;
                next_request = Instant::now() + REQUEST_INTERVAL;
            }
        }
    }
}

fn credentials(topics: &Topics, publish: &Publish) -> Option<Credentials> {
    if topics.parse(&publish.topic) != Some(Topic::Registration) {
        return None;
    }
    for row in smartrest::decode(&publish.payload) {
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

/// Names a packet without its content, which may be credentials.
fn kind(packet: &Packet) -> &'static str {
    match packet {
        Packet::PubAck(_) => "PUBACK",
        Packet::SubAck(_) => "SUBACK",
        Packet::PingResp => "PINGRESP",
        _ => "other",
    }
}

/// Repeats in the log what a person has to do.
#[derive(Default)]
struct Reminder {
    next: Option<Instant>,
}

impl Reminder {
    fn show_if_due(&mut self, id: &str) {
        let now = Instant::now();
        if self.next.is_none_or(|next| next <= now) {
            self.next = Some(now + REMINDER_INTERVAL);
            info!(
                id,
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
            ("s/dcr", "", None),
            ("s/ds", "70,t1,device_gw,secret", None),
        ] {
            let publish = Publish::new(topic, QoS::AtMostOnce, payload);
            let taken = credentials(&topics, &publish).map(|credentials| credentials.user);
            assert_eq!(taken.as_deref(), user, "{topic} {payload}");
        }
    }
}
