//! SQL for the usage on Stripe's invoices.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::metering::reports::due::OLDEST;

/// The usage of a metric on an invoice.
#[derive(Debug, Clone)]
pub struct InvoicedUsage {
    pub organization_id: Uuid,
    pub stripe_customer_id: String,
    pub metric: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// When the invoice was made, as a draft.
    pub created: Timestamp,
    pub units: Decimal,
    /// The units that the price includes.
    pub included: Decimal,
}

/// What Stripe was told at once.
#[derive(Debug, Clone)]
pub struct Told {
    pub units: Decimal,
    pub at: Timestamp,
    /// Whether it was told before the invoice was made.
    pub before: bool,
    /// Whether it was told when no invoice took it any more.
    pub late: bool,
}

/// Lists the usage on invoices of the time for which Stripe accepts usage that differs from
/// what its total says was reported. Most are alike, and no report needs to be read for
/// them.
pub async fn invoiced_otherwise(
    conn: &mut PgConnection,
    now: Timestamp,
) -> Result<Vec<InvoicedUsage>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH invoiced AS (
             SELECT v.organization_id, v.stripe_customer_id, v.stripe_created_at, p.metric,
                    p.included, i.period_start, i.period_end, sum(i.quantity) AS units
               FROM billing_invoices v
               JOIN billing_invoice_items i
                 ON i.organization_id = v.organization_id
                AND i.stripe_invoice_id = v.stripe_invoice_id
               JOIN billing_prices p ON p.stripe_price_id = i.stripe_price_id
              WHERE v.stripe_created_at > $1 AND v.status IN ('open', 'paid', 'uncollectible')
                AND NOT v.has_more_items AND v.stripe_customer_id IS NOT NULL
                AND p.metric IS NOT NULL AND i.quantity IS NOT NULL
                AND i.stripe_subscription_id IS NOT NULL AND i.period_start < i.period_end
              -- The tiers of a price are lines of their own.
              GROUP BY v.organization_id, v.stripe_invoice_id, v.stripe_customer_id,
                       v.stripe_created_at, p.stripe_price_id, p.metric, p.included,
                       i.period_start, i.period_end)
           SELECT v.organization_id, v.stripe_customer_id AS "stripe_customer_id!",
                  v.stripe_created_at AS "created!", v.metric AS "metric!",
                  coalesce(v.included, 0) AS "included!", v.period_start AS "period_start!",
                  v.period_end AS "period_end!", v.units AS "units!"
             FROM invoiced v
             LEFT JOIN usage_totals t
               ON t.organization_id = v.organization_id AND t.metric = v.metric
              AND t.period_start = v.period_start
            WHERE v.units IS DISTINCT FROM t.reported
            ORDER BY v.organization_id, v.metric, v.period_start"#,
        (now - OLDEST).to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    let invoiced = rows.into_iter().map(|row| InvoicedUsage {
        organization_id: row.organization_id,
        stripe_customer_id: row.stripe_customer_id,
        metric: row.metric,
        period_start: row.period_start.to_jiff(),
        period_end: row.period_end.to_jiff(),
        created: row.created.to_jiff(),
        units: row.units,
        included: row.included,
    });
    Ok(invoiced.collect())
}

/// Lists what Stripe was told of the time that a line charges, in this order.
pub async fn told_of(
    conn: &mut PgConnection,
    invoiced: &InvoicedUsage,
) -> Result<Vec<Told>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT units, at, late,
                  -- What was told ahead of a change of ours preceded its invoice, in whichever
                  -- second.
                  (coalesce(attempted_at, sent_at) < $6 OR late IS FALSE) AS "before!"
             FROM usage_reports
            WHERE organization_id = $1 AND metric = $2 AND stripe_customer_id = $3
              AND date_trunc('second', at) >= $4 AND date_trunc('second', at) < $5
              AND sent_at IS NOT NULL AND refused_at IS NULL
            ORDER BY coalesce(attempted_at, sent_at), created_at, identifier"#,
        invoiced.organization_id,
        invoiced.metric,
        invoiced.stripe_customer_id,
        invoiced.period_start.to_sqlx() as _,
        invoiced.period_end.to_sqlx() as _,
        invoiced.created.to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    let told = rows.into_iter().map(|row| Told {
        units: row.units,
        at: row.at.to_jiff(),
        before: row.before,
        late: row.late == Some(true),
    });
    Ok(told.collect())
}
