//! SQL for publishing: changes become events.

use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::outbox::facts::Entry;

/// The longest that one publishing takes of an organization's changes.
const CHANGES: i64 = 200;
/// Alerts are looked for among so many.
const ALERTS: i64 = 200;
/// An alert is committed some time after it is raised: an endpoint that was made meanwhile
/// hears of it.
pub const COMMITTED_WITHIN_SECS: f64 = 30.0;
/// Changes that are forgotten at a time.
const FORGOTTEN: i64 = 5_000;

/// Organizations that have something to tell, by their ids after `after`.
pub async fn organizations(
    conn: &mut PgConnection,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    // Steps from one organization to the next, however many changes each has.
    sqlx::query_scalar!(
        r#"WITH RECURSIVE changed(id) AS (
             (SELECT organization_id FROM outbound_changes WHERE organization_id > $1
               ORDER BY organization_id LIMIT 1)
             UNION ALL
             SELECT (SELECT c.organization_id FROM outbound_changes c
                      WHERE c.organization_id > changed.id
                      ORDER BY c.organization_id LIMIT 1)
               FROM changed WHERE changed.id IS NOT NULL),
           named AS (SELECT id FROM changed WHERE id IS NOT NULL LIMIT $2),
           alerted AS (
             SELECT organization_id AS id FROM usage_alerts a
              WHERE delivered_at IS NULL AND failed_at IS NULL AND next_attempt_at <= now()
                -- Not one is looked at where there is no endpoint.
                AND EXISTS (SELECT FROM outbound_endpoints)
                AND EXISTS (SELECT FROM outbound_endpoints p
                             WHERE (p.organization_id IS NULL
                                    OR p.organization_id = a.organization_id)
                               AND (a.attempts > 0
                                    OR p.created_at <= a.raised_at + make_interval(secs => $4))
                               AND (p.types = '{}' OR CASE WHEN a.threshold < 100
                                                           THEN 'quota.threshold_reached'
                                                           ELSE 'quota.exceeded' END = ANY(p.types)))
              ORDER BY next_attempt_at LIMIT $3)
           SELECT id AS "id!" FROM named
           UNION SELECT id FROM alerted WHERE id > $1
           ORDER BY 1 LIMIT $2"#,
        after,
        limit,
        ALERTS,
        COMMITTED_WITHIN_SECS
    )
    .fetch_all(conn)
    .await
}

/// Forgets changes of organizations that no endpoint hears of.
pub async fn forget_unheard(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query!(
        "DELETE FROM outbound_changes WHERE (organization_id, id) IN (
           SELECT organization_id, id FROM outbound_changes c
            WHERE NOT EXISTS (SELECT FROM outbound_endpoints p
                               WHERE p.organization_id IS NULL
                                  OR p.organization_id = c.organization_id)
            LIMIT $1 FOR UPDATE SKIP LOCKED)",
        FORGOTTEN
    );
    Ok(forgotten.execute(conn).await?.rows_affected())
}

/// Gives up a batch of alerts that were raised before any endpoint wanted them, except those
/// that were attempted or that an operator sends again.
pub async fn give_past_alerts_up(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let past = sqlx::query!(
        "UPDATE usage_alerts
            SET failed_at = now(),
                error_message = 'no endpoint that wants it was there when it was raised'
          WHERE (organization_id, metric, period_start, threshold) IN (
            SELECT organization_id, metric, period_start, threshold FROM usage_alerts a
             WHERE delivered_at IS NULL AND failed_at IS NULL AND next_attempt_at <= now()
               AND attempts = 0
               AND EXISTS (SELECT FROM outbound_endpoints)
               AND NOT EXISTS (SELECT FROM outbound_endpoints p
                                WHERE (p.organization_id IS NULL
                                       OR p.organization_id = a.organization_id)
                                  AND p.created_at <= a.raised_at + make_interval(secs => $2)
                                  AND (p.types = '{}' OR CASE WHEN a.threshold < 100
                                                              THEN 'quota.threshold_reached'
                                                              ELSE 'quota.exceeded' END
                                                         = ANY(p.types)))
             ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        FORGOTTEN,
        COMMITTED_WITHIN_SECS
    );
    Ok(past.execute(conn).await?.rows_affected())
}

/// That an organization's state changed.
#[derive(Debug, Clone)]
pub struct Change {
    pub id: Uuid,
    /// The entries that tell of it; none if it is entered nowhere.
    pub entries: Option<(i64, i64)>,
}

pub async fn of_organization(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<Change>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, first_entry, last_entry FROM outbound_changes WHERE organization_id = $1
          ORDER BY recorded_at, first_entry LIMIT $2",
        organization_id,
        CHANGES
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| Change {
            id: row.id,
            entries: row.first_entry.zip(row.last_entry),
        })
        .collect())
}

/// The entries of `changes`, in the order of the chain, without those of history that was
/// imported: it does not happen now.
pub async fn entries(
    conn: &mut PgConnection,
    organization_id: Uuid,
    changes: &[Change],
) -> Result<Vec<Entry>, sqlx::Error> {
    let (first, last): (Vec<i64>, Vec<i64>) =
        changes.iter().filter_map(|change| change.entries).unzip();
    let rows = sqlx::query!(
        r#"SELECT l.action, l.resource_type, l.resource_id, l.before_state, l.after_state,
                  l.created_at
             FROM unnest($2::bigint[], $3::bigint[]) AS told(first, last)
             JOIN billing_audit_log l ON l.organization_id = $1
              AND l.sequence BETWEEN told.first AND told.last
            WHERE l.metadata->'imported' IS DISTINCT FROM 'true'
            ORDER BY l.sequence"#,
        organization_id,
        &first,
        &last
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Entry {
            action: row.action,
            resource_type: row.resource_type,
            resource_id: row.resource_id,
            before: row.before_state,
            after: row.after_state,
            at: row.created_at.to_jiff(),
        })
        .collect())
}

/// A threshold that was reached, and not yet told of.
#[derive(Debug, Clone)]
pub struct Alert {
    pub id: Uuid,
    pub metric: String,
    pub threshold: i16,
    pub usage: Decimal,
    pub quota: Decimal,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub raised_at: Timestamp,
    /// Whether it is sent whenever its endpoint was made.
    pub again: bool,
}

pub async fn alerts(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<Alert>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, metric, threshold, usage, quota, period_start, period_end, raised_at,
                  attempts > 0 AS "again!"
           FROM usage_alerts
          WHERE organization_id = $1 AND delivered_at IS NULL AND failed_at IS NULL
            AND next_attempt_at <= now()
          ORDER BY raised_at, threshold, id LIMIT $2"#,
        organization_id,
        ALERTS
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Alert {
            id: row.id,
            metric: row.metric,
            threshold: row.threshold,
            usage: row.usage,
            quota: row.quota,
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            raised_at: row.raised_at.to_jiff(),
            again: row.again,
        })
        .collect())
}

/// What the product calls an organization, and whether it was erased.
pub struct Named {
    pub external_id: Option<String>,
    pub erased: bool,
}

/// `None`: there is no such organization.
pub async fn named(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<Named>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT external_id, erased_at IS NOT NULL AS "erased!" FROM organizations
            WHERE id = $1"#,
        organization_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Named {
        external_id: row.external_id,
        erased: row.erased,
    }))
}

/// Locks an organization's stream and returns its last number; `None` if another
/// publisher, or an erasure, holds it.
pub async fn lock_stream(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO outbound_streams (organization_id) VALUES ($1) ON CONFLICT DO NOTHING",
        organization_id
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_scalar!(
        "SELECT last_sequence FROM outbound_streams WHERE organization_id = $1
            FOR UPDATE SKIP LOCKED",
        organization_id
    )
    .fetch_optional(conn)
    .await
}

/// Takes `changes` and `alerts`. Returns false if another publisher has taken some.
pub async fn take(
    conn: &mut PgConnection,
    organization_id: Uuid,
    changes: &[Change],
    alerts: &[Alert],
) -> Result<bool, sqlx::Error> {
    let changes: Vec<Uuid> = changes.iter().map(|change| change.id).collect();
    let taken = sqlx::query!(
        "DELETE FROM outbound_changes WHERE organization_id = $1 AND id = ANY($2)",
        organization_id,
        &changes
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let alerts: Vec<Uuid> = alerts.iter().map(|alert| alert.id).collect();
    let told = sqlx::query!(
        "UPDATE usage_alerts SET next_attempt_at = 'infinity'
          WHERE organization_id = $1 AND id = ANY($2) AND next_attempt_at <= now()",
        organization_id,
        &alerts
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(taken == changes.len() as u64 && told == alerts.len() as u64)
}

/// An event to be written.
pub struct Written {
    pub sequence: i64,
    pub id: Uuid,
    pub event_type: &'static str,
    pub body: String,
}

/// Writes events, and a delivery of each to every endpoint that wants it.
pub async fn write(
    conn: &mut PgConnection,
    organization_id: Uuid,
    events: &[Written],
) -> Result<(), sqlx::Error> {
    let Some(last) = events.last() else {
        return Ok(());
    };
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let types: Vec<&str> = events.iter().map(|event| event.event_type).collect();
    let bodies: Vec<&str> = events.iter().map(|event| event.body.as_str()).collect();
    sqlx::query!(
        "INSERT INTO outbound_events (organization_id, sequence, id, event_type, body)
         SELECT $1, sequence, id, event_type, body::json
           FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::text[])
             AS t(sequence, id, event_type, body)",
        organization_id,
        &sequences,
        &ids,
        &types as &[&str],
        &bodies as &[&str]
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE outbound_streams SET last_sequence = $2 WHERE organization_id = $1",
        organization_id,
        last.sequence
    )
    .execute(&mut *conn)
    .await?;
    // The lanes are locked, so that a sender that finds one empty sees what is new.
    sqlx::query!(
        "WITH written AS (
           INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence)
           SELECT $1, p.id, e.sequence
             FROM unnest($2::bigint[], $3::text[]) AS e(sequence, event_type)
             -- Held, so that one which is removed leaves no deliveries.
             JOIN (SELECT id, types FROM outbound_endpoints
                    WHERE disabled_at IS NULL
                      AND (organization_id IS NULL OR organization_id = $1)
                      FOR KEY SHARE) p
               ON p.types = '{}' OR e.event_type = ANY(p.types)
           RETURNING endpoint_id)
         INSERT INTO outbound_lanes AS lane (organization_id, endpoint_id, due_at)
         SELECT DISTINCT $1::uuid, endpoint_id, now() FROM written ORDER BY endpoint_id
         ON CONFLICT (organization_id, endpoint_id)
           DO UPDATE SET due_at = coalesce(lane.due_at, excluded.due_at)",
        organization_id,
        &sequences,
        &types as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
