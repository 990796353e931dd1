//! The organization of sample events. It is separate, so that no customer's
//! state ever comes from an event that Stripe did not send.

use sqlx::postgres::PgPool;

use super::{AskedBy, CreateError, Identity, NewOrganization, create_with_id, plan_tier, store};
use crate::catalogue::{Catalogue, FREE_TIER};
use crate::db::{self, WorkerTx};

pub use crate::tenancy::SAMPLE as ID;

const NAME: &str = "Sample events (nobody's: made by `webhooks trigger`)";

/// The progress of the sample organization's objects; the next events are about
/// those still open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub ended_subscriptions: i64,
    pub closed_invoices: i64,
    pub charges: i64,
}

/// Creates the organization if it does not exist.
pub async fn ensure(pool: &PgPool, catalogue: &Catalogue) -> Result<(), CreateError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let exists = plan_tier(tx.conn(), ID).await?.is_some();
    tx.rollback().await?;
    if exists {
        return Ok(());
    }
    let new = NewOrganization {
        name: NAME.to_owned(),
        plan_tier: FREE_TIER.to_owned(),
        stripe_customer_id: None,
    };
    match create_with_id(
        pool,
        catalogue,
        ID,
        new,
        Identity::default(),
        &AskedBy::SYSTEM,
    )
    .await
    {
        // Another command was first.
        Err(CreateError::Database(error)) if db::is_duplicate(&error) => Ok(()),
        created => created.map(drop),
    }
}

pub async fn progress(pool: &PgPool) -> Result<Progress, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::sample_progress(tx.conn(), ID).await
}
