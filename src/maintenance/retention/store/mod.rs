//! The SQL of retention. Each function removes one batch, found by index, within
//! the transaction of its caller; what another transaction holds is left for the
//! next batch.

mod counts;
mod lease;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

pub use counts::count;
pub use lease::{LEASE, ran_since, release, take};

/// The indexes that `names` lists and the database lacks: without one, each batch
/// would read a whole table.
pub async fn missing_indexes(
    conn: &mut PgConnection,
    names: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT name AS "name!" FROM unnest($1::text[]) AS name
            WHERE to_regclass('public.' || name) IS NULL"#,
        names as &[&str]
    )
    .fetch_all(conn)
    .await
}

/// Removes events whose payloads are gone, and that they were applied. Of a
/// subscription with more items than its events show, what they say stays.
pub async fn webhook_events(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH old AS MATERIALIZED (
             SELECT bucket, stripe_event_id FROM webhook_events
              WHERE payload_removed_at IS NOT NULL AND received_at < $1
              ORDER BY received_at, stripe_event_id LIMIT $2 FOR UPDATE SKIP LOCKED),
           gone AS (
             DELETE FROM webhook_events e USING old
              WHERE e.bucket = old.bucket AND e.stripe_event_id = old.stripe_event_id
             RETURNING e.organization_id, e.stripe_event_id),
           applied AS (
             DELETE FROM billing_applied_events a USING gone
              WHERE a.organization_id = gone.organization_id
                AND a.stripe_event_id = gone.stripe_event_id
                AND NOT (a.event_type LIKE 'customer.subscription.%'
                         AND EXISTS (SELECT FROM billing_subscriptions s
                                      WHERE s.organization_id = a.organization_id
                                        AND s.stripe_subscription_id = a.resource_id
                                        AND s.has_more_items AND s.ended_at IS NULL)))
           SELECT count(*) AS "gone!" FROM gone"#,
        before.to_sqlx() as _,
        limit
    )
    .fetch_one(conn)
    .await
    .map(i64::unsigned_abs)
}

/// Removes what would have said whose an event is: its payload is as old.
pub async fn unclaimed_events(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM webhook_unclaimed_events
          WHERE (organization_id, waiting_for, stripe_event_id) IN (
            SELECT organization_id, waiting_for, stripe_event_id FROM webhook_unclaimed_events
             WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Where a batch of usage events ended: those that stay are not looked at again.
pub type UsagePlace = (Timestamp, Uuid, String);

/// Removes usage events of periods that have been over for 35 days: until then
/// they may move to another period, and be sent again. Returns how many those
/// are, and where the batch ended; `None`: there were no more.
pub async fn usage_events(
    conn: &mut PgConnection,
    before: Timestamp,
    after: Option<&UsagePlace>,
    limit: i64,
) -> Result<(u64, Option<UsagePlace>), sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH old AS MATERIALIZED (
             SELECT organization_id, event_id, metric, period_start, recorded_at FROM usage_events
              WHERE recorded_at < $1
                AND ($2::timestamptz IS NULL
                     OR (recorded_at, organization_id, event_id) > ($2, $3, $4))
              ORDER BY recorded_at, organization_id, event_id LIMIT $5
                FOR UPDATE SKIP LOCKED),
           gone AS (
             DELETE FROM usage_events e USING old
              WHERE e.organization_id = old.organization_id AND e.event_id = old.event_id
                AND NOT EXISTS (SELECT FROM usage_totals t
                                 WHERE t.organization_id = old.organization_id
                                   AND t.metric = old.metric
                                   AND t.period_start = old.period_start
                                   AND t.period_end > now() - interval '35 days')
             RETURNING e.event_id)
           SELECT recorded_at, organization_id, event_id,
                  (SELECT count(*) FROM gone) AS "gone!", (SELECT count(*) FROM old) AS "seen!"
             FROM old ORDER BY recorded_at DESC, organization_id DESC, event_id DESC LIMIT 1"#,
        before.to_sqlx() as _,
        after.map(|(at, ..)| at.to_sqlx()) as _,
        after.map(|(_, organization, _)| *organization),
        after.map(|(.., id)| id.as_str()),
        limit
    )
    .fetch_optional(conn)
    .await?;
    let Some(last) = rows else {
        return Ok((0, None));
    };
    let place = (
        last.recorded_at.to_jiff(),
        last.organization_id,
        last.event_id,
    );
    let more = last.seen >= limit;
    Ok((last.gone.unsigned_abs(), more.then_some(place)))
}

/// Removes answers kept for idempotency keys. They are honoured for a day, which
/// `before` is one of.
pub async fn idempotency_keys(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM request_idempotency WHERE (organization_id, idempotency_key) IN (
           SELECT organization_id, idempotency_key FROM request_idempotency
            WHERE expires_at <= $1::timestamptz + interval '1 day'
            ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes sessions that ended.
pub async fn sessions(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM user_sessions WHERE token_hash IN (
           SELECT token_hash FROM user_sessions
            WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes sessions of the customer pages that ended.
pub async fn portal_sessions(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM portal_sessions WHERE (organization_id, id) IN (
           SELECT organization_id, id FROM portal_sessions
            WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes counters of attempts to log in, and with them what addresses an account
/// is known from.
pub async fn login_throttles(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM login_throttles WHERE throttle_key IN (
           SELECT throttle_key FROM login_throttles
            WHERE last_attempt_at < $1 ORDER BY last_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes what was refused at the door; a table of a few rows an hour at most.
pub async fn rejections(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM webhook_rejections WHERE (reason, hour) IN (
           SELECT reason, hour FROM webhook_rejections
            WHERE hour < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes refused uses.
pub async fn denials(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM usage_denials WHERE (organization_id, id) IN (
           SELECT organization_id, id FROM usage_denials
            WHERE denied_at < $1 ORDER BY denied_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes bulk actions that have ended; their entries in the audit log stay.
pub async fn bulk_actions(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM webhook_bulk_actions WHERE id IN (
           SELECT id FROM webhook_bulk_actions
            WHERE ended_at < $1 ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes runs of jobs, but each job's newest run and newest success; what they
/// counted stays in the totals.
pub async fn job_runs(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH old AS MATERIALIZED (
             SELECT id FROM billing_job_runs r
              WHERE finished_at < $1
                AND EXISTS (SELECT FROM billing_job_runs n
                             WHERE n.job = r.job AND (n.finished_at, n.id) > (r.finished_at, r.id)
                               AND (n.succeeded OR NOT r.succeeded))
              ORDER BY finished_at LIMIT $2),
           gone AS (
             DELETE FROM billing_job_runs r USING old WHERE r.id = old.id
             RETURNING r.job, r.counters),
           counted AS (
             INSERT INTO billing_job_totals AS known (job, series, total)
             SELECT gone.job, counter.key, sum(counter.value::bigint)
               FROM gone, jsonb_each_text(gone.counters) counter
              GROUP BY gone.job, counter.key ORDER BY gone.job, counter.key
             ON CONFLICT (job, series) DO UPDATE SET total = known.total + excluded.total)
           SELECT count(*) AS "gone!" FROM gone"#,
        before.to_sqlx() as _,
        limit
    )
    .fetch_one(conn)
    .await
    .map(i64::unsigned_abs)
}

/// Removes usage alerts that the application was told of, or that no endpoint wanted, and
/// whose period is over: the totals remember that they were raised.
pub async fn usage_alerts(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM usage_alerts
          WHERE (organization_id, metric, period_start, threshold) IN (
            SELECT organization_id, metric, period_start, threshold FROM usage_alerts
             WHERE delivered_at < $1 AND period_end < now()
             ORDER BY delivered_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    let gone = gone.execute(&mut *conn).await?.rows_affected();
    let left = limit.saturating_sub_unsigned(gone);
    let unwanted = sqlx::query!(
        "DELETE FROM usage_alerts
          WHERE (organization_id, metric, period_start, threshold) IN (
            SELECT organization_id, metric, period_start, threshold FROM usage_alerts
             WHERE failed_at IS NOT NULL AND attempts = 0 AND raised_at < $1
               AND failed_at < $1 AND period_end < now()
             ORDER BY raised_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        left
    );
    Ok(gone + unwanted.execute(conn).await?.rows_affected())
}

/// Removes settled reservations of the product's.
pub async fn reservations(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM usage_reservations
          WHERE (organization_id, id) IN (
            SELECT organization_id, id FROM usage_reservations
             WHERE settled_at < $1
             ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes mails that were sent, given up or withdrawn. A fact that a search may still find is
/// kept, so that it is told once.
pub async fn mails(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM mails
          WHERE (organization_id, id) IN (
            SELECT organization_id, id FROM mails
             WHERE ended_at < $1 AND happened_at < now() - interval '40 days'
             ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before.to_sqlx() as _,
        limit
    );
    Ok(gone.execute(conn).await?.rows_affected())
}

/// Removes events that no endpoint waits for, with their deliveries.
pub async fn outbound_events(
    conn: &mut PgConnection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH old AS MATERIALIZED (
             SELECT organization_id, sequence FROM outbound_events e
              WHERE created_at < $1
                AND NOT EXISTS (SELECT FROM outbound_deliveries d
                                  JOIN outbound_endpoints p ON p.id = d.endpoint_id
                                 WHERE d.organization_id = e.organization_id
                                   AND d.sequence = e.sequence AND d.status = 'pending')
              ORDER BY created_at LIMIT $2 FOR UPDATE OF e SKIP LOCKED),
           gone AS (
             DELETE FROM outbound_events e USING old
              WHERE e.organization_id = old.organization_id AND e.sequence = old.sequence
             RETURNING 1),
           delivered AS (
             DELETE FROM outbound_deliveries d USING old
              WHERE d.organization_id = old.organization_id AND d.sequence = old.sequence)
           SELECT count(*) AS "gone!" FROM gone"#,
        before.to_sqlx() as _,
        limit
    )
    .fetch_one(conn)
    .await
    .map(i64::unsigned_abs)
}
