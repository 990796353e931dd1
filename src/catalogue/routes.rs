//! `GET /api/billing/plans`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::features::FeatureValue;
use super::{
    Addon, AllowancePeriod, Catalogue, Interval, OnPlanChange, OverLimit, Plan, Price, Quota,
    SeatMode,
};
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::number::Number;
use crate::server::pagination::page::{Listed, Page, PageRequest, Paging};
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
    /// All prices, by currency and interval. `priceAmount`, `currency` and `interval` above
    /// are the default one.
    prices: Vec<PriceView>,
    /// The period of its quotas: a month, or the one that is paid.
    allowance_period: AllowancePeriod,
    /// Null for a plan without seats.
    #[schema(required)]
    seats: Option<SeatsView>,
    quotas: Vec<QuotaView>,
    /// By name; a text that is off is left out.
    features: BTreeMap<String, FeatureValue>,
    /// What may be bought beside it.
    addons: Vec<AddonView>,
}

/// What may be bought beside a plan.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Addon)]
struct AddonView {
    #[schema(example = "extra_tokens")]
    id: String,
    #[schema(example = "Extra tokens")]
    name: String,
    /// By currency and interval: it is paid as the plan is.
    prices: Vec<AddonPriceView>,
    /// What one adds to the plan's quotas.
    quotas: Vec<AddedQuotaView>,
    /// What it gives: a flag is on, a number is added for each one, a text takes the place
    /// of the plan's.
    features: BTreeMap<String, FeatureValue>,
    /// What becomes of it when the plan changes, unless who changes it says so.
    on_plan_change: OnPlanChange,
    /// The most that one subscription has.
    max_quantity: u32,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AddonPrice)]
struct AddonPriceView {
    /// Of one, per interval, in the currency's minor unit.
    #[schema(example = 1500)]
    price_amount: i64,
    /// ISO 4217, in lower case.
    #[schema(example = "usd")]
    currency: String,
    interval: Interval,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AddedQuota)]
struct AddedQuotaView {
    #[schema(example = "llm_tokens")]
    metric: String,
    /// Null: it makes the metric unlimited.
    #[schema(required)]
    quota: Option<Number>,
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
            addons: catalogue.addons_for(plan).map(AddonView::of).collect(),
        }
    }
}

impl AddonView {
    fn of(addon: &Addon) -> Self {
        let mut prices: Vec<&Price> = addon.prices.iter().collect();
        prices.sort_by_key(|price| price.point());
        let prices = prices.into_iter().map(|price| AddonPriceView {
            price_amount: price.amount,
            currency: price.currency.clone(),
            interval: price.interval,
        });
        let quotas = addon.quotas.iter();
        let quotas = quotas.map(|(metric, units)| AddedQuotaView {
            metric: metric.clone(),
            quota: units.map(Number),
        });
        Self {
            id: addon.id.clone(),
            name: addon.name.clone(),
            prices: prices.collect(),
            quotas: quotas.collect(),
            features: addon.features.clone(),
            on_plan_change: addon.on_plan_change,
            max_quantity: addon.max_quantity,
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

impl Listed for &Plan {
    type Position = String;

    fn position(&self) -> String {
        self.tier.clone()
    }
}

/// List the plans, from the lowest tier to the highest
#[utoipa::path(
    get,
    path = "/api/billing/plans",
    operation_id = "listPlans",
    tag = "Plans",
    params(Paging),
    responses((status = 200, description = "A page of the catalogue.", body = Page<PlanView>)),
)]
async fn list(
    State(plans): State<Plans>,
    caller: Principal,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<PlanView>>, Problem> {
    let organization = caller.organization_id;
    let page: PageRequest<&Plan> = plans.shared.page(organization, "plans", &paging).await?;
    let shown = page.after.as_ref();
    let shown = shown.and_then(|tier| plans.catalogue.rank(tier));
    let after = shown.map_or(0, |rank| rank + 1);
    let rest = plans.catalogue.plans().iter().skip(after);
    let rest = rest.filter(|plan| !plan.retired);
    let rows = rest.take(page.rows() as usize).collect();
    let show = |plan: &Plan| PlanView::of(plan, &plans.catalogue);
    Ok(Json(page.of(rows).map(show)))
}
