//! The ways out, against real proxies, TLS servers and brokers on this machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rumqttc::{Codec, Connect, ConnectReturnCode, Packet};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::codec::Framed;

use super::identity::{self, Identity};
use super::proxy::Proxy;
use super::tls::Tls;
use super::trust::Found;
use super::*;
use crate::net::dial::testing::black_hole;
use crate::secret::Secret;
use crate::words::failure_reason;

/// No step takes this long unless something is broken.
const LIMIT: Duration = Duration::from_secs(10);
/// How long somebody may take who never answers.
const SHORT: Duration = Duration::from_millis(200);

fn at(address: SocketAddr) -> Endpoint {
    Endpoint {
        tls: false,
        host: address.ip().to_string(),
        port: address.port(),
    }
}

fn with_tls(host: &str, address: SocketAddr) -> Endpoint {
    Endpoint {
        tls: true,
        host: host.to_owned(),
        port: address.port(),
    }
}

fn direct() -> Transport {
    Transport::new(&[]).unwrap()
}

fn through(proxy: SocketAddr, credentials: Option<(&str, &str)>) -> Transport {
    let secret = credentials.map(|(user, password)| (user, Secret::new(password)));
    let credentials = secret.as_ref().map(|(user, password)| (*user, password));
    direct().through(Some(Proxy::new(at(proxy), credentials)))
}

async fn complaint(transport: &Transport, endpoint: &Endpoint, limit: Duration) -> String {
    let connected = timeout(LIMIT, transport.connect(endpoint, limit)).await;
    failure_reason(&connected.unwrap().unwrap_err(), usize::MAX)
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("adit-transport-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A server of the system's, with its configuration.
struct Server {
    address: SocketAddr,
    process: Child,
    _directory: Directory,
}

impl Server {
    async fn start(program: &str, configure: impl Fn(&Directory, u16) -> String) -> Self {
        // Somebody else may take the port before the server does.
        for _ in 0..5 {
            let directory = Directory::new();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            drop(listener);
            let config = directory.write("server.conf", &configure(&directory, address.port()));
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
            let mut command = Command::new(program);
            if program == "tinyproxy" {
                command.arg("-d");
            }
            let process = command
                .arg("-c")
                .arg(&config)
                .env("PATH", path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{program} is not installed: {error}"));
            let mut server = Self {
                address,
                process,
                _directory: directory,
            };
            if timeout(LIMIT, server.listens()).await.expect("it listens") {
                return server;
            }
        }
        panic!("{program} does not start");
    }

    /// Whether the server listens at last, or has ended.
    async fn listens(&mut self) -> bool {
        while TcpStream::connect(self.address).await.is_err() {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }

    async fn tinyproxy(more: &str) -> Self {
        Self::start("tinyproxy", |_, port| {
            format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\n{more}\n")
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Answers every connection with `answer`, and after that with what it receives.
async fn echo(answer: &'static [u8]) -> SocketAddr {
    serve(move |mut stream: TcpStream| async move {
        stream.write_all(answer).await?;
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.map(drop)
    })
    .await
}

/// Waits for the end of a request's head and sends `answer`; `then` decides what comes after.
async fn proxy_that_answers(answer: impl Into<Vec<u8>>, closes: bool) -> SocketAddr {
    let answer: Vec<u8> = answer.into();
    serve(move |mut stream: TcpStream| {
        let answer = answer.clone();
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await?;
            }
            stream.write_all(&answer).await?;
            if closes {
                return stream.shutdown().await;
            }
            stream.read_buf(&mut request).await.map(drop)
        }
    })
    .await
}

async fn serve<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

async fn assert_echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), greeting: &[u8]) {
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut expected = greeting.to_vec();
    expected.extend(b"hello");
    let mut received = vec![0; expected.len()];
    let read = timeout(LIMIT, stream.read_exact(&mut received)).await;
    read.unwrap().unwrap();
    assert_eq!(received, expected);
}

/// A certificate authority, or a certificate that it has issued.
struct Issued {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

struct Authority {
    certificate: Issued,
    issuer: Issuer<'static, KeyPair>,
}

fn named(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(4000, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let key_again = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        Self {
            certificate: Issued {
                pem: certificate.pem(),
                der: certificate.der().clone(),
                key,
            },
            issuer: Issuer::new(params, key_again),
        }
    }

    fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key,
        }
    }

    fn trusted(&self) -> Transport {
        Transport::new(std::slice::from_ref(&self.certificate.der)).unwrap()
    }
}

impl Issued {
    fn identity(&self, directory: &Directory) -> Identity {
        let files = identity::Files {
            certificate: directory.write("device.pem", &self.pem),
            key: directory.write("device.key", &self.key.serialize_pem()),
        };
        let key = self.key.serialize_pem();
        Identity::parse(files, self.pem.as_bytes(), key.as_bytes()).unwrap()
    }

    /// Serves TLS with this certificate, and echoes.
    async fn serve(&self, clients: Option<&Authority>) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(self.key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority.certificate.der.clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        // Not held against the certificate, so that a test can be a thief.
        let pair = rustls::sign::CertifiedKey::new(vec![self.der.clone()], key);
        let pair = Arc::new(rustls::sign::SingleCertAndKey::from(pair));
        let config = config.with_cert_resolver(pair);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        serve(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut buffer = [0; 100];
                loop {
                    let length = stream.read(&mut buffer).await?;
                    if length == 0 {
                        return stream.shutdown().await;
                    }
                    stream.write_all(&buffer[..length]).await?;
                }
            }
        })
        .await
    }
}

/// Serves TLS with this certificate, and says how the handshake went: its kind and its cipher.
async fn confiding(certificate: &Issued) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(certificate.key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let connection = stream.get_ref().1;
            let kind = connection.handshake_kind().unwrap();
            let suite = connection.negotiated_cipher_suite().unwrap();
            let words = format!("{kind:?} {:?}", suite.suite());
            stream.write_all(words.as_bytes()).await?;
            stream.shutdown().await
        }
    })
    .await
}

async fn said(mut stream: impl AsyncRead + Unpin) -> String {
    let mut words = String::new();
    stream.read_to_string(&mut words).await.unwrap();
    words
}

#[tokio::test]
async fn takes_up_a_session_of_mqtt_for_a_tunnel_at_the_same_host_and_port_only() {
    let authority = Authority::new("authority");
    let certificate = authority.issue(&named("server", &["127.0.0.1"]));
    let transport = authority.trusted();
    let places = [
        confiding(&certificate).await.port(),
        confiding(&certificate).await.port(),
    ];
    let [here, elsewhere] = places.map(|port| Endpoint {
        tls: true,
        host: "127.0.0.1".into(),
        port,
    });
    let tunnel = async |server: &Endpoint| {
        let stream = transport.connect_unbuffered(server, LIMIT).await.unwrap();
        said(stream).await
    };
    let mqtt = async |server: &Endpoint| {
        let stream = transport.connect(server, LIMIT).await.unwrap();
        said(stream).await
    };
    let full = |words: String| assert!(words.starts_with("Full "), "{words}");
    let resumed = |words: String| assert!(words.starts_with("Resumed "), "{words}");
    full(mqtt(&here).await);
    resumed(tunnel(&here).await);
    resumed(tunnel(&here).await);
    resumed(mqtt(&here).await);
    full(tunnel(&elsewhere).await);
    resumed(mqtt(&elsewhere).await);
}

#[tokio::test]
async fn speaks_the_cipher_that_is_fast_on_the_processor() {
    let authority = Authority::new("authority");
    let certificate = authority.issue(&named("server", &["127.0.0.1"]));
    let server = Endpoint {
        tls: true,
        host: "127.0.0.1".into(),
        port: confiding(&certificate).await.port(),
    };
    for (has_aes, suite) in [
        (true, "TLS13_AES_128_GCM_SHA256"),
        (false, "TLS13_CHACHA20_POLY1305_SHA256"),
    ] {
        let trusted = std::slice::from_ref(&authority.certificate.der);
        let transport = Transport::for_processor(trusted, has_aes);
        let stream = transport.connect_unbuffered(&server, LIMIT).await.unwrap();
        let words = said(stream).await;
        assert!(words.ends_with(suite), "{words}");
    }
}

#[tokio::test]
async fn names_who_did_not_answer() {
    let (_held, _socket, silent) = black_hole().await;
    let stalling = proxy_that_answers("HTTP/1.1 200 Fine\r\nX: y", false).await;
    let mute = echo(b"").await;
    let cloud = at("10.1.2.3:443".parse().unwrap());
    let server = with_tls("localhost", proxy_that_answers("", false).await);
    for (transport, endpoint, words) in [
        (
            direct(),
            at(silent),
            format!("{silent} did not answer within 200ms"),
        ),
        (
            through(silent, None),
            cloud.clone(),
            format!("the proxy {silent} did not answer within 200ms"),
        ),
        (
            through(stalling, None),
            cloud,
            format!(
                "the proxy {stalling} was reached, but opened no way to the server within 200ms"
            ),
        ),
        (
            direct(),
            server.clone(),
            format!("{server} was reached, but did not complete the TLS handshake within 200ms"),
        ),
    ] {
        assert_eq!(complaint(&transport, &endpoint, SHORT).await, words);
    }
    let broker = BrokerEndpoint {
        server: at(mute),
        websocket: Some("/mqtt".to_owned()),
    };
    // An echo of the request is an answer, if a strange one.
    let error = direct().connect_broker(&broker, LIMIT).await.unwrap_err();
    assert_eq!(
        failure_reason(&error, usize::MAX),
        format!("{mute} does not speak MQTT over WebSocket at /mqtt: the answer is not HTTP")
    );
}

#[tokio::test]
async fn goes_through_a_proxy_and_loses_no_byte() {
    let target = echo(b"RFB 003.008\n").await;
    let proxy = Server::tinyproxy("BasicAuth user secret").await;
    let transport = through(proxy.address, Some(("user", "secret")));
    let mut stream = transport.connect(&at(target), LIMIT).await.unwrap();
    assert_echoes(&mut stream, b"RFB 003.008\n").await;

    // The first bytes of the tunnel in one packet with the answer.
    let proxy = proxy_that_answers("HTTP/1.0 200 OK\r\nVia: x\r\n\r\nRFB 003.008\n", false).await;
    let mut stream = through(proxy, None)
        .connect(&at(target), LIMIT)
        .await
        .unwrap();
    let mut banner = [0; 12];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"RFB 003.008\n");
}

#[tokio::test]
async fn speaks_tls_to_a_proxy_and_tls_within_it() {
    let authority = Authority::new("Acme CA");
    let leaf = authority.issue(&named("cloud", &["localhost"]));
    let target = leaf.serve(None).await;
    let inner = Server::tinyproxy("").await;
    // A proxy behind TLS: what arrives is passed on to one without.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(leaf.key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = inner.address;
    let outer = serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut near = acceptor.accept(stream).await?;
            let mut far = TcpStream::connect(address).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far)
                .await
                .map(drop)
        }
    })
    .await;
    let proxy = Proxy::new(with_tls("localhost", outer), None);
    let transport = authority.trusted().through(Some(proxy.clone()));
    let endpoint = with_tls("localhost", target);
    let mut stream = transport.connect(&endpoint, LIMIT).await.unwrap();
    assert!(tcp::of_kernel(stream.tcp()).nodelay().unwrap());
    assert_echoes(&mut stream, b"").await;

    let words = complaint(&direct().through(Some(proxy)), &endpoint, LIMIT).await;
    let beginning = format!(
        "no TLS with the proxy localhost:{}: its certificate",
        outer.port()
    );
    assert!(words.starts_with(&beginning), "{words}");
}

#[tokio::test]
async fn says_what_a_proxy_refuses() {
    let target = at(echo(b"").await);
    let with_users = Server::tinyproxy("BasicAuth user secret").await;
    let strict = Server::tinyproxy("ConnectPort 1").await;
    // Nobody listens there, and nobody else can.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let closed = taken.local_addr().unwrap();
    for (transport, words) in [
        (
            through(with_users.address, None),
            "the proxy PROXY wants a user name and a password (HTTP 407): set cloud.proxy = \
             'http://user:password@host:port'",
        ),
        (
            through(with_users.address, Some(("user", "hunter2"))),
            // Others say 407 here too.
            "the proxy PROXY refused the user name and the password (HTTP 401)",
        ),
        (
            through(strict.address, None),
            "the proxy PROXY refused a connection to TARGET with HTTP 403 (Access violation): it \
             does not allow this host or port",
        ),
        (
            through(closed, None),
            "cannot reach the proxy PROXY: connection refused",
        ),
    ] {
        let found = complaint(&transport, &target, LIMIT).await;
        let proxy = transport.proxy.as_ref().unwrap().to_string();
        let words = words
            .replace("PROXY", &proxy)
            .replace("TARGET", &target.to_string());
        assert_eq!(found, words);
    }
}

#[tokio::test]
async fn takes_any_answer_of_a_proxy() {
    let target = at("10.1.2.3:443".parse().unwrap());
    let no_end = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(10_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(100));
    let nothing = "the proxy PROXY does not answer as an HTTP proxy does: ";
    for (answer, words) in [
        ("", format!("{nothing}the connection was closed without an answer")),
        ("HTTP/1.1 200", format!("{nothing}the connection was closed without an answer")),
        ("SSH-2.0-OpenSSH\r\n", format!("{nothing}the answer is not HTTP")),
        ("\x16\x03\x01", format!("{nothing}the answer is not HTTP")),
        ("HTTP/1.1 abc\r\n\r\n", format!("{nothing}the answer is not HTTP")),
        ("HTTP/1.1 200 OK\r\n\u{1}\r\n\r\n", format!("{nothing}the answer is not HTTP")),
        (&no_end, format!("{nothing}the answer's head has no end")),
        (&many, format!("{nothing}the answer's head has no end")),
        (
            "HTTP/1.1 502 Bad \"Gateway\"\r\n\r\n",
            "the proxy PROXY refused a connection to 10.1.2.3:443 with HTTP 502 (Bad 'Gateway'): \
             it could not reach the host"
                .to_owned(),
        ),
        (
            "HTTP/1.1 500 Oops\r\n\r\n",
            "the proxy PROXY refused a connection to 10.1.2.3:443 with HTTP 500 (Oops): it could \
             not reach the host"
                .to_owned(),
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 502 B\r\n\r\n",
            "the proxy PROXY refused a connection to 10.1.2.3:443 with HTTP 502 (B): it could not \
             reach the host"
                .to_owned(),
        ),
        (
            "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM, \
             Digest realm=\"a, Basic b\", qop=\"auth\"\r\n\r\n",
            "the proxy PROXY wants a login by Negotiate or NTLM or Digest (HTTP 407), and adit \
             knows only Basic: have it let this machine through by its address, or take a user by \
             Basic"
                .to_owned(),
        ),
        (
            "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Digest realm=\"x\", basic realm=\"y\"\r\n\r\n",
            "the proxy PROXY refused the user name and the password (HTTP 407)".to_owned(),
        ),
        (
            "HTTP/1.1 403 not for HUNTER2\r\n\r\n",
            "the proxy PROXY refused a connection to 10.1.2.3:443 with HTTP 403: it does not allow \
             this host or port"
                .to_owned(),
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://portal\r\n\r\n",
            "the proxy PROXY refused a connection to 10.1.2.3:443 with HTTP 302 (Found): it wants \
             people to sign in with a browser, or is no proxy"
                .to_owned(),
        ),
    ] {
        let proxy = proxy_that_answers(answer, true).await;
        let transport = through(proxy, Some(("user", "hunter2")));
        let found = complaint(&transport, &target, LIMIT).await;
        assert_eq!(found, words.replace("PROXY", &proxy.to_string()), "{answer}");
        assert!(!format!("{transport:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn says_whose_certificate_it_does_not_trust_and_why() {
    let authority = Authority::new("Acme CA");
    let mut expired = named("cloud", &["localhost"]);
    expired.not_after = date_time_ymd(2002, 2, 3);
    let mut future = named("cloud", &["localhost"]);
    future.not_before = date_time_ymd(3000, 2, 3);
    let mut ca = named("cloud", &["localhost"]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let good = named("cloud", &["localhost"]);
    let trusted = authority.trusted();
    let other = Authority::new("Other CA").trusted();
    for (params, transport, words) in [
        (
            expired,
            &trusted,
            "its certificate has expired, unless this machine's clock is wrong: now is NOW, and \
             the certificate is 'cloud' for localhost, issued by 'Acme CA', valid from \
             2001-01-01T00:00:00Z until 2002-02-03T00:00:00Z",
        ),
        (
            future,
            &trusted,
            "its certificate is not valid yet, unless this machine's clock is wrong: now is NOW, \
             and the certificate is 'cloud' for localhost, issued by 'Acme CA', valid from \
             3000-02-03T00:00:00Z until 4000-01-01T00:00:00Z",
        ),
        (
            named("cloud", &["cloud.example.com", "10.0.0.7"]),
            &trusted,
            "its certificate is not for localhost: it is 'cloud' for cloud.example.com, 10.0.0.7, \
             issued by 'Acme CA', valid from 2001-01-01T00:00:00Z until 4000-01-01T00:00:00Z",
        ),
        (
            good,
            &other,
            "its certificate comes from an issuer that is not trusted: it is 'cloud' for \
             localhost, issued by 'Acme CA', valid from 2001-01-01T00:00:00Z until \
             4000-01-01T00:00:00Z; if it is the right one, put the issuer's certificate into \
             cloud.ca_file",
        ),
        (
            ca,
            &trusted,
            "its certificate is one of a CA, which a server cannot have: it is 'cloud' for \
             localhost, issued by 'Acme CA', valid from 2001-01-01T00:00:00Z until \
             4000-01-01T00:00:00Z",
        ),
    ] {
        let endpoint = with_tls("localhost", authority.issue(&params).serve(None).await);
        let found = complaint(transport, &endpoint, LIMIT).await;
        let found = match found.split_once("now is ") {
            Some((before, after)) => format!("{before}now is NOW{}", &after[20..]),
            None => found,
        };
        assert_eq!(found, format!("no TLS with {endpoint}: {words}"));
    }
}

/// A certificate as `openssl req -x509` makes it: signed by itself, with CA:TRUE.
fn self_signed(mut params: CertificateParams) -> Issued {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Issued {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        key,
    }
}

#[tokio::test]
async fn trusts_a_certificate_that_is_itself_in_the_file_for_its_names_and_dates() {
    let good = || self_signed(named("cloud", &["localhost"]));
    let mut expired = named("cloud", &["localhost"]);
    expired.not_after = date_time_ymd(2002, 2, 3);
    let mut future = named("cloud", &["localhost"]);
    future.not_before = date_time_ymd(3000, 2, 3);
    for (server, fault) in [
        (good(), None),
        (self_signed(expired), Some("has expired")),
        (self_signed(future), Some("is not valid yet")),
        (
            self_signed(named("localhost", &["cloud"])),
            Some("is not for localhost"),
        ),
    ] {
        let endpoint = with_tls("localhost", server.serve(None).await);
        let transport = Transport::new(std::slice::from_ref(&server.der)).unwrap();
        match (welcome(&transport, &endpoint).await, fault) {
            (Ok(()), None) => {}
            (Err(words), Some(fault)) => assert!(
                words.starts_with(&format!("no TLS with {endpoint}: its certificate {fault}")),
                "{words}"
            ),
            (outcome, fault) => panic!("{outcome:?} in place of {fault:?}"),
        }
    }

    // One that only looks like it, and one without its key.
    let (trusted, other) = (good(), good());
    let transport = Transport::new(std::slice::from_ref(&trusted.der)).unwrap();
    let endpoint = with_tls("localhost", other.serve(None).await);
    let words = welcome(&transport, &endpoint).await.unwrap_err();
    assert!(words.contains(": its certificate "), "{words}");
    let thief = Issued {
        der: trusted.der,
        ..other
    };
    let endpoint = with_tls("localhost", thief.serve(None).await);
    let words = welcome(&transport, &endpoint).await.unwrap_err();
    assert!(words.contains("BadSignature"), "{words}");
}

#[tokio::test]
async fn says_that_a_server_speaks_no_tls() {
    let chatty = echo(b"SSH-2.0-OpenSSH\r\n").await;
    let closing = serve(|mut stream| async move {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .map(drop)
    })
    .await;
    for (server, words) in [
        (
            chatty,
            "what it answers is not TLS; check the port, and whether TLS is to be spoken at all",
        ),
        (
            closing,
            "it closed the connection during the handshake, as a server does that speaks no TLS \
             on this port or wants a client certificate",
        ),
    ] {
        let endpoint = with_tls("localhost", server);
        let found = complaint(&direct(), &endpoint, LIMIT).await;
        assert_eq!(found, format!("no TLS with {endpoint}: {words}"));
    }
}

/// The roots of a machine whose operator changes them.
static MACHINE: Mutex<Vec<CertificateDer<'static>>> = Mutex::new(Vec::new());

fn machine() -> Found {
    Found {
        certificates: MACHINE.lock().unwrap().clone(),
        fault: None,
    }
}

#[tokio::test]
async fn trusts_what_its_machine_trusts_now_for_all_that_connect() {
    let (one, other) = (Authority::new("First CA"), Authority::new("Second CA"));
    let server = other.issue(&named("cloud", &["localhost"]));
    let endpoint = with_tls("localhost", server.serve(None).await);
    let trust = |authorities: &[&Authority]| {
        let certificates = authorities.iter().map(|it| it.certificate.der.clone());
        *MACHINE.lock().unwrap() = certificates.collect();
    };
    trust(&[&one]);
    let transport = Transport::for_machine(machine);
    let directory = Directory::new();
    let identity = one.issue(&named("gw-7", &[])).identity(&directory);
    // As MQTT has it, and tunnels.
    let others = transport.clone().with_identity(Some(identity));
    let unknown = "comes from an issuer that is not trusted";
    for transport in [&transport, &others] {
        let refused = welcome(transport, &endpoint).await.unwrap_err();
        assert!(refused.contains(unknown), "{refused}");
    }

    trust(&[&one, &other]);
    assert_eq!(transport.reread_roots(LIMIT).await, Roots::Changed);
    for transport in [&transport, &others] {
        assert_eq!(welcome(transport, &endpoint).await, Ok(()));
        // And takes the session up again.
        assert_eq!(welcome(transport, &endpoint).await, Ok(()));
    }
    assert_eq!(transport.reread_roots(LIMIT).await, Roots::Same);

    trust(&[&one]);
    assert_eq!(others.reread_roots(LIMIT).await, Roots::Changed);
    for transport in [&transport, &others] {
        let refused = welcome(transport, &endpoint).await.unwrap_err();
        assert!(refused.contains(unknown), "{refused}");
    }

    let named = std::slice::from_ref(&other.certificate.der);
    transport.trust(named).unwrap();
    assert_eq!(welcome(&others, &endpoint).await, Ok(()));
    transport.trust(&[]).unwrap();
    assert!(welcome(&others, &endpoint).await.is_err());
}

/// Returns what a server does with who adit is.
async fn welcome(transport: &Transport, endpoint: &Endpoint) -> Result<(), String> {
    let mut stream = transport
        .connect(endpoint, LIMIT)
        .await
        .map_err(|error| failure_reason(&error, usize::MAX))?;
    let mut answer = [0; 2];
    drop(stream.write_all(b"hi").await);
    let read = timeout(LIMIT, stream.read_exact(&mut answer))
        .await
        .unwrap();
    read.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn shows_its_certificate_and_takes_a_renewed_one_without_a_restart() {
    let (cloud, devices) = (Authority::new("Cloud CA"), Authority::new("Device CA"));
    let server = cloud.issue(&named("cloud", &["localhost"]));
    let endpoint = with_tls("localhost", server.serve(Some(&devices)).await);
    let trusted = cloud.trusted();
    let wanted = "the server wants a client certificate: set auth.cert_file and auth.key_file";
    assert_eq!(welcome(&trusted, &endpoint).await, Err(wanted.to_owned()));

    let directory = Directory::new();
    let mut expired = named("gw-7", &[]);
    expired.not_after = date_time_ymd(2002, 2, 3);
    let identity = devices.issue(&expired).identity(&directory);
    let transport = trusted.with_identity(Some(identity));
    let refused = "the server refused the client certificate of this device: it has expired";
    assert_eq!(
        welcome(&transport, &endpoint).await,
        Err(refused.to_owned())
    );

    let good = devices.issue(&named("gw-7", &[]));
    drop(good.identity(&directory));
    assert_eq!(welcome(&transport, &endpoint).await, Ok(()));

    // Half of a renewal, somebody else's certificate, nothing at all: the last good one goes on.
    let other = Authority::new("Nobody").issue(&named("gw-8", &[]));
    directory.write("device.pem", &devices.issue(&named("gw-7", &[])).pem);
    assert_eq!(welcome(&transport, &endpoint).await, Ok(()));
    drop(other.identity(&directory));
    assert_eq!(welcome(&transport, &endpoint).await, Ok(()));
    let key = directory.0.join("device.key");
    std::fs::remove_file(&key).unwrap();
    assert_eq!(welcome(&transport, &endpoint).await, Ok(()));
    // A pipe that nobody writes into.
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    assert_eq!(welcome(&transport, &endpoint).await, Ok(()));
}

#[tokio::test]
async fn goes_on_with_its_certificate_while_the_disk_hangs() {
    let directory = Directory::new();
    let devices = Authority::new("Device CA");
    let identity = devices.issue(&named("gw-7", &[])).identity(&directory);
    let renewed = devices.issue(&named("gw-7", &[])).identity(&directory);
    let tls = Tls::new(&[]).unwrap().with_identity(identity);
    let (wake, woken) = std::sync::mpsc::channel::<()>();
    let hangs = move |_| {
        let _ = woken.recv();
        Ok(None)
    };
    let last = timeout(LIMIT, tls.current_by(hangs)).await.unwrap();
    let fails = |_| -> Result<_, String> { panic!("two reads at a time") };
    let still = timeout(LIMIT, tls.current_by(fails)).await.unwrap();
    assert!(Arc::ptr_eq(&last, &still));
    drop(wake);
    let reads = async {
        loop {
            let renewed = renewed.clone();
            let now = tls.current_by(|_| Ok(Some(renewed))).await;
            tokio::task::yield_now().await;
            if !Arc::ptr_eq(&now, &last) {
                break now;
            }
        }
    };
    let now = timeout(LIMIT, reads).await.unwrap();
    // The same once more is no renewal.
    let again = tls.current_by(|_| Ok(Some(renewed))).await;
    assert!(Arc::ptr_eq(&now, &again));
}

#[tokio::test]
async fn refuses_with_words_what_a_stranger_issued() {
    let (cloud, strangers) = (Authority::new("Cloud CA"), Authority::new("Device CA"));
    let server = cloud.issue(&named("cloud", &["localhost"]));
    let endpoint = with_tls(
        "localhost",
        server.serve(Some(&Authority::new("Another CA"))).await,
    );
    let directory = Directory::new();
    let identity = strangers.issue(&named("gw-7", &[])).identity(&directory);
    let transport = cloud.trusted().with_identity(Some(identity));
    let words = welcome(&transport, &endpoint).await.unwrap_err();
    assert_eq!(
        words,
        "the server refused the client certificate of this device: it does not know the issuer; is the \
         whole chain in auth.cert_file?"
    );
}

/// Says CONNECT, and something longer than any buffer on the way.
async fn log_in(stream: Stream) -> Framed<Stream, Codec> {
    let codec = Codec {
        max_incoming_size: 1 << 20,
        max_outgoing_size: 1 << 20,
    };
    let mut link = Framed::new(stream, codec);
    link.send(Packet::Connect(Connect::new("gw-7")))
        .await
        .unwrap();
    match timeout(LIMIT, link.next()).await.unwrap() {
        Some(Ok(Packet::ConnAck(answer))) => {
            assert_eq!(answer.code, ConnectReturnCode::Success);
        }
        other => panic!("{other:?}"),
    }
    link
}

#[tokio::test]
async fn logs_in_at_a_broker_with_a_certificate() {
    let authority = Authority::new("Acme CA");
    let leaf = authority.issue(&named("broker", &["localhost"]));
    let broker = Server::start("mosquitto", |directory, port| {
        let ca = directory.write("ca.pem", &authority.certificate.pem);
        let certificate = directory.write("broker.pem", &leaf.pem);
        let key = directory.write("broker.key", &leaf.key.serialize_pem());
        format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            ca.display(),
            certificate.display(),
            key.display()
        )
    })
    .await;
    let directory = Directory::new();
    let identity = authority.issue(&named("gw-7", &[])).identity(&directory);
    let endpoint = with_tls("localhost", broker.address);
    let transport = authority.trusted();
    let words = welcome(&transport, &endpoint).await.unwrap_err();
    assert!(
        words.starts_with("the server wants a client certificate"),
        "{words}"
    );
    let transport = transport.with_identity(Some(identity));
    let broker = endpoint.into();
    log_in(transport.connect_broker(&broker, LIMIT).await.unwrap()).await;
}

#[tokio::test]
async fn speaks_mqtt_over_websocket_and_through_a_proxy() {
    use rumqttc::{Publish, QoS, Subscribe};
    let authority = Authority::new("Acme CA");
    let leaf = authority.issue(&named("broker", &["localhost"]));
    let broker = Server::start("mosquitto", |directory, port| {
        let certificate = directory.write("broker.pem", &leaf.pem);
        let key = directory.write("broker.key", &leaf.key.serialize_pem());
        // Mosquitto 2.0.11 does not start with listeners for WebSocket alone.
        format!(
            "user root\nallow_anonymous true\npersistence false\nlistener 0 {}\n\
             listener {port} 127.0.0.1\nprotocol websockets\ncertfile {}\nkeyfile {}\n",
            directory.0.join("socket").display(),
            certificate.display(),
            key.display()
        )
    })
    .await;
    let proxy = Server::tinyproxy("").await;
    let endpoint = BrokerEndpoint {
        server: with_tls("localhost", broker.address),
        websocket: Some("/mqtt".to_owned()),
    };
    let proxy = Proxy::new(at(proxy.address), None);
    for proxy in [None, Some(proxy)] {
        let transport = authority.trusted().through(proxy);
        let mut link = log_in(transport.connect_broker(&endpoint, LIMIT).await.unwrap()).await;
        let mut subscribe = Subscribe::new("t", QoS::AtMostOnce);
        subscribe.pkid = 1;
        link.send(Packet::Subscribe(subscribe)).await.unwrap();
        // Several messages each way, and few enough for Mosquitto, which takes 4 KiB every 100 ms.
        let payload = vec![b'x'; 40_000];
        let publish = Publish::new("t", QoS::AtMostOnce, payload.clone());
        link.send(Packet::Publish(publish)).await.unwrap();
        loop {
            match timeout(LIMIT, link.next()).await.unwrap() {
                Some(Ok(Packet::Publish(publish))) => {
                    assert!(publish.payload == payload);
                    break;
                }
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        timeout(LIMIT, link.close()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn says_why_there_is_no_mqtt_over_websocket() {
    for (answer, words) in [
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "BROKER refused the WebSocket at /mqtt with HTTP 404: there is nothing at that path, \
             check mqtt.url",
        ),
        (
            "HTTP/1.1 101 Hi\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            "BROKER does not speak MQTT over WebSocket at /mqtt: the answer belongs to another \
             request (sec-websocket-accept)",
        ),
        (
            "",
            "BROKER does not speak MQTT over WebSocket at /mqtt: the connection was closed without \
             an answer, as a server does that speaks HTTP/2 only",
        ),
    ] {
        let address = proxy_that_answers(answer, true).await;
        let broker = BrokerEndpoint {
            server: at(address),
            websocket: Some("/mqtt".to_owned()),
        };
        let error = direct().connect_broker(&broker, LIMIT).await.unwrap_err();
        let words = words.replace("BROKER", &address.to_string());
        assert_eq!(failure_reason(&error, usize::MAX), words);
    }
}

/// A certificate of the platform's authority, of which the last day may have been in 2002.
fn of_an_authority(authority: &Authority, has_expired: bool) -> Issued {
    let mut params = named("gw-7", &[]);
    if has_expired {
        params.not_after = date_time_ymd(2002, 2, 3);
    }
    authority.issue(&params)
}

/// Puts a successor beside the certificate of a device.
fn renew(directory: &Directory, authority: &Authority, device: &Issued) -> String {
    let certificate = named("gw-7", &[]).signed_by(&device.key, &authority.issuer);
    let pem = certificate.unwrap().pem();
    directory.write("device.renewed.pem", &pem);
    pem
}

fn broker(tls: bool) -> BrokerEndpoint {
    BrokerEndpoint {
        server: Endpoint {
            tls,
            host: "localhost".to_owned(),
            port: 1883,
        },
        websocket: None,
    }
}

#[tokio::test]
async fn uses_what_was_renewed_after_a_login_without_tls() {
    let (directory, devices) = (Directory::new(), Authority::new("Device CA"));
    let first = of_an_authority(&devices, false);
    let identity = first.identity(&directory).issued();
    let transport = direct().with_identity(Some(identity));
    transport.login_accepted(&broker(false)).await;
    let pem = renew(&directory, &devices, &first);
    transport.login_accepted(&broker(false)).await;
    let found = std::fs::read_to_string(directory.0.join("device.pem")).unwrap();
    assert_eq!(found, pem);
    assert!(!directory.0.join("device.renewed.pem").exists());
    let in_use = transport.identity().unwrap();
    assert!(
        matches!(in_use.read_again(), Ok(None)),
        "it is what is on the disk"
    );
}

#[tokio::test]
async fn goes_back_to_no_certificate_that_has_expired() {
    let (directory, devices) = (Directory::new(), Authority::new("Device CA"));
    let expired = of_an_authority(&devices, true);
    let old = expired.identity(&directory).issued();
    renew(&directory, &devices, &expired);
    // As at a start long after the last login.
    let renewed = old.read_renewed().unwrap().unwrap();
    let tls = Tls::new(&[]).unwrap().with_identity(renewed.clone());
    drop(tls.current().await);
    assert!(tls.identity().unwrap().is_same(&renewed));
    let complaint = renewed.read_again().unwrap_err();
    assert!(
        complaint.ends_with(" expired at 2002-02-03T00:00:00Z"),
        "{complaint}"
    );

    // No login can prove it against the other, but each puts it in its place; not one that fails.
    let server = broker(true).server;
    for _ in 0..5 {
        drop(tls.for_login(&server).await);
        tls.login_refused(Refusal::Certain);
    }
    assert!(directory.0.join("device.renewed.pem").exists());
    drop(tls.for_login(&server).await);
    tls.login_accepted(&server).await;
    assert!(!directory.0.join("device.renewed.pem").exists());
    assert!(!directory.0.join("device.refused.pem").exists());
    assert!(matches!(renewed.read_again(), Ok(None)));
}
