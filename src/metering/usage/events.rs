//! `POST /api/billing/usage/events`: what has happened, one by one and in
//! batches.

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

use super::input::{Fault, Read, Shape};
use super::offload::LARGE_BYTES;
use super::response;
use super::routes::{Usage, refused};
use crate::audit::Actor;
use crate::catalogue::Catalogue;
use crate::metering::ledger::{Item, NewEvent};
use crate::server::extract::RawBody;
use crate::server::layers::media;
use crate::server::layers::rate_limit::Meter;
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::auth::Principal;

/// Events of a batch at most.
const LARGEST_BATCH: usize = 1_000;
const CLOUD_EVENT: &str = "application/cloudevents+json";
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// A use that has happened.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UsageEvent {
    /// Unique in the organization: sent again, it counts once.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    #[schema(example = "api_calls")]
    metric: String,
    /// Not negative; at most 20 digits, 4 of them after the point. May be a
    /// string. For a metric that takes the last value, the new level.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: (),
    /// When; absent: now. At most five minutes ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: (),
    /// The sender's own; at most 8 KiB.
    #[schema(value_type = Option<Object>)]
    metadata: (),
}

/// A batch. An array of the events is one as well.
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

/// A use as a CloudEvent 1.0; extensions are the sender's own. Id and source
/// together are unique in the organization.
#[derive(Serialize, ToSchema)]
struct UsageCloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    #[schema(example = "/products/agents")]
    source: String,
    /// The metric, where `data` names none.
    #[schema(example = "api_calls")]
    r#type: String,
    /// When; absent: now. At most five minutes ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    time: (),
    #[schema(example = "application/json")]
    datacontenttype: Option<String>,
    data: Option<UsageCloudEventData>,
    /// `data` in Base64, instead of it.
    data_base64: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct UsageCloudEventData {
    metric: Option<String>,
    /// As in an event that is no CloudEvent.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: (),
    #[schema(value_type = Option<Object>)]
    metadata: (),
}

/// What became of one event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventResult {
    /// Null: it could not be read.
    #[schema(required)]
    id: Option<String>,
    /// `recorded`, `duplicate` or `rejected`.
    #[schema(example = "recorded")]
    status: &'static str,
    /// Why it was rejected.
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
            Item::Refused(refusal) => {
                let fault = Fault::new(response::refusal_code(refusal), refusal.to_string());
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

/// What became of a batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchResult {
    recorded: usize,
    duplicates: usize,
    rejected: usize,
    /// One for each event, in their order.
    results: Vec<EventResult>,
}

/// What became of the event, or of the batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes both responses")]
enum UsageResult {
    One(EventResult),
    Batch(BatchResult),
}

/// Count uses that have happened
///
/// One event, or a batch of up to 1,000: an array, or `{"events": […]}`. Also CloudEvents 1.0,
/// structured (`application/cloudevents+json`) and batched (`application/cloudevents-batch+json`),
/// whose `data` has `metric`, `quantity` and `metadata`. Answered once what was counted is durable.
/// A faulty event of a batch does not keep the others from being counted.
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
        (status = 200, description = "What became of the event, or of each of the batch.",
         body = UsageResult),
        (status = 409, description = "The id came before, with another content."),
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
    let (shape, batched) = shape_of(&headers);
    let (organization_id, bytes) = (caller.organization_id, body.len());
    let reader = Reader {
        shape,
        catalogue: usage.catalogue.clone(),
        by_user: is_user(&caller),
    };
    // The body is not kept while its events wait.
    let read = move || Sent::read(&body, batched, &reader);
    let sent = if bytes > LARGE_BYTES {
        usage.offload.run(organization_id, read).await??
    } else {
        read()?
    };
    if let Some(Extension(meter)) = meter {
        meter.charge(sent.events(), bytes)?;
    }
    match sent {
        Sent::One(read) => record_one(&usage, organization_id, read).await,
        Sent::Batch(batch) if bytes > LARGE_BYTES => {
            let (offload, results) = (usage.offload.clone(), batch.record(&usage, organization_id));
            let results = results.await?;
            let write = move || results.into_response();
            offload.run(organization_id, write).await
        }
        Sent::Batch(batch) => {
            let results = batch.record(&usage, organization_id).await?;
            Ok(results.into_response())
        }
    }
}

/// How events are read, and of whom.
struct Reader {
    shape: Shape,
    catalogue: Arc<Catalogue>,
    by_user: bool,
}

impl Reader {
    fn read(&self, json: &str) -> Result<Read, (Option<String>, Fault)> {
        let read = self.shape.read(json, &self.catalogue)?;
        match may_tell(&self.catalogue, &read.event.metric, self.by_user) {
            Ok(()) => Ok(read),
            Err(fault) => Err((Some(read.id), fault)),
        }
    }
}

/// Whether it is a person who calls, and no program of the product's.
pub(super) fn is_user(caller: &Principal) -> bool {
    matches!(caller.actor, Actor::User(_))
}

/// Refuses what only API keys may tell of, if a user does.
pub(super) fn may_tell(catalogue: &Catalogue, metric: &str, by_user: bool) -> Result<(), Fault> {
    let only_keys = catalogue
        .metric(metric)
        .is_some_and(|metric| metric.by_keys_only);
    if by_user && only_keys {
        let detail = format!("metric: only an API key may tell of {metric} (told_by)");
        return Err(Fault::new("metric_by_keys_only", detail));
    }
    Ok(())
}

/// What a body holds.
enum Sent {
    One(Read),
    Batch(Batch),
}

/// A batch, of which some events may have been refused already.
struct Batch {
    /// One for each event; None: it is among the readable ones.
    results: Vec<Option<EventResult>>,
    /// As the sender knows them.
    ids: Vec<String>,
    readable: Vec<NewEvent>,
}

impl Sent {
    fn read(body: &[u8], batched: bool, reader: &Reader) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body)
            .map_err(|_| refused("invalid_json", "the body is not UTF-8"))?;
        if let Some(events) = events_of(text, reader.shape, batched)? {
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
            readable: Vec::with_capacity(events.len()),
        };
        for event in events {
            match reader.read(event.get()) {
                Ok(Read { id, event }) => {
                    batch.ids.push(id);
                    batch.readable.push(event);
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

    /// Counts it, and says what became of each event.
    async fn record(self, usage: &Usage, organization_id: Uuid) -> Result<Recorded, Problem> {
        let unreadable = self.results.iter().flatten().count();
        let items = if self.readable.is_empty() {
            Vec::new()
        } else {
            let recorded = usage.ledger.record(organization_id, self.readable);
            recorded.await?
        };
        metrics::usage_events("rejected", unreadable as u64);
        count(&items);
        Ok(Recorded {
            results: self.results,
            ids: self.ids,
            items,
        })
    }
}

/// What became of a batch, not written yet.
struct Recorded {
    results: Vec<Option<EventResult>>,
    ids: Vec<String>,
    items: Vec<Item>,
}

impl IntoResponse for Recorded {
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

/// How events are written, and whether the type says that they are several. It
/// is one that the route's description has.
fn shape_of(headers: &HeaderMap) -> (Shape, bool) {
    match media::essence(headers).as_str() {
        CLOUD_EVENT => (Shape::CloudEvents, false),
        CLOUD_EVENTS => (Shape::CloudEvents, true),
        _ => (Shape::Own, false),
    }
}

/// The events of a batch; None: it is one event.
fn events_of(text: &str, shape: Shape, batched: bool) -> Result<Option<Vec<&RawValue>>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let invalid = |error: serde_json::Error| refused("invalid_json", error.to_string());
    let whole: &RawValue = serde_json::from_str(text).map_err(invalid)?;
    let first = whole.get().as_bytes().first().copied();
    let events = match first {
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text).map_err(invalid)?,
        Some(b'{') if batched => {
            return Err(refused("invalid_batch", "a batch is an array of events"));
        }
        Some(b'{') if shape == Shape::Own && has_events(text) => {
            let said = |error: serde_json::Error| {
                let detail = format!("a batch is {{\"events\": […]}}, and nothing else: {error}");
                let code = if error.to_string().contains("unknown field") {
                    "unknown_field"
                } else {
                    "invalid_batch"
                };
                refused(code, detail)
            };
            let batch: Batch<'_> = serde_json::from_str(text).map_err(said)?;
            batch.events
        }
        Some(b'{') => return Ok(None),
        _ => return Err(refused("invalid_event", "an event is a JSON object")),
    };
    match events.len() {
        0 => Err(refused("empty_batch", "the batch has no events")),
        1..=LARGEST_BATCH => Ok(Some(events)),
        count => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "batch_too_large",
            format!("a batch has at most {LARGEST_BATCH} events, this one has {count}; split it"),
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
    Read { id, event }: Read,
) -> Result<Response, Problem> {
    let items = usage.ledger.record(organization_id, vec![event]).await?;
    let item = items.first().copied().ok_or_else(Problem::internal)?;
    count(&items);
    match item {
        Item::Refused(refusal) => Err(refusal.into()),
        item => Ok(axum::Json(EventResult::of(id, item)).into_response()),
    }
}

fn count(items: &[Item]) {
    let mut results = BTreeMap::<&'static str, u64>::new();
    for item in items {
        let result = match item {
            Item::Recorded => "recorded",
            Item::Duplicate => "duplicate",
            Item::Refused(refusal) => response::refusal_code(*refusal),
        };
        *results.entry(result).or_default() += 1;
    }
    for (result, count) in results {
        metrics::usage_events(result, count);
    }
}
