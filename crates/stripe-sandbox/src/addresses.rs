//! Postal addresses.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Params;
use crate::validate;

const ADDRESS_FIELDS: [&str; 6] = ["city", "country", "line1", "line2", "postal_code", "state"];

/// Takes `address`; `Some(None)` clears it.
pub fn take_address(params: &mut Params) -> Result<Option<Option<Value>>, ApiError> {
    let Some(pairs) = params.pairs("address")? else {
        return Ok(None);
    };
    let Some(pairs) = pairs else {
        return Ok(Some(None));
    };
    let mut address = json!({});
    for name in ADDRESS_FIELDS {
        address[name] = Value::Null;
    }
    for (name, value) in pairs {
        if !ADDRESS_FIELDS.contains(&name.as_str()) {
            return Err(ApiError::unknown_param(&format!("address[{name}]")));
        }
        if name == "country" && !value.is_empty() {
            validate::country("address[country]", &value)?;
        }
        address[&name] = json!(value);
    }
    Ok(Some(Some(address)))
}
