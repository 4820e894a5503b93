//! A machine beside the gateway: it does its part and keeps notes.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::side::{End, Heard, Left, Part, READ_SIZE, Shared, Stream, wait_for_end};

/// How long a machine waits for the other end's word after its own last one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves the machine of an operation for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    number: usize,
    part: Part,
    notes: Shared,
    farewell: CancellationToken,
) {
    // Dropped with this one.
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        notes.begin();
        connections.spawn(play(
            socket,
            number,
            part.clone(),
            notes.clone(),
            farewell.clone(),
        ));
    }
}

async fn play(
    mut socket: TcpStream,
    number: usize,
    part: Part,
    notes: Shared,
    farewell: CancellationToken,
) {
    drop(socket.set_nodelay(true));
    let how = {
        let (mut read, mut write) = socket.split();
        let (how, is_own) = match part.echoes {
            true => in_answer(echo(number, &part, &mut read, &mut write, &notes).await),
            // In any order: who always writes would never let the other read.
            false => tokio::select! {
                left = act(&part, number, &mut write, &notes, &farewell) => (left, true),
                heard = hear(number, &part, &mut read, &notes) => in_answer(heard),
            },
        };
        notes.note(|notes| notes.left = Some(Left { how, is_own }));
        if let End::InOrder(_) = how {
            drop(write.shutdown().await);
            if !notes.is_told() {
                drop(timeout(PATIENCE, hear(number, &part, &mut read, &notes)).await);
            }
        }
        how
    };
    if let End::Reset(_) = how {
        drop(socket.set_zero_linger());
    }
    drop(socket);
    notes.note(|notes| notes.over = Some(Instant::now()));
}

/// Says all and waits for its time.
async fn act(
    part: &Part,
    number: usize,
    write: &mut WriteHalf<'_>,
    notes: &Shared,
    farewell: &CancellationToken,
) -> End {
    for piece in &part.says {
        sleep(piece.after).await;
        let said = notes.note(|notes| notes.said);
        let bytes = Stream::up(number).bytes(said, piece.bytes);
        if !say(write, &bytes, notes).await {
            // Reading tells how it ended.
            std::future::pending::<()>().await;
        }
    }
    wait_for_end(part.end, farewell).await
}

/// Whether everything could be written.
async fn say(write: &mut WriteHalf<'_>, mut bytes: &[u8], notes: &Shared) -> bool {
    while !bytes.is_empty() {
        match write.write(bytes).await {
            Ok(count @ 1..) => {
                notes.note(|notes| notes.said += count as u64);
                bytes = &bytes[count..];
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
    part: &Part,
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    notes: &Shared,
) -> Heard {
    let mut buffer = vec![0; READ_SIZE];
    let mut pace = part.pace;
    let heard = loop {
        let room = pace.wait(notes.note(|notes| notes.heard)).await;
        match read.read(&mut buffer[..room]).await {
            Ok(0) => break Heard::End,
            Ok(count) => {
                Stream::down(number).hear(notes, &buffer[..count]);
                if !say(write, &buffer[..count], notes).await {
                    break Heard::Reset;
                }
            }
            Err(_) => break Heard::Reset,
        }
    };
    notes.told(heard)
}

async fn hear(number: usize, part: &Part, read: &mut ReadHalf<'_>, notes: &Shared) -> Heard {
    let mut buffer = vec![0; READ_SIZE];
    let mut pace = part.pace;
    let heard = loop {
        let room = pace.wait(notes.note(|notes| notes.heard)).await;
        match read.read(&mut buffer[..room]).await {
            Ok(0) => break Heard::End,
            Ok(count) => Stream::down(number).hear(notes, &buffer[..count]),
            Err(_) => break Heard::Reset,
        }
    };
    notes.told(heard)
}
