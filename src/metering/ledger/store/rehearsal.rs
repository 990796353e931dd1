//! Checks whether the database accepts usage, without keeping any.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// Writes an event and a total as the ledger does, and rolls both back. Works
/// inside a transaction of the caller.
pub async fn rehearse(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // No organization has this id, so nobody waits for these rows.
    let nobody = Uuid::new_v4();
    let mut tx = sqlx::Connection::begin(conn).await?;
    sqlx::query!(
        "WITH counted AS (
           INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total, reserved,
                                     events, last_at, last_event_id, alerted, updated_at)
           VALUES ($1, 'rehearsal', now(), now() + interval '1 day', 1, 0, 1, now(), 'rehearsal', 0, now())
         )
         INSERT INTO usage_events (organization_id, event_id, metric, quantity, occurred_at, recorded_at,
                                   period_start, metadata)
         VALUES ($1, 'rehearsal', 'rehearsal', 1, now(), now(), now(), '{}')",
        nobody
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE usage_totals SET period_end = period_end, total = total + 1, reserved = reserved,
                events = events, last_at = last_at, last_event_id = last_event_id, alerted = alerted,
                updated_at = now()
          WHERE organization_id = $1 AND metric = 'rehearsal'",
        nobody
    )
    .execute(&mut *tx)
    .await?;
    tx.rollback().await
}
