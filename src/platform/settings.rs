//! What the platform is told of this gateway.

use std::fmt;
use std::time::Duration;

/// Who this gateway is.
#[derive(Clone, Debug)]
pub struct Device {
    /// External id and MQTT client id. The certificate's common name unless set, which it must be
    /// where there is a certificate; else the host name.
    pub id: String,
    /// The id unless set.
    pub name: String,
    /// `adit_Gateway` unless set.
    pub device_type: String,
    /// In whole minutes; `None` leaves it as it is. Ten minutes unless set.
    pub required_interval: Option<Duration>,
    /// External ids of further devices behind this one, each once. None unless set.
    pub children: Vec<String>,
    /// Operations beyond those that adit carries out itself. None unless set.
    pub supported_operations: Vec<String>,
    /// Whether adit says what the device is and supports. True unless set.
    pub announce: bool,
    /// Whether adit is shown as a service of the device. True unless set.
    pub service: bool,
}

/// What the platform is told of remote access.
#[derive(Clone, Debug)]
pub struct RemoteAccess {
    /// At least one. All unless set.
    pub protocols: Vec<Protocol>,
    /// Whether the platform gets an event for each tunnel. True unless set.
    pub events: bool,
    /// Where the ids of operations come from. Notifications unless set.
    pub operation_ids: OperationIds,
}

/// Where the ids come from by which operations are reported. The static rows are always taken, and used
/// alone wherever ids do not come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OperationIds {
    /// `devicecontrol/notifications`, which needs no set-up.
    Notifications,
    /// A template collection that adit installs at the platform.
    Templates,
    /// None are asked for.
    None,
}

impl OperationIds {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Notifications, Self::Templates, Self::None];

    /// Returns the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notifications => "notifications",
            Self::Templates => "templates",
            Self::None => "none",
        }
    }
}

/// A remote access protocol as the platform names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Secure shell.
    Ssh,
    /// Telnet.
    Telnet,
    /// Remote desktop.
    Vnc,
    /// Any TCP connection.
    Passthrough,
}

impl Protocol {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Ssh, Self::Telnet, Self::Vnc, Self::Passthrough];

    /// Returns the word of the platform.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ssh => "SSH",
            Self::Telnet => "TELNET",
            Self::Vnc => "VNC",
            Self::Passthrough => "PASSTHROUGH",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
