//! Connections, and what each says before it is used.
//!
//! Settings are made by statements after connecting, never by the startup
//! packet's `options`, which poolers refuse or drop.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};

use super::{DatabaseError, scarcity};

/// How long a request for a connection waits before it gives up.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one whose opening may be refused, which is tried again until
/// then.
const ROLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was read-only when it was this old is closed: the server
/// may have become writable for new ones. A younger one shows the server as it
/// is.
const READ_ONLY_MOST: Duration = Duration::from_secs(1);

/// What every session of ours sets, whatever the server, the database or the
/// role have as defaults: the isolation and the schema that our statements are
/// written for, rows where row-level security hides others rather than an error,
/// no end while it idles, and commits that are durable when they are answered
/// (what waits for standbys besides stays). No statement runs for as long as to
/// compile it takes; the planner would, where a switch makes a plan look dear.
/// SET LOCAL reaches the shards on Citus; one PostgreSQL ignores that setting.
const SESSION: &str = "SET citus.propagate_set_commands = 'local'; \
                       SET default_transaction_isolation = 'read committed'; \
                       SET search_path = public; \
                       SET row_security = on; \
                       SET jit = off; \
                       SELECT set_config('synchronous_commit', 'on', false) \
                        WHERE current_setting('synchronous_commit') = 'off'; \
                       SET idle_session_timeout = 0";

/// What a migration or a check takes, it takes; who is to be quicker says so.
const UNBOUNDED: &str = "SET statement_timeout = 0; SET lock_timeout = 0; \
                         SET idle_in_transaction_session_timeout = 0";

/// What bounds the statements of pooled connections: all are short, and none
/// may outlive the lease it works under.
const LIMITS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
                      SET idle_in_transaction_session_timeout = '60s'";

/// For statements that are transactions of their own.
const WORKER: &str = "SET ROLE billing_worker";

/// For reading rows by their keys: a plan that was made while there were few of
/// them is not to read all of them later.
const LOOKUP: &str = "SET ROLE billing_worker; SET enable_seqscan = off";

/// How we connect, whoever uses the connection.
fn prepare(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name(super::APPLICATION)
        // PgBouncer refuses to start a session with it, and PostgreSQL's own
        // default loses nothing.
        .extra_float_digits(None)
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
}

/// A pool that connects when it is first used. Connections that died, or that
/// can no longer write, are told apart before they are used.
pub fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    opened_with("", connections)
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

/// A pool whose connections are billing_worker from the start. Those that died
/// are not told apart before they are used, which would cost a round trip each
/// time.
pub fn worker_pool(options: PgConnectOptions, connections: u32) -> PgPool {
    opened_with(WORKER, connections)
        .acquire_timeout(ROLE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(prepare(options))
}

/// The same for reading rows by their keys.
pub fn lookup_pool(options: PgConnectOptions, connections: u32) -> PgPool {
    opened_with(LOOKUP, connections)
        .acquire_timeout(ROLE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(prepare(options))
}

fn opened_with(opening: &'static str, connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(SESSION).await?;
                connection.execute(LIMITS).await?;
                if !opening.is_empty() {
                    connection.execute(opening).await?;
                }
                Ok(())
            })
        })
        .after_release(|_, _| Box::pin(async { Ok(!scarcity::is_scarce()) }))
}

/// Whether a transaction on this connection could write nothing: the server is
/// a standby, or read-only for this session.
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

/// The version that the server runs.
pub async fn server_version(conn: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT current_setting('server_version') AS "version!""#)
        .fetch_one(conn)
        .await
}

/// One connection, of which the caller is the only user.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, DatabaseError> {
    dedicated(options, "", ACQUIRE_TIMEOUT)
        .await
        .map_err(DatabaseError::Unreachable)
}

/// The same for one who sets more, and waits no longer than `patience`.
pub async fn dedicated(
    options: &PgConnectOptions,
    opening: &'static str,
    patience: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let options = prepare(options.clone());
    let connecting = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        connection.execute(SESSION).await?;
        connection.execute(UNBOUNDED).await?;
        if !opening.is_empty() {
            connection.execute(opening).await?;
        }
        Ok(connection)
    };
    let connected = tokio::time::timeout(patience, connecting)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut));
    if let Err(error) = &connected {
        scarcity::note(error);
    }
    connected
}
