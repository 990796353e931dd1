//! Applying and undoing migrations.
//!
//! Each file is one transaction that includes its entry in the ledger, by its own
//! BEGIN and COMMIT, so that a killed run can resume. An advisory lock excludes
//! concurrent runs. A lock timeout in each file keeps a run that waits for a table
//! from blocking everyone behind it.

use std::time::Duration;

use jiff_sqlx::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::{MIGRATIONS, Migration, MigrationStatus, State};
use crate::db;

/// A number that no other program uses.
const ADVISORY_LOCK: i64 = 7_226_831_505_411;
const LOCK_ATTEMPTS: u32 = 3;
/// How long one run waits for another.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(
        "another migration is running{}; wait for it or end it, then run this again",
        .0.as_ref().map(|holder| format!(": {holder} holds its lock")).unwrap_or_default()
    )]
    Busy(Option<String>),
    #[error(
        "migration {version} gave up waiting for a lock, to block nobody, and was rolled back; run this \
         again when the database is less busy"
    )]
    Locked { version: &'static str },
    #[error("migration {version} failed and was rolled back: {}", why(.error))]
    Failed {
        version: &'static str,
        error: sqlx::Error,
    },
    #[error("no migration {0}; `migrate status` lists them")]
    UnknownVersion(String),
    #[error(
        "the database has the migration {version}_{name}, which this program does not know: roll back \
         with the program that made {version}"
    )]
    Newer { version: String, name: String },
    #[error("{}", db::said(.0))]
    Database(#[from] sqlx::Error),
}

/// Why a migration failed, and what the owner lacks.
fn why(error: &sqlx::Error) -> String {
    let said = db::said(error);
    match db::sql_state(error).as_deref() {
        Some("42501") if said.contains("create role") => format!(
            "{said}; migrations make the roles billing_owner, billing_app and billing_worker: as a superuser, \
             ALTER ROLE the owner CREATEROLE, and run this again"
        ),
        _ => said,
    }
}

/// The state of each migration in the database.
pub async fn status(conn: &mut PgConnection) -> Result<Vec<MigrationStatus>, sqlx::Error> {
    let ledger = ledger(conn).await?;
    let mut statuses: Vec<MigrationStatus> = MIGRATIONS
        .iter()
        .map(|migration| {
            let entry = ledger
                .iter()
                .find(|entry| entry.version == migration.version);
            MigrationStatus {
                version: migration.version.to_owned(),
                name: migration.name.to_owned(),
                state: match entry {
                    None => State::Pending,
                    Some(entry)
                        if entry
                            .checksum
                            .as_ref()
                            .is_some_and(|c| *c != migration.checksum()) =>
                    {
                        State::Changed
                    }
                    Some(_) => State::Applied,
                },
                applied_at: entry.map(|entry| entry.applied_at),
            }
        })
        .collect();
    statuses.extend(
        ledger
            .into_iter()
            .filter(|entry| !is_known(&entry.version))
            .map(|entry| MigrationStatus {
                version: entry.version,
                name: entry.name,
                state: State::Unknown,
                applied_at: Some(entry.applied_at),
            }),
    );
    Ok(statuses)
}

/// Applies pending migrations, calling `progress` before each, and returns their
/// number.
pub async fn up(
    conn: &mut PgConnection,
    progress: impl FnMut(&Migration),
) -> Result<usize, MigrationError> {
    up_within(conn, PATIENCE, progress).await
}

/// The same, waiting no longer than `patience` for another run.
pub async fn up_within(
    conn: &mut PgConnection,
    patience: Duration,
    mut progress: impl FnMut(&Migration),
) -> Result<usize, MigrationError> {
    lock(conn, patience).await?;
    let applied = apply_pending(conn, &mut progress).await;
    unlock_after(conn, applied).await
}

async fn apply_pending(
    conn: &mut PgConnection,
    progress: &mut impl FnMut(&Migration),
) -> Result<usize, MigrationError> {
    let ledger = ledger(conn).await?;
    let mut applied = 0;
    for migration in MIGRATIONS {
        let entry = ledger
            .iter()
            .find(|entry| entry.version == migration.version);
        match entry {
            Some(entry) if entry.checksum.is_some() => continue,
            // Applied by psql or supabase, which record no checksum, or by a run that
            // was killed before it did.
            Some(_) => record_checksum(conn, migration).await?,
            None => {
                progress(migration);
                run(conn, migration, migration.up).await?;
                record_checksum(conn, migration).await?;
                applied += 1;
            }
        }
    }
    Ok(applied)
}

/// Undoes migrations from the newest down to `to`, exclusive; without `to`, only the
/// newest applied one. Returns the versions undone.
pub async fn rollback(
    conn: &mut PgConnection,
    to: Option<&str>,
    mut progress: impl FnMut(&Migration),
) -> Result<Vec<&'static str>, MigrationError> {
    lock(conn, PATIENCE).await?;
    let undone = undo(conn, to, &mut progress).await;
    unlock_after(conn, undone).await
}

async fn undo(
    conn: &mut PgConnection,
    to: Option<&str>,
    progress: &mut impl FnMut(&Migration),
) -> Result<Vec<&'static str>, MigrationError> {
    let mut undone = Vec::new();
    for migration in to_undo(conn, to).await? {
        progress(migration);
        run(conn, migration, migration.down).await?;
        undone.push(migration.version);
    }
    Ok(undone)
}

/// The applied migrations that a rollback to `to` undoes, newest first.
pub async fn to_undo(
    conn: &mut PgConnection,
    to: Option<&str>,
) -> Result<Vec<&'static Migration>, MigrationError> {
    let ledger = ledger(conn).await?;
    let applied = |migration: &&'static Migration| {
        ledger
            .iter()
            .any(|entry| entry.version == migration.version)
    };
    let newest_first = MIGRATIONS.iter().rev().filter(applied);
    let undone: Vec<&Migration> = match to {
        Some(to) => newest_first
            .take_while(|migration| migration.version > to)
            .collect(),
        None => newest_first.take(1).collect(),
    };
    // A later migration builds on those before it.
    let floor = to.or(undone.first().map(|newest| newest.version));
    let later = ledger.iter().rev().find(|entry| {
        !is_known(&entry.version) && floor.is_none_or(|floor| *entry.version >= *floor)
    });
    if let Some(Entry { version, name, .. }) = later {
        return Err(MigrationError::Newer {
            version: version.clone(),
            name: name.clone(),
        });
    }
    match to {
        Some(to) if !is_known(to) => Err(MigrationError::UnknownVersion(to.to_owned())),
        _ => Ok(undone),
    }
}

fn is_known(version: &str) -> bool {
    MIGRATIONS
        .iter()
        .any(|migration| migration.version == version)
}

/// The migrations of this program that the database lacks.
pub async fn missing(conn: &mut PgConnection) -> Result<Vec<&'static str>, sqlx::Error> {
    let ledger = ledger(conn).await?;
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    Ok(versions
        .filter(|version| ledger.iter().all(|entry| entry.version != *version))
        .collect())
}

impl Migration {
    fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.up.as_bytes()))
    }
}

/// Runs a file, and retries it if a lock could not be acquired.
async fn run(
    conn: &mut PgConnection,
    migration: &Migration,
    sql: &'static str,
) -> Result<(), MigrationError> {
    let version = migration.version;
    for attempt in 1..=LOCK_ATTEMPTS {
        let error = match run_once(conn, sql).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let code = error
            .as_database_error()
            .and_then(|e| e.code().map(String::from));
        // A deadlock is retried as well: a running service may hold what the file
        // waits for, and wait for what the file holds.
        if !matches!(code.as_deref(), Some("55P03" | "40P01")) {
            return Err(MigrationError::Failed { version, error });
        }
        if attempt < LOCK_ATTEMPTS {
            tracing::warn!(version, attempt, "a lock could not be acquired; retrying");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Err(MigrationError::Locked { version })
}

async fn run_once(conn: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    let result = conn.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
    if result.is_err() {
        // Ends the file's transaction. The first error says more than a second one,
        // as when the connection is gone.
        let _ = conn.execute("ROLLBACK").await;
    }
    result.map(|_| ())
}

async fn record_checksum(
    conn: &mut PgConnection,
    migration: &Migration,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE public.billing_schema_migrations SET checksum = $2 WHERE version = $1")
        .bind(migration.version)
        .bind(migration.checksum())
        .execute(conn)
        .await?;
    Ok(())
}

async fn lock(conn: &mut PgConnection, patience: Duration) -> Result<(), MigrationError> {
    let timeout = format!("SET lock_timeout = {}", patience.as_millis());
    conn.execute(AssertSqlSafe(timeout)).await?;
    let locked = sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(ADVISORY_LOCK)
        .execute(&mut *conn)
        .await;
    match locked {
        Ok(_) => Ok(()),
        Err(error)
            if error
                .as_database_error()
                .is_some_and(|e| e.code().as_deref() == Some("55P03")) =>
        {
            // Report the wait even if the holder cannot be determined.
            Err(MigrationError::Busy(holder(conn).await.unwrap_or_default()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The holder of the lock. Any login may take it, like every advisory lock.
async fn holder(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT format('the session %s of %s (%s)', l.pid, coalesce(a.usename::text, 'somebody'),
                       coalesce(nullif(a.application_name, ''), 'unnamed'))
           FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
          WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::bigint << 32) | l.objid::bigint = $1
          LIMIT 1",
    )
    .bind(ADVISORY_LOCK)
    .fetch_optional(conn)
    .await
}

/// Releases the lock. An error of the work takes precedence, as when the connection
/// is gone.
async fn unlock_after<T>(
    conn: &mut PgConnection,
    work: Result<T, MigrationError>,
) -> Result<T, MigrationError> {
    let unlocked = sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(ADVISORY_LOCK)
        .execute(conn)
        .await;
    let done = work?;
    unlocked?;
    Ok(done)
}

struct Entry {
    version: String,
    name: String,
    checksum: Option<String>,
    applied_at: jiff::Timestamp,
}

/// The entries of the ledger; none if it does not exist yet. Not checked at compile
/// time: the table may not exist.
async fn ledger(conn: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('public.billing_schema_migrations') IS NOT NULL")
            .fetch_one(&mut *conn)
            .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "SELECT version, name, checksum, applied_at FROM public.billing_schema_migrations ORDER BY version",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Entry {
                version: row.try_get("version")?,
                name: row.try_get("name")?,
                checksum: row.try_get("checksum")?,
                applied_at: row.try_get::<Timestamp, _>("applied_at")?.to_jiff(),
            })
        })
        .collect()
}
