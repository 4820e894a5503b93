//! What a person has to do so that the platform issues a certificate. Pure.

use crate::net::Endpoint;
use crate::secret::Secret;

/// Precedes the password in a link.
const PASSWORD: &str = "one-time-password=";

/// Asks a person to register this gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Invitation {
    /// The device id.
    pub id: String,
    /// The page of the platform where the device is registered. With the one-time password that adit
    /// has made; one that was configured is in no link.
    pub link: String,
    /// Whether the password is one that adit has made.
    pub holds_password: bool,
}

impl Invitation {
    /// Leads to a platform, with the password where it may be shown.
    pub(crate) fn new(server: &Endpoint, id: &str, password: Option<&Secret>) -> Self {
        let scheme = if server.tls { "https" } else { "http" };
        let mut link = format!(
            "{scheme}://{}/apps/devicemanagement/index.html#/deviceregistration?externalId={}",
            server.host_header(),
            percent_encoded(id),
        );
        if let Some(password) = password {
            link.push('&');
            link.push_str(PASSWORD);
            link.push_str(&percent_encoded(password.expose()));
        }
        Self {
            id: id.to_owned(),
            link,
            holds_password: password.is_some(),
        }
    }

    /// Says what is to be done with the link.
    pub(crate) fn instruction(&self) -> &'static str {
        match self.holds_password {
            true => "open the link as a user of the tenant, and register the device",
            false => {
                "open the link as a user of the tenant, and register the device with the password \
                 of auth.one_time_password"
            }
        }
    }
}

/// Returns a text in which `words` stand for the password of each link, whatever it is and whoever made it.
pub(crate) fn without_passwords(text: &str, words: &str) -> String {
    // What may stand behind a link in a log, in JSON or in a page.
    let is_end = |c: char| c.is_whitespace() || c.is_control() || "\"'\\<>&#".contains(c);
    let mut pieces = text.split(PASSWORD);
    let mut left = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(is_end).unwrap_or(piece.len());
        let (password, rest) = piece.split_at(end);
        left.push_str(PASSWORD);
        if !password.is_empty() {
            left.push_str(words);
        }
        left.push_str(rest);
    }
    left
}

/// Leaves what has no meaning in a URL (RFC 3986, 2.3).
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_to_the_page_where_the_device_is_registered() {
        let server = |tls, host: &str, port| Endpoint {
            tls,
            host: host.to_owned(),
            port,
        };
        let password = Secret::new("a7/B");
        for (server, id, password, link) in [
            (
                server(true, "tenant.example.com", 443),
                "gateway-7",
                Some(&password),
                "https://tenant.example.com/apps/devicemanagement/index.html#/deviceregistration\
                 ?externalId=gateway-7&one-time-password=a7%2FB",
            ),
            (
                server(false, "::1", 8080),
                "Tür & 7",
                None,
                "http://[::1]:8080/apps/devicemanagement/index.html#/deviceregistration\
                 ?externalId=T%C3%BCr%20%26%207",
            ),
        ] {
            let invitation = Invitation::new(&server, id, password);
            assert_eq!(invitation.link, link);
            assert_eq!(invitation.holds_password, password.is_some());
        }
    }

    #[test]
    fn leaves_every_password_out_of_a_text() {
        for (text, left) in [
            ("", ""),
            ("one-time-password", "one-time-password"),
            (
                "link=https://t/#/r?externalId=gw&one-time-password=a7%2FB\nnext",
                "link=https://t/#/r?externalId=gw&one-time-password=<set>\nnext",
            ),
            (
                r#"{"link":"https://t/#/r?one-time-password=Ab1&x=1","x":"one-time-password=Z\""}"#,
                r#"{"link":"https://t/#/r?one-time-password=<set>&x=1","x":"one-time-password=<set>\""}"#,
            ),
            ("one-time-password= b", "one-time-password= b"),
            ("one-time-password=\u{1b}[0m", "one-time-password=\u{1b}[0m"),
            ("one-time-password=Tür+7", "one-time-password=<set>"),
            ("one-time-password=<set>", "one-time-password=<set>"),
        ] {
            assert_eq!(without_passwords(text, "<set>"), left, "{text}");
        }
    }
}
