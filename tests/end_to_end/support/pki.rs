//! A certificate authority for one test, and the certificate of its servers.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};

use super::temporary::Directory;

/// The authority, and the one certificate for 127.0.0.1 that the broker and the platform share.
pub(crate) struct Pki {
    pub(crate) ca_file: PathBuf,
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    pub(crate) roots: RootCertStore,
    pub(crate) server: Arc<ServerConfig>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new(directory: &Directory) -> Self {
        // With the same name as the server's, OpenSSL takes that one for self-signed.
        Self::named(directory, "the authority of a test")
    }

    /// Makes an authority with a name.
    pub(crate) fn named(directory: &Directory, name: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        Self {
            ca_file: directory.write("ca.pem", &ca.pem()),
            cert_file: directory.write("cert.pem", &cert.pem()),
            key_file: directory.write("key.pem", &key.serialize_pem()),
            roots,
            server: Arc::new(server(cert.der().clone(), &key)),
            issuer,
        }
    }

    /// Returns a server with another certificate of the same authority.
    pub(crate) fn other_server(&self, params: &CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Arc::new(server(cert.der().clone(), &key))
    }

    /// Writes a device's certificate and its key, and returns their paths.
    pub(crate) fn device(&self, directory: &Directory, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        [
            directory.write("device.pem", &cert.pem()),
            directory.write("device.key", &key.serialize_pem()),
        ]
    }
}

fn server(cert: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap()
}
