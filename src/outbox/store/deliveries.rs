//! SQL for operators: deliveries are listed, sent again and recovered.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

/// A delivery of an event to an endpoint.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventDelivery)]
pub struct Delivery {
    pub id: Uuid,
    pub endpoint_id: Uuid,
    pub organization_id: Uuid,
    pub sequence: i64,
    pub event_id: Uuid,
    #[serde(rename = "type")]
    pub event_type: String,
    /// `pending`, `delivered` or `failed`.
    pub status: String,
    pub attempts: i32,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub last_attempt_at: Option<Timestamp>,
    /// Null unless it is pending.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    #[schema(required)]
    pub response_status: Option<i32>,
    /// The beginning of the answer.
    #[schema(required)]
    pub response_excerpt: Option<String>,
    #[schema(required)]
    pub error: Option<String>,
}

/// Which deliveries to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub endpoint_id: Option<Uuid>,
    pub organization_id: Option<Uuid>,
    pub status: Option<String>,
}

/// A delivery's place in the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Position {
    pub created_at: Timestamp,
    pub sequence: i64,
    pub id: Uuid,
}

/// Newest first.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT d.id, d.endpoint_id, d.organization_id, d.sequence, e.id AS event_id,
                  e.event_type, d.status, d.attempts, d.created_at, d.last_attempt_at,
                  d.next_attempt_at, d.response_status, d.response_excerpt, d.error_message
             FROM (SELECT * FROM outbound_deliveries
                    WHERE ($1::uuid IS NULL OR endpoint_id = $1)
                      AND ($2::uuid IS NULL OR organization_id = $2)
                      AND ($3::text IS NULL OR status = $3)
                      AND ($5::timestamptz IS NULL OR created_at <= $5)
                      AND ($5::timestamptz IS NULL OR (created_at, sequence, id) < ($5, $6, $7))
                    ORDER BY created_at DESC, sequence DESC, id DESC LIMIT $4) d
             JOIN outbound_events e
               ON e.organization_id = d.organization_id AND e.sequence = d.sequence
            ORDER BY d.created_at DESC, d.sequence DESC, d.id DESC"#,
        filter.endpoint_id,
        filter.organization_id,
        filter.status,
        limit,
        after.map(|at| at.created_at.to_sqlx()) as _,
        after.map(|at| at.sequence),
        after.map(|at| at.id)
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Delivery::from).collect())
}

/// One of them, with the body of its event.
pub async fn find(
    conn: &mut PgConnection,
    id: Uuid,
) -> Result<Option<(Delivery, String)>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT d.id, d.endpoint_id, d.organization_id, d.sequence, e.id AS event_id,
                  e.event_type, d.status, d.attempts, d.created_at, d.last_attempt_at,
                  d.next_attempt_at, d.response_status, d.response_excerpt, d.error_message
             FROM outbound_deliveries d
             JOIN outbound_events e
               ON e.organization_id = d.organization_id AND e.sequence = d.sequence
            WHERE d.id = $1"#,
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let body = sqlx::query_scalar!(
        r#"SELECT body::text AS "body!" FROM outbound_events
            WHERE organization_id = $1 AND sequence = $2"#,
        row.organization_id,
        row.sequence
    )
    .fetch_one(conn)
    .await?;
    Ok(Some((row.into(), body)))
}

/// A delivery as the tables have it.
struct Row {
    id: Uuid,
    endpoint_id: Uuid,
    organization_id: Uuid,
    sequence: i64,
    event_id: Uuid,
    event_type: String,
    status: String,
    attempts: i32,
    created_at: jiff_sqlx::Timestamp,
    last_attempt_at: Option<jiff_sqlx::Timestamp>,
    next_attempt_at: jiff_sqlx::Timestamp,
    response_status: Option<i32>,
    response_excerpt: Option<String>,
    error_message: Option<String>,
}

impl From<Row> for Delivery {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            endpoint_id: row.endpoint_id,
            organization_id: row.organization_id,
            sequence: row.sequence,
            event_id: row.event_id,
            event_type: row.event_type,
            next_attempt_at: (row.status == "pending").then(|| row.next_attempt_at.to_jiff()),
            status: row.status,
            attempts: row.attempts,
            created_at: row.created_at.to_jiff(),
            last_attempt_at: row.last_attempt_at.map(|at| at.to_jiff()),
            response_status: row.response_status,
            response_excerpt: row.response_excerpt,
            error: row.error_message,
        }
    }
}

/// Makes deliveries due again. Returns those that there are.
pub async fn resend(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    // As senders do it: the lanes first.
    sqlx::query!(
        "SELECT lane.organization_id FROM outbound_lanes lane
          WHERE (lane.organization_id, lane.endpoint_id) IN (
                SELECT organization_id, endpoint_id FROM outbound_deliveries WHERE id = ANY($1))
          ORDER BY lane.organization_id, lane.endpoint_id FOR UPDATE OF lane",
        ids
    )
    .fetch_all(&mut *conn)
    .await?;
    let rows = sqlx::query!(
        "UPDATE outbound_deliveries
            SET status = 'pending', attempts = 0, next_attempt_at = now(), ended_at = NULL
          WHERE id = ANY($1)
         RETURNING id, organization_id, endpoint_id",
        ids
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut lanes: Vec<(Uuid, Uuid)> = rows
        .iter()
        .map(|row| (row.organization_id, row.endpoint_id))
        .collect();
    wake(conn, &mut lanes).await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// Sends the alerts again that were given up: by their events' deliveries or, where there
/// is no event, as a new one. Returns how many alerts that is.
pub async fn resend_alerts(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT a.organization_id, a.id, e.sequence AS "sequence?"
             FROM usage_alerts a
             LEFT JOIN outbound_events e
               ON e.organization_id = a.organization_id AND e.id = a.id
            WHERE a.failed_at IS NOT NULL"#
    )
    .fetch_all(&mut *conn)
    .await?;
    let (mut organizations, mut sequences, mut told, mut untold) = (vec![], vec![], vec![], vec![]);
    for row in rows {
        match row.sequence {
            Some(sequence) => {
                organizations.push(row.organization_id);
                sequences.push(sequence);
                told.push(row.id);
            }
            None => untold.push(row.id),
        }
    }
    let failed = sqlx::query_scalar!(
        "SELECT d.id FROM unnest($1::uuid[], $2::bigint[]) AS told(organization_id, sequence)
           JOIN outbound_deliveries d
             ON d.organization_id = told.organization_id AND d.sequence = told.sequence
          WHERE d.status = 'failed'",
        &organizations,
        &sequences
    )
    .fetch_all(&mut *conn)
    .await?;
    resend(&mut *conn, &failed).await?;
    deliver_anew(&mut *conn, &organizations, &sequences).await?;
    let due = sqlx::query!(
        "UPDATE usage_alerts a
            SET failed_at = NULL,
                -- One without an event is sent to endpoints that were made since, too.
                attempts = CASE WHEN a.id = ANY($1) THEN 1 ELSE 0 END,
                next_attempt_at = CASE WHEN a.id = ANY($1) THEN now() ELSE a.next_attempt_at END
          WHERE a.failed_at IS NOT NULL AND a.delivered_at IS NULL
            AND (a.id = ANY($1) OR a.id = ANY($2) AND EXISTS (
                  SELECT FROM outbound_events e
                    JOIN outbound_deliveries d
                      ON d.organization_id = e.organization_id AND d.sequence = e.sequence
                   WHERE e.organization_id = a.organization_id AND e.id = a.id
                     AND d.status = 'pending'))",
        &untold,
        &told
    )
    .execute(conn)
    .await?;
    Ok(due.rows_affected())
}

/// Makes deliveries of events that have none: their endpoints were removed.
async fn deliver_anew(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    sequences: &[i64],
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        "INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence)
         SELECT e.organization_id, p.id, e.sequence
           FROM unnest($1::uuid[], $2::bigint[]) AS told(organization_id, sequence)
           JOIN outbound_events e
             ON e.organization_id = told.organization_id AND e.sequence = told.sequence
           -- Held, so that one which is removed leaves no deliveries.
           JOIN (SELECT id, organization_id, types FROM outbound_endpoints FOR KEY SHARE) p
             ON (p.organization_id IS NULL OR p.organization_id = e.organization_id)
            AND (p.types = '{}' OR e.event_type = ANY(p.types))
          WHERE NOT EXISTS (SELECT FROM outbound_deliveries d
                             WHERE d.organization_id = e.organization_id
                               AND d.sequence = e.sequence)
          ORDER BY 1, 2, 3
         ON CONFLICT DO NOTHING
         RETURNING organization_id, endpoint_id",
        organizations,
        sequences
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut lanes = rows
        .iter()
        .map(|row| (row.organization_id, row.endpoint_id))
        .collect();
    wake(conn, &mut lanes).await
}

/// What `recover` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RecoveredEvents)]
pub struct Recovered {
    /// Deliveries that had failed, or that there were none of.
    pub deliveries: u64,
    /// Events in that time.
    pub events: u64,
}

/// Where a page of events to be recovered begins or ends.
#[derive(Debug, Clone)]
pub struct Place {
    pub created_at: Timestamp,
    pub organization_id: Uuid,
    pub sequence: i64,
}

/// The next events, by time, that an endpoint is to have of those made before `until`.
pub async fn to_recover(
    conn: &mut PgConnection,
    endpoint_id: Uuid,
    after: &Place,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<Place>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT e.created_at, e.organization_id, e.sequence FROM outbound_events e
           JOIN outbound_endpoints p ON p.id = $1
            AND (p.organization_id IS NULL OR p.organization_id = e.organization_id)
            AND (p.types = '{}' OR e.event_type = ANY(p.types))
          WHERE e.created_at >= $2 AND e.created_at < $3
            AND (e.created_at, e.organization_id, e.sequence) > ($2, $4, $5)
          ORDER BY e.created_at, e.organization_id, e.sequence LIMIT $6 FOR KEY SHARE OF e",
        endpoint_id,
        after.created_at.to_sqlx() as _,
        until.to_sqlx() as _,
        after.organization_id,
        after.sequence,
        limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Place {
        created_at: row.created_at.to_jiff(),
        organization_id: row.organization_id,
        sequence: row.sequence,
    });
    Ok(rows.collect())
}

/// Locks the lanes of organizations to an endpoint: senders lock a lane before its
/// deliveries, and those before the endpoint.
pub async fn lock_lanes_of(
    conn: &mut PgConnection,
    endpoint_id: Uuid,
    organizations: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT organization_id FROM outbound_lanes
          WHERE endpoint_id = $1 AND organization_id = ANY($2)
          ORDER BY organization_id FOR UPDATE",
        endpoint_id,
        organizations
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Makes due what an endpoint has not got of these events. Returns how many that is.
pub async fn recover(
    conn: &mut PgConnection,
    endpoint_id: Uuid,
    events: &[Place],
) -> Result<u64, sqlx::Error> {
    let (organizations, sequences): (Vec<Uuid>, Vec<i64>) = events
        .iter()
        .map(|event| (event.organization_id, event.sequence))
        .unzip();
    let made = sqlx::query_scalar!(
        "INSERT INTO outbound_deliveries AS d (organization_id, endpoint_id, sequence)
         SELECT organization_id, $1, sequence
           FROM unnest($2::uuid[], $3::bigint[]) AS e(organization_id, sequence)
          ORDER BY 1, 3
         ON CONFLICT (organization_id, endpoint_id, sequence) DO UPDATE SET
           status = 'pending', attempts = 0, next_attempt_at = now(), ended_at = NULL
         WHERE d.status = 'failed'
         RETURNING d.organization_id",
        endpoint_id,
        &organizations,
        &sequences
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut lanes: Vec<(Uuid, Uuid)> = made.iter().map(|id| (*id, endpoint_id)).collect();
    wake(conn, &mut lanes).await?;
    Ok(made.len() as u64)
}

/// Makes lanes due, without taking them from whoever sends.
async fn wake(conn: &mut PgConnection, lanes: &mut Vec<(Uuid, Uuid)>) -> Result<(), sqlx::Error> {
    lanes.sort_unstable();
    lanes.dedup();
    let (organizations, endpoints): (Vec<Uuid>, Vec<Uuid>) = lanes.iter().copied().unzip();
    sqlx::query!(
        "INSERT INTO outbound_lanes AS lane (organization_id, endpoint_id, due_at)
         SELECT organization_id, endpoint_id, now()
           FROM unnest($1::uuid[], $2::uuid[]) AS t(organization_id, endpoint_id)
          ORDER BY 1, 2
         ON CONFLICT (organization_id, endpoint_id) DO UPDATE SET
           due_at = CASE WHEN lane.lease_id IS NULL THEN now() ELSE lane.due_at END",
        &organizations,
        &endpoints
    )
    .execute(conn)
    .await?;
    Ok(())
}
