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

/// Empties the payloads of events, by bucket and id, as those of an erased organization. The
/// events stay, so that none is taken a second time.
pub async fn empty(conn: &mut PgConnection, events: &[(i16, &str)]) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let (buckets, ids): (Vec<i16>, Vec<&str>) = events.iter().copied().unzip();
    sqlx::query!(
        r#"UPDATE webhook_events e
              SET payload = '{"erased": true}', error_message = NULL, attempts = '[]'
             FROM unnest($1::smallint[], $2::text[]) AS emptied(bucket, id)
            WHERE e.bucket = emptied.bucket AND e.stripe_event_id = emptied.id"#,
        &buckets,
        &ids as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
