//! What handlers that read share.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::pagination::cursor::Cursors;
use crate::db::RequestTx;
use crate::server::problem::Problem;

/// The state of the routes that read.
#[derive(Clone)]
pub struct Shared {
    pub pool: PgPool,
    pub cursors: Cursors,
}

impl Shared {
    pub fn new(pool: PgPool) -> Self {
        let cursors = Cursors::new(pool.clone());
        Self { pool, cursors }
    }

    /// A transaction that sees the caller's organization only.
    pub async fn read(&self, organization_id: Uuid) -> Result<RequestTx, Problem> {
        Ok(RequestTx::begin(&self.pool, organization_id).await?)
    }
}
