//! Books what a change of prices within a billing period means for its usage.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::quantity::whole_units;
use billing_domain::quota::{Aggregation, OverLimit};

use super::store::{self, Adjustment, NewCharge, UsageSoFar};
use super::{CHARGED, UsageCharge};
use crate::audit::{Actor, NewEntry};
use crate::catalogue::{Catalogue, Plan, UsageAtChanges};
use crate::metering::usage;

/// The price that charges a metric gives way to another one, or to none, while the
/// subscription goes on.
#[derive(Debug, Clone)]
pub struct PriceSwap {
    pub organization_id: Uuid,
    pub subscription_id: String,
    pub customer_id: String,
    pub metric: String,
    /// Of the period in which it happens.
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// When Stripe begins to count usage at the new price.
    pub at: Timestamp,
    /// Usage from then on is the new price's; that before it is the old one's. `None` if
    /// that time is not known: then all usage so far is the old one's.
    pub counts_anew_from: Option<Timestamp>,
    /// `None` if nothing charged the metric before.
    pub old_price: Option<String>,
    pub new_price: Option<String>,
    /// In flexible billing, Stripe charges what was reported at the old price.
    pub flexible: bool,
    /// Our change, and what it has Stripe charge; `None` for a change that was made
    /// in Stripe.
    pub ours: Option<(Uuid, Vec<UsageCharge>)>,
    /// Whether the period goes on; otherwise another one begins with it.
    pub same_period: bool,
    /// Whether the plan may have changed before it was seen, as the list of items was cut.
    pub is_late: bool,
}

/// A swap that was booked, with what its period's quota was.
#[derive(Debug, Clone)]
pub struct Booked {
    pub(super) swap: PriceSwap,
    pub(super) quota: Option<Decimal>,
    pub(super) used: Decimal,
    /// What earlier changes have added to the period's quota.
    pub(super) adjustment: Decimal,
    pub(super) overridden: bool,
    /// What is charged, and by whom; `None` if nothing is.
    pub(super) charged: Option<Charged>,
}

#[derive(Debug, Clone)]
pub(super) struct Charged {
    pub id: Uuid,
    pub units: Decimal,
    pub amount: i64,
    pub currency: String,
    pub by: &'static str,
}

impl Booked {
    /// Whether it is a swap of an organization's price for a metric.
    pub(super) fn is_of(&self, organization_id: Uuid, metric: &str) -> bool {
        self.swap.organization_id == organization_id && self.swap.metric == metric
    }

    /// The audit entry of the charge.
    pub fn entry(&self, actor: Actor) -> Option<NewEntry> {
        let charged = self.charged.as_ref()?;
        Some(NewEntry {
            organization_id: self.swap.organization_id,
            action: CHARGED,
            actor,
            resource_type: "usage_charge",
            resource_id: charged.id.to_string(),
            before: None,
            after: Some(json!({
                "metric": self.swap.metric,
                "periodStart": self.swap.period_start,
                "units": charged.units.normalize(),
                "amount": charged.amount,
                "currency": charged.currency,
                "chargedBy": charged.by,
            })),
            metadata: json!({"stripe_subscription_id": self.swap.subscription_id}),
            client: None,
            reason: None,
        })
    }
}

/// Books `swaps`: what is charged, and from when on Stripe counts at the new price.
/// Call it before the organizations' quotas change. Locks their accounts.
pub async fn book(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    mut swaps: Vec<PriceSwap>,
) -> Result<Vec<Booked>, sqlx::Error> {
    // Stripe charges a period that ends at the prices that it had.
    swaps.retain(|swap| swap.same_period);
    if swaps.is_empty() {
        return Ok(Vec::new());
    }
    let organizations: BTreeSet<Uuid> = swaps.iter().map(|swap| swap.organization_id).collect();
    let organizations = Vec::from_iter(organizations);
    store::lock_all(conn, &organizations).await?;
    let prorates = catalogue.usage_at_changes() == UsageAtChanges::Prorate;
    let mut booked = Vec::new();
    for swap in swaps {
        if prorates && swap.new_price.is_some() {
            // Its quota is prorated whether or not anything is used yet.
            store::begin(conn, &swap).await?;
        }
        let aggregation = catalogue
            .metric(&swap.metric)
            .map_or(Aggregation::Sum, |metric| metric.aggregation);
        let Some(mut so_far) = store::read(conn, &swap, aggregation).await? else {
            continue;
        };
        if swap.is_late {
            so_far.go_back(catalogue, &swap);
        }
        let charged = charge(conn, catalogue, &swap, &so_far).await?;
        let units = charged
            .as_ref()
            .map_or(Decimal::ZERO, |charged| charged.units);
        store::begin_again(conn, &swap, units, so_far.reported_since).await?;
        booked.push(Booked {
            quota: so_far.quota,
            used: so_far.used,
            adjustment: so_far.adjustment,
            overridden: so_far.overridden,
            charged,
            swap,
        });
    }
    Ok(booked)
}

/// Enters what is charged for the usage so far; `None` if that is nothing, or was
/// entered before.
async fn charge(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    swap: &PriceSwap,
    so_far: &UsageSoFar,
) -> Result<Option<Charged>, sqlx::Error> {
    let Some(old_price) = &swap.old_price else {
        return Ok(None);
    };
    let told = swap.ours.as_ref().filter(|_| !swap.flexible);
    let (units, by) = match told {
        Some((_, charges)) => {
            let mut told = charges.iter().filter(|one| one.metric == swap.metric);
            let told = told.find(|one| one.period_start == swap.period_start);
            (told.map_or(Decimal::ZERO, |one| one.units), "change")
        }
        None if swap.flexible => (so_far.charged_by_stripe(), "stripe"),
        None if keeps_usage(catalogue, swap) => (Decimal::ZERO, "item"),
        None => (so_far.over(), "item"),
    };
    let (Some(rate), Some(currency)) = (so_far.rate, &so_far.currency) else {
        return Ok(None);
    };
    let amount = usage::overage_amount(units, rate, currency).filter(|amount| *amount > 0);
    let Some(amount) = amount else {
        return Ok(None);
    };
    let id = id_of(swap);
    let new = NewCharge {
        id,
        price_id: old_price,
        units,
        rate,
        amount,
        currency,
        by,
    };
    let entered = store::enter(conn, swap, &new).await?;
    Ok(entered.then(|| Charged {
        id,
        units,
        amount,
        currency: currency.clone(),
        by,
    }))
}

/// Whether the period's end charges the usage so far: where quotas are prorated, and
/// there still is a price.
fn keeps_usage(catalogue: &Catalogue, swap: &PriceSwap) -> bool {
    catalogue.usage_at_changes() == UsageAtChanges::Prorate && swap.new_price.is_some()
}

/// One id for one swap, whichever event or answer tells of it, and how often.
fn id_of(swap: &PriceSwap) -> Uuid {
    if let Some((change, _)) = &swap.ours {
        return *change;
    }
    let what = format!(
        "{}\n{:?}\n{:?}\n{}",
        swap.subscription_id,
        swap.old_price,
        swap.new_price,
        swap.at.as_second()
    );
    let digest = Sha256::digest(what);
    let bytes = digest.first_chunk::<16>().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl UsageSoFar {
    /// Puts the terms of the price that is gone in the place of those of another plan, which
    /// the organization has by now.
    fn go_back(&mut self, catalogue: &Catalogue, swap: &PriceSwap) {
        let price = swap.old_price.as_deref();
        let Some(plan) = price.and_then(|price| catalogue.terms_of_price(price)) else {
            return;
        };
        let plan = plan.paid_in(self.currency.as_deref(), None);
        let Some(terms) = plan.quotas.get(&swap.metric) else {
            return;
        };
        if self.plan_tier.as_deref() == Some(&*plan.tier) {
            return;
        }
        if !self.overridden {
            (self.quota, self.over_limit) = (terms.quota, terms.over_limit);
        }
        self.included = terms.quota;
        self.rate = terms.overage_rate;
    }

    /// Whole units over the quota that have a price.
    fn over(&self) -> Decimal {
        let Some(quota) = self.quota.filter(|_| self.over_limit == OverLimit::Overage) else {
            return Decimal::ZERO;
        };
        whole_units((self.used - self.adjustment - quota).max(Decimal::ZERO))
    }

    /// The units that Stripe charges at the price that is removed: what it was told
    /// before, less what the price includes.
    fn charged_by_stripe(&self) -> Decimal {
        let included = self.included.unwrap_or(Decimal::MAX);
        (self.reported_before - included).max(Decimal::ZERO)
    }
}

/// Sets what each booked swap adds to its period's quota, or takes from it: where the
/// catalogue says so, the period has the plans' quotas in proportion to their time in
/// it. Call it once the new plan's quotas are there.
pub async fn adjust(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    booked: &[Booked],
) -> Result<(), sqlx::Error> {
    let prorates = catalogue.usage_at_changes() == UsageAtChanges::Prorate;
    for one in booked.iter().filter(|one| !one.overridden) {
        let swap = &one.swap;
        let Some(new) = store::terms(conn, swap).await? else {
            continue;
        };
        let licensed = catalogue
            .plan(&new.plan_tier)
            .and_then(Plan::licensed_seats)
            .is_some_and(|seats| seats.metric == swap.metric);
        if licensed {
            // What was bought is the limit.
            store::limit_adjustment(conn, swap, Adjustment::None).await?;
        } else if prorates && !swap.flexible {
            prorate(conn, one, new.overage_quota).await?;
        }
    }
    Ok(())
}

/// Adds the difference between the prorated quota and `new`, the new plan's.
async fn prorate(
    conn: &mut PgConnection,
    booked: &Booked,
    new: Option<Decimal>,
) -> Result<(), sqlx::Error> {
    let swap = &booked.swap;
    let new = new.filter(|_| swap.new_price.is_some());
    let (Some(new), Some(elapsed)) = (new, elapsed(swap)) else {
        // Without a price there is nothing to prorate: a limit is the plan's own.
        return store::limit_adjustment(conn, swap, Adjustment::Raise).await;
    };
    let added = match booked.quota {
        Some(old) => (old - new) * elapsed,
        // What was used of an unlimited quota is covered.
        None => (booked.used - new * elapsed - booked.adjustment).max(Decimal::ZERO),
    };
    store::add_adjustment(conn, swap, added.round_dp(4)).await
}

/// The share of the period that is over at the swap.
fn elapsed(swap: &PriceSwap) -> Option<Decimal> {
    let secs = |from: Timestamp, to: Timestamp| Decimal::from(to.as_second() - from.as_second());
    let whole = secs(swap.period_start, swap.period_end);
    let over = secs(swap.period_start, swap.at).max(Decimal::ZERO);
    over.min(whole).checked_div(whole)
}
