//! SQL for payment methods.

use jiff_sqlx::ToSqlx as _;

use super::{PaymentMethod, Position};
use crate::db::RequestTx;

/// A row as it is read.
struct Row {
    id: String,
    kind: String,
    is_default: bool,
    brand: Option<String>,
    last4: Option<String>,
    exp_month: Option<i16>,
    exp_year: Option<i16>,
    funding: Option<String>,
    country: Option<String>,
    created_at: jiff_sqlx::Timestamp,
}

impl From<Row> for PaymentMethod {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            r#type: row.kind,
            is_default: row.is_default,
            brand: row.brand,
            last4: row.last4,
            expiry_month: row.exp_month,
            expiry_year: row.exp_year,
            funding: row.funding,
            country: row.country,
            created_at: row.created_at.to_jiff(),
        }
    }
}

/// Who is charged: a subscription, and the customer whose invoices it has.
#[derive(Debug, Clone, Default)]
pub struct Payer {
    pub subscription_id: Option<String>,
    pub customer_id: Option<String>,
}

/// The payment method that Stripe charges: the subscription's own, then the customer's
/// default. Without either it is the only one, which becomes the default as soon as
/// something is to be charged. It may be none that is attached.
pub async fn charged(tx: &mut RequestTx, payer: &Payer) -> Result<Option<String>, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        r#"SELECT coalesce(
                    (SELECT s.default_payment_method_id FROM billing_subscriptions s
                      WHERE s.organization_id = $1 AND s.stripe_subscription_id = $2),
                    (SELECT c.default_payment_method_id FROM billing_customers c
                      WHERE c.organization_id = $1 AND c.stripe_customer_id = $3),
                    (SELECT min(m.stripe_payment_method_id) FROM billing_payment_methods m
                      WHERE m.organization_id = $1 AND m.stripe_customer_id = $3
                        AND m.status = 'attached'
                     HAVING count(*) = 1))"#,
        organization_id,
        payer.subscription_id.as_deref(),
        payer.customer_id.as_deref()
    )
    .fetch_one(tx.conn())
    .await
}

/// Lists attached payment methods, newest first. Without a creation time from
/// Stripe, the time of the last event stands in.
pub async fn list(
    tx: &mut RequestTx,
    payer: &Payer,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<PaymentMethod>, sqlx::Error> {
    let charged = charged(tx, payer).await?;
    read(tx, (None, charged.as_deref()), after, limit).await
}

/// An attached payment method.
pub async fn one(
    tx: &mut RequestTx,
    payer: &Payer,
    id: &str,
) -> Result<Option<PaymentMethod>, sqlx::Error> {
    let charged = charged(tx, payer).await?;
    let found = read(tx, (Some(id), charged.as_deref()), None, 1);
    Ok(found.await?.pop())
}

async fn read(
    tx: &mut RequestTx,
    (id, charged): (Option<&str>, Option<&str>),
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<PaymentMethod>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT m.stripe_payment_method_id AS id, m.type AS kind, m.brand, m.last4, m.exp_month,
                  m.exp_year, m.funding, m.country,
                  coalesce(m.stripe_created_at, m.last_event_at) AS "created_at!: jiff_sqlx::Timestamp",
                  m.stripe_payment_method_id IS NOT DISTINCT FROM $6::text AS "is_default!"
             FROM billing_payment_methods m
            WHERE m.organization_id = $1 AND m.status = 'attached'
              AND ($5::text IS NULL OR m.stripe_payment_method_id = $5)
              AND ($2::timestamptz IS NULL
                   OR (coalesce(m.stripe_created_at, m.last_event_at), m.stripe_payment_method_id) < ($2, $3))
            ORDER BY coalesce(m.stripe_created_at, m.last_event_at) DESC, m.stripe_payment_method_id DESC
            LIMIT $4"#,
        organization_id,
        after.map(|position| position.created_at.to_sqlx()) as _,
        after.map(|position| position.id.as_str()),
        limit,
        id,
        charged
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(PaymentMethod::from).collect())
}
