//! Poolers. One in transaction mode is refused: it hands out another server
//! connection for each transaction, and loses roles, limits, prepared statements and
//! notifications. One that is too small is detected: it makes clients wait without
//! an error.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _, Row as _};

use super::{DatabaseError, attempt, connect, scarcity};

/// Of several sessions opened at once, the next one opens within this time even on a
/// slow server; a pooler without a free connection makes it wait.
const NEXT: Duration = Duration::from_secs(3);
/// All of them open within this time.
const ALL: Duration = Duration::from_secs(30);

/// Refuses a pooler in transaction or statement mode.
///
/// Of two sessions, each must keep its own server process. Queried in turn, a pooler
/// that shares processes gives both sessions the same one, or one session two.
/// `variable` names the setting of the address.
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
        "{variable}: a connection pooler in transaction mode is in front of PostgreSQL, but the service \
         needs sessions of its own; set pool_mode = session for this database in PgBouncer, or connect \
         to PostgreSQL directly (docs/database.md, Poolers)"
    )))
}

/// The server process behind a session, queried without a prepared statement. The
/// result is read to its end: until then the pooler considers the process in use
/// and gives the other session a different one.
async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let rows = connection
        .fetch_all(sqlx::raw_sql("SELECT pg_backend_pid()"))
        .await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}

/// A pooler with fewer connections than are needed at once.
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
            "a connection pooler in front of PostgreSQL gave {given} of {needed} connections, and no other \
             within {} s",
            NEXT.as_secs()
        )
    }
}

/// What to change if a pooler is [`Short`].
pub const RAISE: &str = "set default_pool_size in PgBouncer (and max_db_connections, max_user_connections and \
                         max_client_conn if they are smaller) to what all replicas and a job take at once \
                         (docs/database.md, Poolers)";

/// Opens `needed` sessions at once, as the service will, and closes them. `None` if
/// all opened; otherwise pools share connections from then on, as with a server that
/// has too few. A direct connection to PostgreSQL is not tested: PostgreSQL refuses
/// immediately, and [`super::room`] counts its connections.
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
        (0..needed).map(|_| attempt(options, &[], ALL)).collect();
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
    // A pooler makes clients wait; a server refuses, and says why.
    let waited_in_vain = |error: &sqlx::Error| matches!(error, sqlx::Error::PoolTimedOut);
    if let Some(error) = failed.filter(|error| !waited_in_vain(error)) {
        tracing::warn!(%error, "cannot determine whether there are enough connections");
        return Ok(None);
    }
    if given == needed {
        return Ok(None);
    }
    scarcity::waiting_is_refusal();
    Ok(Some(Short { needed, given }))
}

/// Whether we are certainly connected to PostgreSQL itself: on this host, at the port
/// that it reports.
async fn is_direct(
    options: &PgConnectOptions,
    conn: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    // Not checked at compile time: other servers speak the protocol as well.
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
