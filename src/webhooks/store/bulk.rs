//! SQL of bulk actions.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::webhooks::bulk::{Act, BulkAction, Failed, Filter, Matching, Position, State};

/// One that is to be entered.
pub struct New<'a> {
    pub id: Uuid,
    pub act: Act,
    pub filter: &'a Filter,
    pub counted: i64,
    pub through: Timestamp,
    pub requested_by: Option<Uuid>,
    pub requested_by_key: Option<Uuid>,
}

/// One that this replica works on.
pub struct Claimed {
    pub id: Uuid,
    pub act: Act,
    pub filter: Filter,
    pub through: Timestamp,
    pub requested_by: Option<Uuid>,
    pub requested_by_key: Option<Uuid>,
    /// After which event it goes on.
    pub position: Option<Position>,
    /// How often it was taken up without getting past the next event, this time included.
    pub tries: i32,
    /// What was in the way the last time.
    pub last_error: Option<String>,
}

pub async fn insert(conn: &mut PgConnection, new: &New<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO webhook_bulk_actions (id, action, filter, counted, through, requested_by,
                                           requested_by_key)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        new.id,
        new.act.as_str(),
        Json(new.filter) as _,
        new.counted,
        new.through.to_sqlx() as _,
        new.requested_by,
        new.requested_by_key
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How many have not ended.
pub async fn open(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM webhook_bulk_actions WHERE ended_at IS NULL"#
    )
    .fetch_one(conn)
    .await
}

struct Row {
    id: Uuid,
    action: String,
    filter: Json<Filter>,
    counted: i64,
    succeeded: i64,
    failed: i64,
    skipped: i64,
    failures: Json<Vec<Failed>>,
    requested_by: Option<Uuid>,
    requested_by_key: Option<Uuid>,
    created_at: jiff_sqlx::Timestamp,
    started_at: Option<jiff_sqlx::Timestamp>,
    ended_at: Option<jiff_sqlx::Timestamp>,
    stopped: bool,
}

impl Row {
    fn read(self) -> Result<BulkAction, sqlx::Error> {
        let state = match (self.ended_at.is_some(), self.stopped) {
            (true, true) => State::Stopped,
            (true, false) => State::Done,
            (false, _) if self.started_at.is_some() => State::Running,
            (false, _) => State::Waiting,
        };
        Ok(BulkAction {
            id: self.id,
            action: act(&self.action)?,
            filter: self.filter.0,
            state,
            counted: self.counted,
            succeeded: self.succeeded,
            failed: self.failed,
            skipped: self.skipped,
            failures: self.failures.0,
            requested_by: self.requested_by,
            requested_by_key: self.requested_by_key,
            created_at: self.created_at.to_jiff(),
            started_at: self.started_at.map(|time| time.to_jiff()),
            ended_at: self.ended_at.map(|time| time.to_jiff()),
        })
    }
}

fn act(name: &str) -> Result<Act, sqlx::Error> {
    let unknown = || sqlx::Error::Decode(format!("unknown bulk action {name:?}").into());
    Act::of(name).ok_or_else(unknown)
}

pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<BulkAction>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, action, filter AS "filter: Json<Filter>", counted, succeeded, failed, skipped,
                  failures AS "failures: Json<Vec<Failed>>", requested_by, requested_by_key,
                  created_at, started_at, ended_at, stopped
             FROM webhook_bulk_actions WHERE id = $1"#,
        id
    )
    .fetch_optional(conn)
    .await?;
    row.map(Row::read).transpose()
}

/// Up to `limit`, the newest first.
pub async fn page(
    conn: &mut PgConnection,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<BulkAction>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, action, filter AS "filter: Json<Filter>", counted, succeeded, failed, skipped,
                  failures AS "failures: Json<Vec<Failed>>", requested_by, requested_by_key,
                  created_at, started_at, ended_at, stopped
             FROM webhook_bulk_actions WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"#,
        before,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Takes the one that was worked on least recently.
pub async fn claim(conn: &mut PgConnection, lease: Uuid) -> Result<Option<Claimed>, sqlx::Error> {
    let row = sqlx::query!(
        r#"UPDATE webhook_bulk_actions
              SET lease_id = $1, lease_expires_at = clock_timestamp() + interval '20 seconds',
                  started_at = coalesce(started_at, now()), tries = tries + 1
            WHERE id = (SELECT id FROM webhook_bulk_actions
                         WHERE ended_at IS NULL
                           AND (lease_expires_at IS NULL OR lease_expires_at <= now())
                         ORDER BY worked_at NULLS FIRST, id LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING id, action, filter AS "filter: Json<Filter>", through, requested_by,
                     requested_by_key, position_at, position_id, tries, last_error"#,
        lease
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let at = row.position_at.map(|time| time.to_jiff());
    Ok(Some(Claimed {
        id: row.id,
        act: act(&row.action)?,
        filter: row.filter.0,
        through: row.through.to_jiff(),
        requested_by: row.requested_by,
        requested_by_key: row.requested_by_key,
        position: at.zip(row.position_id),
        tries: row.tries,
        last_error: row.last_error,
    }))
}

/// Enters that the event at `position` is done. False if the lease is lost, or it has ended.
pub async fn advance(
    conn: &mut PgConnection,
    (id, lease): (Uuid, Uuid),
    position: &Position,
    came: &str,
    failed: Option<Failed>,
) -> Result<bool, sqlx::Error> {
    let failed: Option<Value> = failed.map(|failed| serde_json::json!([failed]));
    let advanced = sqlx::query!(
        "UPDATE webhook_bulk_actions
            SET position_at = $3, position_id = $4,
                succeeded = succeeded + ($5 = 'succeeded')::int,
                failed = failed + ($5 = 'failed')::int,
                skipped = skipped + ($5 = 'skipped')::int,
                failures = CASE WHEN $6::jsonb IS NULL OR jsonb_array_length(failures) >= 50
                                THEN failures ELSE failures || $6 END,
                tries = 0, last_error = NULL,
                lease_expires_at = clock_timestamp() + interval '20 seconds'
          WHERE id = $1 AND lease_id = $2 AND ended_at IS NULL",
        id,
        lease,
        position.0.to_sqlx() as _,
        position.1,
        came,
        failed
    )
    .execute(conn)
    .await?;
    Ok(advanced.rows_affected() == 1)
}

/// Holds on to it while an event takes long. Waits for nobody: who has the row writes its lease,
/// or ends it.
pub async fn renew(conn: &mut PgConnection, id: Uuid, lease: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE webhook_bulk_actions
            SET lease_expires_at = clock_timestamp() + interval '20 seconds'
          WHERE id = (SELECT id FROM webhook_bulk_actions
                       WHERE id = $1 AND lease_id = $2 AND ended_at IS NULL
                       FOR UPDATE SKIP LOCKED)",
        id,
        lease
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets others go on at once: what was begun is no try in vain.
pub async fn release(conn: &mut PgConnection, id: Uuid, lease: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE webhook_bulk_actions
            SET lease_id = NULL, lease_expires_at = NULL, worked_at = clock_timestamp(),
                tries = greatest(tries - 1, 0)
          WHERE id = $1 AND lease_id = $2",
        id,
        lease
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets others go on after a while: a second, and twice as long each time.
pub async fn set_back(
    conn: &mut PgConnection,
    (id, lease): (Uuid, Uuid),
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE webhook_bulk_actions
            SET lease_id = NULL, worked_at = clock_timestamp(), last_error = $3,
                lease_expires_at = clock_timestamp() + interval '1 second' * 2 ^ least(tries, 6)
          WHERE id = $1 AND lease_id = $2",
        id,
        lease,
        error
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends it: done by whom has the lease, or stopped. False if it has ended, or the lease is lost.
pub async fn end(
    conn: &mut PgConnection,
    id: Uuid,
    lease: Option<Uuid>,
) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query!(
        "UPDATE webhook_bulk_actions
            SET ended_at = clock_timestamp(), stopped = $2::uuid IS NULL, lease_id = NULL,
                lease_expires_at = NULL
          WHERE id = $1 AND ended_at IS NULL AND ($2::uuid IS NULL OR lease_id = $2)",
        id,
        lease
    )
    .execute(conn)
    .await?;
    Ok(ended.rows_affected() == 1)
}

/// Of processed events that match: `$select`, by the index that `$by` has.
macro_rules! events_by {
    ($filter:expr, $bounds:expr, $limit:expr, $by:literal, $select:literal, $order:literal) => {{
        let (after, through): (Option<&Position>, Option<Timestamp>) = $bounds;
        let from = after.map(|(time, _)| *time).or($filter.since);
        sqlx::query!(
            $select
                + " FROM (
               SELECT stripe_event_id, event_type, organization_id, received_at FROM webhook_events
                WHERE processed AND outcome IS DISTINCT FROM 'discarded'
                  AND payload_removed_at IS NULL AND "
                + $by
                + "
                  AND ($1::text IS NULL OR event_type = $1)
                  AND ($2::uuid IS NULL OR organization_id = $2)
                  AND received_at >= coalesce($3::timestamptz, '-infinity')
                  AND ($4::text IS NULL OR (received_at, stripe_event_id) > ($3, $4))
                  AND received_at <= coalesce($5::timestamptz, 'infinity')
                  AND ($6::timestamptz IS NULL OR received_at < $6)
                "
                + $order
                + " LIMIT $7) matching",
            $filter.r#type,
            $filter.organization_id,
            from.map(|time| time.to_sqlx()) as _,
            after.map(|(_, id)| id.as_str()),
            through.map(|time| time.to_sqlx()) as _,
            $filter.until.map(|time| time.to_sqlx()) as _,
            $limit
        )
    }};
}

macro_rules! events {
    ($conn:expr, $filter:expr, $bounds:expr, $limit:expr, $by:literal) => {
        events_by!(
            $filter,
            $bounds,
            $limit,
            $by,
            "SELECT stripe_event_id, event_type, organization_id, received_at",
            "ORDER BY received_at, stripe_event_id"
        )
        .fetch_all($conn)
        .await?
        .into_iter()
        .map(|row| Matching {
            event_id: row.stripe_event_id,
            event_type: row.event_type,
            organization_id: row.organization_id,
            at: row.received_at.to_jiff(),
        })
        .collect()
    };
}

macro_rules! counts {
    ($conn:expr, $filter:expr, $bounds:expr, $limit:expr, $by:literal) => {{
        let row = events_by!(
            $filter,
            $bounds,
            $limit,
            $by,
            "SELECT count(*) AS \"count!\", max(received_at) AS last",
            ""
        )
        .fetch_one($conn)
        .await?;
        (row.count, row.last.map(|time| time.to_jiff()))
    }};
}

/// Processed events that match, the oldest first, each time by an index.
pub async fn events(
    conn: &mut PgConnection,
    filter: &Filter,
    (after, through): (Option<Position>, Option<Timestamp>),
    limit: i64,
) -> Result<Vec<Matching>, sqlx::Error> {
    let bounds = (after.as_ref(), through);
    Ok(match (filter.organization_id, &filter.r#type) {
        (Some(_), _) => events!(conn, filter, bounds, limit, "organization_id = $2"),
        (None, Some(_)) => events!(conn, filter, bounds, limit, "event_type = $1"),
        (None, None) => events!(conn, filter, bounds, limit, "true"),
    })
}

/// How many match, up to `limit`, and when the newest of them was received.
pub async fn count_events(
    conn: &mut PgConnection,
    filter: &Filter,
    through: Option<Timestamp>,
    limit: i64,
) -> Result<(i64, Option<Timestamp>), sqlx::Error> {
    let bounds = (None, through);
    Ok(match (filter.organization_id, &filter.r#type) {
        (Some(_), _) => counts!(conn, filter, bounds, limit, "organization_id = $2"),
        (None, Some(_)) => counts!(conn, filter, bounds, limit, "event_type = $1"),
        (None, None) => counts!(conn, filter, bounds, limit, "true"),
    })
}
