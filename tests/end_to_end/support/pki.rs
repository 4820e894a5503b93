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
}

impl Pki {
    pub(crate) fn new(directory: &Directory) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the same name as the server's, OpenSSL takes that one for self-signed.
        let name = "the authority of a test";
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
        }
    }
}

pub(super) fn server(cert: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
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
