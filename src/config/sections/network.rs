//! The ways to the platform and to the broker.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::SectionBuilder;
use crate::auth::settings::Auth;
use crate::config::keys::{self, Key};
use crate::config::proxy::{Proxies, Unusable, is_this_machine};
use crate::config::values;
use crate::mqtt;
use crate::mqtt::link::SERVICE_PORT;
use crate::net::certificate::Certificate;
use crate::net::proxy::Proxy;
use crate::net::settings::Cloud;
use crate::net::{BrokerEndpoint, Endpoint};
use crate::words::legible;

impl SectionBuilder<'_> {
    pub(in crate::config) fn cloud(&mut self, proxies: Option<&Proxies>) -> Option<Cloud> {
        let endpoint = self.get(&keys::CLOUD_URL);
        let ca = self.certificates();
        let endpoint = endpoint?;
        self.warn_of_plain_text(&keys::CLOUD_URL.key, &endpoint);
        let proxy = self.usable(proxies?.to_cloud(&endpoint));
        Some(Cloud {
            endpoint,
            ca: ca?,
            proxy,
        })
    }

    /// What is said of proxies; `None` if `cloud.proxy` is faulty.
    pub(in crate::config) fn proxies(&mut self) -> Option<Proxies> {
        let configured = match self.place(&keys::CLOUD_PROXY.key) {
            Some(_) => Some(self.get_optional(&keys::CLOUD_PROXY)?),
            None => None,
        };
        let proxies = Proxies::new(configured, &self.sources.environment);
        if let Some(variable) = proxies.illegible_exceptions() {
            self.gathered.warnings.push(format!(
                "{variable} is not UTF-8 text: what cannot be read excepts no host"
            ));
        }
        Some(proxies)
    }

    /// Goes on without a proxy that adit does not speak: the variable is meant for others too.
    fn usable(&mut self, proxy: Result<Option<Proxy>, Unusable>) -> Option<Proxy> {
        proxy.unwrap_or_else(
            |Unusable {
                 variable,
                 complaint,
             }| {
                let words = format!("the proxy of {variable} is not used: the value {complaint}");
                if !self.gathered.warnings.contains(&words) {
                    self.gathered.warnings.push(words);
                }
                None
            },
        )
    }

    fn certificates(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        if self.place(&keys::CLOUD_CA_FILE.key).is_none() {
            return Some(Vec::new());
        }
        let (place, path, content) = self.file(&keys::CLOUD_CA_FILE)?;
        let complaint = match parse_certificates(&content.bytes) {
            Ok(certificates) => {
                self.warn_of_no_authority(&path, &certificates);
                return Some(certificates);
            }
            Err(clause) => format!("{:?} {clause}", path.display().to_string()),
        };
        self.refuse(&place, complaint);
        None
    }

    /// A server's own certificate in the place of its issuer's is a common mistake. One that a
    /// server has issued for itself is trusted as it is.
    fn warn_of_no_authority(&mut self, path: &Path, certificates: &[CertificateDer<'static>]) {
        for (number, certificate) in (1..).zip(certificates) {
            match Certificate::read(certificate) {
                Some(read) if !read.is_ca && !read.is_self_issued => {
                    let issuer = read.issuer.as_deref().unwrap_or("somebody without a name");
                    self.gathered.warnings.push(format!(
                        "certificate number {number} in {} makes nothing trusted: {} is no CA; \
                         the certificate of its issuer, '{}', is needed",
                        path.display(),
                        read.title(),
                        legible(issuer)
                    ));
                }
                _ => {}
            }
        }
    }

    pub(in crate::config) fn mqtt(
        &mut self,
        cloud: Option<&Cloud>,
        proxies: Option<&Proxies>,
        auth: Option<&Auth>,
    ) -> Option<mqtt::Settings> {
        let endpoint = match self.place(&keys::MQTT_URL.key) {
            Some(_) => self.get(&keys::MQTT_URL),
            None => cloud.map(|cloud| {
                let server = Endpoint {
                    tls: true,
                    host: cloud.endpoint.host.clone(),
                    port: values::MQTTS_PORT,
                };
                server.into()
            }),
        };
        if let (Some(Auth::Certificate(_) | Auth::Unenrolled(_)), Some(endpoint)) =
            (auth, &endpoint)
        {
            self.check_certified_broker(endpoint);
        }
        let topic_prefix = self.get(&keys::MQTT_TOPIC_PREFIX);
        let keep_alive = self.get(&keys::MQTT_KEEP_ALIVE);

        let user_place = self.place(&keys::MQTT_USERNAME.key);
        let user = self.get(&keys::MQTT_USERNAME);
        let password_place = self
            .place(&keys::MQTT_PASSWORD.key)
            .or_else(|| self.place(&keys::MQTT_PASSWORD_FILE.key));
        let password = self.password(&keys::MQTT_PASSWORD, &keys::MQTT_PASSWORD_FILE);
        let login = match (&user_place, &password_place) {
            (Some(place), None) => {
                self.refuse(
                    place,
                    "has no password: set mqtt.password or mqtt.password_file",
                );
                None
            }
            (None, Some(place)) => {
                self.refuse(place, "has no user: set mqtt.username");
                None
            }
            (Some(_), Some(_)) => user.zip(password).map(Some),
            (None, None) => match auth {
                Some(Auth::Password { user, password }) => {
                    if let Some(endpoint) = &endpoint {
                        self.warn_of_plain_text(&keys::MQTT_URL.key, &endpoint.server);
                        self.warn_of_password_at_service(&endpoint.server);
                    }
                    Some(Some((user.clone(), password.clone())))
                }
                Some(
                    Auth::Certificate(_) | Auth::Unenrolled(_) | Auth::Bootstrap(_) | Auth::None,
                ) => Some(None),
                None => None,
            },
        };
        let endpoint = endpoint?;
        let proxy = self.usable(proxies?.to_broker(&endpoint));
        Some(mqtt::Settings {
            endpoint,
            proxy,
            topic_prefix: topic_prefix?,
            keep_alive: keep_alive?,
            login: login?,
        })
    }

    fn check_certified_broker(&mut self, broker: &BrokerEndpoint) {
        let Some(place) = self.place(&keys::MQTT_URL.key) else {
            return;
        };
        if broker.websocket.is_some() {
            let words = "names a WebSocket, and the platform takes no certificate over \
                         MQTT-WebSocket; use mqtts:// or a user and a password";
            self.refuse(&place, words);
        } else if !broker.server.tls {
            let words = "the certificate of auth.cert_file is not shown to the broker: mqtt.url \
                         is without TLS";
            self.gathered.warnings.push(words.to_owned());
        }
    }

    /// Another login there may be a token.
    fn warn_of_password_at_service(&mut self, broker: &Endpoint) {
        if broker.port == SERVICE_PORT {
            let words = format!(
                "mqtt.url names port {SERVICE_PORT}, the platform's MQTT Service, which refuses the \
                 password of a device: use a certificate (auth.cert_file), or port 8883"
            );
            self.gathered.warnings.push(words);
        }
    }

    /// The platform's password goes there as it is.
    fn warn_of_plain_text(&mut self, key: &Key, endpoint: &Endpoint) {
        let host = endpoint.host.as_str();
        if !endpoint.tls && !is_this_machine(host) {
            let name = key.full_name();
            let words = format!(
                "without TLS, everybody on the way to {host} can read the password of \
                 auth.username ({name})"
            );
            self.gathered.warnings.push(words);
        }
    }
}

fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let number = certificates.len() + 1;
        let refusal = |error: &dyn std::fmt::Display| {
            format!("has a certificate, number {number}, that cannot be parsed: {error}")
        };
        let certificate = certificate.map_err(|error| refusal(&error))?;
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| refusal(&error))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err("holds no certificate in PEM form".to_owned());
    }
    Ok(certificates)
}
