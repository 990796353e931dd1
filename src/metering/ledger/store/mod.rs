//! SQL for the ledger: reads here, writes in [`write`].

mod accounts;
mod closed_periods;
mod holds;
mod pending;
mod periods;
mod rehearsal;
mod write;

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::NewEvent;
use super::Reservation;

pub use accounts::{read, read_featured};
pub use closed_periods::{bill_by, count_late, create_totals, mark_late, rows_of, split};
pub use holds::{Holds, Taken, holds, metrics_of, open, takeable};
pub use pending::{due_accounts, forgotten, settle_forgotten};
pub use periods::{FREE, Renewed, TotalKey, TotalPeriod, keep_prices, move_usage, rows, set_end};
pub use rehearsal::rehearse;
pub use write::{Writes, write};

/// An account's identity, by which it is locked: organization and metric.
type AccountKey = (Uuid, String);

/// A stored reservation.
#[derive(Debug, Clone, Copy)]
pub struct ReservationRow {
    pub period_start: i64,
    pub quantity: Decimal,
    pub reserved_at: Timestamp,
}

fn columns(keys: &[AccountKey]) -> (Vec<Uuid>, Vec<&str>) {
    keys.iter()
        .map(|(organization, metric)| (*organization, metric.as_str()))
        .unzip()
}

/// Locks the accounts that nobody else has locked, and returns the others without
/// waiting for them. Every session locks accounts in the same order.
pub async fn lock_free(
    conn: &mut PgConnection,
    keys: &[AccountKey],
) -> Result<Vec<AccountKey>, sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    let locked = sqlx::query!(
        "SELECT organization_id, metric FROM usage_quotas
          WHERE (organization_id, metric) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
          ORDER BY organization_id, metric FOR NO KEY UPDATE SKIP LOCKED",
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(&mut *conn)
    .await?;
    if locked.len() == keys.len() {
        return Ok(Vec::new());
    }
    let locked: BTreeSet<AccountKey> = locked
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect();
    // An account without a quota cannot be locked by anybody.
    let left: Vec<AccountKey> = keys
        .iter()
        .filter(|key| !locked.contains(*key))
        .cloned()
        .collect();
    let (organizations, metrics) = columns(&left);
    let held = sqlx::query!(
        "SELECT organization_id, metric FROM usage_quotas
          WHERE (organization_id, metric) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))",
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(held
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect())
}

/// Locks accounts by their quotas' rows. Only the session that holds the lock
/// counts in an account. Every session locks accounts in the same order.
pub async fn lock(conn: &mut PgConnection, keys: &[AccountKey]) -> Result<(), sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas
            WHERE (organization_id, metric) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
            ORDER BY organization_id, metric FOR NO KEY UPDATE"#,
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// The accounts with a total or grace period that another session has locked.
/// Locks none beyond its own transaction.
pub async fn blocked(
    conn: &mut PgConnection,
    keys: &[AccountKey],
) -> Result<Vec<AccountKey>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    let (organizations, metrics) = columns(keys);
    let rows = sqlx::query!(
        r#"WITH k AS (
             SELECT * FROM unnest($1::uuid[], $2::text[]) AS k(organization_id, metric)
           ), total AS (
             SELECT t.organization_id, t.metric, t.period_start FROM usage_totals t
              WHERE (t.organization_id, t.metric) IN (SELECT * FROM k)
                FOR NO KEY UPDATE SKIP LOCKED
           ), grace AS (
             SELECT g.organization_id, g.metric, g.period_start FROM grace_periods g
              WHERE (g.organization_id, g.metric) IN (SELECT * FROM k)
                FOR NO KEY UPDATE SKIP LOCKED
           )
           SELECT organization_id AS "organization_id!", metric AS "metric!" FROM (
             (SELECT organization_id, metric, period_start FROM usage_totals
               WHERE (organization_id, metric) IN (SELECT * FROM k)
              EXCEPT SELECT * FROM total)
             UNION ALL
             (SELECT organization_id, metric, period_start FROM grace_periods
               WHERE (organization_id, metric) IN (SELECT * FROM k)
              EXCEPT SELECT * FROM grace)) held
            GROUP BY organization_id, metric"#,
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect())
}

/// The index of a row's key in the request.
fn position(n: i64) -> Result<usize, sqlx::Error> {
    usize::try_from(n - 1).map_err(|_| unreadable("a row has no position"))
}

/// An unreadable value is an error, never a zero.
fn unreadable(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// Ids that are stored, each with the events that have the stored content.
pub type Known<'a> = HashMap<(Uuid, &'a str), Stored<'a>>;

/// A stored id.
#[derive(Default)]
pub struct Stored<'a> {
    pub same: Vec<&'a NewEvent>,
    /// Whether its use was taken back.
    pub taken_back: bool,
}

/// The ids of `events` that are stored already, each with those of `events` that
/// have the stored content.
pub async fn known<'a>(
    conn: &mut PgConnection,
    events: &[(Uuid, &'a NewEvent)],
) -> Result<Known<'a>, sqlx::Error> {
    let organizations: Vec<Uuid> = events
        .iter()
        .map(|(organization, _)| *organization)
        .collect();
    let ids: Vec<&str> = events.iter().map(|(_, event)| event.id.as_str()).collect();
    let metrics: Vec<&str> = events
        .iter()
        .map(|(_, event)| event.metric.as_str())
        .collect();
    let quantities: Vec<Decimal> = events.iter().map(|(_, event)| event.quantity).collect();
    let times: Vec<Option<jiff_sqlx::Timestamp>> = events
        .iter()
        .map(|(_, event)| event.occurred_at.map(|at| at.to_sqlx()))
        .collect();
    let metadata: Vec<Option<&str>> = events
        .iter()
        .map(|(_, event)| event.metadata.as_deref())
        .collect();
    let rows = sqlx::query!(
        r#"SELECT k.n AS "n!",
                  (e.metric = k.metric AND e.quantity = k.quantity
                   AND e.occurred_at IS NOT DISTINCT FROM k.occurred_at
                   AND e.metadata IS NOT DISTINCT FROM k.metadata::jsonb
                   AND e.taken_back_at IS NULL) AS "same!",
                  e.taken_back_at IS NOT NULL AS "taken_back!"
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::numeric[], $5::timestamptz[],
                         $6::text[]) WITH ORDINALITY
               AS k(organization_id, id, metric, quantity, occurred_at, metadata, n)
            CROSS JOIN LATERAL (
              SELECT e.metric, e.quantity, e.occurred_at, e.metadata, e.taken_back_at
                FROM usage_events e
               WHERE e.organization_id = k.organization_id AND e.event_id = k.id
              OFFSET 0) e"#,
        &organizations,
        &ids as &[&str],
        &metrics as &[&str],
        &quantities,
        &times as _,
        &metadata as &[Option<&str>]
    )
    .fetch_all(conn)
    .await?;
    let mut known = Known::new();
    for row in rows {
        let (organization_id, event) = events
            .get(position(row.n)?)
            .ok_or_else(|| unreadable("an event was read that was not requested"))?;
        let stored = known
            .entry((*organization_id, event.id.as_str()))
            .or_default();
        stored.taken_back = row.taken_back;
        if row.same {
            stored.same.push(event);
        }
    }
    Ok(known)
}

/// Deletes reservations and returns those that existed.
pub async fn take_reservations(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[Uuid],
) -> Result<HashMap<Uuid, ReservationRow>, sqlx::Error> {
    let rows = sqlx::query!(
        "DELETE FROM usage_reservations r USING unnest($1::uuid[], $2::uuid[]) AS k(organization_id, id)
          WHERE r.organization_id = k.organization_id AND r.id = k.id
         RETURNING r.id, r.period_start, r.quantity, r.reserved_at",
        organizations,
        ids
    )
    .fetch_all(conn)
    .await?;
    let reservations = rows.into_iter().map(|row| {
        let reservation = ReservationRow {
            period_start: row.period_start.to_jiff().as_second(),
            quantity: row.quantity,
            reserved_at: row.reserved_at.to_jiff(),
        };
        (row.id, reservation)
    });
    Ok(reservations.collect())
}

/// Extends reservations with less than half of `ttl_secs` left. Locked ones are
/// being settled and are skipped.
pub async fn renew_reservations(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[Uuid],
    ttl_secs: u32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH due AS (
           SELECT r.organization_id, r.id
             FROM unnest($1::uuid[], $2::uuid[]) AS k(organization_id, id)
             JOIN usage_reservations r USING (organization_id, id)
            WHERE r.expires_at < now() + make_interval(secs => $3::int / 2)
              FOR UPDATE OF r SKIP LOCKED
         )
         UPDATE usage_reservations r SET expires_at = now() + make_interval(secs => $3::int)
           FROM due
          WHERE r.organization_id = due.organization_id AND r.id = due.id",
        organizations,
        ids,
        i32::try_from(ttl_secs).unwrap_or(i32::MAX)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Reservations that have expired, and which of them are holds, but for those of the
/// organizations `beside`.
pub async fn expired(
    conn: &mut PgConnection,
    beside: &[Uuid],
    limit: i64,
) -> Result<Vec<(Reservation, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, id, metric, quantity, name IS NOT NULL AS "is_hold!"
           FROM usage_reservations
          WHERE settled_at IS NULL AND expires_at <= now() AND organization_id <> ALL($1)
          ORDER BY expires_at LIMIT $2"#,
        beside,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let reservation = Reservation {
                organization_id: row.organization_id,
                id: row.id,
                metric: row.metric,
                quantity: row.quantity,
            };
            (reservation, row.is_hold)
        })
        .collect())
}
