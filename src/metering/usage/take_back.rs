//! `DELETE /api/billing/usage/events/{id}`: takes back a use that was counted by mistake.

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::events::{check_reporter, is_user};
use super::input;
use super::routes::Usage;
use crate::catalogue::Aggregation;
use crate::metering::ledger::TakeBack;
use crate::server::extract::{Path, Query};
use crate::server::number::Number;
use crate::server::problem::Problem;
use crate::tenancy::auth::Principal;

/// Which event it is.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// The source of a CloudEvent, which is a part of its identity.
    source: Option<String>,
}

/// A use that is taken back.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TakenBack {
    id: String,
    #[schema(inline)]
    status: TakenBackStatus,
    metric: String,
    /// What was counted, and is no more.
    quantity: Number,
    #[schema(value_type = String, format = DateTime)]
    taken_back_at: Timestamp,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum TakenBackStatus {
    TakenBack,
}

/// Take back a usage event
///
/// What was counted under the id by mistake is subtracted, for as long as its period takes usage.
/// Alerts stay; a grace period that nothing needs any more ends; Stripe is told of less by the next
/// report. The same again is answered the same. The id stays used: an event with it is 409
/// `event_taken_back`.
#[utoipa::path(
    delete,
    path = "/api/billing/usage/events/{id}",
    operation_id = "takeBackUsage",
    tag = "Usage",
    params(("id" = String, Path, description = "The event's id."), Which),
    responses(
        (status = 200, description = "The use is taken back.", body = TakenBack),
        (status = 404, description = "There is no such event."),
        (status = 409, description = "`usage_invoiced`: its period is closed, or it was charged."),
        (status = 422, description = "The metric is not summed: report the right level instead."),
    ),
)]
pub(super) async fn take_back(
    State(usage): State<Usage>,
    caller: Principal,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Result<axum::Json<TakenBack>, Problem> {
    input::check_id(&id)?;
    let event_id = match &which.source {
        Some(source) => input::ledger_id(source, &id),
        None => id.clone(),
    };
    let organization_id = caller.organization_id;
    let metric = usage.stored.metric_of(organization_id, &event_id).await?;
    let metric = metric.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "event_not_found",
            "no usage event has this id; that of a CloudEvent needs its source as well",
        )
    })?;
    check_reporter(&usage.catalogue, &metric, is_user(&caller))?;
    let known = usage.catalogue.metric(&metric);
    if known.is_none_or(|metric| metric.aggregation != Aggregation::Sum) {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "metric_not_summed",
            format!("{metric} is not summed; report the right level instead of taking one back"),
        ));
    }
    let asked = TakeBack {
        event_id,
        metric,
        actor: caller.actor,
        client: Some(caller.client),
    };
    let taken = usage.ledger.take_back(organization_id, asked).await?;
    Ok(axum::Json(TakenBack {
        id,
        status: TakenBackStatus::TakenBack,
        metric: taken.metric,
        quantity: Number(taken.quantity),
        taken_back_at: taken.at.ok_or_else(Problem::internal)?,
    }))
}
