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

/// Takes lanes that are due, of each endpoint up to its number.
pub async fn claim(
    conn: &mut PgConnection,
    rooms: &[(Uuid, i64)],
    lease_secs: f64,
) -> Result<Vec<Lane>, sqlx::Error> {
    let (endpoints, rooms): (Vec<Uuid>, Vec<i64>) = rooms.iter().copied().unzip();
    let lease_id = Uuid::now_v7();
    let rows = sqlx::query!(
        r#"WITH due AS MATERIALIZED (
             SELECT r.endpoint_id, l.organization_id
               FROM unnest($1::uuid[], $2::bigint[]) AS r(endpoint_id, lanes)
              CROSS JOIN LATERAL (
                SELECT organization_id FROM outbound_lanes
                 WHERE endpoint_id = r.endpoint_id AND due_at <= now()
                 ORDER BY due_at LIMIT r.lanes FOR UPDATE SKIP LOCKED) l)
           UPDATE outbound_lanes lane
              SET due_at = now() + make_interval(secs => $4), lease_id = $3
             FROM due
            WHERE lane.organization_id = due.organization_id AND lane.endpoint_id = due.endpoint_id
           RETURNING lane.organization_id, lane.endpoint_id"#,
        &endpoints,
        &rooms,
        lease_id,
        lease_secs
    )
    .fetch_all(conn)
    .await?;
    let lane = |(organization_id, endpoint_id)| Lane {
        organization_id,
        endpoint_id,
        lease_id,
    };
    let keys = rows
        .into_iter()
        .map(|row| (row.organization_id, row.endpoint_id));
    Ok(keys.map(lane).collect())
}

/// A delivery whose time has come.
#[derive(Debug, Clone)]
pub struct Due {
    pub sequence: i64,
    pub event_id: Uuid,
    pub event_type: String,
    pub body: String,
    /// Attempts made so far.
    pub attempts: i32,
}

fn keys(lanes: &[Lane]) -> (Vec<Uuid>, Vec<Uuid>) {
    let keys = lanes
        .iter()
        .map(|lane| (lane.organization_id, lane.endpoint_id));
    keys.unzip()
}

/// The next delivery of each lane; `None`: none is due.
pub async fn next(
    conn: &mut PgConnection,
    lanes: &[Lane],
) -> Result<Vec<Option<Due>>, sqlx::Error> {
    let mut next = vec![None; lanes.len()];
    if lanes.is_empty() {
        return Ok(next);
    }
    let (organizations, endpoints) = keys(lanes);
    let rows = sqlx::query!(
        r#"SELECT lane.ordinal AS "ordinal!", d.sequence, d.attempts, e.id, e.event_type,
                  e.body::text AS "body!"
             FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY
                    AS lane(organization_id, endpoint_id, ordinal)
            CROSS JOIN LATERAL (
              SELECT sequence, attempts, next_attempt_at FROM outbound_deliveries
               WHERE organization_id = lane.organization_id AND endpoint_id = lane.endpoint_id
                 AND status = 'pending'
               ORDER BY sequence LIMIT 1) d
             JOIN outbound_events e
               ON e.organization_id = lane.organization_id AND e.sequence = d.sequence
            WHERE d.next_attempt_at <= now()"#,
        &organizations,
        &endpoints
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        next[place(row.ordinal)] = Some(Due {
            sequence: row.sequence,
            event_id: row.id,
            event_type: row.event_type,
            body: row.body,
            attempts: row.attempts,
        });
    }
    Ok(next)
}

/// The index of what PostgreSQL counts from 1.
fn place(ordinal: i64) -> usize {
    usize::try_from(ordinal - 1).expect("ordinals begin at 1")
}

/// Locks the lanes. Says of each whether it is held: another sender may have taken it over.
pub async fn lock(conn: &mut PgConnection, lanes: &[Lane]) -> Result<Vec<bool>, sqlx::Error> {
    let (organizations, endpoints) = keys(lanes);
    let leases: Vec<Uuid> = lanes.iter().map(|lane| lane.lease_id).collect();
    let ordinals = sqlx::query_scalar!(
        r#"SELECT held.ordinal AS "ordinal!"
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY
                    AS held(organization_id, endpoint_id, lease_id, ordinal)
             JOIN outbound_lanes lane
               ON lane.organization_id = held.organization_id
              AND lane.endpoint_id = held.endpoint_id AND lane.lease_id = held.lease_id
            ORDER BY lane.organization_id, lane.endpoint_id
              FOR NO KEY UPDATE OF lane"#,
        &organizations,
        &endpoints,
        &leases
    )
    .fetch_all(conn)
    .await?;
    let mut held = vec![false; lanes.len()];
    for ordinal in ordinals {
        held[place(ordinal)] = true;
    }
    Ok(held)
}

/// Renews the leases of lanes that are locked.
pub async fn renew(
    conn: &mut PgConnection,
    lanes: &[Lane],
    lease_secs: f64,
) -> Result<(), sqlx::Error> {
    if lanes.is_empty() {
        return Ok(());
    }
    let (organizations, endpoints) = keys(lanes);
    sqlx::query!(
        "UPDATE outbound_lanes lane SET due_at = now() + make_interval(secs => $3)
           FROM unnest($1::uuid[], $2::uuid[]) AS held(organization_id, endpoint_id)
          WHERE lane.organization_id = held.organization_id
            AND lane.endpoint_id = held.endpoint_id",
        &organizations,
        &endpoints,
        lease_secs
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of lanes that an earlier statement has locked, since the publisher locks them too:
/// each is due when its next delivery is.
pub async fn release(conn: &mut PgConnection, lanes: &[Lane]) -> Result<(), sqlx::Error> {
    if lanes.is_empty() {
        return Ok(());
    }
    let (organizations, endpoints) = keys(lanes);
    sqlx::query!(
        "UPDATE outbound_lanes lane
            SET lease_id = NULL,
                due_at = (SELECT greatest(d.next_attempt_at, now()) FROM outbound_deliveries d
                           WHERE d.organization_id = lane.organization_id
                             AND d.endpoint_id = lane.endpoint_id AND d.status = 'pending'
                           ORDER BY d.sequence LIMIT 1)
           FROM unnest($1::uuid[], $2::uuid[]) AS held(organization_id, endpoint_id)
          WHERE lane.organization_id = held.organization_id
            AND lane.endpoint_id = held.endpoint_id",
        &organizations,
        &endpoints
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

impl Outcome {
    fn status(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry(_) => "pending",
            Self::Failed => "failed",
        }
    }
}

/// An attempt that was made.
#[derive(Debug, Clone)]
pub struct Attempted {
    pub sequence: i64,
    pub event_id: Uuid,
    pub event_type: String,
    pub answer: Answer,
    pub outcome: Outcome,
}

/// Records attempts, by whoever holds their lanes.
pub async fn record(
    conn: &mut PgConnection,
    attempts: &[(Lane, &Attempted)],
) -> Result<(), sqlx::Error> {
    if attempts.is_empty() {
        return Ok(());
    }
    let lanes: Vec<Lane> = attempts.iter().map(|(lane, _)| *lane).collect();
    let (organizations, endpoints) = keys(&lanes);
    let made = || attempts.iter().map(|(_, attempted)| *attempted);
    let sequences: Vec<i64> = made().map(|one| one.sequence).collect();
    let statuses: Vec<&str> = made().map(|one| one.outcome.status()).collect();
    let next: Vec<Option<_>> = made()
        .map(|one| match one.outcome {
            Outcome::Retry(at) => Some(at.to_sqlx()),
            Outcome::Delivered | Outcome::Failed => None,
        })
        .collect();
    let answered: Vec<Option<i32>> = made().map(|one| one.answer.status.map(i32::from)).collect();
    let excerpts: Vec<Option<&str>> = made().map(|one| one.answer.excerpt.as_deref()).collect();
    let errors: Vec<Option<&str>> = made().map(|one| one.answer.error.as_deref()).collect();
    sqlx::query!(
        "UPDATE outbound_deliveries d
            SET status = made.status, attempts = d.attempts + 1, last_attempt_at = now(),
                next_attempt_at = coalesce(made.next, d.next_attempt_at),
                response_status = made.answered, response_excerpt = made.excerpt,
                error_message = made.error,
                ended_at = CASE WHEN made.status <> 'pending' THEN now() END
           FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::timestamptz[],
                       $6::int[], $7::text[], $8::text[])
                  AS made(organization_id, endpoint_id, sequence, status, next, answered, excerpt,
                          error)
          WHERE d.organization_id = made.organization_id AND d.endpoint_id = made.endpoint_id
            AND d.sequence = made.sequence",
        &organizations,
        &endpoints,
        &sequences,
        &statuses as &[&str],
        &next as _,
        &answered as _,
        &excerpts as _,
        &errors as _
    )
    .execute(&mut *conn)
    .await?;
    record_alerts(conn, attempts).await
}

/// The list of alerts says whether the application was told.
async fn record_alerts(
    conn: &mut PgConnection,
    attempts: &[(Lane, &Attempted)],
) -> Result<(), sqlx::Error> {
    let alerts = || {
        attempts
            .iter()
            .filter(|(_, attempted)| attempted.event_type.starts_with("quota."))
    };
    let organizations: Vec<Uuid> = alerts().map(|(lane, _)| lane.organization_id).collect();
    if organizations.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = alerts().map(|(_, made)| made.event_id).collect();
    let statuses: Vec<&str> = alerts().map(|(_, made)| made.outcome.status()).collect();
    let errors: Vec<Option<&str>> = alerts()
        .map(|(_, made)| made.answer.error.as_deref())
        .collect();
    // Several endpoints may hear of one alert in one batch.
    sqlx::query!(
        "WITH made AS (
           SELECT organization_id, id, count(*) AS attempts, max(error) AS error,
                  bool_or(status = 'delivered') AS delivered, bool_or(status = 'failed') AS failed
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
                    AS made(organization_id, id, status, error)
            GROUP BY organization_id, id)
         UPDATE usage_alerts a
            SET attempts = a.attempts + made.attempts, error_message = made.error,
                delivered_at = CASE WHEN made.delivered THEN coalesce(a.delivered_at, now())
                                    ELSE a.delivered_at END,
                failed_at = CASE WHEN made.failed AND NOT made.delivered
                                  AND a.delivered_at IS NULL THEN now() END
           FROM made
          WHERE a.organization_id = made.organization_id AND a.id = made.id",
        &organizations,
        &ids,
        &statuses as &[&str],
        &errors as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
