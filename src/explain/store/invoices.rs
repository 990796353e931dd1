//! SQL of invoices: their lines with what the catalogue remembers, and their payments.

use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

/// An invoice.
pub struct InvoiceHeld {
    pub organization_id: Uuid,
    pub id: String,
    pub number: Option<String>,
    pub status: String,
    pub billing_reason: Option<String>,
    pub currency: String,
    pub subtotal_amount: i64,
    pub tax_amount: Option<i64>,
    pub total_amount: i64,
    pub amount_due: i64,
    pub amount_remaining: i64,
    pub starting_balance: Option<i64>,
    pub ending_balance: Option<i64>,
    pub attempt_count: i64,
    pub next_payment_attempt: Option<Timestamp>,
}

pub async fn invoice(
    conn: &mut PgConnection,
    id: &str,
) -> Result<Option<InvoiceHeld>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT organization_id, stripe_invoice_id, number,
                  coalesce(status, 'unknown') AS "status!", billing_reason,
                  coalesce(currency, '') AS "currency!", subtotal_amount, tax_amount,
                  total_amount, amount_due, amount_remaining,
                  starting_balance, ending_balance,
                  attempt_count::bigint AS "attempt_count!", next_payment_attempt
             FROM billing_invoices WHERE stripe_invoice_id = $1"#,
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| InvoiceHeld {
        organization_id: row.organization_id,
        id: row.stripe_invoice_id,
        number: row.number,
        status: row.status,
        billing_reason: row.billing_reason,
        currency: row.currency,
        subtotal_amount: row.subtotal_amount,
        tax_amount: row.tax_amount,
        total_amount: row.total_amount,
        amount_due: row.amount_due,
        amount_remaining: row.amount_remaining,
        starting_balance: row.starting_balance,
        ending_balance: row.ending_balance,
        attempt_count: row.attempt_count,
        next_payment_attempt: row.next_payment_attempt.map(|time| time.to_jiff()),
    }))
}

/// A line, with what the catalogue remembers of its price, and the usage that it charges.
pub struct InvoiceLine {
    pub id: String,
    pub description: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub quantity: Option<i64>,
    pub proration: bool,
    pub price_id: Option<String>,
    pub plan_tier: Option<String>,
    pub addon: Option<String>,
    pub version: Option<i32>,
    pub metric: Option<String>,
    pub included: Option<Decimal>,
    pub overage_rate: Option<Decimal>,
    pub used: Option<Decimal>,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
}

pub async fn invoice_lines(
    conn: &mut PgConnection,
    organization_id: Uuid,
    id: &str,
) -> Result<Vec<InvoiceLine>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT l.stripe_line_item_id, l.description, l.amount, l.currency, l.quantity,
                  l.proration, l.stripe_price_id, nullif(b.plan_tier, '') AS plan_tier, b.addon AS "addon?",
                  b.version AS "version?", b.metric AS "metric?", b.included AS "included?",
                  b.overage_rate AS "overage_rate?", t.total AS "used?", l.period_start,
                  l.period_end
             FROM billing_invoice_items l
             LEFT JOIN billing_prices b ON b.stripe_price_id = l.stripe_price_id
             LEFT JOIN LATERAL (
               SELECT t.total FROM usage_totals t
                WHERE t.organization_id = l.organization_id AND t.metric = b.metric
                  AND t.period_start < l.period_end AND t.period_end > l.period_start
                ORDER BY t.period_start DESC LIMIT 1) t ON true
            WHERE l.organization_id = $1 AND l.stripe_invoice_id = $2
            ORDER BY l.position"#,
        organization_id,
        id
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| InvoiceLine {
        id: row.stripe_line_item_id,
        description: row.description,
        amount: row.amount,
        currency: row.currency,
        quantity: row.quantity,
        proration: row.proration,
        price_id: row.stripe_price_id,
        plan_tier: row.plan_tier,
        addon: row.addon,
        version: row.version,
        metric: row.metric,
        included: row.included,
        overage_rate: row.overage_rate,
        used: row.used,
        period_start: row.period_start.map(|time| time.to_jiff()),
        period_end: row.period_end.map(|time| time.to_jiff()),
    });
    Ok(rows.collect())
}

/// A payment of an invoice, or an attempt.
pub struct Charge {
    pub id: String,
    pub status: String,
    pub amount: i64,
    pub currency: String,
    pub failure_code: Option<String>,
}

pub async fn charges(
    conn: &mut PgConnection,
    organization_id: Uuid,
    invoice: &str,
) -> Result<Vec<Charge>, sqlx::Error> {
    sqlx::query_as!(
        Charge,
        "SELECT stripe_charge_id AS id, status, amount, currency, failure_code
           FROM billing_charges
          WHERE organization_id = $1 AND stripe_invoice_id = $2
          ORDER BY stripe_created_at DESC, stripe_charge_id LIMIT 20",
        organization_id,
        invoice
    )
    .fetch_all(conn)
    .await
}
