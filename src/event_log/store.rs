//! SQL of the event log.

use sqlx::PgConnection;

/// Makes the events due that wait for `customer_id`.
pub async fn wake_waiting(conn: &mut PgConnection, customer_id: &str) -> Result<u64, sqlx::Error> {
    let woken = sqlx::query!(
        "WITH waiting AS MATERIALIZED (
           SELECT bucket, stripe_event_id FROM webhook_events
            WHERE waiting_for_customer_id = $1 AND NOT processed FOR UPDATE SKIP LOCKED)
         UPDATE webhook_events e SET next_retry_at = now()
           FROM waiting w
          WHERE e.bucket = w.bucket AND e.stripe_event_id = w.stripe_event_id",
        customer_id
    )
    .execute(conn)
    .await?;
    Ok(woken.rows_affected())
}
