//! What a broker, or what stands before it, does to a connection, and that adit goes on.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use adit::mqtt::link::Account;
use adit::mqtt::outbox::Message;
use adit::mqtt::publisher::Publisher;
use adit::mqtt::session::{Event, Options, Session};
use adit::net::{BrokerEndpoint, Endpoint, Transport};
use adit::password::Password;
use adit::secret::Secret;
use rumqttc::{ConnAck, ConnectReturnCode, Packet, Publish, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Habits, LIMIT, Lan, Login, Middlebox, ScriptedBroker, Site, SiteOptions, Subscriptions,
    publish_retained, usual_answer,
};

/// Larger than any message that the platform sends.
const TOO_LARGE: usize = 300 << 10;

/// A session alone, without an agent.
struct Alone {
    publisher: Publisher,
    events: mpsc::Receiver<Event>,
    running: JoinHandle<()>,
}

impl Alone {
    /// Begins one with the broker of a site at a port, and waits until it is ready.
    async fn start(site: &Site, port: u16) -> Self {
        let (user, password) = site.user();
        let options = Options {
            account: Account {
                broker: BrokerEndpoint {
                    server: Endpoint {
                        tls: false,
                        host: Ipv4Addr::LOCALHOST.to_string(),
                        port,
                    },
                    websocket: None,
                },
                client_id: site.gateway.clone(),
                login: Some((user, Password::new(Secret::new(password)))),
                keep_alive: Duration::from_mins(1),
                will: None,
            },
            create: vec![Message::new("s/us", format!("100,{},x", site.gateway))],
            subscribe: vec!["s/ds".to_owned()],
            subscribe_if_granted: Vec::new(),
            announce: Vec::new(),
            once: Vec::new(),
            greeting: Vec::new(),
            farewell: Vec::new(),
            resume: Vec::new(),
        };
        let transport = Transport::new(&[]).unwrap();
        let (session, publisher, events) =
            Session::new(options, transport, CancellationToken::new());
        let mut alone = Self {
            publisher,
            events,
            running: tokio::spawn(session.run()),
        };
        alone.ready().await;
        alone
    }

    /// Waits until a connection is set up.
    async fn ready(&mut self) {
        self.event(|event| matches!(event, Event::Ready)).await;
    }

    /// Waits until all is delivered, or set aside.
    async fn delivered(&mut self) {
        loop {
            self.event(|event| matches!(event, Event::Delivered)).await;
            // It may have been so once before.
            if self.publisher.waiting() == 0 {
                return;
            }
        }
    }

    async fn event(&mut self, is_meant: fn(&Event) -> bool) {
        let meant = async { while !is_meant(&self.events.recv().await.unwrap()) {} };
        timeout(LIMIT, meant).await.expect("an event in time");
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn event(text: &str) -> Message {
    Message::new("s/us", format!("400,adit_Test,{text}"))
}

#[tokio::test]
async fn sets_aside_the_message_at_which_the_broker_closes_the_connection() {
    let site = Site::new().await;
    let mut alone = Alone::start(&site, site.broker.port()).await;
    // Mosquitto takes no topic with a Unicode non-character.
    let refused = Message::new("s/us/plc-\u{fdd0}", "501,c8y_RemoteAccessConnect").in_group(7);
    alone.publisher.publish(event("before").repeatable());
    alone.publisher.publish(refused);
    alone
        .publisher
        .publish(event("of the same group").in_group(7));
    alone.publisher.publish(event("behind").in_group(8));
    site.wait_for_rows(2, "400").await;
    alone
        .publisher
        .publish(event("later of the same group").in_group(7));
    alone.publisher.publish(event("at the end"));
    site.wait_for_rows(3, "400").await;
    alone.delivered().await;
    assert_eq!(alone.publisher.waiting(), 0);
    let texts: Vec<_> = (site.cloud.log().iter())
        .filter(|record| record.row.template() == "400")
        .filter_map(|record| record.row.get(2).map(str::to_owned))
        .collect();
    assert_eq!(texts, ["before", "behind", "at the end"]);
}

#[tokio::test]
async fn fails_an_operation_with_other_words_where_the_broker_does_not_take_its_reason() {
    let site = Site::new().await;
    let row = format!("530,{},127.0.0.1,0,k", site.gateway);
    let (said, mut heard) = mpsc::unbounded_channel();
    let mut is_asked = false;
    let broker = ScriptedBroker::start(move |_, packet| {
        let mut answers = usual_answer(packet);
        let Packet::Publish(publish) = packet else {
            return answers;
        };
        let payload = String::from_utf8_lossy(&publish.payload).into_owned();
        if payload == "500" && !std::mem::replace(&mut is_asked, true) {
            let operation = Publish::new("s/ds", QoS::AtMostOnce, row.as_bytes());
            answers.push(Packet::Publish(operation));
        }
        if payload.contains("port 0") {
            answers = vec![Packet::Disconnect];
        }
        if payload.starts_with("501") || payload.starts_with("502") {
            said.send(payload).unwrap();
        }
        answers
    })
    .await;
    let adit = site.start_adit(&[&broker.setting()]);
    let refused = "502,c8y_RemoteAccessConnect,port 0 is not from 1 to 65535";
    for status in [
        "501,c8y_RemoteAccessConnect",
        refused,
        refused,
        refused,
        "502,c8y_RemoteAccessConnect,the reason could not be sent",
    ] {
        let heard = timeout(LIMIT, heard.recv()).await.expect("in time");
        assert_eq!(heard.unwrap(), status);
    }
    let line = adit.wait_for_log("message set aside").await;
    assert!(line.contains("another is sent in its place"), "{line}");
}

#[tokio::test]
async fn delivers_what_was_on_its_way_when_the_connection_broke_again_and_again() {
    /// Longer than a suspect message waits, and then a broker takes to close a connection at it.
    const OUTAGE: Duration = Duration::from_millis(3000);
    let site = Site::new().await;
    let line = Middlebox::before(site.broker.port(), Habits::default()).await;
    let mut alone = Alone::start(&site, line.port).await;
    alone.publisher.publish(event("first"));
    alone.delivered().await;
    line.hold();
    alone.publisher.publish(event("kept"));
    for _ in 0..3 {
        tokio::time::sleep(OUTAGE).await;
        line.cut();
        alone.ready().await;
        line.hold();
    }
    line.cut();
    alone.ready().await;
    site.wait_for_rows(2, "400").await;
    alone.delivered().await;
}

#[tokio::test]
async fn sends_what_may_come_twice_without_waiting_for_each_answer() {
    const MESSAGES: usize = 200;
    let habits = Habits {
        delay: Duration::from_millis(50),
        ..Habits::default()
    };
    let site = Site::new().await;
    let line = Middlebox::before(site.broker.port(), habits).await;
    let mut alone = Alone::start(&site, line.port).await;
    let began = Instant::now();
    for number in 0..MESSAGES {
        alone
            .publisher
            .publish(event(&number.to_string()).repeatable());
    }
    alone.delivered().await;
    let one_by_one = 2 * habits.delay * u32::try_from(MESSAGES).unwrap();
    assert!(began.elapsed() < one_by_one / 4, "{:?}", began.elapsed());
    site.wait_for_rows(MESSAGES, "400").await;
    let log = site.cloud.log();
    let numbers = (log.iter())
        .filter(|record| record.row.template() == "400")
        .map(|record| record.row.get(2).unwrap_or_default().parse().unwrap());
    assert_eq!(
        numbers.collect::<Vec<usize>>(),
        (0..MESSAGES).collect::<Vec<_>>()
    );
}

async fn with_or_without_a_websocket(websocket: bool) -> Site {
    Site::with(SiteOptions {
        websocket,
        ..SiteOptions::default()
    })
    .await
}

#[tokio::test]
async fn skips_a_message_that_is_too_large_and_goes_on() {
    // Over a WebSocket the broker makes one frame of it.
    for (websocket, size) in [(false, TOO_LARGE), (true, 1_200_000)] {
        let site = with_or_without_a_websocket(websocket).await;
        publish_retained(&site, "s/ds", vec![b'x'; size]).await;
        let adit = site.adit(&[]).await;
        let line = adit
            .wait_for_log("message skipped: it is larger than any")
            .await;
        assert!(
            line.contains(" WARN ") && line.contains("topic=\"s/ds\""),
            "{line}"
        );
        let lan = Lan::echo().await;
        let (_, mut far_end) = site.open(lan.port).await;
        far_end.echo("hello").await;
        assert!(!adit.log().contains("connection to the broker lost"));
        assert!(adit.peak_memory() < 64 << 20);
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn lets_a_large_message_take_longer_than_the_answer_to_a_ping() {
    // The message takes six seconds, and the broker has four for the answer to the first ping.
    let habits = Habits {
        delay: Duration::from_millis(40),
        piece: Some(2 << 10),
        ..Habits::default()
    };
    for (websocket, scheme, path) in [(false, "mqtt", ""), (true, "ws", "/mqtt")] {
        let site = with_or_without_a_websocket(websocket).await;
        publish_retained(&site, "s/ds", vec![b'x'; TOO_LARGE]).await;
        let line = Middlebox::before(site.broker.gateway_port(), habits).await;
        let setting = format!("mqtt.url={scheme}://127.0.0.1:{}{path}", line.port);
        let adit = site.start_adit(&[&setting, "mqtt.keep_alive=2s"]);
        adit.wait_for_log("message skipped: it is larger than any")
            .await;
        let adit = adit.ready().await;
        assert!(!adit.log().contains("connection to the broker lost"));
    }
}

#[tokio::test]
async fn pings_more_often_where_idle_connections_are_cut() {
    let habits = Habits {
        cuts_after: Some(Duration::from_secs(4)),
        ..Habits::default()
    };
    let site = Site::new().await;
    let line = Middlebox::before(site.broker.port(), habits).await;
    let adit = site.adit(&[&line.setting()]).await;
    let words = adit
        .wait_for_log("something on the way probably cuts idle connections")
        .await;
    assert!(words.contains("ping_interval=2"), "{words}");
    let losses = || adit.log().matches("connection to the broker lost").count();
    let before = losses();
    // Longer than a connection lasted before.
    site.broker
        .wait_for_logs(4, &format!("Received PINGREQ from {}", site.gateway))
        .await;
    let log = adit.log();
    assert_eq!(losses(), before, "{log}");
    // On a starved machine a connection may last longer than the others, and is taken for a takeover.
    assert!(before > 2 || !log.contains("another client"), "{log}");
}

#[tokio::test]
async fn notices_a_silent_broker_within_half_of_the_keep_alive_more() {
    let site = Site::new().await;
    let line = Middlebox::before(site.broker.port(), Habits::default()).await;
    let adit = site.adit(&[&line.setting(), "mqtt.keep_alive=4s"]).await;
    line.hold();
    let held = Instant::now();
    let words = adit.wait_for_log("connection to the broker lost").await;
    assert!(
        words.contains("the broker did not answer the ping within 2s"),
        "{words}"
    );
    assert!(
        held.elapsed() < Duration::from_secs(9),
        "{:?}",
        held.elapsed()
    );
}

#[tokio::test]
async fn says_that_the_port_speaks_tls() {
    let site = Site::with(SiteOptions {
        tls: true,
        ..SiteOptions::default()
    })
    .await;
    let setting = format!("mqtt.url=mqtt://127.0.0.1:{}", site.broker.port());
    let adit = site.start_adit(&[&setting]);
    let line = adit.wait_for_log("no connection to the broker").await;
    assert!(
        line.contains("speaks TLS (write mqtts:// in mqtt.url)"),
        "{line}"
    );
}

#[tokio::test]
async fn says_what_answers_in_the_place_of_a_broker() {
    for (answer, error) in [
        // An alert: TLS 1.2, two bytes, fatal, "unexpected message".
        (
            &[0x15, 3, 3, 0, 2, 2, 10][..],
            "\"this port speaks TLS (write mqtts:// in mqtt.url)\"",
        ),
        (
            b"",
            "\"the broker closed the connection before it answered CONNECT: this port probably speaks \
             TLS (write mqtts:// in mqtt.url)\"",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            "\"the broker does not speak MQTT: it answers in HTTP\"",
        ),
        (
            &[0xd0, 0],
            "\"the broker does not speak MQTT: it answered CONNECT with another packet\"",
        ),
    ] {
        let site = Site::new().await;
        let port = answers_with(answer).await;
        let adit = site.start_adit(&[&format!("mqtt.url=mqtt://127.0.0.1:{port}")]);
        let line = adit.wait_for_log("no connection to the broker").await;
        assert!(line.contains(&format!("error={error}")), "{line}");
    }
}

/// Listens at a port of 127.0.0.1, and answers whatever comes first with these bytes and an end.
async fn answers_with(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer).await;
        }
    });
    port
}

#[tokio::test]
async fn tries_a_refused_login_again_after_seconds_only() {
    let mut site = Site::new().await;
    site.set_users(&[]);
    let adit = site.start_adit(&[]);
    let line = adit.wait_for_log("no connection to the broker").await;
    let refused = "not authorised (CONNACK 5): the user name or the password may be wrong";
    assert!(line.contains(refused), "{line}");
    let retry = line.split_once("retry_in=").unwrap().1;
    let seconds: f64 = retry.split(['s', ' ']).next().unwrap().parse().unwrap();
    assert!((5.0..=10.0).contains(&seconds), "{line}");
}

#[tokio::test]
async fn asks_for_a_refused_subscription_again_while_it_registers() {
    let site = Site::with(SiteOptions {
        login: Login::Bootstrap,
        subscriptions: Subscriptions::Refused,
        ..SiteOptions::default()
    })
    .await;
    let adit = site.start_adit(&[]);
    adit.wait_for_log("the broker refuses the subscription for the registration")
        .await;
    site.broker.grant_subscriptions().await;
    site.cloud
        .accept_registration(site.cloud.options().device_login.clone());
    adit.wait_for_log("registered user=").await;
}

#[tokio::test]
async fn notices_a_silent_broker_while_it_registers() {
    let site = Site::with(SiteOptions {
        login: Login::Bootstrap,
        ..SiteOptions::default()
    })
    .await;
    let line = Middlebox::before(site.broker.port(), Habits::default()).await;
    let adit = site.start_adit(&[&line.setting(), "mqtt.keep_alive=2s"]);
    adit.wait_for_log("connected to the broker").await;
    line.hold();
    let words = adit.wait_for_log("no registration yet").await;
    assert!(
        words.contains("the broker did not answer the ping within 2s"),
        "{words}"
    );
    line.cut();
    adit.wait_for_logs(2, "connected to the broker").await;
}

#[tokio::test]
async fn asks_again_on_the_same_connection_where_a_subscribe_is_not_answered() {
    let site = Site::new().await;
    let mut unanswered = None;
    let broker = ScriptedBroker::start(move |connection, packet| {
        assert_eq!(connection, 1);
        match packet {
            Packet::Subscribe(subscribe) if unanswered.is_none() => {
                unanswered = Some(subscribe.clone());
                Vec::new()
            }
            Packet::Subscribe(subscribe) if subscribe.filters[0].path == "s/ds" => {
                assert_eq!(Some(subscribe), unanswered.as_ref());
                usual_answer(packet)
            }
            _ => usual_answer(packet),
        }
    })
    .await;
    let adit = site.start_adit(&[&broker.setting()]).ready().await;
    assert!(!adit.log().contains("connection to the broker lost"));
}

#[tokio::test]
async fn takes_a_second_connack_for_the_end_of_the_connection() {
    let site = Site::new().await;
    let mut said = false;
    let broker = ScriptedBroker::start(move |_, packet| {
        let mut answers = usual_answer(packet);
        if let Packet::Publish(publish) = packet
            && publish.payload == "500"
            && !std::mem::replace(&mut said, true)
        {
            answers.push(Packet::ConnAck(ConnAck::new(
                ConnectReturnCode::Success,
                false,
            )));
        }
        answers
    })
    .await;
    let adit = site.start_adit(&[&broker.setting()]);
    let line = adit.wait_for_log("connection to the broker lost").await;
    let error = "the connection was closed by the broker with a second CONNACK";
    assert!(line.contains(error), "{line}");
    adit.wait_for_logs(2, "announced and ready for operations")
        .await;
}
