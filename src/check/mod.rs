//! `adit check`: every hop of the way to the cloud, in order, and what is broken there.
//!
//! The hops are tried with the very parts that the agent runs on, so that what works here works
//! there. A hop behind a broken one is not tried, but the cloud is reached whatever becomes of the
//! broker, and a target whatever becomes of both.

mod advice;
pub(crate) mod by_agent;
mod certificate;
mod mqtt;
pub(crate) mod report;
mod running;
mod way;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smartrest::{ConnectionKey, Target, Topics};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::admin;
use crate::auth::authorization::Authorization;
use crate::auth::settings::{Auth, Authority};
use crate::auth::token;
use crate::auth::token_service::TokenService;
use crate::cli::Check;
use crate::confinement::{Confined, INHERITED};
use crate::mqtt::link::{Account, Link, Lost};
use crate::net::Transport;
use crate::net::journal::{Journal, Step};
use crate::net::resolve::Resolver;
use crate::net::settings::Cloud;
use crate::secret::Secret;
use crate::state::Snapshot;
use crate::tunnel;
use crate::tunnel::cloud::{self, Author, EndpointError};
use crate::tunnel::lan::{self, DialError};
use crate::words::failure_reason;
use mqtt::{AskError, Questions};
use report::{Hop, Report};
use way::{NOT_TRIED, REASON_LIMIT, Way};

/// Everything from the broker's name to its answer to CONNECT. Less than the agent waits: somebody
/// is looking.
const BROKER_LIMIT: Duration = Duration::from_secs(10);

/// A token over mutual TLS, from the name of the host to the answer.
const TOKEN_LIMIT: Duration = Duration::from_secs(8);

const CONFIGURATION: &str = "configuration";
const CONFINEMENT: &str = "confinement";
const LOGIN: &str = "MQTT login";
const SUBSCRIPTIONS: &str = "subscriptions";
const BRIDGE: &str = "bridge";
const TOKEN: &str = "token";
const WEBSOCKET: &str = "WebSocket endpoint";
const POLICY: &str = "policy";
const TARGET: &str = "target";
const NO_LOGIN: &str = "left out, since no login is made";

/// What is tried.
pub struct Subject<'a> {
    /// The configuration file, if there is one.
    pub file: Option<&'a Path>,
    /// What can be used and should be looked at, a clause each.
    pub warnings: &'a [String],
    /// What it may do to this machine: as much as the agent.
    pub confined: Confined,
    /// Who adit is to the platform.
    pub auth: &'a Auth,
    /// Who has issued the certificate, where adit renews it.
    pub authority: Option<&'a Authority>,
    /// External id of the gateway.
    pub device: &'a str,
    /// Where an adit that runs is asked.
    pub admin: &'a admin::Settings,
    /// Where the platform is.
    pub cloud: &'a Cloud,
    /// Where the broker is.
    pub mqtt: &'a crate::mqtt::Settings,
    /// What tunnels may do.
    pub tunnels: &'a tunnel::Settings,
    /// As whom the agent would log in.
    pub account: Account,
    /// What it would subscribe to.
    pub subscriptions: Vec<String>,
    /// The topics of the platform.
    pub topics: Topics,
}

/// Tries every hop, and prints what is found at each as soon as it is known.
///
/// The exit code is 0 if nothing is broken, and 1 if something is or `stop` came before the end.
///
/// # Errors
/// The report cannot be written as JSON.
pub async fn run(
    subject: &Subject<'_>,
    transport: Transport,
    check: Check,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let mut checker = Checker::new(subject, &check, transport);
    let stopped = tokio::select! {
        () = checker.check() => false,
        () = stop.cancelled() => true,
    };
    let report = checker.report;
    let mut printer = checker.printer;
    if check.json {
        printer.print(&report.to_json()?);
    } else if stopped {
        printer.print("stopped before the end");
    } else {
        printer.print(&report.summary());
    }
    if let Some(error) = &printer.0 {
        let error = failure_reason(error, REASON_LIMIT);
        error!(error, "the result cannot be written");
    }
    Ok(match report.is_good() && !stopped && printer.0.is_none() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Tries every hop that can be tried without a login, and a machine if one is named, and says what is
/// found when all is known, or what is known within `limit`.
pub(crate) async fn examine(
    subject: &Subject<'_>,
    transport: Transport,
    target: Option<Target>,
    limit: Duration,
) -> Report {
    let check = Check {
        no_login: true,
        // Nothing is printed on the way.
        json: true,
        target,
    };
    let mut checker = Checker::new(subject, &check, transport);
    if timeout(limit, checker.check()).await.is_err() {
        let words = format!("stopped after {}", humantime::format_duration(limit));
        checker.report.add(Hop::skipped("the rest", &words));
    }
    checker.report
}

/// Prints for scripts that the configuration cannot be used: the first hop, and the only one.
pub fn refuse(faults: &str) {
    if let Ok(document) = refused(faults).to_json() {
        Printer::default().print(&document);
    }
}

/// Says that the configuration cannot be used.
pub(crate) fn refused(faults: &str) -> Report {
    let faults = faults.lines().collect::<Vec<_>>().join("; ");
    let advice = "the other hops are tried once the configuration can be used";
    let mut report = Report::default();
    report.add(Hop::failed(CONFIGURATION, &faults, Duration::ZERO, advice));
    report
}

/// Standard output, and why it did not take the result.
#[derive(Default)]
struct Printer(Option<io::Error>);

impl Printer {
    fn print(&mut self, text: &str) {
        let mut out = io::stdout();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            // Whoever asked may have read enough; the exit code tells the result too.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.0.get_or_insert(error);
            }
            _ => {}
        }
    }
}

struct Checker<'a> {
    subject: &'a Subject<'a>,
    options: &'a Check,
    transport: Transport,
    journal: Arc<Journal>,
    report: Report,
    printer: Printer,
    /// What an adit that runs says, where one does.
    running: Option<Snapshot>,
    /// Where a certificate may still get a token that has not come over MQTT.
    without_token: Option<WithoutToken>,
}

/// Why there is no token over MQTT.
struct WithoutToken {
    words: String,
    took: Duration,
    /// What to do about it; none where it was not tried.
    advice: Option<&'static str>,
}

impl WithoutToken {
    fn not_tried(words: &str) -> Self {
        Self {
            words: words.to_owned(),
            took: Duration::ZERO,
            advice: None,
        }
    }
}

impl<'a> Checker<'a> {
    fn new(subject: &'a Subject<'a>, options: &'a Check, transport: Transport) -> Self {
        let journal = Arc::new(Journal::default());
        Self {
            subject,
            options,
            transport: transport.recorded(Arc::clone(&journal)),
            journal,
            report: Report::default(),
            printer: Printer::default(),
            running: None,
            without_token: None,
        }
    }

    async fn check(&mut self) {
        if !self.options.no_login && !matches!(self.subject.auth, Auth::Unenrolled(_)) {
            self.announce_login();
        }
        self.add(configuration(self.subject));
        self.add(confinement(&self.subject.confined));
        match self.subject.auth {
            Auth::Certificate(identity) => {
                let newest = self.transport.newest_identity().await;
                let (authority, now) = (self.subject.authority, SystemTime::now());
                self.add(certificate::judge(
                    identity,
                    newest.as_ref(),
                    authority,
                    now,
                ));
            }
            Auth::Unenrolled(_) => self.add(certificate::not_issued()),
            _ => {}
        }
        self.running = running::ask(self.subject).await;
        self.add_all(self.running.as_ref().and_then(running::templates));
        let token = if self.options.no_login || matches!(self.subject.auth, Auth::Unenrolled(_)) {
            self.reach_broker().await;
            None
        } else {
            self.log_in().await
        };
        let token = match token {
            Some(token) => Some(token),
            None => self.token_of_certificate().await,
        };
        self.cloud(token).await;
        match &self.options.target {
            Some(target) => self.target(target).await,
            None => {
                let policy = self.subject.tunnels.policy.to_string();
                self.add(Hop::passed(POLICY, &policy, Duration::ZERO));
            }
        }
    }

    /// Says what the login does to others, before it does.
    fn announce_login(&mut self) {
        let id = &self.subject.account.client_id;
        let words = format!(
            "the MQTT login throws an agent that runs as '{id}' out for a moment; --no-login \
             leaves it out"
        );
        if self.options.json {
            warn!("{words}");
        } else {
            self.printer.print(&words);
        }
    }

    fn add(&mut self, hop: Hop) {
        if !self.options.json {
            self.printer.print(&hop.to_string());
        }
        self.report.add(hop);
    }

    fn add_all(&mut self, hops: impl IntoIterator<Item = Hop>) {
        hops.into_iter().for_each(|hop| self.add(hop));
    }

    /// Connects to the broker and says nothing there.
    async fn reach_broker(&mut self) {
        let mqtt = &self.subject.mqtt;
        let transport = self.transport.clone().through(mqtt.proxy.clone());
        let reached = transport.connect_broker(&mqtt.endpoint, BROKER_LIMIT).await;
        let way = Way::to_broker(&mqtt.endpoint, mqtt.proxy.as_ref());
        self.add_all(way.hops(&self.journal.take(), reached.as_ref().err()));
        let (first, words) = match (&self.running, reached) {
            _ if !self.options.no_login => (LOGIN, NOT_TRIED),
            (Some(snapshot), Ok(_)) => {
                self.add_all(running::login(snapshot));
                (TOKEN, NO_LOGIN)
            }
            _ => (LOGIN, NO_LOGIN),
        };
        self.skip_after_login(first, words);
    }

    /// Logs in to the broker and asks there; returns the header of a token.
    async fn log_in(&mut self) -> Option<Secret> {
        let mqtt = &self.subject.mqtt;
        let account = &self.subject.account;
        let transport = self.transport.clone().through(mqtt.proxy.clone());
        let began = Instant::now();
        let logged_in = account.log_in(&transport, BROKER_LIMIT).await;
        let steps = self.journal.take();
        let took = rest(began, &steps);
        let way = Way::to_broker(&mqtt.endpoint, mqtt.proxy.as_ref());
        let unreachable = match &logged_in {
            Err(Lost::Unreachable(error)) => Some(error),
            _ => None,
        };
        self.add_all(way.hops(&steps, unreachable));
        match logged_in {
            Ok(link) => {
                self.add(Hop::passed(LOGIN, &accepted(account), took));
                self.ask(link).await
            }
            Err(Lost::Unreachable(_)) => {
                self.skip_after_login(LOGIN, NOT_TRIED);
                None
            }
            Err(lost) => {
                let (words, advice) = (
                    failure_reason(&lost, REASON_LIMIT),
                    advice::login(&lost, self.subject),
                );
                self.add(Hop::failed(LOGIN, &words, took, &advice));
                self.skip_after_login(SUBSCRIPTIONS, NOT_TRIED);
                None
            }
        }
    }

    /// Skips what a login leads to, from a hop on.
    fn skip_after_login(&mut self, first: &str, words: &str) {
        if self.subject.auth.identity().is_some() {
            self.without_token = Some(WithoutToken::not_tried(words));
        }
        let has_other_way = self.without_token.is_some();
        let token = (self.wants_token() && !has_other_way).then_some(TOKEN);
        let hops = [LOGIN, SUBSCRIPTIONS].into_iter().chain(token);
        self.add_all(
            hops.skip_while(|hop| *hop != first)
                .map(|hop| Hop::skipped(hop, words)),
        );
    }

    /// A gateway that is to register has nothing that the WebSocket would take.
    fn wants_token(&self) -> bool {
        !self.subject.auth.is_to_be_given() && self.subject.auth.needs_token()
    }

    async fn ask(&mut self, link: Link) -> Option<Secret> {
        let Subject {
            topics,
            subscriptions: wanted,
            ..
        } = self.subject;
        let began = Instant::now();
        let keep_alive = self.subject.account.keep_alive;
        let mut topics_asked = wanted.clone();
        if self.wants_token() {
            // A refusal of the token may come there.
            topics_asked.push(topics.errors());
        }
        topics_asked.extend(topics.bridge_state());
        let mut questions = Questions::new(link, &topics_asked, keep_alive, topics.clone());
        let subscribed = questions.refused().await.map(|mut refused| {
            refused.retain(|topic| wanted.contains(topic));
            refused
        });
        let took = began.elapsed();
        let (hop, goes_on) = match subscribed {
            Ok(refused) if refused.is_empty() => {
                let words = format!("granted: {}", wanted.join(", "));
                (Hop::passed(SUBSCRIPTIONS, &words, took), true)
            }
            Ok(refused) => {
                let words = format!("the broker refuses {}", refused.join(", "));
                let advice = advice::refused_subscription();
                let may_ask = !refused.contains(&topics.token());
                (Hop::failed(SUBSCRIPTIONS, &words, took, advice), may_ask)
            }
            Err(error) => (self.unanswered(SUBSCRIPTIONS, &error, took), false),
        };
        self.add(hop);
        if let Some(topic) = topics.bridge_state().filter(|_| goes_on) {
            let began = Instant::now();
            let has_cloud = questions.bridge().await;
            self.add(bridge(has_cloud, &topic, began.elapsed()));
        }
        if !self.wants_token() {
            questions.disconnect().await;
            return None;
        }
        let has_certificate = self.subject.auth.identity().is_some();
        if !goes_on {
            match has_certificate {
                true => self.without_token = Some(WithoutToken::not_tried(NOT_TRIED)),
                false => self.add(Hop::skipped(TOKEN, NOT_TRIED)),
            }
            return None;
        }
        let began = Instant::now();
        let answer = questions.token().await;
        let took = began.elapsed();
        questions.disconnect().await;
        match answer {
            Ok((header, life)) => {
                let life = Duration::from_secs(life.as_secs());
                let life = humantime::format_duration(life);
                let words = format!("received, good for {life}");
                self.add(Hop::passed(TOKEN, &words, took));
                Some(header)
            }
            Err(error) => {
                match has_certificate {
                    true => {
                        self.without_token = Some(WithoutToken {
                            words: failure_reason(&error, REASON_LIMIT),
                            took,
                            advice: Some(advice::asked(&error)),
                        });
                    }
                    false => self.add(self.unanswered(TOKEN, &error, took)),
                }
                None
            }
        }
    }

    /// Says that the broker has not answered. That a running agent comes back is no fault of the way.
    fn unanswered(&self, name: &str, error: &AskError, took: Duration) -> Hop {
        let is_closed = matches!(error, AskError::Lost(Lost::Closed | Lost::Io(_)));
        if is_closed && self.running.is_some() {
            return Hop::skipped(name, advice::THROWN_OUT);
        }
        let words = failure_reason(error, REASON_LIMIT);
        Hop::failed(name, &words, took, advice::asked(error))
    }

    /// Asks for a token over mutual TLS, where there is a certificate and none came over MQTT.
    async fn token_of_certificate(&mut self) -> Option<Secret> {
        let over_mqtt = self.without_token.take()?;
        let cloud = &self.subject.cloud;
        let transport = self.transport.clone().through(cloud.proxy.clone());
        let service = TokenService::new(transport, &cloud.endpoint);
        let began = Instant::now();
        let fetched = service.fetch(TOKEN_LIMIT).await;
        let took = over_mqtt.took + began.elapsed();
        // They would be taken for those of the way to the cloud.
        self.journal.take();
        match fetched {
            Ok(token) => {
                let (header, life) = token::header(&token);
                let life = humantime::format_duration(Duration::from_secs(life.as_secs()));
                let words = format!(
                    "received from {} for the certificate, good for {life}; over MQTT: {}",
                    service.server(),
                    over_mqtt.words
                );
                self.add(Hop::passed(TOKEN, &words, took));
                Some(header)
            }
            Err(error) => {
                let WithoutToken { words, advice, .. } = over_mqtt;
                self.add(match advice {
                    // The other way is for where this one fails.
                    None => Hop::skipped(TOKEN, &words),
                    Some(advice) => {
                        let error = failure_reason(&error, REASON_LIMIT);
                        let words = format!("{words}; {error}");
                        Hop::failed(TOKEN, &words, took, advice).with_advice(advice::TOKEN_SERVICE)
                    }
                });
                None
            }
        }
    }

    /// Reaches the cloud, and its WebSocket endpoint if there is something to show there.
    async fn cloud(&mut self, token: Option<Secret>) {
        let cloud = &self.subject.cloud;
        let transport = self.transport.clone().through(cloud.proxy.clone());
        let way = Way::to_cloud(&cloud.endpoint, cloud.proxy.as_ref());
        let limit = self.subject.tunnels.connect_timeout;
        let header = match Authorization::new(self.subject.auth, None).header().await {
            Ok(header) => Some(header),
            Err(_) => token,
        };
        let Some(header) = header else {
            let reached = transport.connect(&cloud.endpoint, limit).await;
            self.add_all(way.hops(&self.journal.take(), reached.as_ref().err()));
            let words = match self.subject.auth {
                Auth::Bootstrap(_) => "not tried: the gateway is not registered yet",
                Auth::Unenrolled(_) => "not tried: the gateway has no certificate yet",
                _ => "not tried: there is no token to show",
            };
            self.add(Hop::skipped(WEBSOCKET, words));
            return;
        };
        let key = match impossible_key() {
            Ok(key) => key,
            Err(error) => {
                self.add(Hop::skipped(WEBSOCKET, &error.to_string()));
                return;
            }
        };
        let began = Instant::now();
        let opened = cloud::connect(&transport, &cloud.endpoint, &key, &header, limit).await;
        let steps = self.journal.take();
        let took = rest(began, &steps);
        match opened {
            Err(EndpointError::Transport(error)) => {
                self.add_all(way.hops(&steps, Some(&error)));
                self.add(Hop::skipped(WEBSOCKET, NOT_TRIED));
            }
            opened => {
                self.add_all(way.hops(&steps, None));
                self.add(websocket(opened.err().as_ref(), self.subject.auth, took));
            }
        }
    }

    async fn target(&mut self, target: &Target) {
        let settings = &self.subject.tunnels;
        let began = Instant::now();
        let names = Resolver::for_machines();
        let limit = settings.connect_timeout;
        let policy = settings.policy.clone().into();
        let reached = lan::connect(target, &policy, &names, limit).await;
        let took = began.elapsed();
        let error = match reached {
            Ok(stream) => {
                let address = stream.peer_addr();
                let address = address.map_or_else(|_| target.to_string(), |at| at.to_string());
                let words = format!("allows {target}");
                self.add(Hop::passed(POLICY, &words, Duration::ZERO));
                self.add(Hop::passed(
                    TARGET,
                    &format!("connected to {address}"),
                    took,
                ));
                return;
            }
            Err(error) => error,
        };
        let words = failure_reason(&error, REASON_LIMIT);
        let advice = advice::target(&error);
        match error {
            DialError::Denied(_) => {
                self.add(Hop::failed(POLICY, &words, took, advice));
                self.add(Hop::skipped(TARGET, NOT_TRIED));
            }
            // The policy is about addresses.
            DialError::Resolve { .. } | DialError::ResolveTimeout { .. } => {
                self.add(Hop::skipped(POLICY, "not tried: there is no address"));
                self.add(Hop::failed(TARGET, &words, took, advice));
            }
            DialError::Reach { .. } | DialError::ReachAny { .. } | DialError::Timeout { .. } => {
                let allows = format!("allows {target}");
                self.add(Hop::passed(POLICY, &allows, Duration::ZERO));
                self.add(Hop::failed(TARGET, &words, took, advice));
            }
        }
    }
}

fn accepted(
    Account {
        client_id, login, ..
    }: &Account,
) -> String {
    let user = match login {
        Some((user, _)) => format!("as user {user}"),
        None => "without a user".to_owned(),
    };
    format!("the broker took the login {user}, client id {client_id} (CONNACK 0)")
}

/// Judges what the local broker has said of its bridge on `topic`, if anything.
fn bridge(has_cloud: Option<bool>, topic: &str, took: Duration) -> Hop {
    match has_cloud {
        Some(true) => {
            let words = format!("it has the cloud, says the local broker on {topic}");
            Hop::passed(BRIDGE, &words, took)
        }
        Some(false) => {
            let words = format!("it has no cloud, says the local broker on {topic}");
            Hop::failed(BRIDGE, &words, took, advice::BRIDGE)
        }
        None => Hop::skipped(
            BRIDGE,
            &format!(
                "nothing is said on {topic}: where a bridge tells, mqtt.topic_prefix is not its"
            ),
        ),
    }
}

/// Returns how long what followed the steps took.
fn rest(began: Instant, steps: &[Step]) -> Duration {
    let before: Duration = steps.iter().map(|step| step.took).sum();
    began.elapsed().saturating_sub(before)
}

/// A key that no tunnel has.
fn impossible_key() -> Result<ConnectionKey, smartrest::RequestError> {
    ConnectionKey::parse(&format!("adit-check-{:032x}", fastrand::u128(..)))
}

fn configuration(subject: &Subject<'_>) -> Hop {
    let place = match subject.file {
        Some(file) => file.display().to_string(),
        None => "no file, flags and variables only".to_owned(),
    };
    let hop = Hop::passed(CONFIGURATION, &place, Duration::ZERO);
    let settings = advice::settings(subject);
    let advice = subject.warnings.iter().chain(&settings);
    advice.fold(hop, |hop, advice| hop.with_advice(advice))
}

fn confinement(confined: &Confined) -> Hop {
    match confined {
        Confined::Yes {
            abi,
            what,
            gaps,
            unseen,
        } => {
            let words = format!("Landlock {abi}: {what}");
            let hop = Hop::passed(CONFINEMENT, &words, Duration::ZERO);
            let hop = unseen.iter().fold(hop, |hop, link| {
                hop.with_advice(&format!(
                    "the link {} leads to a directory that is not there: start adit again once it is",
                    link.display()
                ))
            });
            match gaps.as_slice() {
                [] => hop,
                gaps => hop.with_advice(&format!(
                    "a later kernel could also forbid: {}",
                    gaps.join(", ")
                )),
            }
        }
        Confined::Unsupported(why) => Hop::skipped(CONFINEMENT, why),
        Confined::Inherited => Hop::skipped(CONFINEMENT, INHERITED),
        Confined::Failed(error) => Hop::skipped(CONFINEMENT, &format!("it failed: {error}")),
        Confined::Off => Hop::not_needed(CONFINEMENT, "left out, as ADIT_NO_SANDBOX says"),
    }
}

/// Judges the endpoint's answer to a key that cannot exist.
fn websocket(error: Option<&EndpointError>, auth: &Auth, took: Duration) -> Hop {
    let Some(error) = error else {
        let words = "it opened a WebSocket for a key that does not exist";
        let advice = "if no tunnel opens, check cloud.url: the platform refuses such a key";
        return Hop::passed(WEBSOCKET, words, took).with_advice(advice);
    };
    match error {
        EndpointError::Refused {
            status: status @ (403 | 404 | 409 | 410),
            author: author @ (Author::Platform | Author::Anybody),
            ..
        } => {
            let words = format!(
                "reached, and the credentials are taken (HTTP {status} for a key that does not \
                 exist)"
            );
            let hop = Hop::passed(WEBSOCKET, &words, took);
            let hop = match author {
                Author::Anybody => hop.with_advice(
                    "the answer does not show that it is the platform's: if no tunnel opens, check \
                     cloud.url",
                ),
                _ => hop,
            };
            match status {
                403 => hop.with_advice(
                    "if no tunnel opens, give the device's user the role for remote access",
                ),
                _ => hop,
            }
        }
        EndpointError::Refused {
            status: 401,
            author: Author::Platform | Author::Anybody,
            ..
        } => {
            let words = "reached, but the credentials are refused (HTTP 401)";
            let advice = advice::websocket(error, auth);
            Hop::failed(WEBSOCKET, words, took, &advice)
        }
        error => {
            let words = failure_reason(error, REASON_LIMIT);
            Hop::failed(WEBSOCKET, &words, took, &advice::websocket(error, auth))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_confinement_holds() {
        let yes = |gaps| Confined::Yes {
            abi: 3,
            what: "writes nowhere".to_owned(),
            gaps,
            unseen: Vec::new(),
        };
        let unseen = Confined::Yes {
            abi: 3,
            what: "writes nowhere".to_owned(),
            gaps: Vec::new(),
            unseen: vec!["/etc/resolv.conf".into()],
        };
        for (confined, text) in [
            (
                yes(vec![]),
                "✓ confinement: Landlock 3: writes nowhere (0 ms)",
            ),
            (
                yes(vec!["signals", "ports"]),
                "✓ confinement: Landlock 3: writes nowhere (0 ms)\n    \
                 a later kernel could also forbid: signals, ports",
            ),
            (
                unseen,
                "✓ confinement: Landlock 3: writes nowhere (0 ms)\n    \
                 the link /etc/resolv.conf leads to a directory that is not there: start adit again \
                 once it is",
            ),
            (
                Confined::Unsupported("this kernel has no Landlock"),
                "– confinement: this kernel has no Landlock",
            ),
            (
                Confined::Failed("out of memory".to_owned()),
                "– confinement: it failed: out of memory",
            ),
            (
                Confined::Off,
                "– confinement: left out, as ADIT_NO_SANDBOX says",
            ),
        ] {
            assert_eq!(confinement(&confined).to_string(), text);
        }
    }
}
