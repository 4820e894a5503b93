//! Certificate authorities for one test, and what they issue.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::temporary::Directory;

/// An authority that no system knows.
pub(crate) struct Authority {
    pub(crate) file: PathBuf,
    pub(crate) roots: RootCertStore,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    /// For a server in this process.
    pub(crate) server: Arc<ServerConfig>,
}

/// What is wrong with the certificate of a server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Flaw {
    #[default]
    None,
    /// Its life ended with the year 2020.
    Expired,
    /// It is for `other.example.com`.
    OtherName,
}

impl Authority {
    /// Makes an authority whose certificate is `ca.pem`.
    pub(crate) fn new(directory: &Directory) -> Self {
        Self::called(directory, "the authority of a test")
    }

    /// Makes one with another name.
    pub(crate) fn called(directory: &Directory, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the same name as the server's, OpenSSL takes that one for self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        Self {
            file: directory.write("ca.pem", &cert.pem()),
            roots,
            issuer: Issuer::new(params, key),
        }
    }

    /// Issues a certificate for a server, in files that are named after it.
    pub(crate) fn server(
        &self,
        directory: &Directory,
        name: &str,
        address: Ipv4Addr,
        flaw: Flaw,
    ) -> Issued {
        let mut params = named(name);
        params.subject_alt_names = match flaw {
            Flaw::OtherName => vec![SanType::DnsName("other.example.com".try_into().unwrap())],
            _ => vec![SanType::IpAddress(address.into())],
        };
        if flaw == Flaw::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 12, 31);
        }
        let key = KeyPair::generate().unwrap();
        self.issue(directory, name, &params, &key)
    }

    /// Returns a server in this process with a certificate of any kind.
    pub(crate) fn server_of(&self, params: &CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Arc::new(server(cert.der().clone(), &key))
    }

    /// Returns one that lets nobody in without a certificate of this authority.
    pub(crate) fn server_for_devices(&self, params: &CertificateParams) -> Arc<ServerConfig> {
        self.server_for(params, &self.roots)
    }

    /// Returns one that lets nobody in without a certificate that one of `clients` has issued.
    pub(crate) fn server_for(
        &self,
        params: &CertificateParams,
        clients: &RootCertStore,
    ) -> Arc<ServerConfig> {
        self.server_judging(params, clients, |clients| clients)
    }

    fn server_judging(
        &self,
        params: &CertificateParams,
        clients: &RootCertStore,
        judging: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(clients.clone());
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(judging(clients).build().unwrap())
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Arc::new(config.unwrap())
    }

    /// Returns a server at an address that lets everybody in, and knows those whom another authority has
    /// given a certificate.
    pub(crate) fn server_admitting(
        &self,
        address: Ipv4Addr,
        devices: &RootCertStore,
    ) -> Arc<ServerConfig> {
        let mut params = named("the MQTT Service");
        params.subject_alt_names = vec![SanType::IpAddress(address.into())];
        self.server_judging(&params, devices, |clients| clients.allow_unauthenticated())
    }

    /// Returns a server at an address that lets nobody in without a certificate of another authority.
    pub(crate) fn server_demanding(
        &self,
        address: Ipv4Addr,
        devices: &RootCertStore,
    ) -> Arc<ServerConfig> {
        let mut params = named("the token service");
        params.subject_alt_names = vec![SanType::IpAddress(address.into())];
        self.server_for(&params, devices)
    }

    /// Issues a certificate whose common name is a device's id, in `device.pem` and `device.key`.
    pub(crate) fn device(&self, directory: &Directory, id: &str) -> Issued {
        self.device_with(directory, id, &KeyPair::generate().unwrap())
    }

    /// Issues one that ends after so long.
    pub(crate) fn device_for(&self, directory: &Directory, id: &str, life: Duration) -> Issued {
        let mut params = named(id);
        params.not_after = (SystemTime::now() + life).into();
        self.issue(directory, "device", &params, &KeyPair::generate().unwrap())
    }

    /// Issues one for a key that is there already.
    pub(crate) fn device_with(&self, directory: &Directory, id: &str, key: &KeyPair) -> Issued {
        self.issue(directory, "device", &named(id), key)
    }

    fn issue(
        &self,
        directory: &Directory,
        file: &str,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Issued {
        let cert = params.signed_by(key, &self.issuer).unwrap();
        Issued {
            cert_file: directory.write(&format!("{file}.pem"), &cert.pem()),
            key_file: directory.write(&format!("{file}.key"), &key.serialize_pem()),
            server: Arc::new(server(cert.der().clone(), key)),
        }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
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
