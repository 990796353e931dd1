//! Connections, transactions whose type says what they may do, and what database
//! errors mean.
//!
//! No table of a feature is read here.

mod connections;
pub mod disk;
pub mod guards;
mod login;
mod outdated;
pub mod planner;
mod pooling;
pub mod rights;
mod room;
mod scarcity;
mod transactions;
pub mod words;

use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

pub use connections::{
    acquire, attempt, connect, dedicated, is_read_only, is_standby, lookup_pool, pool,
    server_version, worker_pool,
};
pub use login::check_login;
pub use outdated::SchemaOutdated;
pub use pooling::{RAISE, Short, check_sessions, short_pooler};
pub use room::{Room, room};
pub use scarcity::{give_back_idle, waiting_is_refusal};
pub use transactions::{
    OpeningRefused, RequestTx, TenantTx, WorkerTx, WriteTx, impatiently, opening_refusal,
};

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    #[error("{0}")]
    Privileged(String),
    #[error("{0}")]
    NotDurable(String),
    /// A pooler in front of PostgreSQL that does not keep sessions.
    #[error("{0}")]
    Pooled(String),
    #[error(transparent)]
    Query(#[from] sqlx::Error),
}

/// The application name of our sessions.
const APPLICATION: &str = "valuecanvas-billing";

/// Becomes billing_worker if the login itself may read nothing, as the service's; the
/// owner keeps its role.
pub async fn read_as_service(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let bound: bool = sqlx::query_scalar(
        "SELECT to_regclass('public.billing_schema_migrations') IS NOT NULL
            AND NOT has_table_privilege('public.billing_schema_migrations', 'SELECT')
            AND coalesce(pg_has_role(session_user, to_regrole('billing_worker')::oid, 'MEMBER'), false)",
    )
    .fetch_one(&mut *conn)
    .await?;
    if bound {
        conn.execute("SET ROLE billing_worker").await?;
    }
    Ok(())
}

/// The number of other sessions of this program in the database.
pub async fn other_sessions(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = $1
              AND pid <> pg_backend_pid()"#,
        APPLICATION
    )
    .fetch_one(conn)
    .await
}

/// The database's clock, in seconds since 1970.
pub async fn clock_secs(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT extract(epoch FROM clock_timestamp())::bigint AS "secs!""#)
        .fetch_one(conn)
        .await
}

/// Whether the database itself is unavailable, as opposed to refusing a statement.
pub fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Configuration(cause) => {
            cause.is::<OpeningRefused>() || cause.is::<SchemaOutdated>()
        }
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exceptions, operator intervention, insufficient
            // resources, system errors, refused logins.
            ["08", "57P", "53", "58", "28"]
                .iter()
                .any(|class| code.starts_with(class))
                // Read-only; the database no longer exists.
                || matches!(&*code, "25006" | "3D000")
                // The database accepts no connections at the moment.
                || code == "55000"
        }),
        _ => false,
    }
}

/// Whether the same statement may succeed if run again.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
}

/// Whether the statement, or its wait for another's lock, took too long.
pub fn is_timeout(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "55P03" | "57014"))
}

/// Whether another transaction held a row for longer than the lock timeout.
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code == "55P03")
}

/// Whether the row already exists.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code == "23505")
}

/// Whether PostgreSQL refused a value of the statement, as it will again. (22023 also
/// means that a role does not exist yet.)
pub fn is_bad_value(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code.starts_with("22") && code != "22023")
}

/// Whether a text contains what PostgreSQL cannot store: NUL, or an invalid
/// character.
pub fn is_unstorable_text(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "22021" | "22P05"))
}

/// Whether a time is outside PostgreSQL's range.
pub fn is_time_out_of_range(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code == "22008")
}

/// Whether a row violates a constraint on itself, as opposed to one that depends on
/// other rows.
pub fn is_broken_row(error: &sqlx::Error) -> bool {
    // not_null_violation and check_violation.
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "23502" | "23514"))
}

/// What the server said of an error, without the place in its own source; other errors say
/// themselves.
pub fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error => error.to_string(),
    }
}

/// The SQLSTATE of an error that the server reported.
pub fn sql_state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(String::from)
}
