//! Every timer and every answer that does not come.

use rumqttc::{ConnAck, ConnectReturnCode, SubAck};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// A conversation, and the broker that it is led with.
struct Line {
    conversation: Conversation,
    now: Instant,
}

impl Line {
    fn with_keep_alive(opening: Opening, keep_alive: Duration) -> Self {
        let now = Instant::now();
        let conversation = Conversation::new(opening, Pings::every(keep_alive), now);
        Self { conversation, now }
    }

    fn new(opening: Opening) -> Self {
        Self::with_keep_alive(opening, KEEP_ALIVE)
    }

    /// One that has nothing to say at first.
    fn ready(keep_alive: Duration) -> Self {
        let mut line = Self::with_keep_alive(Opening::default(), keep_alive);
        assert_eq!(line.events(), [Event::Ready]);
        line
    }

    /// What goes out, in words, as `PUBLISH 1 s/us 100`.
    fn sent(&mut self) -> Vec<String> {
        let packets = self.conversation.packets();
        packets
            .map(|packet| match packet {
                Packet::Publish(publish) => {
                    let payload = String::from_utf8_lossy(&publish.payload);
                    format!("PUBLISH {} {} {payload}", publish.pkid, publish.topic)
                }
                Packet::Subscribe(subscribe) => {
                    let [filter] = &subscribe.filters[..] else {
                        panic!("{subscribe:?}");
                    };
                    format!("SUBSCRIBE {} {}", subscribe.pkid, filter.path)
                }
                Packet::PubAck(ack) => format!("PUBACK {}", ack.pkid),
                Packet::PingReq => "PINGREQ".to_owned(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.conversation.next_event()).collect()
    }

    fn receive(&mut self, packet: Packet) {
        let incoming = Incoming::Packet(packet);
        self.conversation.receive(incoming, self.now).unwrap();
    }

    fn receive_part(&mut self) {
        self.conversation.receive(Incoming::Part, self.now).unwrap();
    }

    fn acknowledge(&mut self, id: u16) {
        self.receive(Packet::PubAck(PubAck::new(id)));
    }

    fn answer(&mut self, id: u16, code: SubscribeReasonCode) {
        self.receive(Packet::SubAck(SubAck::new(id, vec![code])));
    }

    fn grant(&mut self, id: u16) {
        self.answer(id, SubscribeReasonCode::Success(QoS::AtLeastOnce));
    }

    fn refuse(&mut self, id: u16) {
        self.answer(id, SubscribeReasonCode::Failure);
    }

    /// Lets the time pass, with a look at every deadline.
    fn wait(&mut self, time: Duration) -> Result<(), ConversationError> {
        let end = self.now + time;
        while self.conversation.next_deadline() <= end {
            self.now = self.conversation.next_deadline();
            self.conversation.time_passed(self.now)?;
        }
        self.now = end;
        Ok(())
    }

    /// Lets the time pass until the conversation fails; returns why, and when.
    fn fail(&mut self) -> (ConversationError, Duration) {
        let began = self.now;
        loop {
            if let Err(error) = self.wait(SECOND / 2) {
                return (error, self.now - began);
            }
            assert!(self.now - began < 60 * KEEP_ALIVE);
        }
    }
}

fn opening() -> Opening {
    Opening {
        create: vec![Message::new("s/us", "100")],
        subscribe: vec!["s/ds".into()],
        subscribe_if_granted: vec!["s/e".into()],
        announce: vec![Message::new("s/us", "114"), Message::new("s/us", "500")],
    }
}

fn message(topic: &str) -> Packet {
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, "530");
    publish.pkid = 9;
    Packet::Publish(publish)
}

#[test]
fn creates_then_subscribes_to_each_topic_alone_then_announces() {
    let mut line = Line::new(opening());
    assert_eq!(line.sent(), ["PUBLISH 1 s/us 100"]);
    assert!(!line.conversation.may_publish());
    line.acknowledge(1);
    assert!(line.conversation.may_publish());
    assert_eq!(line.sent(), ["SUBSCRIBE 2 s/ds", "SUBSCRIBE 3 s/e"]);
    line.grant(3);
    assert!(line.sent().is_empty());
    line.grant(2);
    assert_eq!(line.sent(), ["PUBLISH 4 s/us 114", "PUBLISH 5 s/us 500"]);
    line.acknowledge(4);
    assert!(line.events().is_empty());
    line.acknowledge(5);
    assert_eq!(line.events(), [Event::Ready]);
    assert!(line.conversation.is_ready());
}

#[test]
fn announces_only_what_a_needed_subscription_can_answer() {
    let mut line = Line::new(opening());
    line.acknowledge(1);
    line.sent();
    line.grant(3);
    let refused = |retry_in: u32, is_news| Event::Refused {
        topic: "s/ds".into(),
        is_needed: true,
        retry_in: retry_in * SECOND,
        is_news,
    };
    let mut id = 2;
    for (retry_in, is_news) in [
        (1, true),
        (2, false),
        (4, false),
        (8, false),
        (16, false),
        (30, true),
        (30, true),
    ] {
        line.refuse(id);
        assert_eq!(line.events(), [refused(retry_in, is_news)]);
        line.wait(retry_in * SECOND - SECOND / 10).unwrap();
        assert!(line.sent().iter().all(|sent| sent == "PINGREQ"));
        line.receive(Packet::PingResp);
        line.wait(SECOND / 10).unwrap();
        id = if id == 2 { 4 } else { id + 1 };
        assert_eq!(line.sent(), [format!("SUBSCRIBE {id} s/ds")]);
    }
    line.grant(id);
    assert_eq!(line.sent().len(), 2, "the announcement");
}

#[test]
fn does_without_a_wanted_subscription_and_goes_on_asking() {
    for is_refused in [true, false] {
        let mut line = Line::new(opening());
        line.acknowledge(1);
        line.grant(2);
        line.sent();
        if is_refused {
            line.refuse(3);
        } else {
            line.wait(FIRST_REPEAT - SECOND / 10).unwrap();
            assert!(line.sent().is_empty(), "it has its time");
            line.wait(SECOND / 10).unwrap();
        }
        let sent = line.sent();
        assert_eq!(
            sent[sent.len() - 2..],
            ["PUBLISH 4 s/us 114", "PUBLISH 5 s/us 500"]
        );
        line.acknowledge(4);
        line.acknowledge(5);
        line.events();
        let again = match is_refused {
            true => "SUBSCRIBE 6 s/e",
            false => "SUBSCRIBE 3 s/e",
        };
        line.wait(2 * FIRST_REPEAT).unwrap();
        assert!(line.sent().contains(&again.to_owned()));
        // A broker that never answers this one is a broker all the same.
        for _ in 0..20 {
            line.wait(KEEP_ALIVE).unwrap();
            line.receive(Packet::PingResp);
        }
    }
}

#[test]
fn tells_when_every_subscription_has_its_answer() {
    let is_answered = |line: &Line| line.conversation.is_subscribed_or_refused();
    let mut line = Line::new(opening());
    assert!(!is_answered(&line), "nothing is asked yet");
    line.acknowledge(1);
    assert!(!is_answered(&line));
    line.refuse(2);
    assert!(!is_answered(&line));
    // Time for an answer is none.
    line.wait(2 * FIRST_REPEAT).unwrap();
    assert!(!is_answered(&line));
    line.grant(3);
    assert!(is_answered(&line));
}

#[test]
fn repeats_a_subscribe_without_an_answer_before_it_gives_up() {
    let mut line = Line::new(Opening {
        subscribe: vec!["s/ds".into()],
        ..Opening::default()
    });
    let mut asked = Vec::new();
    let began = line.now;
    let error = loop {
        let at = (line.now - began).as_secs();
        asked.extend(
            line.sent()
                .iter()
                .filter(|sent| **sent == "SUBSCRIBE 1 s/ds")
                .map(|_| at),
        );
        line.now = line.conversation.next_deadline();
        if let Err(error) = line.conversation.time_passed(line.now) {
            break error;
        }
        line.receive(Packet::PingResp);
    };
    assert_eq!(error, ConversationError::NoSubAck("s/ds".into()));
    assert_eq!(asked, [0, 5, 15, 35], "with the same packet id");
    assert_eq!(line.now - began, ACKNOWLEDGE_LIMIT);
}

#[test]
fn repeats_no_subscribe_because_of_another_deadline() {
    let mut line = Line::with_keep_alive(
        Opening {
            subscribe: vec!["s/ds".into()],
            ..Opening::default()
        },
        2 * SECOND,
    );
    assert_eq!(line.sent(), ["SUBSCRIBE 1 s/ds"]);
    line.wait(2 * SECOND).unwrap();
    assert_eq!(line.sent(), ["PINGREQ"]);
}

#[test]
fn is_settled_when_everything_that_was_said_has_its_answer() {
    let mut line = Line::new(opening());
    let steps: [fn(&mut Line); 5] = [
        |line| line.acknowledge(1),
        |line| line.grant(2),
        |line| line.refuse(3),
        |line| line.acknowledge(4),
        |line| line.acknowledge(5),
    ];
    for step in steps {
        assert_eq!(line.conversation.settled_since(), None);
        line.wait(SECOND / 10).unwrap();
        step(&mut line);
    }
    assert_eq!(line.conversation.settled_since(), Some(line.now));
}

#[test]
fn takes_a_late_answer_once() {
    let mut line = Line::new(Opening {
        subscribe: vec!["s/ds".into()],
        ..Opening::default()
    });
    line.wait(2 * FIRST_REPEAT).unwrap();
    line.grant(1);
    assert_eq!(line.events(), [Event::Ready]);
    line.refuse(1);
    assert!(line.events().is_empty());
}

#[test]
fn gives_up_when_a_message_is_not_acknowledged() {
    for (opening, acknowledged) in [(opening(), vec![]), (Opening::default(), vec![1, 2])] {
        let mut line = Line::new(opening);
        for topic in ["a", "b", "c"] {
            line.conversation
                .publish(&Message::new(topic, ""), line.now);
        }
        line.wait(10 * SECOND).unwrap();
        let began = line.now;
        for &id in &acknowledged {
            line.acknowledge(id);
        }
        let mut ended = Ok(());
        while ended.is_ok() {
            line.now = line.conversation.next_deadline();
            ended = line.conversation.time_passed(line.now);
            line.receive(Packet::PingResp);
        }
        assert_eq!(ended, Err(ConversationError::Unacknowledged));
        // Each acknowledgement gives the others their time anew.
        let expected = ACKNOWLEDGE_LIMIT
            - if acknowledged.is_empty() {
                10 * SECOND
            } else {
                Duration::ZERO
            };
        assert_eq!(line.now - began, expected);
    }
}

#[test]
fn notices_silence_soon_after_the_ping() {
    for (keep_alive, after) in [
        (1, 3.0),
        (3, 5.0),
        (5, 7.5),
        (20, 30.0),
        (60, 80.0),
        (600, 620.0),
    ] {
        let keep_alive = keep_alive * SECOND;
        let mut line = Line::ready(keep_alive);
        let (error, took) = line.fail();
        let limit = Pings::every(keep_alive).answer_limit;
        assert_eq!(error, ConversationError::NoPong(limit));
        assert_eq!(took.as_secs_f64(), after, "{keep_alive:?}");
        assert_eq!(line.sent()[0], "PINGREQ");
    }
}

#[test]
fn pings_and_goes_on_while_it_is_answered() {
    let mut line = Line::ready(KEEP_ALIVE);
    for _ in 0..5 {
        line.wait(KEEP_ALIVE).unwrap();
        assert_eq!(line.sent(), ["PINGREQ"]);
        line.wait(SECOND).unwrap();
        line.receive(Packet::PingResp);
        line.now -= SECOND;
    }
}

#[test]
fn takes_any_packet_for_a_sign_of_life() {
    let mut line = Line::ready(KEEP_ALIVE);
    line.wait(KEEP_ALIVE).unwrap();
    for _ in 0..3 {
        line.wait(15 * SECOND).unwrap();
        line.receive(message("s/ds"));
    }
    assert_eq!(line.fail().1, LONGEST_PONG_LIMIT);
}

#[test]
fn takes_any_bytes_for_a_sign_of_life_and_no_packet_without_an_end() {
    let mut line = Line::ready(KEEP_ALIVE);
    let drip = |line: &mut Line, time: Duration| {
        for _ in 0..time.as_secs() / 15 {
            line.receive_part();
            line.wait(15 * SECOND).unwrap();
        }
    };
    for _ in 0..3 {
        drip(&mut line, PACKET_TIME_LIMIT - 15 * SECOND);
        line.receive(message("s/ds"));
    }
    drip(&mut line, PACKET_TIME_LIMIT - 15 * SECOND);
    line.receive_part();
    assert_eq!(line.fail(), (ConversationError::HalfAPacket, 15 * SECOND));
}

#[test]
fn waits_for_an_answer_that_stands_behind_other_bytes() {
    type Say = fn(&mut Line);
    let asked: [(Say, ConversationError); 2] = [
        (
            |line| {
                line.acknowledge(1);
                line.grant(3);
            },
            ConversationError::NoSubAck("s/ds".into()),
        ),
        (|_| {}, ConversationError::Unacknowledged),
    ];
    for (say, error) in asked {
        // A flood that ends without an answer behind it, and one that never ends.
        for (flood, then) in [
            (4 * ACKNOWLEDGE_LIMIT, FLOOD_PAUSE),
            (2 * LONGEST_FLOOD, Duration::ZERO),
        ] {
            let mut line = Line::new(opening());
            say(&mut line);
            let began = line.now;
            let ended = loop {
                if line.now - began < flood {
                    line.receive(message("s/ds"));
                }
                line.events();
                if let Err(ended) = line.wait(SECOND) {
                    break ended;
                }
            };
            assert_eq!(ended, error);
            let expected = match then {
                Duration::ZERO => ACKNOWLEDGE_LIMIT + LONGEST_FLOOD,
                pause => flood - SECOND + pause,
            };
            assert_eq!(line.now - began, expected);
        }
        // Answers to pings, for which nothing waits, hide nothing either.
        let mut line = Line::new(opening());
        say(&mut line);
        let began = line.now;
        let ended = loop {
            line.receive(Packet::PingResp);
            if let Err(ended) = line.wait(SECOND) {
                break ended;
            }
        };
        assert_eq!(
            (ended, line.now - began),
            (error.clone(), ACKNOWLEDGE_LIMIT)
        );
        // Messages with longer pauses hide nothing.
        let mut line = Line::new(opening());
        say(&mut line);
        let began = line.now;
        let ended = loop {
            line.receive(message("s/ds"));
            if let Err(ended) = line.wait(FLOOD_PAUSE + 2 * SECOND) {
                break ended;
            }
        };
        assert_eq!(ended, error);
        assert!(line.now - began <= ACKNOWLEDGE_LIMIT + FLOOD_PAUSE);
    }
}

#[test]
fn tells_how_long_nothing_went_either_way() {
    let mut line = Line::ready(KEEP_ALIVE);
    line.wait(10 * SECOND).unwrap();
    line.receive(message("s/ds"));
    line.wait(20 * SECOND).unwrap();
    assert_eq!(line.conversation.silence(line.now), 20 * SECOND);
    // Whether the broker is still there is not known of a ping that nobody answers.
    line.wait(40 * SECOND).unwrap();
    assert_eq!(line.conversation.silence(line.now), 50 * SECOND);
    assert!(!line.conversation.has_ponged());
    line.receive(Packet::PingResp);
    assert_eq!(line.conversation.silence(line.now), Duration::ZERO);
    assert!(line.conversation.has_ponged());
}

#[test]
fn tells_the_longest_silence_that_something_came_behind() {
    let mut line = Line::ready(KEEP_ALIVE);
    let survived = |line: &Line| line.conversation.survived().as_secs();
    line.wait(20 * SECOND).unwrap();
    line.receive(message("s/ds"));
    assert_eq!(survived(&line), 20);
    line.wait(15 * SECOND).unwrap();
    line.receive_part();
    assert_eq!(survived(&line), 20, "that was shorter");
    line.wait(KEEP_ALIVE - 35 * SECOND + SECOND).unwrap();
    // The silence before a ping is survived when somebody answers, and no sooner.
    assert_eq!(survived(&line), 20);
    line.receive(Packet::PingResp);
    assert_eq!(survived(&line), 25);
    line.wait(KEEP_ALIVE).unwrap();
    line.receive(message("s/ds"));
    line.receive(Packet::PingResp);
    assert_eq!(survived(&line), 59);
}

#[test]
fn takes_no_silence_for_the_cause_of_a_close_that_comes_long_behind_the_ping() {
    let mut line = Line::ready(KEEP_ALIVE);
    let silence = |line: &Line| line.conversation.silence_before_close(line.now).as_secs();
    line.wait(40 * SECOND).unwrap();
    assert_eq!(silence(&line), 40);
    line.wait(20 * SECOND + CUT_ANSWER).unwrap();
    assert_eq!(silence(&line), 60);
    line.wait(SECOND).unwrap();
    assert_eq!(silence(&line), 0);
}

#[test]
fn pings_less_often_again_while_the_connection_stands() {
    let day = 24 * 60 * KEEP_ALIVE;
    let pings = Pings {
        pace: Pace::every(KEEP_ALIVE).below(40 * SECOND),
        ..Pings::every(KEEP_ALIVE)
    };
    let now = Instant::now();
    let conversation = Conversation::new(Opening::default(), pings, now);
    let mut line = Line { conversation, now };
    let mut intervals = Vec::new();
    let mut last = now;
    while line.now - now < 3 * day {
        line.now = line.conversation.next_deadline();
        line.conversation.time_passed(line.now).unwrap();
        line.receive(Packet::PingResp);
        intervals.push((line.now - last).as_secs());
        last = line.now;
    }
    let pings = |interval| intervals.iter().filter(|&&i| i == interval).count() as u64;
    assert_eq!(pings(20), day.as_secs() / 20);
    assert_eq!(pings(40), day.as_secs() / 40);
    assert_eq!(pings(60), day.as_secs() / 60);
    assert!(intervals.is_sorted());
}

#[test]
fn tells_whether_a_message_was_just_sent_alone() {
    let is_at_message = |line: &Line| line.conversation.has_just_sent_one(SECOND, line.now);
    let mut line = Line::ready(KEEP_ALIVE);
    assert!(line.conversation.settled_since().is_some());
    assert!(!is_at_message(&line));
    let first = line.conversation.publish(&Message::new("a", ""), line.now);
    assert_eq!(line.conversation.settled_since(), None);
    assert!(is_at_message(&line));
    line.wait(2 * SECOND).unwrap();
    assert!(!is_at_message(&line), "it is too long ago");
    line.acknowledge(first);
    assert_eq!(line.conversation.settled_since(), Some(line.now));
    line.conversation.publish(&Message::new("b", ""), line.now);
    line.wait(4 * SECOND).unwrap();
    assert!(is_at_message(&line), "this broker takes its time");
    line.conversation.publish(&Message::new("c", ""), line.now);
    assert!(!is_at_message(&line), "there are two");
}

#[test]
fn holds_what_comes_before_it_is_ready() {
    let mut line = Line::new(Opening {
        create: vec![Message::new("s/us", "100")],
        ..Opening::default()
    });
    line.sent();
    for _ in 0..HELD_LIMIT + 1 {
        line.receive(message("s/ds"));
    }
    assert_eq!(line.sent(), vec!["PUBACK 9"; HELD_LIMIT + 1]);
    assert!(line.events().is_empty());
    line.acknowledge(1);
    let events = line.events();
    assert_eq!(events[..2], [Event::Ready, Event::LeftOut]);
    assert_eq!(events.len(), 2 + HELD_LIMIT);
    line.receive(message("s/ds"));
    assert!(matches!(&line.events()[..], [Event::Received { topic, .. }] if topic == "s/ds"));
}

#[test]
fn acknowledges_what_it_skips() {
    let mut line = Line::ready(KEEP_ALIVE);
    for (packet_id, sent) in [(Some(7), vec!["PUBACK 7"]), (None, vec![])] {
        let skipped = Skipped {
            topic: "s/ds".into(),
            packet_id,
            size: 1 << 20,
        };
        let incoming = Incoming::Skipped(skipped.clone());
        line.conversation.receive(incoming, line.now).unwrap();
        assert_eq!(line.sent(), sent);
        assert_eq!(line.events(), [Event::Skipped(skipped)]);
    }
}

#[test]
fn ends_at_a_second_connack() {
    let mut line = Line::ready(KEEP_ALIVE);
    let packet = Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false));
    let ended = line
        .conversation
        .receive(Incoming::Packet(packet), line.now);
    assert_eq!(ended, Err(ConversationError::SecondConnAck));
}

#[test]
fn gives_no_packet_id_twice_while_it_is_in_use() {
    let mut line = Line::ready(KEEP_ALIVE);
    let message = Message::new("a", "");
    assert_eq!(line.conversation.publish(&message, line.now), 1);
    let ids: Vec<_> = (0..70_000)
        .map(|_| {
            let id = line.conversation.publish(&message, line.now);
            line.sent();
            line.acknowledge(id);
            line.events();
            id
        })
        .collect();
    assert_eq!(
        ids[65_533..65_536],
        [65_535, 2, 3],
        "0 is none, and 1 is on its way"
    );
}
