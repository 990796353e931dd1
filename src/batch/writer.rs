//! The connection that batches are committed on, and the one rule for what
//! follows when a batch fails. How requests are queued is their feature's
//! choice: intake takes them in the order they come, the ledger takes one of
//! each organization in turn.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};

use crate::db;

/// A writer that cannot connect within this time has no database.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the buffers of large batches are given back.
const SHRINK_EVERY: Duration = Duration::from_secs(1);

/// How a writer's batches are committed.
pub struct Settings {
    /// Statements that each new session begins with.
    pub opening: &'static [&'static str],
    /// Whether a batch is a transaction of several statements, which an error
    /// leaves open.
    pub transaction: bool,
    /// How often a batch is tried again that met another's locks or rows.
    pub conflicts: u32,
    /// The server cancels slow statements; this is for a server that says
    /// nothing more.
    pub silence: Duration,
}

/// What is committed together.
pub trait Batch {
    type Reply;

    /// Writes everything and commits. Called again after a conflict.
    fn write(
        &mut self,
        conn: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Reply, sqlx::Error>> + Send;

    /// It is written again after a connection broke: it may have been committed.
    fn may_be_committed(&mut self);
}

/// Why a batch was not committed. It may have been, where the connection broke
/// at the wrong moment: requests carry ids, so that sending them again is safe.
#[derive(Debug)]
pub enum Failure {
    /// PostgreSQL refused something in the batch, and would again.
    Refused(sqlx::Error),
    /// A statement, or its wait for a lock, took too long.
    TimedOut(sqlx::Error),
    /// No batch can be committed now.
    Unavailable(sqlx::Error),
}

/// A writer's own connection, opened when it is needed.
pub struct Session {
    options: PgConnectOptions,
    settings: Settings,
    connection: Option<PgConnection>,
    shrunk: Instant,
}

impl Session {
    pub fn new(options: PgConnectOptions, settings: Settings) -> Self {
        Self {
            options,
            settings,
            connection: None,
            shrunk: Instant::now(),
        }
    }

    /// Commits a batch: again after a conflict, and once more on a new connection
    /// where the old one died between two batches.
    pub async fn commit<B: Batch>(&mut self, batch: &mut B) -> Result<B::Reply, Failure> {
        let mut reused = self.connection.is_some();
        let mut conflicts = 0;
        loop {
            let silence = self.settings.silence;
            let connection = self.open().await.map_err(Failure::Unavailable)?;
            let attempted = tokio::time::timeout(silence, batch.write(connection)).await;
            let error = match attempted.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(committed) => {
                    self.shrink();
                    return Ok(committed);
                }
                Err(error) => error,
            };
            let answered = error.as_database_error().is_some() && !db::is_outage(&error);
            if answered && self.roll_back().await {
                if db::is_conflict(&error) && conflicts < self.settings.conflicts {
                    conflicts += 1;
                    continue;
                }
                return Err(if db::is_timeout(&error) {
                    Failure::TimedOut(error)
                } else {
                    Failure::Refused(error)
                });
            }
            self.connection = None;
            let died = db::is_outage(&error) && !matches!(error, sqlx::Error::PoolTimedOut);
            if !(died && reused) {
                return Err(Failure::Unavailable(error));
            }
            reused = false;
            batch.may_be_committed();
        }
    }

    /// Gives the buffers of large batches back.
    fn shrink(&mut self) {
        if let Some(connection) = &mut self.connection
            && self.shrunk.elapsed() >= SHRINK_EVERY
        {
            connection.shrink_buffers();
            self.shrunk = Instant::now();
        }
    }

    /// The connection, if it is open, for what is done between two batches.
    /// Where that fails, [`forget`](Self::forget) it.
    pub fn connection(&mut self) -> Option<&mut PgConnection> {
        self.connection.as_mut()
    }

    /// Leaves the connection; the next batch opens another.
    pub fn forget(&mut self) {
        self.connection = None;
    }

    pub async fn close(self) {
        if let Some(connection) = self.connection {
            let _ = connection.close().await;
        }
    }

    async fn open(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            closed => {
                let opening = self.settings.opening;
                let connection = db::dedicated(&self.options, opening, CONNECT_TIMEOUT).await?;
                Ok(closed.insert(connection))
            }
        }
    }

    /// Ends what a failed batch left open. False: the connection is gone.
    async fn roll_back(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        if !self.settings.transaction {
            return true;
        }
        let silence = self.settings.silence;
        let rolled_back = tokio::time::timeout(silence, connection.execute("ROLLBACK")).await;
        matches!(rolled_back, Ok(Ok(_)))
    }
}
