//! Networks from which only an HTTP proxy leads out.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::support::{
    Adit, Lan, Login, Network, Proxy, Site, SiteOptions, Surroundings, Watcher, refusing_port,
};

const PASSWORD: &str = "proxy-secret-5e";

/// A site outside of a network, and a proxy at the network's gate.
struct Fenced {
    site: Site,
    proxy: Proxy,
    network: Network,
}

impl Fenced {
    async fn new(websocket: bool, login: Login) -> Self {
        let network = Network::new();
        let site = Site::with(SiteOptions {
            tls: true,
            login,
            websocket,
            address: Some(network.outside()),
            ..SiteOptions::default()
        })
        .await;
        let proxy = Proxy::start(network.gate(), PASSWORD).await;
        Self {
            site,
            proxy,
            network,
        }
    }

    /// Starts adit within, and opens a tunnel. The LAN machine is at the gate too.
    async fn works(&self, variables: &[(&str, &str)], settings: &[&str]) {
        let Self {
            site,
            proxy,
            network,
        } = self;
        let gate = network.gate().to_string();
        let places = [site.broker_place(), site.cloud.address().to_string()];
        let asked_for = || places.each_ref().map(|place| proxy.asked_for(place));
        let before = asked_for();
        let surroundings = Surroundings {
            network: Some(network),
            variables,
            ..Surroundings::default()
        };
        let allow = format!("remote_access.allow={gate}");
        let settings = [settings, &[&allow]].concat();
        let mut adit = site.adit_in(&surroundings, &settings).await;
        let lan = Lan::echo_at(network.gate()).await;
        let (_, mut far_end) = site.open_to(&gate, lan.port).await;
        far_end.echo("hello").await;
        for (place, before) in places.iter().zip(before) {
            proxy.wait_until_asked(before + 1, place).await;
        }
        assert_eq!(asked_for(), before.map(|count| count + 1));
        adit.terminate();
        far_end.rest().await;
        assert!(adit.exit().await.success());
        assert!(!adit.log().contains(PASSWORD));
        site.assert_no_complaint();
    }

    /// Nothing is reached without the proxy.
    async fn is_tight(&self) {
        let surroundings = Surroundings {
            network: Some(&self.network),
            variables: &[],
            ..Surroundings::default()
        };
        let adit = Adit::start_in(&surroundings, &self.site.config(), &[]);
        let line = adit.wait_for_log("no connection to the broker").await;
        let error = format!(
            "cannot reach {}: network is unreachable",
            self.site.broker_place()
        );
        assert!(line.to_lowercase().contains(&error), "{line}");
    }
}

#[tokio::test]
async fn gets_out_of_a_network_through_a_proxy() {
    let fenced = Fenced::new(false, Login::User).await;
    fenced.is_tight().await;
    let url = fenced.proxy.url(PASSWORD);
    fenced.works(&[("ADIT_CLOUD_PROXY", &url)], &[]).await;
    fenced.works(&[("HTTPS_PROXY", &url)], &[]).await;
    fenced.works(&[("ALL_PROXY", &url)], &[]).await;
}

#[tokio::test]
async fn gets_back_through_the_proxy_to_the_broker_in_use_after_a_reload_that_names_another() {
    let mut fenced = Fenced::new(false, Login::User).await;
    let place = fenced.site.broker_place();
    let url = fenced.proxy.url(PASSWORD);
    let surroundings = Surroundings {
        network: Some(&fenced.network),
        variables: &[("ADIT_CLOUD_PROXY", &url)],
        ..Surroundings::default()
    };
    let watcher = Watcher::new();
    let site = &mut fenced.site;
    let adit = Adit::start_in(&surroundings, &site.config(), &[&watcher.setting()]);
    let adit = adit.ready().await;
    fenced.proxy.wait_until_asked(1, &place).await;
    // No proxy leads to a broker that is here.
    let config = site.config();
    adit.write_config(&config.replace(&site.mqtt_url(), "mqtt://127.0.0.1:1"));
    let said = watcher.reload(&[]).await;
    assert_eq!(said.result, "needs a restart: mqtt.url\n", "{said:?}");
    site.broker.kill();
    site.broker.restart().await;
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
    fenced.proxy.wait_until_asked(2, &place).await;
}

#[tokio::test]
async fn gets_out_over_a_websocket_through_a_proxy() {
    let fenced = Fenced::new(true, Login::User).await;
    let url = fenced.proxy.url(PASSWORD);
    fenced.works(&[("ADIT_CLOUD_PROXY", &url)], &[]).await;
    fenced.works(&[("https_proxy", &url)], &[]).await;
}

#[tokio::test]
async fn shows_its_certificate_through_a_proxy() {
    let fenced = Fenced::new(false, Login::Certificate).await;
    let url = fenced.proxy.url(PASSWORD);
    fenced.works(&[("ADIT_CLOUD_PROXY", &url)], &[]).await;
    let handshakes = fenced.site.cloud.handshakes();
    assert_eq!(handshakes[0].authorization.as_deref(), Some("Bearer"));
}

#[tokio::test]
async fn goes_directly_to_what_no_proxy_names() {
    let network = Network::new();
    let address = network.outside().to_string();
    let site = Site::with(SiteOptions {
        tls: true,
        address: Some(network.outside()),
        ..SiteOptions::default()
    })
    .await;
    let nobody = refusing_port();
    let url = format!("http://127.0.0.1:{}", nobody.number);
    let range = format!("10.0.0.0/8, {address}/29");
    for (proxy, exceptions) in [("HTTPS_PROXY", &address), ("ADIT_CLOUD_PROXY", &range)] {
        let surroundings = Surroundings {
            variables: &[(proxy, &url), ("NO_PROXY", exceptions)],
            ..Surroundings::default()
        };
        let _adit = site.adit_in(&surroundings, &[]).await;
        let lan = Lan::echo().await;
        let (_, mut far_end) = site.open(lan.port).await;
        far_end.echo("hello").await;
    }
    // The proxy is meant for all others.
    let surroundings = Surroundings {
        network: None,
        variables: &[("HTTPS_PROXY", &url), ("NO_PROXY", "example.com")],
        ..Surroundings::default()
    };
    let adit = Adit::start_in(&surroundings, &site.config(), &[]);
    let line = adit.wait_for_log("no connection to the broker").await;
    let error = format!(
        "cannot reach the proxy 127.0.0.1:{}: connection refused",
        nobody.number
    );
    assert!(line.contains(&error), "{line}");
}

#[tokio::test]
async fn says_that_the_proxy_refuses_the_password_and_comes_back_when_it_does_not() {
    let mut fenced = Fenced::new(false, Login::User).await;
    let Fenced {
        site,
        proxy,
        network,
    } = &mut fenced;
    proxy.restart("another").await;
    let url = proxy.url(PASSWORD);
    let surroundings = Surroundings {
        network: Some(network),
        variables: &[("ADIT_CLOUD_PROXY", &url)],
        ..Surroundings::default()
    };
    let adit = Adit::start_in(&surroundings, &site.config(), &[]);
    let line = adit.wait_for_logs(2, "no connection to the broker").await;
    assert!(line.contains(" WARN "), "{line}");
    let error = format!(
        "error=\"the proxy {} refused the user name and the password (HTTP 401)\"",
        proxy.place()
    );
    assert!(line.contains(&error), "{line}");
    proxy.restart(PASSWORD).await;
    let adit = adit.ready().await;
    assert!(!adit.log().contains(PASSWORD));
}

#[tokio::test]
async fn says_on_the_operation_what_the_proxy_does() {
    let site = Site::new().await;
    let lan = Lan::echo().await;
    let proxy = Proxy::start([127, 0, 0, 1].into(), PASSWORD).await;
    let nobody = refusing_port();
    // Accepted by the system, and never answered.
    let stalling = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stalling = stalling.local_addr().map(|at| (at, stalling)).unwrap();
    for (url, reason) in [
        (
            format!("http://{}", proxy.place()),
            format!(
                "the proxy {} wants a user name and a password (HTTP 407): set cloud.proxy = \
                 'http://user:password@host:port'",
                proxy.place()
            ),
        ),
        (
            proxy.url("wrong-secret"),
            format!(
                "the proxy {} refused the user name and the password (HTTP 401)",
                proxy.place()
            ),
        ),
        (
            format!("http://{}", stalling.0),
            format!(
                "the proxy {} was reached, but opened no way to the server within 700ms",
                stalling.0
            ),
        ),
        (
            format!("http://127.0.0.1:{}", nobody.number),
            format!(
                "cannot reach the proxy 127.0.0.1:{}: connection refused",
                nobody.number
            ),
        ),
        (
            format!("http://127.0.0.1:{}", lan.port),
            format!(
                "the proxy 127.0.0.1:{} does not answer as an HTTP proxy does: the answer is not \
                 HTTP",
                lan.port
            ),
        ),
    ] {
        // MQTT goes to a broker on this machine, which no proxy is asked for.
        let surroundings = Surroundings {
            variables: &[("ADIT_CLOUD_PROXY", &url)],
            ..Surroundings::default()
        };
        let settings = ["remote_access.connect_timeout=700ms"];
        let mut adit = site.adit_in(&surroundings, &settings).await;
        let start = Instant::now();
        let tunnel = site.request("127.0.0.1", lan.port);
        assert_eq!(site.failed(tunnel.operation).await, reason);
        assert!(start.elapsed() < Duration::from_secs(5), "{reason}");
        adit.terminate();
        assert!(adit.exit().await.success());
        assert!(!adit.log().contains("wrong-secret"));
    }
    site.assert_no_complaint();
}
