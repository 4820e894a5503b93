//! `inventory/managedObjects/update/<external id>`: JSON that sets fragments of a device.

use std::collections::BTreeMap;

use serde_json::Value;

/// Replaces the fragments that an update names, and keeps the others; values are kept by their paths,
/// as `adit_RemoteAccess.limit`.
pub(super) fn update(
    fragments: &mut BTreeMap<String, String>,
    payload: &[u8],
) -> Result<(), String> {
    let update: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let update = update.as_object().ok_or("an update is an object")?;
    for (fragment, value) in update {
        let top = |path: &str| path.split('.').next() == Some(fragment);
        fragments.retain(|path, _| !top(path));
        match value {
            Value::Object(members) => fragments.extend(
                members
                    .iter()
                    .map(|(name, value)| (format!("{fragment}.{name}"), plain(value))),
            ),
            value => drop(fragments.insert(fragment.clone(), plain(value))),
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
