//! The database: reachable, migrated, closed, and not behind.

use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::{Check, SKEW_SECS};
use crate::app::Database;
use crate::db::{self, WorkerTx};
use crate::inbox;
use crate::migrations::verify;

/// An event that waits longer means that nobody processes.
const LATE_SECS: i64 = 600;

pub async fn check(database: &Database) -> Vec<Check> {
    let mut owner = match db::connect(&database.owner).await {
        Ok(conn) => conn,
        Err(error) => {
            let fix = "check DATABASE_URL and MIGRATION_DATABASE_URL, and that PostgreSQL runs";
            return vec![Check::failed("database", error.to_string(), fix)];
        }
    };
    let mut checks = vec![version(&owner), clock(&mut owner).await];
    checks.push(schema(&mut owner).await);
    checks.push(match database.check_login().await {
        Ok(()) => Check::ok("login", "row-level security binds the service's login"),
        Err(error) => {
            let fix = "see docs/database.md, Roles";
            Check::failed("login", error.to_string(), fix)
        }
    });
    let pool = db::pool(database.service.clone(), 1);
    checks.extend(inbox(&pool).await);
    checks
}

fn version(conn: &PgConnection) -> Check {
    const OLDEST: u32 = 150_000;
    let name = "database";
    match conn.server_version_num() {
        Some(version) if version >= OLDEST => {
            Check::ok(name, format!("PostgreSQL {}", version / 10_000))
        }
        Some(version) => Check::failed(
            name,
            format!("PostgreSQL {}", version / 10_000),
            "upgrade to PostgreSQL 15 or later",
        ),
        None => Check::skipped(name, "the server does not tell its version"),
    }
}

/// Leases and billing periods go by the database's clock, signatures by ours.
async fn clock(conn: &mut PgConnection) -> Check {
    let name = "database clock";
    match db::clock_secs(conn).await {
        Ok(secs) => {
            let skew = Timestamp::now().as_second().abs_diff(secs);
            let detail = format!("{skew} s from ours");
            if skew <= SKEW_SECS {
                Check::ok(name, detail)
            } else {
                Check::failed(name, detail, "let NTP set both hosts' clocks")
            }
        }
        Err(error) => Check::failed(name, error.to_string(), "check the database's log"),
    }
}

async fn schema(conn: &mut PgConnection) -> Check {
    let name = "schema";
    let fix = "run `migrate up`, and `migrate verify` for the details";
    match verify::verify(conn).await {
        Ok(checks) => {
            let wrong: Vec<&str> = checks
                .iter()
                .filter(|check| !check.ok)
                .map(|check| check.name.as_str())
                .collect();
            if wrong.is_empty() {
                let detail =
                    "migrations, row-level security and the audit log are as they should be";
                Check::ok(name, detail)
            } else {
                Check::failed(name, format!("wrong: {}", wrong.join(", ")), fix)
            }
        }
        Err(error) => Check::failed(name, error.to_string(), fix),
    }
}

async fn inbox(pool: &sqlx::postgres::PgPool) -> Vec<Check> {
    let backlog = async {
        let mut tx = WorkerTx::begin(pool).await?;
        inbox::backlog(tx.conn()).await
    };
    match backlog.await {
        Ok(found) => {
            let waiting = format!(
                "{} events wait, the oldest for {} s",
                found.unprocessed, found.oldest_unprocessed_secs
            );
            let letters = format!("{} dead letters", found.dead_letters);
            vec![
                if found.oldest_unprocessed_secs > LATE_SECS {
                    let fix = "does `serve` run with workers, and the retry job? see `webhooks list --unprocessed`";
                    Check::warning("backlog", waiting, fix)
                } else {
                    Check::ok("backlog", waiting)
                },
                if found.dead_letters > 0 {
                    let fix =
                        "see `webhooks dead-letters`, mend the cause, and `webhooks replay --all`";
                    Check::warning("dead letters", letters, fix)
                } else {
                    Check::ok("dead letters", letters)
                },
            ]
        }
        Err(error) => vec![Check::failed(
            "backlog",
            error.to_string(),
            "run `migrate verify`",
        )],
    }
}
