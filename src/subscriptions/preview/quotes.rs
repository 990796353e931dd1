//! Makes previews, and checks that a change still costs what was quoted.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::stripe;
use super::switch::Switch;
use super::token::Quote;
use super::{Preview, Previewed, Pricing, Source, later, local};
use crate::batch::lookup::Grouped;
use crate::catalogue::{Catalogue, Plan, When};
use crate::db::WorkerTx;
use crate::projection;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::subscriptions::command::{Command, StripeAction, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::StripePresence;
use crate::subscriptions::prices::SwitchTo;
use crate::subscriptions::selection::Selection;
use crate::subscriptions::state::{SubscriptionRow, SubscriptionState};
use crate::subscriptions::usage_charges::Telling;
use crate::subscriptions::{Subscriptions, store};

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
    /// What a change to the plan that is selected would cost at `now`.
    pub async fn preview<'a>(
        &self,
        organization_id: Uuid,
        selection: impl Into<Selection<'a>>,
        when: Option<When>,
        now: Timestamp,
    ) -> Result<Preview, Failure> {
        let selection = selection.into();
        let mut refreshes = 0;
        let (state, new, pricing) = loop {
            match self.price(organization_id, selection, when, now).await {
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
        let expires_at = pricing.expires_at(now);
        let quote = Quote {
            organization_id,
            plan_tier: selection.tier.to_owned(),
            interval: new.asked,
            quantity: new.quantity,
            when: new.when,
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
            usage: pricing.usage.clone(),
            expires_at,
        };
        let token = self.sealer.seal(&quote).await?;
        let current = self.terms_of(&state).await?;
        let current = (state.plan_tier.as_str(), current.as_ref());
        let subscription = state.subscription.as_ref();
        let pending = subscription.and_then(|one| one.pending.clone());
        Ok(pricing.into_preview(current, &new, pending, token, expires_at))
    }

    /// The organization's state, and what the change comes to and costs.
    async fn price(
        &self,
        organization_id: Uuid,
        selection: Selection<'_>,
        when: Option<When>,
        now: Timestamp,
    ) -> Result<(SubscriptionState, Previewed, Pricing), Failure> {
        let found = self.preview_lookup.find(organization_id).await?;
        let (state, was_updated) = found.ok_or(Failure::NoOrganization)?;
        self.recall_terms(&state).await?;
        let command = Command::Change { selection, when };
        let action = decide(&state, &self.catalogue, command)?;
        self.check_seats(organization_id, &action).await?;
        let customer = state.customer_id.as_deref();
        let pricing = match &self.stripe {
            Some(client) => {
                self.price_with_stripe(client, organization_id, &action, customer, None, now)
                    .await?
            }
            None => {
                self.price_locally(organization_id, &action, was_updated, now)
                    .await?
            }
        };
        let new = self.previewed(selection, &action)?;
        Ok((state, new, pricing))
    }

    /// What a change comes to. What was asked for is part of the quote, even where it
    /// makes no difference.
    fn previewed(
        &self,
        selection: Selection<'_>,
        action: &StripeAction<'_>,
    ) -> Result<Previewed, Failure> {
        let (plan, interval, seats) = match action {
            StripeAction::Create {
                plan, quantities, ..
            } => {
                let plan = plan.as_ref().clone();
                let interval = plan.price.interval;
                (plan, Some(interval), quantities.seats)
            }
            StripeAction::Switch {
                subscription,
                plan,
                quantities,
                keeps_prices,
                ..
            }
            | StripeAction::SwitchLater {
                subscription,
                plan,
                quantities,
                keeps_prices,
                ..
            } => {
                let fee = subscription.base_item(&self.catalogue);
                let interval = match keeps_prices {
                    true => fee.and_then(|(item, _)| item.plan_interval()),
                    false => Some(plan.price.interval),
                };
                (plan.as_ref().clone(), interval, quantities.seats)
            }
            StripeAction::EndWithPeriod { .. }
            | StripeAction::EndNow { .. }
            | StripeAction::CallOff { .. }
            | StripeAction::Keep { .. }
            | StripeAction::Nothing { .. } => {
                let plan = self.catalogue.plan(selection.tier);
                let plan = plan.ok_or(Failure::Unexpected("the plan is gone"))?;
                (plan.clone(), None, None)
            }
        };
        let when = match action {
            StripeAction::Switch { .. } => Some(When::Now),
            StripeAction::SwitchLater { .. } => Some(When::PeriodEnd),
            _ => None,
        };
        // Where it is another plan that gets the seats, the interval is that plan's.
        let asked = match plan.tier == selection.tier {
            true => selection.interval.or(interval),
            false => selection.interval,
        };
        Ok(Previewed {
            asked,
            when,
            interval: interval.or(asked),
            quantity: selection.quantity.or(seats.map(u64::from)),
            plan,
        })
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

    /// The terms that the organization has now, as it pays them.
    async fn terms_of(&self, state: &SubscriptionState) -> Result<Option<Plan>, Failure> {
        self.recall_terms(state).await?;
        let terms = self.catalogue.terms(&state.plan_tier, state.plan_version);
        let bought = &state.bought;
        Ok(terms.map(|terms| {
            terms
                .paid_in(bought.currency.as_deref(), bought.interval)
                .with_seats(bought.seats)
        }))
    }

    /// Reads the versions that `state` has, unless this process knows them.
    pub(in crate::subscriptions) async fn recall_terms(
        &self,
        state: &SubscriptionState,
    ) -> Result<(), Failure> {
        let subscription = state.subscription.as_ref();
        let held = subscription.and_then(|one| Some((one.plan_tier.as_deref()?, one.plan_version)));
        let of_plan = (state.plan_tier.as_str(), state.plan_version);
        let is_known = |(tier, version): (&str, Option<i32>)| {
            self.catalogue.plan(tier).is_none()
                || self.catalogue.known_terms(tier, version).is_some()
        };
        if is_known(of_plan) && held.is_none_or(is_known) {
            return Ok(());
        }
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue.read_versions(tx.conn()).await?;
        Ok(tx.commit().await?)
    }

    /// Prices `action` with the local engine.
    async fn price_locally(
        &self,
        organization_id: Uuid,
        action: &StripeAction<'_>,
        was_updated: bool,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        Ok(match action {
            StripeAction::Create {
                plan, quantities, ..
            } => local::of_creation(plan, *quantities, now)?,
            StripeAction::Switch { subscription, .. } => {
                if was_updated {
                    self.check_unchanged(organization_id, subscription).await?;
                }
                let switch = SwitchTo::of(action).ok_or(Failure::Unexpected("no switch"))?;
                let pricing = local::of_switch(subscription, &self.catalogue, switch, now)?;
                self.with_local_usage(organization_id, subscription, switch, pricing)
                    .await?
            }
            StripeAction::SwitchLater { subscription, .. } => {
                if was_updated {
                    self.check_unchanged(organization_id, subscription).await?;
                }
                let switch = SwitchTo::of(action).ok_or(Failure::Unexpected("no switch"))?;
                local::of_switch_later(subscription, &self.catalogue, switch, now)?
            }
            StripeAction::EndWithPeriod { subscription, .. }
            | StripeAction::EndNow { subscription, .. }
            | StripeAction::CallOff { subscription, .. }
            | StripeAction::Keep { subscription }
            | StripeAction::Nothing { subscription } => {
                super::of_end(&self.catalogue, subscription, now)?
            }
        })
    }

    /// Has Stripe price `action` as it was quoted; by default, as of the customer's
    /// current time.
    pub(in crate::subscriptions) async fn price_with_stripe(
        &self,
        client: &Client,
        organization_id: Uuid,
        action: &StripeAction<'_>,
        customer_id: Option<&str>,
        quote: Option<&Quote>,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        match action {
            StripeAction::Create {
                plan, quantities, ..
            } => {
                let Some(customer_id) = customer_id else {
                    // Stripe does not know the customer yet: use the catalogue's price.
                    return Ok(local::of_creation(plan, *quantities, now)?);
                };
                let prices = self.prices_of(client, plan, None).await?;
                stripe::of_creation(client, customer_id, plan, &prices, *quantities).await
            }
            StripeAction::Switch { subscription, .. } => {
                let switch = SwitchTo::of(action).ok_or(Failure::Unexpected("no switch"))?;
                let prices = self.prices_after(client, subscription, switch).await?;
                let at = match quote {
                    Some(quote) => quote.effective_at,
                    None => self.time_of(client, subscription).await?,
                };
                let switch = Switch::new(subscription, &self.catalogue, switch, &prices, at)
                    .ok_or(crate::subscriptions::ChangeRejection::UnknownItems)?;
                let switch = self
                    .with_usage(client, organization_id, switch, quote, Telling::Tell)
                    .await?;
                stripe::of_switch(client, &switch).await
            }
            StripeAction::SwitchLater { subscription, .. } => {
                use crate::subscriptions::ChangeRejection;
                let switch = SwitchTo::of(action).ok_or(Failure::Unexpected("no switch"))?;
                let prices = self.prices_after(client, subscription, switch).await?;
                let at = subscription.period_end.ok_or(ChangeRejection::NoPeriod)?;
                let switch = Switch::new(subscription, &self.catalogue, switch, &prices, at)
                    .ok_or(ChangeRejection::UnknownItems)?;
                later::of_switch(client, &switch.at_period_end()).await
            }
            StripeAction::EndWithPeriod { subscription, .. } => {
                let pricing = super::of_end(&self.catalogue, subscription, now)?;
                stripe::of_end(client, subscription, pricing).await
            }
            StripeAction::EndNow { subscription, .. }
            | StripeAction::CallOff { subscription, .. }
            | StripeAction::Keep { subscription }
            | StripeAction::Nothing { subscription } => Ok(Pricing {
                source: Source::Stripe,
                ..super::of_end(&self.catalogue, subscription, now)?
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
        let is_quoted =
            |selection: Selection<'_>| selection == Selection::quoted(quote, selection.currency);
        let is_same_change = match command {
            Command::Change { selection, when } => {
                is_quoted(selection) && (quote.when.is_none() || when == quote.when)
            }
            // No preview is of a trial.
            Command::Subscribe {
                selection,
                trial_days,
            } => is_quoted(selection) && trial_days == 0,
            _ => false,
        };
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
        customer_id: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let pricing = self
            .price_with_stripe(
                client,
                quote.organization_id,
                action,
                customer_id,
                Some(quote),
                now,
            )
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
            return Err(crate::subscriptions::PreviewUnavailable::StripeOnly(
                "was already changed in this period",
            )
            .into());
        }
        Ok(())
    }
}
