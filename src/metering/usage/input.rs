//! Parses usage events: our own format and CloudEvents 1.0.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use billing_domain::quantity::{self, QuantityError};
use jiff::{Timestamp, Unit};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::metadata;
use crate::catalogue::Catalogue;
use crate::metering::ledger::NewEvent;

const MAX_ID_BYTES: usize = 255;
const MAX_METADATA_BYTES: usize = 8 * 1024;
/// Separates a CloudEvent's source from its id.
const SEPARATOR: char = '\u{1f}';
/// The year 1. RFC 3339 starts at year 0, the database at 4714 BC.
const EARLIEST: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// Why an event is invalid, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: &'static str,
    pub detail: String,
}

impl Fault {
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

/// An event in our own format.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventBody {
    id: String,
    metric: String,
    quantity: Box<RawValue>,
    #[serde(default)]
    occurred_at: Option<String>,
    #[serde(default)]
    metadata: Option<Box<RawValue>>,
}

/// A CloudEvent, with the usage in `data`. Extension attributes are ignored.
#[derive(Deserialize)]
struct CloudEvent {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    datacontenttype: Option<String>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    /// The alternative to `data`: the same in Base64.
    #[serde(default)]
    data_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudData {
    /// Defaults to the CloudEvent's type.
    #[serde(default)]
    metric: Option<String>,
    quantity: Box<RawValue>,
    #[serde(default)]
    metadata: Option<Box<RawValue>>,
}

/// A valid event, and the id by which its sender knows it.
#[derive(Debug)]
pub struct ParsedEvent {
    pub id: String,
    pub event: NewEvent,
}

/// The format of the events in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFormat {
    Native,
    CloudEvents,
}

impl EventFormat {
    /// Parses one event. An error comes with the event's id where it is legible.
    pub fn parse(
        self,
        json: &str,
        catalogue: &Catalogue,
    ) -> Result<ParsedEvent, (Option<String>, Fault)> {
        let event = match self {
            Self::Native => parse::<EventBody>(json).map(|event| (event, None)),
            Self::CloudEvents => parse::<CloudEvent>(json).and_then(|event| {
                let source = event.source.clone();
                Ok((event.into_body()?, Some(source)))
            }),
        };
        let (event, source) = event.map_err(|fault| (id_of(json), fault))?;
        let id = event.id.clone();
        let mut event = event
            .check(catalogue)
            .map_err(|fault| (Some(id.clone()), fault))?;
        if let Some(source) = source {
            event.id = ledger_id(&source, &id);
        }
        Ok(ParsedEvent { id, event })
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|error| {
        let message = error.to_string();
        let code = if message.contains("unknown field") {
            "unknown_field"
        } else {
            "invalid_event"
        };
        // The position counts from the start of the event, not of the body.
        let message = message.split(" at line ").next().unwrap_or(&message);
        Fault::new(code, message.chars().take(200).collect::<String>())
    })
}

fn id_of(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    let read: OnlyId = serde_json::from_str(json).ok()?;
    check_id(&read.id).is_ok().then_some(read.id)
}

impl CloudEvent {
    fn into_body(self) -> Result<EventBody, Fault> {
        let invalid = |detail| Fault::new("invalid_cloud_event", detail);
        if self.specversion != "1.0" {
            return Err(invalid("specversion must be \"1.0\""));
        }
        if self.source.is_empty() || self.r#type.is_empty() {
            return Err(invalid("source and type cannot be empty"));
        }
        if self.source.chars().any(char::is_control) {
            return Err(invalid("source must not contain control characters"));
        }
        if !self.datacontenttype.as_deref().is_none_or(is_json) {
            return Err(invalid(
                "data must be JSON: expected a datacontenttype whose subtype is json or ends in \
                 +json",
            ));
        }
        let data: CloudData = match (&self.data, &self.data_base64) {
            (Some(data), None) => parse(data.get())?,
            (None, Some(text)) => {
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|_| invalid("data_base64 is not Base64"))?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| invalid("data_base64 does not hold UTF-8"))?;
                parse(&text)?
            }
            (None, None) => return Err(Fault::new("invalid_event", "missing field `data`")),
            (Some(_), Some(_)) => {
                return Err(invalid("send either data or data_base64, not both"));
            }
        };
        Ok(EventBody {
            metric: data.metric.unwrap_or(self.r#type),
            quantity: data.quantity,
            occurred_at: self.time,
            metadata: data.metadata,
            id: self.id,
        })
    }
}

/// Whether a media type is JSON: its subtype is `json` or ends in `+json`.
fn is_json(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let subtype = essence.split_once('/').map(|(_, subtype)| subtype);
    subtype.is_some_and(|subtype| {
        let subtype = subtype.to_ascii_lowercase();
        subtype == "json" || subtype.ends_with("+json")
    })
}

/// The id under which the ledger deduplicates a CloudEvent, made of source and
/// id. Native ids contain no control characters, so the two never collide.
fn ledger_id(source: &str, id: &str) -> String {
    let both = format!("{source}{SEPARATOR}{id}");
    if both.len() <= MAX_ID_BYTES {
        return both;
    }
    format!("{SEPARATOR}{}", hex::encode(Sha256::digest(both)))
}

impl EventBody {
    fn check(self, catalogue: &Catalogue) -> Result<NewEvent, Fault> {
        check_id(&self.id)?;
        check_metric(catalogue, &self.metric)?;
        Ok(NewEvent {
            quantity: read_quantity(&self.quantity)?,
            occurred_at: self.occurred_at.as_deref().map(read_time).transpose()?,
            metadata: self.metadata.as_deref().and_then(object).transpose()?,
            id: self.id,
            metric: self.metric,
        })
    }
}

pub fn check_id(id: &str) -> Result<(), Fault> {
    let fits = !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        let detail = format!("id: expected 1 to {MAX_ID_BYTES} bytes without control characters");
        Err(Fault::new("invalid_id", detail))
    }
}

pub fn check_metric(catalogue: &Catalogue, metric: &str) -> Result<(), Fault> {
    if catalogue.metrics().contains_key(metric) {
        return Ok(());
    }
    let known: Vec<&str> = catalogue.metrics().keys().map(String::as_str).collect();
    let shown: String = metric.chars().take(64).collect();
    let detail = format!(
        "unknown metric {shown:?}; expected one of {}",
        known.join(", ")
    );
    Err(Fault::new("unknown_metric", detail))
}

/// Parses a JSON number or string, keeping all of its digits.
pub fn read_quantity(json: &RawValue) -> Result<Decimal, Fault> {
    let text = json.get();
    let quoted = || serde_json::from_str::<String>(text).ok();
    let parsed = if text.starts_with('"') {
        quoted().map_or(Err(QuantityError::NotDecimal), |text| {
            quantity::parse(&text)
        })
    } else {
        quantity::parse(text)
    };
    parsed.map_err(|error| Fault::new("invalid_quantity", format!("quantity: {error}")))
}

fn read_time(text: &str) -> Result<Timestamp, Fault> {
    let at: Timestamp = text.parse().map_err(|_| {
        let detail = "occurredAt: expected RFC 3339 with a zone, such as 2026-11-23T12:00:00Z";
        Fault::new("invalid_time", detail)
    })?;
    if at < EARLIEST {
        let detail = "occurredAt: must not be before the year 1";
        return Err(Fault::new("invalid_time", detail));
    }
    // The database's precision.
    at.round(
        jiff::TimestampRound::new()
            .smallest(Unit::Microsecond)
            .mode(jiff::RoundMode::Trunc),
    )
    .map_err(|_| Fault::new("invalid_time", "occurredAt: out of range"))
}

/// Returns the object's text as written; null counts as absent.
fn object(json: &RawValue) -> Option<Result<String, Fault>> {
    let text = json.get();
    if text == "null" {
        return None;
    }
    let invalid = |detail: &str| Some(Err(Fault::new("invalid_metadata", detail)));
    if !text.starts_with('{') {
        return invalid("metadata: expected an object");
    }
    if text.len() > MAX_METADATA_BYTES {
        return invalid("metadata: expected at most 8 KiB");
    }
    if let Some(reason) = metadata::unstorable(text) {
        return invalid(&format!("metadata: {reason}"));
    }
    Some(Ok(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: EventFormat, json: &str) -> Result<NewEvent, &'static str> {
        let catalogue = Catalogue::load(None).unwrap();
        let parsed = format.parse(json, &catalogue);
        parsed
            .map(|parsed| parsed.event)
            .map_err(|(_, fault)| fault.code)
    }

    fn own(fields: &str) -> Result<NewEvent, &'static str> {
        read(
            EventFormat::Native,
            &format!(r#"{{"id":"a","metric":"api_calls",{fields}}}"#),
        )
    }

    #[test]
    fn a_quantity_keeps_its_digits_as_a_number_and_as_a_string() {
        for text in ["1234567890123456.7891", "\"1234567890123456.7891\""] {
            let event = own(&format!("\"quantity\":{text}")).unwrap();
            assert_eq!(event.quantity.to_string(), "1234567890123456.7891");
        }
    }

    #[test]
    fn each_fault_has_its_code() {
        for (fields, code) in [
            ("\"quantity\":-1", "invalid_quantity"),
            ("\"quantity\":1e309", "invalid_quantity"),
            ("\"quantity\":\"NaN\"", "invalid_quantity"),
            ("\"quantity\":\"ten\"", "invalid_quantity"),
            ("\"quantity\":1234567890123456789012345", "invalid_quantity"),
            ("\"quantity\":1.00001", "invalid_quantity"),
            ("\"quantity\":true", "invalid_quantity"),
            ("\"quantity\":null", "invalid_quantity"),
            ("\"quantity\":NaN", "invalid_event"),
            ("\"metadata\":{}", "invalid_event"),
            ("\"quantity\":1,\"organizationId\":\"x\"", "unknown_field"),
            (
                "\"quantity\":1,\"occurredAt\":\"2026-11-23\"",
                "invalid_time",
            ),
            (
                "\"quantity\":1,\"occurredAt\":\"2026-11-23T12:00:00\"",
                "invalid_time",
            ),
            (
                "\"quantity\":1,\"occurredAt\":\"-009999-01-03T00:00:00Z\"",
                "invalid_time",
            ),
            (
                "\"quantity\":1,\"occurredAt\":\"0000-12-31T23:59:59Z\"",
                "invalid_time",
            ),
            (
                "\"quantity\":1,\"occurredAt\":\"9999-12-31T23:59:59Z\"",
                "invalid_time",
            ),
            (
                "\"quantity\":1,\"metadata\":{\"a\":1e-20000}",
                "invalid_metadata",
            ),
            ("\"quantity\":1,\"metadata\":[1]", "invalid_metadata"),
            (
                "\"quantity\":1,\"metadata\":{\"a\":\"\\u0000\"}",
                "invalid_metadata",
            ),
            (
                "\"quantity\":1,\"metadata\":{\"a\":\"\\ud800\"}",
                "invalid_metadata",
            ),
        ] {
            assert_eq!(own(fields), Err(code), "{fields}");
        }
    }

    #[test]
    fn a_cloud_event_names_its_metric_in_its_data_or_by_its_type() {
        let event = |attributes: &str, data: &str| {
            let json = format!(
                r#"{{"specversion":"1.0","id":"a","source":"/app",{attributes},"data":{data}}}"#
            );
            read(EventFormat::CloudEvents, &json)
        };
        let read = event(
            r#""type":"com.example.used","time":"2026-11-23T12:00:00Z","traceparent":"00-1""#,
            r#"{"metric":"llm_tokens","quantity":"3"}"#,
        )
        .unwrap();
        assert_eq!(
            (read.metric.as_str(), read.quantity),
            ("llm_tokens", 3.into())
        );
        assert!(read.occurred_at.is_some());
        assert_eq!(
            event(r#""type":"api_calls""#, r#"{"quantity":1}"#)
                .unwrap()
                .metric,
            "api_calls"
        );
        assert_eq!(
            event(r#""type":"other""#, r#"{"quantity":1}"#),
            Err("unknown_metric")
        );
    }

    fn cloud(source: &str, rest: &str) -> Result<NewEvent, &'static str> {
        let json = format!(
            r#"{{"specversion":"1.0","id":"a","type":"api_calls","source":"{source}",{rest}}}"#
        );
        read(EventFormat::CloudEvents, &json)
    }

    #[test]
    fn a_cloud_event_is_known_by_its_source_and_id() {
        let id = |source: &str| cloud(source, r#""data":{"quantity":1}"#).unwrap().id;
        let sources = ["/s", "/other", "/s/a", &"s".repeat(300), &"s".repeat(301)];
        let mut ids: Vec<String> = sources.iter().map(|source| id(source)).collect();
        assert!(
            ids.iter()
                .all(|id| id.len() <= MAX_ID_BYTES && check_id(id).is_err())
        );
        ids.dedup();
        assert_eq!(ids.len(), sources.len());
        assert_eq!(
            cloud("a\\u001fb", r#""data":{"quantity":1}"#),
            Err("invalid_cloud_event")
        );
    }

    #[test]
    fn data_is_json_whatever_its_type_is_called_and_however_it_is_packed() {
        for kind in [
            "text/json",
            "application/json; charset=utf-8",
            "APPLICATION/JSON",
            "application/vnd.usage+json",
            "Image/X+JSON",
        ] {
            let rest = format!(r#""datacontenttype":"{kind}","data":{{"quantity":2}}"#);
            assert_eq!(cloud("/s", &rest).unwrap().quantity, 2.into(), "{kind}");
        }
        // {"quantity":1}
        let packed = r#""data_base64":"eyJxdWFudGl0eSI6MX0=""#;
        assert_eq!(cloud("/s", packed).unwrap().quantity, 1.into());
        for (rest, code) in [
            (
                r#""datacontenttype":"text/plain","data":{"quantity":1}"#,
                "invalid_cloud_event",
            ),
            (
                r#""datacontenttype":"json","data":{"quantity":1}"#,
                "invalid_cloud_event",
            ),
            (r#""data_base64":"%""#, "invalid_cloud_event"),
            (r#""data_base64":"eyJ4IjoxfQ==""#, "unknown_field"),
            (
                r#""data_base64":"eyJ4IjoxfQ==","data":{"quantity":1}"#,
                "invalid_cloud_event",
            ),
            (r#""time":null"#, "invalid_event"),
        ] {
            assert_eq!(cloud("/s", rest), Err(code), "{rest}");
        }
    }
}
