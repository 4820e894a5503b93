//! HTTP for monitoring and people: `/healthz`, `/metrics`, a status page.
//!
//! Whoever comes to this port may be slow, silent, rude or many. All that is done for them is done in
//! a thread of its own, which only asks the heart for a snapshot, and that at most a few times a
//! second; so nobody here can hold up a tunnel. Every wait and every buffer has a limit.

mod body;
mod connections;
mod feed;
mod form;
mod guard;
mod looking;
mod process;
mod service;
mod sessions;
mod stream;

use std::io;
use std::net::{self, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use crate::inquiry::Inquirer;
use crate::secret::Secret;
use connections::Connections;
pub(crate) use process::Figures;
pub(super) use process::Process;
use service::Service;
use stream::Patient;

/// Connections at the same time. One of those who hold most gives way to a new one, so that they keep
/// nobody out.
pub(crate) const CONNECTIONS: usize = 64;
/// How long the head of a request may take to come, and an idle connection stays.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a head; what a browser sends is a tenth of that. The least that the library takes.
const HEAD_SIZE: usize = 8 << 10;
/// Lines of a head.
const HEAD_LINES: usize = 64;
/// How long it is waited after the system could not give a connection, as for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Bytes of the stack of the thread: no more than a request and its answer pass over it.
const STACK_SIZE: usize = 1 << 20;

/// What is needed to come in, which may change while adit runs.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<Mutex<Option<Secret>>>);

/// A port that nobody answers at yet. It is taken before adit confines itself, and served by a thread
/// that is begun afterwards and so is confined too.
#[derive(Debug)]
pub(crate) struct Port {
    listener: net::TcpListener,
    address: SocketAddr,
    process: Process,
}

/// The server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    _stop: DropGuard,
}

impl Door {
    /// Lets those in who know the token, or everybody where there is none.
    pub(crate) fn new(token: Option<Secret>) -> Self {
        Self(Arc::new(Mutex::new(token)))
    }

    /// Wants another token from now on.
    pub(crate) fn set(&self, token: Option<Secret>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn token(&self) -> Option<Secret> {
        let token = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        token.clone()
    }
}

impl Port {
    /// Takes a port, also at an address that this machine may have only later.
    ///
    /// # Errors
    /// What the system says, as that somebody else has it.
    pub(crate) fn take(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        match listen {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let listener = net::TcpListener::from(socket);
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            process: Process::open(),
        })
    }
}

impl Server {
    /// Begins to serve in a thread of its own.
    ///
    /// # Errors
    /// What the system says where it gives no thread.
    pub(crate) fn start(port: Port, door: Door, inquirer: Inquirer) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("admin".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        served = serve(port, door, inquirer) => {
                            if let Err(error) = served {
                                let error = error.to_string();
                                error!(error, "admin.listen is not served any more");
                            }
                        }
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            _stop: stop.drop_guard(),
        })
    }
}

async fn serve(port: Port, door: Door, inquirer: Inquirer) -> io::Result<()> {
    let Port {
        listener,
        address,
        process,
    } = port;
    let listener = TcpListener::from_std(listener)?;
    info!(%address, "status, health and metrics are served over HTTP");
    let service = Arc::new(Service::new(address, door, inquirer, process));
    let mut connections = Connections::new(CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            () = connections.ended() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let service = Arc::clone(&service);
                connections.add(from.ip(), |mark| speak(stream, service, mark));
            }
            Err(error) => {
                warn!(error = error.to_string(), "no connection to admin.listen");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn speak(stream: TcpStream, service: Arc<Service>, mark: connections::Mark) {
    let io = TokioIo::new(Patient::new(stream));
    let answer = service_fn(|request| {
        let (service, mark) = (Arc::clone(&service), mark.clone());
        async move { service.answer(request, &mark).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEAD_LINES)
        .serve_connection(io, answer);
    if let Err(error) = connection.await {
        debug!(
            error = error.to_string(),
            "a connection to admin.listen broke"
        );
    }
}
