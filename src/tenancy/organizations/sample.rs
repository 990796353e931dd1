//! The organization that sample events are about: one of its own, so that no
//! customer's state ever comes from an event that Stripe did not send.

use sqlx::postgres::PgPool;
use uuid::{Uuid, uuid};

use super::{CreateError, Identity, NewOrganization, create_as, plan_tier, store};
use crate::catalogue::{Catalogue, FREE_TIER};
use crate::db::{self, WorkerTx};

/// The same on every deployment, so that two commands at once make one.
pub const ID: Uuid = uuid!("5a3b1e00-0000-7000-8000-000000000001");

const NAME: &str = "Sample events (nobody's: made by `webhooks trigger`)";

/// How far the sample organization's objects have come: the next events are
/// about those that are still open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub ended_subscriptions: i64,
    pub closed_invoices: i64,
    pub charges: i64,
}

/// Makes the organization if it is not there.
pub async fn ensure(pool: &PgPool, catalogue: &Catalogue) -> Result<(), CreateError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let there = plan_tier(tx.conn(), ID).await?.is_some();
    tx.rollback().await?;
    if there {
        return Ok(());
    }
    let new = NewOrganization {
        name: NAME.to_owned(),
        plan_tier: FREE_TIER.to_owned(),
        stripe_customer_id: None,
    };
    match create_as(pool, catalogue, ID, new, Identity::default()).await {
        // Another command was first.
        Err(CreateError::Database(error)) if db::is_duplicate(&error) => Ok(()),
        created => created.map(drop),
    }
}

pub async fn progress(pool: &PgPool) -> Result<Progress, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::sample_progress(tx.conn(), ID).await
}
