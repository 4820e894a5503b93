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
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::row::{FieldError, Row};
use crate::text::plain_text;

/// Places of the values in the row.
const DEVICE: usize = 1;
const HOST: usize = 2;
const PORT: usize = 3;
const KEY: usize = 4;

/// Characters of a DNS name, without the dot that may stand at its end.
const NAME_LIMIT: usize = 253;
/// Characters of one part of a DNS name.
const LABEL_LIMIT: usize = 63;
/// Far beyond the 36 characters of a UUID, far below what makes a URL too long.
const KEY_LIMIT: usize = 512;
/// Bytes of a faulty hostname that its error repeats.
const SHOWN_HOST: usize = 64;
/// Digits of a faulty port that its error repeats: enough for what is typed by mistake, and too few
/// for a key.
const SHOWN_PORT: usize = 7;

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

/// A machine and a port on the gateway's side.
///
/// Its text is `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    host: String,
    port: NonZeroU16,
}

/// The shared secret of one tunnel; its `Debug` shows nothing of it.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct ConnectionKey(String);

/// Why a `530` row cannot be carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// A value is missing.
    #[error(transparent)]
    Missing(#[from] FieldError),
    /// The hostname has characters that no name or address has, or is too long. The text is cut.
    #[error("the hostname '{0}' is neither a name nor an address")]
    Host(String),
    /// The port is a number that is none of a port.
    #[error("port {0} is not from 1 to 65535")]
    Port(String),
    /// The port is not a number. Its text is not repeated: in a row that lacks a value it may be
    /// the connection key.
    #[error("the port is not a number from 1 to 65535")]
    PortText,
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
            &self.target.host,
            &self.target.port.to_string(),
            &self.key.0,
        ])
    }
}

impl Target {
    /// Reads a hostname (name, IPv4 or IPv6 address, the last with or without brackets) and a port.
    ///
    /// White space around them is left over from a form, and ignored. A port is digits: no sign.
    pub fn parse(host: &str, port: &str) -> Result<Self, RequestError> {
        Ok(Self {
            host: parse_host(host.trim())?.to_owned(),
            port: parse_port(port.trim())?,
        })
    }

    /// The name or the address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }
}

impl FromStr for Target {
    type Err = RequestError;

    /// Reads `host:port` or `[IPv6]:port`.
    fn from_str(text: &str) -> Result<Self, RequestError> {
        let missing = FieldError { name: "port" };
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of an address without brackets may be its own.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            _ => return Err(missing.into()),
        };
        if port.is_empty() {
            return Err(missing.into());
        }
        Self::parse(host, port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
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

impl fmt::Debug for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionKey(..)")
    }
}

/// Returns the name or the address, without brackets.
fn parse_host(host: &str) -> Result<&str, RequestError> {
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address = bracketed.unwrap_or(host);
    let is_address = address.parse::<Ipv6Addr>().is_ok();
    if is_address || (bracketed.is_none() && is_name(host)) {
        Ok(address)
    } else {
        Err(RequestError::Host(plain_text(host, SHOWN_HOST)))
    }
}

/// Whether the text can be a DNS name. IPv4 addresses look like one.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_label =
        |label: &str| !label.is_empty() && label.len() <= LABEL_LIMIT && label.chars().all(fits);
    name.len() <= NAME_LIMIT && name.split('.').all(is_label)
}

fn parse_port(port: &str) -> Result<NonZeroU16, RequestError> {
    let digits = port.strip_prefix('-').unwrap_or(port);
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    if !is_number || port.len() > SHOWN_PORT {
        return Err(RequestError::PortText);
    }
    port.parse()
        .map_err(|_| RequestError::Port(port.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

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
        ] {
            assert_eq!(request(line).unwrap_err().to_string(), complaint, "{line}");
        }
    }

    #[test]
    fn repeats_a_faulty_hostname_in_short() {
        for (host, shown) in [
            ("a b", "a b"),
            ("plc-7:22", "plc-7:22"),
            ("[plc-7]", "[plc-7]"),
            ("[10.0.0.1]", "[10.0.0.1]"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[::1", "[::1"),
            ("ssh://plc", "ssh://plc"),
            ("a..b", "a..b"),
            (".", "."),
            ("-\n\"x\"", "- 'x'"),
            ("plc\0", "plc"),
            ("grün.lan", "grün.lan"),
            (&"x".repeat(16 * 1024), &"x".repeat(64)),
            (&"ü".repeat(16 * 1024), &"ü".repeat(32)),
        ] {
            let error = Target::parse(host, "22").unwrap_err().to_string();
            let complaint = format!("the hostname '{shown}' is neither a name nor an address");
            assert_eq!(error, complaint, "{host:?}");
        }
    }

    #[test]
    fn takes_names_and_addresses() {
        let longest = [&"x".repeat(63), "."].concat().repeat(3) + &"x".repeat(61);
        for (host, port, text) in [
            ("plc-7", "22", "plc-7:22"),
            ("PLC_7.lan.", "1", "PLC_7.lan.:1"),
            ("10.0.0.67", "65535", "10.0.0.67:65535"),
            ("127.1", "5900", "127.1:5900"),
            ("::1", "22", "[::1]:22"),
            ("[fd00::7]", "22", "[fd00::7]:22"),
            ("::ffff:10.0.0.1", "22", "[::ffff:10.0.0.1]:22"),
            (" plc-7\t", "22 ", "plc-7:22"),
            ("plc-7", "0022", "plc-7:22"),
            (&longest, "22", &format!("{longest}:22")),
        ] {
            let target = Target::parse(host, port).unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(text.parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn reads_a_target_from_one_text() {
        for (text, complaint) in [
            ("plc-7", "the port is missing"),
            ("plc-7:", "the port is missing"),
            ("::1", "the port is missing"),
            ("fd00::7:22", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("", "the port is missing"),
            (":22", "the hostname '' is neither a name nor an address"),
            ("plc-7:http", "the port is not a number from 1 to 65535"),
            ("[::1]:0", "port 0 is not from 1 to 65535"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.to_string(), complaint, "{text}");
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
    }

    proptest! {
        #[test]
        fn reads_every_target_it_has_written(host in "[a-z0-9:.\\[\\]_-]{1,20}", port: u16) {
            if let Ok(target) = Target::parse(&host, &port.to_string()) {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }

        #[test]
        fn reads_every_address(address: Ipv6Addr, port in 1_u16..) {
            let target = Target::parse(&address.to_string(), &port.to_string()).unwrap();
            prop_assert_eq!(target.to_string(), SocketAddrV6::new(address, port, 0, 0).to_string());
            prop_assert_eq!(target.to_string().parse(), Ok(target));
        }

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
