//! What the kernel knows of the other end of a connection within this machine.

use std::fs;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

/// Waits until the process at the other end has read all that its kernel was given for it, or is
/// gone.
pub(crate) async fn read_by_peer(stream: &TcpStream) {
    let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    while unread(&connections(), peer.port(), own.port()).is_some_and(|bytes| bytes > 0) {
        sleep(Duration::from_millis(5)).await;
    }
}

fn connections() -> String {
    fs::read_to_string("/proc/net/tcp").unwrap_or_default()
}

/// Bytes that wait at the local port of a connection, as the table of the kernel has it.
fn unread(table: &str, local: u16, remote: u16) -> Option<u64> {
    let port = |address: &str| {
        let (_, port) = address.split_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let ends = [port(fields.next()?)?, port(fields.next()?)?];
        let queues = fields.nth(1)?;
        let (_, unread) = queues.split_once(':')?;
        (ends == [local, remote]).then(|| u64::from_str_radix(unread, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn waits_until_the_other_end_has_read_all() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        far.write_all(&[7; 300]).await.unwrap();
        let waits = timeout(Duration::from_millis(50), read_by_peer(&far)).await;
        assert!(waits.is_err());
        near.read_exact(&mut [0; 300]).await.unwrap();
        timeout(crate::support::LIMIT, read_by_peer(&far))
            .await
            .unwrap();
    }
}
