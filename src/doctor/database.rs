//! The database: reachable, migrated, isolated, and without a backlog.

use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::{Check, SKEW_SECS, Subject, Verdict, connection_fix, guards, operators};
use crate::db::{self, DatabaseError, WorkerTx};
use crate::migrations::verify;
use crate::projection;
use crate::telemetry::terminal::counted;
use crate::tenancy::auth;
use crate::webhooks;

/// If an event waits longer, probably nothing processes events.
const LATE_SECS: i64 = 600;
/// More of them suggest that other products share the account.
const MANY_UNCLAIMED: i64 = 100_000;
/// How many users are named.
const NAMED: usize = 10;
/// Maximum number of connections of a job, beside the replicas'.
const SPARE: u32 = 10;

pub async fn check(database: &impl Subject) -> Vec<Check> {
    let mut owner = match db::connect(database.owner()).await {
        Ok(conn) => conn,
        Err(DatabaseError::Unreachable(error)) => {
            let fix = connection_fix(&error, "MIGRATION_DATABASE_URL, else DATABASE_URL");
            return vec![Check::failed("database", error.to_string(), fix)];
        }
        Err(error) => {
            let fix = "check DATABASE_URL and MIGRATION_DATABASE_URL, and that PostgreSQL runs";
            return vec![Check::failed("database", error.to_string(), fix)];
        }
    };
    if let Err(DatabaseError::Pooled(error)) = database.check_owner().await {
        return vec![Check::failed(
            "database",
            error,
            "see docs/database.md, Poolers",
        )];
    }
    let mut checks = vec![version(&owner), clock(&mut owner).await];
    checks.extend(embedded(database, &mut owner).await);
    let writable = writable(&mut owner).await;
    let writes = writable.verdict == Verdict::Ok;
    checks.push(writable);
    checks.push(if writes {
        schema(&mut owner).await
    } else {
        Check::skipped(
            "schema",
            "verifying it needs writes, which the database refuses",
        )
    });
    if writes {
        checks.push(guards::large_objects(&mut owner).await);
        checks.push(guards::appending(&mut owner).await);
    }
    let login = login(database).await;
    let logs_in = login.verdict == Verdict::Ok;
    checks.push(login);
    if logs_in {
        checks.push(guards::wire(database).await);
        checks.push(connections(database).await);
        let pool = db::pool(database.service().clone(), 1);
        checks.extend(event_log(&pool).await);
        checks.push(unclaimed(&pool).await);
        checks.push(users(&pool).await);
        checks.extend(operators::check(&pool).await);
        checks.push(guards::customers(&pool).await);
        checks.push(guards::chains(&pool).await);
    } else {
        checks.push(Check::skipped("backlog", "needs the service's login"));
    }
    checks
}

/// The service's login.
async fn login(database: &impl Subject) -> Check {
    let name = "login";
    match database.check_login().await {
        Ok(()) => Check::ok(name, "row-level security applies to the service's login"),
        Err(DatabaseError::Unreachable(error)) => {
            let fix = connection_fix(&error, "DATABASE_URL");
            Check::failed(name, error.to_string(), fix)
        }
        Err(DatabaseError::Pooled(error)) => {
            Check::failed(name, error, "see docs/database.md, Poolers")
        }
        Err(error) => Check::failed(name, error.to_string(), "see docs/database.md, Roles"),
    }
}

/// Whether the server accepts writes.
async fn writable(conn: &mut PgConnection) -> Check {
    let name = "writable";
    match db::is_read_only(conn).await {
        Ok(false) => Check::ok(name, "the database accepts writes"),
        Ok(true) => Check::failed(
            name,
            "the database is read-only: a standby, or default_transaction_read_only is on",
            "name the primary in DATABASE_URL, or find out why it is read-only; often the disk is full",
        ),
        Err(error) => Check::unanswered(name, error),
    }
}

/// Whether the embedded server runs the version that is installed.
async fn embedded(database: &impl Subject, conn: &mut PgConnection) -> Option<Check> {
    let name = "embedded server";
    let watch = database.embedded()?;
    let running = match db::server_version(conn).await {
        Ok(version) => version,
        Err(error) => return Some(Check::unanswered(name, error)),
    };
    let on_disk = watch.version_on_disk();
    let fix = "restart the service, which restarts the server with the installed programs";
    Some(match on_disk {
        Some(on_disk) if on_disk != running => Check::failed(
            name,
            format!("PostgreSQL {running} is running, {on_disk} is installed"),
            fix,
        ),
        _ if watch.was_replaced() => Check::failed(
            name,
            format!("PostgreSQL {running} is running, and its program was replaced on disk"),
            fix,
        ),
        _ => Check::ok(name, format!("PostgreSQL {running}, as installed")),
    })
}

/// Whether connections are left for a job.
async fn connections(database: &impl Subject) -> Check {
    let name = "connections";
    let room = async {
        let mut conn = db::connect(database.service()).await?;
        Ok::<_, DatabaseError>(db::room(&mut conn).await?)
    };
    match room.await {
        Ok(room) => {
            let free = room.free();
            match room.too_small_for(SPARE) {
                None => pooler(database, free).await,
                Some(_) => Check::warning(
                    name,
                    format!("{free} left, and a job takes up to {SPARE}"),
                    "raise max_connections, or the limit of the role or database; see docs/database.md, Connections",
                ),
            }
        }
        Err(DatabaseError::Query(error) | DatabaseError::Unreachable(error)) => {
            Check::unanswered(name, error)
        }
        Err(error) => Check::failed(name, error.to_string(), "see docs/database.md, Roles"),
    }
}

/// The same for a pooler in front of the server.
async fn pooler(database: &impl Subject, free: i64) -> Check {
    let name = "connections";
    match db::short_pooler(database.service(), SPARE).await {
        Ok(None) => Check::ok(name, format!("{free} left")),
        Ok(Some(short)) => Check::warning(
            name,
            format!("PostgreSQL has {free} left, but {short}, the most that a job takes"),
            db::RAISE,
        ),
        Err(DatabaseError::Query(error) | DatabaseError::Unreachable(error)) => {
            Check::unanswered(name, error)
        }
        Err(error) => Check::failed(name, error.to_string(), "see docs/database.md, Poolers"),
    }
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
        None => Check::skipped(name, "the server does not report its version"),
    }
}

/// Leases and billing periods depend on the database's clock, signatures on ours.
async fn clock(conn: &mut PgConnection) -> Check {
    let name = "database clock";
    match db::clock_secs(conn).await {
        Ok(secs) => {
            let skew = Timestamp::now().as_second().abs_diff(secs);
            let detail = format!("{skew} s from ours");
            if skew <= SKEW_SECS {
                Check::ok(name, detail)
            } else {
                Check::failed(name, detail, "synchronize both hosts' clocks with NTP")
            }
        }
        Err(error) => Check::unanswered(name, error),
    }
}

async fn schema(conn: &mut PgConnection) -> Check {
    let name = "schema";
    let fix = "run `migrate up`; `migrate verify` shows the details";
    let verified = async {
        // The service's login reads only through its roles.
        db::read_as_service(conn).await?;
        verify::verify(conn).await
    };
    match verified.await {
        Ok(checks) => {
            let wrong: Vec<&str> = checks
                .iter()
                .filter(|check| !check.ok)
                .map(|check| check.name.as_str())
                .collect();
            let newer: Vec<&str> = checks
                .iter()
                .filter(|check| check.warning.is_some())
                .map(|check| check.name.as_str())
                .collect();
            if wrong.is_empty() && !newer.is_empty() {
                Check::warning(
                    name,
                    format!("of a newer program: {}", newer.join(", ")),
                    "run the program that made them: this one cannot check them, nor roll them back",
                )
            } else if wrong.is_empty() {
                let detail =
                    "migrations, row-level security and the audit log are as they should be";
                Check::ok(name, detail)
            } else {
                Check::failed(name, format!("wrong: {}", wrong.join(", ")), fix)
            }
        }
        Err(error) => Check::unanswered(name, error),
    }
}

/// Events that belong to no organization yet.
async fn unclaimed(pool: &sqlx::postgres::PgPool) -> Check {
    let name = "unclaimed events";
    let found = async {
        let mut tx = WorkerTx::begin(pool).await?;
        projection::unclaimed(tx.conn()).await
    };
    match found.await {
        Ok(found) if found > MANY_UNCLAIMED => Check::warning(
            name,
            counted(found, "event"),
            "configure the endpoint in Stripe to send only this product's events, or link the customers \
             (`organizations link-customer`); see docs/webhooks.md",
        ),
        Ok(found) => Check::ok(name, counted(found, "event")),
        Err(error) => Check::unanswered(name, error),
    }
}

/// Users who cannot log in, as after a rollback of the schema.
async fn users(pool: &sqlx::postgres::PgPool) -> Check {
    let name = "users";
    match auth::homeless_users(pool).await {
        Ok(found) if found.is_empty() => Check::ok(name, "each belongs to an organization"),
        Ok(found) => {
            let named = found.iter().take(NAMED).map(String::as_str);
            let named = named.collect::<Vec<_>>().join(", ");
            let more = found.len().saturating_sub(NAMED);
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            Check::warning(
                name,
                format!("without an organization, and so unable to log in: {named}{more}"),
                "`users create --organization ORG --email EMAIL --role ROLE` makes a user who exists a member; \
                 `users disable` silences this",
            )
        }
        Err(error) => Check::unanswered(name, error),
    }
}

/// The backlog of events, and the dead letters.
async fn event_log(pool: &sqlx::postgres::PgPool) -> Vec<Check> {
    let backlog = async {
        let mut tx = WorkerTx::begin(pool).await?;
        webhooks::backlog(tx.conn()).await
    };
    match backlog.await {
        Ok(found) => {
            let waiting = format!(
                "{} waiting, the oldest for {} s",
                counted(found.unprocessed, "event"),
                found.oldest_unprocessed_secs
            );
            let letters = counted(found.dead_letters, "dead letter");
            vec![
                if found.oldest_unprocessed_secs > LATE_SECS {
                    let fix = "check that `serve` runs with workers, and the retry job; see `webhooks list --unprocessed`";
                    Check::warning("backlog", waiting, fix)
                } else {
                    Check::ok("backlog", waiting)
                },
                if found.dead_letters > 0 {
                    let fix = "see `webhooks dead-letters`, fix the cause, then run `webhooks replay --all`";
                    Check::warning("dead letters", letters, fix)
                } else {
                    Check::ok("dead letters", letters)
                },
            ]
        }
        Err(error) => vec![Check::unanswered("backlog", error)],
    }
}
