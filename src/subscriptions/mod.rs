//! Subscriptions: what an organization has, what a change would cost, and the
//! changes themselves.
//!
//! `decide` says what a wish comes to, for the preview and the change alike.
//! `preview` prices it, by Stripe or by the local engine; `token` seals what was
//! shown. `changes` takes a wish to Stripe: entered in the ledger of requests,
//! then called (`carry_out`), then mirrored, all of it to be taken up by
//! whoever comes next if it stops half-way.

mod change;
mod command;
mod customer;
mod failure;
mod missing;
mod preview;
mod prices;
mod reconcile;
mod refresh;
pub mod routes;
mod state;
mod store;
mod upcoming;

use std::sync::Arc;

use sqlx::postgres::PgPool;
use uuid::Uuid;

pub use change::execute::Seen;
pub use change::record::audit_actions;
pub use change::saga::Caller;
pub use command::{Refusal, Step, Wish, decide};
pub use failure::Failure;
pub use preview::{Line, Preview, QuotaChange, Quote, Source, Unknowable};
pub use reconcile::{Drift, DriftKind, Healing, Reconciliation};
pub use state::{Held, Item, Standing};
pub use store::findings::{Findings, findings, vanished_plans};
pub use upcoming::Upcoming;

use crate::catalogue::Catalogue;
use crate::db::RequestTx;
use crate::stripe::client::Client;
use change::locks::Turns;
use preview::quotes::Previewed;
use preview::token::Sealer;
use prices::Prices;

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
            previewed: preview::quotes::together(lookups, catalogue.clone()),
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
