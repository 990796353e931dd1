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

/// Lists attached payment methods, newest first. Without a creation time from
/// Stripe, the time of the last event stands in.
pub async fn list(
    tx: &mut RequestTx,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<PaymentMethod>, sqlx::Error> {
    read(tx, None, after, limit).await
}

/// An attached payment method.
pub async fn one(tx: &mut RequestTx, id: &str) -> Result<Option<PaymentMethod>, sqlx::Error> {
    Ok(read(tx, Some(id), None, 1).await?.pop())
}

async fn read(
    tx: &mut RequestTx,
    id: Option<&str>,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<PaymentMethod>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT m.stripe_payment_method_id AS id, m.type AS kind, m.brand, m.last4, m.exp_month,
                  m.exp_year, m.funding, m.country,
                  coalesce(m.stripe_created_at, m.last_event_at) AS "created_at!: jiff_sqlx::Timestamp",
                  CASE WHEN c.default_payment_method_id IS NOT NULL
                       THEN c.default_payment_method_id = m.stripe_payment_method_id
                       ELSE NOT EXISTS (
                         SELECT FROM billing_payment_methods other
                          WHERE other.organization_id = $1 AND other.status = 'attached'
                            AND other.stripe_customer_id = m.stripe_customer_id
                            AND other.stripe_payment_method_id <> m.stripe_payment_method_id)
                   END AS "is_default!"
             FROM billing_payment_methods m
             LEFT JOIN billing_customers c
               ON c.organization_id = m.organization_id
              AND c.stripe_customer_id = m.stripe_customer_id
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
        id
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(PaymentMethod::from).collect())
}
