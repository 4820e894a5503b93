//! Servers that are not what is looked for.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A server at a port of 127.0.0.1, for as long as it is held.
pub(crate) struct Server {
    pub(crate) port: u16,
    _stop: DropGuard,
}

/// Waits for the first words of a client, and answers with the same bytes whatever they are.
pub(crate) async fn canned(answer: &'static str) -> Server {
    let (listener, stop, server) = listen().await;
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut scratch = [0; 1 << 10];
            let _ = stream.read(&mut scratch).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            // To the end, or closing it would become a reset that eats the answer.
            while let Ok(1..) = stream.read(&mut scratch).await {}
        }
    }));
    server
}

/// Speaks TLS, and says nothing.
pub(crate) async fn tls_server(config: Arc<ServerConfig>) -> Server {
    let (listener, stop, server) = listen().await;
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut scratch = [0; 1 << 10];
            match acceptor.accept(stream).into_fallible().await {
                Ok(mut stream) => {
                    let _ = stream.read(&mut scratch).await;
                }
                // To the end, or closing it would become a reset that eats the alert.
                Err((_, mut stream)) => {
                    let _ = stream.shutdown().await;
                    while let Ok(1..) = stream.read(&mut scratch).await {}
                }
            }
        }
    }));
    server
}

async fn listen() -> (TcpListener, CancellationToken, Server) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let stop = CancellationToken::new();
    let server = Server {
        port: listener.local_addr().unwrap().port(),
        _stop: stop.clone().drop_guard(),
    };
    (listener, stop, server)
}
