//! What a sync found in Stripe is remembered: versions of plans with their prices, and
//! the prices that were sold before.

use billing_domain::money;
use rust_decimal::Decimal;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::sync::Synced;
use super::{Catalogue, Interval, Plan, store, versions};
use crate::audit;
use crate::db::WorkerTx;
use crate::stripe::client::{Price, Tier};

/// A price of a plan or an add-on in Stripe.
#[derive(Debug)]
pub struct SyncedPrice {
    /// Empty for an add-on's.
    pub tier: String,
    /// `None` for what is licensed.
    pub metric: Option<String>,
    /// Whether it is a licensed seat's, beside the fee.
    pub seats: bool,
    pub addon: Option<String>,
    pub price: Price,
}

/// Records the plans' versions with their prices, and the former prices of their
/// products. What a subscription pays for stays known, whatever the file says.
pub async fn record(
    pool: &PgPool,
    catalogue: &Catalogue,
    synced: &Synced,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let (mut prices, mut links) = (Vec::new(), Vec::new());
    for plan in catalogue.file_plans() {
        let version = versions::add(tx.conn(), plan).await?;
        let known = store::versions(tx.conn(), &plan.tier).await?;
        let known: Vec<(i32, Plan)> = (known.into_iter())
            .filter_map(|one| Some((one.version, versions::read_terms(one.definition)?)))
            .collect();
        let of_plan = |one: &&SyncedPrice| one.addon.is_none() && one.tier == plan.tier;
        for sold in synced.sold.iter().filter(of_plan) {
            prices.push(sold.known(Some(version)));
            links.extend(sold.links(&known));
        }
        for former in synced.former.iter().filter(of_plan) {
            prices.push(former.known(None));
            links.extend(former.links(&known));
        }
    }
    let of_addons = synced.sold.iter().chain(&synced.former);
    let of_addons = of_addons.filter(|one| one.addon.is_some());
    prices.extend(of_addons.map(|one| one.known(None)));
    store::remember(tx.conn(), &prices).await?;
    store::link(tx.conn(), &links).await?;
    let sold: Vec<_> = synced.sold.iter().map(|one| one.known(None)).collect();
    let mut corrected = store::correct(tx.conn(), &sold).await?;
    let named = catalogue.addon_price_ids();
    corrected.extend(store::correct(tx.conn(), &named).await?);
    tx.commit().await?;
    mark_untold(pool, &corrected).await
}

/// Has subscriptions whose prices are known only now, or better (`corrected`), mirrored
/// anew, a few organizations at a time. One that somebody holds is waited for, alone.
pub(super) async fn mark_untold(pool: &PgPool, corrected: &[String]) -> Result<(), sqlx::Error> {
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let untold = store::untold(tx.conn(), corrected).await?;
        let Some(first) = untold.first() else {
            return Ok(());
        };
        let (_chains, free) = audit::lock_free_chains(tx.conn(), &untold).await?;
        let mut free: Vec<Uuid> = free.into_iter().collect();
        if free.is_empty() {
            audit::lock_chains(tx.conn(), &[*first]).await?;
            free.push(*first);
        }
        store::mark_untold(tx.conn(), &free, corrected).await?;
        tx.commit().await?;
    }
}

impl SyncedPrice {
    /// The versions whose terms the price charges.
    fn links<'a>(
        &'a self,
        versions: &'a [(i32, Plan)],
    ) -> impl Iterator<Item = (String, i32, String)> + 'a {
        let charges = |terms: &Plan| {
            let mut offers = terms.offers().into_iter();
            offers.any(|offer| match &self.metric {
                Some(metric) => is_usage_of(&self.price, &offer, metric),
                None if self.seats => is_seat_of(&self.price, &offer),
                None => is_fee_of(&self.price, &offer),
            })
        };
        (versions.iter())
            .filter(move |(_, terms)| charges(terms))
            .map(|(version, _)| (self.tier.clone(), *version, self.price.id.clone()))
    }

    fn known(&self, version: Option<i32>) -> store::NewPrice {
        let recurring = self.price.recurring.as_ref();
        let usage = (self.metric.is_some())
            .then(|| usage_of(&self.price))
            .flatten();
        let (included, rate) = usage.unzip();
        store::NewPrice {
            stripe_price_id: self.price.id.clone(),
            plan_tier: self.tier.clone(),
            metric: self.metric.clone(),
            seats: self.seats,
            addon: self.addon.clone(),
            version,
            currency: Some(self.price.currency.clone()),
            recurring_interval: recurring.map(|recurring| recurring.interval.clone()),
            recurring_interval_count: recurring
                .and_then(|recurring| recurring.interval_count.try_into().ok()),
            unit_amount: self.price.unit_amount,
            included,
            overage_rate: rate,
            lookup_key: self.price.lookup_key.clone(),
            stripe_product_id: Some(self.price.product.clone()),
        }
    }
}

/// The included units and the rate of each further one, in major units, if the price
/// is one that this service makes.
fn usage_of(price: &Price) -> Option<(Decimal, Decimal)> {
    let tiers = price.tiers.as_deref()?;
    let (included, last) = match tiers {
        [only] => (0, only),
        [free, rest] if decimal(free)?.is_zero() => (free.up_to?, rest),
        _ => return None,
    };
    let factor = Decimal::from(10_i64.pow(money::decimals(&price.currency)));
    Some((included.into(), decimal(last)?.checked_div(factor)?))
}

fn decimal(tier: &Tier) -> Option<Decimal> {
    tier.unit_amount_decimal.as_deref()?.parse().ok()
}

/// Whether a price in Stripe is the fee of a plan that is bought at its price.
pub fn is_fee_of(price: &Price, plan: &Plan) -> bool {
    is_licensed(price, plan.price.amount) && has_rhythm(price, plan, plan.price.interval)
}

/// Whether a price in Stripe is that of a plan's licensed seats.
pub fn is_seat_of(price: &Price, plan: &Plan) -> bool {
    let seat = plan.seat_price();
    seat.is_some_and(|seat| is_licensed(price, seat.amount))
        && has_rhythm(price, plan, plan.price.interval)
}

/// Whether a price in Stripe is one that an add-on is sold at.
pub fn is_addon_price(price: &Price, sold: &super::Price) -> bool {
    let interval = sold.interval.as_str();
    let recurring = price.recurring.as_ref();
    is_licensed(price, sold.amount)
        && price.currency.eq_ignore_ascii_case(&sold.currency)
        && recurring.is_some_and(|one| one.interval == interval && one.interval_count == 1)
}

fn is_licensed(price: &Price, amount: i64) -> bool {
    let recurring = price.recurring.as_ref();
    let licensed = recurring.is_some_and(|recurring| recurring.usage_type == "licensed");
    licensed && price.unit_amount == Some(amount)
}

/// Whether a price in Stripe charges a plan's usage of a metric.
pub fn is_usage_of(price: &Price, plan: &Plan, metric: &str) -> bool {
    let Some(quota) = plan.quotas.get(metric) else {
        return false;
    };
    let terms = (
        quota.quota.unwrap_or_default(),
        quota.overage_rate.unwrap_or_default(),
    );
    usage_of(price) == Some(terms) && has_rhythm(price, plan, plan.usage_interval())
}

fn has_rhythm(price: &Price, plan: &Plan, interval: Interval) -> bool {
    let interval = interval.as_str();
    let recurring = price.recurring.as_ref();
    price.currency.eq_ignore_ascii_case(&plan.price.currency)
        && recurring.is_some_and(|one| one.interval == interval && one.interval_count == 1)
}
