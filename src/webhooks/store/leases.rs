//! Leases: claiming events, and recording the result of a claimed event.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::event_log::StoredEvent;
use crate::telemetry::trace_context::TraceParent;

/// How long a worker may take for a batch before another may take it over.
pub const LEASE_SECS: i64 = 60;

/// A claimed event.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub event: StoredEvent,
    pub retry_count: i32,
    pub received_at: Timestamp,
    /// The trace of its delivery.
    pub trace: Option<TraceParent>,
}

/// Makes events due whose due time or lease lies further ahead than possible: the
/// database's clock was ahead when it was stored. No retry is more than an hour
/// away. Returns the number of events.
pub async fn bring_back(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let brought = sqlx::query!(
        "UPDATE webhook_events
            SET next_retry_at = now(), lease_id = NULL, lease_expires_at = NULL
          WHERE NOT processed
            AND (next_retry_at > now() + interval '65 minutes'
                 OR next_retry_at IS NULL AND received_at > now() + interval '5 minutes'
                 OR lease_expires_at > now() + interval '5 minutes')",
    )
    .execute(conn)
    .await?;
    Ok(brought.rows_affected())
}

/// Makes events due that wait for their next attempt. Returns their number.
pub async fn make_due(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let made = sqlx::query!(
        "WITH waiting AS MATERIALIZED (
           SELECT bucket, stripe_event_id FROM webhook_events
            WHERE NOT processed AND next_retry_at > now()
              AND (lease_expires_at IS NULL OR lease_expires_at <= now())
              FOR UPDATE SKIP LOCKED)
         UPDATE webhook_events e SET next_retry_at = now()
           FROM waiting w
          WHERE e.bucket = w.bucket AND e.stripe_event_id = w.stripe_event_id"
    )
    .execute(conn)
    .await?;
    Ok(made.rows_affected())
}

/// The most events and payload bytes that a worker claims at a time. One event is
/// claimed whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimit {
    pub events: i64,
    pub bytes: i64,
}

/// Leases due events to `lease_id`. `due_by` leaves out events that became due
/// later.
///
/// The size of a small stored payload is estimated, since PostgreSQL must read
/// it whole to know.
///
/// The events are chosen in a CTE, apart from the update: PostgreSQL may run a
/// sub-select again for each row of a join, and lock more than its limit.
pub async fn claim(
    conn: &mut PgConnection,
    lease_id: Uuid,
    due_by: Option<Timestamp>,
    limit: BatchLimit,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH first AS MATERIALIZED (
             SELECT bucket, stripe_event_id, coalesce(next_retry_at, received_at) AS due_at,
                    CASE WHEN pg_column_size(payload) < 4096 THEN 4 * pg_column_size(payload)
                         ELSE octet_length(payload::text) END AS bytes
               FROM webhook_events
              WHERE NOT processed
                AND coalesce(next_retry_at, received_at) <= coalesce($4, now())
                AND (lease_expires_at IS NULL OR lease_expires_at <= now())
              ORDER BY coalesce(next_retry_at, received_at)
              LIMIT $2
              FOR UPDATE SKIP LOCKED),
           due AS MATERIALIZED (
             SELECT bucket, stripe_event_id
               FROM (SELECT bucket, stripe_event_id,
                            coalesce(sum(bytes) OVER (
                              ORDER BY due_at, bucket, stripe_event_id
                              ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before,
                            bytes
                       FROM first) counted
              WHERE before = 0 OR before + bytes <= $5)
           UPDATE webhook_events e
              SET lease_id = $1, lease_expires_at = now() + $3::bigint * interval '1 second'
             FROM due
            WHERE e.bucket = due.bucket AND e.stripe_event_id = due.stripe_event_id
        RETURNING e.bucket, e.stripe_event_id, e.event_type, e.api_version, e.livemode, e.account,
                  e.event_created_at, e.payload::text AS "payload!", e.retry_count, e.received_at,
                  e.traceparent"#,
        lease_id,
        limit.events,
        LEASE_SECS,
        due_by.map(|time| time.to_sqlx()) as _,
        limit.bytes
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            event: StoredEvent {
                bucket: row.bucket,
                id: row.stripe_event_id,
                event_type: row.event_type,
                api_version: row.api_version,
                livemode: row.livemode,
                account: row.account,
                created: row.event_created_at.to_jiff(),
                payload: row.payload,
            },
            retry_count: row.retry_count,
            received_at: row.received_at.to_jiff(),
            trace: row.traceparent.as_deref().and_then(TraceParent::parse),
        })
        .collect())
}

/// The number of due events that are not leased, and the database's time.
pub async fn count_due(conn: &mut PgConnection) -> Result<(i64, Timestamp), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", now() AS "now!" FROM webhook_events
            WHERE NOT processed AND coalesce(next_retry_at, received_at) <= now()
              AND (lease_expires_at IS NULL OR lease_expires_at <= now())"#
    )
    .fetch_one(conn)
    .await?;
    Ok((row.count, row.now.to_jiff()))
}

/// A processed event with its result.
#[derive(Debug, Clone, Copy)]
pub struct Processed<'a> {
    pub event: &'a StoredEvent,
    pub outcome: &'static str,
    pub organization_id: Option<Uuid>,
}

/// Marks the events as processed that `lease_id` still holds, and returns their
/// number. If it is lower than given, another worker took over and the
/// transaction must not commit.
pub async fn mark_processed(
    conn: &mut PgConnection,
    lease_id: Uuid,
    processed: &[Processed<'_>],
) -> Result<usize, sqlx::Error> {
    let events: Vec<&StoredEvent> = processed.iter().map(|one| one.event).collect();
    let (buckets, ids) = keys(&events);
    let outcomes: Vec<&str> = processed.iter().map(|one| one.outcome).collect();
    let owners: Vec<Option<Uuid>> = processed.iter().map(|one| one.organization_id).collect();
    let marked = sqlx::query_scalar!(
        "UPDATE webhook_events e
            SET processed = true, processed_at = now(), outcome = done.outcome,
                organization_id = done.organization, next_retry_at = NULL, error_message = NULL,
                waiting_for_customer_id = NULL, lease_id = NULL, lease_expires_at = NULL
           FROM unnest($2::smallint[], $3::text[], $4::text[], $5::uuid[])
             AS done(bucket, id, outcome, organization)
          WHERE e.bucket = done.bucket AND e.stripe_event_id = done.id
            AND e.lease_id = $1 AND NOT e.processed
        RETURNING e.bucket",
        lease_id,
        &buckets,
        &ids as &[&str],
        &outcomes as &[&str],
        &owners as &[Option<Uuid>]
    )
    .fetch_all(conn)
    .await?;
    Ok(marked.len())
}

/// A failed attempt as it is recorded.
#[derive(Debug, Clone)]
pub struct Failure {
    pub error: String,
    /// The customer that the event waits for.
    pub waiting_for: Option<String>,
}

impl Failure {
    /// An entry of the event's `attempts`.
    pub fn entry(&self) -> Value {
        json!([{"at": Timestamp::now(), "error": self.error}])
    }
}

/// A failed attempt that is retried.
pub struct Retry<'a> {
    pub event: &'a StoredEvent,
    pub failure: Failure,
    pub delay_ms: i64,
}

/// Records failed attempts and schedules the retries; an event is due at once if
/// the customer that it waits for became known meanwhile. Returns bucket and id
/// of the recorded events: those that `lease_id` still holds and no other
/// transaction has locked.
pub async fn schedule_retries(
    conn: &mut PgConnection,
    lease_id: Uuid,
    retries: &[&Retry<'_>],
) -> Result<HashSet<(i16, String)>, sqlx::Error> {
    let events: Vec<&StoredEvent> = retries.iter().map(|retry| retry.event).collect();
    let (buckets, ids) = keys(&events);
    let delays: Vec<i64> = retries.iter().map(|retry| retry.delay_ms).collect();
    let failures = || retries.iter().map(|retry| &retry.failure);
    let errors: Vec<&str> = failures().map(|failure| failure.error.as_str()).collect();
    let entries: Vec<String> = failures().map(|one| one.entry().to_string()).collect();
    let waiting: Vec<Option<&str>> = failures().map(|one| one.waiting_for.as_deref()).collect();
    let scheduled = sqlx::query!(
        "WITH failed AS (
           SELECT * FROM unnest($2::smallint[], $3::text[], $4::bigint[], $5::text[], $6::text[],
                                $7::text[])
             AS failed(bucket, id, delay_ms, error, entry, waiting_for)),
         held AS MATERIALIZED (
           SELECT e.bucket, e.stripe_event_id
             FROM failed
             JOIN webhook_events e ON e.bucket = failed.bucket AND e.stripe_event_id = failed.id
            WHERE e.lease_id = $1 AND NOT e.processed
              FOR UPDATE OF e SKIP LOCKED)
         UPDATE webhook_events e
            SET retry_count = e.retry_count + 1,
                next_retry_at = now() + CASE
                  WHEN EXISTS (SELECT FROM billing_customers c
                                WHERE c.stripe_customer_id = failed.waiting_for)
                  THEN interval '0' ELSE failed.delay_ms * interval '1 millisecond' END,
                error_message = failed.error, attempts = e.attempts || failed.entry::jsonb,
                waiting_for_customer_id = failed.waiting_for,
                lease_id = NULL, lease_expires_at = NULL
           FROM held JOIN failed ON failed.bucket = held.bucket AND failed.id = held.stripe_event_id
          WHERE e.bucket = held.bucket AND e.stripe_event_id = held.stripe_event_id
        RETURNING e.bucket, e.stripe_event_id",
        lease_id,
        &buckets,
        &ids as &[&str],
        &delays,
        &errors as &[&str],
        &entries,
        &waiting as &[Option<&str>]
    )
    .fetch_all(conn)
    .await?;
    let held = scheduled.into_iter();
    Ok(held.map(|row| (row.bucket, row.stripe_event_id)).collect())
}

/// Bucket and id of the `events` that `lease_id` still holds.
pub async fn still_held(
    conn: &mut PgConnection,
    lease_id: Uuid,
    events: &[&StoredEvent],
) -> Result<HashSet<(i16, String)>, sqlx::Error> {
    let (buckets, ids) = keys(events);
    let rows = sqlx::query!(
        "SELECT e.bucket, e.stripe_event_id
           FROM unnest($2::smallint[], $3::text[]) AS claimed(bucket, id)
           JOIN webhook_events e ON e.bucket = claimed.bucket AND e.stripe_event_id = claimed.id
          WHERE e.lease_id = $1 AND NOT e.processed",
        lease_id,
        &buckets,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.bucket, row.stripe_event_id))
        .collect())
}

/// Returns events to the queue that could not be tried, due after `delay_ms`,
/// without counting an attempt. A row that another transaction has locked keeps
/// its lease until it expires.
pub async fn set_aside(
    conn: &mut PgConnection,
    lease_id: Uuid,
    events: &[&StoredEvent],
    why: &str,
    delay_ms: i64,
) -> Result<u64, sqlx::Error> {
    let (buckets, ids) = keys(events);
    let given_back = sqlx::query!(
        "WITH held AS MATERIALIZED (
           SELECT e.bucket, e.stripe_event_id
             FROM unnest($2::smallint[], $3::text[]) AS claimed(bucket, id)
             JOIN webhook_events e ON e.bucket = claimed.bucket AND e.stripe_event_id = claimed.id
            WHERE e.lease_id = $1 AND NOT e.processed
              FOR UPDATE OF e SKIP LOCKED)
         UPDATE webhook_events e
            SET next_retry_at = now() + $4::bigint * interval '1 millisecond', error_message = $5,
                lease_id = NULL, lease_expires_at = NULL
           FROM held
          WHERE e.bucket = held.bucket AND e.stripe_event_id = held.stripe_event_id",
        lease_id,
        &buckets,
        &ids as &[&str],
        delay_ms,
        why
    )
    .execute(conn)
    .await?;
    Ok(given_back.rows_affected())
}

/// Ends the lease of events that no worker has finished: they are due as before. A row that
/// another transaction has locked keeps its lease until it expires.
pub async fn give_back(
    conn: &mut PgConnection,
    lease_id: Uuid,
    buckets: &[i16],
    ids: &[String],
) -> Result<u64, sqlx::Error> {
    let given_back = sqlx::query!(
        "WITH held AS MATERIALIZED (
           SELECT e.bucket, e.stripe_event_id
             FROM unnest($2::smallint[], $3::text[]) AS claimed(bucket, id)
             JOIN webhook_events e ON e.bucket = claimed.bucket AND e.stripe_event_id = claimed.id
            WHERE e.lease_id = $1 AND NOT e.processed
              FOR UPDATE OF e SKIP LOCKED)
         UPDATE webhook_events e SET lease_id = NULL, lease_expires_at = NULL
           FROM held
          WHERE e.bucket = held.bucket AND e.stripe_event_id = held.stripe_event_id",
        lease_id,
        buckets,
        ids
    )
    .execute(conn)
    .await?;
    Ok(given_back.rows_affected())
}

/// The keys of `events` as two arrays.
fn keys<'a>(events: &[&'a StoredEvent]) -> (Vec<i16>, Vec<&'a str>) {
    let filed = events.iter().map(|event| (event.bucket, event.id.as_str()));
    filed.unzip()
}

/// Moves events to the dead letters, in one statement. Returns bucket and id of those
/// that `lease_id` still held.
pub async fn dead_letter(
    conn: &mut PgConnection,
    lease_id: Uuid,
    failed: &[(&StoredEvent, &Failure)],
) -> Result<HashSet<(i16, String)>, sqlx::Error> {
    let events: Vec<&StoredEvent> = failed.iter().map(|(event, _)| *event).collect();
    let (buckets, ids) = keys(&events);
    let failures = || failed.iter().map(|(_, failure)| failure);
    let errors: Vec<&str> = failures().map(|failure| failure.error.as_str()).collect();
    let entries: Vec<String> = failures().map(|one| one.entry().to_string()).collect();
    let moved = sqlx::query!(
        "WITH gone AS (
           DELETE FROM webhook_events e
            USING unnest($2::smallint[], $3::text[], $4::text[], $5::text[])
              AS failed(bucket, id, error, entry)
            WHERE e.bucket = failed.bucket AND e.stripe_event_id = failed.id
              AND e.lease_id = $1 AND NOT e.processed
           RETURNING e.*, failed.error, failed.entry),
         came AS (
           INSERT INTO webhook_dead_letter_sources (bucket, stripe_event_id, source)
           SELECT bucket, stripe_event_id, source FROM gone
           ON CONFLICT (bucket, stripe_event_id) DO UPDATE SET source = excluded.source)
         INSERT INTO webhook_dead_letter_queue AS known (
           bucket, stripe_event_id, event_type, api_version, livemode, account, event_created_at,
           payload, received_at, organization_id, retry_count, error_message, attempts)
         SELECT bucket, stripe_event_id, event_type, api_version, livemode, account, event_created_at,
                payload, received_at, organization_id, retry_count, error, attempts || entry::jsonb
           FROM gone
         ON CONFLICT (bucket, stripe_event_id) DO UPDATE SET
           error_message = excluded.error_message, attempts = excluded.attempts
         RETURNING bucket, stripe_event_id",
        lease_id,
        &buckets,
        &ids as &[&str],
        &errors as &[&str],
        &entries
    )
    .fetch_all(conn)
    .await?;
    let moved = moved.into_iter();
    Ok(moved.map(|row| (row.bucket, row.stripe_event_id)).collect())
}

/// Deletes dead letters whose events were processed after all: Stripe may send an
/// event again while it is being moved.
pub async fn forget_dead_letters(
    conn: &mut PgConnection,
    events: &[&StoredEvent],
) -> Result<(), sqlx::Error> {
    let (buckets, ids) = keys(events);
    sqlx::query!(
        "WITH gone AS (
           DELETE FROM webhook_dead_letter_queue d
            USING unnest($1::smallint[], $2::text[]) AS done(bucket, id)
            WHERE d.bucket = done.bucket AND d.stripe_event_id = done.id
           RETURNING d.bucket, d.stripe_event_id)
         DELETE FROM webhook_dead_letter_sources s
          USING gone WHERE s.bucket = gone.bucket AND s.stripe_event_id = gone.stripe_event_id",
        &buckets,
        &ids as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
