//! SQL for endpoints.

use jiff::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

/// An endpoint, with its secrets.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: Uuid,
    pub organization_id: Option<Uuid>,
    pub source: String,
    pub url: String,
    pub description: Option<String>,
    pub types: Vec<String>,
    pub secret: Option<String>,
    pub previous_secret: Option<String>,
    pub previous_secret_until: Option<Timestamp>,
    pub failing_since: Option<Timestamp>,
    pub last_error: Option<String>,
    pub disabled_at: Option<Timestamp>,
    pub disabled_reason: Option<String>,
    pub created_at: Timestamp,
}

/// All endpoints, or these.
pub async fn list(conn: &mut PgConnection, ids: Option<&[Uuid]>) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, organization_id, source, url, description, types, secret, previous_secret,
                previous_secret_until, failing_since, last_error, disabled_at, disabled_reason,
                created_at
           FROM outbound_endpoints WHERE $1::uuid[] IS NULL OR id = ANY($1)
          ORDER BY created_at, id",
        ids
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Row {
        id: row.id,
        organization_id: row.organization_id,
        source: row.source,
        url: row.url,
        description: row.description,
        types: row.types,
        secret: row.secret,
        previous_secret: row.previous_secret,
        previous_secret_until: row.previous_secret_until.map(|at| at.to_jiff()),
        failing_since: row.failing_since.map(|at| at.to_jiff()),
        last_error: row.last_error,
        disabled_at: row.disabled_at.map(|at| at.to_jiff()),
        disabled_reason: row.disabled_reason,
        created_at: row.created_at.to_jiff(),
    });
    Ok(rows.collect())
}

/// The endpoint, locked.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query!(
        "SELECT id FROM outbound_endpoints WHERE id = $1 FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    Ok(list(conn, Some(&[id])).await?.pop())
}

/// The endpoint, locked for its removal from the start: a lock that grows deadlocks with
/// publishers, which hold the endpoint.
pub async fn lock_to_remove(conn: &mut PgConnection, id: Uuid) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query!(
        "SELECT id FROM outbound_endpoints WHERE id = $1 FOR UPDATE",
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    Ok(list(conn, Some(&[id])).await?.pop())
}

/// Locks an endpoint's lanes, for what changes its deliveries: senders lock a lane before
/// its deliveries, and those before the endpoint.
pub async fn lock_lanes(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT organization_id FROM outbound_lanes WHERE endpoint_id = $1
          ORDER BY organization_id FOR UPDATE",
        id
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// An endpoint to be made.
pub struct NewRow<'a> {
    pub id: Uuid,
    pub organization_id: Option<Uuid>,
    pub source: &'static str,
    pub url: &'a str,
    pub description: Option<&'a str>,
    pub types: &'a [String],
    pub secret: Option<&'a str>,
    /// When it goes unless its lease is renewed.
    pub lease_secs: Option<f64>,
}

/// Returns whether it is new.
pub async fn insert(conn: &mut PgConnection, new: &NewRow<'_>) -> Result<bool, sqlx::Error> {
    // Where there is no endpoint, changes leave no mark: the first one waits for those that
    // did not see it. Another that is there stays while this is made.
    let another =
        sqlx::query_scalar!("SELECT id FROM outbound_endpoints ORDER BY id LIMIT 1 FOR KEY SHARE")
            .fetch_optional(&mut *conn)
            .await?;
    if another.is_none() {
        sqlx::query!("LOCK TABLE outbound_changes IN SHARE MODE")
            .execute(&mut *conn)
            .await?;
    }
    let inserted = sqlx::query!(
        "INSERT INTO outbound_endpoints (id, organization_id, source, url, description, types,
                                         secret, lease_expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
         ON CONFLICT DO NOTHING",
        new.id,
        new.organization_id,
        new.source,
        new.url,
        new.description,
        new.types,
        new.secret,
        new.lease_secs
    )
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Sets another address, and forgets the failures of the old one.
pub async fn set_url(conn: &mut PgConnection, id: Uuid, url: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE outbound_endpoints SET url = $2, failing_since = NULL, last_error = NULL,
                disabled_at = NULL, disabled_reason = NULL WHERE id = $1",
        id,
        url
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A new secret; the former signs beside it for `overlap_secs`.
pub async fn rotate(
    conn: &mut PgConnection,
    id: Uuid,
    secret: &str,
    overlap_secs: f64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE outbound_endpoints
            SET previous_secret = CASE WHEN $3::float8 > 0 THEN secret END,
                previous_secret_until = CASE WHEN $3::float8 > 0 THEN now() + make_interval(secs => $3) END,
                secret = $2
          WHERE id = $1",
        id,
        secret,
        overlap_secs
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Disables, with the reason. Returns false if it was disabled already.
pub async fn disable(conn: &mut PgConnection, id: Uuid, reason: &str) -> Result<bool, sqlx::Error> {
    let disabled = sqlx::query!(
        "UPDATE outbound_endpoints SET disabled_at = now(), disabled_reason = $2
          WHERE id = $1 AND disabled_at IS NULL",
        id,
        reason
    )
    .execute(conn)
    .await?;
    Ok(disabled.rows_affected() > 0)
}

/// Enables; what waits is sent at once.
pub async fn enable(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE outbound_endpoints SET disabled_at = NULL, disabled_reason = NULL,
                failing_since = NULL, last_error = NULL WHERE id = $1",
        id
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE outbound_deliveries SET next_attempt_at = now()
          WHERE endpoint_id = $1 AND status = 'pending' AND next_attempt_at > now()",
        id
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE outbound_lanes SET due_at = now()
          WHERE endpoint_id = $1 AND due_at > now() AND lease_id IS NULL",
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes an endpoint; its deliveries are cleared once that has committed. It waits for
/// publishers who write deliveries to it.
pub async fn remove(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM outbound_endpoints WHERE id = $1", id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Clears deliveries of an endpoint that was removed, and then its lanes, at most `limit`
/// rows. Returns how many were there: fewer, and all are gone.
pub async fn clear(conn: &mut PgConnection, id: Uuid, limit: i64) -> Result<u64, sqlx::Error> {
    let deliveries = sqlx::query!(
        "DELETE FROM outbound_deliveries
          WHERE endpoint_id = $1 AND (organization_id, endpoint_id, sequence) IN (
            SELECT organization_id, endpoint_id, sequence FROM outbound_deliveries
             WHERE endpoint_id = $1 LIMIT $2)",
        id,
        limit
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if deliveries > 0 {
        // A sender holds its lane before its delivery: lanes have a transaction of their own.
        return Ok(deliveries.max(limit.unsigned_abs()));
    }
    let lanes = sqlx::query!(
        "DELETE FROM outbound_lanes
          WHERE endpoint_id = $1 AND organization_id IN (
            SELECT organization_id FROM outbound_lanes WHERE endpoint_id = $1
             ORDER BY organization_id LIMIT $2 FOR UPDATE)",
        id,
        limit
    )
    .execute(conn)
    .await?;
    Ok(lanes.rows_affected())
}

/// Removed endpoints that still have lanes.
pub async fn uncleared(conn: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT lane.endpoint_id FROM outbound_lanes lane
          WHERE NOT EXISTS (SELECT FROM outbound_endpoints p WHERE p.id = lane.endpoint_id)
          LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await
}

/// Holds on to an endpoint that listens. Returns false if it is gone.
pub async fn renew(
    conn: &mut PgConnection,
    id: Uuid,
    lease_secs: f64,
) -> Result<bool, sqlx::Error> {
    let renewed = sqlx::query!(
        "UPDATE outbound_endpoints SET lease_expires_at = now() + make_interval(secs => $2)
          WHERE id = $1 AND source = 'listen'",
        id,
        lease_secs
    )
    .execute(conn)
    .await?;
    Ok(renewed.rows_affected() > 0)
}

/// The endpoints that listen no more.
pub async fn expired(conn: &mut PgConnection) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM outbound_endpoints WHERE lease_expires_at < now()
          ORDER BY id FOR UPDATE SKIP LOCKED"
    )
    .fetch_all(conn)
    .await
}

/// Attempts succeeded.
pub async fn succeeded(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE outbound_endpoints SET failing_since = NULL, last_error = NULL
          WHERE id = ANY($1) AND failing_since IS NOT NULL",
        ids
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An attempt failed; returns since when they do. One that comes more than
/// `quiet_secs` after the last is the first again.
pub async fn failed(
    conn: &mut PgConnection,
    id: Uuid,
    error: &str,
    quiet_secs: f64,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let since = sqlx::query_scalar!(
        r#"UPDATE outbound_endpoints
              SET failing_since = CASE WHEN last_failed_at > now() - make_interval(secs => $3)
                                       THEN coalesce(failing_since, now()) ELSE now() END,
                  last_failed_at = now(), last_error = $2
            WHERE id = $1 RETURNING failing_since AS "since!""#,
        id,
        error,
        quiet_secs
    )
    .fetch_optional(conn)
    .await?;
    Ok(since.map(|since| since.to_jiff()))
}

/// Endpoints that were disabled because they failed, and their last errors.
pub async fn given_up(
    conn: &mut PgConnection,
) -> Result<Vec<(Uuid, String, Option<String>)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, url, disabled_reason FROM outbound_endpoints
          WHERE disabled_at IS NOT NULL AND disabled_reason LIKE 'failed:%'
          ORDER BY disabled_at, id"
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.id, row.url, row.disabled_reason))
        .collect())
}
