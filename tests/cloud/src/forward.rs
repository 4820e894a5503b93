//! A local port whose connections become tunnels, as a desktop client of the platform makes one.
//!
//! It goes the operator's whole way: over a WebSocket to the platform and not around it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::http::web_socket_config;
use crate::options::Login;
use crate::pipe::close;

const READ_SIZE: usize = 128 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the platform may take to answer a Close, and a local client to end after the tunnel.
const END_LIMIT: Duration = Duration::from_secs(10);
/// The same when the platform shuts down.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// The pause after a connection that could not be accepted.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const MAX_CONNECTIONS: usize = 1024;

type ClientSocket = WebSocketStream<TcpStream>;

/// Where tunnels are opened and who opens them.
pub(crate) struct Forward {
    pub(crate) endpoint: SocketAddr,
    pub(crate) path: String,
    pub(crate) login: Login,
    pub(crate) stop: CancellationToken,
}

impl Forward {
    /// Serves local connections until the platform stops, and waits for them to end.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let forward = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = forward.stop.cancelled() => break,
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((local, _)) => {
                            let forward = Arc::clone(&forward);
                            connections.spawn(async move {
                                if let Err(error) = forward.connection(local).await {
                                    let error = format!("{error:#}");
                                    debug!(error, "forwarded connection failed");
                                }
                            });
                        }
                        Err(error) => {
                            // Out of file descriptors, say: not to be retried at once.
                            debug!(%error, "cannot accept");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
        let ended = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_LIMIT, ended).await.is_err() {
            connections.shutdown().await;
        }
    }

    async fn connection(&self, local: TcpStream) -> anyhow::Result<()> {
        local.set_nodelay(true)?;
        let socket = match timeout(CONNECT_LIMIT, self.connect()).await {
            Ok(Ok(socket)) => socket,
            failed => {
                local.set_zero_linger()?;
                failed.context("the platform does not answer")??;
                return Ok(());
            }
        };
        bridge(local, socket, &self.stop).await?;
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<ClientSocket> {
        let Login {
            tenant,
            user,
            password,
        } = &self.login;
        let mut request = format!("ws://{}{}", self.endpoint, self.path).into_client_request()?;
        let credentials = STANDARD.encode(format!("{tenant}/{user}:{password}"));
        let value = HeaderValue::from_str(&format!("Basic {credentials}"))?;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, value);
        // It is answered unasked too, which the library takes for an error.
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
        let tcp = TcpStream::connect(self.endpoint).await?;
        tcp.set_nodelay(true)?;
        let config = Some(web_socket_config());
        let (socket, _) = client_async_with_config(request, tcp, config)
            .await
            .context("the platform refuses the operator")?;
        Ok(socket)
    }
}

/// Carries bytes between a local connection and the tunnel until the tunnel has ended.
async fn bridge(
    local: TcpStream,
    socket: ClientSocket,
    stop: &CancellationToken,
) -> io::Result<()> {
    let (mut from_local, mut to_local) = local.into_split();
    let (mut to_tunnel, mut from_tunnel) = socket.split();
    let ended = {
        let up = up(&mut from_local, &mut to_tunnel);
        let down = down(&mut from_tunnel, &mut to_local);
        let (mut up, mut down) = (pin!(up), pin!(down));
        tokio::select! {
            ended = &mut down => ended,
            () = &mut up => timeout(END_LIMIT, down).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())),
        }
    };
    if let Err(error) = ended {
        to_local.as_ref().set_zero_linger()?;
        // Dropping this half would end the connection in order.
        to_local.forget();
        return Err(error);
    }
    // To close a socket with unread bytes resets it, and the last bytes sent would be lost.
    to_local.shutdown().await?;
    let rest = async {
        let mut rest = BytesMut::with_capacity(READ_SIZE);
        while from_local.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        io::Result::Ok(())
    };
    tokio::select! {
        rest = timeout(END_LIMIT, rest) => rest.unwrap_or(Ok(())),
        () = stop.cancelled() => Ok(()),
    }
}

/// Carries bytes into the tunnel until the local side ends; then comes a Close.
async fn up(local: &mut OwnedReadHalf, tunnel: &mut SplitSink<ClientSocket, Message>) {
    let mut buffer = BytesMut::new();
    let last = loop {
        buffer.reserve(READ_SIZE);
        match local.read_buf(&mut buffer).await {
            Ok(0) => break close(CloseCode::Normal, ""),
            Ok(_) => {
                if tunnel
                    .send(Message::Binary(buffer.split().freeze()))
                    .await
                    .is_err()
                {
                    // The other direction sees how the tunnel ended.
                    return std::future::pending().await;
                }
            }
            Err(_) => break close(CloseCode::Error, "the operator's client is gone"),
        }
    };
    drop(tunnel.send(Message::Close(Some(last))).await);
}

/// Carries bytes out of the tunnel until that is closed; an end without a Close is an error.
async fn down(
    tunnel: &mut SplitStream<ClientSocket>,
    local: &mut OwnedWriteHalf,
) -> io::Result<()> {
    while let Some(message) = tunnel.next().await {
        match message {
            Ok(Message::Binary(bytes)) => local.write_all(&bytes).await?,
            Ok(Message::Text(text)) => local.write_all(text.as_bytes()).await?,
            Ok(Message::Close(frame)) => {
                // The answer leaves when the library is asked for more.
                drop(timeout(END_LIMIT, tunnel.next()).await);
                return match frame {
                    Some(frame) if frame.code == CloseCode::Error => {
                        Err(io::Error::other(frame.reason.to_string()))
                    }
                    _ => Ok(()),
                };
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(())
}
