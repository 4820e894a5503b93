//! TLS as on the platform: a certificate authority of the demo's own, and an encrypted way to the
//! broker, which speaks none itself.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::server::serve;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 8;

/// Who vouches for the servers of the demo. Its file goes when it is dropped.
pub(crate) struct Authority {
    folder: PathBuf,
    /// The certificate to trust, in PEM.
    pub(crate) file: PathBuf,
    /// How the demo's servers speak TLS.
    pub(crate) servers: Arc<ServerConfig>,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = "The authority of adit's demo";
        params.distinguished_name.push(DnType::CommonName, name);
        let own = params.self_signed(&key)?;
        let server_key = KeyPair::generate()?;
        let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let server =
            CertificateParams::new(names)?.signed_by(&server_key, &Issuer::new(params, key))?;
        let server_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let servers = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], server_key)?;

        let folder = std::env::temp_dir().join(format!("adit-demo-{}", std::process::id()));
        let file = folder.join("ca.pem");
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let authority = Self {
            folder,
            file,
            servers: Arc::new(servers),
        };
        let file = &authority.file;
        fs::write(file, own.pem()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(authority)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // What cannot be removed lies in the folder for such things.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The encrypted way to a broker that speaks plain MQTT.
pub(crate) struct Front {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    acceptor: TlsAcceptor,
    broker: SocketAddr,
}

impl Front {
    pub(crate) async fn bind(servers: &Arc<ServerConfig>, broker: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            acceptor: TlsAcceptor::from(Arc::clone(servers)),
            broker,
        })
    }

    /// Serves until it is dropped, which ends the connections too.
    pub(crate) async fn serve(self) {
        let (acceptor, broker) = (self.acceptor, self.broker);
        serve(self.listener, MAX_CONNECTIONS, move |tcp, _| {
            let acceptor = acceptor.clone();
            async move {
                // Either side sees the end of the other.
                let _ = carry(tcp, &acceptor, broker).await;
            }
        })
        .await;
    }
}

async fn carry(tcp: TcpStream, acceptor: &TlsAcceptor, broker: SocketAddr) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut client = timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await??;
    let mut broker = TcpStream::connect(broker).await?;
    broker.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut broker).await?;
    Ok(())
}
