//! SQL for correcting closed periods.

use sqlx::PgConnection;
use uuid::Uuid;

use super::periods::{FREE, TotalKey, TotalPeriod, instant};
use crate::catalogue::Aggregation;
use crate::metering::ledger::closed_periods::ClosedPeriod;

/// The periods of one account's totals for which Stripe still accepts usage.
pub async fn rows_of(
    conn: &mut PgConnection,
    account: TotalKey<'_>,
) -> Result<Vec<TotalPeriod>, sqlx::Error> {
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
    let periods = rows.into_iter().map(|found| TotalPeriod {
        start: found.period_start.to_jiff().as_second(),
        end: found.period_end.to_jiff().as_second(),
        closed: found.closed,
        free: found.free,
        suspended: false,
    });
    Ok(periods.collect())
}

/// Creates empty totals of priced metrics for periods that ended recently, so that
/// late usage is counted in its own period.
pub async fn create_totals(
    conn: &mut PgConnection,
    metrics: &[String],
    closed: &[&ClosedPeriod],
) -> Result<(), sqlx::Error> {
    if closed.is_empty() {
        return Ok(());
    }
    let organizations: Vec<Uuid> = closed.iter().map(|closed| closed.organization_id).collect();
    let starts = closed.iter().map(|closed| instant(closed.start));
    let starts = starts.collect::<Result<Vec<_>, _>>()?;
    let ends = closed.iter().map(|closed| instant(closed.end));
    let ends = ends.collect::<Result<Vec<_>, _>>()?;
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         SELECT q.organization_id, q.metric, closed.starts, closed.ends, 0
           FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[])
             AS closed(organization, starts, ends)
           JOIN usage_quotas q
             ON q.organization_id = closed.organization AND q.metric = ANY($4::text[])
          WHERE closed.ends > now() - interval '2 hours'
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

/// Creates an empty total from `at` to the end of the total it splits.
pub async fn split(
    conn: &mut PgConnection,
    from: TotalKey<'_>,
    at: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total,
                                   closed_at, billed_by, billed_subscription_id)
         SELECT organization_id, metric, $4, period_end, 0, closed_at, billed_by,
                billed_subscription_id
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

/// Records the price that bills a total, and its subscription: an empty one if none does,
/// unless another subscription has one.
pub async fn bill_by(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    price: &str,
    subscription_id: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals t SET billed_by = $4, billed_subscription_id = $5
          WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $3
            AND NOT ($4 = '' AND EXISTS (
                  SELECT FROM billing_subscriptions o
                    JOIN billing_subscription_items i
                      ON i.organization_id = o.organization_id
                     AND i.stripe_subscription_id = o.stripe_subscription_id
                    LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
                   WHERE o.organization_id = $1 AND o.stripe_subscription_id <> $5
                     AND coalesce(i.metric, b.metric) = $2
                     AND coalesce(o.stripe_created_at, o.current_period_start) <= t.period_start
                     AND (o.ended_at IS NULL OR o.ended_at > t.period_start)))",
        total.organization_id,
        total.metric,
        instant(total.start)? as _,
        price,
        subscription_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks reports that turn out to have reached Stripe after the total's invoice, or have
/// not reached it yet. What
/// was reported ahead of a change of `ours` preceded the invoice of that change.
pub async fn mark_late(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    ours: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports r SET late = true
           FROM usage_totals t
          WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $3
            AND r.organization_id = t.organization_id AND r.metric = t.metric
            AND r.period_start = t.period_start
            AND (r.late IS NULL OR NOT (r.late OR $4))
            AND coalesce(r.attempted_at, r.sent_at, now())
                  >= coalesce(t.closed_at, t.period_end + interval '1 hour')",
        total.organization_id,
        total.metric,
        instant(total.start)? as _,
        ours
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Recomputes from its reports how much of a total was reported after its invoice:
/// reports may have moved, and the invoice may have been made later than thought.
pub async fn count_late(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    aggregation: Aggregation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals t SET reported_late = coalesce((
           SELECT CASE WHEN $4 THEN t.reported - coalesce(
                         (array_agg(r.units
                                   ORDER BY date_trunc('second', r.at) DESC, r.created_at DESC)
                            FILTER (WHERE r.late IS NOT TRUE OR r.told_at < closes.at))[1], 0)
                       ELSE coalesce(sum(r.units)
                              FILTER (WHERE r.late AND r.told_at >= closes.at), 0) END
             FROM (SELECT coalesce(t.closed_at, t.period_end + interval '1 hour') AS at) closes
             JOIN (SELECT *, coalesce(attempted_at, sent_at, now()) AS told_at
                     FROM usage_reports) r
               ON r.organization_id = t.organization_id AND r.metric = t.metric
              AND r.period_start = t.period_start
              -- A level that was reported at a former price is none of today's.
              AND (NOT $4 OR r.at >= coalesce(t.metered_since, '-infinity'))
            GROUP BY closes.at
           HAVING bool_or(r.late AND r.told_at >= closes.at)), 0)
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        total.organization_id,
        total.metric,
        instant(total.start)? as _,
        aggregation == Aggregation::Last
    )
    .execute(conn)
    .await?;
    Ok(())
}
