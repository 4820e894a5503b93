//! `devicecontrol/notifications`: operations as JSON.
//!
//! ```json
//! {"id":"214925","status":"PENDING","externalSource":{"externalId":"gateway-7","type":"c8y_Serial"},
//!  "c8y_RemoteAccessConnect":{"hostname":"10.0.0.67","port":5900,"connectionKey":"eb5e9d13-…"}}
//! ```
//!
//! A message has one of them on each line, those for other agents among them. What comes may have any shape and depth:
//! what is not asked for is passed over without a stack, and nothing is copied but the few values that are. A value of
//! another type than it should have becomes a text that the request is refused for, so that the
//! operation fails by its id with the reason.

use std::borrow::Cow;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use smartrest::{PendingOperation, REMOTE_ACCESS};

/// Bytes of an operation's id; the platform's have a dozen.
const ID_LIMIT: usize = 64;
/// The state of an operation that nobody has begun, and that of one that somebody has.
const PENDING: &str = "PENDING";
const EXECUTING: &str = "EXECUTING";
/// Stand for values that cannot be written in a row; no host, port or key is so.
const ARRAY: &str = "[…]";
const OBJECT: &str = "{…}";
/// Below it every whole number has a form of its own in a `f64`.
const EXACT: f64 = 9e15;

/// What a message has brought.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Notified {
    /// Operations that open a tunnel, and are pending. One that names no device is the gateway's.
    pub(crate) pending: Vec<PendingOperation>,
    /// Operations that open a tunnel and are executing: nothing is to be begun, but the row of one that
    /// is known may have had no id.
    pub(crate) executing: Vec<PendingOperation>,
    /// Operations for other agents, and those that have ended.
    pub(crate) others: usize,
    /// What is no operation, or has no id: a row may speak for it.
    pub(crate) unreadable: usize,
}

/// What one JSON value is.
enum Content {
    Pending(PendingOperation),
    Executing(PendingOperation),
    Other,
    Unreadable,
}

impl Notified {
    /// Reads a message.
    pub(crate) fn read(payload: &[u8]) -> Self {
        let text = String::from_utf8_lossy(payload);
        let mut notified = Self::default();
        // Wherever lines end within a value, for as long as all is well.
        let mut values = serde_json::Deserializer::from_str(&text).into_iter::<&RawValue>();
        let mut good = 0;
        while let Some(Ok(value)) = values.next() {
            notified.add(content(value));
            good = values.byte_offset();
        }
        let rest = text.get(good..).unwrap_or_default();
        for line in rest.lines().filter(|line| !line.trim().is_empty()) {
            let value = serde_json::from_str(line);
            notified.add(value.map_or(Content::Unreadable, content));
        }
        notified
    }

    /// Whether there was an operation at all.
    pub(crate) fn has_operation(&self) -> bool {
        self.others > 0 || !self.pending.is_empty() || !self.executing.is_empty()
    }

    fn add(&mut self, content: Content) {
        match content {
            Content::Pending(operation) => self.pending.push(operation),
            Content::Executing(operation) => self.executing.push(operation),
            Content::Other => self.others += 1,
            Content::Unreadable => self.unreadable += 1,
        }
    }
}

fn content(value: &RawValue) -> Content {
    let names = ["id", "status", "externalSource", REMOTE_ACCESS];
    let [id, status, source, request] = members(value, names);
    let id = id.map(text).filter(|id| is_id(id));
    let (Some(id), request) = (id, request) else {
        return Content::Unreadable;
    };
    let kind = match status.map(text).as_deref() {
        None | Some("" | PENDING) => Content::Pending,
        Some(EXECUTING) => Content::Executing,
        Some(_) => return Content::Other,
    };
    let Some(request) = request else {
        return Content::Other;
    };
    let [device] = source.map_or([None], |source| members(source, ["externalId"]));
    // It would be reported to another one.
    if device.is_some_and(|device| device.get().starts_with(['[', '{'])) {
        return Content::Unreadable;
    }
    let [host, port, key] = members(request, ["hostname", "port", "connectionKey"]);
    let request = [device, host, port, key].map(|value| value.map(text).unwrap_or_default());
    kind(PendingOperation::with_id(id, request))
}

fn is_id(text: &str) -> bool {
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    !text.is_empty()
        && text.len() <= ID_LIMIT
        && text != ARRAY
        && text != OBJECT
        && !text.contains(is_odd)
}

/// Returns the members of an object with these names, the last of those with the same one; what is
/// no object has none.
fn members<'a, const N: usize>(value: &'a RawValue, names: [&str; N]) -> [Option<&'a RawValue>; N] {
    let mut found = [None; N];
    let visitor = Members {
        names,
        found: &mut found,
    };
    let read = serde_json::Deserializer::from_str(value.get()).deserialize_map(visitor);
    match read {
        Ok(()) => found,
        Err(_) => [None; N],
    }
}

struct Members<'n, 'f, 'a, const N: usize> {
    names: [&'n str; N],
    found: &'f mut [Option<&'a RawValue>; N],
}

impl<'a, const N: usize> Visitor<'a> for Members<'_, '_, 'a, N> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let place = self.names.iter().position(|known| *known == name);
            match place.and_then(|place| self.found.get_mut(place)) {
                Some(found) => *found = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Returns a value as the text of a field; nothing for `null`.
fn text(value: &RawValue) -> String {
    let value = value.get();
    match value.as_bytes().first() {
        // Half of a character beyond the first plane is no text, and stays as it was written.
        Some(b'"') => serde_json::from_str(value).unwrap_or_else(|_| value.to_owned()),
        Some(b'[') => ARRAY.to_owned(),
        Some(b'{') => OBJECT.to_owned(),
        Some(b'n') => String::new(),
        Some(_) => number(value),
        None => String::new(),
    }
}

/// Writes a whole number without a fraction or an exponent, and anything else as it is.
fn number(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(number) if number.fract() == 0.0 && number.abs() < EXACT => format!("{number}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smartrest::OperationRef;

    use super::*;

    /// An operation with these values at its three places.
    fn operation(id: &str, more: &str, request: &str) -> String {
        format!(
            "{{\"id\":{id},\"deviceId\":\"60211263\",{more}\"externalSource\":{{\"externalId\":\"gw\",\
             \"type\":\"c8y_Serial\"}},\"c8y_RemoteAccessConnect\":{request}}}"
        )
    }

    /// What is pending in a word: its id, its device and the rest, or why it cannot be carried out.
    fn words(message: &str) -> Vec<String> {
        let pending = Notified::read(message.as_bytes()).pending;
        let word = |operation: &PendingOperation| {
            let OperationRef::Id(id) = operation.reference() else {
                panic!("no id");
            };
            let request = operation.clone().or_of("?").request();
            let request = request.map_or_else(
                |error| error.to_string(),
                |request| {
                    format!(
                        "{} {} {}",
                        request.device,
                        request.target,
                        request.key.expose()
                    )
                },
            );
            format!("#{id} {request}")
        };
        pending.iter().map(word).collect()
    }

    const GOOD: &str = r#"{"hostname":"plc","port":22,"connectionKey":"k"}"#;

    #[test]
    fn reads_an_operation_as_the_platform_sends_it() {
        let message = r#"{"id":"214925","deviceId":"60211263","status":"PENDING",
            "delivery":{"log":[{"x":null}],"status":"PENDING"},"creationTime":"2026-09-01T00:00:00Z",
            "externalSource":{"externalId":"gateway-7","type":"c8y_Serial"},
            "c8y_RemoteAccessConnect":{"hostname":"10.0.0.67","port":5900,"connectionKey":"eb5e9d13"}}"#;
        assert_eq!(
            words(message),
            ["#214925 gateway-7 10.0.0.67:5900 eb5e9d13"]
        );
        assert_eq!(
            words(&message.replace('\n', "")),
            ["#214925 gateway-7 10.0.0.67:5900 eb5e9d13"]
        );
    }

    #[test]
    fn reads_several_operations_in_one_message_and_passes_over_those_of_others() {
        let restart = r#"{"id":"9","externalSource":{"externalId":"gw"},"c8y_Restart":{}}"#;
        let over = operation("\"8\"", "\"status\":\"SUCCESSFUL\",", GOOD);
        let (first, second) = (operation("\"1\"", "", GOOD), operation("2", "", GOOD));
        let message = format!("{first}\n{restart}\r\n\n{over}\n{second}");
        assert_eq!(words(&message), ["#1 gw plc:22 k", "#2 gw plc:22 k"]);
        let notified = Notified::read(message.as_bytes());
        assert_eq!((notified.others, notified.unreadable), (2, 0));
        let cut = &first[..first.len() - 9];
        for (message, unreadable) in [
            (format!("{cut}\n{second}"), 1),
            (format!("{second}\n{cut}"), 1),
            (format!("[1\n\"\n{second}\nnonsense\n7"), 4),
            (format!("null \"x\" 7 [{first}] {second}"), 4),
        ] {
            assert_eq!(words(&message), ["#2 gw plc:22 k"], "{message}");
            let notified = Notified::read(message.as_bytes());
            assert_eq!(notified.unreadable, unreadable, "{message}");
            assert!(notified.has_operation());
        }
        assert!(!Notified::read(b"{}\n7\n\xff").has_operation());
    }

    #[test]
    fn opens_nothing_for_a_device_that_is_no_text() {
        for device in ["{}", "[\"gw\"]"] {
            let message = format!(
                "{{\"id\":\"1\",\"externalSource\":{{\"externalId\":{device}}},\
                 \"c8y_RemoteAccessConnect\":{{\"hostname\":\"plc\",\"port\":22,\
                 \"connectionKey\":\"k\"}}}}"
            );
            let notified = Notified::read(message.as_bytes());
            assert_eq!((notified.pending.len(), notified.unreadable), (0, 1));
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_values_of_an_operation() {
        let host = "is neither a name nor an address";
        let key = "the connection key is not of at most 512 letters, digits and .-_~";
        for (request, complaint) in [
            ("null", "the hostname is missing"),
            ("7", "the hostname is missing"),
            ("[]", "the hostname is missing"),
            (r#"{"hostname":null,"port":22}"#, "the hostname is missing"),
            (r#"{"hostname":"","port":22}"#, "the hostname is missing"),
            (
                r#"{"hostname":"plc","connectionKey":"k"}"#,
                "the port is missing",
            ),
            (
                r#"{"hostname":"plc","port":22}"#,
                "the connection key is missing",
            ),
            (
                r#"{"hostname":{"a":1},"port":22,"connectionKey":"k"}"#,
                &format!("the hostname '{{…}}' {host}"),
            ),
            (
                r#"{"hostname":"a \" b","port":22,"connectionKey":"k"}"#,
                &format!("the hostname 'a ' b' {host}"),
            ),
            (
                r#"{"hostname":"plc","port":[22],"connectionKey":"k"}"#,
                "the port is not a number from 1 to 65535",
            ),
            (
                r#"{"hostname":"plc","port":1e999,"connectionKey":"k"}"#,
                "the port is not a number from 1 to 65535",
            ),
            (
                r#"{"hostname":"plc","port":65536,"connectionKey":"k"}"#,
                "port 65536 is not from 1 to 65535",
            ),
            (r#"{"hostname":"plc","port":22,"connectionKey":{}}"#, key),
            (
                r#"{"hostname":"plc","port":22,"connectionKey":"\ud800"}"#,
                key,
            ),
        ] {
            let message = operation("\"1\"", "", request);
            assert_eq!(words(&message), [format!("#1 {complaint}")], "{request}");
        }
    }

    #[test]
    fn reads_numbers_and_texts_in_every_form() {
        for (request, read) in [
            (
                r#"{"hostname":"p\u006cc","port":"22","connectionKey":"k"}"#,
                "#1 gw plc:22 k",
            ),
            (
                r#"{"hostname":"plc","port":22.0,"connectionKey":77}"#,
                "#1 gw plc:22 77",
            ),
            (
                r#"{"hostname":"old","hostname":"plc","port":2.2e1,"connectionKey":"k","x":[{}]}"#,
                "#1 gw plc:22 k",
            ),
        ] {
            assert_eq!(words(&operation("1", "", request)), [read], "{request}");
        }
        for id in [
            "null",
            "\"\"",
            "[1]",
            "{}",
            "\"a b\"",
            "\"\\n\"",
            &"1".repeat(65),
        ] {
            assert_eq!(words(&operation(id, "", GOOD)), [""; 0], "{id}");
        }
        let of_nobody = r#"{"id":"1","externalSource":7,"c8y_RemoteAccessConnect":{"hostname":"plc",
            "port":22,"connectionKey":"k"}}"#;
        assert_eq!(words(of_nobody), ["#1 ? plc:22 k"]);
    }

    #[test]
    fn reads_past_any_depth_and_size() {
        const DEPTH: usize = 60_000;
        for deep in [
            format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH)),
            format!("{}1{}", "{\"a\":".repeat(DEPTH / 6), "}".repeat(DEPTH / 6)),
            format!("\"{}\"", "x".repeat(2 * DEPTH)),
        ] {
            let more = format!("\"delivery\":{deep},");
            let message = operation("\"1\"", &more, GOOD);
            assert_eq!(words(&message), ["#1 gw plc:22 k"]);
            let request = format!(r#"{{"hostname":{deep},"port":22}}"#);
            assert_eq!(words(&operation("\"1\"", "", &request)).len(), 1);
            assert_eq!(words(&deep), [""; 0]);
            assert_eq!(words(&deep[..deep.len() - 1]), [""; 0]);
        }
    }

    proptest! {
        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            Notified::read(&bytes);
        }

        #[test]
        fn survives_any_json(text in "[\\[\\]{}\":,0-9a-z\\\\\n ]{0,200}") {
            Notified::read(text.as_bytes());
            let inside = format!("{{\"id\":\"1\",\"c8y_RemoteAccessConnect\":{text}}}");
            Notified::read(inside.as_bytes());
        }
    }
}
