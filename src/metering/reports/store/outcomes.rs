//! SQL for what became of reports.

use jiff::Timestamp;
use sqlx::PgConnection;

use super::UnsentReport;

/// Which attempt to send a report this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// An earlier one may have reached Stripe.
    Further,
}

/// Notes that Stripe may receive the report from now on, keeping the time of the
/// first attempt. `None` if another process has sent it meanwhile.
pub async fn mark_attempted(
    conn: &mut PgConnection,
    row: &UnsentReport,
) -> Result<Option<Attempt>, sqlx::Error> {
    let first = sqlx::query_scalar!(
        r#"UPDATE usage_reports SET attempted_at = coalesce(attempted_at, now())
            WHERE organization_id = $1 AND identifier = $2 AND sent_at IS NULL
           RETURNING attempted_at = now() AS "first!""#,
        row.organization_id,
        row.identifier
    )
    .fetch_optional(conn)
    .await?;
    Ok(first.map(|first| match first {
        true => Attempt::First,
        false => Attempt::Further,
    }))
}

/// Notes that Stripe has the report. Returns whether that is after the total's invoice,
/// though it was recorded before.
pub async fn mark_sent(conn: &mut PgConnection, row: &UnsentReport) -> Result<bool, sqlx::Error> {
    let is_late = sqlx::query_scalar!(
        r#"WITH before AS (
             SELECT r.late IS NULL AND coalesce(r.attempted_at, now()) >= (
                      SELECT coalesce(t.closed_at, t.period_end + interval '1 hour')
                        FROM usage_totals t
                       WHERE t.organization_id = r.organization_id AND t.metric = r.metric
                         AND t.period_start = r.period_start) AS is_late
               FROM usage_reports r
              WHERE r.organization_id = $1 AND r.identifier = $2 FOR UPDATE)
           UPDATE usage_reports r
              SET sent_at = now(), error_message = NULL,
                  late = CASE WHEN before.is_late THEN true ELSE r.late END
             FROM before WHERE r.organization_id = $1 AND r.identifier = $2
           RETURNING coalesce(before.is_late, false) AS "is_late!""#,
        row.organization_id,
        row.identifier
    )
    .fetch_optional(conn)
    .await?;
    Ok(is_late.unwrap_or(false))
}

/// Records a failed attempt; `unseen` if Stripe definitely did not count the report, now
/// or before.
pub async fn mark_failed(
    conn: &mut PgConnection,
    row: &UnsentReport,
    error: &str,
    unseen: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET error_message = $3,
                attempted_at = CASE WHEN $4 THEN NULL ELSE attempted_at END
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier,
        error,
        unseen
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that Stripe will never accept the report.
pub async fn mark_refused(
    conn: &mut PgConnection,
    row: &UnsentReport,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET refused_at = now(), error_message = $3, attempted_at = NULL
          WHERE organization_id = $1 AND identifier = $2 AND sent_at IS NULL",
        row.organization_id,
        row.identifier,
        error
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Reports that could not be sent: how many, since when, and one of the errors.
#[derive(Debug, Clone, Default)]
pub struct Stuck {
    pub count: i64,
    pub since: Option<Timestamp>,
    pub error: Option<String>,
}

pub async fn stuck(conn: &mut PgConnection) -> Result<Stuck, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", min(created_at) AS since, max(error_message) AS error
             FROM usage_reports
            WHERE sent_at IS NULL AND refused_at IS NULL
              AND (error_message IS NOT NULL OR attempted_at IS NOT NULL)"#
    )
    .fetch_one(conn)
    .await?;
    Ok(Stuck {
        count: row.count,
        since: row.since.map(|at| at.to_jiff()),
        error: row.error,
    })
}
