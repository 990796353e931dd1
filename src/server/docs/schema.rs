//! Schemas, as people read them.

use serde_json::Value;

use super::page::escape;

/// A schema in a few words: its type and what bounds it.
pub fn short(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = escape(name.rsplit('/').next().unwrap_or_default());
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    let several = ["oneOf", "anyOf", "allOf"].iter();
    if let Some(options) = several.filter_map(|word| schema[*word].as_array()).next() {
        let options: Vec<String> = options.iter().map(short).collect();
        return options.join(" or ");
    }
    let mut said = match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", short(&schema["items"])),
        Value::String(name) => escape(name),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            escape(&names.join(" or "))
        }
        _ => "anything".to_owned(),
    };
    if let Some(format) = schema["format"].as_str() {
        said += &format!(" ({})", escape(format));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(code).collect();
        said = values.join(" or ");
    }
    for (bound, words) in [
        ("minimum", "from"),
        ("maximum", "to"),
        ("maxLength", "up to"),
    ] {
        if !schema[bound].is_null() {
            said += &format!(" {words} {}", code(&schema[bound]));
        }
    }
    for (word, words) in [("default", "else"), ("example", "such as")] {
        if !schema[word].is_null() {
            said += &format!(", {words} {}", code(&schema[word]));
        }
    }
    said
}

/// A schema with its properties, one in a row.
pub fn full(schema: &Value) -> String {
    if let Some(parts) = schema["allOf"].as_array() {
        return parts.iter().map(full).collect();
    }
    let Some(properties) = schema["properties"].as_object() else {
        return format!("<p>{}</p>", short(schema));
    };
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|n| n == name));
    let rows: String = properties
        .iter()
        .map(|(name, property)| {
            let optional = if is_required(name) { "" } else { ", optional" };
            format!(
                "<tr><td><code>{}</code></td><td>{}{optional}</td><td>{}{}</td></tr>",
                escape(name),
                short(property),
                escape(property["description"].as_str().unwrap_or_default()),
                nested(property),
            )
        })
        .collect();
    format!("<table><tbody>{rows}</tbody></table>")
}

/// What a list or an object without a name of its own consists of.
fn nested(property: &Value) -> String {
    let inner = [property, &property["items"]];
    let inner = inner
        .into_iter()
        .find(|schema| schema["properties"].is_object());
    inner.map(full).unwrap_or_default()
}

fn code(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("<code>{}</code>", escape(&text))
}
