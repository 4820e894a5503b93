//! Machines behind the gateway that are devices of their own.

use simulated_cloud::Misbehaviour;

use crate::support::{FarEnd, ID_SOURCES, LIMIT, Lan, Site, rows};

const OPERATIONS: &str = "114,c8y_RemoteAccessConnect";
const PROTOCOLS: &str = "150,SSH,TELNET,VNC,PASSTHROUGH";
const ORPHANS: &str = "507,c8y_RemoteAccessConnect,begun before adit started; connect again";

fn children(site: &Site) -> [String; 2] {
    ["plc-1", "plc-2"].map(|name| format!("{}-{name}", site.gateway))
}

fn setting(site: &Site) -> String {
    format!("device.children={}", children(site).join(","))
}

#[tokio::test]
async fn announces_its_children_once_they_exist() {
    let mut site = Site::new().await;
    let _adit = site.adit(&[&setting(&site)]).await;
    let gateway = rows(&site.cloud, "s/us");
    let mut created = vec![format!("100,{},adit_Gateway", site.gateway)];
    created.extend(children(&site).map(|id| format!("101,{id},{id},")));
    assert_eq!(gateway[..3], created);
    for child in children(&site) {
        let topic = format!("s/us/{child}");
        assert_eq!(rows(&site.cloud, &topic), [OPERATIONS, PROTOCOLS, ORPHANS]);
        let device = site.cloud.device(&child).unwrap();
        assert_eq!(device.parent.as_ref(), Some(&site.gateway));
    }

    site.broker.kill();
    site.cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    for child in children(&site) {
        let rows = rows(&site.cloud, &format!("s/us/{child}"));
        assert_eq!(rows[3..], [OPERATIONS, PROTOCOLS]);
    }
    site.assert_no_complaint();
}

#[tokio::test]
async fn opens_tunnels_for_its_children_and_fails_what_a_former_life_left_to_them() {
    for ids in ID_SOURCES {
        open_tunnels_and_fail_what_was_left(ids).await;
    }
}

async fn open_tunnels_and_fail_what_was_left(ids: &str) {
    let site = Site::new().await;
    let mut adit = site.adit(&[ids, &setting(&site)]).await;
    let lan = Lan::echo().await;
    let [first, second] = children(&site);
    let open = |child: &str| {
        site.cloud
            .open_tunnel(child, "127.0.0.1", lan.port)
            .unwrap()
    };
    let mut tunnel = open(&first);
    let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
    far_end.echo("hello").await;
    site.opened(tunnel.operation).await;

    site.cloud.misbehave(Misbehaviour::NeverAnswer);
    let orphan = open(&second);
    site.executing(orphan.operation).await;
    adit.kill();
    site.cloud.misbehave(None);
    let _adit = site.adit(&[ids, &setting(&site)]).await;
    assert_eq!(
        site.failed(orphan.operation).await,
        "begun before adit started; connect again"
    );
    site.assert_no_complaint();
}

#[tokio::test]
async fn leaves_its_children_alone_when_another_agent_announces_them() {
    let site = Site::new().await;
    let child = site.child("plc-1");
    let setting = format!("device.children={child}");
    let _adit = site.adit(&["device.announce=false", &setting]).await;
    let service = format!("102,{0}_adit,service,adit,up", site.gateway);
    assert_eq!(rows(&site.cloud, "s/us"), [ORPHANS, &service, "500"]);
    assert_eq!(rows(&site.cloud, &format!("s/us/{child}")), [ORPHANS]);
}
