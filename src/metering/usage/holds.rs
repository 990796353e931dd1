//! `/api/billing/usage/reservations`: the product holds a use before it happens, and says
//! afterwards what was used.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::events::{check_reporter, is_user};
use super::input;
use super::response::{self, DecisionView};
use super::routes::{Usage, bad_request};
use crate::batch::lookup::Grouped;
use crate::catalogue::Aggregation;
use crate::db;
use crate::metering::ledger::{
    Hold, HoldOutcome, LedgerError, NewHold, Settled, UsageRejection, hold_id, store,
};
use crate::server::extract::{Json, Path};
use crate::server::number::{self, Number};
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::auth::Principal;

/// How long a reservation holds unless it says otherwise, and the longest.
const DEFAULT_TTL_SECS: u64 = 15 * 60;
/// A period is read for two hours after its end.
const MAX_TTL_SECS: u64 = 60 * 60;

/// What the ledger has of holds and events, as it is now.
#[derive(Clone)]
pub struct Stored {
    holds: Grouped<(Uuid, Uuid), Hold>,
    /// The metrics of uses, by organization and event.
    metrics: Grouped<(Uuid, String), String>,
}

impl Stored {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        let read = pool.clone();
        let holds = Grouped::new(move |keys: Vec<(Uuid, Uuid)>| {
            let pool = read.clone();
            Box::pin(async move {
                let (organizations, ids): (Vec<Uuid>, Vec<Uuid>) = keys.into_iter().unzip();
                let mut conn = db::acquire(&pool).await?;
                store::holds(&mut conn, &organizations, &ids).await
            })
        });
        let metrics = Grouped::new(move |keys: Vec<(Uuid, String)>| {
            let pool = pool.clone();
            Box::pin(async move {
                let (organizations, ids): (Vec<Uuid>, Vec<String>) = keys.into_iter().unzip();
                let mut conn = db::acquire(&pool).await?;
                store::metrics_of(&mut conn, &organizations, &ids).await
            })
        });
        Self { holds, metrics }
    }

    async fn hold(&self, organization_id: Uuid, name: &str) -> Result<Hold, Problem> {
        let found = self.holds.find((organization_id, hold_id(name))).await;
        let found = found.map_err(|error: Arc<sqlx::Error>| Problem::from(&*error))?;
        found.ok_or_else(|| UsageRejection::HoldGone.into())
    }

    /// The metric of a use.
    pub async fn metric_of(
        &self,
        organization_id: Uuid,
        event_id: &str,
    ) -> Result<Option<String>, Problem> {
        let found = self
            .metrics
            .find((organization_id, event_id.to_owned()))
            .await;
        found.map_err(|error: Arc<sqlx::Error>| Problem::from(&*error))
    }
}

/// A use to be held.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReservationBody {
    /// A metric that is summed.
    #[schema(example = "llm_tokens")]
    metric: String,
    /// A number or a string, above 0, with at most 20 digits, 4 of them after the point.
    #[schema(value_type = f64, exclusive_minimum = 0, example = 1000)]
    quantity: Box<RawValue>,
    /// Unique in the organization. Once it is confirmed, the use has this id too.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// For how long it holds. 900 if absent.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 3600)]
    #[serde(default, deserialize_with = "number::maybe_whole")]
    ttl_seconds: Option<u64>,
}

/// What was used.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmBody {
    /// As in the reservation; 0 if nothing was used.
    #[schema(value_type = f64, minimum = 0, example = 850)]
    quantity: Box<RawValue>,
}

/// A use that is held.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    id: String,
    #[schema(inline)]
    status: ReservationStatus,
    quantity: Number,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    #[serde(flatten)]
    decision: DecisionView,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReservationStatus {
    Held,
    Confirmed,
}

/// A reservation that is confirmed.
#[derive(Serialize, ToSchema)]
struct ConfirmedReservation {
    id: String,
    #[schema(inline)]
    status: ReservationStatus,
    metric: String,
    /// What was held.
    held: Number,
    /// What was used.
    quantity: Number,
    /// What was counted of it.
    counted: Number,
}

/// Hold a use
///
/// The use counts against the quota at once, as if it had happened, until it is confirmed or
/// released, or its time is over. What the quota does not allow is 402, as for a check. The same
/// reservation again is answered with the one that there is. At most 10,000 of a metric are open
/// at once; beyond that it is 429 `too_many_reservations`.
#[utoipa::path(
    post,
    path = "/api/billing/usage/reservations",
    operation_id = "reserveUsage",
    tag = "Usage",
    request_body = ReservationBody,
    responses(
        (status = 201, description = "The use is held.", body = Reservation),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = response::QuotaExceeded, content_type = "application/problem+json"),
        (status = 409, description = "The id is another reservation's, or one's that is settled."),
        (status = 422, description = "The metric is not summed, or the total would be too large."),
    ),
)]
pub(super) async fn reserve(
    State(usage): State<Usage>,
    caller: Principal,
    Json(body): Json<ReservationBody>,
) -> Result<Response, Problem> {
    let new = usage.new_hold(body)?;
    check_reporter(&usage.catalogue, &new.metric, is_user(&caller))?;
    let metric = new.metric.clone();
    let started = Instant::now();
    let (decided, hold) = match usage.ledger.hold(caller.organization_id, new).await {
        Ok(held) => held,
        Err(error) => {
            if error == LedgerError::Rejected(UsageRejection::TooManyHolds) {
                metrics::holds::reservation("too_many");
            }
            usage.undecided(&metric, &error, false, started)?;
            return Err(error.into());
        }
    };
    metrics::decision(response::outcome(&decided), &metric, started.elapsed());
    let Some(hold) = hold else {
        metrics::holds::reservation("denied");
        usage.note_denial(caller.organization_id, &metric, &decided);
        return Ok(response::checked(&metric, &decided));
    };
    if !decided.duplicate {
        metrics::holds::reservation("held");
    }
    let mut decision = DecisionView::of(&metric, &decided);
    decision.without_duplicate();
    let mut answer = (
        StatusCode::CREATED,
        axum::Json(Reservation {
            id: hold.name,
            status: ReservationStatus::Held,
            quantity: Number(hold.quantity),
            expires_at: hold.expires_at,
            decision,
        }),
    )
        .into_response();
    answer
        .headers_mut()
        .extend(response::headers(&metric, &decided));
    Ok(answer)
}

/// Confirm a reservation
///
/// Counts what was used, once, under the reservation's id, and lets the rest go. Of more than was
/// held, what the quota allows is counted, as a check would; otherwise what was held is counted,
/// the rest is not, and the answer is 402 with `counted` and `refused`. The same again is answered
/// the same.
#[utoipa::path(
    post,
    path = "/api/billing/usage/reservations/{id}/confirm",
    operation_id = "confirmReservation",
    tag = "Usage",
    params(("id" = String, Path, description = "The reservation's id.")),
    request_body = ConfirmBody,
    responses(
        (status = 200, description = "What was used is counted.", body = ConfirmedReservation),
        (status = 402, description = "What was held is counted, and the rest is not: `QUOTA_EXCEEDED` \
                                      or `QUOTA_EXCEEDED_GRACE_EXPIRED`."),
        (status = 404, description = "There is no such reservation."),
        (status = 409, description = "It was confirmed with another quantity, or released; or a usage \
                                      event has its id."),
        (status = 410, description = "It expired, and nothing was counted."),
        (status = 422, description = "The total would be too large."),
    ),
)]
pub(super) async fn confirm(
    State(usage): State<Usage>,
    caller: Principal,
    Path(id): Path<String>,
    Json(body): Json<ConfirmBody>,
) -> Result<Response, Problem> {
    input::check_id(&id)?;
    let used = input::read_quantity(&body.quantity)?;
    let hold = usage.stored.hold(caller.organization_id, &id).await?;
    check_reporter(&usage.catalogue, &hold.metric, is_user(&caller))?;
    if hold.settled.is_some() {
        return confirmed(&hold, used);
    }
    let organization_id = caller.organization_id;
    let confirming = usage.ledger.confirm_hold(organization_id, hold, used);
    let (hold, decided) = confirming.await?;
    let mut answer =
        confirmed(&hold, used).unwrap_or_else(axum::response::IntoResponse::into_response);
    if let Some(decided) = decided {
        metrics::holds::reservation(HoldOutcome::Confirmed.as_str());
        usage.note_denial(organization_id, &hold.metric, &decided);
        let headers = response::headers(&hold.metric, &decided);
        answer.headers_mut().extend(headers);
    }
    Ok(answer)
}

/// Release a reservation
///
/// Gives back what is held; nothing is counted. One that was released before, or expired, holds
/// nothing, and is answered the same.
#[utoipa::path(
    delete,
    path = "/api/billing/usage/reservations/{id}",
    operation_id = "releaseReservation",
    tag = "Usage",
    params(("id" = String, Path, description = "The reservation's id.")),
    responses(
        (status = 204, description = "It holds nothing."),
        (status = 404, description = "There is no such reservation."),
        (status = 409, description = "It was confirmed: what was used is counted."),
    ),
)]
pub(super) async fn release(
    State(usage): State<Usage>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    input::check_id(&id)?;
    let mut hold = usage.stored.hold(caller.organization_id, &id).await?;
    check_reporter(&usage.catalogue, &hold.metric, is_user(&caller))?;
    if hold.settled.is_none() {
        let releasing = usage.ledger.release_hold(caller.organization_id, hold);
        hold = releasing.await?;
        if let Some(settled) = &hold.settled {
            metrics::holds::reservation(settled.outcome.as_str());
        }
    }
    match hold.settled {
        Some(settled) if settled.outcome == HoldOutcome::Confirmed => Err(Problem::new(
            StatusCode::CONFLICT,
            "reservation_confirmed",
            format!(
                "the reservation was confirmed with {}, which is counted; take the use back by \
                 DELETE /api/billing/usage/events/{{id}} if it was a mistake",
                settled.used.normalize()
            ),
        )),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

impl Usage {
    fn new_hold(&self, body: ReservationBody) -> Result<NewHold, Problem> {
        self.check_names(&body.metric, Some(&body.id))?;
        let quantity = input::read_quantity(&body.quantity)?;
        if quantity.is_zero() {
            let detail = "quantity: expected more than 0; to hold nothing there is no need to ask";
            return Err(bad_request("invalid_quantity", detail));
        }
        let ttl_secs = body.ttl_seconds.unwrap_or(DEFAULT_TTL_SECS);
        if !(1..=MAX_TTL_SECS).contains(&ttl_secs) {
            let detail = format!("ttlSeconds: expected 1 to {MAX_TTL_SECS}");
            return Err(bad_request("invalid_ttl", detail));
        }
        let summed = self.catalogue.metric(&body.metric);
        if summed.is_none_or(|metric| metric.aggregation != Aggregation::Sum) {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "metric_not_summed",
                format!(
                    "{} is a level, of which nothing can be held; ask with a check that consumes",
                    body.metric
                ),
            ));
        }
        Ok(NewHold {
            name: body.id,
            metric: body.metric,
            quantity,
            ttl_secs: u32::try_from(ttl_secs).unwrap_or(u32::MAX),
        })
    }
}

/// The response to confirming a settled hold with `used`. It depends on nothing else, so a
/// repeated request gets the same one.
fn confirmed(hold: &Hold, used: Decimal) -> Result<Response, Problem> {
    let settled = hold.settled.as_ref().ok_or_else(Problem::internal)?;
    let conflict = |code, detail: String| Err(Problem::new(StatusCode::CONFLICT, code, detail));
    match settled.outcome {
        HoldOutcome::Expired => Err(Problem::new(
            StatusCode::GONE,
            "reservation_expired",
            "the reservation expired before it was confirmed, and nothing was counted; report what \
             was used as a usage event with the same id",
        )),
        HoldOutcome::Released => conflict(
            "reservation_released",
            "the reservation was released, and nothing was counted; report what was used as a \
             usage event with the same id"
                .to_owned(),
        ),
        HoldOutcome::Confirmed if settled.used != used => conflict(
            "reservation_confirmed",
            format!(
                "the reservation was confirmed with {} before; it is counted once",
                settled.used.normalize()
            ),
        ),
        HoldOutcome::Confirmed if settled.refusal.is_some() => Err(refused(hold, settled)),
        HoldOutcome::Confirmed => Ok(axum::Json(ConfirmedReservation {
            id: hold.name.clone(),
            status: ReservationStatus::Confirmed,
            metric: hold.metric.clone(),
            held: Number(hold.quantity),
            quantity: Number(settled.used),
            counted: Number(settled.counted),
        })
        .into_response()),
    }
}

/// The problem of one who used more than was held and allowed.
fn refused(hold: &Hold, settled: &Settled) -> Problem {
    let code = match settled.refusal.as_deref() {
        Some("QUOTA_EXCEEDED_GRACE_EXPIRED") => "QUOTA_EXCEEDED_GRACE_EXPIRED",
        _ => "QUOTA_EXCEEDED",
    };
    let rest = settled.used - settled.counted;
    let (counted, metric) = (settled.counted.normalize(), &hold.metric);
    let detail = format!(
        "{counted} {metric} were held and are counted; the other {} are more than the quota \
         allows, and are not",
        rest.normalize()
    );
    Problem::new(StatusCode::PAYMENT_REQUIRED, code, detail)
        .with("id", json!(hold.name))
        .with("metric", json!(hold.metric))
        .with("held", json!(Number(hold.quantity)))
        .with("quantity", json!(Number(settled.used)))
        .with("counted", json!(Number(settled.counted)))
        .with("refused", json!(Number(rest)))
}
