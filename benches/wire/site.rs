//! What stands around whoever is measured: certificates, the cloud, the LAN, and a folder for files.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, cipher_suite, default_provider};
use rustls::pki_types::PrivateKeyDer;
use socket2::{Domain, Socket, Type};

use crate::cloud::{Cloud, CloudEnd};
use crate::contender::Contender;

/// Connections that may wait to be accepted; thousands come at once.
const BACKLOG: i32 = 4096;
/// What takes longer has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// TLS 1.3 with the one suite that all have to take, so that a ratio tells nothing about ciphers.
pub(crate) const SUITE: &str = "TLS_AES_128_GCM_SHA256";

pub(crate) struct Site {
    pub(crate) cloud: Cloud,
    pub(crate) lan_port: u16,
    lan: Receiver<TcpStream>,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) folder: PathBuf,
    tunnels: u32,
}

/// A tunnel as seen from both of its ends.
pub(crate) struct Tunnel {
    pub(crate) cloud: CloudEnd,
    pub(crate) lan: TcpStream,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("adit-wire-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let tls = certificates(&folder.join("ca.pem"));
        let (lan_port, lan) = machine();
        Self {
            cloud: Cloud::start(&tls),
            lan_port,
            lan,
            tls,
            folder,
            tunnels: 0,
        }
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Has a tunnel opened and waits until both of its ends stand.
    pub(crate) fn open(&mut self, contender: &mut Contender) -> Tunnel {
        self.request(contender);
        self.opened(contender)
    }

    /// Asks for a tunnel.
    pub(crate) fn request(&mut self, contender: &mut Contender) {
        self.tunnels += 1;
        contender.request(self, &format!("bench-key-{}", self.tunnels));
    }

    /// Waits for both ends of a tunnel. Where several open at once, they need not be of the same.
    pub(crate) fn opened(&self, contender: &Contender) -> Tunnel {
        let cloud = self.cloud_end(contender);
        let lan = self.lan_end(contender);
        Tunnel { cloud, lan }
    }

    pub(crate) fn cloud_end(&self, contender: &Contender) -> CloudEnd {
        let arrived = self.cloud.arrivals.recv_timeout(LIMIT);
        arrived.unwrap_or_else(|_| contender.give_up("opened no WebSocket"))
    }

    pub(crate) fn lan_end(&self, contender: &Contender) -> TcpStream {
        let arrived = self.lan.recv_timeout(LIMIT);
        let stream = arrived.unwrap_or_else(|_| contender.give_up("did not dial the machine"));
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A machine of the LAN: whoever dials it is handed over.
fn machine() -> (u16, Receiver<TcpStream>) {
    let listener = listen();
    let port = listener.local_addr().unwrap().port();
    let (sender, arrivals) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            if sender.send(stream).is_err() {
                return;
            }
        }
    });
    (port, arrivals)
}

pub(crate) fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    socket.into()
}

/// Makes an authority, leaves its certificate in a file, and returns the server that it vouches for.
fn certificates(authority_file: &Path) -> Arc<ServerConfig> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    fs::write(authority_file, authority.pem()).unwrap();
    let issuer = Issuer::new(params, authority_key);

    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.ticketer = Ticketer::new().unwrap();
    Arc::new(config)
}
