//! The machines beside the gateway: each does its part and keeps notes.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::network::{Network, Socket, Zone};
use crate::places;
use crate::side::{End, Heard, Left, Part, Reader, Shared, Stream, note, wait_for_end};

/// How long a machine waits for the other end's word after its own last one.
const PATIENCE: Duration = Duration::from_secs(900);

/// Serves the machine of an operation for ever.
pub(crate) async fn serve(
    network: Network,
    number: usize,
    part: Part,
    notes: Shared,
    farewell: CancellationToken,
) {
    let listener = network.listen(Zone::Lan, places::machine(number));
    loop {
        let socket = listener.accept().await;
        note(&notes, |notes| {
            notes.visits += 1;
            notes.began = Some(Instant::now());
            notes.connection = Some(socket.connection());
        });
        network.spawn(play(
            network.clone(),
            socket,
            number,
            part.clone(),
            notes.clone(),
            farewell.clone(),
        ));
    }
}

async fn play(
    network: Network,
    socket: Socket,
    number: usize,
    part: Part,
    notes: Shared,
    farewell: CancellationToken,
) {
    let connection = socket.connection();
    let (read, mut write) = split(socket);
    let mut reader = Reader::new(read, part.pace);
    let left = {
        let left = match part.echoes {
            true => in_answer(echo(number, &mut reader, &mut write, &notes).await),
            false => tokio::select! {
                biased;
                left = act(&part, number, &mut write, &notes, &farewell) => (left, true),
                heard = hear(number, &mut reader, &notes) => in_answer(heard),
            },
        };
        let (how, is_own) = left;
        let at = Instant::now();
        note(&notes, |notes| notes.left = Some(Left { at, how, is_own }));
        how
    };
    crate::note!(
        network.trace(),
        "lan",
        "machine {number} ends {connection}: {left:?}"
    );
    if let End::InOrder(_) = left {
        let _ = write.shutdown().await;
        let is_told = note(&notes, |notes| notes.told.is_some());
        if !is_told {
            let _ = timeout(PATIENCE, hear(number, &mut reader, &notes)).await;
        }
    }
    let socket = reader.into_inner().unsplit(write);
    if let End::Reset(_) = left {
        socket.reset_when_closed();
    }
    drop(socket);
    note(&notes, |notes| notes.over = Some(Instant::now()));
}

/// Says all and waits for its time.
async fn act(
    part: &Part,
    number: usize,
    write: &mut WriteHalf<Socket>,
    notes: &Shared,
    farewell: &CancellationToken,
) -> End {
    for piece in &part.says {
        sleep(piece.after).await;
        let said = note(notes, |notes| notes.said);
        let bytes = Stream::up(number).bytes(said, piece.bytes);
        if !say(write, &bytes, notes).await {
            // Reading tells how it ended.
            std::future::pending::<()>().await;
        }
    }
    note(notes, |notes| notes.said_all = true);
    wait_for_end(part.end, farewell).await
}

/// Whether everything could be written.
pub(crate) async fn say(
    write: &mut (impl AsyncWriteExt + Unpin),
    mut bytes: &[u8],
    notes: &Shared,
) -> bool {
    while !bytes.is_empty() {
        match write.write(bytes).await {
            Ok(count @ 1..) => {
                note(notes, |notes| notes.said += count as u64);
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Ok(0) | Err(_) => return false,
        }
    }
    true
}

/// What a machine does when the other end has ended the tunnel.
fn in_answer(heard: Heard) -> (End, bool) {
    let how = match heard {
        Heard::Reset => End::Reset(Duration::ZERO),
        _ => End::InOrder(Duration::ZERO),
    };
    (how, false)
}

/// Says what it hears, to the end.
async fn echo(
    number: usize,
    reader: &mut Reader<ReadHalf<Socket>>,
    write: &mut WriteHalf<Socket>,
    notes: &Shared,
) -> Heard {
    let heard = loop {
        match reader.read().await {
            Ok([]) => break Heard::End,
            Ok(bytes) => {
                Stream::down(number).hear(notes, bytes);
                if !say(write, bytes, notes).await {
                    break Heard::Reset;
                }
            }
            Err(_) => break Heard::Reset,
        }
    };
    note(notes, |notes| {
        notes.said_all = true;
        notes.told = Some((Instant::now(), heard));
    });
    heard
}

async fn hear(number: usize, reader: &mut Reader<ReadHalf<Socket>>, notes: &Shared) -> Heard {
    let heard = loop {
        match reader.read().await {
            Ok([]) => break Heard::End,
            Ok(bytes) => Stream::down(number).hear(notes, bytes),
            Err(_) => break Heard::Reset,
        }
    };
    note(notes, |notes| notes.told = Some((Instant::now(), heard)));
    heard
}
