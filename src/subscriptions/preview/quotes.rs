//! Makes previews, and checks that a change still costs what was quoted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::pricing::Locally;
use super::token::Quote;
use super::{Asked, Preview, PreviewUnavailable, Previewed, Pricing, Sealed};
use crate::batch::lookup::Grouped;
use crate::catalogue::{Catalogue, Plan, When};
use crate::db::{self, WorkerTx};
use crate::metering::charges;
use crate::metering::reports::Overage;
use crate::projection;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::subscriptions::command::addons::numbers;
use crate::subscriptions::command::{Command, StripeAction, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::StripePresence;
use crate::subscriptions::selection::Selection;
use crate::subscriptions::state::{SubscriptionRow, SubscriptionState};
use crate::subscriptions::{PendingChangeView, Subscriptions, promotion, store};

/// Batched reads for previews, of an organization at a second.
pub(in crate::subscriptions) type PreviewLookup = Grouped<(Uuid, i64), Previewable>;

/// What a preview is made of.
#[derive(Clone)]
pub(in crate::subscriptions) struct Previewable {
    state: SubscriptionState,
    /// Whether the subscription was ever updated.
    was_updated: bool,
    /// Usage over the quotas; read where the local engine prices it.
    overages: Vec<Overage>,
}

pub(in crate::subscriptions) fn preview_lookup(
    pool: PgPool,
    catalogue: Arc<Catalogue>,
    locally: bool,
) -> PreviewLookup {
    Grouped::new(move |asked| {
        let (pool, catalogue) = (pool.clone(), catalogue.clone());
        Box::pin(async move {
            let mut conn = db::acquire(&pool).await?;
            let organizations: BTreeSet<Uuid> = asked.iter().map(|(id, _)| *id).collect();
            let organizations = Vec::from_iter(organizations);
            let states = store::states(&mut conn, &organizations, &catalogue).await?;
            let subscription: Vec<(Uuid, &str)> = states
                .iter()
                .filter_map(|(id, state)| Some((*id, &*state.subscription.as_ref()?.id)))
                .collect();
            let updated = projection::updated(&mut conn, &subscription).await?;
            let mut overages = match locally {
                true => charges::overages(&mut conn, &catalogue, &asked).await?,
                false => HashMap::new(),
            };
            let found = asked.into_iter().filter_map(|key| {
                let previewable = Previewable {
                    state: states.get(&key.0)?.clone(),
                    was_updated: updated.contains(&key.0),
                    overages: overages.remove(&key).unwrap_or_default(),
                };
                Some((key, previewable))
            });
            Ok(found.collect())
        })
    })
}

/// Two refreshes: one may find that the subscription has ended, the next that
/// its customer was deleted.
const MAX_REFRESHES: u32 = 2;

impl Subscriptions {
    /// What a change to the plan that is selected would cost at `now`, with a promotion
    /// code if one is given.
    pub async fn preview<'a>(
        &self,
        organization_id: Uuid,
        selection: impl Into<Selection<'a>>,
        when: Option<When>,
        promotion_code: Option<&'a str>,
        now: Timestamp,
    ) -> Result<Preview, Failure> {
        let selection = selection.into();
        let promotion_code = promotion_code.map(promotion::check_text).transpose()?;
        let command = Command::Change {
            selection,
            when,
            promotion_code,
        };
        let mut refreshes = 0;
        let (state, new, pricing) = loop {
            match self.price(organization_id, command, selection, now).await {
                // Our state of the customer or subscription may be out of date.
                Err(Failure::Stripe(error))
                    if refreshes < MAX_REFRESHES
                        && matches!(
                            error.kind,
                            ErrorKind::NotFound | ErrorKind::InvalidRequest
                        ) =>
                {
                    refreshes += 1;
                    // It is rare, and its future large.
                    Box::pin(self.investigate_missing(organization_id, &error)).await?;
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
            addons: match new.plan.tier == selection.tier {
                true => selection.addons.cloned().or_else(|| new.asked_addons()),
                // Where it is another plan that gets them, they need not go with this one.
                false => selection.addons.cloned(),
            },
            when: new.when,
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
            usage: pricing.usage.clone(),
            expires_at,
        };
        let sealed = Sealed {
            token: self.sealer.seal(&quote).await?,
            expires_at,
            promotion_code: quote.promotion_code,
        };
        let current = self.terms_of(&state).await?;
        let current = super::Current {
            tier: &state.plan_tier,
            terms: current.as_ref(),
            addons: &state.bought.addons,
        };
        let subscription = state.subscription.as_ref();
        let pending = subscription.and_then(PendingChangeView::of);
        Ok(pricing.into_preview(current, &new, pending, sealed))
    }

    /// The organization's state, and what the change comes to and costs.
    async fn price(
        &self,
        organization_id: Uuid,
        command: Command<'_>,
        selection: Selection<'_>,
        now: Timestamp,
    ) -> Result<(SubscriptionState, Previewed, Pricing), Failure> {
        let key = (organization_id, now.as_second());
        let found = self.preview_lookup.find(key).await?;
        let Previewable {
            state,
            was_updated,
            overages,
        } = found.ok_or(Failure::NoOrganization)?;
        self.recall_terms(&state).await?;
        let action = decide(&state, &self.catalogue, command)?;
        self.check_seats(organization_id, &action).await?;
        let code = command.promotion_code();
        let pricing = match &self.stripe {
            Some(client) => {
                let extras = self
                    .extras(Some(client), organization_id, &state, &action, code)
                    .await?;
                let asked = Asked {
                    organization_id,
                    action: &action,
                    extras: &extras,
                    customer_id: state.customer_id.as_deref(),
                };
                Box::pin(self.price_with_stripe(client, asked, None, now)).await?
            }
            None if code.is_some() => {
                return Err(PreviewUnavailable::StripeOnly("would redeem a promotion code").into());
            }
            None => {
                let locally = Locally {
                    organization_id,
                    was_updated,
                    overages,
                };
                self.price_locally(&state, &action, locally, now).await?
            }
        };
        let new = self.previewed(selection, &action)?;
        let new = self.with_addons(new, &action);
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
            StripeAction::Redeem { plan, seats, .. } => {
                (plan.as_ref().clone(), Some(plan.price.interval), *seats)
            }
            StripeAction::EndWithPeriod { .. }
            | StripeAction::EndNow { .. }
            | StripeAction::CallOff { .. }
            | StripeAction::Withdraw { .. }
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
            addons: None,
        })
    }

    /// The same with the add-ons that the change leaves beside the plan.
    fn with_addons(&self, new: Previewed, action: &StripeAction<'_>) -> Previewed {
        let addons = match action {
            StripeAction::Create { addons, .. }
            | StripeAction::Switch { addons, .. }
            | StripeAction::SwitchLater { addons, .. } => numbers(addons),
            StripeAction::Redeem { subscription, .. } => subscription.addons(&self.catalogue),
            _ => return new,
        };
        Previewed {
            plan: self.catalogue.with_addons(new.plan, &addons),
            addons: Some(addons),
            ..new
        }
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
            let terms = terms
                .paid_in(bought.currency.as_deref(), bought.interval)
                .with_seats(bought.seats);
            self.catalogue.with_addons(terms, &bought.addons)
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
        let is_quoted =
            |selection: Selection<'_>| selection == Selection::quoted(quote, selection.currency);
        let is_same_code = |code: Option<&str>| match (code.map(str::trim), quoted) {
            (Some(code), Some(quoted)) => code.eq_ignore_ascii_case(quoted),
            (code, quoted) => code == quoted,
        };
        let is_same_change = match command {
            Command::Change {
                selection,
                when,
                promotion_code,
            } => {
                is_quoted(selection)
                    && (quote.when.is_none() || when == quote.when)
                    && is_same_code(promotion_code)
            }
            // No preview is of a trial.
            Command::Subscribe {
                selection,
                trial_days,
                promotion_code,
            } => is_quoted(selection) && trial_days == 0 && is_same_code(promotion_code),
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
        asked: Asked<'_>,
        quote: &Quote,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let pricing = self
            .price_with_stripe(client, asked, Some(quote), now)
            .await?;
        if pricing.matches(quote) {
            Ok(())
        } else {
            Err(Failure::Stale("Stripe would charge another amount by now"))
        }
    }
}
