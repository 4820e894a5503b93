//! Asks the platform's own authority for a certificate, once.

use std::time::SystemTime;

use super::est::key::Key;
use super::est::{self, Fault, Issued};
use crate::net::credentials::Hidden;
use crate::net::identity::Files;
use crate::net::request::Post;
use crate::net::{Endpoint, Transport};
use crate::secret::Secret;

/// Where the authority is, and for whom it is asked.
pub(crate) struct Applicant<'a> {
    /// Goes the way of the tunnels.
    pub transport: &'a Transport,
    /// The platform.
    pub server: &'a Endpoint,
    /// The device id, which becomes the common name.
    pub id: &'a str,
    /// Where the certificate and its key are, or will be.
    pub files: &'a Files,
}

impl Applicant<'_> {
    /// Asks at `path` for a certificate of `key`.
    ///
    /// # Errors
    /// There is none, or none that fits.
    pub(crate) async fn ask(
        &self,
        path: &str,
        authorization: &Secret,
        key: &Key,
    ) -> Result<Issued, Fault> {
        let request = key.request(self.id)?;
        let post = Post {
            path,
            authorization: Some(authorization),
            headers: &est::HEADERS,
            body: request.as_bytes(),
        };
        let response = self.transport.post(self.server, &post, est::LIMITS).await?;
        let hidden = Hidden::default().and_header(authorization);
        let certificates = est::read(&response, &hidden)?;
        let now = SystemTime::now();
        Ok(est::choose(&certificates, key, self.id, self.files, now)?)
    }
}
