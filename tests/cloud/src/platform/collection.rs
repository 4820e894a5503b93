//! Template collections: rows of a tenant's own, and operations with their ids.
//!
//! What is read of SmartREST 2.0 templates is what a device agent needs: `11` for operations, and
//! `10` with `PUT` on the inventory by external id. A collection is created once and stays as it is.

use std::collections::BTreeMap;

use smartrest::{Row, decode};

use super::operation::Operation;

/// Where the external ids of devices are.
const SERIAL: &str = "c8y_Serial";

/// A template collection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Collection {
    /// The platform's own number for it.
    pub(super) id: u64,
    updates: BTreeMap<String, Update>,
    responses: Vec<Response>,
}

/// `10,<message id>,PUT,INVENTORY,<response>,false,c8y_Serial,<path>,<type>,<value>…`
#[derive(Clone, Debug, Eq, PartialEq)]
struct Update {
    properties: Vec<Property>,
}

/// A property that an update sets.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Property {
    path: String,
    is_number: bool,
    /// A row brings the value where the template has none.
    value: Option<String>,
}

/// `11,<message id>,<base>,<condition>,<path>…`
#[derive(Clone, Debug, Eq, PartialEq)]
struct Response {
    message: String,
    base: String,
    condition: String,
    paths: Vec<String>,
}

/// What a row of a collection sets: the external id of a device, and values by their paths.
pub(super) type Change = (String, Vec<(String, String)>);

impl Collection {
    /// Reads all templates of one publish.
    pub(super) fn read(id: u64, payload: &[u8]) -> Result<Self, String> {
        let mut collection = Self {
            id,
            updates: BTreeMap::new(),
            responses: Vec::new(),
        };
        for row in decode(payload) {
            let message = row.get(1).ok_or("a template without a message id")?;
            match row.template() {
                "10" => {
                    let update = Update::read(&row)?;
                    collection.updates.insert(message.to_owned(), update);
                }
                "11" => collection.responses.push(Response::read(message, &row)),
                other => return Err(format!("'{other}' is no kind of template")),
            }
        }
        Ok(collection)
    }

    /// Returns what a row of the device sets.
    pub(super) fn change(&self, row: &Row) -> Result<Change, String> {
        let update = self.updates.get(row.template());
        let update = update.ok_or_else(|| format!("there is no template '{}'", row.template()))?;
        let device = row.required(1, "external id").map_err(|e| e.to_string())?;
        let mut brought = 2..;
        let mut values = Vec::new();
        for property in &update.properties {
            let value = match &property.value {
                Some(value) => value.clone(),
                None => {
                    let value = brought.next().and_then(|index| row.get(index));
                    value.unwrap_or_default().to_owned()
                }
            };
            if property.is_number && value.parse::<u64>().is_err() {
                return Err(format!("'{value}' is no number for {}", property.path));
            }
            values.push((property.path.clone(), value));
        }
        Ok((device.to_owned(), values))
    }

    /// Returns the rows in which an operation is delivered.
    pub(super) fn rows(&self, operation: &Operation) -> Vec<Row> {
        let rows = self.responses.iter();
        rows.filter_map(|response| response.row(operation))
            .collect()
    }
}

impl Update {
    fn read(row: &Row) -> Result<Self, String> {
        let fixed = ["PUT", "INVENTORY"].map(Some);
        let by_serial = ["false", SERIAL].map(Some);
        if [row.get(2), row.get(3)] != fixed || [row.get(5), row.get(6)] != by_serial {
            return Err("only PUT,INVENTORY by c8y_Serial is known here".to_owned());
        }
        const FIRST_PROPERTY: usize = 7;
        let fields = row.fields().get(FIRST_PROPERTY..).unwrap_or_default();
        let properties = fields.chunks(3).map(|property| match property {
            [path, kind, value] => Ok(Property {
                path: path.clone(),
                is_number: matches!(kind.as_str(), "NUMBER" | "INTEGER" | "UNSIGNED"),
                value: Some(value.clone()).filter(|value| !value.is_empty()),
            }),
            _ => Err("a property has a path, a type and a value".to_owned()),
        });
        Ok(Self {
            properties: properties.collect::<Result<_, _>>()?,
        })
    }
}

impl Response {
    fn read(message: &str, row: &Row) -> Self {
        let text = |index| row.get(index).unwrap_or_default().to_owned();
        Self {
            message: message.to_owned(),
            base: text(2),
            condition: text(3),
            paths: row.fields().iter().skip(4).cloned().collect(),
        }
    }

    fn row(&self, operation: &Operation) -> Option<Row> {
        let value = |path: &str| match self.base.as_str() {
            "" => value(operation, path),
            base => value(operation, &format!("{base}.{path}")),
        };
        if !self.condition.is_empty() {
            value(&self.condition)?;
        }
        let values = self.paths.iter().map(|p| value(p).unwrap_or_default());
        let fields = [self.message.clone(), operation.device.clone()];
        Some(Row::new(fields.into_iter().chain(values)))
    }
}

/// Returns what is at a path of an operation.
fn value(operation: &Operation, path: &str) -> Option<String> {
    match path {
        "id" => return Some(operation.id.to_string()),
        "deviceId" => return Some(operation.device.clone()),
        _ => {}
    }
    let rest = path.strip_prefix(&operation.fragment)?;
    let index = match rest {
        "" => return Some(String::new()),
        ".hostname" => 2,
        ".port" => 3,
        ".connectionKey" => 4,
        _ => return None,
    };
    operation.row.get(index).map(str::to_owned)
}
