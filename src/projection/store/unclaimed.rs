//! SQL of events without an owner, and of the objects that have one.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

/// The organizations of payment methods, charges and invoices, by object id.
pub async fn organizations_of_objects(
    conn: &mut PgConnection,
    ids: &[&str],
) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT stripe_payment_method_id AS "id!", organization_id AS "organization!"
             FROM billing_payment_methods WHERE stripe_payment_method_id = ANY($1)
           UNION ALL
           SELECT stripe_charge_id, organization_id FROM billing_charges
            WHERE stripe_charge_id = ANY($1)
           UNION ALL
           SELECT stripe_invoice_id, organization_id FROM billing_invoices
            WHERE stripe_invoice_id = ANY($1)"#,
        ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.id, row.organization))
        .collect())
}

/// The number of events without an owner.
pub async fn count(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_unclaimed_events"#)
        .fetch_one(conn)
        .await
}

/// An event without an owner, and the object whose owner it will have.
pub struct Unclaimed<'a> {
    pub bucket: i16,
    pub event_id: &'a str,
    pub waiting_for: &'a str,
}

/// Stores events without an owner.
pub async fn remember(
    conn: &mut PgConnection,
    unclaimed: &[Unclaimed<'_>],
) -> Result<(), sqlx::Error> {
    if unclaimed.is_empty() {
        return Ok(());
    }
    let buckets: Vec<i16> = unclaimed.iter().map(|one| one.bucket).collect();
    let ids: Vec<&str> = unclaimed.iter().map(|one| one.event_id).collect();
    let waiting: Vec<&str> = unclaimed.iter().map(|one| one.waiting_for).collect();
    sqlx::query!(
        "INSERT INTO webhook_unclaimed_events (bucket, stripe_event_id, waiting_for)
         SELECT * FROM unnest($1::smallint[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING",
        &buckets,
        &ids as &[&str],
        &waiting as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes the events due again that waited for one of `ids`. Returns their number.
pub async fn wake(conn: &mut PgConnection, ids: &[&str]) -> Result<u64, sqlx::Error> {
    if ids.is_empty() {
        return Ok(0);
    }
    let claimed = sqlx::query!(
        "DELETE FROM webhook_unclaimed_events
          WHERE organization_id = '00000000-0000-0000-0000-000000000000' AND waiting_for = ANY($1)
         RETURNING bucket, stripe_event_id",
        ids as &[&str]
    )
    .fetch_all(&mut *conn)
    .await?;
    if claimed.is_empty() {
        return Ok(0);
    }
    let buckets: Vec<i16> = claimed.iter().map(|event| event.bucket).collect();
    let events: Vec<String> = claimed
        .into_iter()
        .map(|event| event.stripe_event_id)
        .collect();
    // As three conditions, the last one would allow an index of all that was processed.
    let woken = sqlx::query!(
        "UPDATE webhook_events e
            SET processed = false, processed_at = NULL, outcome = NULL, next_retry_at = now()
           FROM unnest($1::smallint[], $2::text[]) AS claimed(bucket, id)
          WHERE e.bucket = claimed.bucket AND e.stripe_event_id = claimed.id
            AND (e.processed AND e.outcome = 'ignored' AND e.payload_removed_at IS NULL) IS TRUE",
        &buckets,
        &events
    )
    .execute(conn)
    .await?;
    Ok(woken.rows_affected())
}

/// The ids that unclaimed events wait for and that have an owner by now: an event
/// and the object that it waits for may have been processed concurrently.
pub async fn known_by_now(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT DISTINCT u.waiting_for AS "id!" FROM webhook_unclaimed_events u
            WHERE u.created_at > now() - interval '1 day'
              AND (EXISTS (SELECT FROM billing_customers WHERE stripe_customer_id = u.waiting_for)
                OR EXISTS (SELECT FROM billing_payment_methods WHERE stripe_payment_method_id = u.waiting_for)
                OR EXISTS (SELECT FROM billing_charges WHERE stripe_charge_id = u.waiting_for)
                OR EXISTS (SELECT FROM billing_invoices WHERE stripe_invoice_id = u.waiting_for))"#
    )
    .fetch_all(conn)
    .await
}
