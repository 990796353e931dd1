//! Payment methods as rows.

use serde_json::json;
use sqlx::PgConnection;

use super::{document, unzip, version};
use crate::event_handlers::fold::{Folded, Key, Stored, StoredRows};
use crate::stripe::objects::PaymentMethod;

pub async fn load(conn: &mut PgConnection, keys: &[Key]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_payment_method_id, status, type AS kind, brand, last4, exp_month, exp_year,
                  funding, country, last_event_at, last_event_rank, last_event_id, tied_event_ids
             FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
             JOIN billing_payment_methods row
               ON row.organization_id = wanted.organization AND row.stripe_payment_method_id = wanted.id"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "status": row.status,
            "type": row.kind,
            "brand": row.brand,
            "last4": row.last4,
            "expMonth": row.exp_month,
            "expYear": row.exp_year,
            "funding": row.funding,
            "country": row.country,
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_payment_method_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

pub async fn save(
    conn: &mut PgConnection,
    changed: &[Folded<PaymentMethod>],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(Folded::row).collect();
    sqlx::query!(
        "INSERT INTO billing_payment_methods (
           organization_id, stripe_payment_method_id, stripe_customer_id, status, type, brand,
           last4, exp_month, exp_year, funding, country, metadata, livemode, stripe_created_at,
           last_event_at, last_event_rank, last_event_id, tied_event_ids)
         SELECT
           organization_id, stripe_payment_method_id, stripe_customer_id, status, type, brand,
           last4, exp_month, exp_year, funding, country, metadata, livemode, stripe_created_at,
           last_event_at, last_event_rank, last_event_id, tied_event_ids
           FROM json_populate_recordset(NULL::billing_payment_methods, $1::text::json)
         ON CONFLICT (organization_id, stripe_payment_method_id) DO UPDATE SET
           stripe_customer_id = excluded.stripe_customer_id, status = excluded.status, type =
           excluded.type, brand = excluded.brand, last4 = excluded.last4, exp_month =
           excluded.exp_month, exp_year = excluded.exp_year, funding = excluded.funding, country
           = excluded.country, metadata = excluded.metadata, livemode = excluded.livemode,
           stripe_created_at = excluded.stripe_created_at, last_event_at =
           excluded.last_event_at, last_event_rank = excluded.last_event_rank, last_event_id =
           excluded.last_event_id, tied_event_ids = excluded.tied_event_ids, updated_at =
           excluded.updated_at",
        document(&rows)?
    )
    .execute(conn)
    .await?;
    Ok(())
}
