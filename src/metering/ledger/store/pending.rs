//! The SQL of levels that are dated ahead, which wait until their time comes.

use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::periods::{Place, instant, recompute};
use crate::metering::ledger::account::Tally;

/// What a group writes of them, by column.
#[derive(Default)]
pub struct Pending {
    organizations: Vec<Uuid>,
    metrics: Vec<String>,
    times: Vec<jiff_sqlx::Timestamp>,
    ids: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    quantities: Vec<Decimal>,
    taken: Taken,
}

/// The totals whose levels were taken, and until when.
#[derive(Default)]
struct Taken {
    organizations: Vec<Uuid>,
    metrics: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    until: Vec<jiff_sqlx::Timestamp>,
}

impl Pending {
    pub fn note(
        &mut self,
        organization_id: Uuid,
        metric: &str,
        tally: &Tally,
        start: jiff_sqlx::Timestamp,
        now: jiff_sqlx::Timestamp,
    ) {
        for level in &tally.pending {
            self.organizations.push(organization_id);
            self.metrics.push(metric.to_owned());
            self.times.push(level.at.to_sqlx());
            self.ids.push(level.event_id.clone());
            self.starts.push(start);
            self.quantities.push(level.quantity);
        }
        if tally.took_due {
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

/// Accounts that have levels whose time has come.
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

/// Totals whose levels nobody took while their period was looked at, as when the
/// service stood still for hours: organization, metric, start.
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

/// Brings such a total, whose account is locked, to what its events say.
pub async fn settle_forgotten(
    conn: &mut PgConnection,
    place: Place<'_>,
    last: bool,
) -> Result<(), sqlx::Error> {
    recompute(conn, place, last).await?;
    sqlx::query!(
        "DELETE FROM usage_pending_levels
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3
            AND occurred_at <= now()",
        place.organization_id,
        place.metric,
        instant(place.start)? as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
