//! Transactions that open in one round trip, and never leave a connection in an
//! unknown state for its next user.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgTransactionManager};
use sqlx::{AssertSqlSafe, Executor as _, Postgres, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager as _;
use uuid::Uuid;

use super::planner;

/// A connection that does not return to the pool within this time is given up: the
/// server has vanished, since no statement takes as long.
const RETURN_TIMEOUT: Duration = Duration::from_secs(35);

/// A transaction could not be opened: the roles do not exist yet, or the login is no
/// longer a member.
#[derive(Debug, thiserror::Error)]
#[error("a transaction cannot be opened: {0}")]
pub struct OpeningRefused(#[source] pub sqlx::Error);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The result of the opening statements is not known yet.
    Opening,
    Open,
    Ended,
}

/// An open transaction on a pooled connection. Dropping it at any point rolls it back;
/// if that fails, the connection is closed.
struct PooledTx {
    connection: Option<PoolConnection<Postgres>>,
    phase: Phase,
    after_commit: Vec<AfterCommit>,
}

type AfterCommit = Box<dyn FnOnce() + Send>;

/// A transaction that writes.
pub trait WriteTx {
    fn conn(&mut self) -> &mut PgConnection;

    /// Runs `work` once the transaction has committed, and never if it has not.
    fn after_commit(&mut self, work: impl FnOnce() + Send + 'static);
}

tokio::task_local! {
    /// How long transactions of this task wait for locks.
    static LOCK_TIMEOUT: &'static str;
}

/// Runs `work`, whose transactions wait for locks no longer than `lock_timeout` (in
/// PostgreSQL's format).
pub async fn impatiently<T>(lock_timeout: &'static str, work: impl Future<Output = T>) -> T {
    LOCK_TIMEOUT.scope(lock_timeout, work).await
}

impl PooledTx {
    async fn begin(pool: &PgPool, opening: SqlStr) -> Result<Self, sqlx::Error> {
        let opening = match LOCK_TIMEOUT.try_with(|timeout| *timeout) {
            Ok(timeout) => {
                let opening = opening.as_str();
                AssertSqlSafe(format!("{opening}; SET LOCAL lock_timeout = '{timeout}'"))
                    .into_sql_str()
            }
            Err(_) => opening,
        };
        let mut tx = Self {
            // Connecting is rare, and its future large.
            connection: Some(Box::pin(super::acquire(pool)).await?),
            phase: Phase::Opening,
            after_commit: Vec::new(),
        };
        match PgTransactionManager::begin(tx.conn(), Some(opening)).await {
            Ok(()) => {
                tx.phase = Phase::Open;
                Ok(tx)
            }
            Err(error) => {
                // A part of the opening may have taken effect.
                if let Some(mut connection) = tx.connection.take() {
                    connection.close_on_drop();
                }
                Err(refused_opening(error))
            }
        }
    }

    fn conn(&mut self) -> &mut PgConnection {
        self.connection
            .as_mut()
            .expect("a transaction has its connection until it is dropped")
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        PgTransactionManager::commit(self.conn()).await?;
        self.phase = Phase::Ended;
        for work in std::mem::take(&mut self.after_commit) {
            work();
        }
        Ok(())
    }

    async fn rollback(mut self) -> Result<(), sqlx::Error> {
        PgTransactionManager::rollback(self.conn()).await?;
        self.phase = Phase::Ended;
        Ok(())
    }
}

impl Drop for PooledTx {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        match self.phase {
            Phase::Ended => {}
            Phase::Open => {
                PgTransactionManager::start_rollback(&mut connection);
                let returning = connection.return_to_pool();
                tokio::spawn(tokio::time::timeout(RETURN_TIMEOUT, returning));
            }
            Phase::Opening => {
                tokio::spawn(end_opening(connection));
            }
        }
    }
}

/// Ends a transaction whose opening was interrupted. Only a connection that confirms
/// the rollback goes to the next user.
async fn end_opening(mut connection: PoolConnection<Postgres>) {
    let ending = tokio::time::timeout(RETURN_TIMEOUT, connection.execute("ROLLBACK"));
    if !matches!(ending.await, Ok(Ok(_))) {
        connection.close_on_drop();
    }
}

/// Marks errors of the opening statements themselves; an outage stays what it is.
fn refused_opening(error: sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::Database(_) if !super::is_outage(&error) => {
            sqlx::Error::Configuration(Box::new(OpeningRefused(error)))
        }
        error => error,
    }
}

/// The database's own error if a transaction could not be opened; other errors
/// unchanged.
pub fn opening_refusal(error: sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::Configuration(cause) => match cause.downcast::<OpeningRefused>() {
            Ok(refused) => refused.0,
            Err(cause) => sqlx::Error::Configuration(cause),
        },
        error => error,
    }
}

/// A transaction of background work across organizations: billing_worker, with no
/// organization set.
pub struct WorkerTx(PooledTx);

impl WorkerTx {
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let opening = "BEGIN; SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = ''";
        PooledTx::begin(pool, opening.into_sql_str())
            .await
            .map(Self)
    }

    /// For work on many organizations at once, which waits for none longer than
    /// `lock_timeout` (in PostgreSQL's format).
    pub async fn begin_impatient(
        pool: &PgPool,
        lock_timeout: &'static str,
    ) -> Result<Self, sqlx::Error> {
        let opening = format!(
            "BEGIN; SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = ''; \
             SET LOCAL lock_timeout = '{lock_timeout}'"
        );
        PooledTx::begin(pool, AssertSqlSafe(opening).into_sql_str())
            .await
            .map(Self)
    }

    /// For claiming the head of a queue.
    pub async fn begin_claim(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let opening = format!(
            "BEGIN; SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = ''; {}",
            planner::HEAD_OF_QUEUE
        );
        PooledTx::begin(pool, AssertSqlSafe(opening).into_sql_str())
            .await
            .map(Self)
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        self.0.conn()
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }

    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.0.rollback().await
    }
}

impl WriteTx for WorkerTx {
    fn conn(&mut self) -> &mut PgConnection {
        self.0.conn()
    }

    fn after_commit(&mut self, work: impl FnOnce() + Send + 'static) {
        self.0.after_commit.push(Box::new(work));
    }
}

/// A transaction of one organization's work: billing_worker, confined to it.
pub struct TenantTx {
    tx: PooledTx,
    organization_id: Uuid,
}

impl TenantTx {
    pub async fn begin(pool: &PgPool, organization_id: Uuid) -> Result<Self, sqlx::Error> {
        // A uuid prints as hexadecimal digits and hyphens only.
        let opening = format!(
            "BEGIN; SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = '{organization_id}'"
        );
        let tx = PooledTx::begin(pool, AssertSqlSafe(opening).into_sql_str()).await?;
        Ok(Self {
            tx,
            organization_id,
        })
    }

    pub fn organization_id(&self) -> Uuid {
        self.organization_id
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        self.tx.conn()
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.tx.commit().await
    }
}

impl WriteTx for TenantTx {
    fn conn(&mut self) -> &mut PgConnection {
        self.tx.conn()
    }

    fn after_commit(&mut self, work: impl FnOnce() + Send + 'static) {
        self.tx.after_commit.push(Box::new(work));
    }
}

/// A transaction of a reading request: billing_app, which sees only its
/// organization's rows.
pub struct RequestTx {
    tx: PooledTx,
    organization_id: Uuid,
}

impl RequestTx {
    pub async fn begin(pool: &PgPool, organization_id: Uuid) -> Result<Self, sqlx::Error> {
        let opening = format!(
            "BEGIN READ ONLY; SET LOCAL ROLE billing_app; SET LOCAL app.current_org_id = '{organization_id}'"
        );
        let tx = PooledTx::begin(pool, AssertSqlSafe(opening).into_sql_str()).await?;
        Ok(Self {
            tx,
            organization_id,
        })
    }

    pub fn organization_id(&self) -> Uuid {
        self.organization_id
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        self.tx.conn()
    }
}
