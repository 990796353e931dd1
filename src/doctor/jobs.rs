//! The scheduled jobs, and the outcome of retries.

use sqlx::postgres::PgPool;

use super::Check;
use crate::maintenance::{
    self, LastRun, audit_verification, backup, grace_cleanup, reconciliation, retention,
    usage_report, webhook_retry,
};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// The deployment guide's minimum success rate of retries.
const LEAST_PERCENT: i64 = 95;

struct Scheduled {
    job: &'static str,
    /// Two intervals, and the duration of a run.
    late_secs: i64,
    command: &'static str,
}

const SCHEDULED: [Scheduled; 7] = [
    Scheduled {
        job: webhook_retry::JOB,
        late_secs: 15 * MINUTE,
        command: "webhooks retry",
    },
    Scheduled {
        job: grace_cleanup::JOB,
        late_secs: 50 * HOUR,
        command: "grace-periods cleanup",
    },
    Scheduled {
        job: usage_report::JOB,
        late_secs: 30 * MINUTE,
        command: "usage report",
    },
    Scheduled {
        job: backup::JOB,
        late_secs: 26 * HOUR,
        command: "backup FILE",
    },
    Scheduled {
        job: retention::JOB,
        late_secs: 50 * HOUR,
        command: "retention run",
    },
    Scheduled {
        job: reconciliation::JOB,
        late_secs: 50 * HOUR,
        command: "subscriptions reconcile",
    },
    Scheduled {
        job: audit_verification::JOB,
        late_secs: 50 * HOUR,
        command: "audit verify",
    },
];

pub async fn check(pool: &PgPool) -> Vec<Check> {
    match maintenance::last_runs(pool, &maintenance::SCHEDULED).await {
        Ok(runs) => {
            let mut checks: Vec<Check> = SCHEDULED.iter().map(|job| judge(job, &runs)).collect();
            checks.push(retries(pool).await);
            checks
        }
        Err(error) => vec![Check::unanswered(webhook_retry::JOB, error)],
    }
}

fn judge(scheduled: &Scheduled, runs: &[LastRun]) -> Check {
    let (name, command) = (scheduled.job, scheduled.command);
    let schedule = match name {
        retention::JOB => format!(
            "`serve` does it where WORKER_CONCURRENCY is not 0; else schedule `{command}` daily \
             (docs/retention.md)"
        ),
        _ => format!("schedule `{command}` (docs/deployment.md, Jobs)"),
    };
    let Some(run) = runs.iter().find(|run| run.job == name) else {
        return Check::warning(name, "has never run", schedule);
    };
    let ago = format!(
        "last succeeded {} s ago",
        run.since_success_secs.unwrap_or(-1)
    );
    match run.since_success_secs {
        None => Check::failed(
            name,
            "has never succeeded",
            format!("run `{command}` manually, and read its errors"),
        ),
        Some(secs) if secs > scheduled.late_secs => Check::failed(name, ago, schedule),
        Some(_) if !run.last_succeeded => Check::warning(
            name,
            format!("the last run failed; {ago}"),
            format!("run `{command}` manually, and read its errors"),
        ),
        Some(_) => Check::ok(name, ago),
    }
}

async fn retries(pool: &PgPool) -> Check {
    let name = "retries";
    match maintenance::retried_today(pool).await {
        Ok(retried) if retried.ended() == 0 => Check::ok(name, "none within a day"),
        Ok(retried) => {
            let detail = format!(
                "{} of {} within a day succeeded",
                retried.succeeded,
                retried.ended()
            );
            if retried.succeeded * 100 >= LEAST_PERCENT * retried.ended() {
                Check::ok(name, detail)
            } else {
                let fix = "fewer than 95 %: see `webhooks dead-letters` for why";
                Check::failed(name, detail, fix)
            }
        }
        Err(error) => Check::unanswered(name, error),
    }
}
