//! Subscriptions: what an organization has, what a change would cost, and the
//! changes themselves.
//!
//! `decide` says what a wish comes to, for the preview and the change alike.
//! `preview` prices it, by Stripe or by the local engine; `token` seals what was
//! shown. `changes` takes a wish to Stripe: entered in the ledger of requests,
//! then called (`carry_out`), then mirrored, all of it to be taken up by
//! whoever comes next if it stops half-way.

mod carry_out;
mod change;
mod changes;
mod customer;
mod decide;
mod failure;
mod missing;
mod preview;
mod previews;
mod prices;
mod reconcile;
mod recovery;
mod refresh;
pub mod routes;
mod standing;
mod store;
mod token;
mod turns;
mod upcoming;

use std::sync::Arc;

use sqlx::postgres::PgPool;
use uuid::Uuid;

pub use carry_out::Seen;
pub use change::audit_actions;
pub use changes::Caller;
pub use decide::{Refusal, Step, Wish, decide};
pub use failure::Failure;
pub use preview::{Line, Preview, QuotaChange, Quote, Source, Unknowable};
pub use reconcile::{Drift, DriftKind, Healing, Reconciliation};
pub use standing::{Held, Item, Standing};
pub use store::findings::{Findings, findings, vanished_plans};
pub use upcoming::Upcoming;

use crate::db::RequestTx;
use crate::plans::Catalogue;
use crate::stripe::client::Client;
use previews::Previewed;
use prices::Prices;
use token::Sealer;
use turns::Turns;

/// The use cases, and what they need. Clones share it.
#[derive(Clone)]
pub struct Subscriptions {
    pool: PgPool,
    catalogue: Arc<Catalogue>,
    /// None: no key is configured.
    stripe: Option<Client>,
    sealer: Sealer,
    previewed: Previewed,
    prices: Prices,
    turns: Turns,
}

impl Subscriptions {
    /// `lookups` has connections that are billing_worker from the start.
    pub fn new(
        pool: PgPool,
        lookups: PgPool,
        catalogue: Arc<Catalogue>,
        stripe: Option<Client>,
    ) -> Self {
        Self {
            sealer: Sealer::new(pool.clone()),
            previewed: previews::together(lookups, catalogue.clone()),
            pool,
            catalogue,
            stripe,
            prices: Prices::default(),
            turns: Turns::default(),
        }
    }

    /// What an organization has.
    pub async fn standing(&self, organization_id: Uuid) -> Result<Standing, Failure> {
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        store::standings(tx.conn(), &[organization_id], &self.catalogue)
            .await?
            .remove(&organization_id)
            .ok_or(Failure::NoOrganization)
    }
}
