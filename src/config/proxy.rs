//! Which connection goes through which proxy: `cloud.proxy`, else the environment as curl reads it.
//!
//! The variables are about HTTP, and a broker is often on this machine or next to it. So a broker
//! without TLS goes through none that only the environment names, and a broker on this machine that
//! bridges to the platform through none at all. The rules of `NO_PROXY` hold for both.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::values;
use crate::net::proxy::Proxy;
use crate::net::{BrokerEndpoint, Endpoint};

/// As curl has it.
const DEFAULT_PORT: u16 = 1080;
/// Whichever is set to something first counts.
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// What an operator and the environment say of proxies.
#[derive(Clone)]
pub(super) struct Proxies {
    /// The value of `cloud.proxy`, where `None` is "none".
    configured: Option<Option<Proxy>>,
    /// The variables about proxies, whose values may hold passwords.
    environment: Vec<(OsString, OsString)>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxies(..)")
    }
}

/// A variable that names a proxy which cannot be used.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Unusable {
    pub(super) variable: &'static str,
    /// A clause behind the name; it shows nothing of the value.
    pub(super) complaint: String,
}

impl Proxies {
    /// Takes the value of `cloud.proxy`, and what it needs of all variables.
    pub(super) fn new(
        configured: Option<Option<Proxy>>,
        environment: &[(OsString, OsString)],
    ) -> Self {
        let is_theirs = |(name, _): &&(OsString, OsString)| {
            let name = name.as_encoded_bytes().to_ascii_lowercase();
            name.ends_with(b"_proxy")
        };
        Self {
            configured,
            environment: environment.iter().filter(is_theirs).cloned().collect(),
        }
    }

    /// Returns the way to the platform.
    pub(super) fn to_cloud(&self, cloud: &Endpoint) -> Result<Option<Proxy>, Unusable> {
        self.to_web(cloud)
    }

    /// Returns the way to the broker.
    pub(super) fn to_broker(&self, broker: &BrokerEndpoint) -> Result<Option<Proxy>, Unusable> {
        let BrokerEndpoint { server, websocket } = broker;
        let is_plain = !server.tls && websocket.is_none();
        let is_here = is_this_machine(&server.host);
        match self.configured {
            Some(_) if is_plain && is_here => Ok(None),
            None if is_plain || is_here => Ok(None),
            _ => self.to_web(server),
        }
    }

    fn to_web(&self, server: &Endpoint) -> Result<Option<Proxy>, Unusable> {
        let exceptions = self.variable(&EXCEPTIONS);
        if exceptions.is_some_and(|(_, list)| is_excepted(&server.host, &list.to_string_lossy())) {
            return Ok(None);
        }
        if let Some(configured) = &self.configured {
            return Ok(configured.clone());
        }
        // Never HTTP_PROXY: where adit is started by a web server, a request can set it.
        let names: &[_] = if server.tls {
            &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            &["http_proxy", "all_proxy", "ALL_PROXY"]
        };
        let Some((variable, text)) = self.variable(names) else {
            return Ok(None);
        };
        read(text).map(Some).map_err(|complaint| Unusable {
            variable,
            complaint,
        })
    }

    /// Returns the variable of exceptions, if some of it cannot be read.
    pub(super) fn illegible_exceptions(&self) -> Option<&'static str> {
        let (variable, list) = self.variable(&EXCEPTIONS)?;
        list.to_str().is_none().then_some(variable)
    }

    /// Returns the first variable that is set to something, and what it says.
    fn variable(&self, names: &[&'static str]) -> Option<(&'static str, &OsStr)> {
        names.iter().find_map(|&wanted| {
            let found = self.environment.iter().find(|(name, _)| name == wanted);
            let text = found?.1.as_os_str();
            let is_blank = text.to_str().is_some_and(|text| text.trim().is_empty());
            (!is_blank).then_some((wanted, text))
        })
    }
}

/// Reads a proxy's URL, whose scheme may be left out, or says what is wrong with it.
fn read(text: &OsStr) -> Result<Proxy, String> {
    let text = text.to_str().ok_or("is not UTF-8 text")?.trim();
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    values::any_proxy(&text, Some(DEFAULT_PORT))
}

pub(super) fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether a list as `NO_PROXY` names a host.
fn is_excepted(host: &str, list: &str) -> bool {
    if list.trim() == "*" {
        return true;
    }
    let mut entries = list
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty());
    match host.parse::<IpAddr>() {
        Ok(address) => entries.any(|entry| covers(entry, address)),
        Err(_) => {
            let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            entries.any(|entry| {
                let domain = entry.strip_suffix('.').unwrap_or(entry);
                let domain = domain.strip_prefix('.').unwrap_or(domain);
                let rest = host.strip_suffix(&domain.to_ascii_lowercase());
                !domain.is_empty()
                    && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        }
    }
}

fn covers(entry: &str, address: IpAddr) -> bool {
    let bare = entry.trim_matches(['[', ']']);
    match bare.parse::<IpAddr>() {
        Ok(other) => other == address,
        Err(_) => bare
            .parse::<IpNet>()
            .is_ok_and(|network| network.contains(&address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(tls: bool, host: &str) -> Endpoint {
        let (host, port) = (host.to_owned(), if tls { 443 } else { 80 });
        Endpoint { tls, host, port }
    }

    fn broker(tls: bool, host: &str) -> BrokerEndpoint {
        web(tls, host).into()
    }

    fn proxies(configured: Option<&str>, environment: &[(OsString, OsString)]) -> Proxies {
        let configured = configured.map(|text| values::proxy(text).unwrap());
        Proxies::new(configured, environment)
    }

    fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        let own = |(name, text): &(&str, &str)| (name.into(), text.into());
        variables.iter().map(own).collect()
    }

    fn shown(proxy: Result<Option<Proxy>, Unusable>) -> String {
        match proxy {
            Ok(proxy) => proxy.map_or_else(|| "direct".to_owned(), |proxy| proxy.to_string()),
            Err(unusable) => format!("{} {}", unusable.variable, unusable.complaint),
        }
    }

    #[test]
    fn takes_the_variable_that_curl_takes() {
        for (variables, tls, way) in [
            (vec![], true, "direct"),
            (vec![("HTTPS_PROXY", "http://a:1")], true, "a:1"),
            (
                vec![("https_proxy", "http://a:1"), ("HTTPS_PROXY", "http://b:2")],
                true,
                "a:1",
            ),
            (
                vec![("https_proxy", ""), ("HTTPS_PROXY", "b:2")],
                true,
                "b:2",
            ),
            (vec![("HTTPS_PROXY", "a")], true, "a:1080"),
            (vec![("HTTPS_PROXY", "https://a")], true, "a:443"),
            (vec![("HTTPS_PROXY", "http://u:p@a:1/path")], true, "a:1"),
            (vec![("http_proxy", "a:1")], true, "direct"),
            (vec![("http_proxy", "a:1")], false, "a:1"),
            (vec![("HTTP_PROXY", "a:1")], false, "direct"),
            (vec![("HTTPS_PROXY", "a:1")], false, "direct"),
            (vec![("ALL_PROXY", "a:1")], false, "a:1"),
            (
                vec![("ALL_PROXY", "a:1"), ("HTTPS_PROXY", "b:2")],
                true,
                "b:2",
            ),
            (
                vec![("ALL_PROXY", "socks5h://u:hunter2@a:1")],
                true,
                "ALL_PROXY does not begin with http:// or https://",
            ),
        ] {
            let environment = environment(&variables);
            let way_there = proxies(None, &environment).to_cloud(&web(tls, "cloud"));
            assert_eq!(shown(way_there), way, "{variables:?}");
        }
    }

    #[test]
    fn excepts_what_curl_excepts() {
        for (list, host, excepted) in [
            ("*", "cloud.example.com", true),
            ("a,*", "cloud.example.com", false),
            ("cloud.example.com", "cloud.example.com", true),
            ("CLOUD.example.com.", "cloud.Example.com", true),
            ("example.com", "cloud.example.com", true),
            (".example.com", "cloud.example.com", true),
            (".example.com", "example.com", true),
            ("example.com", "cloud.example.com.", true),
            ("ample.com", "example.com", false),
            ("cloud.example.com", "example.com", false),
            ("a, example.com", "cloud.example.com", true),
            ("a example.com", "cloud.example.com", true),
            (",,", "cloud.example.com", false),
            (".", "cloud.example.com", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.70", false),
            ("10.0.0.0/8", "10.20.30.40", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/33", "10.0.0.1", false),
            ("0.7", "10.0.0.7", false),
            ("fd00::/8", "fd00::7", true),
            ("[::1]", "::1", true),
            ("localhost", "127.0.0.1", false),
        ] {
            assert_eq!(is_excepted(host, list), excepted, "{host} in {list}");
            let environment = environment(&[("NO_PROXY", list)]);
            let configured = proxies(Some("http://a:1"), &environment);
            let way = if excepted { "direct" } else { "a:1" };
            assert_eq!(shown(configured.to_cloud(&web(true, host))), way);
        }
    }

    #[test]
    fn leaves_a_local_broker_alone() {
        let environment = environment(&[("HTTPS_PROXY", "e:1"), ("ALL_PROXY", "e:1")]);
        let websocket = |tls, host: &str| BrokerEndpoint {
            websocket: Some("/mqtt".to_owned()),
            ..broker(tls, host)
        };
        for (broker, by_environment, configured) in [
            (broker(true, "cloud"), "e:1", "c:2"),
            (websocket(true, "cloud"), "e:1", "c:2"),
            (websocket(false, "cloud"), "e:1", "c:2"),
            (broker(false, "cloud"), "direct", "c:2"),
            (broker(true, "localhost"), "direct", "c:2"),
            (websocket(false, "::1"), "direct", "c:2"),
            (broker(false, "127.0.0.2"), "direct", "direct"),
        ] {
            let ways = [None, Some("http://c:2"), Some("none")]
                .map(|configured| shown(proxies(configured, &environment).to_broker(&broker)));
            assert_eq!(ways, [by_environment, configured, "direct"], "{broker:?}");
        }
    }
}
