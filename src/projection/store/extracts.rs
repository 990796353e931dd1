//! The SQL of payloads that are removed, and of what is kept of them.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

/// What stands for a payload that was removed.
pub const REMOVED: &str = r#"{"removed": true}"#;

/// Which events' payloads are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emptied {
    /// Those that were processed, by when they were received.
    Processed,
    /// Those that were discarded, by when they were.
    Discarded,
}

/// A processed event whose payload is old.
#[derive(Debug)]
pub struct Old {
    pub bucket: i16,
    pub event_id: String,
    pub organization_id: Option<Uuid>,
    /// The object that it is about, where it was applied.
    pub resource_id: Option<String>,
    pub event_type: String,
}

/// Locks up to `limit` events whose payloads are old.
pub async fn old(
    conn: &mut PgConnection,
    which: Emptied,
    before: Timestamp,
    limit: i64,
) -> Result<Vec<Old>, sqlx::Error> {
    match which {
        Emptied::Processed => {
            sqlx::query_as!(
                Old,
                r#"SELECT e.bucket, e.stripe_event_id AS event_id, e.organization_id,
                          a.resource_id AS "resource_id?", e.event_type
                     FROM webhook_events e
                     LEFT JOIN billing_applied_events a
                       ON a.organization_id = e.organization_id
                      AND a.stripe_event_id = e.stripe_event_id
                    WHERE e.processed AND e.payload_removed_at IS NULL AND e.received_at < $1
                      AND e.outcome IS DISTINCT FROM 'discarded'
                    ORDER BY e.received_at, e.stripe_event_id LIMIT $2
                      FOR UPDATE OF e SKIP LOCKED"#,
                before.to_sqlx() as _,
                limit
            )
            .fetch_all(conn)
            .await
        }
        Emptied::Discarded => {
            sqlx::query_as!(
                Old,
                r#"SELECT bucket, stripe_event_id AS event_id, organization_id,
                          NULL AS resource_id, event_type
                     FROM webhook_events
                    WHERE outcome = 'discarded' AND payload_removed_at IS NULL
                      AND processed_at < $1
                    ORDER BY processed_at LIMIT $2
                      FOR UPDATE SKIP LOCKED"#,
                before.to_sqlx() as _,
                limit
            )
            .fetch_all(conn)
            .await
        }
    }
}

/// The events that processing reads again: those of a subscription, for its history, and
/// those of the same second as a mirrored object, for a late event of that second.
pub async fn read_again<'o>(
    conn: &mut PgConnection,
    old: &'o [Old],
) -> Result<Vec<&'o Old>, sqlx::Error> {
    let applied = || {
        old.iter().filter_map(|event| {
            Some((event, event.organization_id?, event.resource_id.as_deref()?))
        })
    };
    let is_history = |event: &Old| event.event_type.starts_with("customer.subscription.");
    let others: Vec<_> = applied().filter(|(event, ..)| !is_history(event)).collect();
    let organizations: Vec<Uuid> = others.iter().map(|(_, of, _)| *of).collect();
    let events: Vec<&str> = others.iter().map(|(event, ..)| &*event.event_id).collect();
    let resources: Vec<&str> = others.iter().map(|(.., resource)| *resource).collect();
    let tied = sqlx::query_scalar!(
        r#"SELECT w.event AS "event!"
             FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w(organization, event, resource)
            WHERE EXISTS (SELECT FROM billing_customers r
                           WHERE r.stripe_customer_id = w.resource AND r.organization_id = w.organization
                             AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_invoices r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_invoice_id = w.resource AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_deleted_invoices r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_invoice_id = w.resource AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_charges r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_charge_id = w.resource AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_payment_methods r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_payment_method_id = w.resource
                             AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_disputes r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_dispute_id = w.resource AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_refunds r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_refund_id = w.resource AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_invoice_payments r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_invoice_payment_id = w.resource
                             AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_checkout_sessions r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_checkout_session_id = w.resource
                             AND w.event = ANY(r.tied_event_ids))
               OR EXISTS (SELECT FROM billing_subscription_schedules r
                           WHERE r.organization_id = w.organization
                             AND r.stripe_schedule_id = w.resource
                             AND w.event = ANY(r.tied_event_ids))"#,
        &organizations,
        &events as &[&str],
        &resources as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let again = applied().map(|(event, ..)| event);
    Ok(again
        .filter(|event| is_history(event) || tied.contains(&event.event_id))
        .collect())
}

pub async fn payload(conn: &mut PgConnection, event: &Old) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT payload::text AS "payload!" FROM webhook_events
            WHERE bucket = $1 AND stripe_event_id = $2"#,
        event.bucket,
        event.event_id
    )
    .fetch_one(conn)
    .await
}

/// Keeps what is read again of an event.
pub async fn keep(conn: &mut PgConnection, event: &Old, extract: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_applied_events a
            SET extract = $4::text::json, event_created_at = e.event_created_at
           FROM webhook_events e
          WHERE e.bucket = $1 AND e.stripe_event_id = $2
            AND a.organization_id = $3 AND a.stripe_event_id = $2",
        event.bucket,
        event.event_id,
        event.organization_id,
        extract
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the payloads of `old`, which are locked, and the attempts' errors of those that
/// were discarded.
pub async fn empty(conn: &mut PgConnection, old: &[Old]) -> Result<u64, sqlx::Error> {
    let buckets: Vec<i16> = old.iter().map(|event| event.bucket).collect();
    let ids: Vec<&str> = old.iter().map(|event| event.event_id.as_str()).collect();
    let emptied = sqlx::query!(
        "UPDATE webhook_events e
            SET payload = $3::text::json, payload_removed_at = now(),
                attempts = CASE WHEN e.outcome = 'discarded' THEN '[]' ELSE e.attempts END
           FROM unnest($1::smallint[], $2::text[]) AS old(bucket, id)
          WHERE e.bucket = old.bucket AND e.stripe_event_id = old.id",
        &buckets,
        &ids as &[&str],
        REMOVED
    )
    .execute(conn)
    .await?;
    Ok(emptied.rows_affected())
}
