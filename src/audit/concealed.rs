//! What an entry shows to those who may read the log, and not from where its
//! people act: the permission `billing.audit` is for that.

use serde_json::Value;

use super::Entry;

/// In the place of what is not shown.
const CONCEALED: &str = "(concealed)";

/// Takes addresses out of an entry: those of networks and of people. What the
/// chain hashes stays as it is in the database.
pub fn conceal(entry: &mut Entry) {
    entry.ip_address = None;
    entry.user_agent = None;
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

/// Whether the text has an e-mail address in it: an `@` between what is neither
/// white space nor the end.
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
    fn addresses_are_found_wherever_they_are() {
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
