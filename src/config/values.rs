//! From the text of a value to the value. A refusal is a clause to stand behind the text; it never
//! repeats the text, which may be a secret.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use smartrest::target::split_port;

use super::shape::Shape;
use crate::auth;
use crate::net::proxy::Proxy;
use crate::net::{BrokerEndpoint, Endpoint};
use crate::platform::settings::{OperationIds, Protocol};
use crate::secret::Secret;
use crate::tunnel::policy::Pattern;

/// The user, password and names of a device fit into one MQTT packet of the platform with ease.
const NAME_LIMIT: usize = 250;
/// Generous for a password, small for a file that was named by mistake.
const SECRET_LIMIT: usize = 4096;
const MAX_TUNNELS: usize = 10_000;
/// The system has 108 bytes for the path of a socket (unix(7)): a zero stands behind it, and a
/// suffix of the name under which it is made.
const SOCKET_PATH_LIMIT: usize = 100;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Who waits longer means never.
const LONGEST_LIMIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Anything shorter would be over before a packet has crossed a LAN.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);
/// MQTT counts the keep-alive in two bytes.
const LONGEST_MQTT_KEEP_ALIVE: Duration = Duration::from_secs(u16::MAX as u64);

const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;
/// MQTT over TLS.
pub(super) const MQTTS_PORT: u16 = 8883;
const MQTT_PORT: u16 = 1883;
/// Where the platform, and brokers by custom, take MQTT over WebSocket.
const MQTT_PATH: &str = "/mqtt";

pub(super) fn device_id(text: &str) -> Result<String, String> {
    // The platform parts a client id at `:`; the others have a meaning in topics.
    if text.contains([':', '/', '+', '#']) {
        return Err("has one of the characters : / + # that a device id cannot have".to_owned());
    }
    label(text)
}

pub(super) fn child_id(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    device_id(text)
}

pub(super) fn label(text: &str) -> Result<String, String> {
    if text.len() > NAME_LIMIT {
        return Err(format!("is longer than {NAME_LIMIT} bytes"));
    }
    if text.trim() != text {
        return Err("begins or ends with a space".to_owned());
    }
    no_control(text)?;
    if text.contains(smartrest::is_noncharacter) {
        return Err("has a Unicode non-character, which no broker takes".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn operation(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("is not the name of an operation such as \"c8y_Restart\"".to_owned());
    }
    label(text)
}

pub(super) fn topic_prefix(text: &str) -> Result<String, String> {
    if !text.is_empty() && !text.ends_with('/') {
        return Err("does not end with /".to_owned());
    }
    if text.starts_with(['/', '$']) || text.contains(['+', '#']) {
        return Err("is not the beginning of a topic such as \"c8y/\"".to_owned());
    }
    label(text)
}

pub(super) fn tenant(text: &str) -> Result<String, String> {
    if text.contains(['/', ':']) {
        return Err("has one of the characters / : that a tenant id cannot have".to_owned());
    }
    label(text)
}

pub(super) fn platform_user(text: &str) -> Result<String, String> {
    // HTTP Basic authentication parts user and password at the first colon.
    if text.contains(':') {
        return Err("has a colon, which a user name cannot have".to_owned());
    }
    let parts = text.split('/');
    if parts.clone().count() > 2 || parts.clone().any(str::is_empty) {
        return Err("is neither a user nor a tenant and a user with / between".to_owned());
    }
    label(text)
}

pub(super) fn user(text: &str) -> Result<String, String> {
    label(text)
}

pub(super) fn secret(text: &str) -> Result<Secret, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > SECRET_LIMIT {
        return Err(format!("is longer than {SECRET_LIMIT} bytes"));
    }
    no_control(text)?;
    Ok(Secret::new(text))
}

/// What a device is registered with.
pub(super) fn one_time_password(text: &str) -> Result<Secret, String> {
    let limit = auth::one_time_password::LENGTH;
    if text.chars().count() > limit {
        return Err(format!("is longer than {limit} characters"));
    }
    secret(text)
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    no_control(text)?;
    Ok(PathBuf::from(text))
}

/// Where HTTP is spoken; nothing is nowhere.
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if is_none(text) {
        return Ok(None);
    }
    let address = text.parse().map(Some);
    address.map_err(|_| "is not an address and a port such as \"127.0.0.1:9590\"".to_owned())
}

/// Where the socket of `adit status` is; nothing is nowhere.
pub(super) fn socket(text: &str) -> Result<Option<PathBuf>, String> {
    if is_none(text) {
        return Ok(None);
    }
    let path = path(text)?;
    if !path.is_absolute() {
        return Err("does not begin with /".to_owned());
    }
    if text.len() > SOCKET_PATH_LIMIT {
        return Err(format!(
            "is longer than the {SOCKET_PATH_LIMIT} bytes that the system takes for a socket"
        ));
    }
    Ok(Some(path))
}

fn is_none(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("none")
}

/// What stands in an HTTP header, and is typed into a form.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "has a character that cannot stand in a token: a space, or none of ASCII".to_owned(),
        );
    }
    secret(text)
}

fn no_control(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err("has a control character such as a line break".to_owned());
    }
    Ok(())
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("is not {}", Shape::Switch.expected())),
    }
}

pub(super) fn max_tunnels(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=MAX_TUNNELS) => Ok(number),
        _ => Err(format!("is not a whole number from 1 to {MAX_TUNNELS}")),
    }
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    let named = |protocol: &Protocol| protocol.as_str().eq_ignore_ascii_case(text);
    let found = Protocol::ALL.into_iter().find(named);
    found.ok_or_else(|| {
        let known = Protocol::ALL.map(Protocol::as_str);
        format!("is not one of {}", known.join(", "))
    })
}

pub(super) fn operation_ids(text: &str) -> Result<OperationIds, String> {
    match text.to_ascii_lowercase().as_str() {
        // The key was a switch for the templates once.
        "true" => return Ok(OperationIds::Templates),
        "false" => return Ok(OperationIds::None),
        _ => {}
    }
    let named = |source: &OperationIds| source.as_str().eq_ignore_ascii_case(text);
    let found = OperationIds::ALL.into_iter().find(named);
    found.ok_or_else(|| {
        let known = OperationIds::ALL.map(OperationIds::as_str);
        format!("is not one of {}", known.join(", "))
    })
}

pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse()
        .map_err(|error: crate::tunnel::policy::PatternError| error.to_string())
}

pub(super) fn allowed_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = pattern(text)?;
    match pattern.never_reached() {
        Some(kind) => Err(format!(
            "is never reached, whatever is allowed: it is {kind}"
        )),
        None => Ok(pattern),
    }
}

pub(super) fn wait(text: &str) -> Result<Duration, String> {
    between(duration(text)?, SHORTEST_WAIT, LONGEST_WAIT)
}

pub(super) fn keep_alive(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval.is_zero() {
        return Ok(interval);
    }
    let refusal = |clause| format!("{clause}, or \"0\" for never");
    between(interval, SHORTEST_WAIT, LONGEST_WAIT).map_err(refusal)
}

pub(super) fn mqtt_keep_alive(text: &str) -> Result<Duration, String> {
    whole(
        between(duration(text)?, SECOND, LONGEST_MQTT_KEEP_ALIVE)?,
        SECOND,
        "seconds",
    )
}

pub(super) fn required_interval(text: &str) -> Result<Option<Duration>, String> {
    let interval = duration(text)?;
    if interval.is_zero() {
        return Ok(None);
    }
    let interval = whole(interval, MINUTE, "minutes, or \"0\" to leave it alone")?;
    between(interval, MINUTE, LONGEST_LIMIT).map(Some)
}

/// From a minute, so that there is time to ask, to what is always and does not exceed a clock.
pub(super) fn renew_before(text: &str) -> Result<Duration, String> {
    // A year has 365.25 days where durations are read and written.
    const LONGEST: Duration = Duration::from_hours(10_000 * 8766);
    between(duration(text)?, MINUTE, LONGEST)
}

pub(super) fn limit(text: &str) -> Result<Option<Duration>, String> {
    let limit = duration(text)?;
    if limit.is_zero() {
        return Ok(None);
    }
    let refusal = |clause| format!("{clause}, or \"0\" for never");
    between(limit, SECOND, LONGEST_LIMIT)
        .map(Some)
        .map_err(refusal)
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let expected = Shape::Duration.expected();
    humantime::parse_duration(text).map_err(|_| format!("is not {expected}"))
}

fn between(value: Duration, shortest: Duration, longest: Duration) -> Result<Duration, String> {
    if (shortest..=longest).contains(&value) {
        return Ok(value);
    }
    let words = humantime::format_duration;
    let (shortest, longest) = (words(shortest), words(longest));
    Err(format!(
        "is not a duration from \"{shortest}\" to \"{longest}\""
    ))
}

fn whole(value: Duration, unit: Duration, units: &str) -> Result<Duration, String> {
    if value.as_nanos().is_multiple_of(unit.as_nanos()) {
        return Ok(value);
    }
    Err(format!("is not in whole {units}"))
}

pub(super) fn cloud_url(text: &str) -> Result<Endpoint, String> {
    let url = Url::split(text, "https://tenant.example.com")?;
    match url.scheme.as_str() {
        "https" => url.endpoint(true, HTTPS_PORT),
        "http" => url.endpoint(false, HTTP_PORT),
        "wss" => Err("begins with wss://; write https://, adit opens the WebSocket".to_owned()),
        "ws" => Err("begins with ws://; write http://, adit opens the WebSocket".to_owned()),
        _ => Err("does not begin with https:// or http://".to_owned()),
    }
}

pub(super) fn mqtt_url(text: &str) -> Result<BrokerEndpoint, String> {
    const EXAMPLE: &str = "mqtts://tenant.example.com:8883";
    let scheme = text.split("://").next().unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    let (text, path) = match scheme.as_str() {
        "ws" | "wss" => split_path(text)?,
        _ => (text, None),
    };
    let url = Url::split(text, EXAMPLE)?;
    let server = match scheme.as_str() {
        "mqtts" => url.endpoint(true, MQTTS_PORT),
        "mqtt" => url.endpoint(false, MQTT_PORT),
        "wss" => url.endpoint(true, HTTPS_PORT),
        "ws" => url.endpoint(false, HTTP_PORT),
        _ => Err("does not begin with mqtts://, mqtt://, wss:// or ws://".to_owned()),
    }?;
    Ok(BrokerEndpoint {
        server,
        websocket: path,
    })
}

/// Takes the path off the URL of a WebSocket.
fn split_path(text: &str) -> Result<(&str, Option<String>), String> {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let rest = text.get(start..).unwrap_or_default();
    let length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (_, path) = rest.split_at(length);
    // An `@` in it may end a password: the rest of the URL's reading says so.
    if path.contains('@') {
        return Ok((text, None));
    }
    if path.contains('#') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has a character in its path that cannot stand there".to_owned());
    }
    let path = match path {
        "" | "/" => MQTT_PATH.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        query => format!("{MQTT_PATH}{query}"),
    };
    let authority = text.get(..start + length).unwrap_or(text);
    Ok((authority, Some(path)))
}

/// A proxy, or "none".
pub(super) fn proxy(text: &str) -> Result<Option<Proxy>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    any_proxy(text, None).map(Some)
}

/// Reads a proxy's URL as curl does: what stands behind host and port means nothing.
pub(super) fn any_proxy(text: &str, default_http_port: Option<u16>) -> Result<Proxy, String> {
    const EXAMPLE: &str = "http://user:password@proxy:3128";
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| format!("is neither \"none\" nor a URL such as \"{EXAMPLE}\""))?;
    let (tls, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "https" => (true, Some(HTTPS_PORT)),
        "http" => (false, default_http_port),
        _ => return Err("does not begin with http:// or https://".to_owned()),
    };
    let length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(length);
    if path.contains('@') {
        return Err(
            "has one of the characters / ? # in its user or password; write %2F, %3F, %23"
                .to_owned(),
        );
    }
    let (credentials, authority) = match authority.rsplit_once('@') {
        Some((credentials, authority)) => (Some(credentials), authority),
        None => (None, authority),
    };
    let server = Url {
        scheme: String::new(),
        authority,
        example: EXAMPLE,
    };
    // No server listens on port 0, so it can stand for none.
    let server = server.endpoint(tls, default_port.unwrap_or(0))?;
    if server.port == 0 {
        return Err(format!("names no port, unlike \"{EXAMPLE}\""));
    }
    let Some(credentials) = credentials else {
        return Ok(Proxy::new(server, None));
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let user = percent_decoded(user)?;
    if user.contains(':') {
        return Err("has a colon in its user, which HTTP cannot carry".to_owned());
    }
    let password = Secret::new(percent_decoded(password)?);
    Ok(Proxy::new(server, Some((&user, &password))))
}

pub(super) fn percent_decoded(text: &str) -> Result<String, String> {
    let refusal =
        || "has a % in its user or password that does not begin %25 or the like".to_owned();
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let value = high.zip(low).map(|(high, low)| high * 16 + low);
        bytes.push(
            value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or_else(refusal)?,
        );
    }
    let text = String::from_utf8(bytes).map_err(|_| refusal())?;
    no_control(&text)?;
    Ok(text)
}

/// A URL that names a server and nothing else.
struct Url<'a> {
    scheme: String,
    /// Host, and port if it is given.
    authority: &'a str,
    example: &'static str,
}

impl<'a> Url<'a> {
    fn split(text: &'a str, example: &'static str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("is not a URL such as \"{example}\""))?;
        // Looked for in all of the text: a password may hold the characters that end a host.
        if rest.contains('@') {
            return Err("has a user or a password, which belong in the section auth".to_owned());
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(format!(
                "has something behind host and port, unlike \"{example}\""
            ));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            authority,
            example,
        })
    }

    fn endpoint(&self, tls: bool, default_port: u16) -> Result<Endpoint, String> {
        let no_host = || format!("does not name a host as \"{}\" does", self.example);
        let no_split = || match self.authority.starts_with('[') {
            true => no_host(),
            false => "has an IPv6 address without [ and ]".to_owned(),
        };
        let (host, port) = split_port(self.authority).ok_or_else(no_split)?;
        // What TLS cannot check against a certificate is no host to speak to.
        ServerName::try_from(host).map_err(|_| no_host())?;
        let port = match port {
            None => default_port,
            Some(port) => match port.parse() {
                Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
                _ => return Err("does not have a port from 1 to 65535".to_owned()),
            },
        };
        let host = host.to_owned();
        Ok(Endpoint { tls, host, port })
    }
}
