//! `70` and `71`: the platform hands over credentials and tokens.
//!
//! Both arrive once and are secrets; their `Debug` shows nothing of them, and they are wiped when
//! they are dropped. Where they are kept, and
//! when a new token is fetched, is left to the caller.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::row::{FieldError, Row};
use crate::topic::is_noncharacter;

/// Characters of a token; a larger one fits into no HTTP header that servers take.
const TOKEN_LIMIT: usize = 8 * 1024;

/// The template id of a refusal.
const REFUSED: &str = "41";

/// `70`: what a device logs in with from its registration on.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    /// The tenant, as `t12345`.
    pub tenant: String,
    /// The user name without the tenant, as `device_gateway-7`.
    pub user: String,
    /// The password: for the login and its file, and nothing else.
    pub password: Zeroizing<String>,
}

/// `71`: a token that stands for the device's credentials for some time.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

/// Why a `70` or `71` row cannot be used. Says nothing of the values.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialsError {
    /// A value is missing.
    #[error(transparent)]
    Missing(#[from] FieldError),
    /// The token has characters that cannot stand in an HTTP header, or is too long.
    #[error("the token is not of at most {TOKEN_LIMIT} letters, digits and .-_~+/=")]
    Token,
    /// `41`: the platform does not give tokens to whoever logs in so.
    #[error("the platform gives tokens only to certificates")]
    NoCertificate,
    /// The tenant has a `/`, or the user a `:`: the login would be read as that of another.
    #[error("the {0} has a character that logins use as a separator")]
    Separator(&'static str),
    /// The tenant or the user has a character over which a broker may end the connection, at every
    /// login.
    #[error("the {0} has a character that no broker takes")]
    Impossible(&'static str),
}

impl Credentials {
    /// The template id.
    pub const TEMPLATE: &str = "70";

    /// Reads a row whose template id is `70`.
    pub fn from_row(row: &Row) -> Result<Self, CredentialsError> {
        let tenant = row.required(1, "tenant")?;
        let user = row.required(2, "user")?;
        let password = row.required(3, "password")?;
        // MQTT sends `tenant/user`, HTTP `tenant/user:password`.
        if tenant.contains(['/', ':']) {
            return Err(CredentialsError::Separator("tenant"));
        }
        if user.contains(':') {
            return Err(CredentialsError::Separator("user"));
        }
        for (text, name) in [(tenant, "tenant"), (user, "user")] {
            if text.contains(|c: char| c.is_control() || is_noncharacter(c)) {
                return Err(CredentialsError::Impossible(name));
            }
        }
        Ok(Self {
            tenant: tenant.to_owned(),
            user: user.to_owned(),
            password: Zeroizing::new(password.to_owned()),
        })
    }

    /// Writes the row.
    pub fn to_row(&self) -> Row {
        Row::new([Self::TEMPLATE, &self.tenant, &self.user, &self.password])
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Token {
    /// The template id.
    pub const TEMPLATE: &str = "71";

    /// Takes a token that can stand in an `Authorization: Bearer` header as it is.
    pub fn parse(token: &str) -> Result<Self, CredentialsError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        if token.is_empty() || token.len() > TOKEN_LIMIT || !token.chars().all(fits) {
            return Err(CredentialsError::Token);
        }
        Ok(Self(token.to_owned()))
    }

    /// Reads the answer to a request for a token. Any other row than a `71` has none; a `41` says that
    /// there is none for this login.
    pub fn from_row(row: &Row) -> Result<Self, CredentialsError> {
        if row.template() == REFUSED {
            return Err(CredentialsError::NoCertificate);
        }
        let token = row.required(1, "token")?;
        if row.template() != Self::TEMPLATE {
            return Err(CredentialsError::Token);
        }
        Self::parse(token)
    }

    /// Writes the row.
    pub fn to_row(&self) -> Row {
        Row::new([Self::TEMPLATE, &self.0])
    }

    /// The token itself, for the header and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::decode;

    fn row(line: &str) -> Row {
        decode(line.as_bytes()).remove(0)
    }

    #[test]
    fn reads_and_writes_credentials_and_tokens() {
        let credentials = Credentials {
            tenant: "t12345".to_owned(),
            user: "device_gw-1".to_owned(),
            password: "p,\"\\ w".to_owned().into(),
        };
        let line = "70,t12345,device_gw-1,\"p,\\\"\\\\ w\"";
        assert_eq!(Credentials::from_row(&row(line)), Ok(credentials.clone()));
        assert_eq!(credentials.to_row(), row(line));

        let token = Token::from_row(&row("71,eyJh.eyJz.c2ln-_=")).unwrap();
        assert_eq!(token.expose(), "eyJh.eyJz.c2ln-_=");
        assert_eq!(token.to_row(), row("71,eyJh.eyJz.c2ln-_="));
    }

    #[test]
    fn takes_a_token_as_long_as_one_may_be() {
        for (length, is_taken) in [(TOKEN_LIMIT, true), (TOKEN_LIMIT + 1, false)] {
            assert_eq!(Token::parse(&"a".repeat(length)).is_ok(), is_taken);
        }
    }

    #[test]
    fn says_what_is_wrong_and_shows_no_value() {
        let token = "the token is not of at most 8192 letters, digits and .-_~+/=";
        for (line, complaint) in [
            ("70", "the tenant is missing"),
            ("70,hunter2", "the user is missing"),
            ("70,t1,hunter2,", "the password is missing"),
            (
                "70,t1/hunter2,u,p",
                "the tenant has a character that logins use as a separator",
            ),
            (
                "70,t1,u:hunter2,p",
                "the user has a character that logins use as a separator",
            ),
            (
                "70,t1\u{1},hunter2,p",
                "the tenant has a character that no broker takes",
            ),
            (
                "70,t1,hunter2\u{7f},p",
                "the user has a character that no broker takes",
            ),
            (
                "70,t1,\"hunter2\n\",p",
                "the user has a character that no broker takes",
            ),
            (
                "70,t1,hunter2\u{ffff},p",
                "the user has a character that no broker takes",
            ),
        ] {
            let error = Credentials::from_row(&row(line)).unwrap_err();
            assert_eq!(error.to_string(), complaint, "{line}");
        }
        for (line, complaint) in [
            ("71", "the token is missing"),
            ("71,a b", token),
            (
                "41,,MqttAuth: Cannot publish token for device that do not use certificate authentication",
                "the platform gives tokens only to certificates",
            ),
            ("40,x", token),
            ("71,\"a\r\nHost: b\"", token),
            (&format!("71,{}", "a".repeat(8193)), token),
        ] {
            let error = Token::from_row(&row(line)).unwrap_err();
            assert_eq!(error.to_string(), complaint, "{line}");
        }
    }

    #[test]
    fn shows_no_secret_in_debug() {
        let credentials = Credentials::from_row(&row("70,t1,u,hunter2"));
        let token = Token::from_row(&row("71,hunter2"));
        assert_eq!(
            format!("{credentials:?}{token:?}"),
            "Ok(Credentials(..))Ok(Token(..))"
        );
    }
}
