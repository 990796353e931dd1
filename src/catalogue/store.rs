//! SQL for what was ever sold: prices and versions of plans.

mod addons;
mod held;
mod told;

use std::collections::HashMap;

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::memory::PriceUse;
use super::{Interval, Plan};
pub use addons::{
    addon_price, addons_held, correct, has_addon_price, record_addons, stored_addons,
};
pub use held::{Holders, held_tiers, holders};
pub use told::{mark_untold, tell_items, untold};

/// What the database knows of prices and products.
#[derive(Debug, Default)]
pub struct KnownPrices {
    pub uses: HashMap<String, PriceUse>,
    /// The intervals of prices, where plans are sold by them.
    pub intervals: HashMap<String, Interval>,
    /// The plans of products all of whose prices are of one plan.
    pub products: HashMap<String, String>,
}

/// A price to remember.
#[derive(Debug, Clone, Serialize)]
pub struct NewPrice {
    pub stripe_price_id: String,
    /// Empty for an add-on's.
    pub plan_tier: String,
    pub metric: Option<String>,
    pub seats: bool,
    pub addon: Option<String>,
    pub version: Option<i32>,
    pub currency: Option<String>,
    pub recurring_interval: Option<String>,
    pub recurring_interval_count: Option<i32>,
    pub unit_amount: Option<i64>,
    pub included: Option<Decimal>,
    pub overage_rate: Option<Decimal>,
    pub lookup_key: Option<String>,
    pub stripe_product_id: Option<String>,
}

/// A stored version of a plan.
#[derive(Debug, Clone)]
pub struct StoredVersion {
    pub version: i32,
    pub digest: String,
    pub billed_digest: String,
    pub definition: Value,
}

/// A version to be stored.
#[derive(Debug)]
pub struct NewVersion<'a> {
    pub plan_tier: &'a str,
    pub digest: &'a str,
    pub billed_digest: &'a str,
    pub definition: Value,
}

pub async fn known_prices(
    conn: &mut PgConnection,
    prices: &[&str],
    products: &[&str],
) -> Result<KnownPrices, sqlx::Error> {
    let mut known = KnownPrices::default();
    let rows = sqlx::query!(
        "SELECT stripe_price_id, plan_tier, metric, seats, addon, recurring_interval,
                recurring_interval_count
           FROM billing_prices
          WHERE stripe_price_id = ANY($1)",
        prices as &[&str]
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        let (interval, count) = (row.recurring_interval, row.recurring_interval_count);
        if let Some(interval) = Interval::of(interval.as_deref(), count) {
            known
                .intervals
                .insert(row.stripe_price_id.clone(), interval);
        }
        let used = PriceUse {
            tier: row.plan_tier,
            metric: row.metric,
            seats: row.seats,
            addon: row.addon,
        };
        known.uses.insert(row.stripe_price_id, used);
    }
    // A product that is asked about has a price that is not known.
    if known.uses.len() < prices.len() && !products.is_empty() {
        let rows = sqlx::query!(
            r#"SELECT stripe_product_id AS "product!", min(plan_tier) AS "plan_tier!"
                 FROM billing_prices WHERE stripe_product_id = ANY($1) AND addon IS NULL
                GROUP BY stripe_product_id HAVING count(DISTINCT plan_tier) = 1"#,
            products as &[&str]
        )
        .fetch_all(conn)
        .await?;
        let products = rows.into_iter().map(|row| (row.product, row.plan_tier));
        known.products.extend(products);
    }
    Ok(known)
}

/// Remembers prices, and with which version each was sold. What is said anew of a price
/// counts: `plans sync` knows more than an event.
pub async fn remember(conn: &mut PgConnection, prices: &[NewPrice]) -> Result<(), sqlx::Error> {
    if prices.is_empty() {
        return Ok(());
    }
    let document =
        serde_json::to_string(prices).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "INSERT INTO billing_prices AS known (
           stripe_price_id, plan_tier, metric, seats, addon, version, currency,
           recurring_interval, recurring_interval_count, unit_amount, included, overage_rate,
           lookup_key, stripe_product_id)
         SELECT stripe_price_id, plan_tier, metric, seats, addon, version, currency,
                recurring_interval, recurring_interval_count, unit_amount, included,
                overage_rate, lookup_key, stripe_product_id
           FROM json_populate_recordset(NULL::billing_prices, $1::text::json)
          -- One order, so that two transactions never wait for each other.
          ORDER BY stripe_price_id
         ON CONFLICT (stripe_price_id) DO UPDATE SET
           version = coalesce(excluded.version, known.version),
           currency = coalesce(excluded.currency, known.currency),
           included = coalesce(excluded.included, known.included),
           overage_rate = coalesce(excluded.overage_rate, known.overage_rate),
           stripe_product_id = coalesce(excluded.stripe_product_id, known.stripe_product_id)
         WHERE (known.version, known.currency, known.included, known.overage_rate,
                known.stripe_product_id)
            IS DISTINCT FROM
               (coalesce(excluded.version, known.version),
                coalesce(excluded.currency, known.currency),
                coalesce(excluded.included, known.included),
                coalesce(excluded.overage_rate, known.overage_rate),
                coalesce(excluded.stripe_product_id, known.stripe_product_id))",
        document
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO plan_version_prices (plan_tier, version, stripe_price_id)
         SELECT plan_tier, version, stripe_price_id
           FROM json_populate_recordset(NULL::billing_prices, $1::text::json)
          WHERE version IS NOT NULL ORDER BY stripe_price_id
         ON CONFLICT DO NOTHING",
        document
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Links prices, by their ids, with versions of their plans.
pub async fn link(
    conn: &mut PgConnection,
    links: &[(String, i32, String)],
) -> Result<(), sqlx::Error> {
    let tiers: Vec<&str> = links.iter().map(|(tier, ..)| tier.as_str()).collect();
    let versions: Vec<i32> = links.iter().map(|(_, version, _)| *version).collect();
    let prices: Vec<&str> = links.iter().map(|(.., price)| price.as_str()).collect();
    sqlx::query!(
        "INSERT INTO plan_version_prices (plan_tier, version, stripe_price_id)
         SELECT * FROM unnest($1::text[], $2::integer[], $3::text[]) AS t(tier, version, price)
          ORDER BY tier, version, price
         ON CONFLICT DO NOTHING",
        &tiers as &[&str],
        &versions,
        &prices as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// All versions of a plan, oldest first.
pub async fn versions(
    conn: &mut PgConnection,
    tier: &str,
) -> Result<Vec<StoredVersion>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT version, digest, billed_digest, definition
           FROM plan_versions WHERE plan_tier = $1 ORDER BY version",
        tier
    )
    .fetch_all(conn)
    .await?;
    let versions = rows.into_iter().map(|row| StoredVersion {
        version: row.version,
        digest: row.digest,
        billed_digest: row.billed_digest,
        definition: row.definition,
    });
    Ok(versions.collect())
}

/// Stores a version, unless another process has. It is sold with the prices of the
/// versions that Stripe charges alike.
pub async fn add_version(
    conn: &mut PgConnection,
    new: &NewVersion<'_>,
) -> Result<i32, sqlx::Error> {
    let version = loop {
        // A concurrent insert of the same number is waited for; this one then tries the
        // next number.
        sqlx::query!(
            "INSERT INTO plan_versions (plan_tier, version, digest, billed_digest, definition)
             SELECT $1, coalesce(max(version), 0) + 1, $2, $3, $4
               FROM plan_versions WHERE plan_tier = $1
             ON CONFLICT DO NOTHING",
            new.plan_tier,
            new.digest,
            new.billed_digest,
            new.definition
        )
        .execute(&mut *conn)
        .await?;
        let version = sqlx::query_scalar!(
            "SELECT version FROM plan_versions WHERE plan_tier = $1 AND digest = $2",
            new.plan_tier,
            new.digest
        )
        .fetch_optional(&mut *conn)
        .await?;
        if let Some(version) = version {
            break version;
        }
    };
    sqlx::query!(
        "INSERT INTO plan_version_prices (plan_tier, version, stripe_price_id)
         SELECT DISTINCT p.plan_tier, $2::integer, p.stripe_price_id
           FROM plan_version_prices p
           JOIN plan_versions v ON v.plan_tier = p.plan_tier AND v.version = p.version
          WHERE p.plan_tier = $1 AND v.billed_digest = $3 AND v.version <> $2
         ON CONFLICT DO NOTHING",
        new.plan_tier,
        version,
        new.billed_digest
    )
    .execute(conn)
    .await?;
    Ok(version)
}

/// Links a new version with the prices that the file names and that belong to no other:
/// those with which the plan is bought at its price.
pub async fn link_prices(
    conn: &mut PgConnection,
    plan: &Plan,
    version: i32,
) -> Result<(), sqlx::Error> {
    let keys = plan.lookup_keys();
    let seat = plan.seat_price();
    let mut ids = plan.price.stripe_price_ids.clone();
    ids.extend(seat.iter().flat_map(|seat| seat.stripe_price_ids.clone()));
    sqlx::query!(
        "INSERT INTO plan_version_prices (plan_tier, version, stripe_price_id)
         SELECT $1, $2, b.stripe_price_id FROM billing_prices b
          WHERE b.plan_tier = $1 AND b.addon IS NULL
            AND (b.lookup_key = ANY($3) OR b.stripe_price_id = ANY($4))
            -- A fee of another amount is of an earlier version.
            AND (b.metric IS NOT NULL OR b.unit_amount IS NULL
                 OR (b.unit_amount, b.currency, b.recurring_interval)
                  = (CASE WHEN b.seats THEN $8::bigint ELSE $5::bigint END, $6, $7))
            AND NOT EXISTS (SELECT FROM plan_version_prices p
                             WHERE p.plan_tier = $1 AND p.stripe_price_id = b.stripe_price_id)
         ON CONFLICT DO NOTHING",
        plan.tier,
        version,
        &keys,
        &ids,
        plan.price.amount,
        plan.price.currency,
        plan.price.interval.as_str(),
        seat.map(|seat| seat.amount)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A price that a version is sold with.
pub struct RecordedPrice {
    /// `None` for what is licensed.
    pub metric: Option<String>,
    /// Whether it is a licensed seat's, beside the fee.
    pub seats: bool,
    pub stripe_price_id: String,
}

/// The prices that a version is sold with, where the plan is bought at its price.
pub async fn prices_of_version(
    conn: &mut PgConnection,
    plan: &Plan,
    version: i32,
) -> Result<Vec<RecordedPrice>, sqlx::Error> {
    sqlx::query_as!(
        RecordedPrice,
        "SELECT DISTINCT ON (b.metric, b.seats) b.metric, b.seats, b.stripe_price_id
           FROM plan_version_prices p JOIN billing_prices b USING (stripe_price_id)
          WHERE p.plan_tier = $1 AND p.version = $2 AND b.plan_tier = $1
            -- Rows of before may not know.
            AND (b.currency IS NULL OR lower(b.currency) = $3)
            AND (b.recurring_interval IS NULL
                 OR b.recurring_interval = CASE WHEN b.metric IS NULL THEN $4 ELSE $5 END)
          -- One that it was sold with, before one that only costs the same.
          ORDER BY b.metric, b.seats, b.version IS NULL, b.first_seen_at DESC,
                   b.stripe_price_id",
        plan.tier,
        version,
        plan.price.currency,
        plan.price.interval.as_str(),
        plan.usage_interval().as_str()
    )
    .fetch_all(conn)
    .await
}

/// A version with the prices that it is sold with.
pub struct PricedVersion {
    pub plan_tier: String,
    pub version: i32,
    pub created_at: jiff_sqlx::Timestamp,
    pub price_ids: Vec<String>,
    /// `None` if the terms are known already.
    pub definition: Option<Value>,
}

/// All versions; the terms only of those that are not among `known`.
pub async fn priced_versions(
    conn: &mut PgConnection,
    known: &[(String, i32)],
) -> Result<Vec<PricedVersion>, sqlx::Error> {
    let (tiers, versions): (Vec<String>, Vec<i32>) = known.iter().cloned().unzip();
    sqlx::query_as!(
        PricedVersion,
        r#"SELECT v.plan_tier AS "plan_tier!", v.version AS "version!",
                  v.created_at AS "created_at!",
                  ARRAY(SELECT p.stripe_price_id FROM plan_version_prices p
                         WHERE p.plan_tier = v.plan_tier AND p.version = v.version)
                    AS "price_ids!",
                  CASE WHEN k.version IS NULL THEN v.definition END AS definition
             FROM plan_versions v
             LEFT JOIN unnest($1::text[], $2::integer[]) AS k(plan_tier, version)
               ON k.plan_tier = v.plan_tier AND k.version = v.version"#,
        &tiers,
        &versions
    )
    .fetch_all(conn)
    .await
}

/// A version of a plan.
#[derive(Debug)]
pub struct HeldVersion {
    pub plan_tier: String,
    pub version: i32,
    pub digest: String,
    pub definition: Value,
    pub created_at: jiff_sqlx::Timestamp,
}

/// All versions of all plans, oldest first.
pub async fn all_versions(conn: &mut PgConnection) -> Result<Vec<HeldVersion>, sqlx::Error> {
    sqlx::query_as!(
        HeldVersion,
        "SELECT plan_tier, version, digest, definition, created_at FROM plan_versions
          ORDER BY plan_tier, version"
    )
    .fetch_all(conn)
    .await
}

/// Records how each metric is aggregated from now on.
pub async fn record_metrics(
    conn: &mut PgConnection,
    metrics: &[&str],
    aggregations: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO catalogue_metrics AS known (metric, aggregation)
         SELECT metric, aggregation FROM unnest($1::text[], $2::text[]) AS t(metric, aggregation)
          ORDER BY metric
         ON CONFLICT (metric) DO UPDATE SET aggregation = excluded.aggregation, updated_at = now()
          WHERE known.aggregation <> excluded.aggregation",
        metrics as &[&str],
        aggregations as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
