use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

const HOST: &str = "10.9.1.7:22";
const LONG: Duration = Duration::from_secs(30);
const GATEWAY: Process = Process(0);

/// A network in which nothing goes wrong.
fn calm() -> Network {
    let trace = Trace::new(false);
    let faults = Faults::new(7, trace.clone(), LONG, BTreeSet::new());
    faults.stop();
    let network = Network::new(faults, trace);
    tokio::spawn(network.clone().run());
    network
}

async fn connected(network: &Network) -> (Socket, Socket) {
    let address = HOST.parse().unwrap();
    let listener = network.listen(Zone::Lan, address);
    let near = network.connect(GATEWAY, address).await.unwrap();
    (near, listener.accept().await)
}

#[tokio::test(start_paused = true)]
async fn carries_bytes_and_ends_both_ways() {
    let network = calm();
    let (mut near, mut far) = connected(&network).await;
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let writing = async {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "thanks");
        assert_eq!(near.held(), 0);
    };
    let reading = async {
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        far.write_all(b"thanks").await.unwrap();
        drop(far);
    };
    timeout(LONG, async { tokio::join!(writing, reading) })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn holds_a_writer_back_whom_nobody_reads() {
    let network = calm();
    let (mut near, _far) = connected(&network).await;
    let mut taken = 0;
    while let Ok(more) = timeout(LONG, near.write(&[0; 4096])).await {
        taken += more.unwrap() as u64;
    }
    assert!(taken > 0 && taken < 1 << 20, "{taken}");
    assert!(near.held() > 0 && near.held() <= taken);
}

#[tokio::test(start_paused = true)]
async fn resets_whoever_sent_what_nobody_read() {
    let network = calm();
    let (mut near, far) = connected(&network).await;
    near.write_all(b"hello").await.unwrap();
    tokio::time::sleep(LONG).await;
    drop(far);
    let kind = near.read(&mut [0; 8]).await.unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
    let kind = near.write(b"?").await.unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::BrokenPipe);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn closes_what_a_killed_process_held() {
    let network = calm();
    let (mut near, mut far) = connected(&network).await;
    assert_eq!(network.held_by(GATEWAY).len(), 1);
    network.kill(GATEWAY);
    assert_eq!(network.held_by(GATEWAY).len(), 0);
    let end = timeout(LONG, far.read(&mut [0; 8])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
    assert!(timeout(LONG, near.read(&mut [0; 8])).await.is_err());
}
