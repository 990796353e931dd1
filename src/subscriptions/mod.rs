//! Subscriptions: an organization's current state, the price of a change, and
//! the changes themselves.
//!
//! `command::decide` turns a command into one action in Stripe; preview and
//! change share it. `preview` prices the action, through Stripe or the local
//! engine, and `preview::token` seals the quote that was shown. `change` is a
//! saga: record the intent, call Stripe, mirror the outcome; recovery completes
//! what a crash left open.
//!
//! Nothing here writes a mirrored row: `projection` does.

mod acts;
mod asked_addons;
mod awaited;
mod background;
mod call_off;
mod cancellation;
mod cards;
mod change;
pub mod checkout;
mod command;
mod coupons;
mod customer;
mod discounts;
mod doubles;
mod extras;
mod failure;
pub mod import;
mod migrate;
mod mirror;
mod missing;
mod operator;
mod past_due;
mod payer;
mod pending;
mod pending_view;
mod preview;
mod prices;
mod promotion;
mod reconcile;
mod refunds;
pub mod routes;
mod selection;
mod state;
mod store;
mod trials;
mod upcoming;
mod usage_charges;
mod view;

use std::sync::Arc;

use sqlx::postgres::PgPool;
use uuid::Uuid;

pub use acts::{Outcome, change_beside_payer, change_detached};
pub use awaited::{ActionRequired, NextAction};
pub use background::{CHECK_EVERY, SETTLE_EVERY};
pub use cancellation::Said;
pub use cards::CardFailure;
pub use change::record::audit_actions;
pub use change::saga::Requester;
pub use command::{CancellationDetails, ChangeRejection, Command, StripeAction, decide};
pub use discounts::DiscountView;
pub use doubles::{Doubles, Looked, Several, Surplus};
pub use failure::Failure;
pub use migrate::{Candidate, Migration, Moved};
pub use mirror::StripeSnapshot;
pub use past_due::sweep as sweep_past_due;
pub use payer::SetupStarted;
pub use pending::{PendingChange, PendingWhen};
pub use pending_view::PendingChangeView;
pub use preview::{Line, Preview, PreviewUnavailable, Pricing, QuotaChange, Source};
pub use reconcile::{
    CompareError, Compared, Difference, Drift, DriftKind, Healing, Reconciliation, Verdict,
};
pub use selection::{AskedAddons, Quantities, Selection};
pub use state::{Item, SubscriptionRow, SubscriptionState};
pub use store::findings::{Findings, VanishedPlans, check_vanished, findings};
pub use upcoming::Upcoming;
pub use view::SubscriptionView;

use crate::catalogue::Catalogue;
use crate::db::RequestTx;
use crate::metering::charges::{self, OverageLookup};
use crate::stripe::client::Client;
use change::locks::OrganizationLocks;
use preview::quotes::PreviewLookup;
use preview::token::Sealer;
use prices::Prices;

/// The use cases and their dependencies. Clones share them.
#[derive(Clone)]
pub struct Subscriptions {
    pool: PgPool,
    catalogue: Arc<Catalogue>,
    /// `None` if no Stripe key is configured.
    stripe: Option<Client>,
    sealer: Sealer,
    preview_lookup: PreviewLookup,
    overage_lookup: OverageLookup,
    prices: Prices,
    locks: OrganizationLocks,
    comparisons: Arc<reconcile::Comparisons>,
}

impl Subscriptions {
    /// The connections of `lookups` have the role billing_worker from the start.
    pub fn new(
        pool: PgPool,
        lookups: PgPool,
        catalogue: Arc<Catalogue>,
        stripe: Option<Client>,
    ) -> Self {
        Self {
            sealer: Sealer::new(pool.clone()),
            preview_lookup: preview::quotes::preview_lookup(
                lookups.clone(),
                catalogue.clone(),
                stripe.is_none(),
            ),
            overage_lookup: charges::overage_lookup(lookups, catalogue.clone()),
            pool,
            catalogue,
            stripe,
            prices: Prices::default(),
            locks: OrganizationLocks::default(),
            comparisons: Arc::default(),
        }
    }

    /// The organization's plan and subscriptions.
    pub async fn state(&self, organization_id: Uuid) -> Result<SubscriptionState, Failure> {
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        store::states(tx.conn(), &[organization_id], &self.catalogue)
            .await?
            .remove(&organization_id)
            .ok_or(Failure::NoOrganization)
    }

    /// The organization's plan and subscriptions, with the discounts in force.
    pub async fn current(
        &self,
        organization_id: Uuid,
    ) -> Result<(SubscriptionState, Vec<DiscountView>), Failure> {
        let state = self.state(organization_id).await?;
        let discounts = self.discounts_in_force(organization_id, &state).await?;
        Ok((state, discounts))
    }
}
