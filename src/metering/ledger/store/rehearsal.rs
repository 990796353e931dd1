//! Counting for show.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// Writes a use and its total as the ledger would, and takes both back: whether
/// the database would take them. In a transaction of the caller's, it is a part
/// of it.
pub async fn rehearse(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Of an organization that is none, so that nobody waits for its rows.
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
