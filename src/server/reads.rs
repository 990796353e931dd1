//! What handlers that read share.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::pagination::cursor::Cursors;
use super::pagination::page::{ListQuery, Listed, PageRequest};
use crate::db::RequestTx;
use crate::server::problem::Problem;

/// The state of the routes that read.
#[derive(Clone)]
pub struct Shared {
    pub pool: PgPool,
    cursors: Cursors,
}

impl Shared {
    pub fn new(pool: PgPool) -> Self {
        let cursors = Cursors::new(pool.clone());
        Self { pool, cursors }
    }

    /// The page of an organization's list that `query` asks for; nil for lists of all
    /// organizations.
    pub async fn page<T: Listed>(
        &self,
        organization_id: Uuid,
        list: &'static str,
        query: &impl ListQuery,
    ) -> Result<PageRequest<T>, Problem> {
        let filters = query.filters();
        let cursors = self.cursors.of(organization_id, list, &filters).await?;
        PageRequest::new(cursors, query)
    }

    /// A transaction that sees the caller's organization only.
    pub async fn read(&self, organization_id: Uuid) -> Result<RequestTx, Problem> {
        Ok(RequestTx::begin(&self.pool, organization_id).await?)
    }
}
