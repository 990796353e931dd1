//! A helper for JSON objects.

use serde_json::Value;

/// Adds `fields` to `object`; both must be JSON objects.
pub fn extend(object: &mut Value, fields: Value) {
    if let (Value::Object(object), Value::Object(fields)) = (object, fields) {
        object.extend(fields);
    }
}
