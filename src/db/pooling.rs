//! Whether a session stays one: a pooler that hands out another server
//! connection for each transaction loses roles, limits, prepared statements
//! and notifications. And whether a pooler has as many as are needed at once:
//! beyond that it lets one wait, and says nothing.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _, Row as _};

use super::{DatabaseError, connect, dedicated, scarcity};

/// Of sessions that are opened at once, the next one comes within this, however
/// slow the server. A pooler lets those wait that it has no connection for.
const NEXT: Duration = Duration::from_secs(3);
/// And all within this.
const ALL: Duration = Duration::from_secs(30);

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

/// A pooler that has fewer connections to give than are needed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    pub needed: u32,
    pub given: u32,
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { needed, given } = self;
        write!(
            f,
            "a connection pooler stands before PostgreSQL and gave {given} of {needed} connections, and no other \
             within {} s",
            NEXT.as_secs()
        )
    }
}

/// What to set where a pooler is [`Short`].
pub const RAISE: &str = "set default_pool_size in PgBouncer (and max_db_connections, max_user_connections and \
                         max_client_conn where they are smaller) to what all replicas and a job take at once \
                         (docs/database.md, Poolers)";

/// Opens `needed` sessions at once, as parts of the service will, and lets them
/// go; None: there are as many. Otherwise connections go round from then on, as
/// where a server has too few. Where nothing can stand before PostgreSQL,
/// nothing is opened: PostgreSQL itself refuses at once, and is counted by
/// [`super::room`].
pub async fn short_pooler(
    options: &PgConnectOptions,
    needed: u32,
) -> Result<Option<Short>, DatabaseError> {
    let mut conn = connect(options).await?;
    let is_direct = is_direct(options, &mut conn).await?;
    let _ = conn.close().await;
    if is_direct {
        return Ok(None);
    }
    let mut opening: FuturesUnordered<_> =
        (0..needed).map(|_| dedicated(options, "", ALL)).collect();
    let mut opened: Vec<PgConnection> = Vec::new();
    let mut failed = None;
    while let Ok(Some(next)) = tokio::time::timeout(NEXT, opening.next()).await {
        match next {
            Ok(conn) => opened.push(conn),
            Err(error) => failed = Some(error),
        }
    }
    drop(opening);
    let given = u32::try_from(opened.len()).unwrap_or(u32::MAX);
    for conn in opened {
        let _ = conn.close().await;
    }
    // A pooler lets wait; who refuses is not one, and says why.
    let waited_in_vain = |error: &sqlx::Error| matches!(error, sqlx::Error::PoolTimedOut);
    if let Some(error) = failed.filter(|error| !waited_in_vain(error)) {
        tracing::warn!(%error, "it could not be told whether there are connections enough");
        return Ok(None);
    }
    if given == needed {
        return Ok(None);
    }
    scarcity::waiting_is_refusal();
    Ok(Some(Short { needed, given }))
}

/// Whether we are surely connected to PostgreSQL itself: on this host, and by
/// the port that it says it listens on.
async fn is_direct(
    options: &PgConnectOptions,
    conn: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    // Not checked at compile time: other servers speak the protocol, too.
    let (address, port): (Option<String>, Option<String>) =
        sqlx::query_as("SELECT host(inet_server_addr()), current_setting('port', true)")
            .fetch_one(conn)
            .await?;
    let host = options.get_host();
    let by_socket = options.get_socket().is_some() || host.starts_with('/');
    let is_loopback = |address: &str| {
        address
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
    };
    let same_way = match &address {
        None => by_socket,
        Some(address) => {
            !by_socket && is_loopback(address) && (is_loopback(host) || host == "localhost")
        }
    };
    Ok(same_way && port.is_some_and(|port| port == options.get_port().to_string()))
}
