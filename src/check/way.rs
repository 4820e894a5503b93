//! The hops of a connection: its name, TCP or a proxy, TLS, and a WebSocket for MQTT. Pure.

use std::time::Duration;

use super::advice;
use super::report::Hop;
use crate::net::certificate::Certificate;
use crate::net::journal::{Seen, Step};
use crate::net::proxy::Proxy;
use crate::net::{Awaited, BrokerEndpoint, Endpoint, Peer, TransportError};
use crate::words::failure_reason;

/// Bytes of a reason.
pub(super) const REASON_LIMIT: usize = 1024;
/// Said of a hop that an earlier one keeps from being tried.
pub(super) const NOT_TRIED: &str = "not tried, because of what is broken before";

/// A way to a server.
pub(super) struct Way<'a> {
    /// As "the broker".
    pub(super) who: &'static str,
    /// The key of the configuration that says where the server is.
    pub(super) key: &'static str,
    pub(super) server: &'a Endpoint,
    /// The path of a WebSocket that carries MQTT.
    pub(super) websocket: Option<&'a str>,
    pub(super) proxy: Option<&'a Proxy>,
}

/// A part of the way that has a line of its own.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Name,
    Connection,
    Tls,
    WebSocket,
}

impl Stage {
    /// TLS with a proxy is a part of the way through it.
    fn of(peer: Option<&Peer>, awaited: Awaited) -> Self {
        match (awaited, peer) {
            (Awaited::Name, _) => Self::Name,
            (Awaited::Dial | Awaited::Tunnel, _) | (Awaited::Tls, Some(Peer::Proxy(_))) => {
                Self::Connection
            }
            (Awaited::Tls, _) => Self::Tls,
            (Awaited::WebSocket, _) => Self::WebSocket,
        }
    }
}

impl<'a> Way<'a> {
    pub(super) fn to_broker(broker: &'a BrokerEndpoint, proxy: Option<&'a Proxy>) -> Self {
        Self {
            who: "the broker",
            key: "mqtt.url",
            server: &broker.server,
            websocket: broker.websocket.as_deref(),
            proxy,
        }
    }

    pub(super) fn to_cloud(server: &'a Endpoint, proxy: Option<&'a Proxy>) -> Self {
        Self {
            who: "the cloud",
            key: "cloud.url",
            server,
            websocket: None,
            proxy,
        }
    }

    /// Makes a hop of each stage of a connection that stands, or that failed with an error.
    pub(super) fn hops(&self, steps: &[Step], error: Option<&TransportError>) -> Vec<Hop> {
        let broken = error.map(|error| {
            let (peer, awaited) = error.step();
            (Stage::of(peer, awaited), error)
        });
        let mut hops = Vec::new();
        let mut before_the_fault = true;
        let websocket = self.websocket.map(|_| Stage::WebSocket);
        for stage in [Stage::Name, Stage::Connection, Stage::Tls]
            .into_iter()
            .chain(websocket)
        {
            let name = self.name(stage);
            let of_stage = |step: &&Step| Stage::of(Some(&step.peer), step.awaited) == stage;
            let steps: Vec<_> = steps.iter().filter(of_stage).collect();
            let took: Duration = steps.iter().map(|step| step.took).sum();
            hops.push(match broken {
                _ if stage == Stage::Tls && !self.server.tls => {
                    let words = format!("not needed: none is spoken, as {} says", self.key);
                    Hop::not_needed(name, &words)
                }
                Some((place, error)) if place == stage => {
                    before_the_fault = false;
                    let words = failure_reason(error, REASON_LIMIT);
                    Hop::failed(name, &words, took, &advice::transport(error, self.key))
                }
                _ if !before_the_fault => Hop::skipped(name, NOT_TRIED),
                _ => Hop::passed(name, &self.found(stage, &steps), took),
            });
        }
        hops
    }

    fn name(&self, stage: Stage) -> String {
        let who = self.who;
        match (stage, self.proxy) {
            (Stage::Name, Some(_)) => format!("name of the proxy to {who}"),
            (Stage::Name, None) => format!("name of {who}"),
            (Stage::Connection, Some(_)) => format!("proxy to {who}"),
            (Stage::Connection, None) => format!("TCP to {who}"),
            (Stage::Tls, _) => format!("TLS with {who}"),
            (Stage::WebSocket, _) => format!("WebSocket of {who}"),
        }
    }

    fn found(&self, stage: Stage, steps: &[&Step]) -> String {
        let mut seen = steps.iter().filter_map(|step| step.seen.as_ref());
        match (stage, seen.next(), self.proxy) {
            (Stage::Connection, _, Some(proxy)) => {
                format!("{proxy} opened a way to {}", self.server)
            }
            (Stage::Connection, Some(Seen::Address(address)), None) => {
                format!("connected to {address}")
            }
            (Stage::Name, Some(Seen::Address(addresses)), proxy) => {
                let host = &proxy.map_or(self.server, |proxy| &proxy.server).host;
                match host == addresses {
                    true => format!("{host} is an address"),
                    false => format!("{host} is {addresses}"),
                }
            }
            (_, Some(Seen::Tls { chain, agreed }), _) => format!("{}; {agreed}", in_words(chain)),
            (Stage::WebSocket, ..) => format!("open at {}", self.websocket.unwrap_or_default()),
            _ => "done".to_owned(),
        }
    }
}

/// The server's certificate, and behind it those of its issuers that it sent.
fn in_words(chain: &[Certificate]) -> String {
    let certificates: Vec<_> = chain.iter().map(ToString::to_string).collect();
    match certificates.is_empty() {
        true => "done, with a certificate that cannot be read".to_owned(),
        false => certificates.join("; with it came "),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn shows_every_certificate_that_the_server_sent() {
        let certificate = |name: &str, issuer: &str| Certificate {
            common_name: Some(name.to_owned()),
            issuer: Some(issuer.to_owned()),
            names: Vec::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            is_self_issued: false,
            is_ca: name != "broker",
        };
        let life = "valid from 1970-01-01T00:00:00Z until 1970-01-01T00:00:00Z";
        assert_eq!(
            in_words(&[certificate("broker", "sub"), certificate("sub", "root")]),
            format!(
                "'broker' for no host at all, issued by 'sub', {life}; with it came 'sub', issued by 'root', {life}"
            )
        );
        assert_eq!(
            in_words(&[]),
            "done, with a certificate that cannot be read"
        );
    }
}
