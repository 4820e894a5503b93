//! Every byte arrives, in order, whoever is slow, and in whatever messages it comes.

use futures_util::future::{join, join_all};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::transfer::{
    Progress, content, read, read_to_end, receive, receive_from, send, write,
};
use crate::support::{FarEnd, LIMIT, Lan, Site};

const MIB: usize = 1 << 20;
const BULK: usize = 64 * MIB;
/// What an operator's side sends in one message.
const MESSAGE: usize = 64 << 10;
/// A message of which no part may wait for the next.
const LARGEST: usize = 16 * MIB;
/// How much more memory one tunnel may take while megabytes wait: its buffers and what the
/// allocator makes of them, and far less than what waits.
const TUNNEL_MEMORY: usize = 2 * MIB;

#[tokio::test]
async fn carries_64_mib_each_way_at_the_same_time() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, FarEnd(socket)) = site.open(port).await;
    let (mut machine_in, mut machine_out) = machine.accept().await.into_split();
    let (mut cloud_out, mut cloud_in) = socket.split();
    let (up, down) = (content(1, BULK), content(2, BULK));
    let (sent_up, sent_down) = (Progress::default(), Progress::default());
    tokio::join!(
        write(&mut machine_out, &up, &sent_up),
        receive(&mut cloud_in, &up),
        send(&mut cloud_out, &down, MESSAGE, &sent_down),
        read(&mut machine_in, &down, MESSAGE),
    );
    FarEnd(cloud_out.reunite(cloud_in).unwrap()).close().await;
    drop((machine_in, machine_out));
    let (_, text) = site.event(&site.gateway, 2).await;
    let counts = format!("{BULK} bytes to the cloud, {BULK} bytes to the device");
    assert!(text.ends_with(&counts), "{text}");
}

#[tokio::test]
async fn holds_a_machine_back_while_the_cloud_reads_slowly() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = machine.accept().await;
    machine.write_all(b"begin").await.unwrap();
    far_end.expect("begin").await;
    let before = adit.peak_memory();

    let bulk = content(3, BULK);
    let sent = Progress::default();
    let reads = async {
        let mut received = 0;
        for round in 1..=3 {
            // Nobody reads at the cloud, and the machine cannot go on.
            sent.stall().await;
            assert!(sent.bytes() < BULK, "nobody held the machine back");
            let until = round * 5 * MIB;
            receive_from(&mut far_end.0, &bulk, &mut received, until).await;
        }
        receive_from(&mut far_end.0, &bulk, &mut received, BULK).await;
    };
    join(write(&mut machine, &bulk, &sent), reads).await;
    let grown = adit.peak_memory() - before;
    assert!(grown < TUNNEL_MEMORY, "adit has taken {grown} bytes");
}

#[tokio::test]
async fn holds_the_cloud_back_while_a_machine_reads_slowly() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = machine.accept().await;
    far_end.send("begin").await;
    read(&mut machine, b"begin", MESSAGE).await;
    let before = adit.peak_memory();

    let bulk = content(4, BULK);
    let sent = Progress::default();
    let reads = async {
        let mut rest = bulk.as_slice();
        for size in [1, 7, 1000] {
            // Nobody reads at the machine, and the cloud cannot go on.
            sent.stall().await;
            assert!(sent.bytes() < BULK, "nobody held the cloud back");
            let (part, after) = rest.split_at(5000 * size);
            read(&mut machine, part, size).await;
            rest = after;
        }
        read(&mut machine, rest, MESSAGE).await;
    };
    join(send(&mut far_end.0, &bulk, MESSAGE, &sent), reads).await;
    let grown = adit.peak_memory() - before;
    assert!(grown < TUNNEL_MEMORY, "adit has taken {grown} bytes");
}

#[tokio::test]
async fn keeps_the_bytes_of_many_tunnels_apart() {
    const TUNNELS: u64 = 32;
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let sockets = join_all((0..TUNNELS).map(|_| site.open(lan.port))).await;
    let carried = sockets
        .into_iter()
        .zip(0..)
        .map(|((_, FarEnd(socket)), number)| async move {
            let bytes = content(number, MIB);
            let (mut sink, mut stream) = socket.split();
            let progress = Progress::default();
            join(
                send(&mut sink, &bytes, MESSAGE, &progress),
                receive(&mut stream, &bytes),
            )
            .await;
        });
    join_all(carried).await;
    site.assert_no_complaint();
}

#[tokio::test]
async fn carries_one_byte_before_there_is_a_second() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = machine.accept().await;
    for key in *b"ls -l\n" {
        far_end.send([key]).await;
        read(&mut machine, &[key], 1).await;
        machine.write_all(&[key]).await.unwrap();
        far_end.expect([key]).await;
    }
}

fn fragment(kind: Data, bytes: &[u8], last: bool) -> Message {
    let bytes = bytes.to_vec();
    Message::Frame(Frame::message(bytes, OpCode::Data(kind), last))
}

#[tokio::test]
async fn takes_messages_of_every_form_as_bytes() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    let mut machine = machine.accept().await;
    let large = content(5, LARGEST);
    let in_fragments = large.chunks(MIB).enumerate().map(|(number, part)| {
        let kind = [Data::Continue, Data::Binary][usize::from(number == 0)];
        fragment(kind, part, number + 1 == LARGEST / MIB)
    });
    for (messages, bytes) in [
        (vec![Message::binary("one")], b"one".as_slice()),
        (vec![Message::binary(""), Message::binary("two")], b"two"),
        (
            vec![Message::text("grüß"), Message::text("")],
            "grüß".as_bytes(),
        ),
        (
            vec![
                fragment(Data::Binary, b"in ", false),
                fragment(Data::Continue, b"", false),
                Message::Ping("still there?".into()),
                fragment(Data::Continue, b"parts", true),
            ],
            b"in parts",
        ),
        (
            // A character of two bytes, one in each.
            vec![
                fragment(Data::Text, b"gr\xc3", false),
                fragment(Data::Continue, b"\xbc\xc3\x9f", true),
            ],
            "grüß".as_bytes(),
        ),
        (
            vec![
                fragment(Data::Binary, b"", false),
                fragment(Data::Continue, b"", true),
                Message::binary("three"),
            ],
            b"three",
        ),
        (vec![Message::binary(large.clone())], &large),
        (in_fragments.collect(), &large),
    ] {
        let sends = async {
            for message in messages {
                let sent = timeout(LIMIT, far_end.0.send(message)).await;
                sent.expect("sent in time").unwrap();
            }
        };
        join(sends, read(&mut machine, bytes, MESSAGE)).await;
    }
    far_end.close().await;
    read_to_end(&mut machine, b"").await;
}

#[tokio::test]
async fn takes_a_message_of_40_mib_in_little_memory() {
    const LARGE: usize = 40 * MIB;
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let bytes = content(7, LARGE);
    let (first, last) = bytes.split_at(LARGE / 2);
    let before = adit.peak_memory();
    for messages in [
        vec![Message::binary(bytes.clone())],
        vec![
            fragment(Data::Binary, first, false),
            fragment(Data::Continue, last, true),
        ],
    ] {
        let (port, machine) = Lan::held().await;
        let (_, mut far_end) = site.open(port).await;
        let mut machine = machine.accept().await;
        let sends = async {
            for message in messages {
                let sent = timeout(LIMIT, far_end.0.send(message)).await;
                sent.expect("sent in time").unwrap();
            }
        };
        join(sends, read(&mut machine, &bytes, MESSAGE)).await;
    }
    let grown = adit.peak_memory() - before;
    assert!(grown < TUNNEL_MEMORY, "adit has taken {grown} bytes");
}
