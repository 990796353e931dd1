//! SQL for holds, and for uses that are taken back.

use std::collections::HashMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::unreadable;
use crate::db::words;
use crate::metering::ledger::holds::{Hold, Settled};

/// Holds, by organization and id.
pub type Holds = HashMap<(Uuid, Uuid), Hold>;

struct HoldRow {
    organization_id: Uuid,
    id: Uuid,
    name: String,
    metric: String,
    held: Decimal,
    period_start: jiff_sqlx::Timestamp,
    reserved_at: jiff_sqlx::Timestamp,
    expires_at: Option<jiff_sqlx::Timestamp>,
    outcome: Option<String>,
    used: Option<Decimal>,
    counted: Option<Decimal>,
    refusal: Option<String>,
}

impl HoldRow {
    fn into_hold(self) -> Result<Hold, sqlx::Error> {
        let settled = match self.outcome {
            None => None,
            Some(outcome) => Some(Settled {
                outcome: words::decode("usage_reservations.outcome", &outcome)?,
                used: self.used.unwrap_or_default(),
                counted: self.counted.unwrap_or_default(),
                refusal: self.refusal,
            }),
        };
        let reserved_at = self.reserved_at.to_jiff();
        Ok(Hold {
            id: self.id,
            name: self.name,
            metric: self.metric,
            quantity: self.held,
            period_start: self.period_start.to_jiff().as_second(),
            reserved_at,
            // One that is settled does not expire.
            expires_at: self.expires_at.map_or(reserved_at, |at| at.to_jiff()),
            settled,
        })
    }
}

/// The holds of these ids that there are.
pub async fn holds(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[Uuid],
) -> Result<Holds, sqlx::Error> {
    let rows = sqlx::query_as!(
        HoldRow,
        r#"SELECT r.organization_id, r.id, r.name AS "name!", r.metric, r.held AS "held!",
                  r.period_start, r.reserved_at,
                  CASE WHEN r.settled_at IS NULL THEN r.expires_at END AS expires_at,
                  r.outcome, r.used, r.counted, r.refusal
             FROM unnest($1::uuid[], $2::uuid[]) AS k(organization_id, id)
             JOIN usage_reservations r USING (organization_id, id)
            WHERE r.name IS NOT NULL AND r.held IS NOT NULL"#,
        organizations,
        ids
    )
    .fetch_all(conn)
    .await?;
    let holds = rows.into_iter().map(|row| {
        let key = (row.organization_id, row.id);
        Ok((key, row.into_hold()?))
    });
    holds.collect()
}

/// How many reservations of the product's are open in each account, up to `most`. They are
/// under the lock of their accounts.
pub async fn open<'a>(
    conn: &mut PgConnection,
    accounts: &[(Uuid, &'a str)],
    most: u32,
) -> Result<HashMap<(Uuid, &'a str), u32>, sqlx::Error> {
    let (organizations, metrics): (Vec<Uuid>, Vec<&str>) = accounts.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"SELECT k.n AS "n!", open.count AS "count!"
             FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS k(organization_id, metric, n)
            CROSS JOIN LATERAL (
              SELECT count(*)::int AS count FROM (
                SELECT FROM usage_reservations r
                 WHERE r.organization_id = k.organization_id AND r.metric = k.metric
                   AND r.settled_at IS NULL AND r.name IS NOT NULL
                 LIMIT $3) one) open"#,
        &organizations,
        &metrics as &[&str],
        i64::from(most)
    )
    .fetch_all(conn)
    .await?;
    let counts = rows.into_iter().map(|row| {
        let account = accounts.get(super::position(row.n)?).copied();
        let account = account.ok_or_else(|| unreadable("an account was counted twice"))?;
        let count = u32::try_from(row.count).map_err(|_| unreadable("a count is below zero"))?;
        Ok((account, count))
    });
    counts.collect()
}

/// A use that may be taken back, or was.
#[derive(Debug, Clone)]
pub struct Taken {
    pub metric: String,
    pub quantity: Decimal,
    pub period_start: i64,
    /// When it was taken back.
    pub at: Option<Timestamp>,
    /// Whether its period is invoiced, or a change of prices charged it.
    pub is_charged: bool,
}

/// Uses, by organization and event, as they are under the lock of their accounts.
pub async fn takeable<'a>(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[&'a str],
) -> Result<HashMap<(Uuid, &'a str), Taken>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT k.n AS "n!", e.metric, e.period_start, e.taken_back_at,
                  coalesce(e.taken_back, e.quantity) AS "quantity!",
                  coalesce(t.closed_at IS NOT NULL, false)
                    OR EXISTS (SELECT FROM usage_charges c
                                WHERE c.organization_id = e.organization_id
                                  AND c.metric = e.metric AND c.period_start = e.period_start
                                  AND c.created_at >= e.recorded_at) AS "is_charged!"
             FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS k(organization_id, event_id, n)
             JOIN usage_events e USING (organization_id, event_id)
             LEFT JOIN usage_totals t
               ON t.organization_id = e.organization_id AND t.metric = e.metric
              AND t.period_start = e.period_start"#,
        organizations,
        ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let mut found = HashMap::new();
    for row in rows {
        let n = super::position(row.n)?;
        let key = organizations.get(n).copied().zip(ids.get(n).copied());
        let key = key.ok_or_else(|| unreadable("an event was read that was not requested"))?;
        let taken = Taken {
            metric: row.metric,
            quantity: row.quantity,
            period_start: row.period_start.to_jiff().as_second(),
            at: row.taken_back_at.map(|at| at.to_jiff()),
            is_charged: row.is_charged,
        };
        found.insert(key, taken);
    }
    Ok(found)
}

/// The metrics of uses, by organization and event.
pub async fn metrics_of(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[String],
) -> Result<HashMap<(Uuid, String), String>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT e.organization_id, e.event_id, e.metric
           FROM unnest($1::uuid[], $2::text[]) AS k(organization_id, event_id)
           JOIN usage_events e USING (organization_id, event_id)",
        organizations,
        ids
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| ((row.organization_id, row.event_id), row.metric))
        .collect())
}

/// Uses that are taken back, column by column.
#[derive(Default)]
pub struct TakenBack<'a> {
    pub organizations: Vec<Uuid>,
    pub ids: Vec<&'a str>,
    pub times: Vec<jiff_sqlx::Timestamp>,
}

pub async fn write_taken_back(
    conn: &mut PgConnection,
    rows: &TakenBack<'_>,
) -> Result<(), sqlx::Error> {
    if rows.ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE usage_events e SET taken_back = e.quantity, taken_back_at = k.at, quantity = 0
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS k(organization_id, event_id, at)
          WHERE e.organization_id = k.organization_id AND e.event_id = k.event_id
            AND e.taken_back_at IS NULL",
        &rows.organizations,
        &rows.ids as &[&str],
        &rows.times as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
