//! `POST /api/billing/usage/events`: records usage, one event or a batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::input::{EventFormat, Fault, ParsedEvent};
use super::offload::LARGE_BYTES;
use super::response;
use super::routes::{Usage, bad_request};
use crate::audit::Actor;
use crate::catalogue::Catalogue;
use crate::metering::ledger::{Item, NewEvent};
use crate::server::extract::RawBody;
use crate::server::layers::media;
use crate::server::layers::rate_limit::Meter;
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::auth::Principal;

const MAX_BATCH: usize = 1_000;
const CLOUD_EVENT: &str = "application/cloudevents+json";
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// A usage event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UsageEvent {
    /// Unique within the organization; a repeated event is counted once.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    #[schema(example = "api_calls")]
    metric: String,
    /// A number or a string, not negative, with at most 20 digits, 4 of them
    /// after the point. For a metric that keeps the last value, the new level.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: (),
    /// Defaults to now; at most five minutes in the future.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: (),
    /// Any JSON object of up to 8 KiB, stored as is.
    #[schema(value_type = Option<Object>)]
    metadata: (),
}

/// A batch; a plain array of events works as well.
#[derive(Serialize, ToSchema)]
struct UsageBatch {
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<UsageEvent>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `input` reads")]
enum UsageBody {
    One(UsageEvent),
    Batch(UsageBatch),
}

/// Usage as a CloudEvent 1.0; extension attributes are ignored. Source and id
/// together are unique within the organization.
#[derive(Serialize, ToSchema)]
struct UsageCloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    #[schema(example = "/products/agents")]
    source: String,
    /// The metric, unless `data` names one.
    #[schema(example = "api_calls")]
    r#type: String,
    /// When; absent: now. At most five minutes ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    time: (),
    #[schema(example = "application/json")]
    datacontenttype: Option<String>,
    data: Option<UsageCloudEventData>,
    /// The alternative to `data`: the same in Base64.
    data_base64: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct UsageCloudEventData {
    metric: Option<String>,
    /// As in a native event.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: (),
    #[schema(value_type = Option<Object>)]
    metadata: (),
}

/// The result for one event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventResult {
    /// Null if it could not be parsed.
    #[schema(required)]
    id: Option<String>,
    /// `recorded`, `duplicate` or `rejected`.
    #[schema(example = "recorded")]
    status: &'static str,
    /// Why the event was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl EventResult {
    fn rejected(id: Option<String>, fault: Fault) -> Self {
        Self {
            id,
            status: "rejected",
            code: Some(fault.code),
            detail: Some(fault.detail),
        }
    }

    fn of(id: String, item: Item) -> Self {
        let status = match item {
            Item::Recorded => "recorded",
            Item::Duplicate => "duplicate",
            Item::Rejected(rejection) => {
                let fault = Fault::new(response::rejection_code(rejection), rejection.to_string());
                return Self::rejected(Some(id), fault);
            }
        };
        Self {
            id: Some(id),
            status,
            code: None,
            detail: None,
        }
    }
}

/// The result for a batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchResult {
    recorded: usize,
    duplicates: usize,
    rejected: usize,
    /// One result for each event, in the order of the request.
    results: Vec<EventResult>,
}

/// The result for an event or a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes both responses")]
enum UsageResult {
    One(EventResult),
    Batch(BatchResult),
}

/// Record usage
///
/// One event, or a batch of up to 1,000: an array, or `{"events": […]}`. Also CloudEvents 1.0,
/// structured (`application/cloudevents+json`) and batched (`application/cloudevents-batch+json`),
/// whose `data` has `metric`, `quantity` and `metadata`. The response comes once the usage is
/// durable. An invalid event does not keep the rest of its batch from being counted.
#[utoipa::path(
    post,
    path = "/api/billing/usage/events",
    operation_id = "recordUsage",
    tag = "Usage",
    request_body(content(
        (UsageBody = "application/json"),
        (UsageCloudEvent = "application/cloudevents+json"),
        (Vec<UsageCloudEvent> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "The result for the event, or for each event of a batch.",
         body = UsageResult),
        (status = 409, description = "The id was used before with different content."),
        (status = 422, description = "The event lies in a closed billing period, or in the future."),
    ),
)]
pub(super) async fn record(
    State(usage): State<Usage>,
    caller: Principal,
    meter: Option<Extension<Meter>>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let (format, batched) = format_of(&headers);
    let (organization_id, bytes) = (caller.organization_id, body.len());
    let reader = Reader {
        format,
        catalogue: usage.catalogue.clone(),
        by_user: is_user(&caller),
    };
    // Moving the body frees it before its events wait to be counted.
    let parse = move || ParsedBody::parse(&body, batched, &reader);
    let parsed = if bytes > LARGE_BYTES {
        usage.offload.run(organization_id, parse).await??
    } else {
        parse()?
    };
    if let Some(Extension(meter)) = meter {
        meter.charge(parsed.events(), bytes)?;
    }
    match parsed {
        ParsedBody::One(event) => record_one(&usage, organization_id, event).await,
        ParsedBody::Batch(batch) if bytes > LARGE_BYTES => {
            let (offload, results) = (usage.offload.clone(), batch.record(&usage, organization_id));
            let results = results.await?;
            let write = move || results.into_response();
            offload.run(organization_id, write).await
        }
        ParsedBody::Batch(batch) => {
            let results = batch.record(&usage, organization_id).await?;
            Ok(results.into_response())
        }
    }
}

/// What parsing an event depends on.
struct Reader {
    format: EventFormat,
    catalogue: Arc<Catalogue>,
    by_user: bool,
}

impl Reader {
    fn read(&self, json: &str) -> Result<ParsedEvent, (Option<String>, Fault)> {
        let parsed = self.format.parse(json, &self.catalogue)?;
        match check_reporter(&self.catalogue, &parsed.event.metric, self.by_user) {
            Ok(()) => Ok(parsed),
            Err(fault) => Err((Some(parsed.id), fault)),
        }
    }
}

/// Whether the caller is a person rather than one of the product's programs.
pub(super) fn is_user(caller: &Principal) -> bool {
    matches!(caller.actor, Actor::User(_))
}

/// Rejects usage reported by a user for a metric that only API keys may report.
pub(super) fn check_reporter(
    catalogue: &Catalogue,
    metric: &str,
    by_user: bool,
) -> Result<(), Fault> {
    let only_keys = catalogue
        .metric(metric)
        .is_some_and(|metric| metric.by_keys_only);
    if by_user && only_keys {
        let detail = format!("metric: only an API key may report {metric} (told_by)");
        return Err(Fault::new("metric_by_keys_only", detail));
    }
    Ok(())
}

/// A parsed body.
enum ParsedBody {
    One(ParsedEvent),
    Batch(Batch),
}

/// A parsed batch; some events may have been rejected already.
struct Batch {
    /// One for each event; `None` for a valid event, which is in `valid`.
    results: Vec<Option<EventResult>>,
    /// The sender's ids of the valid events.
    ids: Vec<String>,
    valid: Vec<NewEvent>,
}

impl ParsedBody {
    fn parse(body: &[u8], batched: bool, reader: &Reader) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body)
            .map_err(|_| bad_request("invalid_json", "the body is not UTF-8"))?;
        if let Some(events) = events_of(text, reader.format, batched)? {
            return Ok(Self::Batch(Batch::read(&events, reader)));
        }
        reader.read(text).map(Self::One).map_err(|(_, fault)| {
            metrics::usage_events("rejected", 1);
            fault.into()
        })
    }

    fn events(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Batch(batch) => batch.results.len(),
        }
    }
}

impl Batch {
    fn read(events: &[&RawValue], reader: &Reader) -> Self {
        let mut batch = Self {
            results: Vec::with_capacity(events.len()),
            ids: Vec::with_capacity(events.len()),
            valid: Vec::with_capacity(events.len()),
        };
        for event in events {
            match reader.read(event.get()) {
                Ok(ParsedEvent { id, event }) => {
                    batch.ids.push(id);
                    batch.valid.push(event);
                    batch.results.push(None);
                }
                Err((id, fault)) => {
                    let rejected = EventResult::rejected(id, fault);
                    batch.results.push(Some(rejected));
                }
            }
        }
        batch
    }

    /// Counts the valid events.
    async fn record(self, usage: &Usage, organization_id: Uuid) -> Result<RecordedBatch, Problem> {
        let invalid = self.results.iter().flatten().count();
        let items = if self.valid.is_empty() {
            Vec::new()
        } else {
            let recorded = usage.ledger.record(organization_id, self.valid);
            recorded.await?
        };
        metrics::usage_events("rejected", invalid as u64);
        count(&items);
        Ok(RecordedBatch {
            results: self.results,
            ids: self.ids,
            items,
        })
    }
}

/// The result for a batch, not serialized yet.
struct RecordedBatch {
    results: Vec<Option<EventResult>>,
    ids: Vec<String>,
    items: Vec<Item>,
}

impl IntoResponse for RecordedBatch {
    fn into_response(self) -> Response {
        let mut decided = self.ids.into_iter().zip(self.items);
        let results = self.results.into_iter();
        let results: Vec<EventResult> = results
            .filter_map(|result| {
                result.or_else(|| decided.next().map(|(id, item)| EventResult::of(id, item)))
            })
            .collect();
        let with = |status| results.iter().filter(|r| r.status == status).count();
        axum::Json(BatchResult {
            recorded: with("recorded"),
            duplicates: with("duplicate"),
            rejected: with("rejected"),
            results,
        })
        .into_response()
    }
}

/// The format by content type, and whether the type demands a batch. The route's
/// table admits no other type.
fn format_of(headers: &HeaderMap) -> (EventFormat, bool) {
    match media::essence(headers).as_str() {
        CLOUD_EVENT => (EventFormat::CloudEvents, false),
        CLOUD_EVENTS => (EventFormat::CloudEvents, true),
        _ => (EventFormat::Native, false),
    }
}

/// Splits a batch into its events; `None` for a single event.
fn events_of(
    text: &str,
    format: EventFormat,
    batched: bool,
) -> Result<Option<Vec<&RawValue>>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let invalid = |error: serde_json::Error| bad_request("invalid_json", error.to_string());
    let whole: &RawValue = serde_json::from_str(text).map_err(invalid)?;
    let first = whole.get().as_bytes().first().copied();
    let events = match first {
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text).map_err(invalid)?,
        Some(b'{') if batched => {
            return Err(bad_request(
                "invalid_batch",
                "a batch is an array of events",
            ));
        }
        Some(b'{') if format == EventFormat::Native && has_events(text) => {
            let invalid_batch = |error: serde_json::Error| {
                let detail = format!("a batch is {{\"events\": […]}} and nothing else: {error}");
                let code = if error.to_string().contains("unknown field") {
                    "unknown_field"
                } else {
                    "invalid_batch"
                };
                bad_request(code, detail)
            };
            let batch: Batch<'_> = serde_json::from_str(text).map_err(invalid_batch)?;
            batch.events
        }
        Some(b'{') => return Ok(None),
        _ => return Err(bad_request("invalid_event", "an event is a JSON object")),
    };
    match events.len() {
        0 => Err(bad_request("empty_batch", "the batch has no events")),
        1..=MAX_BATCH => Ok(Some(events)),
        count => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "batch_too_large",
            format!("a batch has at most {MAX_BATCH} events; this one has {count}: split it"),
        )),
    }
}

fn has_events(text: &str) -> bool {
    serde_json::from_str::<BTreeMap<String, &RawValue>>(text)
        .is_ok_and(|members| members.contains_key("events"))
}

async fn record_one(
    usage: &Usage,
    organization_id: Uuid,
    ParsedEvent { id, event }: ParsedEvent,
) -> Result<Response, Problem> {
    let items = usage.ledger.record(organization_id, vec![event]).await?;
    let item = items.first().copied().ok_or_else(Problem::internal)?;
    count(&items);
    match item {
        Item::Rejected(rejection) => Err(rejection.into()),
        item => Ok(axum::Json(EventResult::of(id, item)).into_response()),
    }
}

fn count(items: &[Item]) {
    let mut results = BTreeMap::<&'static str, u64>::new();
    for item in items {
        let result = match item {
            Item::Recorded => "recorded",
            Item::Duplicate => "duplicate",
            Item::Rejected(rejection) => response::rejection_code(*rejection),
        };
        *results.entry(result).or_default() += 1;
    }
    for (result, count) in results {
        metrics::usage_events(result, count);
    }
}
