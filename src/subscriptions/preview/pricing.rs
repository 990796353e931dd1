//! Who says what a change costs: Stripe, or the local engine where there is no key.

use jiff::Timestamp;
use uuid::Uuid;

use super::switch::Switch;
use super::token::Quote;
use super::{PreviewUnavailable, Pricing, Source, later, local, stripe, switched};
use crate::metering::reports::Overage;
use crate::projection;
use crate::stripe::client::Client;
use crate::subscriptions::change::call::check_flexible;
use crate::subscriptions::command::{ChangeRejection, StripeAction};
use crate::subscriptions::extras::Extras;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::{PlanPrices, SwitchTo};
use crate::subscriptions::state::{SubscriptionRow, SubscriptionState};
use crate::subscriptions::usage_charges::Telling;
use crate::subscriptions::{Subscriptions, promotion};

/// A change whose price is asked of Stripe.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub organization_id: Uuid,
    pub action: &'a StripeAction<'a>,
    pub extras: &'a Extras,
    /// `None` if Stripe does not know the customer yet.
    pub customer_id: Option<&'a str>,
}

/// What the local engine needs beside the state.
pub struct Locally {
    pub organization_id: Uuid,
    /// Whether the subscription was ever updated.
    pub was_updated: bool,
    pub overages: Vec<Overage>,
}

impl Subscriptions {
    /// Prices `action` with the local engine.
    pub(super) async fn price_locally(
        &self,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
        locally: Locally,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        let Locally {
            organization_id,
            was_updated,
            overages,
        } = locally;
        let (is_new, switch) = (
            matches!(action, StripeAction::Create { .. }),
            SwitchTo::of(action),
        );
        if state.customer_discounted && (is_new || switch.is_some()) {
            return Err(PreviewUnavailable::StripeOnly("has a discount").into());
        }
        if is_new && self.catalogue.automatic_tax() {
            return Err(PreviewUnavailable::StripeOnly("is taxed").into());
        }
        Ok(match (action, switch) {
            (
                StripeAction::Create {
                    plan,
                    quantities,
                    addons,
                    ..
                },
                _,
            ) => local::of_creation(&self.catalogue, plan, *quantities, addons, now)?,
            (StripeAction::Switch { subscription, .. }, Some(switch)) => {
                if was_updated {
                    self.check_unchanged(organization_id, subscription).await?;
                }
                let pricing = local::of_switch(subscription, &self.catalogue, switch, now)?;
                self.with_local_usage(overages, subscription, switch, pricing)
            }
            (StripeAction::SwitchLater { subscription, .. }, Some(switch)) => {
                if was_updated {
                    self.check_unchanged(organization_id, subscription).await?;
                }
                local::of_switch_later(subscription, &self.catalogue, switch, now)?
            }
            (
                StripeAction::Switch { subscription, .. }
                | StripeAction::SwitchLater { subscription, .. }
                | StripeAction::Redeem { subscription, .. }
                | StripeAction::EndWithPeriod { subscription, .. }
                | StripeAction::EndNow { subscription, .. }
                | StripeAction::CallOff { subscription, .. }
                | StripeAction::Withdraw { subscription, .. }
                | StripeAction::Keep { subscription }
                | StripeAction::Nothing { subscription },
                _,
            ) => super::of_end(&self.catalogue, subscription, now)?,
        })
    }

    /// Has Stripe price a change as it was quoted; by default, as of the customer's
    /// current time.
    pub(in crate::subscriptions) async fn price_with_stripe(
        &self,
        client: &Client,
        asked: Asked<'_>,
        quote: Option<&Quote>,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        let priced = self.ask_stripe(client, asked, quote, now).await;
        match (priced, &asked.extras.redemption) {
            (Err(failure), Some(_)) => Err(promotion::refusal(failure)),
            (priced, _) => priced,
        }
    }

    async fn ask_stripe(
        &self,
        client: &Client,
        asked: Asked<'_>,
        quote: Option<&Quote>,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        let (catalogue, extras) = (&self.catalogue, asked.extras);
        match asked.action {
            StripeAction::Create { .. } => self.creation(client, asked, now).await,
            StripeAction::Switch { subscription, .. } => {
                let (to, prices) = self.target(client, subscription, asked.action).await?;
                let at = match quote {
                    Some(quote) => quote.effective_at,
                    None => self.time_of(client, subscription).await?,
                };
                let switch = Switch::new(subscription, catalogue, to, &prices, at)
                    .ok_or(ChangeRejection::UnknownItems)?;
                check_flexible(&switch)?;
                let telling = Telling::Tell;
                let switch = self
                    .with_usage(client, asked.organization_id, switch, quote, telling)
                    .await?;
                switched::of_switch(client, &switch, extras).await
            }
            StripeAction::SwitchLater { subscription, .. } => {
                let (to, prices) = self.target(client, subscription, asked.action).await?;
                let at = subscription.period_end.ok_or(ChangeRejection::NoPeriod)?;
                let switch = Switch::new(subscription, catalogue, to, &prices, at)
                    .ok_or(ChangeRejection::UnknownItems)?;
                check_flexible(&switch)?;
                let code_ends = match extras.redeems_for_a_time() {
                    true => extras.code_ends(self.time_of(client, subscription).await?),
                    false => None,
                };
                later::of_switch(client, &switch.at_period_end(), extras, code_ends).await
            }
            StripeAction::Redeem { subscription, .. } => {
                let at = match quote {
                    Some(quote) => quote.effective_at,
                    None => self.time_of(client, subscription).await?,
                };
                stripe::of_redemption(client, catalogue, subscription, at, extras).await
            }
            StripeAction::EndWithPeriod { subscription, .. } => {
                let pricing = super::of_end(catalogue, subscription, now)?;
                stripe::of_end(client, catalogue, subscription, pricing).await
            }
            StripeAction::EndNow { subscription, .. }
            | StripeAction::CallOff { subscription, .. }
            | StripeAction::Withdraw { subscription, .. }
            | StripeAction::Keep { subscription }
            | StripeAction::Nothing { subscription } => Ok(Pricing {
                source: Source::Stripe,
                ..super::of_end(catalogue, subscription, now)?
            }),
        }
    }

    /// What a new subscription would cost.
    async fn creation(
        &self,
        client: &Client,
        asked: Asked<'_>,
        now: Timestamp,
    ) -> Result<Pricing, Failure> {
        let StripeAction::Create {
            plan,
            quantities,
            addons,
            ..
        } = asked.action
        else {
            return Err(Failure::Unexpected("no new subscription"));
        };
        let (catalogue, quantities) = (&self.catalogue, *quantities);
        // Stripe does not know the customer yet: use the catalogue's price.
        if asked.customer_id.is_none() && !asked.extras.plays_a_part() {
            let priced = local::of_creation(catalogue, plan, quantities, addons, now);
            return Ok(priced?);
        }
        let prices = self.prices_with(client, plan, None, addons).await?;
        let new = stripe::New {
            customer_id: asked.customer_id,
            plan,
            prices: &prices,
            quantities,
        };
        stripe::of_creation(client, catalogue, new, asked.extras).await
    }

    /// What `action` switches to, and the prices of that.
    async fn target<'a>(
        &self,
        client: &Client,
        subscription: &SubscriptionRow,
        action: &'a StripeAction<'_>,
    ) -> Result<(SwitchTo<'a>, PlanPrices), Failure> {
        let to = SwitchTo::of(action).ok_or(Failure::Unexpected("no switch"))?;
        let prices = self.prices_after(client, subscription, to).await?;
        Ok((to, prices))
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
