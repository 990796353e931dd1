//! Conceals network and e-mail addresses from readers of the log who lack the
//! permission `billing.audit`.

use serde_json::Value;

use crate::audit::Entry;

/// Replaces concealed text.
const CONCEALED: &str = "(concealed)";

/// Conceals addresses in an entry to be shown. The stored entry, which the chain
/// hashes, is unchanged.
pub fn conceal(entry: &mut Entry) {
    entry.ip_address = None;
    entry.user_agent = None;
    entry.reason.iter_mut().for_each(|text| {
        if has_address(text) {
            CONCEALED.clone_into(text);
        }
    });
    let states = [
        &mut entry.before_state,
        &mut entry.after_state,
        &mut entry.metadata,
    ];
    for state in states.into_iter().flatten() {
        conceal_in(state);
    }
    if entry.resource_id.as_deref().is_some_and(has_address) {
        entry.resource_id = Some(CONCEALED.to_owned());
    }
}

fn conceal_in(value: &mut Value) {
    match value {
        Value::String(text) if has_address(text) => CONCEALED.clone_into(text),
        Value::Array(values) => values.iter_mut().for_each(conceal_in),
        Value::Object(members) => members.values_mut().for_each(conceal_in),
        _ => {}
    }
}

/// Whether the text contains an e-mail address: an `@` with a character other
/// than white space on both sides.
fn has_address(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    characters
        .windows(3)
        .any(|around| around[1] == '@' && !around[0].is_whitespace() && !around[2].is_whitespace())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_addresses_are_concealed() {
        let mut state = json!({
            "email": "ada@example.com",
            "name": "Ada Ltd",
            "of": [{"text": "written by Ada <ada@example.com>"}, "a @ b", 7, null],
        });
        conceal_in(&mut state);
        assert_eq!(
            state,
            json!({
                "email": CONCEALED,
                "name": "Ada Ltd",
                "of": [{"text": CONCEALED}, "a @ b", 7, null],
            })
        );
    }
}
