//! How tunnels show the cloud who the device is.

use std::sync::Arc;

use super::settings::{Auth, Login};
use super::token::{NoToken, Tokens};
use crate::net::basic;
use crate::secret::Secret;

/// Where the `Authorization` header of a tunnel's WebSocket comes from.
#[derive(Debug)]
pub enum Authorization {
    /// User and password.
    Basic(Login),
    /// A token, fetched over MQTT, or for a certificate.
    Token(Arc<Tokens>),
    /// There is neither, and no session that could fetch a token.
    None,
}

/// Why there is no header.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unauthorized {
    /// No token came.
    #[error(transparent)]
    Token(#[from] NoToken),
    /// There is no session that could fetch one.
    #[error(
        "there is neither a user (auth.username, auth.password) nor a certificate (auth.cert_file, \
         auth.key_file), and only `adit run` can fetch a token over MQTT"
    )]
    NoSession,
}

impl Authorization {
    /// Takes user and password where there are any, or else `tokens`.
    pub fn new(auth: &Auth, tokens: Option<Arc<Tokens>>) -> Self {
        match (auth, tokens) {
            (Auth::Password { user, password }, _) => Self::Basic((user.clone(), password.clone())),
            (_, Some(tokens)) => Self::Token(tokens),
            (_, None) => Self::None,
        }
    }

    /// Returns the value of the header.
    ///
    /// # Errors
    /// No token came in time.
    pub async fn header(&self) -> Result<Secret, Unauthorized> {
        match self {
            Self::Basic((user, password)) => Ok(basic(user, &password.read().await)),
            Self::Token(tokens) => Ok(tokens.authorization().await?),
            Self::None => Err(Unauthorized::NoSession),
        }
    }

    /// Takes note that the cloud refused a header; whether another one may be had.
    pub fn refused(&self, header: &Secret) -> bool {
        match self {
            Self::Token(tokens) => {
                tokens.refused(header);
                true
            }
            Self::Basic(_) | Self::None => false,
        }
    }
}
