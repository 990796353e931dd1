//! Turns a quota decision into headers, a body or a problem.

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

use crate::features;
use crate::limits;
use crate::metering::ledger::{LedgerError, QuotaDecision, UsageRejection};
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

/// A quota decision, with the usage it was based on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaDecision)]
pub struct DecisionView {
    allowed: bool,
    #[schema(example = "agent_executions")]
    metric: String,
    /// Usage in the billing period, including this one if it was consumed.
    usage: Number,
    /// Null if unlimited.
    #[schema(required)]
    limit: Option<Number>,
    /// Null if unlimited.
    #[schema(required)]
    remaining: Option<Number>,
    /// Usage as a percentage of the limit.
    percentage: Number,
    #[schema(required)]
    grace_period: Option<GraceView>,
    /// Why the usage is not allowed.
    #[schema(required)]
    code: Option<&'static str>,
    /// Present if the id was used before: the usage was counted then, and not
    /// again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    duplicate: bool,
    /// The most that may be used during a grace period; absent if there is no
    /// such limit, or no grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_max: Option<Number>,
}

/// The problem for usage that is not allowed: `QUOTA_EXCEEDED` or
/// `QUOTA_EXCEEDED_GRACE_EXPIRED`, with current usage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaExceeded {
    #[serde(flatten)]
    decision: DecisionView,
    #[serde(flatten)]
    problem: ProblemDetails<'static>,
    /// The limit.
    #[schema(required)]
    quota: Option<Number>,
    grace_period_expired: bool,
}

/// Usage that was allowed although current usage could not be determined.
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

/// A started grace period.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaGracePeriod)]
struct GraceView {
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// The part of a limit that is left.
pub fn remaining(usage: Decimal, limit: Decimal) -> Decimal {
    (limit - usage).max(Decimal::ZERO)
}

/// Usage as a percentage of a limit; zero if unlimited.
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

/// The decision's label in metrics.
pub fn outcome(decided: &QuotaDecision) -> &'static str {
    match decided.decision {
        _ if decided.duplicate => "duplicate",
        Decision::Within => "within",
        Decision::Overage => "overage",
        Decision::InGrace { .. } => "grace",
        Decision::GraceExpired { .. } => "grace_expired",
        Decision::Exceeded => "exceeded",
        Decision::GraceExhausted { .. } => "grace_exhausted",
    }
}

fn decimal(value: Decimal) -> HeaderValue {
    HeaderValue::try_from(value.normalize().to_string()).expect("digits are visible characters")
}

/// The quota headers of a decision.
pub fn headers(metric: &str, decided: &QuotaDecision) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let unlimited = || HeaderValue::from_static("unlimited");
    let left = decided.limit.map(|limit| remaining(decided.usage, limit));
    headers.insert(REMAINING, left.map_or_else(unlimited, decimal));
    headers.insert(LIMIT, decided.limit.map_or_else(unlimited, decimal));
    headers.insert(USAGE, decimal(decided.usage));
    let percent = percentage(decided.usage, decided.limit);
    headers.insert(PERCENTAGE, decimal(percent));
    if let Ok(metric) = HeaderValue::from_str(metric) {
        headers.insert(METRIC, metric);
    }
    if decided.duplicate {
        headers.insert(DUPLICATE, HeaderValue::from_static("true"));
    }
    let warns = matches!(
        decided.decision,
        Decision::Overage | Decision::InGrace { .. }
    );
    if warns {
        headers.insert(WARNING, HeaderValue::from_static("true"));
    }
    if let Decision::InGrace { grace, .. } = decided.decision {
        let expires = HeaderValue::try_from(to_the_second(grace.expires_at).to_string());
        headers.insert(EXPIRES, expires.expect("a time is visible characters"));
    }
    headers
}

/// Drops the fraction of a second, which headers and texts do not need.
fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The headers of a response without a decision.
pub fn failed_open(metric: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(FAILED_OPEN, HeaderValue::from_static("true"));
    if let Ok(metric) = HeaderValue::from_str(metric) {
        headers.insert(METRIC, metric);
    }
    headers
}

impl DecisionView {
    /// The answer to a repeated request that is answered as the first.
    pub fn without_duplicate(&mut self) {
        self.duplicate = false;
    }

    pub fn of(metric: &str, decided: &QuotaDecision) -> Self {
        let left = |limit| remaining(decided.usage, limit);
        Self {
            allowed: decided.decision.allowed(),
            metric: metric.to_owned(),
            usage: Number(decided.usage),
            limit: decided.limit.map(Number),
            remaining: decided.limit.map(left).map(Number),
            percentage: Number(percentage(decided.usage, decided.limit)),
            grace_period: grace_of(decided.decision).map(|grace| GraceView {
                started_at: grace.started_at,
                expires_at: grace.expires_at,
            }),
            code: decided.decision.refusal(),
            duplicate: decided.duplicate,
            grace_max: match decided.decision {
                Decision::InGrace { .. } | Decision::GraceExhausted { .. } => {
                    decided.grace_max.map(Number)
                }
                _ => None,
            },
        }
    }
}

/// The response to a check: 200, or 402 with the same members in a problem.
pub fn checked(metric: &str, decided: &QuotaDecision) -> Response {
    let mut response = match denied(metric, decided) {
        None => Json(DecisionView::of(metric, decided)).into_response(),
        Some(problem) => problem.into_response(),
    };
    response.headers_mut().extend(headers(metric, decided));
    response
}

/// The problem for usage that is not allowed; `None` if it is allowed.
pub fn denied(metric: &str, decided: &QuotaDecision) -> Option<Problem> {
    let code = decided.decision.refusal()?;
    let limit = decided.limit.unwrap_or_default().normalize();
    let detail = match decided.decision {
        Decision::GraceExpired { grace } => format!(
            "the quota of {limit} {metric} is used up, and its grace period ended at {}; \
             upgrade the plan or wait for the next billing period",
            to_the_second(grace.expires_at)
        ),
        Decision::GraceExhausted { .. } => {
            let most = decided.grace_max.unwrap_or_default().normalize();
            format!(
                "at most {most} {metric} may be used during a grace period over the quota of \
                 {limit}; use less or upgrade the plan"
            )
        }
        _ => format!(
            "the limit of {limit} {metric} must not be exceeded; use less or upgrade the plan"
        ),
    };
    let members = serde_json::to_value(DecisionView::of(metric, decided)).unwrap_or_default();
    let mut problem = Problem::new(StatusCode::PAYMENT_REQUIRED, code, detail)
        .with("quota", json!(decided.limit.map(Number)))
        .with(
            "gracePeriodExpired",
            json!(matches!(decided.decision, Decision::GraceExpired { .. })),
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

/// Logs usage that is not allowed, with the response's `X-Request-Id`.
pub fn log_denial(organization_id: Uuid, metric: &str, decided: &QuotaDecision) {
    let Some(reason) = decided.decision.refusal() else {
        return;
    };
    let limit = decided.limit.map(|limit| limit.normalize().to_string());
    tracing::info!(
        request_id = RequestId::current().as_ref().map(RequestId::as_str),
        %organization_id,
        metric,
        usage = %decided.usage.normalize(),
        limit,
        reason,
        "Use denied"
    );
}

/// The API's code for a rejection.
pub fn rejection_code(rejection: UsageRejection) -> &'static str {
    match rejection {
        UsageRejection::Ahead => "occurred_in_future",
        UsageRejection::Closed => "period_closed",
        UsageRejection::TotalTooLarge => "total_too_large",
        UsageRejection::NoQuota => "quota_missing",
        UsageRejection::IdReused => "event_id_reused",
        UsageRejection::TakenBack => "event_taken_back",
        UsageRejection::HoldIdReused => "reservation_id_reused",
        UsageRejection::TooManyHolds => "too_many_reservations",
        UsageRejection::HoldGone => "reservation_not_found",
        UsageRejection::Invoiced => "usage_invoiced",
        UsageRejection::NoPeriod => "period_unknown",
        UsageRejection::FeatureNotIncluded => features::NOT_INCLUDED,
    }
}

impl From<UsageRejection> for Problem {
    fn from(rejection: UsageRejection) -> Self {
        let code = rejection_code(rejection);
        let status = match rejection {
            UsageRejection::IdReused
            | UsageRejection::TakenBack
            | UsageRejection::HoldIdReused
            | UsageRejection::Invoiced => StatusCode::CONFLICT,
            UsageRejection::FeatureNotIncluded => StatusCode::FORBIDDEN,
            UsageRejection::HoldGone => StatusCode::NOT_FOUND,
            UsageRejection::TooManyHolds => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, code, rejection.to_string());
                return problem.retry_after(limits::RETRY_AFTER_SECS);
            }
            UsageRejection::NoQuota | UsageRejection::NoPeriod => {
                return Self::unavailable(code, rejection.to_string());
            }
            UsageRejection::Ahead | UsageRejection::Closed | UsageRejection::TotalTooLarge => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        };
        Self::new(status, code, rejection.to_string())
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Rejected(rejection) => rejection.into(),
            LedgerError::Crowded => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_usage_events",
                "too much usage of this organization is waiting to be counted, and this was not \
                 counted; retry a little later with the same id",
            )
            .retry_after(1),
            LedgerError::Full => Self::unavailable(
                "usage_unavailable",
                "too much usage is waiting to be counted, and this was not counted; retry a little \
                 later with the same id",
            )
            .retry_after(1),
            LedgerError::Unavailable => Self::unavailable(
                "usage_unavailable",
                "the usage could not be counted, and nothing was; retry with the same id",
            ),
        }
    }
}
