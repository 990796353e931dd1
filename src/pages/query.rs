//! Queries and forms of browsers: a field that is left empty is not there.

use form_urlencoded::Serializer;
use serde::{Deserialize, Deserializer};

/// For `deserialize_with`: none if the field is empty.
pub fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The address of `path` with those of `fields` that are filled.
pub fn address(path: &str, fields: &[(&str, Option<&str>)]) -> String {
    let mut query = Serializer::new(String::new());
    for (name, value) in fields {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// What is part of a path.
pub fn part(text: &str) -> String {
    let escaped: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    escaped.replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_what_is_filled() {
        assert_eq!(address("/a", &[("b", None)]), "/a");
        let both = [("b", Some("x y&z")), ("c", None), ("d", Some("1"))];
        assert_eq!(address("/a", &both), "/a?b=x+y%26z&d=1");
        assert_eq!(part("a b/c"), "a%20b%2Fc");
    }
}
