//! Carries messages between an operator's WebSocket and a device's.
//!
//! The end of one side becomes the end of the other: a Close is passed on with its code behind
//! all that came before it, and a side that vanishes without a Close is a Close 1001 (operator)
//! or 1011 (device) for the other. Pings are answered hop by hop.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::misbehaviour::Misbehaviour;
use crate::stream::Stream;

/// How long the other side may take to answer a Close.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// The same when the platform shuts down.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A side of the platform's.
pub(crate) type Socket = WebSocketStream<Stream>;
type Halves = (SplitSink<Socket, Message>, SplitStream<Socket>);

/// Pipes until both sides have ended or `stop` is cancelled; while the platform is told to be
/// silent, nothing moves. `early` is what the operator sent before the device came.
pub(crate) async fn pipe(
    operator: Socket,
    device: Socket,
    early: Vec<Message>,
    mut misbehaviour: watch::Receiver<Option<Misbehaviour>>,
    stop: &CancellationToken,
) {
    let mut operator = Some(operator.split());
    let mut device = Some(device.split());
    let stopped = {
        let mut piped = pin!(pipe_to_the_end(&mut operator, &mut device, early));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break true,
                () = silence(&mut misbehaviour, true) => {
                    tokio::select! {
                        () = stop.cancelled() => break true,
                        () = silence(&mut misbehaviour, false) => {}
                    }
                }
                () = &mut piped => break false,
            }
        }
    };
    if stopped {
        let farewell = async { tokio::join!(say_goodbye(operator), say_goodbye(device)) };
        drop(timeout(STOP_LIMIT, farewell).await);
    }
}

/// Pipes until one side has ended, lets go of it, and waits for the other to answer the Close.
async fn pipe_to_the_end(
    operator: &mut Option<Halves>,
    device: &mut Option<Halves>,
    early: Vec<Message>,
) {
    let (Some((to_operator, from_operator)), Some((to_device, from_device))) =
        (operator.as_mut(), device.as_mut())
    else {
        return;
    };
    let rest = tokio::select! {
        () = pump(from_operator, to_device, early, operator_gone()) => {
            *operator = None;
            from_device
        }
        () = pump(from_device, to_operator, Vec::new(), device_gone()) => {
            *device = None;
            from_operator
        }
    };
    let answered = async { while let Some(Ok(_)) = rest.next().await {} };
    drop(timeout(CLOSE_LIMIT, answered).await);
}

async fn pump(
    source: &mut SplitStream<Socket>,
    sink: &mut SplitSink<Socket, Message>,
    early: Vec<Message>,
    gone: CloseFrame,
) {
    // A side that takes no more is still read to its end, so that its Close is seen and answered.
    let mut open = true;
    let mut early = early.into_iter();
    loop {
        let ready = match early.next() {
            Some(message) => Some(Some(Ok(message))),
            None => source.next().now_or_never(),
        };
        let message = match ready {
            Some(message) => message,
            None => {
                // All that is there was fed, and leaves before the wait for more.
                open = open && sink.flush().await.is_ok();
                source.next().await
            }
        };
        match message {
            Some(Ok(Message::Close(frame))) => {
                drop(sink.send(Message::Close(frame)).await);
                // The library writes its answer to the Close when it is asked for more.
                drop(source.next().await);
                return;
            }
            Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => {
                open = open && sink.feed(message).await.is_ok();
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                drop(sink.send(Message::Close(Some(gone))).await);
                return;
            }
        }
    }
}

async fn say_goodbye(side: Option<Halves>) {
    let going = close(CloseCode::Away, "the platform is going down");
    if let Some((mut sink, _)) = side {
        drop(sink.send(Message::Close(Some(going))).await);
    }
}

/// Waits until the platform is told to be silent, or no longer is.
async fn silence(misbehaviour: &mut watch::Receiver<Option<Misbehaviour>>, silent: bool) {
    let changed = misbehaviour.wait_for(|now| (*now == Some(Misbehaviour::Silence)) == silent);
    if changed.await.is_err() {
        // Nobody can change it any more.
        std::future::pending::<()>().await;
    }
}

fn operator_gone() -> CloseFrame {
    close(CloseCode::Away, "the operator is gone")
}

fn device_gone() -> CloseFrame {
    close(CloseCode::Error, "the device is gone")
}

pub(crate) fn close(code: CloseCode, reason: &str) -> CloseFrame {
    CloseFrame {
        code,
        reason: reason.into(),
    }
}
