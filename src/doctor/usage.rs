//! Whether usage is billed.

use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;

use super::Check;
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::metering::reports::{self, Stuck};

/// Three runs of the report.
const PATIENCE: SignedDuration = SignedDuration::from_mins(30);

pub async fn check(pool: &PgPool, catalogue: &Catalogue) -> Vec<Check> {
    let now = Timestamp::now();
    vec![
        unbilled(pool, catalogue, now).await,
        reports(pool, now).await,
    ]
}

async fn unbilled(pool: &PgPool, catalogue: &Catalogue, now: Timestamp) -> Check {
    let name = "unbilled-usage";
    match reports::unbilled(pool, catalogue, now).await {
        Ok(found) => match found.first() {
            None => Check::ok(name, "all usage over a quota is billed"),
            Some(first) => Check::warning(
                name,
                format!(
                    "{} totals over a quota are not billed correctly, such as {} {} of organization {} ({})",
                    found.len(),
                    first.units.0.normalize(),
                    first.metric,
                    first.organization_id,
                    first.reason.as_str()
                ),
                "`usage report` lists them; docs/runbook.md, UsageUnbilled, says what to do",
            ),
        },
        Err(error) => Check::unanswered(name, error),
    }
}

async fn reports(pool: &PgPool, now: Timestamp) -> Check {
    let name = "usage-reports-sent";
    match read_stuck(pool).await {
        Ok(Stuck { count: 0, .. }) => Check::ok(name, "Stripe has every report"),
        Ok(stuck) => {
            let error = stuck.error.as_deref().unwrap_or("no answer");
            let detail = format!("Stripe has not accepted {} reports: {error}", stuck.count);
            let fix = "run `usage report`; docs/runbook.md, UsageReportsFail, says what to do";
            if stuck.since.is_some_and(|since| since < now - PATIENCE) {
                Check::failed(name, detail, fix)
            } else {
                Check::warning(name, detail, fix)
            }
        }
        Err(error) => Check::unanswered(name, error),
    }
}

async fn read_stuck(pool: &PgPool) -> Result<Stuck, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let stuck = reports::stuck(tx.conn()).await?;
    tx.commit().await?;
    Ok(stuck)
}
