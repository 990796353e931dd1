//! A trial insert, for readiness.

use sqlx::postgres::PgConnection;

/// Stores a large event as intake would, and rolls it back, to check that there
/// is room for one. Works inside a transaction of the caller, too.
pub async fn rehearse(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut tx = sqlx::Connection::begin(conn).await?;
    // Incompressible, since a small row might fit into the remaining room.
    sqlx::query!(
        "INSERT INTO webhook_events
           (bucket, stripe_event_id, event_type, livemode, event_created_at, payload)
         SELECT 0, 'evt_rehearsal_' || gen_random_uuid(), 'rehearsal', false, now(),
                json_build_array(string_agg(gen_random_uuid()::text, ''))
           FROM generate_series(1, 8192)"
    )
    .execute(&mut *tx)
    .await?;
    tx.rollback().await
}
