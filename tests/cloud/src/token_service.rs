//! `POST /devicecontrol/deviceAccessToken` over mutual TLS: a token for a certificate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tracing::debug;

use crate::board::Board;
use crate::http::{Request, error_body, refuse, respond};
use crate::stream::Stream;

const PATH: &str = "/devicecontrol/deviceAccessToken";
/// How long a client may take for TLS and its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Where tokens are given to certificates.
#[derive(Clone)]
pub struct TokenService {
    /// The platform's is at port 8443.
    pub listen: SocketAddr,
    /// Demands a certificate of the device.
    pub tls: Arc<ServerConfig>,
}

impl TokenService {
    /// Serves one request after the other, for ever.
    pub(crate) async fn serve(self, listener: TcpListener, board: Arc<Board>) {
        loop {
            let Ok((tcp, _)) = listener.accept().await else {
                continue;
            };
            let (service, board) = (self.clone(), Arc::clone(&board));
            let served = async move {
                if let Err(error) = service.connection(tcp, &board).await {
                    debug!(%error, "request for a token ended");
                }
            };
            tokio::spawn(served);
        }
    }

    async fn connection(&self, tcp: TcpStream, board: &Board) -> io::Result<()> {
        let asked = async {
            let tls = TlsAcceptor::from(Arc::clone(&self.tls)).accept(tcp).await?;
            let mut stream = Stream::Tls(Box::new(TlsStream::from(tls)));
            let request = Request::read(&mut stream).await?;
            io::Result::Ok((stream, request))
        };
        let asked = timeout(REQUEST_LIMIT, asked).await;
        let (mut stream, request) = asked.map_err(|_| io::ErrorKind::TimedOut)??;
        if request.method != "POST" || request.path != PATH {
            return refuse(&mut stream, 404, &error_body(404)).await;
        }
        let body = match board.change(|state| state.platform.certified_token()) {
            None => std::future::pending().await,
            Some(Err(status)) => return refuse(&mut stream, status, &error_body(status)).await,
            Some(Ok(body)) => body,
        };
        respond(&mut stream, 200, "", &body).await
    }
}
