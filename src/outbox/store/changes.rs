//! SQL for publishing: changes become events.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::outbox::facts::Entry;

/// The most that one publishing takes of an organization's changes.
const CHANGES: i64 = 50;
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

/// The changes of organizations, the oldest first.
pub async fn of_organizations(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Change>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT o.id AS "organization_id!", c.id, c.first_entry, c.last_entry
             FROM unnest($1::uuid[]) AS o(id)
            CROSS JOIN LATERAL (
              SELECT id, first_entry, last_entry, recorded_at FROM outbound_changes
               WHERE organization_id = o.id ORDER BY recorded_at, first_entry LIMIT $2) c
            ORDER BY o.id, c.recorded_at, c.first_entry"#,
        organizations,
        CHANGES
    )
    .fetch_all(conn)
    .await?;
    let mut changes: HashMap<Uuid, Vec<Change>> = HashMap::new();
    for row in rows {
        changes
            .entry(row.organization_id)
            .or_default()
            .push(Change {
                id: row.id,
                entries: row.first_entry.zip(row.last_entry),
            });
    }
    Ok(changes)
}

/// The entries of changes, in the order of each chain, without those of history that was
/// imported: it does not happen now.
pub async fn entries(
    conn: &mut PgConnection,
    changes: &HashMap<Uuid, Vec<Change>>,
) -> Result<HashMap<Uuid, Vec<Entry>>, sqlx::Error> {
    let (mut organizations, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for (organization_id, changes) in changes {
        for (from, to) in changes.iter().filter_map(|change| change.entries) {
            organizations.push(*organization_id);
            first.push(from);
            last.push(to);
        }
    }
    let rows = sqlx::query!(
        r#"SELECT l.organization_id, l.action, l.resource_type, l.resource_id, l.before_state,
                  l.after_state, l.created_at
             FROM unnest($1::uuid[], $2::bigint[], $3::bigint[])
                    AS told(organization_id, first, last)
             JOIN billing_audit_log l ON l.organization_id = told.organization_id
              AND l.sequence BETWEEN told.first AND told.last
            WHERE l.metadata->'imported' IS DISTINCT FROM 'true'
            ORDER BY l.organization_id, l.sequence"#,
        &organizations,
        &first,
        &last
    )
    .fetch_all(conn)
    .await?;
    let mut entries: HashMap<Uuid, Vec<Entry>> = HashMap::new();
    for row in rows {
        entries.entry(row.organization_id).or_default().push(Entry {
            action: row.action,
            resource_type: row.resource_type,
            resource_id: row.resource_id,
            before: row.before_state,
            after: row.after_state,
            at: row.created_at.to_jiff(),
        });
    }
    Ok(entries)
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

/// The alerts of organizations that are to be told of.
pub async fn alerts(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Alert>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT o.id AS "organization_id!", a.id, a.metric, a.threshold, a.usage, a.quota,
                  a.period_start, a.period_end, a.raised_at, a.attempts > 0 AS "again!"
             FROM unnest($1::uuid[]) AS o(id)
            CROSS JOIN LATERAL (
              SELECT * FROM usage_alerts
               WHERE organization_id = o.id AND delivered_at IS NULL AND failed_at IS NULL
                 AND next_attempt_at <= now()
               ORDER BY raised_at, threshold, id LIMIT $2) a
            ORDER BY o.id, a.raised_at, a.threshold, a.id"#,
        organizations,
        ALERTS
    )
    .fetch_all(conn)
    .await?;
    let mut alerts: HashMap<Uuid, Vec<Alert>> = HashMap::new();
    for row in rows {
        alerts.entry(row.organization_id).or_default().push(Alert {
            id: row.id,
            metric: row.metric,
            threshold: row.threshold,
            usage: row.usage,
            quota: row.quota,
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            raised_at: row.raised_at.to_jiff(),
            again: row.again,
        });
    }
    Ok(alerts)
}

/// What the product calls an organization, and whether it was erased.
#[derive(Debug, Clone)]
pub struct Named {
    pub external_id: Option<String>,
    pub erased: bool,
}

/// Those of the organizations that there are.
pub async fn named(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, Named>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, external_id, erased_at IS NOT NULL AS "erased!" FROM organizations
            WHERE id = ANY($1)"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let named = |external_id, erased| Named {
        external_id,
        erased,
    };
    Ok(rows
        .into_iter()
        .map(|row| (row.id, named(row.external_id, row.erased)))
        .collect())
}

/// Locks the streams of organizations, which are in order, and returns the last number of
/// each; of none that another publisher, or an erasure, holds.
pub async fn lock_streams(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO outbound_streams (organization_id)
         SELECT id FROM unnest($1::uuid[]) AS o(id)
          WHERE NOT EXISTS (SELECT FROM outbound_streams WHERE organization_id = o.id)
          ORDER BY id ON CONFLICT DO NOTHING",
        organizations
    )
    .execute(&mut *conn)
    .await?;
    let rows = sqlx::query!(
        "SELECT organization_id, last_sequence FROM outbound_streams
          WHERE organization_id = ANY($1) ORDER BY organization_id FOR UPDATE SKIP LOCKED",
        organizations
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.organization_id, row.last_sequence))
        .collect())
}

/// What one publishing takes of an organization.
pub struct Taken<'a> {
    pub organization_id: Uuid,
    pub changes: &'a [Change],
    pub alerts: &'a [Alert],
}

/// Takes changes and alerts. Returns the organizations of which another publisher, or an
/// erasure, has taken some: of these nothing is taken.
pub async fn take(
    conn: &mut PgConnection,
    wanted: &[Taken<'_>],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let changes = lock_changes(conn, wanted).await?;
    let alerts = lock_alerts(conn, wanted).await?;
    let is_whole = |taken: &&Taken<'_>| {
        taken
            .changes
            .iter()
            .all(|change| changes.contains(&change.id))
            && taken.alerts.iter().all(|alert| alerts.contains(&alert.id))
    };
    let (whole, rest): (Vec<&Taken<'_>>, Vec<_>) = wanted.iter().partition(is_whole);
    let (organizations, ids) = pairs(&whole, |taken| taken.changes.iter().map(|one| one.id));
    sqlx::query!(
        "DELETE FROM outbound_changes c
          USING unnest($1::uuid[], $2::uuid[]) AS taken(organization_id, id)
          WHERE c.organization_id = taken.organization_id AND c.id = taken.id",
        &organizations,
        &ids
    )
    .execute(&mut *conn)
    .await?;
    let (organizations, ids) = pairs(&whole, |taken| taken.alerts.iter().map(|one| one.id));
    if !ids.is_empty() {
        sqlx::query!(
            "UPDATE usage_alerts a SET next_attempt_at = 'infinity'
               FROM unnest($1::uuid[], $2::uuid[]) AS taken(organization_id, id)
              WHERE a.organization_id = taken.organization_id AND a.id = taken.id",
            &organizations,
            &ids
        )
        .execute(conn)
        .await?;
    }
    Ok(rest.iter().map(|taken| taken.organization_id).collect())
}

/// The ids of what is taken, beside their organizations.
fn pairs<'a, I: Iterator<Item = Uuid>>(
    wanted: &[&'a Taken<'a>],
    ids: impl Fn(&'a Taken<'a>) -> I,
) -> (Vec<Uuid>, Vec<Uuid>) {
    let pairs = wanted
        .iter()
        .flat_map(|taken| ids(taken).map(|id| (taken.organization_id, id)));
    pairs.unzip()
}

async fn lock_changes(
    conn: &mut PgConnection,
    wanted: &[Taken<'_>],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let wanted: Vec<&Taken<'_>> = wanted.iter().collect();
    let (organizations, ids) = pairs(&wanted, |taken| taken.changes.iter().map(|one| one.id));
    let found = sqlx::query_scalar!(
        "SELECT c.id FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, id)
           JOIN outbound_changes c
             ON c.organization_id = wanted.organization_id AND c.id = wanted.id
          ORDER BY c.organization_id, c.id FOR UPDATE OF c",
        &organizations,
        &ids
    )
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().collect())
}

async fn lock_alerts(
    conn: &mut PgConnection,
    wanted: &[Taken<'_>],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let wanted: Vec<&Taken<'_>> = wanted.iter().collect();
    let (organizations, ids) = pairs(&wanted, |taken| taken.alerts.iter().map(|one| one.id));
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let found = sqlx::query_scalar!(
        "SELECT a.id FROM unnest($1::uuid[], $2::uuid[]) AS wanted(organization_id, id)
           JOIN usage_alerts a
             ON a.organization_id = wanted.organization_id AND a.id = wanted.id
          WHERE a.next_attempt_at <= now()
          ORDER BY a.organization_id, a.id FOR UPDATE OF a",
        &organizations,
        &ids
    )
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().collect())
}

/// An event to be written.
pub struct Written {
    pub organization_id: Uuid,
    pub sequence: i64,
    pub id: Uuid,
    pub event_type: &'static str,
    pub body: String,
}

/// Writes events, which are in the order of their organizations and numbers, and a delivery
/// of each to every endpoint that wants it.
pub async fn write(conn: &mut PgConnection, events: &[Written]) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let organizations: Vec<Uuid> = events.iter().map(|event| event.organization_id).collect();
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let types: Vec<&str> = events.iter().map(|event| event.event_type).collect();
    let bodies: Vec<&str> = events.iter().map(|event| event.body.as_str()).collect();
    // By the clock, which goes on under the lock: by time they are in the order of their
    // numbers, whichever publisher began first. What is recovered is read by time.
    sqlx::query!(
        "INSERT INTO outbound_events
           (organization_id, sequence, id, event_type, body, created_at)
         SELECT organization_id, sequence, id, event_type, body::json, clock_timestamp()
           FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[])
             AS t(organization_id, sequence, id, event_type, body)",
        &organizations,
        &sequences,
        &ids,
        &types as &[&str],
        &bodies as &[&str]
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE outbound_streams s SET last_sequence = last.sequence
           FROM (SELECT organization_id, max(sequence) AS sequence
                   FROM unnest($1::uuid[], $2::bigint[]) AS t(organization_id, sequence)
                  GROUP BY organization_id) last
          WHERE s.organization_id = last.organization_id",
        &organizations,
        &sequences
    )
    .execute(&mut *conn)
    .await?;
    // The lanes are locked, so that a sender that finds one empty sees what is new.
    sqlx::query!(
        "WITH written AS (
           INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence)
           SELECT e.organization_id, p.id, e.sequence
             FROM unnest($1::uuid[], $2::bigint[], $3::text[])
                    AS e(organization_id, sequence, event_type)
             -- Held, so that one which is removed leaves no deliveries.
             JOIN (SELECT id, types, organization_id FROM outbound_endpoints
                    WHERE disabled_at IS NULL
                      AND (organization_id IS NULL OR organization_id = ANY($1))
                      FOR KEY SHARE) p
               ON (p.organization_id IS NULL OR p.organization_id = e.organization_id)
              AND (p.types = '{}' OR e.event_type = ANY(p.types))
           RETURNING organization_id, endpoint_id)
         INSERT INTO outbound_lanes AS lane (organization_id, endpoint_id, due_at)
         SELECT DISTINCT organization_id, endpoint_id, now() FROM written
          ORDER BY organization_id, endpoint_id
         ON CONFLICT (organization_id, endpoint_id)
           DO UPDATE SET due_at = coalesce(lane.due_at, excluded.due_at)",
        &organizations,
        &sequences,
        &types as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
