//! What may stand between the gateway and its broker.

use std::convert::Infallible;
use std::future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// What a box does to every connection.
#[derive(Clone, Copy, Default)]
pub(crate) struct Habits {
    /// Bytes arrive so much later, each way.
    pub(crate) delay: Duration,
    /// A connection that was silent for so long is closed.
    pub(crate) cuts_after: Option<Duration>,
    /// At most so many bytes go on at a time, each with the delay.
    pub(crate) piece: Option<usize>,
}

/// Carries TCP connections to a port of 127.0.0.1.
pub(crate) struct Middlebox {
    pub(crate) port: u16,
    orders: watch::Sender<Orders>,
    serving: JoinHandle<()>,
}

#[derive(Clone, Copy, Default)]
struct Orders {
    /// Nothing goes either way.
    holds: bool,
    /// How often all connections were closed.
    cuts: usize,
}

impl Middlebox {
    pub(crate) async fn before(port: u16, habits: Habits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let orders = watch::Sender::new(Orders::default());
        let followed = orders.clone();
        let serving = tokio::spawn(async move {
            // Dropped with the task that serves, and the connections with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(carry(near, port, habits, followed.subscribe()));
            }
        });
        Self {
            port: own,
            orders,
            serving,
        }
    }

    /// The setting that leads adit through it.
    pub(crate) fn setting(&self) -> String {
        format!("mqtt.url=mqtt://127.0.0.1:{}", self.port)
    }

    /// Lets nothing through any more, on any connection, without closing one.
    pub(crate) fn hold(&self) {
        self.orders.send_modify(|orders| orders.holds = true);
    }

    /// Closes all connections of now; new ones are carried.
    pub(crate) fn cut(&self) {
        self.orders.send_modify(|orders| {
            orders.holds = false;
            orders.cuts += 1;
        });
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(mut near: TcpStream, port: u16, habits: Habits, orders: watch::Receiver<Orders>) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let cuts = orders.borrow().cuts;
    let last = Arc::new(Mutex::new(Instant::now()));
    let (from_near, to_near) = near.split();
    let (from_far, to_far) = far.split();
    let mut cut = orders.clone();
    tokio::select! {
        _ = pass(from_near, to_far, habits, &last, orders.clone()) => {}
        _ = pass(from_far, to_near, habits, &last, orders) => {}
        () = silence(habits.cuts_after, &last) => {}
        _ = cut.wait_for(|orders| orders.cuts > cuts) => {}
    }
}

async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    habits: Habits,
    last: &Mutex<Instant>,
    mut orders: watch::Receiver<Orders>,
) -> io::Result<Infallible> {
    let mut buffer = vec![0; habits.piece.unwrap_or(64 << 10)];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *last.lock().unwrap() = Instant::now();
        sleep(habits.delay).await;
        let _ = orders.wait_for(|orders| !orders.holds).await;
        to.write_all(&buffer[..n]).await?;
    }
}

/// Waits until nothing has come from either side for so long.
async fn silence(limit: Option<Duration>, last: &Mutex<Instant>) {
    let Some(limit) = limit else {
        return future::pending().await;
    };
    loop {
        let end = *last.lock().unwrap() + limit;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}
