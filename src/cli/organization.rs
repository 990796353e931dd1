//! The organization that a command names, by our id or the product's own.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::Failure;
use crate::db::WorkerTx;
use crate::tenancy::organizations;

/// The organization's id.
pub async fn found(pool: &PgPool, named: &str) -> Result<Uuid, Failure> {
    let mut tx = WorkerTx::begin(pool).await?;
    let found = organizations::find(tx.conn(), named).await?;
    tx.rollback().await?;
    found.ok_or_else(|| unknown(named))
}

/// The same for a command that may name none.
pub async fn found_if_named(pool: &PgPool, named: Option<&str>) -> Result<Option<Uuid>, Failure> {
    match named {
        Some(named) => found(pool, named).await.map(Some),
        None => Ok(None),
    }
}

pub fn unknown(named: &str) -> Failure {
    Failure::failed(format!(
        "organization {named:?} not found; `organizations list` shows them"
    ))
}
