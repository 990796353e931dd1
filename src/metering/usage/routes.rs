//! `POST /api/billing/usage/check`, and what all usage routes share.

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

use super::events::{self, check_reporter, is_user};
use super::holds::{self, Stored};
use super::input::{self, Fault};
use super::offload::Offload;
use super::{response, take_back};
use crate::catalogue::Catalogue;
use crate::features;
use crate::metering::denials::Denials;
use crate::metering::ledger::{
    Ledger, LedgerError, NewEvent, Question, QuotaDecision, UsageRejection,
};
use crate::server::extract::Json;
use crate::server::problem::Problem;
use crate::server::routes::{Permission, RateClass, Routes, each_tenant, tenant};
use crate::telemetry::metrics;
use crate::tenancy::auth::Principal;
use crate::tenancy::names::Names;

/// What the usage routes need.
#[derive(Clone)]
pub struct Usage {
    pub ledger: Ledger,
    pub denials: Denials,
    pub catalogue: Arc<Catalogue>,
    pub offload: Offload,
    pub stored: Stored,
    /// What a service key's events call their organizations.
    pub organizations: Names,
}

pub fn routes() -> Routes<Usage> {
    let write = tenant(Permission::UsageWrite);
    Routes::new()
        .route(routes!(check), write.metered(RateClass::Usage))
        .route(routes!(holds::reserve), write.metered(RateClass::Usage))
        .route(routes!(holds::confirm), write.metered(RateClass::Usage))
        .route(routes!(holds::release), write.metered(RateClass::Usage))
        .route(
            routes!(take_back::take_back),
            write.metered(RateClass::Usage),
        )
        .route(
            routes!(events::record),
            each_tenant(Permission::UsageWrite).metered(RateClass::UsageEvents),
        )
}

pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
}

/// A usage check.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    #[schema(example = "agent_executions")]
    metric: String,
    /// A number or a string, not negative, with at most 20 digits, 4 of them
    /// after the point. For a metric that keeps the last value, the new level.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: Box<RawValue>,
    /// Whether to count the usage if it is allowed.
    #[serde(default)]
    consume: bool,
    /// Makes retries safe: usage with the same id is counted once.
    #[schema(min_length = 1, max_length = 255)]
    id: Option<String>,
}

/// Decide whether usage is allowed, and count it
///
/// Without `consume`, nothing changes. Usage that is not allowed is answered 402 with the same
/// members. A repeated `id` is allowed again without being counted; the response then has
/// `duplicate` and the header `X-Quota-Duplicate`.
#[utoipa::path(
    post,
    path = "/api/billing/usage/check",
    operation_id = "checkUsage",
    tag = "Usage",
    request_body = CheckBody,
    responses(
        (status = 200, description = "The usage is allowed, and counted with `consume`.",
         body = response::DecisionView),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = response::QuotaExceeded, content_type = "application/problem+json"),
        (status = 409, description = "The id was used before with different content."),
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
    check_reporter(&usage.catalogue, &body.metric, by_user)?;
    let has_id = body.id.is_some();
    let event = NewEvent {
        id: body.id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        metric: body.metric,
        quantity,
        occurred_at: None,
        metadata: None,
    };
    let question = Question {
        event,
        consume: body.consume,
        named: has_id,
        needs: None,
    };
    usage.decide(caller.organization_id, question).await
}

/// A reporter without permission is 403; every other fault is 400.
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
    /// Rejects an unknown metric and a malformed id.
    pub fn check_names(&self, metric: &str, id: Option<&str>) -> Result<(), Problem> {
        input::check_metric(&self.catalogue, metric)?;
        id.map_or(Ok(()), |id| Ok(input::check_id(id)?))
    }

    /// Decides, counts the decision in the metrics, and builds the response.
    pub async fn decide(
        &self,
        organization_id: Uuid,
        question: Question,
    ) -> Result<Response, Problem> {
        let started = Instant::now();
        let metric = question.event.metric.clone();
        let metric = metric.as_str();
        let needed = question.needs.clone();
        let decided = self.ledger.check(organization_id, question).await;
        match decided {
            Ok((decided, value)) => {
                let outcome = response::outcome(&decided);
                metrics::decision(outcome, metric, started.elapsed());
                self.note_denial(organization_id, metric, &decided);
                let mut response = response::checked(metric, &decided);
                if let Some((needed, value)) = needed.zip(value) {
                    let status = response.status();
                    features::included(&needed, &value, status, response.headers_mut());
                }
                Ok(response)
            }
            // About the use, nothing was asked of the quota.
            Err(LedgerError::Rejected(UsageRejection::FeatureNotIncluded)) => {
                let id = needed.map(|needed| needed.feature).unwrap_or_default();
                let denials = &self.denials;
                denials.of_feature(organization_id, &id, features::NOT_INCLUDED);
                Err(features::not_included(&id))
            }
            Err(error) => {
                // A metric that fails open decides about no feature.
                let open =
                    needed.is_none() && self.catalogue.metric(metric).is_some_and(|m| m.fail_open);
                self.undecided(metric, &error, open, started)?;
                let mut response = axum::Json(response::FailedOpen::of(metric)).into_response();
                response.headers_mut().extend(response::failed_open(metric));
                Ok(response)
            }
        }
    }

    /// Keeps a use that the quota refused, for whoever asks why; one that was let in is none.
    pub fn note_denial(&self, organization_id: Uuid, metric: &str, decided: &QuotaDecision) {
        response::log_denial(organization_id, metric, decided);
        self.denials.of_use(organization_id, metric, decided);
    }

    /// Handles usage that could not be decided: an error, unless the metric is
    /// configured to fail open.
    pub fn undecided(
        &self,
        metric: &str,
        error: &LedgerError,
        open: bool,
        started: Instant,
    ) -> Result<(), Problem> {
        if *error == LedgerError::Crowded {
            // An organization must not get past its quota by exceeding its share
            // of the queue; the service itself is healthy.
            return Err(error.clone().into());
        }
        let outage = !matches!(error, LedgerError::Rejected(_));
        let outcome = if outage && open {
            "failed_open"
        } else {
            "undecided"
        };
        metrics::decision(outcome, metric, started.elapsed());
        if outage && open {
            tracing::warn!(metric, %error, "usage was allowed without a decision (fail_open)");
            return Ok(());
        }
        Err(error.clone().into())
    }
}
