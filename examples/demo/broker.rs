//! An MQTT broker within the process, on the loopback interface only.
//!
//! Its own entry point listens for as long as the process lives and keeps the caller's thread, so
//! the parts below it are put together here: a task can be ended.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, anyhow};
use rumqttd::protocol::v4::V4;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The platform and the gateway, and the gateway again before its old connection is noticed.
const MAX_CONNECTIONS: usize = 8;
/// More than the largest packet of the platform.
const MAX_PAYLOAD: usize = 64 * 1024;
const CONNECT_LIMIT_MS: u16 = 5000;

/// A running broker; dropping it stops it.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    server: JoinHandle<anyhow::Result<()>>,
}

impl Broker {
    /// Starts a broker at a free port.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        // It binds by itself and does not say where, so a free port is found for it.
        let any = (Ipv4Addr::LOCALHOST, 0);
        let address = TcpListener::bind(any).await?.local_addr()?;
        let router = Router::new(0, router_config()).spawn();
        let mut server = Server::new(server_settings(address), router, V4);
        let server = tokio::spawn(async move {
            let ended = server.start(LinkType::Remote).await;
            ended.with_context(|| format!("cannot serve MQTT at {address}"))
        });
        Ok(Self { address, server })
    }

    /// Waits for the end of the broker, which nobody wants.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.server).await {
            Ok(Err(error)) => error,
            _ => anyhow!("the broker has stopped"),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router_config() -> RouterConfig {
    RouterConfig {
        max_connections: MAX_CONNECTIONS,
        max_outgoing_packet_count: 200,
        max_segment_size: 1024 * 1024,
        max_segment_count: 4,
        ..RouterConfig::default()
    }
}

fn server_settings(listen: SocketAddr) -> ServerSettings {
    ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: CONNECT_LIMIT_MS,
            max_payload_size: MAX_PAYLOAD,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    }
}
