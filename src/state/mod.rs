//! Everything about an organization in one read: plan, subscription, features,
//! quotas, payment, with a version that every change of them raises.
//!
//! The version counts the entries of the organization's audit chain, which whatever changes
//! billing state appends in its transaction, and the few changes that are entered nowhere.
//! So what was read at a version holds as long as the version does, on every replica.

mod cache;
mod document;
pub mod routes;
mod store;
mod versions;

use std::sync::Arc;

use axum::body::Bytes;
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::server::problem::Problem;
use crate::subscriptions::Subscriptions;
use cache::{Cache, Read};
use versions::Versions;

/// How many states are read from their tables at once; others wait. Each takes a
/// connection that requests share.
const READS: usize = 3;
/// How often a state is read again that changes meanwhile.
const ATTEMPTS: usize = 4;

/// Reads states. Clones share what they remember.
#[derive(Clone)]
pub struct States(Arc<Inner>);

struct Inner {
    pool: PgPool,
    catalogue: Arc<Catalogue>,
    subscriptions: Subscriptions,
    versions: Versions,
    cache: Cache,
    reading: Semaphore,
}

impl States {
    /// The connections of `lookups` have the role billing_worker from the start. Nobody
    /// waits for a version once the service is told to `stop`.
    pub fn new(
        pool: PgPool,
        lookups: PgPool,
        catalogue: Arc<Catalogue>,
        subscriptions: Subscriptions,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            pool,
            catalogue,
            subscriptions,
            versions: Versions::new(lookups, stop),
            cache: Cache::default(),
            reading: Semaphore::new(READS),
        }))
    }

    /// The state as it is now, as `GET /api/billing/state` answers it.
    pub async fn document(&self, organization_id: Uuid) -> Result<Bytes, Problem> {
        let version = self.0.versions.now(organization_id).await?;
        Ok(self.at(organization_id, version).await?.body)
    }

    /// The state at `version`, which was just looked up, or at a newer one.
    async fn at(&self, organization_id: Uuid, version: i64) -> Result<Read, Problem> {
        let inner = &self.0;
        let known = || inner.cache.get(organization_id, version, Timestamp::now());
        if let Some(read) = known() {
            return Ok(read);
        }
        let _turn = inner.reading.acquire().await;
        // Others may have read it meanwhile.
        if let Some(read) = known() {
            return Ok(read);
        }
        let mut version = version;
        let mut attempts = 0;
        loop {
            let (document, now) = document::read(inner, organization_id, version).await?;
            attempts += 1;
            let read = Read::of(&document)?;
            if now == version {
                inner.cache.put(organization_id, read.clone());
                return Ok(read);
            }
            // Parts of it may be newer than the version, which is what a client expects
            // that asks for changes since; it is not kept.
            if attempts == ATTEMPTS {
                return Ok(read);
            }
            version = now;
        }
    }
}
