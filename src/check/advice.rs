//! What to do about an error. Pure.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rumqttc::ConnectReturnCode;
use rustix::io::Errno;

use super::Subject;
use super::mqtt::AskError;
use crate::auth::settings::Auth;
use crate::auth::token::NoToken;
use crate::mqtt::Settings;
use crate::mqtt::conversation::ConversationError;
use crate::mqtt::link::{Lost, SERVICE_PORT};
use crate::net::proxy::ProxyError;
use crate::net::{Awaited, Peer, TlsFault, TransportError};
use crate::tunnel::cloud::{Author, EndpointError};
use crate::tunnel::lan::DialError;
use crate::tunnel::policy::Denied;

/// The key that says where a proxy is, and what stands in for it.
const PROXY_KEY: &str = "cloud.proxy (or HTTPS_PROXY)";
/// The key that says where the broker is.
const MQTT_KEY: &str = "mqtt.url";
/// The platform gives up a client that is silent for longer.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_mins(10);
/// Where the platform does no more than lead to HTTPS.
const HTTP_PORT: u16 = 80;
const CLOSED: &str = "check the port in mqtt.url and the credentials; another client with the same \
                      id may also have come";
/// Where no token comes for a certificate.
pub(super) const TOKEN_SERVICE: &str = "over TLS, check that port 8443 of the host of cloud.url can \
    be reached, and that the platform trusts the issuer of auth.cert_file";
/// Where the local broker has lost the platform.
pub(super) const BRIDGE: &str = "look at the local broker's log for its connection to the platform: \
    adit waits until it is back";
/// Where the system gives no file for a connection, or for the resolver.
const NO_FILES: &str = "raise how many files may be open: LimitNOFILE= of the unit, or ulimit -n";
/// Where the broker ends the connection of a check beside an agent.
pub(super) const THROWN_OUT: &str = "the adit that runs has come back and thrown this check out: stop \
    it and check again, or use --agent";
const NOT_THE_PLATFORM: &str =
    "check cloud.url: what answers there is not the platform, or a proxy is in between";

/// Says what to look at in settings that can be used, and with the platform probably do not work.
pub(super) fn settings(Subject { mqtt, cloud, .. }: &Subject<'_>) -> Vec<String> {
    let mut advice = Vec::new();
    if mqtt.keep_alive > LONGEST_KEEP_ALIVE {
        let limit = humantime::format_duration(LONGEST_KEEP_ALIVE);
        advice.push(format!(
            "mqtt.keep_alive is longer than {limit}: the platform, and what is on the way, may give \
             the connection up before; use less"
        ));
    }
    let broker = &mqtt.endpoint;
    if broker.websocket.is_some() && broker.server.port == SERVICE_PORT {
        advice.push(format!(
            "mqtt.url names a WebSocket at port {SERVICE_PORT}, where the platform speaks none: use \
             mqtts://"
        ));
    }
    for (is_plain, key, scheme, endpoint) in [
        (!cloud.endpoint.tls, "cloud.url", "https", &cloud.endpoint),
        (broker.websocket.is_some(), MQTT_KEY, "wss", &broker.server),
    ] {
        if is_plain && !endpoint.tls && endpoint.port == HTTP_PORT {
            advice.push(format!(
                "{key} names port {HTTP_PORT}, where the platform does no more than lead to HTTPS: \
                 write {scheme}://"
            ));
        }
    }
    advice
}

/// `key` is the one that says where the server is.
pub(super) fn transport(error: &TransportError, key: &str) -> String {
    let key = match error.step().0 {
        Some(Peer::Proxy(_)) => PROXY_KEY,
        Some(Peer::Server(_)) | None => key,
    };
    match error {
        TransportError::Resolve { source, .. } | TransportError::Dial { source, .. }
            if wants_files(source) =>
        {
            NO_FILES.to_owned()
        }
        TransportError::Resolve { .. } => {
            format!("check the host in {key}, and the name servers in /etc/resolv.conf")
        }
        TransportError::Dial { source, .. } => dial(source, key),
        TransportError::Timeout { awaited, .. } => match awaited {
            Awaited::Name => {
                "the name servers do not answer: check /etc/resolv.conf, and that they can be \
                 reached"
                    .to_owned()
            }
            Awaited::Dial => format!(
                "check the host and the port in {key}; a firewall may drop it, and where only a \
                 proxy leads out, set cloud.proxy{}",
                way_out(key)
            ),
            Awaited::Tunnel => {
                "check that cloud.proxy is an HTTP proxy, and that it can reach the server"
                    .to_owned()
            }
            Awaited::Tls => format!(
                "check the port in {key}; something on the way may swallow TLS, or large packets"
            ),
            Awaited::WebSocket => format!("check the port and the path in {key}"),
        },
        TransportError::Proxy(error) => proxy(error),
        TransportError::Name { .. } => format!("use the name of the server in {key}"),
        TransportError::Tls { source, .. } => tls(source, key),
        TransportError::WebSocket(_) => {
            format!("check the port and the path in {key}; the platform's path is /mqtt")
        }
    }
}

fn wants_files(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .map(|no_file| Some(no_file.raw_os_error()))
        .contains(&code)
}

/// MQTT has a second way, for where only the port of the web is open.
fn way_out(key: &str) -> &'static str {
    match key {
        "mqtt.url" => "; where only port 443 gets out, write wss://HOST/mqtt there",
        _ => "",
    }
}

fn dial(source: &io::Error, key: &str) -> String {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!(
                "nobody listens there, or a firewall refuses it: check the port in {key}{}",
                way_out(key)
            )
        }
        _ => format!("check the host in {key}, and this machine's address, routes and firewall"),
    }
}

fn proxy(error: &ProxyError) -> String {
    match error {
        ProxyError::CredentialsWanted { .. } => {
            "set cloud.proxy with a user name and a password".to_owned()
        }
        ProxyError::CredentialsRefused { .. } => {
            format!("check the user name and the password in {PROXY_KEY}")
        }
        ProxyError::SchemeWanted { .. } => format!(
            "have the proxy let this machine through by its address, or take a user by Basic, or \
             check {PROXY_KEY}"
        ),
        ProxyError::Refused { target, .. } => {
            format!("have the proxy allow CONNECT to {target}, or check {PROXY_KEY}")
        }
        ProxyError::NoProxy { .. } | ProxyError::Broken { .. } => {
            format!("check the host, the port and http:// or https:// in {PROXY_KEY}")
        }
    }
}

fn tls(fault: &TlsFault, key: &str) -> String {
    match fault {
        TlsFault::Expired { .. } | TlsFault::NotYet { .. } => {
            "set this machine's clock if it is wrong, or else have the server's certificate renewed"
                .to_owned()
        }
        TlsFault::OtherName { asked, .. } => {
            let is_name = asked.parse::<IpAddr>().is_err();
            let hint = match is_name && key == MQTT_KEY {
                // The platform's certificate for MQTT does not follow the domains of tenants.
                true => {
                    "; under a tenant's own domain, name the platform's main domain there: its \
                     certificate for MQTT is for that one alone"
                }
                false => "",
            };
            format!(
                "use a name of the certificate in {key}, or have one made that names {asked}{hint}"
            )
        }
        TlsFault::UnknownIssuer { .. } => {
            "put the issuer's certificate into cloud.ca_file, if you know and trust it; if not, \
             somebody on the way reads along"
                .to_owned()
        }
        TlsFault::Authority { seen } if seen.is_self_issued => {
            "put this very certificate into cloud.ca_file, if you know and trust it; if not, \
             somebody on the way reads along"
                .to_owned()
        }
        TlsFault::Authority { .. } | TlsFault::Refused { .. } | TlsFault::Unreadable => {
            "have a proper certificate made for the server, and check that cloud.ca_file is of its \
             issuer"
                .to_owned()
        }
        TlsFault::CertificateWanted => "set auth.cert_file and auth.key_file".to_owned(),
        TlsFault::CertificateRefused(_) => {
            "check auth.cert_file, and that the platform trusts its issuer".to_owned()
        }
        TlsFault::NoTls => format!("check {}", tls_port(key)),
        TlsFault::Reset => format!(
            "check {}; if it is right, ask who runs the firewall",
            tls_port(key)
        ),
        TlsFault::Closed => format!(
            "check {}; where a client certificate is wanted, set auth.cert_file and auth.key_file",
            tls_port(key)
        ),
        TlsFault::Alert(_) | TlsFault::Other(_) => {
            format!("check the port in {key}, and what is between here and the server")
        }
    }
}

fn tls_port(key: &str) -> String {
    format!(
        "the port in {key}: TLS is spoken by MQTT at 8883 and by the cloud at 443; without TLS it \
         is mqtt:// or http://"
    )
}

/// For a connection that broke when it stood: in TLS 1.3 a server refuses a client certificate
/// only then.
fn late_tls(source: &io::Error, key: &str) -> Option<String> {
    let fault = source.get_ref()?.downcast_ref()?;
    Some(tls(fault, key))
}

const SILENCE: &str = "check the line, and whatever is between here and the broker";

pub(super) fn login(lost: &Lost, Subject { auth, mqtt, .. }: &Subject<'_>) -> String {
    match lost {
        Lost::Unreachable(error) => transport(error, "mqtt.url"),
        Lost::Refused(ConnectReturnCode::BadUserNamePassword) => {
            format!("check {}", credentials(auth, mqtt))
        }
        Lost::Refused(ConnectReturnCode::NotAuthorized) => format!(
            "check {}, and whether the user is locked; after a device was deleted, wait some \
             minutes",
            credentials(auth, mqtt)
        ),
        Lost::PasswordAtService if auth.identity().is_some() => {
            "take mqtt.username and mqtt.password away: beside a certificate the MQTT Service takes no \
             user but the id of the tenant"
                .to_owned()
        }
        Lost::PasswordAtService => {
            "set auth.cert_file and auth.key_file, or write port 8883 in mqtt.url".to_owned()
        }
        Lost::Refused(ConnectReturnCode::BadClientId) => "check device.id".to_owned(),
        Lost::Refused(ConnectReturnCode::ServiceUnavailable) => {
            "try again in some minutes".to_owned()
        }
        Lost::Refused(_)
        | Lost::Protocol(_)
        | Lost::SpeaksHttp
        | Lost::NoConnAck
        | Lost::ConnectTimeout(_) => {
            "check the port in mqtt.url: something else than MQTT may be spoken there".to_owned()
        }
        Lost::Closed => CLOSED.to_owned(),
        Lost::Io(error) => late_tls(error, "mqtt.url").unwrap_or_else(|| CLOSED.to_owned()),
        Lost::TooLarge(_) => "use a shorter device.id, user name or password".to_owned(),
        Lost::ClosedWithoutTls(scheme) => format!(
            "if the port speaks TLS, as 8883 does, write {scheme}:// in mqtt.url; if not, check the \
             port, and look at the broker's log"
        ),
        Lost::SpeaksTls(scheme) => {
            format!("write {scheme}:// in mqtt.url, or name the port without TLS")
        }
        Lost::Conversation(_) | Lost::Blocked => SILENCE.to_owned(),
    }
}

/// Names the keys that say as whom adit logs in to the broker.
fn credentials(auth: &Auth, mqtt: &Settings) -> &'static str {
    match (auth, &mqtt.login) {
        (Auth::Password { user, .. }, Some((login, _))) if user == login => {
            "auth.tenant, auth.username and the password"
        }
        (_, Some(_)) => "mqtt.username and mqtt.password",
        (Auth::Bootstrap(_), None) => "auth.bootstrap_username and its password",
        (Auth::Certificate(_), None) => "auth.cert_file, and that the platform trusts its issuer",
        (Auth::Unenrolled(_), None) => "the registration: there is no certificate yet",
        (Auth::Password { .. } | Auth::None, None) => "whether the broker wants mqtt.username",
    }
}

pub(super) fn refused_subscription() -> &'static str {
    "if the device is new, start `adit run`, which creates it; else give the device's user the \
     rights of a device"
}

pub(super) fn asked(error: &AskError) -> &'static str {
    match error {
        AskError::Lost(Lost::Conversation(ConversationError::NoPong(_)) | Lost::Blocked) => SILENCE,
        AskError::Lost(_) => {
            "a running agent may have come back and thrown the check out: stop it, or use --no-login"
        }
        AskError::NoSubAck => "look at the broker's log",
        AskError::NoToken(NoToken::Refused) => {
            "let the bridge log in with the device's certificate, or give adit a user \
             (auth.username) or the certificate (auth.cert_file) of its own"
        }
        AskError::NoToken(NoToken::Silent(_)) => {
            "behind a local broker, check that its bridge carries s/uat up and s/dat down, and \
             mqtt.topic_prefix; a new device has to exist first: start `adit run`"
        }
        AskError::NoToken(NoToken::Rubbish | NoToken::Service(_) | NoToken::Neither(..)) => {
            "look at what answers on s/dat: mqtt.url may not lead to the platform"
        }
    }
}

pub(super) fn websocket(error: &EndpointError, auth: &Auth) -> String {
    if let EndpointError::Broken { source, .. } = error
        && let Some(advice) = late_tls(source, "cloud.url")
    {
        return advice;
    }
    let advice = match (error, auth) {
        (
            EndpointError::Refused {
                author: Author::WebServer,
                status: 400..=499,
                ..
            },
            _,
        ) => NOT_THE_PLATFORM,
        (EndpointError::Refused { status: 401, .. }, Auth::Password { .. }) => {
            "check auth.tenant, auth.username and the password"
        }
        (EndpointError::Refused { status: 401, .. }, _) => {
            "check that cloud.url is the tenant that gave the token"
        }
        (EndpointError::Refused { status, .. }, _) => match status {
            300..=399 => "set cloud.url to where the platform is",
            407 => "set cloud.proxy with a user name and a password",
            429 | 500..=599 => "try again in some minutes, then ask who runs the platform",
            _ => "check cloud.url, and that the tenant has remote access",
        },
        (EndpointError::NotWebSocket { .. }, _) => NOT_THE_PLATFORM,
        (EndpointError::Timeout { .. } | EndpointError::Broken { .. }, _) => {
            "check cloud.url, and whether something on the way lets no WebSocket through"
        }
        (EndpointError::Credentials, _) => "check auth.username and the password",
        (EndpointError::Transport(_), _) => "check cloud.url",
    };
    advice.to_owned()
}

pub(super) fn policy(denied: &Denied) -> &'static str {
    match denied {
        Denied::Never { .. } => "no configuration allows it: use another address of the machine",
        Denied::ByPattern { .. } => {
            "take the pattern out of remote_access.deny, if it may be reached"
        }
        Denied::NotAllowed { .. } => "add it to remote_access.allow, if it may be reached",
    }
}

pub(super) fn target(error: &DialError) -> &'static str {
    match error {
        DialError::Denied(denied) => policy(denied),
        DialError::Resolve { source, .. }
        | DialError::Reach { source, .. }
        | DialError::ReachAny { source, .. }
            if wants_files(source) =>
        {
            NO_FILES
        }
        DialError::Resolve { .. } => "check the name, and the name servers in /etc/resolv.conf",
        DialError::ResolveTimeout { .. } => {
            "the name servers do not answer: check /etc/resolv.conf, and that they can be reached"
        }
        DialError::Reach { source, .. } | DialError::ReachAny { source, .. }
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            "the machine is on, but nobody listens at this port: check the port and the service"
        }
        DialError::Reach { .. } | DialError::ReachAny { .. } | DialError::Timeout { .. } => {
            "check that the machine is on, its address, and the firewalls on the way"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blames_no_name_and_no_machine_where_files_are_wanting() {
        for code in [Errno::MFILE, Errno::NFILE] {
            let error = DialError::Resolve {
                host: "plc-7.lan".to_owned(),
                source: code.into(),
            };
            assert_eq!(target(&error), NO_FILES);
        }
        let error = DialError::Resolve {
            host: "plc-7.lan".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert!(target(&error).starts_with("check the name"));
    }
}
