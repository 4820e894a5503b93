//! `adit connect`: one tunnel without a broker, for whoever waits for `CONNECTED`.

use simulated_cloud::{Misbehaviour, Tunnel, reset};

use crate::support::{Connect, FarEnd, LIMIT, Lan, Site, refusing_port};

/// A tunnel that the platform expects, and that nobody has told adit of.
struct Asked {
    tunnel: Tunnel,
    target: String,
    key: String,
    row: String,
}

async fn site() -> Site {
    let site = Site::new().await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    site
}

fn ask(site: &Site, host: &str, port: u16) -> Asked {
    let tunnel = site.request(host, port);
    let operation = site.cloud.operation(tunnel.operation).unwrap();
    let key = operation.key().unwrap().expose().to_owned();
    Asked {
        tunnel,
        target: format!("{host}:{port}"),
        row: format!("530,{},{host},{port},{key}", site.gateway),
        key,
    }
}

/// Starts it with a broker that is nowhere.
fn start(site: &Site, arguments: &[&str], input: &str) -> Connect {
    let nowhere = refusing_port();
    let broker = format!("mqtt.url=mqtt://127.0.0.1:{}", nowhere.number);
    let arguments = [arguments, &["--set", &broker]].concat();
    Connect::start(&site.config(), &arguments, input)
}

async fn connected(connect: &mut Connect, asked: &mut Asked) -> FarEnd {
    let far_end = FarEnd(asked.tunnel.accept(LIMIT).await.unwrap());
    assert_eq!(connect.line().await, "CONNECTED\n");
    far_end
}

/// It has ended with this code, and neither printed nor logged what it must not.
async fn assert_exit(connect: Connect, code: i32, asked: &Asked) -> String {
    let exit = connect.exit().await;
    assert_eq!((exit.code, exit.printed.as_str()), (Some(code), ""));
    assert!(!exit.log.contains(&asked.key), "{}", exit.log);
    exit.log
}

#[tokio::test]
async fn opens_one_tunnel_however_it_is_asked() {
    let site = site().await;
    let lan = Lan::echo().await;
    for way in ["row", "flags", "standard input"] {
        let mut asked = ask(&site, "127.0.0.1", lan.port);
        let mut connect = match way {
            "row" => start(&site, &[&asked.row], ""),
            "flags" => start(&site, &["--target", &asked.target, "--key", &asked.key], ""),
            _ => start(&site, &["-"], &format!("{}\n", asked.row)),
        };
        let mut far_end = connected(&mut connect, &mut asked).await;
        far_end.echo(way).await;
        far_end.close().await;
        let log = assert_exit(connect, 0, &asked).await;
        assert!(log.contains("closed by the cloud"), "{log}");
    }
}

#[tokio::test]
async fn ends_well_when_the_machine_ends_the_tunnel() {
    let site = site().await;
    let (port, machine) = Lan::held().await;
    let mut asked = ask(&site, "127.0.0.1", port);
    let mut connect = start(&site, &[&asked.row], "");
    let mut far_end = connected(&mut connect, &mut asked).await;
    drop(machine.accept().await);
    let (_, frame) = far_end.rest().await;
    assert_eq!(u16::from(frame.unwrap().code), 1000);
    let log = assert_exit(connect, 0, &asked).await;
    assert!(log.contains("closed by the device"), "{log}");
}

#[tokio::test]
async fn says_why_a_single_tunnel_did_not_open() {
    let site = site().await;
    let lan = Lan::echo().await;
    let refusing = refusing_port();
    for (host, port, misbehaviour, reason) in [
        (
            "127.0.0.1",
            refusing.number,
            None,
            format!(
                "cannot reach 127.0.0.1:{}: connection refused",
                refusing.number
            ),
        ),
        (
            "198.51.100.7",
            22,
            None,
            "the policy does not allow 198.51.100.7:22 (remote_access.allow)".to_owned(),
        ),
        (
            "127.0.0.1",
            lan.port,
            Some(Misbehaviour::status(401)),
            format!(
                "{} refused the WebSocket with HTTP 401: the credentials are refused",
                site.cloud.address()
            ),
        ),
    ] {
        site.cloud.misbehave(misbehaviour);
        let asked = ask(&site, host, port);
        let connect = start(&site, &[&asked.row], "");
        let log = assert_exit(connect, 1, &asked).await;
        assert!(log.contains("ERROR"), "{log}");
        assert!(log.contains(&reason), "{log}");
    }
}

#[tokio::test]
async fn says_that_a_single_tunnel_broke() {
    let site = site().await;
    let lan = Lan::echo().await;
    let mut asked = ask(&site, "127.0.0.1", lan.port);
    let mut connect = start(&site, &[&asked.row], "");
    let far_end = connected(&mut connect, &mut asked).await;
    reset(far_end.0).unwrap();
    let log = assert_exit(connect, 1, &asked).await;
    assert!(log.contains("reset by the cloud"), "{log}");
}

#[tokio::test]
async fn opens_no_tunnel_for_what_is_no_row() {
    let site = site().await;
    let asked = ask(&site, "127.0.0.1", 22);
    for (input, complaint) in [
        (String::new(), "there is no row"),
        (
            format!("{0}\n", asked.key),
            "the row does not begin with 530",
        ),
        (
            format!("530,gw,127.0.0.1,0,{}\n", asked.key),
            "port 0 is not from 1 to 65535",
        ),
    ] {
        let connect = start(&site, &["-"], &input);
        let log = assert_exit(connect, 2, &asked).await;
        assert!(log.contains(complaint), "{log}");
    }
}

#[tokio::test]
async fn closes_a_single_tunnel_when_it_is_stopped() {
    let site = site().await;
    let lan = Lan::echo().await;
    let mut asked = ask(&site, "127.0.0.1", lan.port);
    let mut connect = start(&site, &[&asked.row], "");
    let mut far_end = connected(&mut connect, &mut asked).await;
    far_end.echo("hello").await;
    connect.terminate();
    let (_, frame) = far_end.rest().await;
    let frame = frame.unwrap();
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1001, "adit is stopping")
    );
    assert_exit(connect, 0, &asked).await;
}

#[tokio::test]
async fn gives_up_a_single_tunnel_that_is_opening_when_it_is_stopped() {
    let site = site().await;
    let (port, machine) = Lan::held().await;
    site.cloud.misbehave(Misbehaviour::NeverAnswer);
    let asked = ask(&site, "127.0.0.1", port);
    let mut connect = start(&site, &[&asked.row], "");
    let seen = site
        .cloud
        .wait_for_handshakes(LIMIT, |handshakes| (!handshakes.is_empty()).then_some(()));
    seen.await.unwrap();
    machine.accept().await;
    connect.terminate();
    assert_exit(connect, 0, &asked).await;
}
