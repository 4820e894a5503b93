//! The WebSocket endpoint, for devices and for operators.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use smartrest::Row;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::board::{Board, Configuration};
use crate::est;
use crate::forward::ACCEPT_PAUSE;
use crate::handshake::Handshake;
use crate::http::{Request, error_body, refuse};
use crate::misbehaviour::Misbehaviour;
use crate::options::Options;
use crate::pipe::{Socket, close, pipe};
use crate::platform::{Key, OperationId, REMOTE_ACCESS, Status};
use crate::rendezvous::{Claim, Rendezvous};
use crate::rest::{self, OperatorSession};
use crate::stream::Stream;
use crate::tunnel::DeviceSocket;

const DEVICE_PATH: &str = "/service/remoteaccess/device/";
const OPERATOR_PATH: &str = "/service/remoteaccess/client/";
const SUBPROTOCOL: &str = "binary";
/// How long a client may take for TLS and its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long connections may take to end when the platform shuts down.
const STOP_LIMIT: Duration = Duration::from_secs(3);
const MAX_CONNECTIONS: usize = 4096;
/// What an operator may send before the device has come, in bytes; then nothing is read.
const EARLY_LIMIT: usize = 1024 * 1024;
/// How long a socket is kept that was closed right after the upgrade.
const FAREWELL: Duration = Duration::from_secs(5);
/// Of a Close, in bytes (RFC 6455, section 5.5).
const LONGEST_REASON: usize = 123;

/// What all connections share.
pub(crate) struct Endpoint {
    pub(crate) options: Options,
    pub(crate) board: Arc<Board>,
    pub(crate) rendezvous: Rendezvous,
    pub(crate) session: OperatorSession,
    pub(crate) misbehaviour: watch::Sender<Option<Misbehaviour>>,
    pub(crate) stop: CancellationToken,
}

impl Endpoint {
    /// Serves connections until the platform stops, and waits for them to end.
    ///
    /// Only the `public` address speaks TLS and misbehaves.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, public: bool) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((tcp, _)) => {
                            let endpoint = Arc::clone(&self);
                            connections.spawn(async move {
                                if let Err(error) = endpoint.connection(tcp, public).await {
                                    debug!(%error, "connection ended");
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

    /// Creates the operation that opens a tunnel, and the place where its socket arrives.
    pub(crate) fn open(
        &self,
        device: &str,
        host: &str,
        port: u16,
    ) -> Option<(OperationId, oneshot::Receiver<DeviceSocket>)> {
        let (key, socket) = self.rendezvous.expect();
        let row = Row::new(["530", device, host, &port.to_string(), key.expose()]);
        let id = self.board.publish(|platform| {
            platform
                .create_operation(device, REMOTE_ACCESS, row)
                .map_or((None, Vec::new()), |(id, deliveries)| {
                    (Some(id), deliveries)
                })
        })?;
        Some((id, socket))
    }

    async fn connection(&self, tcp: TcpStream, public: bool) -> io::Result<()> {
        let misbehaviour = self.misbehaviour.borrow().clone().filter(|_| public);
        if misbehaviour == Some(Misbehaviour::ResetAtAccept) {
            return tcp.set_zero_linger();
        }
        tcp.set_nodelay(true)?;
        let asked = timeout(REQUEST_LIMIT, async {
            let mut stream = match &self.options.tls {
                Some(config) if public => {
                    let tls = TlsAcceptor::from(Arc::clone(config)).accept(tcp).await?;
                    Stream::Tls(Box::new(TlsStream::from(tls)))
                }
                _ => Stream::Plain(tcp),
            };
            let request = Request::read(&mut stream).await?;
            io::Result::Ok((stream, request))
        });
        let asked = tokio::select! {
            asked = asked => asked,
            () = self.stop.cancelled() => return Ok(()),
        };
        let (mut stream, request) = asked.map_err(|_| io::ErrorKind::TimedOut)??;
        if rest::is_for(&request) {
            return self.rest(stream, request).await;
        }
        // A WebSocket begins with GET; only the authority takes anything else.
        if request.method != "GET" && !asks_authority(&request) {
            return refuse(&mut stream, 404, &error_body(404)).await;
        }
        if let Some(key) = request.path.strip_prefix(DEVICE_PATH) {
            let key = Key::new(key);
            tokio::select! {
                result = self.device(stream, request, &key, misbehaviour) => result,
                () = self.stop.cancelled() => Ok(()),
            }
        } else if let (Some(authority), true) = (&self.options.authority, asks_authority(&request))
        {
            let is_good =
                |token: &str| self.board.look(|state| state.platform.is_token_good(token));
            tokio::select! {
                result = authority.serve(stream, request, is_good) => result,
                () = self.stop.cancelled() => Ok(()),
            }
        } else if asks_authority(&request) {
            let body = r#"{"error":"Not Found","message":"Failed to retrieve tenant keypair"}"#;
            refuse(&mut stream, 404, body).await
        } else if request.path.starts_with(OPERATOR_PATH) {
            self.operator(stream, request).await
        } else {
            refuse(&mut stream, 404, &error_body(404)).await
        }
    }

    async fn device(
        &self,
        mut stream: Stream,
        request: Request,
        key: &Key,
        misbehaviour: Option<Misbehaviour>,
    ) -> io::Result<()> {
        let index = self.record(&request, key);
        match &misbehaviour {
            Some(Misbehaviour::Answer { status, body }) => {
                self.board.answer_handshake(index, *status);
                return refuse(&mut stream, *status, body).await;
            }
            Some(Misbehaviour::Delay(delay)) => sleep(*delay).await,
            Some(Misbehaviour::NeverAnswer) => std::future::pending().await,
            Some(Misbehaviour::Garbage) => {
                stream
                    .write_all(b"\x16\x03\x01\0\xffSSH-2.0-not-http\r\n\r\n")
                    .await?;
                return stream.shutdown().await;
            }
            _ => {}
        }
        let (arrival, accept_key) = match self.admit(&request, key) {
            Ok(admitted) => admitted,
            Err(status) => {
                self.board.answer_handshake(index, status);
                return refuse(&mut stream, status, &error_body(status)).await;
            }
        };
        let protocol = (misbehaviour != Some(Misbehaviour::NoSubprotocol)).then_some(SUBPROTOCOL);
        self.board.answer_handshake(index, 101);
        let mut socket = request.upgrade(stream, &accept_key, protocol).await?;
        match misbehaviour {
            Some(Misbehaviour::CloseAfterUpgrade) => {
                say_goodbye(&mut socket, "the platform thinks better of it").await;
            }
            Some(Misbehaviour::ResetAfterUpgrade) => crate::tunnel::reset(socket)?,
            _ => {
                // Whoever waited may have given up in this moment; the socket is dropped then.
                drop(arrival.send(socket));
            }
        }
        Ok(())
    }

    /// Decides about a device's request; the HTTP status of a refusal is the error.
    fn admit(
        &self,
        request: &Request,
        key: &Key,
    ) -> Result<(oneshot::Sender<DeviceSocket>, String), u16> {
        let bearer = request
            .bearer()
            .is_some_and(|token| self.board.look(|state| state.platform.is_token_good(token)));
        if !bearer && !request.is_from(&self.options.device_login) {
            return Err(401);
        }
        let accept_key = request.accept_key().ok_or(400_u16)?;
        match self.rendezvous.claim(key) {
            Claim::Granted(arrival) => Ok((arrival, accept_key)),
            Claim::Used => Err(self.options.used_key_status),
            Claim::Expired => Err(self.options.expired_key_status),
            Claim::Unknown => Err(404),
        }
    }

    fn record(&self, request: &Request, key: &Key) -> usize {
        let operation = self.board.look(|state| {
            let operations = state.platform.operations().iter();
            operations
                .rev()
                .find(|operation| operation.key().as_ref() == Some(key))
                .map(|o| o.id)
        });
        self.board.add_handshake(Handshake {
            at: Instant::now(),
            path: request.path.clone(),
            operation,
            authorization: request.authorization_scheme().map(str::to_owned),
            protocols: request.protocols(),
            host: request.header("host").map(str::to_owned),
            answer: None,
        })
    }

    /// Answers what an operator's client asks, one request a connection.
    async fn rest(&self, mut stream: Stream, mut request: Request) -> io::Result<()> {
        let body = timeout(REQUEST_LIMIT, request.read_body(&mut stream)).await;
        let body = body.map_err(|_| io::ErrorKind::TimedOut)??;
        let answer = rest::answer(&request, &body, &self.options, &self.session, &self.board);
        answer.send(&mut stream).await
    }

    async fn operator(&self, mut stream: Stream, request: Request) -> io::Result<()> {
        let refusal = match self.admit_operator(&request) {
            Ok((configuration, accept_key)) => {
                let protocol = Some(SUBPROTOCOL);
                let socket = request.upgrade(stream, &accept_key, protocol).await?;
                self.connect_operator(socket, &configuration).await;
                return Ok(());
            }
            Err(status) => status,
        };
        refuse(&mut stream, refusal, &error_body(refusal)).await
    }

    fn admit_operator(&self, request: &Request) -> Result<(Configuration, String), u16> {
        if !self.session.admits(request, &self.options.operator_login) {
            return Err(401);
        }
        let accept_key = request.accept_key().ok_or(400_u16)?;
        let configuration = request
            .path
            .strip_prefix(OPERATOR_PATH)
            .and_then(|path| path.split_once("/configurations/"))
            .and_then(|(device, id)| self.board.configuration(device, id))
            .ok_or(404_u16)?;
        Ok((configuration, accept_key))
    }

    /// Waits until an operation fails, for as long as its key may be good.
    async fn failure(&self, id: OperationId) -> String {
        let failed = self.board.wait_until(self.options.key_lifetime, |state| {
            let operation = state.platform.operation(id)?;
            (operation.status() == Status::Failed).then(|| operation.reason.clone())
        });
        match failed.await {
            Ok(reason) => reason.unwrap_or_else(|| "failed without a reason".to_owned()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Opens a tunnel for an operator who is connected, and pipes until either side ends.
    async fn connect_operator(&self, mut operator: Socket, configuration: &Configuration) {
        let Configuration { device, host, port } = configuration;
        let Some((id, arrival)) = self.open(device, host, *port) else {
            return say_goodbye(&mut operator, "there is no such device").await;
        };
        let waiting = timeout(self.options.key_lifetime, wait(&mut operator, arrival));
        let waited = tokio::select! {
            waited = waiting => waited,
            reason = self.failure(id), if self.options.operators_see_failures => {
                return say_goodbye(&mut operator, &reason).await;
            }
            () = self.stop.cancelled() => return,
        };
        match waited {
            Ok(Some((socket, early))) => {
                let misbehaviour = self.misbehaviour.subscribe();
                pipe(operator, socket, early, misbehaviour, &self.stop).await;
            }
            Ok(None) => debug!(
                operation = id.0,
                "the operator is gone before the device came"
            ),
            Err(_) => {
                say_goodbye(&mut operator, "the device did not connect").await;
            }
        }
    }
}

fn asks_authority(request: &Request) -> bool {
    request.method == "POST" && request.path.starts_with(est::PATH)
}

/// Waits for the device, keeping what the operator sends in the meantime.
///
/// An operator who sends something and then a Close is still served: the device gets both. One
/// who leaves without a word revokes the key.
async fn wait(
    operator: &mut Socket,
    mut arrival: oneshot::Receiver<DeviceSocket>,
) -> Option<(DeviceSocket, Vec<Message>)> {
    let mut early = Vec::new();
    let mut room = EARLY_LIMIT;
    let mut closed = false;
    loop {
        tokio::select! {
            socket = &mut arrival => return Some((socket.ok()?, early)),
            message = operator.next(), if room > 0 && !closed => match message {
                Some(Ok(Message::Close(_))) if early.is_empty() => return None,
                Some(Ok(message)) => {
                    closed = message.is_close();
                    if closed && operator.flush().await.is_err() {
                        return None;
                    }
                    if closed || message.is_binary() || message.is_text() {
                        room = room.saturating_sub(message.len());
                        early.push(message);
                    }
                }
                Some(Err(_)) | None => return None,
            },
        }
    }
}

/// Sends a Close (1011) and reads until it is answered, for a limited time.
async fn say_goodbye(socket: &mut Socket, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(LONGEST_REASON)];
    let farewell = async {
        if socket
            .send(Message::Close(Some(close(CloseCode::Error, reason))))
            .await
            .is_ok()
        {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    drop(timeout(FAREWELL, farewell).await);
}
