//! Connections, and the settings of their sessions.
//!
//! Settings are made by statements after connecting, never by the startup packet's
//! `options`, which poolers refuse or drop.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Postgres, Row as _};

use super::{DatabaseError, planner, scarcity};

/// How long to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for pools whose opening statement may be refused, which is retried
/// until then.
const ROLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A read-only connection older than this is closed: the server may have become
/// writable for new ones. A younger one shows the server's current state.
const READ_ONLY_MOST: Duration = Duration::from_secs(1);

/// Settings of all our sessions, whatever the defaults of server, database and role:
/// the isolation and schema that our statements are written for; row-level security
/// that hides rows instead of raising an error; no idle timeout; and commits that
/// are durable when they return (stricter settings stay). On Citus, SET LOCAL then
/// reaches the shards; plain PostgreSQL ignores that setting.
const SESSION: &str = "SET citus.propagate_set_commands = 'local'; \
                       SET default_transaction_isolation = 'read committed'; \
                       SET search_path = public; \
                       SET row_security = on; \
                       SELECT set_config('synchronous_commit', 'on', false) \
                        WHERE current_setting('synchronous_commit') = 'off'; \
                       SET idle_session_timeout = 0";

/// For migrations and checks, which take as long as they take.
const UNBOUNDED: &str = "SET statement_timeout = 0; SET lock_timeout = 0; \
                         SET idle_in_transaction_session_timeout = 0";

/// Limits of pooled connections: all their statements are short, and none may
/// outlive the lease it works under.
const LIMITS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
                      SET idle_in_transaction_session_timeout = '60s'";

/// For statements outside transactions.
const WORKER: &str = "SET ROLE billing_worker";

/// For reading rows by their keys, which requests wait for: planning the few statements
/// may take longer than running them.
const LOOKUP: &[&str] = &[WORKER, planner::PLAN_ONCE, planner::JOIN_BY_KEY];

/// The options of all our connections.
fn prepare(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name(super::APPLICATION)
        // PgBouncer refuses a session that sets it, and PostgreSQL's default loses
        // no digits.
        .extra_float_digits(None)
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
}

/// A pool that connects on first use. A connection that has died, or can no longer
/// write, is replaced before it is used.
pub fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    opened_with(&[], connections)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                Ok(match is_read_only(connection).await {
                    Ok(read_only) => !read_only || meta.age < READ_ONLY_MOST,
                    Err(error) => {
                        tracing::info!(%error, "a database connection was lost");
                        false
                    }
                })
            })
        })
        .connect_lazy_with(prepare(options))
}

/// A pool whose connections are billing_worker from the start. It does not test
/// connections before use, which would cost a round trip each time.
pub fn worker_pool(options: PgConnectOptions, connections: u32) -> PgPool {
    opened_with(&[WORKER], connections)
        .acquire_timeout(ROLE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(prepare(options))
}

/// The same, for the few statements that read rows by their keys.
pub fn lookup_pool(options: PgConnectOptions, connections: u32) -> PgPool {
    opened_with(LOOKUP, connections)
        .acquire_timeout(ROLE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(prepare(options))
}

fn opened_with(opening: &'static [&'static str], connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(scarcity::idle_timeout())
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(SESSION).await?;
                connection.execute(planner::NO_COMPILING).await?;
                connection.execute(LIMITS).await?;
                for statement in opening {
                    connection.execute(*statement).await?;
                }
                Ok(())
            })
        })
        .after_release(|connection, _| {
            // What a large row or statement took would stay.
            connection.shrink_buffers();
            Box::pin(async { Ok(!scarcity::is_scarce()) })
        })
}

/// A connection of the pool; that none opened in time is noted.
pub async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    pool.acquire().await.inspect_err(|error| {
        // A full pool waits for its own connections, which a slow server keeps.
        if pool.size() < pool.options().get_max_connections() {
            scarcity::note(error);
        }
    })
}

/// Whether transactions on this connection cannot write: the server is a standby, or
/// read-only for this session.
pub async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let shown = connection
        .fetch_one(sqlx::raw_sql("SHOW transaction_read_only"))
        .await?;
    Ok(shown.try_get::<String, _>(0)? == "on")
}

/// Whether the server is a standby.
pub async fn is_standby(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_is_in_recovery() AS "standby!""#)
        .fetch_one(conn)
        .await
}

/// The server's version.
pub async fn server_version(conn: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT current_setting('server_version') AS "version!""#)
        .fetch_one(conn)
        .await
}

/// A connection of the caller's own.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, DatabaseError> {
    dedicated(options, &[], ACQUIRE_TIMEOUT)
        .await
        .map_err(DatabaseError::Unreachable)
}

/// The same, with further settings and a timeout. For a part that has no other: pools give
/// up what they do not use if none opens.
pub async fn dedicated(
    options: &PgConnectOptions,
    opening: &'static [&'static str],
    patience: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let connected = attempt(options, opening, patience).await;
    connected.inspect_err(scarcity::note)
}

/// The same for finding out whether one opens, which has no consequences.
pub async fn attempt(
    options: &PgConnectOptions,
    opening: &'static [&'static str],
    patience: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let options = prepare(options.clone());
    let connecting = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        connection.execute(SESSION).await?;
        connection.execute(planner::NO_COMPILING).await?;
        connection.execute(UNBOUNDED).await?;
        for statement in opening {
            connection.execute(*statement).await?;
        }
        Ok(connection)
    };
    tokio::time::timeout(patience, connecting)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
