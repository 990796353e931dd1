//! CloudEvents in binary mode: the attributes are headers, the body is the data. It is made
//! a structured event, and read as one.

use axum::http::HeaderMap;
use percent_encoding::percent_decode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::input::Fault;
use crate::server::layers::media;

/// Tells that a request is in binary mode.
pub const MARK: &str = "ce-specversion";

/// Whether a request has the attributes of a CloudEvent in its headers.
pub fn is_binary(headers: &HeaderMap) -> bool {
    headers.contains_key(MARK)
}

#[derive(Serialize)]
struct Structured<'a> {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// The same event in structured mode.
pub fn structured(headers: &HeaderMap, body: &str) -> Result<String, Fault> {
    let needed = |name: &'static str| {
        let value = attribute(headers, name)?;
        value.ok_or_else(|| {
            let detail = format!("the header {name} is missing, which binary mode needs");
            Fault::new("invalid_cloud_event", detail)
        })
    };
    let data = match body.trim() {
        "" => None,
        text => Some(serde_json::from_str(text).map_err(|error| {
            Fault::new(
                "invalid_json",
                format!("the body, which is the data: {error}"),
            )
        })?),
    };
    let kind = media::essence(headers);
    let event = Structured {
        specversion: needed(MARK)?,
        id: needed("ce-id")?,
        source: needed("ce-source")?,
        r#type: needed("ce-type")?,
        time: attribute(headers, "ce-time")?,
        subject: attribute(headers, "ce-subject")?,
        datacontenttype: (!kind.is_empty()).then_some(kind),
        data,
    };
    serde_json::to_string(&event)
        .map_err(|error| Fault::new("invalid_cloud_event", error.to_string()))
}

/// An attribute as its sender wrote it before it was made a header: without quotes, and
/// percent-decoded.
fn attribute(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Fault> {
    let invalid =
        |what: &str| Fault::new("invalid_cloud_event", format!("the header {name} {what}"));
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid("came more than once"));
    }
    let unquoted =
        unquoted(value.as_bytes()).ok_or_else(|| invalid("has a quote that does not end"))?;
    let decoded = percent_decode(&unquoted).decode_utf8();
    let decoded = decoded.map_err(|_| invalid("is not UTF-8 once it is percent-decoded"))?;
    Ok(Some(decoded.into_owned()))
}

/// The text of a quoted string (RFC 9110, 5.6.4), or the value as it is.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return Some(value.to_vec());
    };
    let inner = rest.strip_suffix(b"\"")?;
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => text.push(*bytes.next()?),
            b'"' => return None,
            other => text.push(*other),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Option<String>, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert("ce-subject", value.parse().unwrap());
        attribute(&headers, "ce-subject")
    }

    #[test]
    fn header_values_are_unquoted_and_percent_decoded() {
        for (sent, meant) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("\"in%20quotes\"", "in quotes"),
            ("\"a \\\"b\\\"\"", "a \"b\""),
            ("100%", "100%"),
        ] {
            assert_eq!(read(sent).unwrap().as_deref(), Some(meant), "{sent}");
        }
        for bad in ["%FF", "\"open", "\"in\"side\""] {
            assert_eq!(read(bad).unwrap_err().code, "invalid_cloud_event", "{bad}");
        }
    }
}
