//! How Stripe's objects change, and how it tells.

use serde_json::{Map, Value, json};

/// The catalogue does not know the last.
pub const TIERS: [&str; 4] = ["free", "standard", "enterprise", "unheard_of"];

/// What customers and operators change of a subscription, often back and forth.
pub fn edit(object: &mut Value, choice: u8) {
    let ended = object["status"] == "canceled";
    match choice % 7 {
        0 if !ended => {
            let quantity = 1 + i64::from(choice >> 5 & 1);
            object["quantity"] = json!(quantity);
            object["items"]["data"][0]["quantity"] = json!(quantity);
        }
        1 if !ended => {
            let cancels = object["cancel_at_period_end"] == true;
            object["cancel_at_period_end"] = json!(!cancels);
        }
        2 if !ended => {
            let tier = TIERS[usize::from(choice >> 5) % 4];
            let price = &mut object["items"]["data"][0]["price"];
            price["id"] = json!(format!("price_{tier}"));
            price["lookup_key"] = json!(format!("valuecanvas_{tier}_monthly"));
        }
        3 => {
            let metadata = object["metadata"].as_object_mut().unwrap();
            if metadata.remove("note").is_none() {
                metadata.insert("note".to_owned(), json!(choice.to_string()));
            }
        }
        // A change waits for its payment, or no longer.
        4 if !ended => {
            let waits = object["pending_update"].is_object();
            let update = json!({"expires_at": 1_760_090_000, "subscription_items": []});
            object["pending_update"] = if waits { Value::Null } else { update };
        }
        // The list of items is cut short, or whole again.
        5 => {
            let cut = object["items"]["has_more"] == true;
            object["items"]["has_more"] = json!(!cut);
        }
        _ => object["metadata"]["version"] = json!((choice >> 6).to_string()),
    }
}

/// What `after` changed of `before`, as Stripe lists it: of a hash only the
/// keys that changed, with null where there was nothing.
pub fn previous_attributes(before: &Value, after: &Value) -> Map<String, Value> {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else {
        unreachable!("objects are compared");
    };
    let keys = before
        .keys()
        .chain(after.keys().filter(|k| !before.contains_key(*k)));
    let mut changed = Map::new();
    for key in keys {
        match (before.get(key), after.get(key)) {
            (was, now) if was == now => {}
            (Some(was), Some(now)) if was.is_object() && now.is_object() => {
                changed.insert(key.clone(), previous_attributes(was, now).into());
            }
            (was, _) => {
                changed.insert(key.clone(), was.cloned().unwrap_or(Value::Null));
            }
        }
    }
    changed
}
