//! `POST /api/billing/usage/check`, and what the other routes need.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::events::{self, is_user, may_tell};
use super::input::{self, Fault};
use super::offload::Offload;
use super::response;
use crate::catalogue::Catalogue;
use crate::metering::ledger::{Ledger, LedgerError, NewEvent};
use crate::server::extract::Json;
use crate::server::problem::Problem;
use crate::server::routes::{Permission, RateClass, Routes, tenant};
use crate::telemetry::metrics;
use crate::tenancy::auth::Principal;

/// What the routes need.
#[derive(Clone)]
pub struct Usage {
    pub ledger: Ledger,
    pub catalogue: Arc<Catalogue>,
    pub offload: Offload,
}

pub fn routes() -> Routes<Usage> {
    let write = tenant(Permission::UsageWrite);
    Routes::new()
        .route(routes!(check), write.metered(RateClass::Usage))
        .route(
            routes!(events::record),
            write.metered(RateClass::UsageEvents),
        )
}

pub(super) fn refused(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
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
/// the same members. An `id` that came before is allowed again and not counted, which `duplicate`
/// and the header `X-Quota-Duplicate` say.
#[utoipa::path(
    post,
    path = "/api/billing/usage/check",
    operation_id = "checkUsage",
    tag = "Usage",
    request_body = CheckBody,
    responses(
        (status = 200, description = "It is allowed, and counted if it was to be.",
         body = response::Checked),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = response::QuotaExceeded, content_type = "application/problem+json"),
        (status = 409, description = "The id came before, with another content."),
        (status = 422, description = "The total would be too large."),
    ),
)]
async fn check(
    State(usage): State<Usage>,
    caller: Principal,
    Json(body): Json<CheckBody>,
) -> Result<Response, Problem> {
    usage.check_names(&body.metric, body.id.as_deref())?;
    let quantity = input::read_quantity(&body.quantity)?;
    let by_user = body.consume && is_user(&caller);
    may_tell(&usage.catalogue, &body.metric, by_user)?;
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

/// Whoever may not is told so; all else is a request that is not well-formed.
impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let status = match fault.code {
            "metric_by_keys_only" => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, fault.code, fault.detail)
    }
}

impl Usage {
    /// Refuses a metric that is none, and an id that cannot be one.
    pub fn check_names(&self, metric: &str, id: Option<&str>) -> Result<(), Problem> {
        input::check_metric(&self.catalogue, metric)?;
        id.map_or(Ok(()), |id| Ok(input::check_id(id)?))
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
                let outcome = response::outcome(&standing);
                metrics::decision(outcome, metric, started.elapsed());
                response::log_denial(organization_id, metric, &standing);
                Ok(response::checked(metric, &standing))
            }
            Err(error) => {
                let open = self.catalogue.metric(metric).is_some_and(|m| m.fail_open);
                self.undecided(metric, &error, open, started)?;
                let mut response = axum::Json(response::FailedOpen::of(metric)).into_response();
                response.headers_mut().extend(response::failed_open(metric));
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
        if *error == LedgerError::Crowded {
            // Who sends more than its share opens no way by that, and nothing is
            // wrong with the service.
            return Err(error.clone().into());
        }
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
