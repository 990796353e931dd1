//! SQL for seats: how many are in use, and the limit while fewer are being bought.

use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::TenantTx;

/// The seats that are in use: the level that was told last, in whichever period.
pub async fn seats_used(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
) -> Result<Decimal, sqlx::Error> {
    let used = sqlx::query_scalar!(
        r#"SELECT total + reserved AS "used!" FROM usage_totals
            WHERE organization_id = $1 AND metric = $2 AND (events > 0 OR reserved > 0)
            ORDER BY period_start DESC LIMIT 1"#,
        organization_id,
        metric
    )
    .fetch_optional(conn)
    .await?;
    Ok(used.unwrap_or_default())
}

/// Whether `seats` are fewer than may be used now; false where an operator has set the
/// limit, which the purchase then does not change.
pub async fn are_fewer_seats(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
    seats: u32,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM usage_quotas q
                           WHERE q.organization_id = $1 AND q.metric = $2
                             AND (q.quota IS NULL OR q.quota > $3)
                             AND NOT EXISTS (SELECT FROM usage_quota_overrides v
                                              WHERE v.organization_id = q.organization_id
                                                AND v.metric = q.metric)) AS "fewer!""#,
        organization_id,
        metric,
        Decimal::from(seats)
    )
    .fetch_one(conn)
    .await
}

/// Lets no more than `seats` be used from now on, if they are fewer than may be used now:
/// more of them take nothing away. The row's lock is the one under which use is counted.
/// Returns whether it did.
pub async fn hold_seats(tx: &mut TenantTx, metric: &str, seats: u32) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let held = sqlx::query!(
        "UPDATE usage_quotas q SET seats_held = $3::integer
          WHERE q.organization_id = $1 AND q.metric = $2
            AND (q.quota IS NULL OR q.quota > $3::integer)
            AND NOT EXISTS (SELECT FROM usage_quota_overrides v
                             WHERE v.organization_id = q.organization_id AND v.metric = q.metric)",
        organization_id,
        metric,
        i32::try_from(seats).unwrap_or(i32::MAX)
    )
    .execute(tx.conn())
    .await?;
    Ok(held.rows_affected() > 0)
}

/// Ends what `hold_seats` began.
pub async fn release_seats(tx: &mut TenantTx) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE usage_quotas SET seats_held = NULL
          WHERE organization_id = $1 AND seats_held IS NOT NULL",
        organization_id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
