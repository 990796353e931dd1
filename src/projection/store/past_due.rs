//! SQL of what subscriptions grant while they are past due.

use std::collections::BTreeMap;

use billing_domain::past_due::Access;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::unzip;
use crate::projection::versions::merge::ObjectKey;

/// Since when each subscription of `organizations` owes a payment: the first failure among
/// its open invoices. One whose failure no event has told is due since it was to be paid.
pub async fn since(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<BTreeMap<ObjectKey, Timestamp>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_subscription_id AS "subscription!",
                  min(coalesce(first_failed_at, due_date, finalized_at, stripe_created_at))
                    AS "since!: jiff_sqlx::Timestamp"
             FROM billing_invoices
            WHERE organization_id = ANY($1) AND status = 'open'
              AND stripe_subscription_id IS NOT NULL
              AND billing_reason IS DISTINCT FROM 'manual'
              AND (first_failed_at IS NOT NULL OR attempt_count > 0 OR due_date IS NOT NULL)
              AND coalesce(first_failed_at, due_date, finalized_at, stripe_created_at) IS NOT NULL
            GROUP BY organization_id, stripe_subscription_id"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    let since = rows.map(|row| ((row.organization_id, row.subscription), row.since.to_jiff()));
    Ok(since.collect())
}

pub async fn save(
    conn: &mut PgConnection,
    accesses: &[(ObjectKey, Access)],
) -> Result<(), sqlx::Error> {
    if accesses.is_empty() {
        return Ok(());
    }
    let keys: Vec<ObjectKey> = accesses.iter().map(|(key, _)| key.clone()).collect();
    let (organizations, ids) = unzip(&keys);
    let column = |value: fn(&Access) -> Option<Timestamp>| -> Vec<_> {
        let values = accesses.iter().map(|(_, access)| value(access));
        values.map(|at| at.map(|at| at.to_sqlx())).collect()
    };
    let since = column(|access| access.past_due_since);
    let ends = column(|access| access.ends_at);
    let ended: Vec<bool> = accesses.iter().map(|(_, access)| access.ended).collect();
    sqlx::query!(
        "UPDATE billing_subscriptions s
            SET past_due_since = a.since, access_ends_at = a.ends,
                access_ended_at = CASE WHEN a.ended THEN coalesce(a.ends, now()) END,
                updated_at = now()
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::boolean[])
             AS a(organization, id, since, ends, ended)
          WHERE s.organization_id = a.organization AND s.stripe_subscription_id = a.id",
        &organizations,
        &ids as &[&str],
        &since as _,
        &ends as _,
        &ended
    )
    .execute(conn)
    .await?;
    Ok(())
}
