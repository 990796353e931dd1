//! How a decision is answered: by headers, a body, or a problem.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use billing_domain::grace_period::GracePeriod;
use billing_domain::quota::{self, Decision};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::metering::ledger::{LedgerError, Refusal, Standing};
use crate::server::layers::RequestId;
use crate::server::number::Number;
use crate::server::problem::{Problem, ProblemDetails};

const REMAINING: HeaderName = HeaderName::from_static("x-quota-remaining");
const PERCENTAGE: HeaderName = HeaderName::from_static("x-quota-percentage");
const LIMIT: HeaderName = HeaderName::from_static("x-quota-limit");
const USAGE: HeaderName = HeaderName::from_static("x-quota-usage");
const METRIC: HeaderName = HeaderName::from_static("x-quota-metric");
const WARNING: HeaderName = HeaderName::from_static("x-quota-warning");
const EXPIRES: HeaderName = HeaderName::from_static("x-grace-period-expires");
const DUPLICATE: HeaderName = HeaderName::from_static("x-quota-duplicate");
const FAILED_OPEN: HeaderName = HeaderName::from_static("x-quota-failed-open");

/// Whether a use is allowed, and what is used.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    allowed: bool,
    #[schema(example = "agent_executions")]
    metric: String,
    /// What is used of the billing period, this use included if it was
    /// consumed.
    usage: Number,
    /// Null: unlimited.
    #[schema(required)]
    limit: Option<Number>,
    /// Null: unlimited.
    #[schema(required)]
    remaining: Option<Number>,
    /// What is used of the limit, in percent.
    percentage: Number,
    #[schema(required)]
    grace_period: Option<GraceView>,
    /// Why it is not allowed.
    #[schema(required)]
    code: Option<&'static str>,
    /// The id came before: the use was counted then, and was not counted now.
    /// Absent: it is the first with its id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    duplicate: bool,
    /// What a grace period lets be used at most; absent: no end, or no grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_max: Option<Number>,
}

/// The problem of a use that is not allowed: `QUOTA_EXCEEDED` or
/// `QUOTA_EXCEEDED_GRACE_EXPIRED`, and what is used.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaExceeded {
    #[serde(flatten)]
    checked: Checked,
    #[serde(flatten)]
    problem: ProblemDetails<'static>,
    /// The limit.
    #[schema(required)]
    quota: Option<Number>,
    grace_period_expired: bool,
}

/// A use that was allowed although it could not be told how much is used.
#[derive(Serialize)]
pub struct FailedOpen<'a> {
    allowed: bool,
    metric: &'a str,
    code: &'static str,
}

impl<'a> FailedOpen<'a> {
    pub fn of(metric: &'a str) -> Self {
        Self {
            allowed: true,
            metric,
            code: "failed_open",
        }
    }
}

/// A grace period that began.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CheckedGracePeriod)]
struct GraceView {
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// What is left of a limit.
pub fn remaining(usage: Decimal, limit: Decimal) -> Decimal {
    (limit - usage).max(Decimal::ZERO)
}

/// What is used of a limit, in percent; of none, nothing.
pub fn percentage(usage: Decimal, limit: Option<Decimal>) -> Decimal {
    limit.map_or(Decimal::ZERO, |limit| quota::percentage(usage, limit))
}

fn grace_of(decision: Decision) -> Option<GracePeriod> {
    match decision {
        Decision::InGrace { grace, .. } | Decision::GraceExpired { grace } => Some(grace),
        Decision::GraceExhausted { grace } => grace,
        _ => None,
    }
}

/// The outcome's name in metrics.
pub fn outcome(standing: &Standing) -> &'static str {
    match standing.decision {
        _ if standing.duplicate => "duplicate",
        Decision::Within => "within",
        Decision::Overage => "overage",
        Decision::InGrace { .. } => "grace",
        Decision::GraceExpired { .. } => "grace_expired",
        Decision::Exceeded => "exceeded",
        Decision::GraceExhausted { .. } => "grace_exhausted",
    }
}

fn code(decision: Decision) -> Option<&'static str> {
    match decision {
        Decision::GraceExpired { .. } => Some("QUOTA_EXCEEDED_GRACE_EXPIRED"),
        Decision::Exceeded | Decision::GraceExhausted { .. } => Some("QUOTA_EXCEEDED"),
        _ => None,
    }
}

fn decimal(value: Decimal) -> HeaderValue {
    HeaderValue::try_from(value.normalize().to_string()).expect("digits are visible characters")
}

/// The headers that tell of a decision.
pub fn headers(metric: &str, standing: &Standing) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let unlimited = || HeaderValue::from_static("unlimited");
    let left = standing.limit.map(|limit| remaining(standing.usage, limit));
    headers.insert(REMAINING, left.map_or_else(unlimited, decimal));
    headers.insert(LIMIT, standing.limit.map_or_else(unlimited, decimal));
    headers.insert(USAGE, decimal(standing.usage));
    let percent = percentage(standing.usage, standing.limit);
    headers.insert(PERCENTAGE, decimal(percent));
    if let Ok(metric) = HeaderValue::from_str(metric) {
        headers.insert(METRIC, metric);
    }
    if standing.duplicate {
        headers.insert(DUPLICATE, HeaderValue::from_static("true"));
    }
    let warns = matches!(
        standing.decision,
        Decision::Overage | Decision::InGrace { .. }
    );
    if warns {
        headers.insert(WARNING, HeaderValue::from_static("true"));
    }
    if let Decision::InGrace { grace, .. } = standing.decision {
        let expires = HeaderValue::try_from(to_the_second(grace.expires_at).to_string());
        headers.insert(EXPIRES, expires.expect("a time is visible characters"));
    }
    headers
}

/// In a header, a fraction of a second says nothing.
fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The headers of an answer that was given without a decision.
pub fn failed_open(metric: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(FAILED_OPEN, HeaderValue::from_static("true"));
    if let Ok(metric) = HeaderValue::from_str(metric) {
        headers.insert(METRIC, metric);
    }
    headers
}

impl Checked {
    pub fn of(metric: &str, standing: &Standing) -> Self {
        let left = |limit| remaining(standing.usage, limit);
        Self {
            allowed: standing.decision.allowed(),
            metric: metric.to_owned(),
            usage: Number(standing.usage),
            limit: standing.limit.map(Number),
            remaining: standing.limit.map(left).map(Number),
            percentage: Number(percentage(standing.usage, standing.limit)),
            grace_period: grace_of(standing.decision).map(|grace| GraceView {
                started_at: grace.started_at,
                expires_at: grace.expires_at,
            }),
            code: code(standing.decision),
            duplicate: standing.duplicate,
            grace_max: match standing.decision {
                Decision::InGrace { .. } | Decision::GraceExhausted { .. } => {
                    standing.grace_max.map(Number)
                }
                _ => None,
            },
        }
    }
}

/// A check's answer: 200, or 402 with the same members in a problem.
pub fn checked(metric: &str, standing: &Standing) -> Response {
    let mut response = match denied(metric, standing) {
        None => Json(Checked::of(metric, standing)).into_response(),
        Some(problem) => problem.into_response(),
    };
    response.headers_mut().extend(headers(metric, standing));
    response
}

/// The refusal of a use that is not allowed.
pub fn denied(metric: &str, standing: &Standing) -> Option<Problem> {
    let code = code(standing.decision)?;
    let limit = standing.limit.unwrap_or_default().normalize();
    let detail = match standing.decision {
        Decision::GraceExpired { grace } => format!(
            "the quota of {limit} {metric} is used up, and its grace period ended at {}; \
             upgrade the plan, or wait for the next billing period",
            to_the_second(grace.expires_at)
        ),
        Decision::GraceExhausted { .. } => {
            let most = standing.grace_max.unwrap_or_default().normalize();
            format!(
                "of {metric} no more than {most} may be used in a grace period, over the quota of \
                 {limit}; use less, or upgrade the plan"
            )
        }
        _ => format!(
            "the limit of {limit} {metric} may not be exceeded; use less, or upgrade the plan"
        ),
    };
    let members = serde_json::to_value(Checked::of(metric, standing)).unwrap_or_default();
    let mut problem = Problem::new(StatusCode::PAYMENT_REQUIRED, code, detail)
        .with("quota", json!(standing.limit.map(Number)))
        .with(
            "gracePeriodExpired",
            json!(matches!(standing.decision, Decision::GraceExpired { .. })),
        );
    if let Value::Object(members) = members {
        for (name, value) in members {
            if name != "code" {
                problem = problem.with(&name, value);
            }
        }
    }
    Some(problem)
}

/// Leaves one line of a use that is not allowed, by which it is found: the id is
/// the answer's `X-Request-Id`.
pub fn log_denial(organization_id: Uuid, metric: &str, standing: &Standing) {
    let Some(reason) = code(standing.decision) else {
        return;
    };
    let limit = standing.limit.map(|limit| limit.normalize().to_string());
    tracing::info!(
        request_id = RequestId::current().as_ref().map(RequestId::as_str),
        %organization_id,
        metric,
        usage = %standing.usage.normalize(),
        limit,
        reason,
        "Use denied"
    );
}

/// The code of a refusal, as the API has it.
pub fn refusal_code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Ahead => "occurred_in_future",
        Refusal::Closed => "period_closed",
        Refusal::TotalTooLarge => "total_too_large",
        Refusal::NoQuota => "quota_missing",
        Refusal::IdReused => "event_id_reused",
        Refusal::NoPeriod => "period_unknown",
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = refusal_code(refusal);
        let status = match refusal {
            Refusal::IdReused => StatusCode::CONFLICT,
            Refusal::NoQuota | Refusal::NoPeriod => {
                return Self::unavailable(code, refusal.to_string());
            }
            Refusal::Ahead | Refusal::Closed | Refusal::TotalTooLarge => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        };
        Self::new(status, code, refusal.to_string())
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Refused(refusal) => refusal.into(),
            LedgerError::Crowded => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_usage_events",
                "more usage of this organization waits to be counted than its share, and this was \
                 not: send it again with the same id, a little later",
            )
            .retry_after(1),
            LedgerError::Full => Self::unavailable(
                "usage_unavailable",
                "too much usage waits to be counted, and this was not: send it again with the same \
                 id, a little later",
            )
            .retry_after(1),
            LedgerError::Unavailable => Self::unavailable(
                "usage_unavailable",
                "the usage could not be counted, and nothing was; send it again with the same id",
            ),
        }
    }
}
