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

/// Lets no more than `seats` be used from now on. The row's lock is the one under which
/// use is counted.
pub async fn hold_seats(tx: &mut TenantTx, metric: &str, seats: u32) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE usage_quotas SET seats_held = $3 WHERE organization_id = $1 AND metric = $2",
        organization_id,
        metric,
        i32::try_from(seats).unwrap_or(i32::MAX)
    )
    .execute(tx.conn())
    .await?;
    Ok(())
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
