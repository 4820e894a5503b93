//! What a device tells the platform: the static templates on `s/us` and `s/us/<child>`.
//!
//! Which device it is about is told by the topic. Texts are sent as they are; those that adit words
//! itself go through [`plain_text`] first.

use crate::row::{FieldError, Row};
use crate::templates::operation::{self, OperationRef, Status};
use crate::text::plain_text;

const DEVICE: &str = "100";
const CHILD: &str = "101";
const SUPPORTED_OPERATIONS: &str = "114";
const REQUIRED_INTERVAL: &str = "117";
const AGENT: &str = "122";
const HEARTBEAT: &str = "125";
const REMOTE_ACCESS_PROTOCOLS: &str = "150";
const EVENT: &str = "400";
const PENDING_OPERATIONS: &str = "500";

/// Bytes of a faulty text that its error repeats.
const SHOWN_TEXT: usize = 64;

/// One row from a device to the platform.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// `100`: creates the device if it is new.
    Device {
        /// What people call it; the platform makes up a name where it is empty.
        name: String,
        /// The type, as `adit_Gateway`; the platform has a default where it is empty.
        kind: String,
    },
    /// `101`: creates a child device if it is new.
    Child {
        /// External id.
        id: String,
        /// What people call it.
        name: String,
        /// The type.
        kind: String,
    },
    /// `114`: the fragments of all operations that the device supports; replaces the list, so an
    /// empty one takes all away.
    SupportedOperations(Vec<String>),
    /// `117`: within how many minutes the platform expects to hear from the device.
    RequiredInterval(u32),
    /// `122`: which software speaks for the device.
    Agent {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// Where to read about it.
        url: String,
        /// Who looks after it.
        maintainer: String,
    },
    /// `125`: the device is alive.
    Heartbeat,
    /// `150`: what a tunnel may carry, as `SSH`, `TELNET`, `VNC` and `PASSTHROUGH`.
    RemoteAccessProtocols(Vec<String>),
    /// `400`: something happened.
    Event {
        /// The type, as `c8y_RemoteAccessOpened`.
        kind: String,
        /// What people read.
        text: String,
    },
    /// `500`: asks for all pending operations.
    PendingOperations,
    /// `501` to `506`: how one operation stands.
    Status {
        /// Which operation.
        operation: OperationRef,
        /// How it stands.
        status: Status,
    },
    /// `507`: fails all executing operations of a fragment.
    FailExecuting {
        /// The fragment, as [`REMOTE_ACCESS`](crate::REMOTE_ACCESS).
        fragment: String,
        /// What people read.
        reason: String,
    },
}

/// Why a row of a device says nothing that is known here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnknownRequest {
    /// A value is missing.
    #[error(transparent)]
    Missing(#[from] FieldError),
    /// The template is none of those above. The text is cut.
    #[error("template '{0}' is not known")]
    Template(String),
    /// The required interval is not a number. The text is cut.
    #[error("'{0}' is not a number of minutes")]
    Minutes(String),
}

impl Request {
    /// Writes the row.
    pub fn to_row(&self) -> Row {
        match self {
            Self::Device { name, kind } => Row::new([DEVICE, name, kind]),
            Self::Child { id, name, kind } => Row::new([CHILD, id, name, kind]),
            Self::SupportedOperations(fragments) => list_to_row(SUPPORTED_OPERATIONS, fragments),
            Self::RequiredInterval(minutes) => Row::new([REQUIRED_INTERVAL, &minutes.to_string()]),
            Self::Agent {
                name,
                version,
                url,
                maintainer,
            } => Row::new([AGENT, name, version, url, maintainer]),
            Self::Heartbeat => Row::new([HEARTBEAT]),
            Self::RemoteAccessProtocols(names) => list_to_row(REMOTE_ACCESS_PROTOCOLS, names),
            Self::Event { kind, text } => Row::new([EVENT, kind, text]),
            Self::PendingOperations => Row::new([PENDING_OPERATIONS]),
            Self::Status { operation, status } => operation::status_to_row(operation, status),
            Self::FailExecuting { fragment, reason } => {
                operation::fail_executing_to_row(fragment, reason)
            }
        }
    }

    /// Reads a row of any template of this list, as leniently as the platform does.
    pub fn from_row(row: &Row) -> Result<Self, UnknownRequest> {
        if let Some(request) = operation::from_row(row)? {
            return Ok(request);
        }
        let optional = |index| row.get(index).unwrap_or_default().to_owned();
        Ok(match row.template() {
            DEVICE => Self::Device {
                name: optional(1),
                kind: optional(2),
            },
            CHILD => Self::Child {
                id: row.required(1, "child id")?.to_owned(),
                name: optional(2),
                kind: optional(3),
            },
            SUPPORTED_OPERATIONS => Self::SupportedOperations(list(row)),
            REQUIRED_INTERVAL => Self::RequiredInterval(minutes(row.required(1, "interval")?)?),
            AGENT => Self::Agent {
                name: row.required(1, "agent name")?.to_owned(),
                version: optional(2),
                url: optional(3),
                maintainer: optional(4),
            },
            HEARTBEAT => Self::Heartbeat,
            REMOTE_ACCESS_PROTOCOLS => Self::RemoteAccessProtocols(list(row)),
            EVENT => Self::Event {
                kind: row.required(1, "event type")?.to_owned(),
                text: row.required(2, "event text")?.to_owned(),
            },
            PENDING_OPERATIONS => Self::PendingOperations,
            unknown => return Err(UnknownRequest::Template(plain_text(unknown, SHOWN_TEXT))),
        })
    }
}

fn list_to_row(template: &str, values: &[String]) -> Row {
    let values = values.iter().map(String::as_str);
    Row::new([template].into_iter().chain(values))
}

/// All values; empty ones are the same as missing ones.
fn list(row: &Row) -> Vec<String> {
    let values = row.fields().iter().skip(1);
    values.filter(|value| !value.is_empty()).cloned().collect()
}

fn minutes(text: &str) -> Result<u32, UnknownRequest> {
    text.parse()
        .map_err(|_| UnknownRequest::Minutes(plain_text(text, SHOWN_TEXT)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row::{decode, encode};

    fn text(text: &str) -> String {
        text.to_owned()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn oldest(status: Status) -> Request {
        Request::Status {
            operation: OperationRef::oldest_tunnel(),
            status,
        }
    }

    fn by_id(status: Status) -> Request {
        Request::Status {
            operation: OperationRef::Id(text("4711")),
            status,
        }
    }

    #[test]
    fn writes_and_reads_each_template() {
        for (request, line) in [
            (
                Request::Device {
                    name: text("Gateway 7"),
                    kind: text("adit_Gateway"),
                },
                "100,Gateway 7,adit_Gateway",
            ),
            (
                Request::Child {
                    id: text("plc-7"),
                    name: text("PLC, left"),
                    kind: text("plc"),
                },
                r#"101,plc-7,"PLC, left",plc"#,
            ),
            (
                Request::SupportedOperations(texts(&["c8y_RemoteAccessConnect", "c8y_Restart"])),
                "114,c8y_RemoteAccessConnect,c8y_Restart",
            ),
            (Request::SupportedOperations(vec![]), "114"),
            (Request::RequiredInterval(10), "117,10"),
            (
                Request::Agent {
                    name: text("adit"),
                    version: text("0.1.0"),
                    url: text("https://example.com"),
                    maintainer: text("us"),
                },
                "122,adit,0.1.0,https://example.com,us",
            ),
            (Request::Heartbeat, "125"),
            (
                Request::RemoteAccessProtocols(texts(&["SSH", "VNC"])),
                "150,SSH,VNC",
            ),
            (
                Request::Event {
                    kind: text("c8y_RemoteAccessOpened"),
                    text: text("opened to plc-7:22"),
                },
                "400,c8y_RemoteAccessOpened,opened to plc-7:22",
            ),
            (Request::PendingOperations, "500"),
            (oldest(Status::Executing), "501,c8y_RemoteAccessConnect"),
            (
                oldest(Status::Failed(text("refused, twice"))),
                r#"502,c8y_RemoteAccessConnect,"refused, twice""#,
            ),
            (oldest(Status::Successful), "503,c8y_RemoteAccessConnect"),
            (by_id(Status::Executing), "504,4711"),
            (by_id(Status::Failed(text("refused"))), "505,4711,refused"),
            (by_id(Status::Successful), "506,4711"),
            (
                Request::FailExecuting {
                    fragment: text(operation::REMOTE_ACCESS),
                    reason: text("adit was restarted"),
                },
                "507,c8y_RemoteAccessConnect,adit was restarted",
            ),
        ] {
            assert_eq!(encode([&request.to_row()]), line);
            let rows = decode(line.as_bytes());
            assert_eq!(Request::from_row(&rows[0]), Ok(request), "{line}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_row() {
        for (line, complaint) in [
            ("101", "the child id is missing"),
            ("117", "the interval is missing"),
            ("117,soon", "'soon' is not a number of minutes"),
            ("117,-1", "'-1' is not a number of minutes"),
            ("122", "the agent name is missing"),
            ("400,type", "the event text is missing"),
            ("501", "the fragment is missing"),
            ("505,,reason", "the operation id is missing"),
            ("507,,reason", "the fragment is missing"),
            ("530,a,b,1,k", "template '530' is not known"),
            (",500", "template '' is not known"),
            ("\"a\"\"\nb\"", "template 'a' b' is not known"),
        ] {
            let rows = decode(line.as_bytes());
            let error = Request::from_row(&rows[0]).unwrap_err();
            assert_eq!(error.to_string(), complaint, "{line}");
        }
    }

    #[test]
    fn reads_what_the_platform_lets_pass() {
        let empty = String::new;
        for (line, request) in [
            (
                "100",
                Request::Device {
                    name: empty(),
                    kind: empty(),
                },
            ),
            (
                "114,,a,,b,",
                Request::SupportedOperations(texts(&["a", "b"])),
            ),
            ("500,,", Request::PendingOperations),
            (
                "502,c8y_RemoteAccessConnect",
                oldest(Status::Failed(empty())),
            ),
            (
                "503,c8y_RemoteAccessConnect,result",
                oldest(Status::Successful),
            ),
        ] {
            let rows = decode(line.as_bytes());
            assert_eq!(Request::from_row(&rows[0]), Ok(request), "{line}");
        }
    }

    fn filled() -> impl Strategy<Value = String> {
        any::<String>().prop_filter("empty", |text| !text.is_empty())
    }

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![
            Just(Status::Executing),
            Just(Status::Successful),
            any::<String>().prop_map(Status::Failed),
        ]
    }

    fn any_operation() -> impl Strategy<Value = OperationRef> {
        (filled(), any::<bool>()).prop_map(|(text, by_id)| {
            if by_id {
                OperationRef::Id(text)
            } else {
                OperationRef::Oldest(text)
            }
        })
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let list = || prop::collection::vec(filled(), 0..4);
        prop_oneof![
            any::<(String, String)>().prop_map(|(name, kind)| Request::Device { name, kind }),
            (filled(), any::<String>(), any::<String>())
                .prop_map(|(id, name, kind)| Request::Child { id, name, kind }),
            list().prop_map(Request::SupportedOperations),
            any::<u32>().prop_map(Request::RequiredInterval),
            (filled(), any::<(String, String, String)>()).prop_map(
                |(name, (version, url, maintainer))| Request::Agent {
                    name,
                    version,
                    url,
                    maintainer
                }
            ),
            list().prop_map(Request::RemoteAccessProtocols),
            (filled(), filled()).prop_map(|(kind, text)| Request::Event { kind, text }),
            (any_operation(), any_status())
                .prop_map(|(operation, status)| Request::Status { operation, status }),
            (filled(), any::<String>())
                .prop_map(|(fragment, reason)| Request::FailExecuting { fragment, reason }),
        ]
    }

    proptest! {
        #[test]
        fn reads_every_request_it_has_written(request in any_request()) {
            prop_assert_eq!(Request::from_row(&request.to_row()), Ok(request.clone()));
            let rows = decode(encode([&request.to_row()]).as_bytes());
            prop_assert_eq!(Request::from_row(&rows[0]), Ok(request));
        }
    }
}
