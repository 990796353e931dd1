//! The parameters of the call to Stripe that makes a change.

use super::ending::without_items;
use super::payer::{ERROR_IF_INCOMPLETE, PAYMENT_BEHAVIOR};
use super::saga::VERSION;
use super::schedule;
use crate::catalogue::Plan;
use crate::catalogue::versions::version_name;
use crate::metering::charges::UsageCharge;
use crate::stripe::client::{Client, Params, with_discounts};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::command::{ChangeRejection, StripeAction, change_pending};
use crate::subscriptions::extras::Extras;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::preview::Asked;
use crate::subscriptions::preview::stripe::items_of;
use crate::subscriptions::preview::switch::Switch;
use crate::subscriptions::preview::token::Quote;
use crate::subscriptions::prices::SwitchTo;
use crate::subscriptions::state::SubscriptionRow;
use crate::subscriptions::usage_charges::Telling;

/// The terms of a call to Stripe, without the change's id.
pub struct CallTerms {
    pub target_id: Option<String>,
    pub params: Params,
    /// What a change of prices charges for usage.
    pub usage: Option<Vec<UsageCharge>>,
    /// Whether the subscription must be in flexible billing first.
    pub flexible: bool,
}

/// A change of items as Stripe is asked for it.
struct SwitchCall {
    params: Params,
    usage: Vec<UsageCharge>,
    flexible: bool,
}

/// Whether the subscription must be in flexible billing before the change. One that has a
/// pending change stays as it is: its schedule was made for the billing that it has.
pub(in crate::subscriptions) fn check_flexible(
    switch: &Switch<'_>,
) -> Result<bool, ChangeRejection> {
    match &switch.subscription.pending {
        Some(pending) if switch.needs_flexible => Err(change_pending(pending)),
        _ => Ok(switch.needs_flexible),
    }
}

/// Adds the promotion code that a change redeems, and has Stripe show the discounts.
fn with_extras(action: &StripeAction<'_>, extras: &Extras, params: Params) -> Params {
    match action {
        // A cancellation takes no part in discounts, and shows none.
        StripeAction::EndNow { .. }
        | StripeAction::CallOff { .. }
        | StripeAction::Withdraw { .. } => params,
        StripeAction::SwitchLater { .. } => extras.redeem(params),
        _ => with_discounts(extras.redeem(params)),
    }
}

impl Subscriptions {
    /// The target and parameters of the call for a change, without its id.
    pub(super) async fn parameters(
        &self,
        client: &Client,
        asked: Asked<'_>,
        quote: Option<&Quote>,
    ) -> Result<CallTerms, Failure> {
        let (action, extras) = (asked.action, asked.extras);
        let (mut usage, mut flexible) = (None, false);
        let (target_id, params) = match action {
            StripeAction::Create {
                plan,
                quantities,
                addons,
                trial_days,
            } => {
                let prices = self.prices_with(client, plan, None, addons).await?;
                let customer_id = asked.customer_id.ok_or(Failure::NoOrganization)?;
                let trial = Some(*trial_days).filter(|days| *days > 0);
                let (at_end, without_card) = self.trial_end("", *trial_days);
                let params = Params::new()
                    .set("customer", customer_id)
                    .set("metadata[organization_id]", asked.organization_id)
                    .set_if(VERSION, self.version_of(plan, None))
                    .set("billing_mode[type]", prices.billing_mode(plan))
                    .set(PAYMENT_BEHAVIOR, ERROR_IF_INCOMPLETE)
                    .set_if("trial_period_days", trial)
                    .set_if(&at_end, without_card);
                let params = extras.tax(params);
                (None, items_of(&prices, *quantities, params, "items"))
            }
            StripeAction::Switch { subscription, .. } => {
                let call = self.switch(client, asked, subscription, quote).await?;
                (usage, flexible) = (Some(call.usage), call.flexible);
                (Some(subscription.id.clone()), call.params)
            }
            StripeAction::SwitchLater { subscription, .. } => {
                let next = self.next_phase(client, action, subscription).await?;
                flexible = next.1;
                (Some(subscription.id.clone()), next.0)
            }
            action => without_items(action),
        };
        Ok(CallTerms {
            target_id,
            params: with_extras(action, extras, params),
            usage,
            flexible,
        })
    }

    /// The version of a plan, by default the one that is sold now, as metadata.
    fn version_of(&self, plan: &Plan, version: Option<i32>) -> Option<String> {
        let version = version.or_else(|| self.catalogue.current_version(&plan.tier))?;
        Some(version_name(&plan.tier, version))
    }

    /// The call of a change of items.
    async fn switch(
        &self,
        client: &Client,
        asked: Asked<'_>,
        subscription: &SubscriptionRow,
        quote: Option<&Quote>,
    ) -> Result<SwitchCall, Failure> {
        let to = SwitchTo::of(asked.action).ok_or(Failure::Unexpected("no switch"))?;
        let prices = self.prices_after(client, subscription, to).await?;
        let at = match quote {
            Some(quote) => quote.effective_at,
            None => self.time_of(client, subscription).await?,
        };
        let switch = Switch::new(subscription, &self.catalogue, to, &prices, at)
            .ok_or(ChangeRejection::UnknownItems)?;
        let telling = match quote {
            Some(_) => Telling::Told,
            None => Telling::Tell,
        };
        let flexible = check_flexible(&switch)?;
        let switch = self
            .with_usage(client, asked.organization_id, switch, quote, telling)
            .await?;
        // Who keeps the prices keeps the version.
        let named = (!to.keeps_prices).then(|| self.version_of(to.plan, to.version));
        let params = switch
            .parameters("", switch.proration_behavior)
            .set_if(VERSION, named.flatten())
            .set(PAYMENT_BEHAVIOR, ERROR_IF_INCOMPLETE);
        Ok(SwitchCall {
            params,
            usage: switch.usage(),
            flexible,
        })
    }

    /// The parameters of a change at the period's end, and whether the subscription must be
    /// in flexible billing first.
    async fn next_phase(
        &self,
        client: &Client,
        action: &StripeAction<'_>,
        subscription: &SubscriptionRow,
    ) -> Result<(Params, bool), Failure> {
        let to = SwitchTo::of(action).ok_or(Failure::Unexpected("no switch"))?;
        let prices = self.prices_after(client, subscription, to).await?;
        let at = subscription.period_end.ok_or(ChangeRejection::NoPeriod)?;
        let switch = Switch::new(subscription, &self.catalogue, to, &prices, at)
            .ok_or(ChangeRejection::UnknownItems)?
            .at_period_end();
        let named = match to.keeps_prices {
            true => to.version.map(|one| version_name(&to.plan.tier, one)),
            false => self.version_of(to.plan, to.version),
        };
        let flexible = check_flexible(&switch)?;
        let params = schedule::next_phase(&switch).set_if(VERSION, named);
        Ok((params, flexible))
    }
}
