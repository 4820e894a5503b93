//! What stands in front of the platform's WebSockets, and answers late or in its place.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What begins a connection key that is answered here: `answer-STATUS-MILLISECONDS-MARK`.
pub(super) const ANSWER: &str = "answer-";
/// How late the platform is at most for all other keys.
const LATE: u64 = 250;

/// The front. Dropping it ends everything.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    _stop: DropGuard,
}

impl Front {
    pub(super) async fn start(cloud: SocketAddr, mut random: Rng) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut connections = JoinSet::new();
            loop {
                let (device, _) = listener.accept().await.unwrap();
                let late = Duration::from_millis(random.u64(0..LATE));
                connections.spawn(serve(device, cloud, late));
            }
        }));
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }
}

async fn serve(mut device: TcpStream, cloud: SocketAddr, late: Duration) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match device.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&head);
    let path = text.split(' ').nth(1).unwrap_or_default();
    let key = path.rsplit('/').next().unwrap_or_default();
    if let Some(answer) = key.strip_prefix(ANSWER) {
        let [status, late, mark] = answer.split('-').collect::<Vec<_>>()[..] else {
            panic!("{key}");
        };
        sleep(Duration::from_millis(late.parse().unwrap())).await;
        let body = format!(r#"{{"error":"general/weather","message":"mark {mark}."}}"#);
        let answer = format!(
            "HTTP/1.1 {status} As Asked\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        drop(device.write_all(answer.as_bytes()).await);
        drop(device.shutdown().await);
        // To the end, or closing it would become a reset that eats the answer.
        while let Ok(1..) = device.read(&mut [0; 1 << 10]).await {}
        return;
    }
    sleep(late).await;
    let mut platform = TcpStream::connect(cloud).await.unwrap();
    if platform.write_all(&head).await.is_ok() {
        drop(copy_bidirectional(&mut device, &mut platform).await);
    }
}
