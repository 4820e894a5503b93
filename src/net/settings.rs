//! Where the platform is, and the way there.

use rustls::pki_types::CertificateDer;

use super::address::Endpoint;
use super::proxy::Proxy;

/// Where the platform is.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// The WebSocket goes there.
    pub endpoint: Endpoint,
    /// Trusted in addition to the system's roots. None unless set.
    pub ca: Vec<CertificateDer<'static>>,
    /// The way to the endpoint. As the environment says unless set.
    pub proxy: Option<Proxy>,
}
