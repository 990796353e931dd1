//! SQL for usage at changes of prices.

mod raised;

use billing_domain::quota::OverLimit;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::booking::PriceSwap;
use crate::catalogue::Aggregation;
use crate::db::words;
pub use raised::{OverSoFar, over_so_far};

/// A metric's usage in a period until its price is removed.
pub struct UsageSoFar {
    pub used: Decimal,
    pub adjustment: Decimal,
    /// The quota in force; `None` if unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// The plan whose terms these are.
    pub plan_tier: Option<String>,
    /// Whether an operator set it.
    pub overridden: bool,
    /// What the plan's price includes; `None` if unlimited.
    pub included: Option<Decimal>,
    pub rate: Option<Decimal>,
    pub currency: Option<String>,
    /// Units reported for the price before and since the swap.
    pub reported_before: Decimal,
    pub reported_since: Decimal,
}

/// Locks the accounts of `organizations`, in the ledger's order: their quotas change
/// next.
pub async fn lock_all(conn: &mut PgConnection, organizations: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas WHERE organization_id = ANY($1)
            ORDER BY organization_id, metric FOR NO KEY UPDATE"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Begins the period's total, if nothing was counted in it yet.
pub async fn begin(conn: &mut PgConnection, swap: &PriceSwap) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         SELECT q.organization_id, q.metric, $3, $4, 0 FROM usage_quotas q
          WHERE q.organization_id = $1 AND q.metric = $2
         ON CONFLICT DO NOTHING",
        swap.organization_id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        swap.period_end.to_sqlx() as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Reads an account's usage until the swap. `None` if none was counted in the period, the
/// organization has no quota, or the usage is another subscription's.
#[expect(clippy::too_many_lines, reason = "it is one query")]
pub async fn read(
    conn: &mut PgConnection,
    swap: &PriceSwap,
    aggregation: Aggregation,
) -> Result<Option<UsageSoFar>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT CASE WHEN later.units IS NULL THEN t.total
                       WHEN $8 THEN greatest(t.total - later.units, 0)
                       ELSE coalesce(until.level, 0) END AS "used!",
                  t.quota_adjustment, q.quota, q.over_limit AS "over_limit!",
                  q.overridden AS "overridden!", q.plan_quota AS included, q.overage_rate,
                  q.currency, q.plan_tier, r.before, r.since
             FROM usage_totals t
             JOIN effective_usage_quotas q
               ON q.organization_id = t.organization_id AND q.metric = t.metric
            CROSS JOIN LATERAL (
              SELECT CASE WHEN $5 THEN (n.levels_before)[1] ELSE n.sum_before END AS before,
                     CASE WHEN $5 THEN (n.levels_since)[1] ELSE n.sum_since END AS since
                FROM (
                  SELECT sum(r.units) FILTER (WHERE r.at < $4 AND r.attempted_at IS NOT NULL) AS sum_before,
                         sum(r.units) FILTER (WHERE r.at >= $4) AS sum_since,
                         array_agg(r.units ORDER BY date_trunc('second', r.at) DESC,
                                                    r.created_at DESC)
                           FILTER (WHERE r.at < $4 AND r.attempted_at IS NOT NULL) AS levels_before,
                         array_agg(r.units ORDER BY date_trunc('second', r.at) DESC,
                                                    r.created_at DESC)
                           FILTER (WHERE r.at >= $4) AS levels_since
                    FROM usage_reports r
                   WHERE r.organization_id = t.organization_id AND r.metric = t.metric
                     AND r.period_start = t.period_start AND r.refused_at IS NULL
                     AND r.at >= coalesce(t.metered_since, '-infinity')) n) r
            CROSS JOIN LATERAL (
              -- An event is dated ahead by minutes at most.
              SELECT sum(e.quantity) AS units FROM usage_events e
               WHERE e.organization_id = t.organization_id AND e.metric = t.metric
                 AND e.period_start = t.period_start
                 AND e.recorded_at >= $7::timestamptz - interval '5 minutes'
                 AND coalesce(e.occurred_at, e.recorded_at) >= $7) later
            CROSS JOIN LATERAL (
              SELECT CASE WHEN $5 THEN (array_agg(e.quantity ORDER BY e.at DESC,
                                                  e.event_id COLLATE "C" DESC))[1]
                          ELSE max(e.quantity) END AS level
                FROM (SELECT quantity, event_id, coalesce(occurred_at, recorded_at) AS at
                        FROM usage_events
                       WHERE NOT $8 AND $7::timestamptz IS NOT NULL
                         AND organization_id = t.organization_id
                         AND metric = t.metric AND period_start = t.period_start) e
               WHERE e.at < $7) until
            WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $3
              -- What another subscription's reports tell Stripe is not this one's to charge.
              AND $6 = billing_usage_subscription(t.organization_id, t.period_start, q.plan_tier)"#,
        swap.organization_id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        swap.at.to_sqlx() as _,
        aggregation == Aggregation::Last,
        swap.subscription_id,
        swap.counts_anew_from.map(|at| at.to_sqlx()) as _,
        aggregation == Aggregation::Sum
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(UsageSoFar {
            used: row.used,
            adjustment: row.quota_adjustment,
            quota: row.quota,
            over_limit: words::decode("effective_usage_quotas.over_limit", &row.over_limit)?,
            plan_tier: row.plan_tier,
            overridden: row.overridden,
            included: row.included,
            rate: row.overage_rate,
            currency: row.currency,
            reported_before: row.before.unwrap_or_default(),
            reported_since: row.since.unwrap_or_default(),
        })
    })
    .transpose()
}

/// A charge to enter.
pub struct NewCharge<'a> {
    pub id: Uuid,
    pub price_id: &'a str,
    pub units: Decimal,
    pub rate: Decimal,
    pub amount: i64,
    pub currency: &'a str,
    /// Who charges it: `change`, `stripe` or `item`.
    pub by: &'static str,
}

/// Enters a charge. Returns false if it was entered before.
pub async fn enter(
    conn: &mut PgConnection,
    swap: &PriceSwap,
    charge: &NewCharge<'_>,
) -> Result<bool, sqlx::Error> {
    let entered = sqlx::query_scalar!(
        "INSERT INTO usage_charges (organization_id, id, metric, period_start, stripe_customer_id,
                                    stripe_subscription_id, stripe_price_id, units, overage_rate,
                                    amount, currency, changed_at, charged_by, charged_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
                 CASE WHEN $13 <> 'item' THEN now() END)
         ON CONFLICT DO NOTHING RETURNING id",
        swap.organization_id,
        charge.id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        swap.customer_id,
        swap.subscription_id,
        charge.price_id,
        charge.units,
        charge.rate,
        charge.amount,
        charge.currency,
        swap.at.to_sqlx() as _,
        charge.by
    )
    .fetch_optional(conn)
    .await?;
    Ok(entered.is_some())
}

/// Raises the period's quota by what was charged, and has reports begin again at the
/// new price, for which `reported` units were reported already.
pub async fn begin_again(
    conn: &mut PgConnection,
    swap: &PriceSwap,
    charged: Decimal,
    reported: Decimal,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals
            SET quota_adjustment = least(quota_adjustment + $4, 99999999999999999999.9999),
                metered_since = $5, reported = $6
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        swap.organization_id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        charged,
        swap.at.to_sqlx() as _,
        reported
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A plan's terms for a metric.
pub struct Terms {
    pub plan_tier: String,
    /// Its quota, if usage over it has a price.
    pub overage_quota: Option<Decimal>,
}

/// The terms in force for a swap's metric; `None` without a plan's quota.
pub async fn terms(
    conn: &mut PgConnection,
    swap: &PriceSwap,
) -> Result<Option<Terms>, sqlx::Error> {
    sqlx::query_as!(
        Terms,
        r#"SELECT plan_tier, CASE WHEN over_limit = 'overage' THEN quota END AS overage_quota
             FROM usage_quotas WHERE organization_id = $1 AND metric = $2"#,
        swap.organization_id,
        swap.metric
    )
    .fetch_optional(conn)
    .await
}

/// Adds to the period's quota, or takes from it.
pub async fn add_adjustment(
    conn: &mut PgConnection,
    swap: &PriceSwap,
    added: Decimal,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals
            SET quota_adjustment = greatest(least(quota_adjustment + $4,
                  99999999999999999999.9999), -99999999999999999999.9999)
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        swap.organization_id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        added
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What may stay of the adjustment of a period's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// What raises the quota.
    Raise,
    None,
}

/// Takes back what changes within the period did to its quota, but for what `stays`.
pub async fn limit_adjustment(
    conn: &mut PgConnection,
    swap: &PriceSwap,
    stays: Adjustment,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals
            SET quota_adjustment = CASE WHEN $4 THEN greatest(quota_adjustment, 0) ELSE 0 END
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        swap.organization_id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        stays == Adjustment::Raise
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A charge whose invoice item is still to be made.
#[derive(Debug, Clone)]
pub struct OpenCharge {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub metric: String,
    pub stripe_customer_id: String,
    pub stripe_subscription_id: String,
    pub period_start: Timestamp,
    pub changed_at: Timestamp,
    pub units: Decimal,
    pub overage_rate: Decimal,
    pub amount: i64,
    pub currency: String,
    /// Whether an attempt has failed.
    pub tried: bool,
}

/// The charges whose invoice items are still to be made, of one organization or of all:
/// those that were never tried first, then the oldest. One that Stripe refused waits
/// for a day.
pub async fn open(
    conn: &mut PgConnection,
    organization_id: Option<Uuid>,
) -> Result<Vec<OpenCharge>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, id, metric, stripe_customer_id, stripe_subscription_id,
                  period_start, changed_at, units, overage_rate, amount, currency,
                  error_message IS NOT NULL AS "tried!"
             FROM usage_charges
            WHERE charged_at IS NULL AND ($1::uuid IS NULL OR organization_id = $1)
              AND (refused_at IS NULL OR refused_at < now() - interval '1 day')
            ORDER BY error_message IS NOT NULL, created_at, id, metric LIMIT 1000"#,
        organization_id
    )
    .fetch_all(conn)
    .await?;
    let charges = rows.into_iter().map(|row| OpenCharge {
        organization_id: row.organization_id,
        id: row.id,
        metric: row.metric,
        stripe_customer_id: row.stripe_customer_id,
        stripe_subscription_id: row.stripe_subscription_id,
        period_start: row.period_start.to_jiff(),
        changed_at: row.changed_at.to_jiff(),
        units: row.units,
        overage_rate: row.overage_rate,
        amount: row.amount,
        currency: row.currency,
        tried: row.tried,
    });
    Ok(charges.collect())
}

/// A charge that Stripe refused.
pub struct RefusedCharge {
    pub organization_id: Uuid,
    pub metric: String,
    pub period_start: Timestamp,
    pub changed_at: Timestamp,
    pub units: Decimal,
}

/// The charges that Stripe refused when they were last tried.
pub async fn refused(conn: &mut PgConnection) -> Result<Vec<RefusedCharge>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, metric, period_start, changed_at, units FROM usage_charges
          WHERE charged_at IS NULL AND refused_at IS NOT NULL
          ORDER BY organization_id, metric, changed_at"
    )
    .fetch_all(conn)
    .await?;
    let refused = rows.into_iter().map(|row| RefusedCharge {
        organization_id: row.organization_id,
        metric: row.metric,
        period_start: row.period_start.to_jiff(),
        changed_at: row.changed_at.to_jiff(),
        units: row.units,
    });
    Ok(refused.collect())
}

/// An attempt to make the invoice item of a charge.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// When the first one was made whose outcome is not known.
    pub since: Timestamp,
    /// Whether this is that one.
    pub first: bool,
}

/// Notes that Stripe may have the invoice item from now on. `None` if another process
/// has made it meanwhile.
pub async fn mark_attempted(
    conn: &mut PgConnection,
    charge: &OpenCharge,
) -> Result<Option<Attempt>, sqlx::Error> {
    let attempted = sqlx::query!(
        r#"UPDATE usage_charges c SET attempted_at = coalesce(c.attempted_at, now())
             FROM (SELECT attempted_at FROM usage_charges
                    WHERE organization_id = $1 AND id = $2 AND metric = $3 FOR UPDATE) old
            WHERE c.organization_id = $1 AND c.id = $2 AND c.metric = $3
              AND c.charged_at IS NULL
           RETURNING c.attempted_at AS "attempted_at!", old.attempted_at IS NULL AS "first!""#,
        charge.organization_id,
        charge.id,
        charge.metric
    )
    .fetch_optional(conn)
    .await?;
    Ok(attempted.map(|row| Attempt {
        since: row.attempted_at.to_jiff(),
        first: row.first,
    }))
}

pub async fn mark_charged(
    conn: &mut PgConnection,
    charge: &OpenCharge,
    invoice_item: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_charges
            SET charged_at = now(), stripe_invoice_item_id = $4, error_message = NULL,
                refused_at = NULL
          WHERE organization_id = $1 AND id = $2 AND metric = $3",
        charge.organization_id,
        charge.id,
        charge.metric,
        invoice_item
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records a failed attempt. If Stripe certainly has no invoice item of it, the next
/// one begins anew.
pub async fn mark_failed(
    conn: &mut PgConnection,
    charge: &OpenCharge,
    attempt: Attempt,
    error: &str,
    outcome: FailedAttempt,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_charges
            SET error_message = $4,
                refused_at = CASE WHEN $5 THEN now() END,
                attempted_at = CASE WHEN $6 AND attempted_at = $7 THEN NULL
                                    ELSE attempted_at END
          WHERE organization_id = $1 AND id = $2 AND metric = $3 AND charged_at IS NULL",
        charge.organization_id,
        charge.id,
        charge.metric,
        error,
        outcome == FailedAttempt::Refused,
        outcome != FailedAttempt::Unknown,
        attempt.since.to_sqlx() as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What is known of an attempt that made no invoice item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedAttempt {
    /// Stripe may have made it all the same.
    Unknown,
    /// Stripe has not made it, and the next attempt may succeed.
    Over,
    /// Stripe does not take it as things are.
    Refused,
}
