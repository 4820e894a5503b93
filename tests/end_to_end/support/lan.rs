//! Machines on the gateway's LAN.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::LIMIT;
use super::ports::Port;

/// A machine that speaks TCP at a port of 127.0.0.1.
pub(crate) struct Lan {
    pub(crate) port: u16,
    serving: JoinHandle<()>,
}

impl Lan {
    /// Sends back what it receives, and ends when its client does.
    pub(crate) async fn echo() -> Self {
        Self::banner("").await
    }

    /// Does the same at another address of this machine.
    pub(crate) async fn echo_at(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(serve(listener, ""));
        Self { port, serving }
    }

    /// Speaks first, as SSH does, and then sends back what it receives.
    pub(crate) async fn banner(text: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(serve(listener, text));
        Self { port, serving }
    }

    /// Listens for one connection, which the test holds itself.
    pub(crate) async fn held() -> (u16, Held) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        (listener.local_addr().unwrap().port(), Held(listener))
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A machine whose connection a test takes when it wants to.
pub(crate) struct Held(TcpListener);

impl Held {
    pub(crate) async fn accept(&self) -> TcpStream {
        let accepted = timeout(LIMIT, self.0.accept()).await;
        accepted.expect("a connection in time").unwrap().0
    }
}

async fn serve(listener: TcpListener, banner: &'static str) {
    // Dropped with the task that serves, and the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(echo(stream, banner));
    }
}

async fn echo(mut stream: TcpStream, banner: &str) {
    let mut buffer = vec![0; 64 << 10];
    if stream.write_all(banner.as_bytes()).await.is_err() {
        return;
    }
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Returns a port of 127.0.0.1 where nobody listens, for as long as it is held.
pub(crate) fn refusing_port() -> Port {
    Port::reserve()
}

/// A machine that answers no SYN: its queue of connections is full.
pub(crate) struct BlackHole {
    pub(crate) port: u16,
    listener: Option<Socket>,
    filling: TcpStream,
}

impl BlackHole {
    pub(crate) async fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        // A queue for none holds one.
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            port: address.port(),
            listener: Some(socket),
            filling: TcpStream::connect(address).await.unwrap(),
        }
    }

    /// Becomes a machine that echoes; who knocks gets in with its next SYN, after a second or three.
    pub(crate) fn wake(mut self) -> Lan {
        let listener: std::net::TcpListener = self.listener.take().expect("set until here").into();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let port = self.port;
        drop(self.filling);
        Lan {
            port,
            serving: tokio::spawn(serve(listener, "")),
        }
    }
}
