//! Connects to a server by whatever way there is: TCP, a proxy, TLS, and a WebSocket for MQTT.
//!
//! Every wait is bounded by the caller's limit, and the error names who let it pass.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::address::{BrokerEndpoint, Endpoint};
use super::dial;
use super::error::{Awaited, Peer, TransportError};
use super::identity::Identity;
use super::journal::{Journal, Seen, Step};
use super::proxy::Proxy;
use super::renewals::Refusal;
use super::resolve::Resolver;
use super::stream::Stream;
use super::tcp::{self, Tcp};
use super::tls::{Tls, TlsFault};
use super::trust::Roots;
#[cfg(test)]
use super::trust::{self, Source};
use super::unbuffered::UnbufferedStream;
use super::websocket;

/// Connects to the cloud and to the broker, with one set of trusted roots.
#[derive(Clone, Debug)]
pub struct Transport {
    tls: Arc<Tls>,
    names: Resolver,
    pub(super) proxy: Option<Arc<Proxy>>,
    journal: Option<Arc<Journal>>,
}

impl Transport {
    /// Trusts the machine's roots and `extra`, connects directly, and shows no certificate.
    ///
    /// Roots that cannot be parsed are left out, as other software on the machine does.
    ///
    /// # Errors
    /// The TLS library refused its own default versions, which no input can cause.
    pub fn new(extra: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: Arc::new(Tls::new(extra)?),
            names: Resolver::for_servers(),
            proxy: None,
            journal: None,
        })
    }

    /// Trusts `extra` in the place of what was trusted in addition to the machine's roots, from the next
    /// connection on. It holds for all that were made from the same one.
    ///
    /// # Errors
    /// Those of [`Transport::new`].
    pub(crate) fn trust(&self, extra: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
        self.tls.trust(extra)
    }

    /// Reads the roots of this machine again, and waits for them as long as `limit`. It holds for all
    /// that were made from the same one.
    pub(crate) async fn reread_roots(&self, limit: Duration) -> Roots {
        self.tls.reread_roots(limit).await
    }

    /// Does so as on a machine with other roots.
    #[cfg(test)]
    pub(super) fn for_machine(roots: Source) -> Self {
        let mut transport = Self::new(&[]).unwrap();
        transport.tls = Arc::new(Tls::for_machine(roots, &[], true).unwrap());
        transport
    }

    /// Does so as on a processor with AES instructions, or on one without.
    #[cfg(test)]
    pub(super) fn for_processor(extra: &[CertificateDer<'static>], has_aes: bool) -> Self {
        let mut transport = Self::new(extra).unwrap();
        let roots = trust::of_this_machine;
        transport.tls = Arc::new(Tls::for_machine(roots, extra, has_aes).unwrap());
        transport
    }

    /// Shows a certificate to servers that want one, never to a proxy. It is read again at each
    /// connect.
    #[must_use]
    pub fn with_identity(mut self, identity: Option<Identity>) -> Self {
        if let Some(identity) = identity {
            self.tls = Arc::new(self.tls.with_identity(identity));
        }
        self
    }

    /// Returns when the certificate in use expires, if there is one.
    pub(crate) fn identity_ends(&self) -> Option<SystemTime> {
        self.tls.identity_ends()
    }

    /// Goes through a proxy, or directly.
    #[must_use]
    pub fn through(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy.map(Arc::new);
        self
    }

    /// Writes into a journal what connections go through.
    #[must_use]
    pub fn recorded(mut self, journal: Arc<Journal>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Connects within `limit`. Dropping the future closes what is half open.
    ///
    /// A name that is asked for keeps a thread until the system's resolver gives up.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Stream, TransportError> {
        self.connect_by(endpoint, self.deadline(limit)).await
    }

    /// Connects within `limit` for a tunnel, which takes TLS into its own hands.
    pub async fn connect_unbuffered(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<UnbufferedStream<Stream>, TransportError> {
        let deadline = self.deadline(limit);
        let server = Peer::Server(endpoint.clone());
        let stream = self.reach(&server, deadline).await?;
        if !endpoint.tls {
            return Ok(UnbufferedStream::plain(stream));
        }
        let config = self.tls.for_server(endpoint).await;
        encrypt(stream, &server, &self.tls, config, deadline).await
    }

    /// Connects within `limit` to a broker that is ready to take MQTT's CONNECT.
    pub async fn connect_broker(
        &self,
        broker: &BrokerEndpoint,
        limit: Duration,
    ) -> Result<Stream, TransportError> {
        let deadline = self.deadline(limit);
        let server = Peer::Server(broker.server.clone());
        let mut stream = self.reach(&server, deadline).await?;
        if broker.server.tls {
            // Read before the handshake: files may lie on a disk that sleeps.
            let config = self.tls.for_login(&broker.server).await;
            let encrypted = encrypt(stream, &server, &self.tls, config, deadline).await?;
            stream = Stream::Tls(Box::new(encrypted));
        }
        let Some(path) = &broker.websocket else {
            return Ok(stream);
        };
        let peer = Peer::Server(broker.server.clone());
        let opening = websocket::open(stream, &broker.server, path);
        let messages = deadline.bound(&peer, Awaited::WebSocket, opening).await??;
        Ok(Stream::WebSocket(Box::new(messages)))
    }

    /// Takes note of a login at the broker that worked: a renewed certificate has proven itself, or the
    /// old one goes on.
    pub(crate) async fn login_accepted(&self, broker: &BrokerEndpoint) {
        self.tls.login_accepted(&broker.server).await;
    }

    /// Takes note of a login that did not work, perhaps for who adit is.
    pub(crate) fn login_refused(&self, refusal: Refusal) {
        self.tls.login_refused(refusal);
    }

    /// Counts the logins that worked with a certificate; `None` where none is shown.
    pub(crate) fn logins(&self) -> Option<watch::Receiver<u64>> {
        self.tls.logins()
    }

    /// Returns the certificate in use, with which the last login has worked.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.tls.identity()
    }

    /// Returns the certificate that the next login shows: a renewed one if there is one.
    pub(crate) async fn newest_identity(&self) -> Option<Identity> {
        self.tls.newest_identity().await
    }

    fn deadline(&self, limit: Duration) -> Deadline<'_> {
        Deadline {
            at: Instant::now() + limit,
            limit,
            journal: self.journal.as_deref(),
        }
    }

    async fn connect_by(
        &self,
        endpoint: &Endpoint,
        deadline: Deadline<'_>,
    ) -> Result<Stream, TransportError> {
        let server = Peer::Server(endpoint.clone());
        let stream = self.reach(&server, deadline).await?;
        if !endpoint.tls {
            return Ok(stream);
        }
        // Read before the handshake: files may lie on a disk that sleeps.
        let config = self.tls.for_server(endpoint).await;
        let stream = encrypt(stream, &server, &self.tls, config, deadline).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Connects to a server, through the proxy if there is one.
    async fn reach(&self, server: &Peer, deadline: Deadline<'_>) -> Result<Stream, TransportError> {
        match &self.proxy {
            None => Ok(Stream::Plain(dial(&self.names, server, deadline).await?)),
            Some(proxy) => self.tunnel(proxy, server.endpoint(), deadline).await,
        }
    }

    /// Connects to the proxy and has it connect to the endpoint.
    async fn tunnel(
        &self,
        proxy: &Proxy,
        endpoint: &Endpoint,
        deadline: Deadline<'_>,
    ) -> Result<Stream, TransportError> {
        let peer = Peer::Proxy(proxy.server.clone());
        let mut stream = Stream::Plain(dial(&self.names, &peer, deadline).await?);
        if proxy.server.tls {
            let config = self.tls.anonymous();
            let encrypted = encrypt(stream, &peer, &self.tls, config, deadline).await?;
            stream = Stream::Tls(Box::new(encrypted));
        }
        let opening = proxy.open(&mut stream, endpoint);
        deadline.bound(&peer, Awaited::Tunnel, opening).await??;
        Ok(stream)
    }
}

/// When a connection must stand, and how long that was in the beginning.
#[derive(Clone, Copy)]
struct Deadline<'a> {
    at: Instant,
    limit: Duration,
    journal: Option<&'a Journal>,
}

impl Deadline<'_> {
    fn saw(self, seen: impl FnOnce() -> Option<Seen>) {
        if let Some(journal) = self.journal
            && let Some(seen) = seen()
        {
            journal.add(seen);
        }
    }

    async fn bound<T>(
        self,
        peer: &Peer,
        awaited: Awaited,
        step: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        let began = Instant::now();
        let ended = timeout_at(self.at, step).await;
        if let Some(journal) = self.journal {
            journal.write(Step {
                peer: peer.clone(),
                awaited,
                took: began.elapsed(),
                seen: None,
            });
        }
        ended.map_err(|_| TransportError::Timeout {
            peer: peer.clone(),
            awaited,
            limit: self.limit,
        })
    }
}

async fn dial(
    names: &Resolver,
    peer: &Peer,
    deadline: Deadline<'_>,
) -> Result<Tcp, TransportError> {
    let Endpoint { host, port, .. } = peer.endpoint();
    let resolve = names.resolve(host);
    let mut addresses: Vec<IpAddr> = Vec::new();
    match deadline.bound(peer, Awaited::Name, resolve).await? {
        Ok(found) => {
            for address in found.iter().map(IpAddr::to_canonical) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Err(source) => {
            let peer = peer.clone();
            return Err(TransportError::Resolve { peer, source });
        }
    }
    deadline.saw(|| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Some(Seen::Address(texts.join(", ")))
    });
    let addresses = dial::in_turn(addresses);
    let dialling = dial::first(&addresses, *port, tcp::connect);
    let dialled = deadline.bound(peer, Awaited::Dial, dialling).await?;
    let stream = dialled.map_err(|source| TransportError::Dial {
        peer: peer.clone(),
        source,
    })?;
    deadline.saw(|| Some(Seen::Address(stream.peer_addr().ok()?.to_string())));
    Ok(stream)
}

async fn encrypt(
    stream: Stream,
    peer: &Peer,
    tls: &Tls,
    config: Arc<ClientConfig>,
    deadline: Deadline<'_>,
) -> Result<UnbufferedStream<Stream>, TransportError> {
    let shaking = UnbufferedStream::encrypt(stream, config, name(peer)?);
    let shaken = deadline.bound(peer, Awaited::Tls, shaking).await?;
    let stream = match shaken {
        Ok(stream) => stream,
        Err(error) => {
            let source = TlsFault::of(&error.cause);
            tls.doubt_roots(&source).await;
            return Err(TransportError::Tls {
                peer: peer.clone(),
                source,
                has_met: error.has_met,
            });
        }
    };
    deadline.saw(|| tls.seen(stream.session()?.state()));
    Ok(stream)
}

fn name(peer: &Peer) -> Result<ServerName<'static>, TransportError> {
    let host = peer.endpoint().host.clone();
    ServerName::try_from(host).map_err(|source| TransportError::Name {
        peer: peer.clone(),
        source,
    })
}
