//! Gets the owner's database ready, whatever state the server is in at the moment.

use super::binaries::Binaries;
use super::endpoint::Endpoint;
use super::error::{EmbeddedPostgresError, Result};
use super::server;
use super::site::Site;
use sqlx::{Connection, PgConnection};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::Child;

/// Long enough for the recovery after a crash, which reads at most about a gigabyte of log.
const PATIENCE: Duration = Duration::from_secs(120);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// How often a server is started that somebody kills while it starts.
const SPAWNS_AFTER_KILLS: u32 = 5;

/// SQLSTATEs of a server that is starting, recovering or stopping.
const NOT_NOW: [&str; 3] = ["57P01", "57P02", "57P03"];

/// What came of one try to reach the database.
enum Attempt {
    Ready,
    NotNow,
    Silence,
}

/// Joins the server if it runs, waits if it is starting or stopping, and starts it if it is
/// gone. Only who holds the start lock may call this.
pub(super) async fn bring_up(site: &Site, binaries: &Binaries, endpoint: &Endpoint) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut child = None;
    let mut spawns = 0;
    loop {
        let answers = match attempt(site, endpoint).await? {
            Attempt::Ready => return Ok(()),
            Attempt::NotNow => true,
            Attempt::Silence => false,
        };
        if let Some(status) = child.as_mut().and_then(exit_status) {
            let was_killed = status.signal().is_some() && spawns < SPAWNS_AFTER_KILLS;
            let may_retry = was_killed || server::waits_for_predecessor(site);
            if !may_retry || Instant::now() > deadline {
                return Err(did_not_start(site));
            }
            child = None;
        }
        if Instant::now() > deadline {
            return Err(not_ready(site));
        }
        if child.is_none() && !answers && !server::is_alive(site) {
            child = Some(server::spawn(site, binaries)?);
            spawns += 1;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn attempt(site: &Site, endpoint: &Endpoint) -> Result<Attempt> {
    let options = endpoint.maintenance();
    let connecting = PgConnection::connect_with(&options);
    let outcome = match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
        Ok(Ok(connection)) => create_database(connection, endpoint.database()).await,
        Ok(Err(error)) => Err(error),
        Err(_) => return Ok(Attempt::Silence),
    };
    match outcome {
        Ok(()) => Ok(Attempt::Ready),
        Err(sqlx::Error::Database(refusal)) => match refusal.code() {
            Some(code) if NOT_NOW.contains(&&*code) => Ok(Attempt::NotNow),
            _ if server::was_replaced(site).unwrap_or(false) => {
                Err(EmbeddedPostgresError::Replaced {
                    refusal: refusal.to_string(),
                })
            }
            _ => Err(sqlx::Error::Database(refusal).into()),
        },
        // Nobody listens, or the server was killed while we talked.
        Err(_) => Ok(Attempt::Silence),
    }
}

async fn create_database(
    mut connection: PgConnection,
    database: &str,
) -> std::result::Result<(), sqlx::Error> {
    let exists = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind(database)
        .fetch_optional(&mut connection)
        .await?
        .is_some();
    if !exists {
        let statement = format!("CREATE DATABASE {database}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await
}

fn exit_status(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten()
}

fn did_not_start(site: &Site) -> EmbeddedPostgresError {
    let (log, tail) = server::last_lines(site);
    EmbeddedPostgresError::Start { log, tail }
}

fn not_ready(site: &Site) -> EmbeddedPostgresError {
    let (log, tail) = server::last_lines(site);
    EmbeddedPostgresError::NotReady {
        waited_secs: PATIENCE.as_secs(),
        log,
        tail,
    }
}
