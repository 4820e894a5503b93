//! What a device tells the platform: the static templates on `s/us` and `s/us/<child>`.
//!
//! Which device it is about is told by the topic. Texts are sent as they are; those that adit words
//! itself go through [`plain_text`](crate::plain_text) first.

use crate::row::Row;
use crate::templates::operation::{self, OperationRef, Status};

const DEVICE: &str = "100";
const CHILD: &str = "101";
const SERVICE: &str = "102";
const SERVICE_STATUS: &str = "104";
const SUPPORTED_OPERATIONS: &str = "114";
const REQUIRED_INTERVAL: &str = "117";
const AGENT: &str = "122";
const HEARTBEAT: &str = "125";
const REMOTE_ACCESS_PROTOCOLS: &str = "150";
const CRITICAL_ALARM: &str = "301";
const CLEAR_ALARM: &str = "306";
const EVENT: &str = "400";
const PENDING_OPERATIONS: &str = "500";

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
    /// `102`: creates a service of the device if it is new.
    Service {
        /// External id, which names the topic of its own rows.
        id: String,
        /// The type.
        kind: String,
        /// What people call it.
        name: String,
        /// As for [`Request::ServiceStatus`].
        status: String,
    },
    /// `104`: whether the service whose topic carries it is `up` or `down`.
    ServiceStatus(String),
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
    /// `301`: something is wrong that somebody has to look at now.
    CriticalAlarm {
        /// The type, as `c8y_CertificateExpiring`; the platform has one active alarm of a type.
        kind: String,
        /// What people read.
        text: String,
    },
    /// `306`: what an alarm told of is over.
    ClearAlarm {
        /// The type.
        kind: String,
    },
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

impl Request {
    /// Writes the row.
    pub fn to_row(&self) -> Row {
        match self {
            Self::Device { name, kind } => Row::new([DEVICE, name, kind]),
            Self::Child { id, name, kind } => Row::new([CHILD, id, name, kind]),
            Self::Service {
                id,
                kind,
                name,
                status,
            } => Row::new([SERVICE, id, kind, name, status]),
            Self::ServiceStatus(status) => Row::new([SERVICE_STATUS, status]),
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
            Self::CriticalAlarm { kind, text } => Row::new([CRITICAL_ALARM, kind, text]),
            Self::ClearAlarm { kind } => Row::new([CLEAR_ALARM, kind]),
            Self::Event { kind, text } => Row::new([EVENT, kind, text]),
            Self::PendingOperations => Row::new([PENDING_OPERATIONS]),
            Self::Status { operation, status } => operation::status_to_row(operation, status),
            Self::FailExecuting { fragment, reason } => {
                operation::fail_executing_to_row(fragment, reason)
            }
        }
    }
}

fn list_to_row(template: &str, values: &[String]) -> Row {
    let values = values.iter().map(String::as_str);
    Row::new([template].into_iter().chain(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::encode;

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
    fn writes_each_template() {
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
                Request::Service {
                    id: text("gw_adit"),
                    kind: text("service"),
                    name: text("adit"),
                    status: text("up"),
                },
                "102,gw_adit,service,adit,up",
            ),
            (Request::ServiceStatus(text("down")), "104,down"),
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
                Request::CriticalAlarm {
                    kind: text("c8y_CertificateExpiring"),
                    text: text("It ends, soon."),
                },
                r#"301,c8y_CertificateExpiring,"It ends, soon.""#,
            ),
            (
                Request::ClearAlarm {
                    kind: text("c8y_CertificateExpiring"),
                },
                "306,c8y_CertificateExpiring",
            ),
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
        }
    }
}
