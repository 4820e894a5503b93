//! How much of what was written the kernel still holds, because the other side has not taken it.
//!
//! `SIOCOUTQ` says so of one socket, but no safe call leads there. The kernel says the same of a
//! connection when it is asked over netlink, which takes some microseconds. A kernel may be built
//! without that and a sandbox may forbid it; then the number is looked up in the table of all
//! connections, which takes longer the more there are.

mod diagnosis;
mod table;

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::Instant;

/// The two ends of a connection, the near one first.
type Ends = (SocketAddr, SocketAddr);

/// Returns the bytes that the other side has not acknowledged, with one more for an end that was
/// sent; 0 where the system does not tell.
///
/// What was written after `since` may be missing.
pub(super) fn held(stream: &TcpStream, since: Instant) -> u64 {
    #[cfg(test)]
    tests::ASKED.set(true);
    let Some(ends) = ends(stream) else {
        return 0;
    };
    diagnosis::held(ends).unwrap_or_else(|| table::held(ends, since))
}

/// Opens on this thread what [`held`] may read, before nothing can be opened any more.
pub(crate) fn prepare() {
    table::open();
}

fn ends(stream: &TcpStream) -> Option<Ends> {
    Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
}

#[cfg(test)]
pub(crate) use tests::was_asked;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;
    use crate::confinement::Confinement;

    thread_local! {
        pub(super) static ASKED: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this thread has asked the kernel.
    pub(crate) fn was_asked() -> bool {
        ASKED.get()
    }

    async fn listeners() -> [TcpListener; 2] {
        let [ipv4, ipv6] = ["127.0.0.1:0", "[::1]:0"].map(TcpListener::bind);
        [ipv4.await.unwrap(), ipv6.await.unwrap()]
    }

    async fn knows_what_the_other_side_has_not_taken(held: impl Fn(Ends) -> u64) {
        knows_of(listeners().await, held).await;
    }

    async fn knows_of(listeners: [TcpListener; 2], held: impl Fn(Ends) -> u64) {
        for listener in listeners {
            let address = listener.local_addr().unwrap();
            let mut near = TcpStream::connect(address).await.unwrap();
            let (far, _) = listener.accept().await.unwrap();
            let ends = ends(&near).unwrap();
            assert_eq!(held(ends), 0);
            let piece = [0; 64 << 10];
            let mut written = 0;
            while let Ok(more) = timeout(Duration::from_millis(100), near.write(&piece)).await {
                written += more.unwrap() as u64;
            }
            let before = held(ends);
            assert!(before > 0 && before < written, "{before} of {written}");
            let mut room = vec![0; 64 << 10];
            let mut read = 0;
            while held(ends) > 0 {
                far.readable().await.unwrap();
                if let Ok(more) = far.try_read(&mut room) {
                    read += more as u64;
                }
            }
            assert!(read > 0 && read <= written);
        }
    }

    #[tokio::test]
    async fn knows_by_asking_the_kernel() {
        knows_what_the_other_side_has_not_taken(|ends| diagnosis::held(ends).unwrap()).await;
    }

    #[tokio::test]
    async fn knows_by_the_table_where_the_kernel_does_not_answer() {
        knows_what_the_other_side_has_not_taken(|ends| table::held(ends, Instant::now())).await;
    }

    #[test]
    fn knows_by_the_table_though_no_file_can_be_opened_any_more() {
        let confined = std::thread::spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listeners = listeners().await;
                prepare();
                Confinement::new().apply();
                knows_of(listeners, |ends| table::held(ends, Instant::now())).await;
            });
        });
        confined.join().unwrap();
    }

    #[tokio::test]
    async fn says_the_same_whichever_way_it_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).await.unwrap();
        let (_far, _) = listener.accept().await.unwrap();
        let piece = [0; 64 << 10];
        while timeout(Duration::from_millis(100), near.writable())
            .await
            .is_ok()
        {
            let _ = near.try_write(&piece);
        }
        let ends = ends(&near).unwrap();
        // The other side may confirm something in between.
        loop {
            let before = table::held(ends, Instant::now());
            let asked = diagnosis::held(ends);
            let held = held(&near, Instant::now());
            if before == table::held(ends, Instant::now()) {
                assert!(before > 0);
                assert_eq!((asked, held), (Some(before), before));
                return;
            }
        }
    }
}
