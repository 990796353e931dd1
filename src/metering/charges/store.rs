//! SQL for usage at changes of prices.

use billing_domain::quota::OverLimit;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::booking::PriceSwap;

/// A metric's usage in a period until its price is removed.
pub struct UsageSoFar {
    pub total: Decimal,
    pub adjustment: Decimal,
    /// The quota in force; `None` if unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// Whether an operator set it.
    pub overridden: bool,
    /// What the plan's price includes; `None` if unlimited.
    pub included: Option<Decimal>,
    pub rate: Option<Decimal>,
    pub currency: Option<String>,
    /// Units reported for the price before and since the swap, as a sum and as a
    /// level.
    pub reported_before: Decimal,
    pub level_before: Decimal,
    pub reported_since: Decimal,
    pub level_since: Decimal,
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

/// Reads an account's usage; `None` if none was counted in the period, or
/// the organization has no quota.
pub async fn read(
    conn: &mut PgConnection,
    swap: &PriceSwap,
) -> Result<Option<UsageSoFar>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT t.total, t.quota_adjustment,
                  CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
                  coalesce(v.over_limit, q.over_limit) AS "over_limit!",
                  v.metric IS NOT NULL AS "overridden!", q.quota AS included, q.overage_rate,
                  q.currency, r.sum_before AS "sum_before!", r.level_before AS "level_before!",
                  r.sum_since AS "sum_since!", r.level_since AS "level_since!"
             FROM usage_totals t
             JOIN usage_quotas q ON q.organization_id = t.organization_id AND q.metric = t.metric
             LEFT JOIN usage_quota_overrides v
               ON v.organization_id = t.organization_id AND v.metric = t.metric
            CROSS JOIN LATERAL (
              SELECT coalesce(sum(r.units) FILTER (WHERE r.at < $4), 0) AS sum_before,
                     coalesce((array_agg(r.units ORDER BY date_trunc('second', r.at) DESC,
                                                          r.created_at DESC)
                                 FILTER (WHERE r.at < $4))[1], 0) AS level_before,
                     coalesce(sum(r.units) FILTER (WHERE r.at >= $4), 0) AS sum_since,
                     coalesce((array_agg(r.units ORDER BY date_trunc('second', r.at) DESC,
                                                          r.created_at DESC)
                                 FILTER (WHERE r.at >= $4))[1], 0) AS level_since
                FROM usage_reports r
               WHERE r.organization_id = t.organization_id AND r.metric = t.metric
                 AND r.period_start = t.period_start AND r.refused_at IS NULL
                 AND r.at >= coalesce(t.metered_since, '-infinity')) r
            WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $3"#,
        swap.organization_id,
        swap.metric,
        swap.period_start.to_sqlx() as _,
        swap.at.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| UsageSoFar {
        total: row.total,
        adjustment: row.quota_adjustment,
        quota: row.quota,
        // An unknown word charges nothing.
        over_limit: OverLimit::named(&row.over_limit).unwrap_or(OverLimit::Hard),
        overridden: row.overridden,
        included: row.included,
        rate: row.overage_rate,
        currency: row.currency,
        reported_before: row.sum_before,
        level_before: row.level_before,
        reported_since: row.sum_since,
        level_since: row.level_since,
    }))
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
            SET quota_adjustment = quota_adjustment + $4,
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

/// The plan's quota of a metric, if usage over it has a price.
pub async fn quota(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
) -> Result<Option<Decimal>, sqlx::Error> {
    let quota = sqlx::query_scalar!(
        "SELECT quota FROM usage_quotas
          WHERE organization_id = $1 AND metric = $2 AND over_limit = 'overage'",
        organization_id,
        metric
    )
    .fetch_optional(conn)
    .await?;
    Ok(quota.flatten())
}

/// Adds to the period's quota, or takes from it.
pub async fn add_adjustment(
    conn: &mut PgConnection,
    swap: &PriceSwap,
    added: Decimal,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals SET quota_adjustment = quota_adjustment + $4
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
}

/// The charges whose invoice items are still to be made, oldest first.
pub async fn open(conn: &mut PgConnection) -> Result<Vec<OpenCharge>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, id, metric, stripe_customer_id, stripe_subscription_id,
                period_start, changed_at, units, overage_rate, amount, currency
           FROM usage_charges WHERE charged_at IS NULL ORDER BY created_at, id, metric LIMIT 1000"
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
    });
    Ok(charges.collect())
}

/// Notes that Stripe may have the invoice item from now on. Returns the time of the first
/// attempt, or `None` if another process has made it meanwhile.
pub async fn mark_attempted(
    conn: &mut PgConnection,
    charge: &OpenCharge,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let attempted = sqlx::query!(
        r#"UPDATE usage_charges SET attempted_at = coalesce(attempted_at, now())
            WHERE organization_id = $1 AND id = $2 AND metric = $3 AND charged_at IS NULL
           RETURNING attempted_at AS "attempted_at!""#,
        charge.organization_id,
        charge.id,
        charge.metric
    )
    .fetch_optional(conn)
    .await?;
    Ok(attempted.map(|row| row.attempted_at.to_jiff()))
}

pub async fn mark_charged(
    conn: &mut PgConnection,
    charge: &OpenCharge,
    invoice_item: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_charges
            SET charged_at = now(), stripe_invoice_item_id = $4, error_message = NULL
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

/// Records a failed attempt; `certain` if there is no invoice item.
pub async fn mark_failed(
    conn: &mut PgConnection,
    charge: &OpenCharge,
    error: &str,
    certain: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_charges SET error_message = $4,
                attempted_at = CASE WHEN $5 THEN NULL ELSE attempted_at END
          WHERE organization_id = $1 AND id = $2 AND metric = $3",
        charge.organization_id,
        charge.id,
        charge.metric,
        error,
        certain
    )
    .execute(conn)
    .await?;
    Ok(())
}
