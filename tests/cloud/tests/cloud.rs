//! The simulated platform at a real Mosquitto and on real sockets.

#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails here fails a test"
)]
mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use simulated_cloud::{Misbehaviour, Options, REMOTE_ACCESS, Status, reset};
use smartrest::Row;
use support::{
    Device, LIMIT, Mosquitto, answer_row, device_path, device_socket, next, operator, piped,
    status, web_socket, world, world_at,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

/// Bytes that differ from place to place.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn close(code: u16, reason: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::from(code),
        reason: reason.to_owned().into(),
    }))
}

#[tokio::test]
async fn follows_an_operation_through_the_broker() {
    let (_broker, cloud, mut device) = world().await;
    let tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    let (topic, row) = device.hear().await;
    assert_eq!(topic, "s/ds");
    assert!(row.starts_with("530,gw,plc,102,"), "{row}");
    device.tell("s/us", "501,c8y_RemoteAccessConnect").await;
    cloud
        .wait_for_status(tunnel.operation, Status::Executing, LIMIT)
        .await
        .unwrap();
    device
        .tell("s/us", "502,c8y_RemoteAccessConnect,\"no, thanks\"")
        .await;
    let operation = cloud
        .wait_for_status(tunnel.operation, Status::Failed, LIMIT)
        .await
        .unwrap();
    assert_eq!(operation.reason.as_deref(), Some("no, thanks"));
    device.tell("s/us", "503,c8y_RemoteAccessConnect").await;
    let (topic, row) = device.hear().await;
    assert_eq!(topic, "s/e");
    assert!(row.starts_with("41,503,"), "{row}");
    assert_eq!(cloud.errors().len(), 1);
    device.tell("s/us", "101,child,Child,machine").await;
    device.tell("s/us/child", "400,c8y_Opened,text").await;
    cloud
        .wait_until(LIMIT, |platform| platform.events().first().map(drop))
        .await
        .unwrap();
    assert_eq!(cloud.events("child")[0].text, "text");
    cloud.shutdown().await;
}

#[tokio::test]
async fn answers_500_with_what_was_created_while_the_device_was_away() {
    let (_broker, cloud, mut device) = world().await;
    cloud.set_live_delivery(false);
    for host in ["a", "b"] {
        let row = Row::new(["530", "gw", host, "22", "key"]);
        cloud.create_operation("gw", REMOTE_ACCESS, row).unwrap();
    }
    let answer = (
        "s/ds".to_owned(),
        "530,gw,a,22,key\n530,gw,b,22,key".to_owned(),
    );
    for _ in 0..2 {
        device.tell("s/us", "500").await;
        assert_eq!(device.hear().await, answer);
    }
}

#[tokio::test]
async fn keeps_a_topic_prefix() {
    let broker = Mosquitto::start().await;
    let mut options = Options::new("gw", broker.port);
    options.topic_prefix = "c8y/".to_owned();
    let cloud = simulated_cloud::Cloud::start(options).await.unwrap();
    let mut device = Device::connect(broker.port).await;
    device.tell("s/us", "100,Wrong,wrong").await;
    device.tell("c8y/s/us", "100,Right,right").await;
    let name = cloud.wait_until(LIMIT, |platform| {
        platform.device("gw").map(|d| d.name.clone())
    });
    assert_eq!(name.await.unwrap(), "Right");
}

#[tokio::test]
async fn comes_back_to_a_broker_that_was_killed() {
    let (mut broker, cloud, _device) = world().await;
    broker.kill();
    cloud.wait_for_broker_loss(LIMIT).await.unwrap();
    cloud.publish("held back");
    broker.restart().await;
    cloud.wait_for_broker(LIMIT).await.unwrap();
    let mut device = Device::connect(broker.port).await;
    device.tell("s/us", "117,10").await;
    let told = cloud.wait_until(LIMIT, |platform| {
        platform.device("gw")?.required_minutes.clone()
    });
    assert_eq!(told.await.unwrap(), "10");
    let tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    let (_, row) = device.hear().await;
    assert!(row.starts_with("530,gw,plc,102,"), "{row}");
    drop(tunnel);
}

#[tokio::test]
async fn admits_a_device_once_with_the_right_password_and_key() {
    let broker = Mosquitto::start().await;
    let mut options = Options::new("gw", broker.port);
    options.used_key_status = 410;
    options.expired_key_status = 408;
    let (cloud, _device) = world_at(options).await;
    let mut tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    let url = format!("ws://{}{}", cloud.address(), device_path(&cloud, &tunnel));

    let mut stranger = cloud.options().device_login.clone();
    stranger.password = "guess".to_owned();
    assert_eq!(status(web_socket(&url, &stranger).await), Some(401));
    let unknown = format!("{url}x");
    let login = cloud.options().device_login.clone();
    assert_eq!(status(web_socket(&unknown, &login).await), Some(404));
    let mut device_end = device_socket(&cloud, &tunnel).await.unwrap();
    let mut cloud_end = tunnel.accept(LIMIT).await.unwrap();
    assert_eq!(status(device_socket(&cloud, &tunnel).await), Some(410));
    let given_up = cloud.open_tunnel("gw", "plc", 102).unwrap();
    let path = device_path(&cloud, &given_up);
    drop(given_up);
    let url = format!("ws://{}{path}", cloud.address());
    assert_eq!(status(web_socket(&url, &login).await), Some(408));

    cloud_end.send(Message::text("hello")).await.unwrap();
    assert_eq!(next(&mut device_end).await, Some(Message::text("hello")));
    let handshakes = cloud.handshakes();
    let answers: Vec<_> = handshakes.iter().map(|one| one.answer.unwrap()).collect();
    assert_eq!(answers, [401, 404, 101, 410, 408]);
    assert_eq!(handshakes[2].operation, Some(tunnel.operation));
    assert_eq!(handshakes[2].authorization.as_deref(), Some("Basic"));
    assert_eq!(handshakes[2].protocols, ["binary"]);
    assert!(!format!("{handshakes:?}").contains(&path));
}

#[tokio::test]
async fn stops_waiting_for_a_socket_when_the_operation_fails() {
    let (_broker, cloud, mut device) = world().await;
    let mut tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    device
        .tell(
            "s/us",
            "501,c8y_RemoteAccessConnect\n502,c8y_RemoteAccessConnect,off",
        )
        .await;
    let error = tunnel.accept(LIMIT).await.unwrap_err().to_string();
    assert!(error.ends_with("failed: off"), "{error}");
}

#[tokio::test]
async fn carries_every_byte_between_operator_and_device() {
    const SIZE: usize = 8 * 1024 * 1024;
    let (_broker, cloud, mut device) = world().await;
    let (operator, device) = piped(&cloud, &mut device).await;
    let (mut operator_out, mut operator_in) = operator.split();
    let (mut device_out, mut device_in) = device.split();
    let (up, down) = (noise(1, SIZE), noise(2, SIZE));
    let send_up = async {
        for part in up.chunks(100_000) {
            operator_out
                .send(Message::binary(part.to_vec()))
                .await
                .unwrap();
        }
    };
    let send_down = async {
        device_out
            .send(Message::binary(down.clone()))
            .await
            .unwrap()
    };
    let receive_up = async {
        let mut received = Vec::new();
        while received.len() < SIZE {
            received.extend(device_in.next().await.unwrap().unwrap().into_data());
        }
        received
    };
    let receive_down = async { operator_in.next().await.unwrap().unwrap().into_data() };
    let all = async { tokio::join!(send_up, send_down, receive_up, receive_down) };
    let ((), (), received_up, received_down) = timeout(LIMIT, all).await.unwrap();
    assert!(received_up == up, "the way up");
    assert!(received_down == down, "the way down");
}

#[tokio::test]
async fn keeps_what_an_operator_sends_before_the_device_comes() {
    let (_broker, cloud, mut device) = world().await;
    let mut operator = operator(&cloud).await;
    operator.send(Message::text("early")).await.unwrap();
    operator.send(close(1000, "done")).await.unwrap();
    // The Close is answered only by a platform that has read all of it.
    next(&mut operator).await;
    let mut socket = answer_row(&cloud, &mut device).await;
    assert_eq!(next(&mut socket).await, Some(Message::text("early")));
    assert_eq!(next(&mut socket).await, Some(close(1000, "done")));
}

#[tokio::test]
async fn passes_an_end_on_to_the_other_side() {
    let (_broker, cloud, mut device) = world().await;
    for operator_ends in [true, false] {
        for (end, seen) in [
            (Some(close(1000, "")), close(1000, "")),
            (Some(close(4321, "a reason")), close(4321, "a reason")),
            (
                None,
                if operator_ends {
                    close(1001, "the operator is gone")
                } else {
                    close(1011, "the device is gone")
                },
            ),
        ] {
            let (operator, device) = piped(&cloud, &mut device).await;
            let (mut ending, mut other) = if operator_ends {
                (operator, device)
            } else {
                (device, operator)
            };
            ending.send(Message::text("last words")).await.unwrap();
            match end {
                Some(end) => {
                    ending.send(end.clone()).await.unwrap();
                    assert_eq!(next(&mut ending).await, Some(end), "the answer");
                    assert_eq!(next(&mut ending).await, None);
                }
                None => drop(ending),
            }
            assert_eq!(next(&mut other).await, Some(Message::text("last words")));
            assert_eq!(next(&mut other).await, Some(seen), "{operator_ends}");
            assert_eq!(next(&mut other).await, None);
        }
    }
}

#[tokio::test]
async fn misbehaves_when_told_to() {
    let (_broker, cloud, _device) = world().await;
    for (misbehaviour, outcome) in [
        (Misbehaviour::status(401), "HTTP 401"),
        (Misbehaviour::status(503), "HTTP 503"),
        (Misbehaviour::ResetAtAccept, "refused"),
        (Misbehaviour::Garbage, "refused"),
        (Misbehaviour::NoSubprotocol, "refused"),
        (Misbehaviour::CloseAfterUpgrade, "closed"),
        (Misbehaviour::ResetAfterUpgrade, "reset"),
    ] {
        let tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
        cloud.misbehave(misbehaviour.clone());
        let seen = match device_socket(&cloud, &tunnel).await {
            Err(tungstenite::Error::Http(response)) => {
                assert!(response.headers().contains_key("content-length"));
                format!("HTTP {}", response.status().as_u16())
            }
            Err(_) => "refused".to_owned(),
            Ok(mut socket) => match timeout(LIMIT, socket.next()).await.unwrap() {
                Some(Ok(Message::Close(_))) => "closed".to_owned(),
                Some(Err(_)) => "reset".to_owned(),
                other => format!("{other:?}"),
            },
        };
        assert_eq!(seen, outcome, "{misbehaviour:?}");
    }
    cloud.misbehave(None);
    let mut tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    let _socket = device_socket(&cloud, &tunnel).await.unwrap();
    tunnel.accept(LIMIT).await.unwrap();
}

#[tokio::test]
async fn answers_late_or_never_when_told_to() {
    const SHORT: Duration = Duration::from_millis(200);
    let (_broker, cloud, _device) = world().await;
    let tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    cloud.misbehave(Misbehaviour::NeverAnswer);
    assert!(
        timeout(SHORT, device_socket(&cloud, &tunnel))
            .await
            .is_err()
    );
    let asked = cloud
        .wait_for_handshakes(LIMIT, |all| all.last().cloned())
        .await
        .unwrap();
    assert_eq!(asked.answer, None);
    cloud.misbehave(Misbehaviour::Delay(SHORT));
    let before = std::time::Instant::now();
    device_socket(&cloud, &tunnel).await.unwrap();
    assert!(before.elapsed() >= SHORT);
    cloud.shutdown().await;
}

#[tokio::test]
async fn is_silent_for_as_long_as_it_is_told_to() {
    let (_broker, cloud, mut device) = world().await;
    let (mut operator, mut device) = piped(&cloud, &mut device).await;
    operator.send(Message::text("before")).await.unwrap();
    assert_eq!(next(&mut device).await, Some(Message::text("before")));
    cloud.misbehave(Misbehaviour::Silence);
    operator.send(Message::text("after")).await.unwrap();
    device.send(Message::Ping("p".into())).await.unwrap();
    let heard = timeout(Duration::from_millis(200), device.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    cloud.misbehave(None);
    let mut heard = [
        device.next().await.unwrap().unwrap(),
        device.next().await.unwrap().unwrap(),
    ];
    heard.sort_by_key(Message::is_pong);
    assert_eq!(heard, [Message::text("after"), Message::Pong("p".into())]);
}

#[tokio::test]
async fn ends_standing_tunnels_when_it_shuts_down() {
    let (_broker, cloud, mut device) = world().await;
    let (mut operator, mut device) = piped(&cloud, &mut device).await;
    let (_, operator, device) =
        tokio::join!(cloud.shutdown(), next(&mut operator), next(&mut device));
    let end = Some(close(1001, "the platform is going down"));
    assert_eq!((operator, device), (end.clone(), end));
}

#[tokio::test]
async fn gives_a_test_the_raw_socket() {
    let (_broker, cloud, _device) = world().await;
    let mut tunnel = cloud.open_tunnel("gw", "plc", 102).unwrap();
    let mut device_end = device_socket(&cloud, &tunnel).await.unwrap();
    let cloud_end = tunnel.accept(LIMIT).await.unwrap();
    reset(cloud_end).unwrap();
    match timeout(LIMIT, device_end.next()).await.unwrap() {
        Some(Err(tungstenite::Error::Io(error))) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn forwards_a_local_port_and_delivers_all_before_either_end() {
    const SIZE: usize = 3_000_000;
    let (_broker, cloud, mut device) = world().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    cloud.forward(listener, "gw", "host", 22);

    // The device ends while the local client has not begun to read.
    let bytes = noise(3, SIZE);
    let mut local = TcpStream::connect(address).await.unwrap();
    let mut socket = answer_row(&cloud, &mut device).await;
    let send = async {
        socket.send(Message::binary(bytes.clone())).await.unwrap();
        socket.send(close(1000, "")).await.unwrap();
        next(&mut socket).await
    };
    let receive = async {
        let mut received = Vec::new();
        local.read_to_end(&mut received).await.unwrap();
        received
    };
    let (_, received) = tokio::join!(send, receive);
    assert!(received == bytes, "the way down: {}", received.len());

    // The local client ends at once.
    let mut local = TcpStream::connect(address).await.unwrap();
    let send = async {
        local.write_all(&bytes).await.unwrap();
        local.shutdown().await.unwrap();
        let mut rest = Vec::new();
        local.read_to_end(&mut rest).await.unwrap();
    };
    let receive = async {
        let mut socket = answer_row(&cloud, &mut device).await;
        let mut received = Vec::new();
        loop {
            match next(&mut socket).await.unwrap() {
                Message::Binary(part) => received.extend(part),
                end => return (received, end),
            }
        }
    };
    let ((), (received, end)) = tokio::join!(send, receive);
    assert!(received == bytes, "the way up: {}", received.len());
    assert_eq!(end, close(1000, ""));

    // A tunnel that breaks is no end.
    let mut local = TcpStream::connect(address).await.unwrap();
    drop(answer_row(&cloud, &mut device).await);
    let error = local.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let soon = Duration::from_secs(1);
    timeout(soon, cloud.shutdown()).await.unwrap();
}

#[tokio::test]
async fn speaks_tls_to_devices() {
    let broker = Mosquitto::start().await;
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = identity.cert.der().clone();
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut options = Options::new("gw", broker.port);
    options.tls = Some(Arc::new(server));
    let (cloud, _device) = world_at(options).await;
    assert!(cloud.url().starts_with("https://127.0.0.1:"));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(cloud.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(client))
        .connect(name, tcp)
        .await
        .unwrap();
    let request = "wss://localhost/service/remoteaccess/device/k"
        .into_client_request()
        .unwrap();
    assert_eq!(status(client_async(request, tls).await), Some(401));
}
