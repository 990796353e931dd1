//! Reads what organizations have, many in one query. Nothing is cached, so that
//! a change holds from the next request on.

use std::sync::Arc;

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::effective::Values;
use super::store;
use crate::batch::lookup::Grouped;
use crate::db;
use crate::server::problem::Problem;

/// The batched lookup of features.
#[derive(Clone)]
pub struct Lookup(Grouped<Uuid, Arc<Values>>);

impl Lookup {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        Self(Grouped::new(move |organizations| {
            let pool = pool.clone();
            Box::pin(async move {
                let mut conn = db::acquire(&pool).await?;
                store::values(&mut conn, &organizations).await
            })
        }))
    }

    /// What an organization has now.
    pub async fn find(&self, organization_id: Uuid) -> Result<Arc<Values>, Problem> {
        let found = self.0.find(organization_id).await;
        let found = found.map_err(|error| Problem::from(&*error))?;
        Ok(found.unwrap_or_default())
    }
}
