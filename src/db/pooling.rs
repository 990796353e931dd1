//! Whether a session stays one: a pooler that hands out another server
//! connection for each transaction loses roles, limits, prepared statements
//! and notifications.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Executor as _, Row as _};

use super::{DatabaseError, connect};

/// Refuses a pooler in transaction or statement mode.
///
/// Of two sessions each must keep its own server process. Asked in turns, a
/// pooler that shares them gives both the same one, or the same one another.
/// `variable` says where the address comes from.
pub async fn check_sessions(
    variable: &str,
    options: &PgConnectOptions,
) -> Result<(), DatabaseError> {
    let (one, other) = tokio::join!(connect(options), connect(options));
    let (mut one, mut other) = (one?, other?);
    let first = process(&mut one).await?;
    let second = process(&mut one).await?;
    let others = process(&mut other).await?;
    let third = process(&mut one).await?;
    let others_again = process(&mut other).await?;
    if first == second && first == third && others == others_again && first != others {
        return Ok(());
    }
    Err(DatabaseError::Pooled(format!(
        "{variable}: a connection pooler in transaction mode stands before PostgreSQL and shares \
         its sessions, which the service needs for itself; set pool_mode = session for this database \
         in PgBouncer, or name PostgreSQL itself (docs/database.md, Poolers)"
    )))
}

/// The server process that answers, asked without a prepared statement. The
/// answer is read to its end: until then a pooler has the process in use, and
/// gives the other session another one.
async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let rows = connection
        .fetch_all(sqlx::raw_sql("SELECT pg_backend_pid()"))
        .await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}
