//! The cloud's end of a tunnel: it does its part and keeps notes.

use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use simulated_cloud::{DeviceSocket, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::side::{End, Heard, Left, Pace, Part, READ_SIZE, Shared, Stream, wait_for_end};
use crate::support::LIMIT;

/// How long the cloud waits for an answer to its Close, and for an end after that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the cloud's end of an operation does.
pub(crate) struct FarEnd {
    pub(crate) number: usize,
    pub(crate) part: Part,
    /// What comes from the machine.
    pub(crate) hears: Stream,
    /// Bytes of a message at most.
    pub(crate) frame: usize,
    pub(crate) notes: Shared,
    pub(crate) farewell: CancellationToken,
}

impl FarEnd {
    /// Waits for adit's WebSocket, and plays to the end; does nothing where none comes.
    pub(crate) async fn serve(self, mut tunnel: Tunnel) {
        if let Ok(socket) = tunnel.accept(2 * LIMIT).await {
            self.notes.begin();
            let peer = socket.get_ref().tcp().peer_addr();
            let port = peer.ok().map(|peer| peer.port());
            self.notes.note(|notes| notes.peer_port = port);
            self.play(socket).await;
            self.notes.note(|notes| notes.over = Some(Instant::now()));
        }
    }

    async fn play(&self, socket: DeviceSocket) {
        let (mut sink, mut stream) = socket.split();
        let mut pace = self.part.pace;
        // In any order: who always writes would never let the other read.
        let (how, is_own) = tokio::select! {
            how = self.act(&mut sink) => (how, true),
            heard = self.hear(&mut stream, &mut pace) => match heard {
                Heard::Reset => (End::Reset(Duration::ZERO), false),
                Heard::End => (End::Cut(Duration::ZERO), false),
                // The library answers a Close while it is read on.
                Heard::Close(_) => (End::InOrder(Duration::ZERO), false),
            },
        };
        self.notes
            .note(|notes| notes.left = Some(Left { how, is_own }));
        if let End::InOrder(_) = how {
            if is_own {
                let close = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "".into(),
                };
                let closed = sink.send(Message::Close(Some(close)));
                drop(timeout(PATIENCE, closed).await);
            }
            if !self.notes.is_told() {
                drop(timeout(PATIENCE, self.hear(&mut stream, &mut pace)).await);
            }
            let rest = async { while let Some(Ok(_)) = stream.next().await {} };
            drop(timeout(PATIENCE, rest).await);
        }
        let Ok(mut socket) = stream.reunite(sink) else {
            return;
        };
        match how {
            End::Reset(_) => drop(simulated_cloud::reset(socket)),
            // A server ends the connection first, and adit waits for that.
            _ => {
                let stream = socket.get_mut();
                drop(timeout(PATIENCE, stream.shutdown()).await);
                // To the end and whatever it is, or closing it would become a reset that eats what
                // is still on its way.
                let mut rest = vec![0; READ_SIZE];
                let ended = async { while let Ok(1..) = stream.read(&mut rest).await {} };
                drop(timeout(PATIENCE, ended).await);
            }
        }
    }

    /// Says all and waits for its time.
    async fn act(&self, sink: &mut SplitSink<DeviceSocket, Message>) -> End {
        for piece in &self.part.says {
            sleep(piece.after).await;
            let said = self.notes.note(|notes| notes.said);
            let bytes = Stream::down(self.number).bytes(said, piece.bytes);
            for body in bytes.chunks(self.frame) {
                // Some of it may arrive although not all can be written.
                self.notes.note(|notes| notes.said += body.len() as u64);
                let sent = sink.send(Message::binary(body.to_vec())).await;
                if sent.is_err() {
                    // Reading tells how it ended.
                    std::future::pending::<()>().await;
                }
            }
        }
        wait_for_end(self.part.end, &self.farewell).await
    }

    async fn hear(&self, stream: &mut SplitStream<DeviceSocket>, pace: &mut Pace) -> Heard {
        let heard = loop {
            pace.wait(self.notes.note(|notes| notes.heard)).await;
            match stream.next().await {
                Some(Ok(Message::Binary(part))) => self.hears.hear(&self.notes, &part),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    break Heard::Close(code);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => break Heard::Reset,
                None => break Heard::End,
            }
        };
        self.notes.told(heard)
    }
}
