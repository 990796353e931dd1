//! `GET /api/billing/plans`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::features::FeatureValue;
use super::{AllowancePeriod, Catalogue, Interval, OverLimit, Plan, Quota, SeatMode};
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::number::Number;
use crate::server::pagination::page::{Limit, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::tenancy::auth::Principal;

/// What the handler needs.
#[derive(Clone)]
pub struct Plans {
    pub catalogue: Arc<Catalogue>,
    pub shared: Shared,
}

pub fn routes() -> Routes<Plans> {
    Routes::new().route(routes!(list), tenant(Permission::BillingRead))
}

/// A plan of the catalogue.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Plan)]
struct PlanView {
    /// The name used by subscriptions.
    #[schema(example = "standard")]
    tier: String,
    #[schema(example = "Standard")]
    name: String,
    /// Per interval, in the currency's minor unit.
    #[schema(example = 9900)]
    price_amount: i64,
    /// ISO 4217, in lower case.
    #[schema(example = "usd")]
    currency: String,
    interval: Interval,
    /// All prices, by currency and interval; those of before this list are the one that
    /// is meant unless another is asked for.
    prices: Vec<PriceView>,
    /// The period of its quotas: a month, or the one that is paid.
    allowance_period: AllowancePeriod,
    /// Null for a plan without seats.
    #[schema(required)]
    seats: Option<SeatsView>,
    quotas: Vec<QuotaView>,
    /// By name; a text that is off is left out.
    features: BTreeMap<String, FeatureValue>,
}

/// What a plan costs in a currency and an interval.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PlanPrice)]
struct PriceView {
    /// Per interval, in the currency's minor unit; for each seat, if the plan's seats are
    /// licensed and have no price of their own.
    #[schema(example = 9900)]
    price_amount: i64,
    /// ISO 4217, in lower case.
    #[schema(example = "usd")]
    currency: String,
    interval: Interval,
    /// What each seat beyond those included costs; null if seats have no price of their
    /// own.
    #[schema(required)]
    seat_amount: Option<i64>,
}

/// The seats of a plan.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PlanSeats)]
struct SeatsView {
    /// The metric that they limit.
    #[schema(example = "user_seats")]
    metric: String,
    /// Those that come with the fee; where the fee is for each seat, the fewest that are
    /// sold.
    included: u32,
    mode: SeatMode,
}

/// The quota of a metric in a plan, and what happens above it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PlanQuota)]
struct QuotaView {
    #[schema(example = "llm_tokens")]
    metric: String,
    /// Per billing period; null for unlimited.
    #[schema(required)]
    quota: Option<Number>,
    #[schema(value_type = String, example = "overage")]
    over_limit: OverLimit,
    /// A decimal number in the currency's major unit, per unit over the quota; null
    /// if overage is not billed.
    #[schema(required, example = "0.00001")]
    overage_rate: Option<String>,
    /// The same in each currency that the plan is sold in.
    overage_rates: BTreeMap<String, String>,
    /// The most usage that a grace period allows; absent if there is no limit, or no
    /// grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_max: Option<Number>,
}

impl PlanView {
    fn of(plan: &Plan, catalogue: &Catalogue) -> Self {
        let quotas = plan.quotas.iter().map(|(metric, quota)| QuotaView {
            metric: metric.clone(),
            quota: quota.quota.map(Number),
            over_limit: quota.over_limit,
            overage_rate: quota.overage_rate.map(|rate| rate.normalize().to_string()),
            overage_rates: rates_of(plan, quota),
            grace_max: catalogue.grace_max_of(plan, metric).map(Number),
        });
        Self {
            tier: plan.tier.clone(),
            name: plan.name.clone(),
            price_amount: plan.price.amount,
            currency: plan.price.currency.clone(),
            interval: plan.price.interval,
            prices: plan.offers().iter().map(PriceView::of).collect(),
            allowance_period: plan.allowance_period,
            seats: plan.seats.as_ref().map(|seats| SeatsView {
                metric: seats.metric.clone(),
                included: seats.included,
                mode: seats.mode,
            }),
            quotas: quotas.collect(),
            features: catalogue.features_of(plan),
        }
    }
}

impl PriceView {
    /// Of a plan that is bought at its price.
    fn of(plan: &Plan) -> Self {
        Self {
            price_amount: plan.price.amount,
            currency: plan.price.currency.clone(),
            interval: plan.price.interval,
            seat_amount: plan.seat_price().map(|seat| seat.amount),
        }
    }
}

fn rates_of(plan: &Plan, quota: &Quota) -> BTreeMap<String, String> {
    let rates = plan.rates(quota).into_iter();
    rates
        .map(|(currency, rate)| (currency, rate.normalize().to_string()))
        .collect()
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

/// List the plans, from the lowest tier to the highest
#[utoipa::path(
    get,
    path = "/api/billing/plans",
    operation_id = "listPlans",
    tag = "Plans",
    params(ListQuery),
    responses((status = 200, description = "A page of the catalogue.", body = Page<PlanView>)),
)]
async fn list(
    State(plans): State<Plans>,
    caller: Principal,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<PlanView>>, Problem> {
    let organization = caller.organization_id;
    let cursors = plans.shared.cursors.of(organization, "plans", &()).await?;
    let last: Option<String> = cursors.place(query.cursor.as_deref())?;
    let shown = last.and_then(|tier| plans.catalogue.rank(&tier));
    let after = shown.map_or(0, |rank| rank + 1);
    let rest = plans.catalogue.plans().iter().skip(after);
    let rest = rest.filter(|plan| !plan.retired);
    let rows = rest.take(query.limit.rows() as usize).collect();
    let page = Page::of(rows, query.limit, &cursors, |plan: &&Plan| {
        plan.tier.clone()
    });
    let show = |plan: &Plan| PlanView::of(plan, &plans.catalogue);
    Ok(Json(page.map(show)))
}
