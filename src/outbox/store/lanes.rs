//! SQL for sending: a lane is an organization's events on their way to an endpoint, one
//! sender at a time, in order.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::outbox::post::Answer;

/// A lane that this process holds.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    pub organization_id: Uuid,
    pub endpoint_id: Uuid,
    pub lease_id: Uuid,
}

/// Takes up to `limit` lanes of an endpoint that are due.
pub async fn claim(
    conn: &mut PgConnection,
    endpoint_id: Uuid,
    limit: i64,
    lease_secs: f64,
) -> Result<Vec<Lane>, sqlx::Error> {
    let lease_id = Uuid::now_v7();
    let organizations = sqlx::query_scalar!(
        "UPDATE outbound_lanes lane
            SET due_at = now() + make_interval(secs => $4), lease_id = $3
           FROM (SELECT organization_id FROM outbound_lanes
                  WHERE endpoint_id = $1 AND due_at <= now()
                  ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) due
          WHERE lane.organization_id = due.organization_id AND lane.endpoint_id = $1
         RETURNING lane.organization_id",
        endpoint_id,
        limit,
        lease_id,
        lease_secs
    )
    .fetch_all(conn)
    .await?;
    let lane = |organization_id| Lane {
        organization_id,
        endpoint_id,
        lease_id,
    };
    Ok(organizations.into_iter().map(lane).collect())
}

/// The next delivery of a lane.
#[derive(Debug, Clone)]
pub struct Due {
    pub sequence: i64,
    pub event_id: Uuid,
    pub event_type: String,
    pub body: String,
    /// Attempts made so far.
    pub attempts: i32,
    /// Whether its time has come.
    pub is_due: bool,
}

pub async fn next(conn: &mut PgConnection, lane: &Lane) -> Result<Option<Due>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT d.sequence, d.attempts, e.id, e.event_type, e.body::text AS "body!",
                  d.next_attempt_at <= now() AS "is_due!"
             FROM outbound_deliveries d
             JOIN outbound_events e
               ON e.organization_id = d.organization_id AND e.sequence = d.sequence
            WHERE d.organization_id = $1 AND d.endpoint_id = $2 AND d.status = 'pending'
            ORDER BY d.sequence LIMIT 1"#,
        lane.organization_id,
        lane.endpoint_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Due {
        sequence: row.sequence,
        event_id: row.id,
        event_type: row.event_type,
        body: row.body,
        attempts: row.attempts,
        is_due: row.is_due,
    }))
}

/// Renews the lease. Returns false if another sender has the lane.
pub async fn hold(
    conn: &mut PgConnection,
    lane: &Lane,
    lease_secs: f64,
) -> Result<bool, sqlx::Error> {
    let held = sqlx::query!(
        "UPDATE outbound_lanes SET due_at = now() + make_interval(secs => $4)
          WHERE organization_id = $1 AND endpoint_id = $2 AND lease_id = $3",
        lane.organization_id,
        lane.endpoint_id,
        lane.lease_id,
        lease_secs
    )
    .execute(conn)
    .await?;
    Ok(held.rows_affected() > 0)
}

/// Lets go of a lane: it is due when its next delivery is.
pub async fn release(conn: &mut PgConnection, lane: &Lane) -> Result<(), sqlx::Error> {
    // Locked before looking for what waits, since the publisher locks it too.
    let held = sqlx::query!(
        "SELECT due_at FROM outbound_lanes
          WHERE organization_id = $1 AND endpoint_id = $2 AND lease_id = $3 FOR UPDATE",
        lane.organization_id,
        lane.endpoint_id,
        lane.lease_id
    )
    .fetch_optional(&mut *conn)
    .await?;
    if held.is_none() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE outbound_lanes SET lease_id = NULL,
                due_at = (SELECT greatest(d.next_attempt_at, now()) FROM outbound_deliveries d
                           WHERE d.organization_id = $1 AND d.endpoint_id = $2
                             AND d.status = 'pending' ORDER BY d.sequence LIMIT 1)
          WHERE organization_id = $1 AND endpoint_id = $2",
        lane.organization_id,
        lane.endpoint_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Retry(Timestamp),
    Failed,
}

/// Records an attempt by the holder of the lane.
pub async fn record(
    conn: &mut PgConnection,
    lane: &Lane,
    due: &Due,
    answer: &Answer,
    outcome: Outcome,
) -> Result<(), sqlx::Error> {
    let (status, next) = match outcome {
        Outcome::Delivered => ("delivered", None),
        Outcome::Retry(at) => ("pending", Some(at.to_sqlx())),
        Outcome::Failed => ("failed", None),
    };
    sqlx::query!(
        "UPDATE outbound_deliveries
            SET status = $4, attempts = attempts + 1, last_attempt_at = now(),
                next_attempt_at = coalesce($5, next_attempt_at), response_status = $6,
                response_excerpt = $7, error_message = $8,
                ended_at = CASE WHEN $4 <> 'pending' THEN now() END
          WHERE organization_id = $1 AND endpoint_id = $2 AND sequence = $3",
        lane.organization_id,
        lane.endpoint_id,
        due.sequence,
        status,
        next as _,
        answer.status.map(i32::from),
        answer.excerpt,
        answer.error
    )
    .execute(&mut *conn)
    .await?;
    if !due.event_type.starts_with("quota.") {
        return Ok(());
    }
    // The list of alerts says whether the application was told.
    sqlx::query!(
        "UPDATE usage_alerts
            SET attempts = attempts + 1, error_message = $3,
                delivered_at = CASE WHEN $4 = 'delivered' THEN coalesce(delivered_at, now())
                                    ELSE delivered_at END,
                failed_at = CASE WHEN $4 = 'failed' AND delivered_at IS NULL THEN now() END
          WHERE organization_id = $1 AND id = $2",
        lane.organization_id,
        due.event_id,
        answer.error,
        status
    )
    .execute(conn)
    .await?;
    Ok(())
}
