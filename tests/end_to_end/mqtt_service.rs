//! The platform's MQTT Service, at port 9883: what it takes, and what adit says of what it does not.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use rumqttc::{ConnAck, ConnectReturnCode, Packet, Publish, QoS, SubAck, SubscribeReasonCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use simulated_cloud::NOTIFICATIONS;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{
    Adit, LIMIT, Login, MqttService, Proxy, ScriptedBroker, Site, SiteOptions, check, usual_answer,
};
use crate::ways::opens_a_tunnel;

const PORT: u16 = 9883;

/// Answers as the MQTT Service does, from what was measured on a real tenant: `is_certified` stands for
/// TLS with a certificate, which a broker without TLS cannot see.
fn service_answer(packet: &Packet, is_certified: bool) -> Vec<Packet> {
    let connack = |code| vec![Packet::ConnAck(ConnAck::new(code, false))];
    match packet {
        // Without a clean session there is no answer at all.
        Packet::Connect(connect) if !connect.clean_session => Vec::new(),
        Packet::Connect(_) if is_certified => connack(ConnectReturnCode::Success),
        Packet::Connect(_) => connack(ConnectReturnCode::NotAuthorized),
        // Two filters are refused as a whole, whatever they are.
        Packet::Subscribe(subscribe) if subscribe.filters.len() > 1 => {
            let codes = vec![SubscribeReasonCode::Failure; subscribe.filters.len()];
            vec![Packet::SubAck(SubAck::new(subscribe.pkid, codes))]
        }
        packet => usual_answer(packet),
    }
}

#[tokio::test]
async fn takes_adit_as_it_comes_and_reports_by_id() {
    let site = Site::new().await;
    let operation = format!(
        "{{\"id\":\"77\",\"externalSource\":{{\"externalId\":\"{}\"}},\
         \"c8y_RemoteAccessConnect\":{{\"hostname\":\"plc\",\"port\":0,\"connectionKey\":\"k\"}}}}",
        site.gateway
    );
    let filters = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&filters);
    let (said, mut heard) = mpsc::unbounded_channel();
    let mut closes = 1;
    let broker =
        ScriptedBroker::start_at((Ipv4Addr::new(127, 98, 83, 1), PORT), move |_, packet| {
            let mut answers = service_answer(packet, true);
            match packet {
                Packet::Subscribe(subscribe) => {
                    let paths = subscribe.filters.iter().map(|filter| filter.path.clone());
                    asked.lock().unwrap().extend(paths);
                    // An answer that gets lost: it is asked for again on the same connection.
                    if subscribe.filters[0].path == "s/ds" && asked.lock().unwrap().len() == 1 {
                        answers.clear();
                    }
                }
                Packet::Publish(publish) => {
                    let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                    if payload == "500" {
                        let message =
                            Publish::new(NOTIFICATIONS, QoS::AtMostOnce, operation.as_bytes());
                        answers.push(Packet::Publish(message));
                    }
                    if payload.starts_with("505") && closes > 0 {
                        closes -= 1;
                        // So the platform closes a connection.
                        let again = ConnAck::new(ConnectReturnCode::Success, false);
                        answers = vec![Packet::ConnAck(again)];
                    }
                    said.send(payload).unwrap();
                }
                _ => {}
            }
            answers
        })
        .await;
    let url = format!("mqtt.url=mqtt://127.98.83.1:{}", broker.port);
    let adit = site.start_adit(&[&url]);
    let mut failed = 0;
    while failed < 2 {
        let heard = timeout(LIMIT, heard.recv())
            .await
            .expect("in time")
            .unwrap();
        failed += usize::from(heard == "505,77,port 0 is not from 1 to 65535");
    }
    let line = adit
        .wait_for_log("the connection was closed by the broker with a second CONNACK")
        .await;
    assert!(line.contains("connection to the broker lost"), "{line}");
    let filters = filters.lock().unwrap();
    assert_eq!(
        filters[..4],
        ["s/ds", "s/e", NOTIFICATIONS, "s/ds"],
        "{filters:?}"
    );
    assert!(filters.iter().all(|filter| !filter.contains(['+', '#'])));
}

/// A site behind the MQTT Service, which knows the certificates of those who log in so.
async fn behind_the_service(last: u8, login: Login) -> (Site, MqttService) {
    let address = Ipv4Addr::new(127, 98, 84, last);
    let site = Site::with(SiteOptions {
        tls: true,
        login,
        address: Some(address),
        ..SiteOptions::default()
    })
    .await;
    let mut devices = site.devices.roots.clone();
    let issuer = CertificateDer::from_pem_slice(site.issuer.pem().as_bytes());
    devices.add(issuer.unwrap()).unwrap();
    let service = MqttService::before(&site, address, &devices).await;
    (site, service)
}

/// Every SUBSCRIBE has asked for one exact topic.
fn assert_subscribed_one_by_one(service: &MqttService) {
    let subscribed = service.heard().subscribed;
    assert!(!subscribed.is_empty());
    for filters in &subscribed {
        assert_eq!(filters.len(), 1, "{subscribed:?}");
        assert!(!filters[0].contains(['+', '#']), "{subscribed:?}");
    }
}

#[tokio::test]
async fn takes_a_certificate_over_tls_directly_and_through_a_proxy() {
    for (last, is_proxied) in [(1, false), (2, true)] {
        let (site, service) = behind_the_service(last, Login::Certificate).await;
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, "letmein").await;
        let mut config = site.config();
        if is_proxied {
            let through = format!("[cloud]\nproxy = {:?}\n", proxy.url("letmein"));
            config = config.replace("[cloud]\n", &through);
        }
        let mut adit = Adit::start(&config, &[&service.setting()]).ready().await;
        // The token of the tunnel comes over MQTT, and the operation by its id.
        opens_a_tunnel(&site, "Bearer").await;
        assert_eq!((site.count("504"), site.count("506")), (1, 1));
        assert_subscribed_one_by_one(&service);
        let heard = service.heard();
        assert_eq!((heard.logins, heard.refused), (1, 0));
        assert!(!adit.log().contains(" WARN "), "{}", adit.log());
        if is_proxied {
            let place = format!("127.98.84.{last}:{PORT}");
            proxy.wait_until_asked(1, &place).await;
        }
        // It would throw the check out.
        adit.terminate();
        assert!(adit.exit().await.success());
        let checked = check(&config, &["--set", &service.setting()]).await;
        assert_eq!(checked.code, Some(0), "{}", checked.result);
        assert_subscribed_one_by_one(&service);
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn takes_a_certificate_of_the_platforms_own_authority() {
    let (site, service) = behind_the_service(3, Login::Issued).await;
    site.issuer.register(&site.gateway, "one-time");
    let config = format!("{}one_time_password = \"one-time\"\n", site.config());
    let _adit = Adit::start(&config, &[&service.setting()]).ready().await;
    opens_a_tunnel(&site, "Bearer").await;
    assert_subscribed_one_by_one(&service);
    site.assert_no_complaint();
}

#[tokio::test]
async fn takes_a_token_in_the_place_of_a_password() {
    let (site, service) = behind_the_service(4, Login::User).await;
    let token = site.device_directory().write("token", &service.token);
    let login = format!("[mqtt]\nusername = \"t12345\"\npassword_file = {token:?}\n");
    let config = site.config().replace("[mqtt]\n", &login);
    let adit = Adit::start(&config, &[&service.setting()]).ready().await;
    // Tunnels show the password: whoever logs in so gets no token.
    opens_a_tunnel(&site, "Basic").await;
    assert_eq!((site.count("504"), site.count("506")), (1, 1));
    assert_subscribed_one_by_one(&service);
    assert!(!adit.log().contains(&service.token));
    site.assert_no_complaint();
}

#[tokio::test]
async fn takes_no_user_but_the_tenants_id_beside_a_certificate() {
    let (site, service) = behind_the_service(6, Login::Certificate).await;
    let with_user = |user: &str| {
        let login = format!("[mqtt]\nusername = {user:?}\npassword = \"secret\"\n");
        site.config().replace("[mqtt]\n", &login)
    };
    let setting = service.setting();
    let checked = check(&with_user("somebody"), &["--set", &setting]).await;
    let said = checked.result;
    let words = "    take mqtt.username and mqtt.password away: beside a certificate the MQTT Service \
                 takes no user but the id of the tenant";
    assert_eq!(checked.code, Some(1), "{said}");
    assert!(said.contains(words), "{said}");
    assert_eq!(service.heard().logins, 0);
    let adit = Adit::start(&with_user("t12345"), &[&setting]);
    let _adit = adit.ready().await;
    opens_a_tunnel(&site, "Bearer").await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn refuses_a_password_over_tls() {
    let (site, service) = behind_the_service(5, Login::User).await;
    let mut adit = site.start_adit(&[&service.setting()]);
    let line = adit.wait_for_log("no connection to the broker").await;
    let words = "takes a certificate or a token and no password";
    assert!(line.contains(words), "{line}");
    assert!(adit.is_running());
    let checked = check(&site.config(), &["--set", &service.setting()]).await;
    assert_eq!(checked.code, Some(1), "{}", checked.result);
    assert!(checked.result.contains(words), "{}", checked.result);
    let heard = service.heard();
    assert_eq!(heard.logins, 0);
    assert!(heard.refused >= 2);
}

#[tokio::test]
async fn refuses_a_password_which_adit_says_before_and_after() {
    let site = Site::new().await;
    let address = Ipv4Addr::new(127, 98, 83, 2);
    let _broker =
        ScriptedBroker::start_at((address, PORT), |_, packet| service_answer(packet, false)).await;
    let url = format!("mqtt.url=mqtt://{address}:{PORT}");
    let adit = site.start_adit(&[&url]);
    let before = adit.wait_for_log("mqtt.url names port 9883").await;
    assert!(before.contains("WARN"), "{before}");
    let after = adit.wait_for_log("no connection to the broker").await;
    assert!(
        after.contains("takes a certificate or a token and no password"),
        "{after}"
    );

    let checked = check(&site.config(), &["--set", &url]).await;
    let said = checked.result;
    assert_eq!(checked.code, Some(1), "{said}");
    for words in [
        "    mqtt.url names port 9883, the platform's MQTT Service, which refuses the password",
        "✗ MQTT login: the broker refused the connection: not authorised (CONNACK 5); port 9883",
        "    set auth.cert_file and auth.key_file, or write port 8883 in mqtt.url",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
}

#[tokio::test]
async fn says_what_does_not_work_with_the_platform_though_it_can_be_configured() {
    let site = Site::new().await;
    let arguments = [
        "--no-login",
        "--set",
        "mqtt.keep_alive=11m",
        "--set",
        "mqtt.url=ws://127.98.83.3:80/mqtt",
        "--set",
        "cloud.url=http://127.98.83.3:80",
    ];
    let said = check(&site.config(), &arguments).await.result;
    for words in [
        "mqtt.keep_alive is longer than 10m",
        "cloud.url names port 80",
        "mqtt.url names port 80",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    let said = check(&site.config(), &["--no-login"]).await.result;
    assert!(
        !said.contains("names port 80") && !said.contains("keep_alive"),
        "{said}"
    );
}
