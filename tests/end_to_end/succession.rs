//! A stop and an upgrade at the same time.

use crate::support::{Adit, BlackHole, Lan, Site, Surroundings, Watcher};

async fn gateway(surroundings: &Surroundings<'_>, settings: &[&str]) -> (Site, Watcher, Adit) {
    let (site, watcher) = (Site::new().await, Watcher::new());
    let socket = watcher.setting();
    let settings: Vec<_> = settings.iter().copied().chain([socket.as_str()]).collect();
    let adit = site.adit_in(surroundings, &settings).await;
    (site, watcher, adit)
}

#[tokio::test]
async fn starts_no_process_that_is_to_follow_while_it_stops() {
    let settings = [
        "remote_access.drain=60s",
        "remote_access.connect_timeout=5s",
    ];
    let (site, watcher, mut adit) = gateway(&Surroundings::default(), &settings).await;
    let lan = Lan::echo().await;
    let (_, mut open) = site.open(lan.port).await;
    let silent = BlackHole::new().await;
    let opening = site.request("127.0.0.1", silent.port);
    site.executing(opening.operation).await;
    adit.terminate();
    adit.wait_for_log("lets its tunnels go on").await;
    let said = watcher.upgrade().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.result.contains("adit is stopping"), "{said:?}");
    site.failed(opening.operation).await;
    open.echo("still").await;
    open.close().await;
    assert!(adit.exit().await.success());
    let log = adit.log();
    assert!(!log.contains("a new process of adit is started"), "{log}");
    site.assert_no_complaint();
}
