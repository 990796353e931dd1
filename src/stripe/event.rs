//! Stripe's events: the envelope, which intake needs to store an event, and the
//! data, which the projection needs to apply it.

use std::borrow::Cow;
use std::fmt;

use billing_domain::event_order::{Attributes, Digest};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::telemetry::trace_context::TraceParent;

/// Stripe's ids have at most 255 characters.
pub const MAX_ID_BYTES: usize = 255;
/// serde_json's own limit while it builds values.
const MAX_DEPTH: usize = 100;

/// The envelope of an event, as intake stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub id: String,
    pub event_type: String,
    pub api_version: Option<String>,
    pub livemode: bool,
    /// The account or context that it names, if any.
    pub account: Option<String>,
    /// Whether it is a thin event, which names its object without its content.
    pub thin: bool,
    /// The organization named in its object's metadata.
    pub organization_id: Option<Uuid>,
    /// Unix seconds.
    pub created: i64,
    /// The trace of its delivery, from the request's headers.
    pub trace: Option<TraceParent>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the body is not a Stripe event: {0}")]
    NotAnEvent(String),
    #[error("the event has no usable `{0}`")]
    Field(&'static str),
}

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    object: Option<Cow<'a, str>>,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    livemode: Option<bool>,
    #[serde(borrow, default)]
    account: Option<&'a RawValue>,
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
    // An RFC 3339 text in thin events.
    #[serde(borrow, default)]
    created: Option<&'a RawValue>,
    #[serde(default)]
    data: Option<RawData>,
}

#[derive(Deserialize)]
struct RawData {
    #[serde(default)]
    object: Option<AnyObject>,
}

/// A JSON object of which only the organization in its metadata is read.
struct AnyObject {
    organization_id: Option<Uuid>,
}

/// Whether a member's name is `metadata`.
struct IsMetadata(bool);

impl<'de> Deserialize<'de> for IsMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = IsMetadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<IsMetadata, E> {
                Ok(IsMetadata(name == "metadata"))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = AnyObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyObject, A::Error> {
                let mut organization_id = None;
                while let Some(IsMetadata(is_metadata)) = map.next_key()? {
                    if is_metadata {
                        organization_id = organization_named(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(AnyObject { organization_id })
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

impl Envelope {
    /// Reads the envelope of `body`. A thin event has no `created` in seconds;
    /// `now` (Unix seconds) replaces it.
    pub fn read(body: &[u8], now: i64) -> Result<Self, PayloadError> {
        let text = std::str::from_utf8(body).map_err(|_| PayloadError::NotUtf8)?;
        if depth_exceeds(text.as_bytes(), MAX_DEPTH) {
            return Err(PayloadError::TooDeep);
        }
        let raw: RawEnvelope<'_> = serde_json::from_str(text)
            .map_err(|error| PayloadError::NotAnEvent(error.to_string()))?;
        let thin = raw.object.as_deref() == Some(THIN);
        let object = raw.data.and_then(|data| data.object);
        if !thin && object.is_none() {
            return Err(PayloadError::Field("data.object"));
        }
        let created = match raw.created.map(|created| created.get().parse::<i64>()) {
            Some(Ok(created)) if (0..=MAX_UNIX_SECONDS).contains(&created) => created,
            Some(_) if !thin => return Err(PayloadError::Field("created")),
            _ => now,
        };
        Ok(Self {
            id: name(&raw.id, "id")?,
            event_type: name(&raw.event_type, "type")?,
            api_version: raw.api_version.filter(|v| is_name(v)),
            livemode: raw.livemode.unwrap_or(false),
            account: account_named(raw.account, raw.context),
            thin,
            organization_id: object.and_then(|object| object.organization_id),
            created,
            trace: None,
        })
    }
}

/// The metadata keys that name an object's organization.
pub const ORGANIZATION_KEYS: [&str; 2] = ["organization_id", "tenant_id"];

/// The organization named in an object's `metadata`: all that is known about its
/// owner before it is processed.
fn organization_named(metadata: &RawValue) -> Option<Uuid> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, default)]
        organization_id: Option<&'a RawValue>,
        #[serde(borrow, default)]
        tenant_id: Option<&'a RawValue>,
    }
    let named: Named<'_> = serde_json::from_str(metadata.get()).ok()?;
    let text = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
    [named.organization_id, named.tenant_id]
        .into_iter()
        .flatten()
        .find_map(|value| text(value)?.parse().ok())
}

/// Stands for an account that is named but cannot be read.
const UNREADABLE: &str = "unreadable";

/// The account that an event names in any of its fields. If two fields differ,
/// both are kept, which matches no account.
fn account_named(account: Option<&RawValue>, context: Option<&RawValue>) -> Option<String> {
    let read = |value: &RawValue| {
        let text: Option<String> = serde_json::from_str(value.get()).ok();
        text.filter(|text| is_name(text))
            .unwrap_or_else(|| UNREADABLE.to_owned())
    };
    match (account.map(read), context.map(read)) {
        (Some(account), Some(context)) if context.rsplit('/').next() != Some(&account) => {
            Some(format!("{account} {context}"))
        }
        (account, context) => account.or(context),
    }
}

/// Whether `payload` is of a thin event.
pub fn is_thin(payload: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        object: Cow<'a, str>,
    }
    serde_json::from_str::<Kind<'_>>(payload).is_ok_and(|kind| kind.object == THIN)
}

/// Whether events of this type exist as thin events only.
pub fn has_no_snapshot(event_type: &str) -> bool {
    event_type.starts_with("v1.billing.meter.")
}

/// The `object` field of a thin event.
const THIN: &str = "v2.core.event";

/// The last second that a `Timestamp` can hold, at the end of the year 9999.
const MAX_UNIX_SECONDS: i64 = 253_402_207_200;

fn name(value: &str, field: &'static str) -> Result<String, PayloadError> {
    if is_name(value) {
        Ok(value.to_owned())
    } else {
        Err(PayloadError::Field(field))
    }
}

fn is_name(value: &str) -> bool {
    !value.is_empty() && value.len() <= MAX_ID_BYTES && !value.contains('\0')
}

/// Whether the brackets of `json` outside of strings nest deeper than `limit`.
fn depth_exceeds(json: &[u8], limit: usize) -> bool {
    // Most events have fewer brackets in total, which is much faster to count.
    let opening = json.iter().filter(|byte| matches!(byte, b'{' | b'['));
    if opening.count() <= limit {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The data of an event, as the projection reads it.
#[derive(Debug, Clone)]
pub struct EventData {
    pub object: Value,
    pub previous_attributes: Option<Map<String, Value>>,
    /// The idempotency key of the request that caused it, if any.
    pub caused_by: Option<String>,
    /// Where this is what was kept of a removed payload: how the whole of it compares.
    pub digests: Option<Digests>,
}

/// How an event compares with others, without what it showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Digests {
    pub object: Digest,
    pub previous_attributes: Option<Attributes>,
}

/// Why and where a stored payload cannot be read, such as at a number that no
/// type of ours can hold.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct DataError {
    path: String,
    problem: String,
}

impl EventData {
    /// Reads `data` of a stored payload.
    pub fn read(payload: &str) -> Result<Self, DataError> {
        #[derive(Deserialize)]
        struct Event {
            data: Data,
            // Versions before 2017-05-25 have the request's id here.
            #[serde(default)]
            request: Value,
            #[serde(default, rename = "valuecanvas_digests")]
            digests: Option<Digests>,
        }
        #[derive(Deserialize)]
        struct Data {
            object: Value,
            #[serde(default)]
            previous_attributes: Option<Map<String, Value>>,
        }
        let json = replace_unstorable(payload);
        // Tracking the path is slow, so only an unreadable payload is read that
        // way.
        let event: Event = serde_json::from_str(&json)
            .or_else(|_| {
                let reader = &mut serde_json::Deserializer::from_str(&json);
                serde_path_to_error::deserialize(reader)
            })
            .map_err(|error| DataError {
                path: error.path().to_string(),
                problem: error.inner().to_string(),
            })?;
        Ok(Self {
            object: event.data.object,
            previous_attributes: event.data.previous_attributes,
            caused_by: event.request["idempotency_key"].as_str().map(str::to_owned),
            digests: event.digests,
        })
    }

    /// The event as a tie breaker compares it.
    pub fn digests(&self) -> Digests {
        self.digests.clone().unwrap_or_else(|| Digests {
            object: Digest::of(&self.object),
            previous_attributes: self.previous_attributes.as_ref().map(Digest::of_attributes),
        })
    }
}

/// Replaces with U+FFFD the escapes that JSON allows but text columns cannot
/// hold: NUL and lone surrogates. The stored payload keeps them.
fn replace_unstorable(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return Cow::Borrowed(json);
    }
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let taken = match unicode_escape(escape) {
            Some(0) => 0,
            Some(high @ 0xD800..=0xDBFF) => {
                let low = escape.get(6..).and_then(unicode_escape);
                if high < 0xDC00 && matches!(low, Some(0xDC00..=0xDFFF)) {
                    12
                } else {
                    0
                }
            }
            Some(0xDC00..=0xDFFF) => 0,
            Some(_) => 6,
            // A short escape, such as \" or \\.
            None => 2.min(escape.len()),
        };
        if taken == 0 {
            mended.push_str("\\ufffd");
            rest = &escape[6..];
        } else {
            mended.push_str(&escape[..taken]);
            rest = &escape[taken..];
        }
    }
    mended.push_str(rest);
    Cow::Owned(mended)
}

fn unicode_escape(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests;
