//! SQL for what became of reports.

use jiff::Timestamp;
use sqlx::PgConnection;

use super::UnsentReport;

/// Notes that Stripe may receive the report from now on, keeping the time of the
/// first attempt. Returns false if another process has sent it meanwhile.
pub async fn mark_attempted(
    conn: &mut PgConnection,
    row: &UnsentReport,
) -> Result<bool, sqlx::Error> {
    let attempted = sqlx::query!(
        "UPDATE usage_reports SET attempted_at = coalesce(attempted_at, now())
          WHERE organization_id = $1 AND identifier = $2 AND sent_at IS NULL",
        row.organization_id,
        row.identifier
    )
    .execute(conn)
    .await?;
    Ok(attempted.rows_affected() > 0)
}

pub async fn mark_sent(conn: &mut PgConnection, row: &UnsentReport) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET sent_at = now(), error_message = NULL
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records a failed attempt; `certain` if Stripe definitely did not count it.
pub async fn mark_failed(
    conn: &mut PgConnection,
    row: &UnsentReport,
    error: &str,
    certain: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET error_message = $3,
                attempted_at = CASE WHEN $4 THEN NULL ELSE attempted_at END
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier,
        error,
        certain
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
