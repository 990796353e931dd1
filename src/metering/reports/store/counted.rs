//! SQL for what Stripe was told and has perhaps not counted.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

/// What Stripe was told of a customer's metric in whole minutes, some of it lately.
#[derive(Debug, Clone)]
pub struct ToldLately {
    pub metric: String,
    pub stripe_customer_id: String,
    pub event_name: String,
    pub from: Timestamp,
    pub until: Timestamp,
    pub sum: Decimal,
    /// The level that was told last.
    pub level: Decimal,
    /// Whether somebody was refused since it was not counted.
    pub marked: bool,
    /// Whether that was so long ago that it is taken for lost.
    pub overdue: bool,
}

/// Reads what Stripe was told within ten minutes of usage since `since`: what it has not
/// counted by then was lost, and is found by its invoice.
pub async fn told_lately(
    conn: &mut PgConnection,
    organization_id: Uuid,
    since: Timestamp,
    until: Timestamp,
) -> Result<Vec<ToldLately>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH lately AS (
             SELECT metric, stripe_customer_id, event_name, date_trunc('minute', min(at)) AS from_at
               FROM usage_reports
              WHERE organization_id = $1 AND at >= $2 AND at < $3 AND refused_at IS NULL
                AND sent_at > now() - interval '10 minutes'
              GROUP BY metric, stripe_customer_id, event_name)
           SELECT l.metric, l.stripe_customer_id, l.event_name, l.from_at AS "from_at!",
                  sum(r.units) AS "sum!",
                  (array_agg(r.units ORDER BY date_trunc('second', r.at) DESC, r.created_at DESC))[1]
                    AS "level!",
                  EXISTS (SELECT FROM usage_reports u
                           WHERE u.organization_id = $1 AND u.metric = l.metric
                             AND u.uncounted_at IS NOT NULL) AS "marked!",
                  -- Long ago it was another wait.
                  EXISTS (SELECT FROM usage_reports u
                           WHERE u.organization_id = $1 AND u.metric = l.metric
                             AND u.uncounted_at > now() - interval '1 hour'
                             AND u.uncounted_at < now() - interval '5 minutes') AS "overdue!"
             FROM lately l
             JOIN usage_reports r
               ON r.organization_id = $1 AND r.stripe_customer_id = l.stripe_customer_id
              AND r.event_name = l.event_name AND r.at >= l.from_at AND r.at < $3
              AND r.sent_at IS NOT NULL AND r.refused_at IS NULL
            GROUP BY l.metric, l.stripe_customer_id, l.event_name, l.from_at
            ORDER BY l.metric, l.stripe_customer_id"#,
        organization_id,
        since.to_sqlx() as _,
        until.to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    let told = rows.into_iter().map(|row| ToldLately {
        metric: row.metric,
        stripe_customer_id: row.stripe_customer_id,
        event_name: row.event_name,
        from: row.from_at.to_jiff(),
        until,
        sum: row.sum,
        level: row.level,
        marked: row.marked,
        overdue: row.overdue,
    });
    Ok(told.collect())
}

/// Notes that somebody was refused since Stripe had not counted what it was told.
pub async fn mark_uncounted(
    conn: &mut PgConnection,
    organization_id: Uuid,
    uncounted: &ToldLately,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports
            SET uncounted_at = CASE WHEN uncounted_at > now() - interval '1 hour'
                                    THEN uncounted_at ELSE now() END
          WHERE organization_id = $1 AND metric = $2 AND stripe_customer_id = $3 AND at >= $4
            AND at < $5 AND sent_at IS NOT NULL AND refused_at IS NULL",
        organization_id,
        uncounted.metric,
        uncounted.stripe_customer_id,
        uncounted.from.to_sqlx() as _,
        uncounted.until.to_sqlx() as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets who was refused: Stripe has counted everything.
pub async fn clear_uncounted(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET uncounted_at = NULL
          WHERE organization_id = $1 AND uncounted_at IS NOT NULL",
        organization_id
    )
    .execute(conn)
    .await?;
    Ok(())
}
