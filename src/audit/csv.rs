//! The log as CSV (RFC 4180), with fields that no spreadsheet runs as formulas.

use super::Entry;

pub const HEADINGS: [&str; 16] = [
    "id",
    "organizationId",
    "sequence",
    "action",
    "actorType",
    "actorId",
    "resourceType",
    "resourceId",
    "beforeState",
    "afterState",
    "metadata",
    "ipAddress",
    "userAgent",
    "reason",
    "createdAt",
    "hash",
];

/// An entry as a line, without its line ending.
pub fn line(entry: &Entry) -> String {
    let json = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
    let fields = [
        Some(entry.id.to_string()),
        Some(entry.organization_id.to_string()),
        entry.sequence.map(|n| n.to_string()),
        Some(entry.action.clone()),
        Some(entry.actor_type.clone()),
        entry.actor_id.map(|id| id.to_string()),
        Some(entry.resource_type.clone()),
        entry.resource_id.clone(),
        json(&entry.before_state),
        json(&entry.after_state),
        json(&entry.metadata),
        entry.ip_address.clone(),
        entry.user_agent.clone(),
        entry.reason.clone(),
        Some(entry.created_at.to_string()),
        entry.hash.clone(),
    ];
    fields
        .map(|text| field(&text.unwrap_or_default()))
        .join(",")
}

/// First characters that make a field a formula, in normal and full width.
const STARTS_FORMULAS: [char; 11] = [
    '=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
];

pub fn field(text: &str) -> String {
    let guarded = if text.starts_with(STARTS_FORMULAS) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if guarded.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", guarded.replace('"', "\"\""))
    } else {
        guarded
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_quoted_and_inert() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(field("=1+1"), "'=1+1");
        assert_eq!(field("\n=1"), "\"'\n=1\"");
        assert_eq!(field("\u{ff1d}1"), "'\u{ff1d}1");
    }
}
