//! The SQL of periods that are told of when they are over.

use sqlx::PgConnection;
use uuid::Uuid;

use super::periods::{FREE, Place, Row, instant};
use crate::catalogue::Aggregation;
use crate::metering::ledger::closed_periods::Told;

/// The totals of one account that Stripe still takes usage of.
pub async fn rows_of(conn: &mut PgConnection, account: Place<'_>) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT period_start, period_end, closed_at IS NOT NULL AS "closed!",
                  coalesce(billed_by = $3, false) AS "free!"
             FROM usage_totals
            WHERE organization_id = $1 AND metric = $2
              AND period_end > now() - interval '35 days'
            ORDER BY period_start"#,
        account.organization_id,
        account.metric,
        FREE
    )
    .fetch_all(conn)
    .await?;
    let row = rows.into_iter().map(|found| Row {
        start: found.period_start.to_jiff().as_second(),
        end: found.period_end.to_jiff().as_second(),
        closed: found.closed,
        free: found.free,
        suspended: false,
    });
    Ok(row.collect())
}

/// Totals of periods that ended so lately that usage of them may still come, for
/// the metrics that have a price: what comes first is counted where it belongs.
pub async fn expect(
    conn: &mut PgConnection,
    metrics: &[String],
    told: &[&Told],
) -> Result<(), sqlx::Error> {
    if told.is_empty() {
        return Ok(());
    }
    let organizations: Vec<Uuid> = told.iter().map(|told| told.organization_id).collect();
    let starts = told.iter().map(|told| instant(told.start));
    let starts = starts.collect::<Result<Vec<_>, _>>()?;
    let ends = told.iter().map(|told| instant(told.end));
    let ends = ends.collect::<Result<Vec<_>, _>>()?;
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         SELECT q.organization_id, q.metric, told.starts, told.ends, 0
           FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[])
             AS told(organization, starts, ends)
           JOIN usage_quotas q
             ON q.organization_id = told.organization AND q.metric = ANY($4::text[])
          WHERE told.ends > now() - interval '2 hours'
         ON CONFLICT DO NOTHING",
        &organizations,
        &starts as _,
        &ends as _,
        metrics
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A period of its own from `at` on, to where the one it was part of ends; nothing
/// is in it yet.
pub async fn split(conn: &mut PgConnection, from: Place<'_>, at: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total,
                                   closed_at, billed_by)
         SELECT organization_id, metric, $4, period_end, 0, closed_at, billed_by
           FROM usage_totals
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3
         ON CONFLICT DO NOTHING",
        from.organization_id,
        from.metric,
        instant(from.start)? as _,
        instant(at)? as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps with a total the price that bills it; an empty one: none does. None: as
/// it was.
pub async fn bill_by(
    conn: &mut PgConnection,
    place: Place<'_>,
    price: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals SET billed_by = coalesce($4, billed_by)
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        place.organization_id,
        place.metric,
        instant(place.start)? as _,
        price
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks what Stripe was told after the invoice of a total, although we did not
/// know that yet. What was told before a change of `ours` came before the invoice
/// that it made.
pub async fn mark_late(
    conn: &mut PgConnection,
    place: Place<'_>,
    ours: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports r SET late = true
           FROM usage_totals t
          WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $3
            AND r.organization_id = t.organization_id AND r.metric = t.metric
            AND r.period_start = t.period_start
            AND (r.late IS NULL OR NOT (r.late OR $4))
            AND r.created_at >= coalesce(t.closed_at, t.period_end + interval '1 hour')",
        place.organization_id,
        place.metric,
        instant(place.start)? as _,
        ours
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What of a total Stripe was told after its invoice, as its reports say: what
/// moved with them, and what the invoice took after all, since it was made later.
pub async fn count_late(
    conn: &mut PgConnection,
    place: Place<'_>,
    aggregation: Aggregation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals t SET reported_late = coalesce((
           SELECT CASE WHEN $4 THEN t.reported - coalesce(
                         (array_agg(r.units
                                   ORDER BY date_trunc('second', r.at) DESC, r.created_at DESC)
                            FILTER (WHERE r.late IS NOT TRUE OR r.created_at < closes.at))[1], 0)
                       ELSE coalesce(sum(r.units)
                              FILTER (WHERE r.late AND r.created_at >= closes.at), 0) END
             FROM (SELECT coalesce(t.closed_at, t.period_end + interval '1 hour') AS at) closes
             JOIN usage_reports r
               ON r.organization_id = t.organization_id AND r.metric = t.metric
              AND r.period_start = t.period_start
            GROUP BY closes.at
           HAVING bool_or(r.late AND r.created_at >= closes.at)), 0)
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        place.organization_id,
        place.metric,
        instant(place.start)? as _,
        aggregation == Aggregation::Last
    )
    .execute(conn)
    .await?;
    Ok(())
}
