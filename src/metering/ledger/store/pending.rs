//! SQL for scheduled levels, which wait until their time comes.

use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::periods::{TotalKey, instant, recompute};
use crate::metering::ledger::account::PeriodUsage;

/// The scheduled levels that a group writes, column by column.
#[derive(Default)]
pub struct PendingLevels {
    organizations: Vec<Uuid>,
    metrics: Vec<String>,
    times: Vec<jiff_sqlx::Timestamp>,
    ids: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    quantities: Vec<Decimal>,
    taken: Taken,
}

/// The totals whose scheduled levels were applied, and up to when.
#[derive(Default)]
struct Taken {
    organizations: Vec<Uuid>,
    metrics: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    until: Vec<jiff_sqlx::Timestamp>,
}

impl PendingLevels {
    pub fn add(
        &mut self,
        organization_id: Uuid,
        metric: &str,
        usage: &PeriodUsage,
        start: jiff_sqlx::Timestamp,
        now: jiff_sqlx::Timestamp,
    ) {
        for level in &usage.pending {
            self.organizations.push(organization_id);
            self.metrics.push(metric.to_owned());
            self.times.push(level.at.to_sqlx());
            self.ids.push(level.event_id.clone());
            self.starts.push(start);
            self.quantities.push(level.quantity);
        }
        if usage.took_due {
            let taken = &mut self.taken;
            taken.organizations.push(organization_id);
            taken.metrics.push(metric.to_owned());
            taken.starts.push(start);
            taken.until.push(now);
        }
    }

    pub async fn write(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.ids.is_empty() {
            sqlx::query!(
                "INSERT INTO usage_pending_levels (organization_id, metric, occurred_at, event_id,
                                                   period_start, quantity)
                 SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[],
                                      $5::timestamptz[], $6::numeric[])",
                &self.organizations,
                &self.metrics,
                &self.times as _,
                &self.ids,
                &self.starts as _,
                &self.quantities
            )
            .execute(&mut *conn)
            .await?;
        }
        let taken = &self.taken;
        if !taken.metrics.is_empty() {
            sqlx::query!(
                "DELETE FROM usage_pending_levels p
                  USING unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])
                     AS k(organization_id, metric, period_start, until)
                  WHERE p.organization_id = k.organization_id AND p.metric = k.metric
                    AND p.period_start = k.period_start AND p.occurred_at <= k.until",
                &taken.organizations,
                &taken.metrics,
                &taken.starts as _,
                &taken.until as _
            )
            .execute(conn)
            .await?;
        }
        Ok(())
    }
}

/// Accounts with scheduled levels whose time has come.
pub async fn due_accounts(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, metric FROM usage_pending_levels WHERE occurred_at <= now()
          GROUP BY organization_id, metric LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| (row.organization_id, row.metric)).collect())
}

/// Totals whose scheduled levels were not applied while their period could still
/// be read, for example because the service was down for hours: organization,
/// metric, period start.
pub async fn forgotten(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT DISTINCT p.organization_id, p.metric, p.period_start
           FROM usage_pending_levels p
           LEFT JOIN usage_totals t
             ON t.organization_id = p.organization_id AND t.metric = p.metric
            AND t.period_start = p.period_start
          WHERE p.occurred_at <= now() - interval '90 minutes'
            AND (t.period_end IS NULL OR t.period_end <= now() - interval '2 hours')
          LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await?;
    let start = |at: jiff_sqlx::Timestamp| at.to_jiff().as_second();
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.organization_id, row.metric, start(row.period_start)))
        .collect())
}

/// Recomputes such a total from its events. The caller holds the account's lock.
pub async fn settle_forgotten(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    last: bool,
) -> Result<(), sqlx::Error> {
    recompute(conn, total, last).await?;
    sqlx::query!(
        "DELETE FROM usage_pending_levels
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3
            AND occurred_at <= now()",
        total.organization_id,
        total.metric,
        instant(total.start)? as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
