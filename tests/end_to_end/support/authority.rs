//! A certificate authority that issues whatever a test needs.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::ServerConfig;

use super::pki;
use super::temporary::Directory;

/// An authority, and a directory for what it issues.
pub(crate) struct Authority {
    /// Its own certificate, in PEM form.
    pub(crate) pem: String,
    pub(crate) directory: Directory,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            directory: Directory::new(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Returns a server with a certificate.
    pub(crate) fn server(&self, params: &CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Arc::new(pki::server(cert.der().clone(), &key))
    }

    /// Writes a device's certificate and its key, and returns their paths.
    pub(crate) fn device(&self, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let cert = named(name).signed_by(&key, &self.issuer).unwrap();
        [
            self.directory.write("device.pem", &cert.pem()),
            self.directory.write("device.key", &key.serialize_pem()),
        ]
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
