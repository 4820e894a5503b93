//! Names of machines that nobody resolves hold up nothing else.

use crate::support::{LIMIT, Network, Site, SiteOptions, Surroundings};

/// More than threads that wait for something at the same time, whatever the reason.
const FEW_THREADS: usize = 24;
/// Threads that the runtime has at most for what blocks.
const BLOCKING_POOL: usize = 512;

#[tokio::test]
async fn resolves_the_brokers_name_while_the_name_server_is_silent() {
    let network = Network::new();
    let gate = network.gate();
    let hosts = format!("127.0.0.1 localhost\n{gate} the-broker plc-0\n");
    let silent = network.silence_names(&hosts).await;
    let mut site = Site::with(SiteOptions {
        address: Some(gate),
        ..SiteOptions::default()
    })
    .await;
    let broker = format!(
        "mqtt.url=mqtt://The-Broker:{}",
        site.broker_place().rsplit(':').next().unwrap()
    );
    let surroundings = Surroundings {
        network: Some(&network),
        // The longest that the C library waits, and several times.
        variables: &[("RES_OPTIONS", "timeout:30 attempts:5")],
        ..Surroundings::default()
    };
    let allow = format!("remote_access.allow={gate},*.example");
    let settings = [
        broker.as_str(),
        &allow,
        "remote_access.connect_timeout=1s",
        "remote_access.max_tunnels=1000",
    ];
    let adit = site.adit_in(&surroundings, &settings).await;
    let requests: Vec<_> = (0..BLOCKING_POOL + 8)
        .map(|n| site.request(&format!("plc-{n}.example"), 22))
        .collect();
    for request in requests {
        let reason = site.failed(request.operation).await;
        assert!(
            reason.starts_with("no answer about the name plc-"),
            "{reason}"
        );
    }
    silent.recv(&mut [0; 1 << 9]).await.unwrap();
    let threads = adit.threads();
    assert!(threads < FEW_THREADS, "{threads} threads");

    site.broker.kill();
    adit.wait_for_log("connection to the broker lost").await;
    site.broker.restart().await;
    let back = adit.wait_for_logs(2, "announced and ready for operations");
    tokio::time::timeout(LIMIT, back)
        .await
        .expect("its name is resolved");
}
