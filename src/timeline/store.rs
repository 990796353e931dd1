//! SQL of the timeline: of each kind a page by an index of its own.

use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Bound, Happened, Kind};

/// Rows of `$from` behind the bound, the newest first.
macro_rules! behind {
    ($conn:expr, $kind:expr, $of:expr, $limit:expr, $columns:literal, $from:literal, $at:literal, $id:literal) => {{
        let (organization_id, bound): (Uuid, &Bound) = $of;
        let rows = sqlx::query!(
            "SELECT " + $at + " AS \"at!\", " + $id + " AS \"id!\", " + $columns + "
               FROM " + $from + "
              WHERE organization_id = $1
                AND " + $at + " <= coalesce($2::timestamptz, 'infinity')
                AND ($2 IS NULL OR " + $at + " < $2 OR $3
                     OR " + $id + " COLLATE \"C\" < $4::text)
              ORDER BY " + $at + " DESC, " + $id + " COLLATE \"C\" DESC LIMIT $5",
            organization_id,
            bound.at.map(|at| at.to_sqlx()) as _,
            bound.with,
            bound.below,
            $limit
        )
        .fetch_all($conn)
        .await?;
        let happened = rows.into_iter().map(|row| Happened {
            at: row.at.to_jiff(),
            kind: $kind,
            id: row.id,
            what: row.what,
            about: row.about,
            by: row.by,
            state: row.state,
        });
        Ok(happened.collect())
    }};
}

pub async fn audit_entries(
    conn: &mut PgConnection,
    of: (Uuid, &Bound),
    limit: i64,
) -> Result<Vec<Happened>, sqlx::Error> {
    behind!(
        conn,
        Kind::AuditEntry,
        of,
        limit,
        "action AS \"what!\", nullif(concat_ws(' ', resource_type, resource_id), '') AS about,
         concat_ws(' ', actor_type, actor_id::text, metadata ->> 'stripe_event_id') AS by,
         NULL::text AS state",
        "billing_audit_log",
        "created_at",
        "id::text"
    )
}

pub async fn stripe_events(
    conn: &mut PgConnection,
    of: (Uuid, &Bound),
    limit: i64,
) -> Result<Vec<Happened>, sqlx::Error> {
    behind!(
        conn,
        Kind::StripeEvent,
        of,
        limit,
        "event_type AS \"what!\", NULL::text AS about, NULL::text AS by,
         coalesce(outcome, CASE WHEN processed THEN 'processed' ELSE 'waits' END) AS state",
        "webhook_events",
        "received_at",
        "stripe_event_id"
    )
}

/// Those that nobody has replayed or discarded. There are few, whoever's they are.
pub async fn dead_letters(
    conn: &mut PgConnection,
    of: (Uuid, &Bound),
    limit: i64,
) -> Result<Vec<Happened>, sqlx::Error> {
    behind!(
        conn,
        Kind::DeadLetter,
        of,
        limit,
        "event_type AS \"what!\", NULL::text AS about, NULL::text AS by,
         concat_ws(': ', 'given up after ' || retry_count || ' retries', error_message) AS state",
        "webhook_dead_letter_queue",
        "dead_lettered_at",
        "stripe_event_id"
    )
}

pub async fn stripe_requests(
    conn: &mut PgConnection,
    of: (Uuid, &Bound),
    limit: i64,
) -> Result<Vec<Happened>, sqlx::Error> {
    behind!(
        conn,
        Kind::StripeRequest,
        of,
        limit,
        "operation AS \"what!\", coalesce(stripe_object_id, target_id) AS about, NULL::text AS by,
         concat_ws(': ', state, error_message) AS state",
        "billing_stripe_requests",
        "created_at",
        "id::text"
    )
}

pub async fn deliveries(
    conn: &mut PgConnection,
    of: (Uuid, &Bound),
    limit: i64,
) -> Result<Vec<Happened>, sqlx::Error> {
    behind!(
        conn,
        Kind::Delivery,
        of,
        limit,
        "coalesce((SELECT event_type FROM outbound_events e
                    WHERE e.organization_id = d.organization_id AND e.sequence = d.sequence),
                  'event ' || sequence) AS \"what!\",
         'endpoint ' || endpoint_id AS about, NULL::text AS by,
         concat_ws(', ', status, attempts || ' attempts', 'answered ' || response_status) AS state",
        "outbound_deliveries d",
        "created_at",
        "(endpoint_id || ' ' || id)"
    )
}
