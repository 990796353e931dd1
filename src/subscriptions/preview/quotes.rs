//! Makes previews, and checks that a change still costs what was quoted.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::stripe::{self, Switch};
use super::token::Quote;
use super::{Preview, PreviewUnavailable, Pricing, Sealed, Source, local};
use crate::batch::lookup::Grouped;
use crate::catalogue::{Catalogue, Plan};
use crate::db::WorkerTx;
use crate::projection;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::subscriptions::command::{Command, StripeAction, decide};
use crate::subscriptions::extras::Extras;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::StripePresence;
use crate::subscriptions::state::{SubscriptionRow, SubscriptionState};
use crate::subscriptions::{Subscriptions, promotion, store};

/// Batched reads for previews: an organization's state, and whether its
/// subscription was ever updated.
pub(in crate::subscriptions) type PreviewLookup = Grouped<Uuid, (SubscriptionState, bool)>;

pub(in crate::subscriptions) fn preview_lookup(
    pool: PgPool,
    catalogue: Arc<Catalogue>,
) -> PreviewLookup {
    Grouped::new(move |organizations| {
        let (pool, catalogue) = (pool.clone(), catalogue.clone());
        Box::pin(async move {
            let mut conn = pool.acquire().await?;
            let states = store::states(&mut conn, &organizations, &catalogue).await?;
            let subscription: Vec<(Uuid, &str)> = states
                .iter()
                .filter_map(|(id, state)| Some((*id, &*state.subscription.as_ref()?.id)))
                .collect();
            let updated = projection::updated(&mut conn, &subscription).await?;
            let found = states
                .into_iter()
                .map(|(id, state)| (id, (state, updated.contains(&id))));
            Ok(found.collect())
        })
    })
}

/// Two refreshes: one may find that the subscription has ended, the next that
/// its customer was deleted.
const MAX_REFRESHES: u32 = 2;

impl Subscriptions {
    /// What a change to the plan `tier` would cost at `now`, with a promotion code if one
    /// is given.
    pub async fn preview(
        &self,
        organization_id: Uuid,
        tier: &str,
        promotion_code: Option<&str>,
        now: Timestamp,
    ) -> Result<Preview, Failure> {
        let promotion_code = promotion_code.map(promotion::check_text).transpose()?;
        let command = Command::Change {
            tier,
            promotion_code,
        };
        let mut refreshes = 0;
        let (state, pricing) = loop {
            match self.price(organization_id, command, now).await {
                // Our state of the customer or subscription may be out of date.
                Err(Failure::Stripe(error))
                    if refreshes < MAX_REFRESHES
                        && matches!(
                            error.kind,
                            ErrorKind::NotFound | ErrorKind::InvalidRequest
                        ) =>
                {
                    refreshes += 1;
                    self.investigate_missing(organization_id, &error).await?;
                }
                priced => break priced?,
            }
        };
        let new = self.plan_after(tier)?;
        let expires_at = pricing.expires_at(now);
        let quote = Quote {
            organization_id,
            plan_tier: tier.to_owned(),
            promotion_code: promotion_code.map(str::to_owned),
            subscription: state
                .subscription
                .as_ref()
                .map(SubscriptionRow::fingerprint),
            catalogue: self.catalogue.version().to_owned(),
            effective_at: pricing.effective_at,
            currency: pricing.currency.clone(),
            prorated_amount: pricing.prorated_amount,
            due_now_amount: pricing.due_now_amount,
            next_invoice_amount: pricing.next_invoice_amount,
            expires_at,
        };
        let sealed = Sealed {
            token: self.sealer.seal(&quote).await?,
            expires_at,
            promotion_code: quote.promotion_code,
        };
        let current = self.terms_of(&state).await?;
        let current = (state.plan_tier.as_str(), current.as_ref());
        Ok(pricing.into_preview(current, new, sealed))
    }

    /// The organization's state and the price of the change.
    async fn price(
        &self,
        organization_id: Uuid,
        command: Command<'_>,
        now: Timestamp,
    ) -> Result<(SubscriptionState, Pricing), Failure> {
        let found = self.preview_lookup.find(organization_id).await?;
        let (state, was_updated) = found.ok_or(Failure::NoOrganization)?;
        let action = decide(&state, &self.catalogue, command)?;
        let customer = state.customer_id.as_deref();
        let code = command.promotion_code();
        let pricing = match &self.stripe {
            Some(client) => {
                let extras = self
                    .extras(Some(client), organization_id, &state, &action, code)
                    .await?;
                self.price_with_stripe(client, &action, &extras, customer, None, now)
                    .await?
            }
            None if code.is_some() => {
                return Err(PreviewUnavailable::StripeOnly("would redeem a promotion code").into());
            }
            None => {
                self.price_locally(organization_id, &state, &action, was_updated, now)
                    .await?
            }
        };
        Ok((state, pricing))
    }

    /// Stripe lacks an object of the preview: the customer may have been deleted,
    /// and the subscription with it.
    async fn investigate_missing(
        &self,
        organization_id: Uuid,
        error: &StripeError,
    ) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        match self.refresh_from_stripe(client, organization_id).await? {
            StripePresence::Missing(id) => Err(Failure::SubscriptionMissing(id)),
            StripePresence::Present if error.is_missing_customer() => {
                self.check_customer(client, organization_id).await
            }
            StripePresence::Present => Ok(()),
        }
    }

    /// The terms that the organization has now.
    async fn terms_of(&self, state: &SubscriptionState) -> Result<Option<Plan>, Failure> {
        let (tier, version) = (&state.plan_tier, state.plan_version);
        if let Some(known) = self.catalogue.known_terms(tier, version) {
            return Ok(Some(known));
        }
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue.read_versions(tx.conn()).await?;
        tx.commit().await?;
        Ok(self.catalogue.terms(tier, version))
    }

    fn plan_after(&self, tier: &str) -> Result<&Plan, Failure> {
        let plan = self.catalogue.plan(tier);
        plan.ok_or(Failure::Unexpected("the plan is gone"))
    }

    /// Prices `action` with the local engine.
    async fn price_locally(
        &self,
        organization_id: Uuid,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
        was_updated: bool,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        if let StripeAction::Create { .. } | StripeAction::Switch { .. } = action {
            if state.customer_discounted {
                return Err(PreviewUnavailable::StripeOnly("has a discount").into());
            }
            if self.catalogue.automatic_tax() {
                return Err(PreviewUnavailable::StripeOnly("is taxed").into());
            }
        }
        Ok(match action {
            StripeAction::Create { plan, .. } => local::of_creation(plan, now)?,
            StripeAction::Switch {
                subscription, plan, ..
            } => {
                if was_updated {
                    self.check_unchanged(organization_id, subscription).await?;
                }
                local::of_switch(subscription, &self.catalogue, plan, now)?
            }
            StripeAction::Redeem { subscription }
            | StripeAction::EndWithPeriod { subscription }
            | StripeAction::EndNow { subscription }
            | StripeAction::Keep { subscription }
            | StripeAction::Nothing { subscription } => {
                super::of_end(&self.catalogue, subscription, now)
            }
        })
    }

    /// Has Stripe price `action` as of `at`; by default, as of the customer's
    /// current time.
    pub(in crate::subscriptions) async fn price_with_stripe(
        &self,
        client: &Client,
        action: &StripeAction<'_>,
        extras: &Extras,
        customer_id: Option<&str>,
        at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        let priced = self.ask_stripe(client, action, extras, customer_id, at, now);
        match (priced.await, &extras.redemption) {
            (Err(failure), Some(_)) => Err(promotion::refusal(failure)),
            (priced, _) => priced,
        }
    }

    async fn ask_stripe(
        &self,
        client: &Client,
        action: &StripeAction<'_>,
        extras: &Extras,
        customer_id: Option<&str>,
        at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        match action {
            // Stripe does not know the customer yet: use the catalogue's price.
            StripeAction::Create { plan, .. }
                if customer_id.is_none() && !extras.plays_a_part() =>
            {
                Ok(local::of_creation(plan, now)?)
            }
            StripeAction::Create { plan, .. } => {
                let prices = self.prices_of(client, plan, None).await?;
                let catalogue = &self.catalogue;
                stripe::of_creation(client, catalogue, customer_id, plan, &prices, extras).await
            }
            StripeAction::Switch {
                subscription,
                plan,
                version,
            } => {
                let prices = self.prices_of(client, plan, *version).await?;
                let at = match at {
                    Some(at) => at,
                    None => self.time_of(client, subscription).await?,
                };
                let switch = Switch::new(subscription, &self.catalogue, plan, &prices, at)
                    .ok_or(crate::subscriptions::ChangeRejection::UnknownItems)?;
                stripe::of_switch(client, &switch, extras).await
            }
            StripeAction::Redeem { subscription } => {
                let at = match at {
                    Some(at) => at,
                    None => self.time_of(client, subscription).await?,
                };
                stripe::of_redemption(client, &self.catalogue, subscription, at, extras).await
            }
            StripeAction::EndWithPeriod { subscription } => {
                let pricing = super::of_end(&self.catalogue, subscription, now);
                stripe::of_end(client, &self.catalogue, subscription, pricing).await
            }
            StripeAction::EndNow { subscription }
            | StripeAction::Keep { subscription }
            | StripeAction::Nothing { subscription } => Ok(Pricing {
                source: Source::Stripe,
                ..super::of_end(&self.catalogue, subscription, now)
            }),
        }
    }

    /// Opens a token. One that is not ours is treated as expired.
    pub(in crate::subscriptions) async fn open(&self, token: &str) -> Result<Quote, Failure> {
        self.sealer.open(token).await?.ok_or(Failure::Stale(
            "the preview token was not issued by this service",
        ))
    }

    /// Checks that the state is still the one that was quoted.
    pub(in crate::subscriptions) fn check_state(
        &self,
        quote: &Quote,
        organization_id: Uuid,
        state: &SubscriptionState,
        command: Command<'_>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let quoted = quote.promotion_code.as_deref();
        let is_same_code = |code: Option<&str>| match (code.map(str::trim), quoted) {
            (Some(code), Some(quoted)) => code.eq_ignore_ascii_case(quoted),
            (code, quoted) => code == quoted,
        };
        let is_same_change = matches!(
            command,
            Command::Change { tier, promotion_code }
                if tier == quote.plan_tier && is_same_code(promotion_code)
        );
        let subscription = state.subscription.as_ref();
        let problem = if quote.organization_id != organization_id || !is_same_change {
            "the preview was of another change"
        } else if quote.expires_at <= now {
            "the preview has expired"
        } else if quote.catalogue != self.catalogue.version() {
            "the plans have changed since the preview"
        } else if quote.subscription != subscription.map(SubscriptionRow::fingerprint) {
            "the subscription has changed since the preview"
        } else {
            return Ok(());
        };
        Err(Failure::Stale(problem))
    }

    /// Checks that Stripe would still charge what was quoted.
    pub(in crate::subscriptions) async fn check_price(
        &self,
        client: &Client,
        quote: &Quote,
        action: &StripeAction<'_>,
        extras: &Extras,
        customer_id: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let at = Some(quote.effective_at);
        let pricing = self
            .price_with_stripe(client, action, extras, customer_id, at, now)
            .await?;
        if pricing.matches(quote) {
            Ok(())
        } else {
            Err(Failure::Stale("Stripe would charge another amount by now"))
        }
    }

    /// Only Stripe knows what an earlier change in the same period has left to
    /// be invoiced.
    async fn check_unchanged(
        &self,
        organization_id: Uuid,
        subscription: &SubscriptionRow,
    ) -> Result<(), Failure> {
        let Some(since) = subscription.period_start else {
            return Ok(());
        };
        let mut tx = crate::db::TenantTx::begin(&self.pool, organization_id).await?;
        let repriced =
            projection::repriced_since(tx.conn(), organization_id, &subscription.id, since).await?;
        if repriced {
            return Err(
                PreviewUnavailable::StripeOnly("was already changed in this period").into(),
            );
        }
        Ok(())
    }
}
