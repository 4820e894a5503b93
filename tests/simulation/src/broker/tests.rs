use std::collections::BTreeSet;

use rumqttc::{Login, SubscribeFilter};

use super::*;
use crate::network::Network;
use crate::trace::Trace;

/// The seed of a schedule in which nothing goes wrong.
fn calm() -> Faults {
    let faults = |seed| Faults::new(seed, Trace::new(false), Duration::ZERO, BTreeSet::new());
    (0..).map(faults).find(Faults::is_calm).unwrap()
}

/// A broker, and the client that speaks to it.
struct Story {
    broker: Broker,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        let mut broker = Broker::new(calm());
        broker.create_device(GATEWAY);
        Self {
            broker,
            now: Instant::now(),
        }
    }

    fn connect(&mut self, keep_alive: u16) -> usize {
        let number = self.broker.accepted(None, 0, self.now);
        let connect = Connect {
            keep_alive,
            login: Some(Login::new("t1/gw", "secret")),
            ..Connect::new(GATEWAY)
        };
        self.tell(number, Packet::Connect(connect));
        number
    }

    fn tell(&mut self, number: usize, packet: Packet) {
        self.broker.received(number, packet, self.now);
    }

    fn publish(&mut self, number: usize, rows: &str) {
        let mut publish = Publish::new("s/us", QoS::AtLeastOnce, rows);
        publish.pkid = 7;
        self.tell(number, Packet::Publish(publish));
    }

    /// Returns what a client gets within a second, in words.
    fn hear(&mut self, number: usize) -> Vec<String> {
        self.now += Duration::from_secs(1);
        let due = std::iter::from_fn(|| self.broker.due(number, self.now));
        let words = |action| match action {
            Action::Send(Packet::Publish(publish)) => {
                let rows = String::from_utf8_lossy(&publish.payload).into_owned();
                format!("{}#{} {}", publish.topic, publish.pkid, rows)
            }
            Action::Send(Packet::ConnAck(answer)) => format!("CONNACK {:?}", answer.code),
            Action::Send(Packet::SubAck(answer)) => format!("SUBACK {:?}", answer.return_codes),
            Action::Send(Packet::PubAck(answer)) => format!("PUBACK {}", answer.pkid),
            other => format!("{other:?}"),
        };
        let mut heard: Vec<_> = due.map(words).collect();
        // The ways through the broker overtake each other as they like.
        heard.sort();
        heard
    }

    fn operation(&mut self, key: &str) {
        let row = Row::new(["530", GATEWAY, "plc", "22", key]);
        self.broker.create_operation(GATEWAY, row, self.now);
    }

    fn subscribed(&mut self) -> usize {
        let number = self.connect(60);
        let filter = Subscribe::new("s/ds", QoS::AtLeastOnce);
        self.tell(number, Packet::Subscribe(filter));
        self.publish(number, "100,gw");
        self.hear(number);
        number
    }
}

#[test]
fn delivers_an_operation_to_whoever_is_subscribed_and_no_other() {
    let mut story = Story::new();
    let number = story.connect(60);
    assert_eq!(story.hear(number), ["CONNACK Success"]);
    story.publish(number, "100,gw");
    assert_eq!(story.hear(number), ["PUBACK 7"]);
    story.operation("lost");
    assert_eq!(story.hear(number), Vec::<String>::new());
    story.tell(
        number,
        Packet::Subscribe(Subscribe::new("s/ds", QoS::AtLeastOnce)),
    );
    assert_eq!(story.hear(number), ["SUBACK [Success(AtLeastOnce)]"]);
    story.operation("k");
    assert_eq!(story.hear(number), ["s/ds#1 530,gw,plc,22,k"]);
    story.publish(number, "500");
    let pending = "s/ds#2 530,gw,plc,22,lost\n530,gw,plc,22,k";
    assert_eq!(story.hear(number), ["PUBACK 7", pending]);
}

#[test]
fn refuses_two_filters_in_one_subscribe() {
    let mut story = Story::new();
    let number = story.connect(60);
    let filters =
        ["s/ds", "s/e"].map(|topic| SubscribeFilter::new(topic.to_owned(), QoS::AtLeastOnce));
    story.tell(number, Packet::Subscribe(Subscribe::new_many(filters)));
    assert_eq!(
        story.hear(number),
        ["CONNACK Success", "SUBACK [Failure, Failure]"]
    );
}

#[test]
fn ends_the_connection_of_a_client_that_comes_again() {
    let mut story = Story::new();
    let first = story.subscribed();
    let second = story.connect(60);
    assert_eq!(story.hear(first), ["Close"]);
    story.operation("k");
    assert_eq!(story.hear(second), ["CONNACK Success"]);
}

#[test]
fn gives_up_a_client_that_is_silent_for_longer_than_it_said() {
    let mut story = Story::new();
    let number = story.connect(10);
    story.hear(number);
    story.now += Duration::from_secs(12);
    assert_eq!(story.hear(number), Vec::<String>::new());
    story.now += Duration::from_secs(2);
    assert_eq!(story.hear(number), ["Close"]);
}

#[test]
fn publishes_the_will_of_a_client_that_goes_without_a_word() {
    for (says_goodbye, complaints) in [(false, 1), (true, 0)] {
        let mut story = Story::new();
        let number = story.broker.accepted(None, 0, story.now);
        let connect = Connect {
            last_will: Some(LastWill::new("s/us", "999", QoS::AtLeastOnce, false)),
            ..Connect::new(GATEWAY)
        };
        story.tell(number, Packet::Connect(connect));
        if says_goodbye {
            story.tell(number, Packet::Disconnect);
        }
        story.broker.ended(number, "by adit", story.now);
        assert_eq!(story.broker.platform().errors().len(), complaints);
    }
}

#[test]
fn leaves_out_of_the_record_what_the_gateway_never_read() {
    let mut story = Story::new();
    let number = story.subscribed();
    story.operation("k");
    story.hear(number);
    let all = story.broker.record().len();
    story.broker.lines[number].connection = Some(ConnectionId(0));
    let sent = story.broker.lines[number].sent;
    let seen = |taken| story.broker.seen(|_| taken, &BTreeMap::new()).len();
    assert_eq!((seen(sent), seen(sent - 1)), (all, all - 1));
    // What was acknowledged was surely looked at, and what was not, perhaps not.
    let uncertain = story.broker.ends.len().min(UNSEEN);
    assert_eq!(story.broker.doubts(|_| sent).len(), 1 + uncertain);
    let mut publish = PubAck::new(1);
    publish.pkid = 1;
    story.tell(number, Packet::PubAck(publish));
    assert_eq!(story.broker.doubts(|_| sent).len(), 1);
}

#[test]
fn does_everything_wrong_that_it_can_sooner_or_later() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let struck: BTreeSet<_> = (0..300)
        .flat_map(|seed| {
            let _context = runtime.enter();
            let time = Duration::from_secs(3600);
            let faults = Faults::new(seed, Trace::new(false), time, BTreeSet::new());
            let _network = Network::new(faults.clone(), Trace::new(false));
            let mut broker = Broker::new(faults.clone());
            broker.create_device(GATEWAY);
            let mut story = Story {
                broker,
                now: Instant::now(),
            };
            for event in ["400,a,b", "400,a,c"] {
                let number = story.subscribed();
                story.operation("k");
                story.hear(number);
                story.tell(number, Packet::PubAck(PubAck::new(1)));
                story.publish(number, event);
                story.tell(number, Packet::PingReq);
            }
            faults.struck()
        })
        .map(|strike| strike.0)
        .collect();
    for fault in [
        "broker: another client comes",
        "broker: closes at a message",
        "broker: closes at the login",
        "broker: delivers again",
        "broker: goes deaf",
        "broker: is slow",
        "broker: loses a PUBACK",
        "broker: never acknowledges",
        "broker: never answers a SUBSCRIBE",
        "broker: never answers a login",
        "broker: refuses a subscription",
        "broker: refuses the login",
        "broker: restarts",
        "broker: sends a second CONNACK",
        "broker: takes no such event",
    ] {
        assert!(struck.contains(fault), "{fault}: {struck:?}");
    }
}
