//! Parses usage events: our own format and CloudEvents 1.0.

use std::sync::Arc;

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
use crate::server::problem;
use crate::tenancy::names::{EXPECTED, is_external_id};

const MAX_ID_BYTES: usize = 255;
const MAX_METADATA_BYTES: usize = 8 * 1024;
/// Of the names of metrics in a refusal.
const MAX_LISTED_BYTES: usize = 256;
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
    #[serde(default)]
    organization: Option<Box<RawValue>>,
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
    #[serde(default)]
    subject: Option<Box<RawValue>>,
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
    /// What the event calls its organization, where each names its own.
    pub organization: Option<Arc<str>>,
    pub event: NewEvent,
}

/// What says which organization an event is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The credential.
    Credential,
    /// The request, for all of its events.
    Request,
    /// The event.
    Event,
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
        naming: Naming,
    ) -> Result<ParsedEvent, (Option<String>, Fault)> {
        let event = match self {
            Self::Native => parse::<EventBody>(json).map(|event| (event, None)),
            Self::CloudEvents => parse::<CloudEvent>(json).and_then(|event| {
                let source = event.source.clone();
                Ok((event.into_body()?, Some(source)))
            }),
        };
        let (mut event, source) = event.map_err(|fault| (id_of(json), fault))?;
        let id = event.id.clone();
        let organization = self
            .organization(naming, event.organization.take())
            .map_err(|fault| (id_of(json), fault))?;
        let mut event = event
            .check(catalogue)
            .map_err(|fault| (Some(id.clone()), fault))?;
        if let Some(source) = source {
            event.id = ledger_id(&source, &id);
        }
        Ok(ParsedEvent {
            id,
            organization,
            event,
        })
    }

    /// What an event calls its organization, `given` in the member that is for it.
    fn organization(
        self,
        naming: Naming,
        given: Option<Box<RawValue>>,
    ) -> Result<Option<Arc<str>>, Fault> {
        let member = match self {
            Self::Native => "organization",
            Self::CloudEvents => "subject",
        };
        let fault = |code, said: &str| Err(Fault::new(code, format!("{member}: {said}")));
        match (naming, given) {
            // A credential of one organization decides it; the subject is ignored.
            (Naming::Credential, _) if self == Self::CloudEvents => Ok(None),
            (Naming::Credential | Naming::Request, None) => Ok(None),
            (Naming::Credential, Some(_)) => fault(
                "organization_not_selectable",
                "this credential cannot choose an organization; leave it out",
            ),
            (Naming::Request, Some(_)) => fault(
                "organization_not_selectable",
                "X-Organization names the organization of all events; leave one of them out",
            ),
            (Naming::Event, None) => fault(
                "organization_missing",
                "name the event's organization, by its external id or id, or that of all events \
                 as X-Organization",
            ),
            (Naming::Event, Some(name)) => {
                let name: Option<String> = serde_json::from_str(name.get()).ok();
                match name.filter(|name| is_external_id(name)) {
                    Some(name) => Ok(Some(name.into())),
                    None => fault("organization_invalid", EXPECTED),
                }
            }
        }
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
            organization: self.subject,
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
pub fn ledger_id(source: &str, id: &str) -> String {
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
    let shown = problem::shown(metric);
    let known = listed(catalogue.metrics().keys());
    let detail = format!("unknown metric {shown}; expected one of {known}");
    Err(Fault::new("unknown_metric", detail))
}

/// A batch may be answered with a thousand of these.
fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut listed = String::new();
    let mut names = names.peekable();
    while let Some(name) = names.next_if(|name| listed.len() + name.len() <= MAX_LISTED_BYTES) {
        if !listed.is_empty() {
            listed.push_str(", ");
        }
        listed.push_str(name);
    }
    match names.count() {
        0 => {}
        more => listed.push_str(&format!(" and {more} more")),
    }
    listed
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
mod tests;
