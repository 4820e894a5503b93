//! The one way out, for MQTT and for the WebSocket: TCP, then TLS where the endpoint asks for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server and how it is spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or address, an IPv6 address without brackets. The server's certificate must name it.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Connects to the cloud or to the local broker with one set of trusted roots.
#[derive(Clone)]
pub struct Transport {
    tls: Arc<ClientConfig>,
}

/// A byte stream to a server, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Name resolution or TCP failed.
    #[error("cannot reach {host}:{port}")]
    Dial {
        /// The server's host.
        host: String,
        /// The server's port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The host cannot be the name of a certificate.
    #[error("{host} is not a name that a certificate can have")]
    Name {
        /// The server's host.
        host: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The TLS handshake failed.
    #[error("no TLS with {host}:{port}")]
    Tls {
        /// The server's host.
        host: String,
        /// The server's port.
        port: u16,
        /// What the TLS library said.
        source: io::Error,
    },
}

impl Transport {
    /// Trusts the system's roots and `extra`.
    ///
    /// Roots that cannot be parsed are left out, as other software on the machine does.
    ///
    /// # Errors
    /// The TLS library refused its own default versions, which no input can cause.
    pub fn new(extra: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(extra.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// Connects without a time limit of its own; dropping the future closes what is half open.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Stream, TransportError> {
        let Endpoint { tls, host, port } = endpoint;
        let tcp = dial(host, *port)
            .await
            .map_err(|source| TransportError::Dial {
                host: host.clone(),
                port: *port,
                source,
            })?;
        if !tls {
            return Ok(Stream::Plain(tcp));
        }
        let name = ServerName::try_from(host.clone()).map_err(|source| TransportError::Name {
            host: host.clone(),
            source,
        })?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(name, tcp)
            .await
            .map_err(|source| TransportError::Tls {
                host: host.clone(),
                port: *port,
                source,
            })?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
