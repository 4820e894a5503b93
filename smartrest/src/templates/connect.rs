//! `530`: the platform asks for a tunnel.
//!
//! The values come from whoever may create operations, and from what people type into the cloud's
//! forms. What is read here becomes a name for the resolver, a port, and a part of a URL, and can
//! be used as such without another look; whether the target may be reached is left to the policy.
//!
//! The errors are what the operator reads as the reason of the failure. They are one clause, short,
//! and without double quotes, whatever the row holds. They never repeat what may be the connection
//! key, also where the values have moved out of their places.

use std::fmt;

use zeroize::Zeroize;

use crate::row::{FieldError, Row};
use crate::target::{Target, TargetError};

/// Places of the values in the row.
const DEVICE: usize = 1;
const HOST: usize = 2;
const PORT: usize = 3;
const KEY: usize = 4;

/// Far beyond the 36 characters of a UUID, far below what makes a URL too long.
const KEY_LIMIT: usize = 512;

/// What a `530` row asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectRequest {
    /// The gateway's own external id, or that of one of its children; statuses go to its topic.
    pub device: String,
    /// The machine to reach.
    pub target: Target,
    /// Whoever holds the key can take the tunnel. It also tells a repeated row from a new one.
    pub key: ConnectionKey,
}

/// The shared secret of one tunnel; its `Debug` shows nothing of it, and it is wiped when it is
/// dropped.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct ConnectionKey(String);

/// Why a `530` row cannot be carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// A value is missing.
    #[error(transparent)]
    Missing(#[from] FieldError),
    /// Host and port are none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The connection key has characters that cannot stand in a URL, or is too long.
    #[error("the connection key is not of at most {KEY_LIMIT} letters, digits and .-_~")]
    Key,
}

impl ConnectRequest {
    /// The template id.
    pub const TEMPLATE: &str = "530";

    /// Reads a row whose template id is `530`.
    pub fn from_row(row: &Row) -> Result<Self, RequestError> {
        let device = Self::device_of(row)?.to_owned();
        let host = row.required(HOST, "hostname")?;
        let port = row.required(PORT, "port")?;
        // Before the port is read: where a value lacks, the key stands in the port's place.
        let key = row.required(KEY, "connection key")?;
        Ok(Self {
            device,
            target: Target::parse(host, port)?,
            key: ConnectionKey::parse(key)?,
        })
    }

    /// Returns the device that a `530` row names, so that a row that is no good otherwise can be
    /// answered.
    pub fn device_of(row: &Row) -> Result<&str, FieldError> {
        row.required(DEVICE, "device id")
    }

    /// Writes the row, with the connection key in it.
    pub fn to_row(&self) -> Row {
        Row::new([
            Self::TEMPLATE,
            &self.device,
            self.target.host(),
            &self.target.port().to_string(),
            self.key.expose(),
        ])
    }
}

impl ConnectionKey {
    /// Takes a key that can stand in the path of a URL as it is.
    pub fn parse(key: &str) -> Result<Self, RequestError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        // `.` and `..` are steps in a path. No key is the same: it would be no step at all.
        let dots = key.chars().all(|c| c == '.');
        if dots || key.len() > KEY_LIMIT || !key.chars().all(fits) {
            return Err(RequestError::Key);
        }
        Ok(Self(key.to_owned()))
    }

    /// The key itself, for the URL of the tunnel and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for ConnectionKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row::{decode, encode};

    const UUID: &str = "eb5e9d13-1caa-486b-bdda-130ca0d87df8";

    fn request(line: &str) -> Result<ConnectRequest, RequestError> {
        ConnectRequest::from_row(&decode(line.as_bytes()).remove(0))
    }

    #[test]
    fn reads_and_writes_a_request() {
        let line = format!("530,gw-1,plc-7.lan,22,{UUID}");
        let request = request(&line).unwrap();
        assert_eq!(request.device, "gw-1");
        assert_eq!(request.target.host(), "plc-7.lan");
        assert_eq!(request.target.port(), 22);
        assert_eq!(request.key.expose(), UUID);
        assert_eq!(encode([&request.to_row()]), line);
    }

    #[test]
    fn takes_a_key_of_any_length_that_it_says_it_takes() {
        for length in [1, 36, 511, 512] {
            let key = "k".repeat(length);
            let request = request(&format!("530,gw-1,plc-7,22,{key}"));
            assert_eq!(request.unwrap().key.expose(), key, "{length}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_request() {
        let port_text = "the port is not a number from 1 to 65535";
        let key = "the connection key is not of at most 512 letters, digits and .-_~";
        for (line, complaint) in [
            ("530", "the device id is missing"),
            ("530,,plc-7,22,k", "the device id is missing"),
            ("530,gw-1,,22,k", "the hostname is missing"),
            ("530,gw-1,plc-7,,k", "the port is missing"),
            ("530,gw-1,plc-7,22", "the connection key is missing"),
            ("530,gw-1,plc-7,0,k", "port 0 is not from 1 to 65535"),
            (
                "530,gw-1,plc-7,65536,k",
                "port 65536 is not from 1 to 65535",
            ),
            ("530,gw-1,plc-7,-1,k", "port -1 is not from 1 to 65535"),
            (
                "530,gw-1,plc-7,-999999,k",
                "port -999999 is not from 1 to 65535",
            ),
            ("530,gw-1,plc-7,99999999,k", port_text),
            ("530,gw-1,plc-7,99999999999,k", port_text),
            ("530,gw-1,plc-7,+22,k", port_text),
            ("530,gw-1,plc-7,22.0,k", port_text),
            ("530,gw-1,plc-7,0x16,k", port_text),
            ("530,gw-1,plc-7,ssh,k", port_text),
            ("530,gw-1,plc-7,２２,k", port_text),
            ("530,gw-1,plc-7,-,k", port_text),
            ("530,gw-1,plc-7,\" \",k", port_text),
            ("530,gw-1,plc-7,22,a/b", key),
            ("530,gw-1,plc-7,22,a b", key),
            ("530,gw-1,plc-7,22,a?b", key),
            ("530,gw-1,plc-7,22,a%2fb", key),
            ("530,gw-1,plc-7,22,..", key),
            (&format!("530,gw-1,plc-7,22,{}", "k".repeat(513)), key),
            (&format!("530,gw-1,plc-7,22,{}", "k".repeat(9999)), key),
        ] {
            assert_eq!(request(line).unwrap_err().to_string(), complaint, "{line}");
        }
    }

    #[test]
    fn names_the_device_of_a_row_that_is_no_good() {
        let row = decode(b"530,gw-1,a b").remove(0);
        assert!(ConnectRequest::from_row(&row).is_err());
        assert_eq!(ConnectRequest::device_of(&row), Ok("gw-1"));
    }

    #[test]
    fn never_repeats_the_key() {
        for line in [
            format!("530,gw-1,plc-7,{UUID}"),
            format!("530,gw-1,plc-7,{UUID},22"),
            format!("530,gw-1,plc-7,22,\"{UUID} \""),
            format!("530,gw-1,a b,22,{UUID}"),
            format!("530,gw-1,plc-7,99999,{UUID}"),
            format!("530,plc-7,22,{UUID}"),
            format!("530,,gw-1,plc-7,22,{UUID}"),
            format!("530,gw-1,extra,plc-7,22,{UUID}"),
        ] {
            let error = request(&line).unwrap_err();
            assert!(!format!("{error}{error:?}").contains(&UUID[..8]), "{line}");
        }
        let good = request(&format!("530,gw-1,plc-7,22,{UUID}")).unwrap();
        assert!(!format!("{good:?}").contains(&UUID[..8]));
        assert_eq!(format!("{:?}", good.key), "ConnectionKey(..)");
    }

    proptest! {
        #[test]
        fn reads_every_request_it_has_written(
            device in ".+",
            host in "[a-z][a-z0-9-]{0,20}",
            port in 1_u16..,
            key in "[a-z][A-Za-z0-9._~-]{0,40}",
        ) {
            let request = ConnectRequest {
                device,
                target: Target::parse(&host, &port.to_string()).unwrap(),
                key: ConnectionKey::parse(&key).unwrap(),
            };
            let rows = decode(encode([&request.to_row()]).as_bytes());
            prop_assert_eq!(ConnectRequest::from_row(&rows[0]), Ok(request));
        }

        #[test]
        fn words_every_fault_in_one_short_clause(
            values in prop::collection::vec(".*|\"{0,99}|[0-9]{0,9}", 0..5),
        ) {
            let row = Row::new(["530".to_owned()].into_iter().chain(values));
            if let Err(error) = ConnectRequest::from_row(&row) {
                let text = error.to_string();
                prop_assert!(text.len() < 128);
                prop_assert!(!text.contains(|c: char| c == '"' || c.is_control()), "{}", text);
            }
        }
    }
}
