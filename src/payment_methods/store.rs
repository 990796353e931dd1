//! SQL for payment methods.

use jiff_sqlx::ToSqlx as _;

use super::{PaymentMethod, Position};
use crate::db::RequestTx;

/// Lists attached payment methods, newest first. Without a creation time from
/// Stripe, the time of the last event stands in.
pub async fn list(
    tx: &mut RequestTx,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<PaymentMethod>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query!(
        r#"SELECT stripe_payment_method_id AS id, type AS kind, brand, last4, exp_month, exp_year,
                  funding, country, coalesce(stripe_created_at, last_event_at) AS "created_at!"
             FROM billing_payment_methods
            WHERE organization_id = $1 AND status = 'attached'
              AND ($2::timestamptz IS NULL
                   OR (coalesce(stripe_created_at, last_event_at), stripe_payment_method_id) < ($2, $3))
            ORDER BY coalesce(stripe_created_at, last_event_at) DESC, stripe_payment_method_id DESC
            LIMIT $4"#,
        organization_id,
        after.map(|position| position.created_at.to_sqlx()) as _,
        after.map(|position| position.id.as_str()),
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PaymentMethod {
            id: row.id,
            r#type: row.kind,
            brand: row.brand,
            last4: row.last4,
            expiry_month: row.exp_month,
            expiry_year: row.exp_year,
            funding: row.funding,
            country: row.country,
            created_at: row.created_at.to_jiff(),
        })
        .collect())
}
