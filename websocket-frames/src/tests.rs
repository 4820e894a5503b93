//! Every rule of RFC 6455 that a client has to keep, by number, and tungstenite as the measure.

use std::io::{self, Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::{Role, WebSocket};

use super::*;
use crate::oracle::{End, Seen, compare, hand_over, ours};

/// Miri takes a hundred times as long.
const CASES: u32 = if cfg!(miri) { 8 } else { 512 };
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn fault(input: &[u8]) -> Option<Fault> {
    let mut decoder = Decoder::default();
    let mut at = 0;
    loop {
        match decoder.next(input, &mut at) {
            Ok(None) => return None,
            Ok(Some(_)) => {}
            Err(fault) => {
                // Nothing that comes afterwards is looked at.
                let (hello, mut at) = (b"\x82\x05hello", 0);
                assert_eq!(decoder.next(hello, &mut at), Ok(None));
                assert_eq!(at, hello.len());
                return Some(fault);
            }
        }
    }
}

/// The numbers in front are those of the Autobahn test suite's cases for clients. The suite itself, written in
/// Python 2.7, is not run: neither Debian 12 nor PyPI has an interpreter for it.
#[test]
fn says_how_a_server_breaks_the_protocol() {
    let long = |first: u8| [&[first, 126, 0, 126][..], &[0; 126]].concat();
    let close = |code: u16| [&[0x88, 2][..], &code.to_be_bytes()].concat();
    let after = |bytes: &[u8]| [b"\x02\x01a", bytes].concat();
    for (case, input, expected) in [
        ("2.5, RFC 5.5", long(0x89), Fault::LongControl),
        ("2.5, RFC 5.5", long(0x8a), Fault::LongControl),
        ("3.1, RFC 5.2", b"\xc2\x00".to_vec(), Fault::ReservedBits),
        ("3.2, RFC 5.2", b"\x92\x00".to_vec(), Fault::ReservedBits),
        ("3.3, RFC 5.2", b"\xa2\x00".to_vec(), Fault::ReservedBits),
        ("3.5, RFC 5.2", b"\xd2\x00".to_vec(), Fault::ReservedBits),
        ("3.6, RFC 5.2", b"\xe9\x00".to_vec(), Fault::ReservedBits),
        ("3.7, RFC 5.2", b"\xf8\x00".to_vec(), Fault::ReservedBits),
        (
            "4.1.1, RFC 5.2",
            b"\x83\x00".to_vec(),
            Fault::UnknownOpcode(3),
        ),
        (
            "4.1.2, RFC 5.2",
            b"\x84\x00".to_vec(),
            Fault::UnknownOpcode(4),
        ),
        (
            "4.1.3, RFC 5.2",
            b"\x85\x00".to_vec(),
            Fault::UnknownOpcode(5),
        ),
        (
            "4.1.4, RFC 5.2",
            b"\x86\x00".to_vec(),
            Fault::UnknownOpcode(6),
        ),
        (
            "4.1.5, RFC 5.2",
            b"\x87\x00".to_vec(),
            Fault::UnknownOpcode(7),
        ),
        (
            "4.2.1, RFC 5.2",
            b"\x8b\x00".to_vec(),
            Fault::UnknownOpcode(11),
        ),
        (
            "4.2.2, RFC 5.2",
            b"\x8c\x00".to_vec(),
            Fault::UnknownOpcode(12),
        ),
        (
            "4.2.3, RFC 5.2",
            b"\x8d\x00".to_vec(),
            Fault::UnknownOpcode(13),
        ),
        (
            "4.2.4, RFC 5.2",
            b"\x8e\x00".to_vec(),
            Fault::UnknownOpcode(14),
        ),
        (
            "4.2.5, RFC 5.2",
            b"\x8f\x00".to_vec(),
            Fault::UnknownOpcode(15),
        ),
        ("RFC 5.1", b"\x82\x81\0\0\0\0a".to_vec(), Fault::Masked),
        ("RFC 5.1", b"\x89\x80\0\0\0\0".to_vec(), Fault::Masked),
        (
            "RFC 5.2",
            b"\x82\x7f\x80\0\0\0\0\0\0\0".to_vec(),
            Fault::Length,
        ),
        (
            "5.1, RFC 5.5",
            b"\x09\x00".to_vec(),
            Fault::FragmentedControl,
        ),
        (
            "5.2, RFC 5.5",
            b"\x0a\x00".to_vec(),
            Fault::FragmentedControl,
        ),
        ("RFC 5.5", b"\x08\x00".to_vec(), Fault::FragmentedControl),
        (
            "5.9, RFC 5.4",
            b"\x80\x01a".to_vec(),
            Fault::NothingToContinue,
        ),
        (
            "5.10, RFC 5.4",
            b"\x00\x01a".to_vec(),
            Fault::NothingToContinue,
        ),
        ("5.18, RFC 5.4", after(b"\x82\x01a"), Fault::MessageWithin),
        ("5.18, RFC 5.4", after(b"\x01\x00"), Fault::MessageWithin),
        (
            "7.3.2, RFC 5.5.1",
            b"\x88\x01\x03".to_vec(),
            Fault::ShortClose,
        ),
        ("7.3.6, RFC 5.5", long(0x88), Fault::LongControl),
        (
            "7.5.1, RFC 8.1",
            b"\x88\x04\x03\xe8\xff\xfe".to_vec(),
            Fault::CloseReason,
        ),
        ("7.9.1, RFC 7.4.1", close(0), Fault::CloseCode(0)),
        ("7.9.2, RFC 7.4.1", close(999), Fault::CloseCode(999)),
        ("7.9.3, RFC 7.4.1", close(1004), Fault::CloseCode(1004)),
        ("7.9.4, RFC 7.4.1", close(1005), Fault::CloseCode(1005)),
        ("7.9.5, RFC 7.4.1", close(1006), Fault::CloseCode(1006)),
        ("7.9.6, RFC 7.4.2", close(1016), Fault::CloseCode(1016)),
        ("7.9.9, RFC 7.4.2", close(2999), Fault::CloseCode(2999)),
        ("7.13.1, RFC 7.4.2", close(5000), Fault::CloseCode(5000)),
        ("7.13.2, RFC 7.4.2", close(65535), Fault::CloseCode(65535)),
        ("RFC 7.4.1", close(1015), Fault::CloseCode(1015)),
    ] {
        assert_eq!(fault(&input), Some(expected), "{case}");
        for size in 1..4 {
            assert_eq!(ours(&input, &[size]).end, End::Fault, "{case}");
        }
        let code = if expected == Fault::CloseReason {
            1007
        } else {
            1002
        };
        assert_eq!(u16::from(expected.code()), code, "{case}");
        compare(&input, &[]);
    }
}

#[test]
fn takes_what_a_server_may_send() {
    let close = |code: u16| [&[0x88, 2][..], &code.to_be_bytes()].concat();
    let bytes = |data: &[u8]| Seen {
        data: data.to_vec(),
        ..Seen::default()
    };
    let pings = |pings: &[(bool, &[u8])], data: &[u8]| Seen {
        pings: pings
            .iter()
            .map(|(ping, body)| (*ping, body.to_vec()))
            .collect(),
        ..bytes(data)
    };
    let closed = |code| Seen {
        end: End::Closed(code),
        ..Seen::default()
    };
    let full = [b'x'; BODY_LIMIT];
    for (case, input, expected) in [
        ("1.1.1", b"\x81\x00".to_vec(), bytes(b"")),
        ("1.2.2", b"\x82\x03abc".to_vec(), bytes(b"abc")),
        (
            "1.1.4",
            [&[0x81, 126, 0, 126][..], &[b'*'; 126]].concat(),
            bytes(&[b'*'; 126]),
        ),
        ("2.1", b"\x89\x00".to_vec(), pings(&[(true, b"")], b"")),
        (
            "2.4",
            [&[0x89, 125][..], &full].concat(),
            pings(&[(true, &full)], b""),
        ),
        ("2.7", b"\x8a\x00".to_vec(), pings(&[(false, b"")], b"")),
        (
            "2.10",
            b"\x89\x01a\x89\x01b\x8a\x01c".to_vec(),
            pings(&[(true, b"a"), (true, b"b"), (false, b"c")], b""),
        ),
        ("5.3", b"\x01\x01a\x80\x01b".to_vec(), bytes(b"ab")),
        (
            "5.6",
            b"\x01\x01a\x89\x01!\x00\x00\x80\x01b".to_vec(),
            pings(&[(true, b"!")], b"ab"),
        ),
        // What is text, and whether it is UTF-8, is for whoever reads it.
        ("6.3.1", b"\x81\x02\xff\xfe".to_vec(), bytes(b"\xff\xfe")),
        ("7.3.1", b"\x88\x00".to_vec(), closed(None)),
        ("7.3.3", close(1000), closed(Some(1000))),
        ("7.3.4", b"\x88\x05\x03\xe8bye".to_vec(), closed(Some(1000))),
        ("7.7.12", close(1013), closed(Some(1013))),
        // A gateway's, which the registry of IANA has and RFC 6455 has not.
        ("IANA", close(1014), closed(Some(1014))),
        ("7.7.13", close(3000), closed(Some(3000))),
        ("7.7.17", close(4999), closed(Some(4999))),
        ("7.1.1", b"\x88\x00\x82\x01a\x89\x00".to_vec(), closed(None)),
        // Longer than it need be; tungstenite and browsers take it, too.
        (
            "RFC 5.2",
            b"\x82\x7f\0\0\0\0\0\0\0\x01a".to_vec(),
            bytes(b"a"),
        ),
    ] {
        for size in 1..=input.len() {
            assert_eq!(ours(&input, &[size]), expected, "{case} by {size}");
        }
        compare(&input, &[]);
    }
}

#[test]
fn gives_the_payload_of_a_frame_of_any_size_as_it_comes() {
    let mut decoder = Decoder::default();
    let mut at = 0;
    let begin = [&[0x82, 127][..], &i64::MAX.to_be_bytes(), b"ab"].concat();
    assert_eq!(decoder.next(&begin, &mut at), Ok(Some(Item::Data(10..12))));
    assert_eq!(decoder.next(&begin, &mut at), Ok(None));
    for _ in 0..3 {
        let (piece, mut at) = ([7; 4096], 0);
        assert_eq!(decoder.next(&piece, &mut at), Ok(Some(Item::Data(0..4096))));
        assert_eq!(decoder.next(&piece, &mut at), Ok(None));
    }
    assert!(decoder.is_within());
}

#[test]
fn knows_where_a_stream_would_be_cut() {
    for (input, within) in [
        (&b""[..], false),
        (b"\x82", true),
        (b"\x82\x02", true),
        (b"\x82\x02a", true),
        (b"\x82\x02ab", false),
        (b"\x82\x00", false),
        (b"\x02\x02ab", true),
        (b"\x02\x02ab\x89\x00", true),
        (b"\x02\x02ab\x80\x00", false),
        (b"\x89\x02a", true),
        (b"\x89\x00", false),
        (b"\x88\x00\x82", false),
    ] {
        let mut decoder = Decoder::default();
        let mut at = 0;
        while decoder.next(input, &mut at).unwrap().is_some() {}
        assert_eq!(decoder.is_within(), within, "{input:x?}");
    }
}

#[test]
fn tells_of_text_from_its_first_frame_on() {
    for (input, had_text) in [
        (&b""[..], [false, false]),
        (b"\x82\x01a\x02\x00\x80\x01b", [false, false]),
        (b"\x81\x00", [true, true]),
        (b"\x82\x01a\x01\x01b", [false, true]),
        (b"\x01\x01a\x80\x01b\x82\x00", [true, true]),
    ] {
        let mut decoder = Decoder::default();
        let mut at = 0;
        decoder.next(input, &mut at).unwrap();
        // What came before the text is told before.
        let first = decoder.had_text();
        while decoder.next(input, &mut at).unwrap().is_some() {}
        assert_eq!([first, decoder.had_text()], had_text, "{input:x?}");
    }
}

#[test]
fn masks_as_the_rfc_says() {
    // The example of RFC 6455, 5.7.
    let mut room = [&[0; HEADER_ROOM][..], b"Hello"].concat();
    let begin = enclose(&mut room, HEADER_ROOM..HEADER_ROOM + 5, KEY);
    assert_eq!(
        room[begin..],
        *b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
    );
    let random = |length: usize| (0..length).map(|n| (n * 31) as u8).collect::<Vec<u8>>();
    for length in 0..70 {
        let mut masked = random(length);
        mask(&mut masked, KEY);
        let slow = random(length).into_iter().zip(KEY.iter().cycle());
        assert_eq!(
            masked,
            slow.map(|(byte, key)| byte ^ key).collect::<Vec<_>>()
        );
    }
}

/// RFC 6455, 5.2: the minimal number of bytes must be used to encode the length.
#[test]
fn says_a_length_in_as_few_bytes_as_it_needs() {
    for (length, header) in [
        (0, &b"\x82\x80"[..]),
        (125, b"\x82\xfd"),
        (126, b"\x82\xfe\x00\x7e"),
        (0xffff, b"\x82\xfe\xff\xff"),
        (0x1_0000, b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00"),
    ] {
        let mut room = vec![0; HEADER_ROOM + length];
        let end = room.len();
        let begin = enclose(&mut room, HEADER_ROOM..end, KEY);
        let written = &room[begin..HEADER_ROOM];
        assert_eq!(written, [header, &KEY].concat(), "{length}");
    }
}

#[test]
fn words_what_the_operator_and_the_server_read_of_a_fault() {
    for (input, text) in [
        (&b"\xc2\x00"[..], "Reserved bits are non-zero"),
        (b"\x83\x00", "Encountered invalid opcode: 3"),
        (b"\x09\x00", "Fragmented control frame"),
        (b"\x80\x00", "Continue frame but nothing to continue"),
        (b"\x88\x01\x03", "Close frame with half a code"),
        (
            b"\x88\x02\x03\xed",
            "Close frame with code 1005, which means nothing",
        ),
        (
            b"\x88\x03\x03\xe8\xff",
            "Close frame with a reason that is not UTF-8",
        ),
    ] {
        assert_eq!(fault(input).unwrap().to_string(), text);
    }
}

/// Takes what a server writes.
#[derive(Default)]
struct Written(Vec<u8>);

impl Read for Written {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![8 => 0..200_usize, 1 => 65_500..65_600_usize];
    (lengths, any::<u8>()).prop_map(|(length, seed)| {
        (0..length)
            .map(|n| (n as u8).wrapping_mul(29) ^ seed)
            .collect()
    })
}

/// A message of a server, in one frame or in several with a ping between them.
#[derive(Clone, Debug)]
enum Sent {
    Whole(Vec<u8>),
    Parts(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let small = || vec(any::<u8>(), 0..=BODY_LIMIT);
    prop_oneof![
        payload().prop_map(Sent::Whole),
        vec(payload(), 2..5).prop_map(Sent::Parts),
        small().prop_map(Sent::Ping),
        small().prop_map(Sent::Pong),
    ]
}

/// The bytes that tungstenite's server makes of it.
fn bytes_of_a_server(messages: &[Sent], close: Option<u16>) -> (Vec<u8>, Seen) {
    let mut seen = Seen::default();
    let mut server = WebSocket::from_raw_socket(Written::default(), Role::Server, None);
    for message in messages {
        match message {
            Sent::Whole(data) => {
                seen.data.extend(data);
                server.send(Message::Binary(data.clone().into())).unwrap();
            }
            Sent::Parts(parts) => {
                for (n, part) in parts.iter().enumerate() {
                    seen.data.extend(part);
                    let kind = [Data::Continue, Data::Binary][usize::from(n == 0)];
                    let last = n + 1 == parts.len();
                    let frame = Frame::message(part.clone(), OpCode::Data(kind), last);
                    server.send(Message::Frame(frame)).unwrap();
                }
            }
            Sent::Ping(body) => {
                seen.pings.push((true, body.clone()));
                server.send(Message::Ping(body.clone().into())).unwrap();
            }
            Sent::Pong(body) => {
                seen.pings.push((false, body.clone()));
                server.send(Message::Pong(body.clone().into())).unwrap();
            }
        }
    }
    if let Some(code) = close {
        seen.end = End::Closed(Some(code));
        let reason = "over and out".into();
        let frame = tungstenite::protocol::CloseFrame {
            code: code.into(),
            reason,
        };
        server.close(Some(frame)).unwrap();
    }
    (server.get_ref().0.clone(), seen)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn finds_what_tungstenite_sent_in_pieces_of_any_size(
        messages in vec(sent(), 0..6),
        close in prop_oneof![Just(None), Just(Some(1000_u16)), Just(Some(1011))],
        sizes in vec(1..3000_usize, 1..5),
    ) {
        let (bytes, expected) = bytes_of_a_server(&messages, close);
        prop_assert_eq!(ours(&bytes, &sizes), expected);
    }

    #[test]
    fn makes_what_tungstenite_takes(payload in payload(), key in any::<[u8; 4]>()) {
        hand_over(&payload, key);
    }

    #[test]
    fn agrees_with_tungstenite_on_bytes_that_look_like_frames(
        frames in vec((any::<u8>(), 0..6_u8, vec(any::<u8>(), 0..8)), 0..8),
        sizes in vec(1..9_usize, 1..4),
    ) {
        let mut bytes = Vec::new();
        for (first, longer, payload) in frames {
            // Mostly without reserved bits, and mostly with the right length.
            let first = if first & 0x10 == 0 { first & 0x8f } else { first & 0x8a };
            let length = payload.len() as u8 + u8::from(longer == 5);
            bytes.extend([first, length]);
            bytes.extend(payload);
        }
        compare(&bytes, &sizes);
    }

    #[test]
    fn agrees_with_tungstenite_on_any_bytes(
        bytes in vec(any::<u8>(), 0..40),
        sizes in vec(1..9_usize, 1..4),
    ) {
        compare(&bytes, &sizes);
    }
}
