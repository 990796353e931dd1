//! SQL of the dead letters, for operators.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::inspect::DeadLetter;
use crate::event_log::bucket_of;
use crate::webhooks::dead_letters::reason::Reason;

/// Which dead letters to show. `after` is the position of the last one shown.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    pub event_type: Option<String>,
    pub organization_id: Option<Uuid>,
    pub reason: Option<Reason>,
    pub after: Option<(Timestamp, String)>,
    /// The last time at which one was dead-lettered that is shown.
    pub through: Option<Timestamp>,
}

/// Up to `limit` dead letters, oldest first.
pub async fn page(
    conn: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let after = filter.after.as_ref();
    let rows = sqlx::query!(
        "SELECT stripe_event_id, event_type, organization_id, received_at, dead_lettered_at,
                retry_count, error_message
           FROM webhook_dead_letter_queue
          WHERE ($1::text IS NULL OR event_type = $1)
            AND ($2::uuid IS NULL OR organization_id = $2)
            AND ($6::text IS NULL OR error_message ~ $6)
            AND ($3::timestamptz IS NULL OR (dead_lettered_at, stripe_event_id) > ($3, $4))
            AND ($7::timestamptz IS NULL OR dead_lettered_at <= $7)
          ORDER BY dead_lettered_at, stripe_event_id LIMIT $5",
        filter.event_type,
        filter.organization_id,
        after.map(|(time, _)| time.to_sqlx()) as _,
        after.map(|(_, id)| id.as_str()),
        limit,
        filter.reason.as_ref().map(Reason::pattern),
        filter.through.map(|time| time.to_sqlx()) as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DeadLetter {
            event_id: row.stripe_event_id,
            event_type: row.event_type,
            organization_id: row.organization_id,
            received_at: row.received_at.to_jiff(),
            dead_lettered_at: row.dead_lettered_at.to_jiff(),
            retry_count: row.retry_count,
            error_message: row.error_message,
        })
        .collect())
}

/// How many match, up to `limit`, and when the last of them was dead-lettered.
pub async fn count(
    conn: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<(i64, Option<Timestamp>), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", max(dead_lettered_at) AS last
             FROM (SELECT dead_lettered_at FROM webhook_dead_letter_queue
                    WHERE ($1::text IS NULL OR event_type = $1)
                      AND ($2::uuid IS NULL OR organization_id = $2)
                      AND ($3::text IS NULL OR error_message ~ $3)
                      AND ($4::timestamptz IS NULL OR dead_lettered_at <= $4)
                    LIMIT $5) matching"#,
        filter.event_type,
        filter.organization_id,
        filter.reason.as_ref().map(Reason::pattern),
        filter.through.map(|time| time.to_sqlx()) as _,
        limit
    )
    .fetch_one(conn)
    .await?;
    Ok((row.count, row.last.map(|time| time.to_jiff())))
}

/// How many dead letters, the oldest, are grouped at most.
pub const GROUPED: i64 = 10_000;

/// Dead letters of one type that failed for one reason.
#[derive(Debug, Clone)]
pub struct Group {
    pub event_type: String,
    pub reason: Reason,
    pub letters: i64,
    pub oldest_at: Timestamp,
    pub newest_at: Timestamp,
}

/// The oldest dead letters by type and reason, the largest group first.
pub async fn groups(conn: &mut PgConnection) -> Result<Vec<Group>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT event_type, error_message, count(*) AS "letters!",
                  min(dead_lettered_at) AS "oldest_at!", max(dead_lettered_at) AS "newest_at!"
             FROM (SELECT event_type, error_message, dead_lettered_at
                     FROM webhook_dead_letter_queue
                    ORDER BY dead_lettered_at, stripe_event_id LIMIT $1) oldest
            GROUP BY event_type, error_message"#,
        GROUPED
    )
    .fetch_all(conn)
    .await?;
    let mut groups: BTreeMap<(String, Reason), Group> = BTreeMap::new();
    for row in rows {
        let reason = Reason::of(&row.error_message);
        let found = Group {
            event_type: row.event_type.clone(),
            reason: reason.clone(),
            letters: row.letters,
            oldest_at: row.oldest_at.to_jiff(),
            newest_at: row.newest_at.to_jiff(),
        };
        let group = groups.entry((row.event_type, reason));
        group
            .and_modify(|group| {
                group.letters += found.letters;
                group.oldest_at = group.oldest_at.min(found.oldest_at);
                group.newest_at = group.newest_at.max(found.newest_at);
            })
            .or_insert(found);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.letters));
    Ok(groups)
}

pub async fn is_there(conn: &mut PgConnection, event_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM webhook_dead_letter_queue
                           WHERE bucket = $1 AND stripe_event_id = $2) AS "known!""#,
        bucket_of(event_id),
        event_id
    )
    .fetch_one(conn)
    .await
}

/// A discarded dead letter.
pub struct Discarded {
    pub event_type: String,
    pub organization_id: Option<Uuid>,
    pub retry_count: i32,
}

/// Moves a dead letter back to the event log as processed.
pub async fn discard(
    conn: &mut PgConnection,
    event_id: &str,
) -> Result<Option<Discarded>, sqlx::Error> {
    sqlx::query_as!(
        Discarded,
        "WITH gone AS (
           DELETE FROM webhook_dead_letter_queue WHERE bucket = $1 AND stripe_event_id = $2
           RETURNING *),
         came AS (
           DELETE FROM webhook_dead_letter_sources WHERE bucket = $1 AND stripe_event_id = $2
           RETURNING source),
         kept AS (
           INSERT INTO webhook_events (
             bucket, stripe_event_id, event_type, api_version, livemode, account,
             event_created_at, payload, received_at, organization_id, retry_count, attempts,
             processed, processed_at, outcome, source)
           SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                  event_created_at, payload, received_at, organization_id, retry_count, attempts,
                  true, now(), 'discarded', coalesce((SELECT source FROM came), 'delivery')
             FROM gone ON CONFLICT DO NOTHING)
         SELECT event_type, organization_id, retry_count FROM gone",
        bucket_of(event_id),
        event_id
    )
    .fetch_optional(conn)
    .await
}
