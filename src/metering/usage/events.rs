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

use super::input::{EventFormat, Fault, Naming, ParsedEvent};
use super::offload::LARGE_BYTES;
use super::response;
use super::routes::{Usage, bad_request};
use super::schemas::{UsageBody, UsageCloudEvent};
use super::{binary, each};
use crate::audit::Actor;
use crate::catalogue::Catalogue;
use crate::metering::ledger::{Item, NewEvent};
use crate::server::extract::RawBody;
use crate::server::layers::media;
use crate::server::layers::rate_limit::Meter;
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::auth::{Principal, Reporter};

const MAX_BATCH: usize = 1_000;
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EventStatus {
    Recorded,
    Duplicate,
    Rejected,
}

/// The result for one event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventResult {
    /// Null if it could not be parsed.
    #[schema(required)]
    id: Option<String>,
    #[schema(inline, example = "recorded")]
    status: EventStatus,
    /// Why the event was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Present if the event may be counted when it is sent again, with the same id and
    /// without the same `Idempotency-Key`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    retryable: bool,
}

impl EventResult {
    fn rejected(id: Option<String>, fault: Fault) -> Self {
        Self {
            id,
            status: EventStatus::Rejected,
            code: Some(fault.code),
            detail: Some(fault.detail),
            retryable: false,
        }
    }

    fn of(id: String, outcome: Outcome) -> Self {
        let item = match outcome {
            Outcome::Item(item) => item,
            Outcome::Refused { fault, retryable } => {
                return Self {
                    retryable,
                    ..Self::rejected(Some(id), fault)
                };
            }
        };
        let status = match item {
            Item::Recorded => EventStatus::Recorded,
            Item::Duplicate => EventStatus::Duplicate,
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
            retryable: false,
        }
    }
}

/// What came of an event.
pub(super) enum Outcome {
    /// Its organization's ledger decided.
    Item(Item),
    /// Its organization takes none, or not now.
    Refused { fault: Fault, retryable: bool },
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
/// structured (`application/cloudevents+json`), batched (`application/cloudevents-batch+json`) and
/// in binary mode (`ce-specversion`, `ce-id`, `ce-source`, `ce-type` and others as headers), whose `data` has `metric`, `quantity` and `metadata`. The response comes once the usage is
/// durable. An invalid event does not keep the rest of its batch from being counted. A service key
/// sends `X-Organization`, or names the organization in each event (`organization`, or `subject` of
/// a CloudEvent): each is then counted on its own, and no organization holds up another.
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
    reporter: Reporter,
    meter: Option<Extension<Meter>>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let (mut format, batched) = format_of(&headers);
    let structured = format == EventFormat::CloudEvents;
    if binary::is_binary(&headers) {
        format = EventFormat::CloudEvents;
    }
    let bytes = body.len();
    let reader = Reader::of(&usage, &reporter, format);
    // Moving the body frees it before its events wait to be counted.
    let attributes = binary::is_binary(&headers).then_some(headers);
    let parse = move || match attributes.filter(|_| !structured) {
        Some(headers) => ParsedBody::parse_binary(&headers, &body, &reader),
        None => ParsedBody::parse(&body, batched, &reader),
    };
    let turn = match &reporter {
        Reporter::One(caller) => caller.organization_id,
        Reporter::Each(product) => product.key_id,
    };
    let parsed = if bytes > LARGE_BYTES {
        usage.offload.run(turn, parse).await??
    } else {
        parse()?
    };
    let meter = meter.map(|Extension(meter)| meter);
    let results = match (reporter, parsed) {
        (Reporter::One(caller), parsed) => {
            if let Some(meter) = meter {
                meter.charge(parsed.events(), bytes)?;
            }
            let organization_id = caller.organization_id;
            match parsed {
                ParsedBody::One(event) => return record_one(&usage, organization_id, event).await,
                ParsedBody::Batch(batch) => batch.record(&usage, organization_id).await?,
            }
        }
        (Reporter::Each(_), ParsedBody::One(event)) => {
            return each::record_one(&usage, meter.as_ref(), event, bytes).await;
        }
        (Reporter::Each(_), ParsedBody::Batch(batch)) => {
            each::record(&usage, meter.as_ref(), batch).await?
        }
    };
    if bytes > LARGE_BYTES {
        let write = move || results.into_response();
        return usage.offload.run(turn, write).await;
    }
    Ok(results.into_response())
}

/// What parsing an event depends on.
struct Reader {
    format: EventFormat,
    catalogue: Arc<Catalogue>,
    by_user: bool,
    naming: Naming,
}

impl Reader {
    fn of(usage: &Usage, reporter: &Reporter, format: EventFormat) -> Self {
        let (by_user, naming) = match reporter {
            Reporter::One(caller) if caller.by_service_key => (false, Naming::Request),
            Reporter::One(caller) => (is_user(caller), Naming::Credential),
            Reporter::Each(_) => (false, Naming::Event),
        };
        Self {
            format,
            catalogue: usage.catalogue.clone(),
            by_user,
            naming,
        }
    }

    fn read(&self, json: &str) -> Result<ParsedEvent, (Option<String>, Fault)> {
        let parsed = self.format.parse(json, &self.catalogue, self.naming)?;
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
pub(super) struct Batch {
    /// One for each event; `None` for a valid event, which is in `valid`.
    results: Vec<Option<EventResult>>,
    /// The sender's ids of the valid events.
    ids: Vec<String>,
    pub valid: Vec<NewEvent>,
    /// What each of the valid events calls its organization, if it does, and how many bytes
    /// it has.
    pub named: Vec<(Arc<str>, usize)>,
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

    /// An event whose attributes are headers.
    fn parse_binary(headers: &HeaderMap, body: &[u8], reader: &Reader) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body)
            .map_err(|_| bad_request("invalid_json", "the body is not UTF-8"))?;
        let read = binary::structured(headers, text).and_then(|event| {
            let read = reader.read(&event);
            read.map_err(|(_, fault)| fault)
        });
        read.map(Self::One).map_err(|fault| {
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
            named: Vec::new(),
        };
        for event in events {
            match reader.read(event.get()) {
                Ok(parsed) => {
                    let name = parsed.organization;
                    batch
                        .named
                        .extend(name.map(|name| (name, event.get().len())));
                    batch.ids.push(parsed.id);
                    batch.valid.push(parsed.event);
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
    async fn record(
        mut self,
        usage: &Usage,
        organization_id: Uuid,
    ) -> Result<RecordedBatch, Problem> {
        let valid = std::mem::take(&mut self.valid);
        let items = if valid.is_empty() {
            Vec::new()
        } else {
            usage.ledger.record(organization_id, valid).await?
        };
        Ok(self.recorded(items.into_iter().map(Outcome::Item).collect()))
    }

    /// The batch, with what came of its valid events.
    pub fn recorded(self, outcomes: Vec<Outcome>) -> RecordedBatch {
        let invalid = self.results.iter().flatten().count();
        metrics::usage_events("rejected", invalid as u64);
        count(&outcomes);
        RecordedBatch {
            results: self.results,
            ids: self.ids,
            outcomes,
        }
    }
}

/// The result for a batch, not serialized yet.
pub(super) struct RecordedBatch {
    results: Vec<Option<EventResult>>,
    ids: Vec<String>,
    outcomes: Vec<Outcome>,
}

impl IntoResponse for RecordedBatch {
    fn into_response(self) -> Response {
        let mut decided = self.ids.into_iter().zip(self.outcomes);
        let results = self.results.into_iter();
        let results: Vec<EventResult> = results
            .filter_map(|result| {
                result.or_else(|| decided.next().map(|(id, came)| EventResult::of(id, came)))
            })
            .collect();
        let with = |status| results.iter().filter(|r| r.status == status).count();
        axum::Json(BatchResult {
            recorded: with(EventStatus::Recorded),
            duplicates: with(EventStatus::Duplicate),
            rejected: with(EventStatus::Rejected),
            results,
        })
        .into_response()
    }
}

/// The format by content type, and whether the type demands a batch. The route's
/// table admits no other type.
fn format_of(headers: &HeaderMap) -> (EventFormat, bool) {
    match media::essence(headers).as_str() {
        media::CLOUD_EVENT => (EventFormat::CloudEvents, false),
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

pub(super) async fn record_one(
    usage: &Usage,
    organization_id: Uuid,
    ParsedEvent { id, event, .. }: ParsedEvent,
) -> Result<Response, Problem> {
    let items = usage.ledger.record(organization_id, vec![event]).await?;
    let item = items.first().copied().ok_or_else(Problem::internal)?;
    count(&[Outcome::Item(item)]);
    match item {
        Item::Rejected(rejection) => Err(rejection.into()),
        item => Ok(axum::Json(EventResult::of(id, Outcome::Item(item))).into_response()),
    }
}

fn count(outcomes: &[Outcome]) {
    let mut results = BTreeMap::<&'static str, u64>::new();
    for outcome in outcomes {
        let result = match outcome {
            Outcome::Item(Item::Recorded) => "recorded",
            Outcome::Item(Item::Duplicate) => "duplicate",
            Outcome::Item(Item::Rejected(rejection)) => response::rejection_code(*rejection),
            Outcome::Refused { .. } => "rejected",
        };
        *results.entry(result).or_default() += 1;
    }
    for (result, count) in results {
        metrics::usage_events(result, count);
    }
}
