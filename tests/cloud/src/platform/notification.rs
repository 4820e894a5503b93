//! `devicecontrol/notifications`: every operation as JSON, with its id.

use serde_json::{Map, Value, json};

use super::operation::Operation;

/// The topic, without prefix.
pub const NOTIFICATIONS: &str = "devicecontrol/notifications";

/// Whether a device that subscribes to notifications gets them, and when.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Notifications {
    /// Never, as behind a bridge that does not carry them.
    #[default]
    Never,
    /// Behind the rows of the same operations.
    BehindRows,
    /// Before the rows of the same operations.
    BeforeRows,
}

impl Operation {
    /// Writes the operation as the platform notifies of it, as it was created: a notification may be late.
    pub fn to_json(&self) -> String {
        let text = |index| self.row.get(index).map(str::to_owned);
        let mut request = Map::new();
        if let Some(host) = text(2) {
            request.insert("hostname".to_owned(), host.into());
        }
        if let Some(port) = text(3) {
            let number = port.parse::<i64>().map(Value::from);
            let port = number.unwrap_or_else(|_| port.into());
            request.insert("port".to_owned(), port);
        }
        if let Some(key) = text(4) {
            request.insert("connectionKey".to_owned(), key.into());
        }
        let mut operation = json!({
            "id": self.id.to_string(),
            "deviceId": "60211263",
            "status": "PENDING",
            "creationTime": "2026-09-01T12:00:00.000Z",
            "delivery": {"status": "PENDING", "log": [{"status": "PENDING"}]},
            "externalSource": {"externalId": self.device, "type": "c8y_Serial"},
        });
        operation[&self.fragment] = request.into();
        operation.to_string()
    }
}
