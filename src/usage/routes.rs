//! `POST /api/billing/usage/events` and `/usage/check`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{OpenApi, ToSchema};
use uuid::Uuid;

use super::body::{self, Fault, Read, Shape};
use super::{Item, Ledger, LedgerError, NewEvent, answer};
use crate::auth::Principal;
use crate::error::Problem;
use crate::http::extract::{Json, RawBody};
use crate::metrics;
use crate::plans::Catalogue;

/// Events of a batch at most.
const LARGEST_BATCH: usize = 1_000;
const CLOUD_EVENT: &str = "application/cloudevents+json";
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

#[derive(OpenApi)]
#[openapi(paths(record, check), components(schemas(UsageEvent)))]
pub struct Api;

/// What the routes need.
#[derive(Clone)]
pub struct Usage {
    pub ledger: Ledger,
    pub catalogue: Arc<Catalogue>,
}

pub fn router(usage: Usage) -> Router {
    Router::new()
        .route("/api/billing/usage/events", post(record))
        .route("/api/billing/usage/check", post(check))
        .with_state(usage)
}

/// A use that has happened.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it describes what `body` reads")]
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
                let fault = Fault::new(answer::refusal_code(refusal), refusal.to_string());
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

/// Count uses that have happened
///
/// One event, or a batch of up to 1,000: an array, or `{"events": […]}`. Also CloudEvents 1.0,
/// structured (`application/cloudevents+json`) and batched (`application/cloudevents-batch+json`),
/// whose `data` has `metric`, `quantity` and `metadata`. Answered once what was counted is durable.
/// A faulty event of a batch does not keep the others from being counted.
#[utoipa::path(
    post,
    path = "/api/billing/usage/events",
    operation_id = "record_usage",
    tag = "Usage",
    request_body(content = UsageEvent, content_type = "application/json"),
    responses(
        (status = 200, description = "What became of the event, or of each of the batch.",
         body = EventResult),
        (status = 409, description = "The id came before, with another content."),
        (status = 422, description = "The event lies in a closed billing period, or in the future."),
    ),
)]
async fn record(
    State(usage): State<Usage>,
    caller: Principal,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let (shape, batched) = shape_of(&headers)?;
    let text =
        std::str::from_utf8(&body).map_err(|_| refused("invalid_json", "the body is not UTF-8"))?;
    match events_of(text, shape, batched)? {
        Some(events) => record_batch(&usage, caller.organization_id, shape, &events).await,
        None => record_one(&usage, caller.organization_id, shape, text).await,
    }
}

fn refused(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
}

/// How events are written, and whether the type says that they are several.
fn shape_of(headers: &HeaderMap) -> Result<(Shape, bool), Problem> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/json" => Ok((Shape::Own, false)),
        CLOUD_EVENT => Ok((Shape::CloudEvents, false)),
        CLOUD_EVENTS => Ok((Shape::CloudEvents, true)),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("send application/json, {CLOUD_EVENT} or {CLOUD_EVENTS}"),
        )),
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
    shape: Shape,
    text: &str,
) -> Result<Response, Problem> {
    let Read { id, event } = shape.read(text, &usage.catalogue).map_err(|(_, fault)| {
        metrics::usage_events("rejected", 1);
        refused(fault.code, fault.detail)
    })?;
    let items = usage.ledger.record(organization_id, vec![event]).await?;
    let item = items.first().copied().ok_or_else(Problem::internal)?;
    count(&items);
    match item {
        Item::Refused(refusal) => Err(refusal.into()),
        item => Ok(axum::Json(EventResult::of(id, item)).into_response()),
    }
}

async fn record_batch(
    usage: &Usage,
    organization_id: Uuid,
    shape: Shape,
    events: &[&RawValue],
) -> Result<Response, Problem> {
    let mut results: Vec<Option<EventResult>> = Vec::with_capacity(events.len());
    let mut readable = Vec::with_capacity(events.len());
    let mut ids = Vec::with_capacity(events.len());
    for event in events {
        match shape.read(event.get(), &usage.catalogue) {
            Ok(Read { id, event }) => {
                ids.push(id);
                readable.push(event);
                results.push(None);
            }
            Err((id, fault)) => results.push(Some(EventResult::rejected(id, fault))),
        }
    }
    let unreadable = results.iter().flatten().count();
    metrics::usage_events("rejected", unreadable as u64);
    let items = if readable.is_empty() {
        Vec::new()
    } else {
        usage.ledger.record(organization_id, readable).await?
    };
    count(&items);
    let mut decided = ids.into_iter().zip(&items);
    let results: Vec<EventResult> = results
        .into_iter()
        .filter_map(|result| {
            result.or_else(|| decided.next().map(|(id, item)| EventResult::of(id, *item)))
        })
        .collect();
    let with = |status| results.iter().filter(|r| r.status == status).count();
    Ok(axum::Json(BatchResult {
        recorded: with("recorded"),
        duplicates: with("duplicate"),
        rejected: with("rejected"),
        results,
    })
    .into_response())
}

fn count(items: &[Item]) {
    let mut results = BTreeMap::<&'static str, u64>::new();
    for item in items {
        let result = match item {
            Item::Recorded => "recorded",
            Item::Duplicate => "duplicate",
            Item::Refused(refusal) => answer::refusal_code(*refusal),
        };
        *results.entry(result).or_default() += 1;
    }
    for (result, count) in results {
        metrics::usage_events(result, count);
    }
}

/// What is asked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    #[schema(example = "agent_executions")]
    metric: String,
    /// Not negative; at most 20 digits, 4 of them after the point. May be a
    /// string. For a metric that takes the last value, the new level.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: Box<RawValue>,
    /// Whether it is counted if it is allowed.
    #[serde(default)]
    consume: bool,
    /// Makes it safe to ask again: with one id it is counted once.
    #[schema(min_length = 1, max_length = 255)]
    id: Option<String>,
}

/// Decide whether a use is allowed, and count it
///
/// Without `consume` it is a question, and nothing changes. A use that is not allowed is 402, with
/// the same members.
#[utoipa::path(
    post,
    path = "/api/billing/usage/check",
    operation_id = "check_usage",
    tag = "Usage",
    request_body = CheckBody,
    responses(
        (status = 200, description = "It is allowed, and counted if it was to be.",
         body = answer::Checked),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`."),
        (status = 409, description = "The id came before, with another content."),
        (status = 422, description = "The total would be too large."),
    ),
)]
async fn check(
    State(usage): State<Usage>,
    caller: Principal,
    Json(body): Json<CheckBody>,
) -> Result<Response, Problem> {
    let refuse = |fault: Fault| refused(fault.code, fault.detail);
    usage.check_names(&body.metric, body.id.as_deref())?;
    let quantity = body::read_quantity(&body.quantity).map_err(refuse)?;
    let named = body.id.is_some();
    let event = NewEvent {
        id: body.id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        metric: body.metric.clone(),
        quantity,
        occurred_at: None,
        metadata: None,
    };
    let metric = body.metric;
    usage
        .decide(caller.organization_id, &metric, event, body.consume, named)
        .await
}

impl Usage {
    /// Refuses a metric that is none, and an id that cannot be one.
    pub fn check_names(&self, metric: &str, id: Option<&str>) -> Result<(), Problem> {
        let refuse = |fault: Fault| refused(fault.code, fault.detail);
        body::check_metric(&self.catalogue, metric).map_err(refuse)?;
        id.map_or(Ok(()), |id| body::check_id(id).map_err(refuse))
    }

    /// Decides, answers and counts the decision.
    pub async fn decide(
        &self,
        organization_id: Uuid,
        metric: &str,
        event: NewEvent,
        consume: bool,
        named: bool,
    ) -> Result<Response, Problem> {
        let started = Instant::now();
        let decided = self
            .ledger
            .check(organization_id, event, consume, named)
            .await;
        match decided {
            Ok(standing) => {
                let outcome = answer::outcome(standing.decision);
                metrics::decision(outcome, metric, started.elapsed());
                answer::log_denial(organization_id, metric, &standing);
                Ok(answer::checked(metric, &standing))
            }
            Err(error) => {
                let open = self.catalogue.metric(metric).is_some_and(|m| m.fail_open);
                self.undecided(metric, &error, open, started)?;
                let mut response = axum::Json(answer::FailedOpen::of(metric)).into_response();
                response.headers_mut().extend(answer::failed_open(metric));
                Ok(response)
            }
        }
    }

    /// What a use comes to that could not be decided about: refused, unless
    /// it is configured to fail open.
    pub fn undecided(
        &self,
        metric: &str,
        error: &LedgerError,
        open: bool,
        started: Instant,
    ) -> Result<(), Problem> {
        let outage = !matches!(error, LedgerError::Refused(_));
        let outcome = if outage && open {
            "failed_open"
        } else {
            "undecided"
        };
        metrics::decision(outcome, metric, started.elapsed());
        if outage && open {
            tracing::warn!(metric, %error, "a use was allowed without a decision (fail_open)");
            return Ok(());
        }
        Err(error.clone().into())
    }
}
