//! What a command requires in Stripe. Pure, so that preview and change agree.

mod codes;
mod rejection;
mod seats;

use super::pending::{Following, PendingChange};
use super::preview::token::Quote;
use super::selection::{Quantities, Selection};
use super::state::{SubscriptionRow, SubscriptionState};
use crate::catalogue::{Catalogue, Interval, Plan, When};
pub use rejection::ChangeRejection;

/// What a customer may request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// A first subscription.
    Subscribe {
        selection: Selection<'a>,
        trial_days: u16,
        /// A promotion code to redeem.
        promotion_code: Option<&'a str>,
    },
    /// Another plan, including the first one and the free one, another interval, or
    /// other seats; without a time, when the catalogue says.
    Change {
        selection: Selection<'a>,
        when: Option<When>,
        promotion_code: Option<&'a str>,
    },
    /// Another version of its plan. Only operators migrate.
    Migrate {
        subscription_id: &'a str,
        terms: &'a Plan,
        version: i32,
        when: When,
    },
    /// The end of the subscription.
    Cancel {
        immediately: bool,
        details: CancellationDetails<'a>,
    },
    /// Keep a subscription that is set to end.
    Reactivate,
    /// No change at the period's end after all.
    CallOff,
}

/// Why a customer cancels, in their own words and in one of Stripe's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CancellationDetails<'a> {
    pub reason: Option<&'a str>,
    pub feedback: Option<&'a str>,
}

impl<'a> Command<'a> {
    /// What a change does not say is as it was previewed.
    pub fn or_as_quoted(self, quote: Option<&'a Quote>) -> Self {
        match (self, quote) {
            (
                Self::Change {
                    selection,
                    when,
                    promotion_code,
                },
                Some(quote),
            ) => Self::Change {
                selection: selection.or_as_quoted(quote),
                when: when.or(quote.when),
                promotion_code: promotion_code.or(quote.promotion_code.as_deref()),
            },
            (
                Self::Subscribe {
                    selection,
                    trial_days,
                    promotion_code,
                },
                Some(quote),
            ) => Self::Subscribe {
                selection: selection.or_as_quoted(quote),
                trial_days,
                promotion_code: promotion_code.or(quote.promotion_code.as_deref()),
            },
            (command, _) => command,
        }
    }

    /// The promotion code that it redeems.
    pub fn promotion_code(self) -> Option<&'a str> {
        match self {
            Self::Subscribe { promotion_code, .. } | Self::Change { promotion_code, .. } => {
                promotion_code
            }
            Self::Migrate { .. } | Self::Cancel { .. } | Self::Reactivate | Self::CallOff => None,
        }
    }
}

/// What Stripe is asked to do.
#[derive(Debug, Clone)]
pub enum StripeAction<'a> {
    Create {
        /// As it is bought.
        plan: Box<Plan>,
        quantities: Quantities,
        trial_days: u16,
    },
    /// Replace the prices of the plan's items, or their quantities.
    Switch {
        subscription: &'a SubscriptionRow,
        /// As it is bought.
        plan: Box<Plan>,
        /// The version of the plan; `None` for the one that is sold.
        version: Option<i32>,
        quantities: Quantities,
        /// Whether only quantities change: the subscriber keeps prices and terms.
        keeps_prices: bool,
        /// What becomes of a pending change.
        following: Option<Box<Following>>,
    },
    /// The same, once the period has ended.
    SwitchLater {
        subscription: &'a SubscriptionRow,
        plan: Box<Plan>,
        version: Option<i32>,
        quantities: Quantities,
        keeps_prices: bool,
    },
    /// Keep the plan, and redeem a promotion code.
    Redeem {
        subscription: &'a SubscriptionRow,
        /// As it is held.
        plan: Box<Plan>,
        seats: Option<u32>,
    },
    EndWithPeriod {
        subscription: &'a SubscriptionRow,
        details: CancellationDetails<'a>,
    },
    EndNow {
        subscription: &'a SubscriptionRow,
        details: CancellationDetails<'a>,
    },
    /// Release the schedule that would make a change.
    CallOff {
        subscription: &'a SubscriptionRow,
        schedule: &'a str,
    },
    Keep {
        subscription: &'a SubscriptionRow,
    },
    /// The command is already fulfilled.
    Nothing {
        subscription: &'a SubscriptionRow,
    },
}

/// The action that fulfils `command`, given the organization's `state`.
pub fn decide<'a>(
    state: &'a SubscriptionState,
    catalogue: &'a Catalogue,
    command: Command<'a>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let subscription = state.subscription.as_ref();
    match command {
        Command::Subscribe {
            selection,
            trial_days,
            ..
        } => {
            let plan = plan(catalogue, selection.tier)?;
            if subscription.is_some() {
                return Err(ChangeRejection::SubscriptionExists);
            }
            subscribe(state, plan, selection, trial_days)
        }
        Command::Change {
            selection,
            when,
            promotion_code,
        } => {
            let plan = plan(catalogue, selection.tier)?;
            match subscription {
                Some(subscription) => {
                    let changed = change(subscription, catalogue, plan, selection, when);
                    match promotion_code {
                        Some(_) => codes::redeeming(subscription, catalogue, changed),
                        None => changed,
                    }
                }
                None if state.plan_tier == plan.tier => {
                    Err(ChangeRejection::SamePlan(plan.tier.clone()))
                }
                None if !plan.is_billed() => Err(ChangeRejection::NoSubscription),
                None if when == Some(When::PeriodEnd) => Err(ChangeRejection::NoPeriod),
                None => subscribe(state, plan, selection, 0),
            }
        }
        Command::Migrate {
            subscription_id,
            terms,
            version,
            when,
        } => {
            let subscription = subscription.ok_or(ChangeRejection::NoSubscription)?;
            if subscription.id != subscription_id {
                return Err(ChangeRejection::Surplus {
                    counts: subscription.id.clone(),
                });
            }
            migrate(subscription, catalogue, terms, version, when)
        }
        Command::Cancel {
            immediately,
            details,
        } => {
            let subscription = subscription.ok_or(ChangeRejection::NoSubscription)?;
            Ok(cancel(subscription, immediately, details))
        }
        Command::CallOff => call_off(subscription),
        Command::Reactivate => match subscription.ok_or(ChangeRejection::NoSubscription)? {
            subscription if subscription.ends() => Ok(StripeAction::Keep { subscription }),
            _ => Err(ChangeRejection::NotEnding),
        },
    }
}

fn cancel<'a>(
    subscription: &'a SubscriptionRow,
    immediately: bool,
    details: CancellationDetails<'a>,
) -> StripeAction<'a> {
    // Nothing has been paid yet, so there is no period to wait for.
    if immediately || subscription.is_incomplete() {
        StripeAction::EndNow {
            subscription,
            details,
        }
    } else if subscription.ends() && details == CancellationDetails::default() {
        StripeAction::Nothing { subscription }
    } else {
        StripeAction::EndWithPeriod {
            subscription,
            details,
        }
    }
}

fn call_off(subscription: Option<&SubscriptionRow>) -> Result<StripeAction<'_>, ChangeRejection> {
    let subscription = subscription.ok_or(ChangeRejection::NothingPending)?;
    let pending = subscription.pending.as_ref();
    let pending = pending.ok_or(ChangeRejection::NothingPending)?;
    if pending.migrates {
        return Err(change_pending(pending));
    }
    Ok(StripeAction::CallOff {
        subscription,
        schedule: &pending.stripe_schedule_id,
    })
}

fn plan<'a>(catalogue: &'a Catalogue, tier: &str) -> Result<&'a Plan, ChangeRejection> {
    catalogue
        .plan(tier)
        .ok_or_else(|| ChangeRejection::UnknownPlan {
            tier: tier.chars().take(64).collect(),
            tiers: catalogue.plans().iter().map(|p| p.tier.clone()).collect(),
        })
}

fn subscribe<'a>(
    state: &SubscriptionState,
    plan: &Plan,
    selection: Selection<'_>,
    trial_days: u16,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    if !plan.is_billed() {
        return Err(ChangeRejection::NeedsNoSubscription(plan.tier.clone()));
    }
    if trial_days > plan.trial_days_max {
        return Err(ChangeRejection::TrialTooLong {
            plan: plan.tier.clone(),
            most: plan.trial_days_max,
        });
    }
    if trial_days > 0 && state.had_trial {
        return Err(ChangeRejection::TrialUsed);
    }
    let plan = selection.choose(plan, state.customer_currency.as_deref(), None)?;
    let seats = selection.seats(&plan, None)?;
    Ok(StripeAction::Create {
        quantities: Quantities::of(&plan, seats),
        plan: Box::new(plan.with_seats(seats)),
        trial_days,
    })
}

fn change<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    plan: &Plan,
    selection: Selection<'_>,
    when: Option<When>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let details = CancellationDetails::default();
    if !plan.is_billed() {
        selection.seats(plan, None)?;
        if subscription.is_incomplete() {
            return Ok(StripeAction::EndNow {
                subscription,
                details,
            });
        }
        return match subscription.ends_at() {
            Some(at) => Err(ChangeRejection::EndsAlready(at)),
            None if when == Some(When::Now) => Err(ChangeRejection::NotAtOnce),
            None => Ok(StripeAction::EndWithPeriod {
                subscription,
                details,
            }),
        };
    }
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    let (item, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    let interval = item.plan_interval();
    let stays = selection
        .interval
        .is_none_or(|asked| Some(asked) == interval);
    let held = held_terms(subscription, catalogue, current, interval);
    let seats = subscription.seats(catalogue, &held);
    if current.tier == plan.tier && stays {
        return seats::change(subscription, catalogue, held, seats, selection, when);
    }
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    // Stripe lets only the schedule itself take its end back.
    if let (Some(at), Some(_)) = (subscription.ends_at(), &subscription.schedule_id) {
        return Err(ChangeRejection::EndsBefore(at));
    }
    let currency = subscription.currency.as_deref();
    let chosen = selection.choose(plan, currency, interval)?;
    let after = selection.seats(&chosen, seats)?;
    let cadence = chosen.price.interval.cadence();
    let target = Target {
        quantities: quantities(&held, &chosen, after),
        plan: Box::new(chosen.with_seats(after)),
        version: None,
        keeps_prices: false,
    };
    let when = when.unwrap_or_else(|| catalogue.when(&current.tier, &plan.tier));
    if when == When::PeriodEnd {
        return later(subscription, target);
    }
    match &subscription.pending {
        // Stripe restarts no period beside a schedule, and one that was released for a
        // change that is then declined would be lost.
        Some(pending) if item.cadence() != Some(cadence) => Err(change_pending(pending)),
        _ => Ok(target.now(subscription, None)),
    }
}

/// The terms that a subscription has, as they are paid.
fn held_terms(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    current: &Plan,
    interval: Option<Interval>,
) -> Plan {
    let tier = current.tier.as_str();
    let version = subscription.plan_version;
    let version = version.or_else(|| catalogue.oldest_version(tier));
    let terms = catalogue.known_terms(tier, version);
    let terms = terms.unwrap_or_else(|| current.clone());
    terms.paid_in(subscription.currency.as_deref(), interval)
}

pub fn change_pending(pending: &PendingChange) -> ChangeRejection {
    if pending.migrates {
        return ChangeRejection::MigrationPending(pending.effective_at);
    }
    ChangeRejection::ChangePending(pending.plan_tier.clone().unwrap_or_default())
}

/// What a subscription is to become.
struct Target {
    plan: Box<Plan>,
    version: Option<i32>,
    quantities: Quantities,
    keeps_prices: bool,
}

impl Target {
    fn now(self, subscription: &SubscriptionRow, following: Option<Following>) -> StripeAction<'_> {
        StripeAction::Switch {
            subscription,
            plan: self.plan,
            version: self.version,
            quantities: self.quantities,
            keeps_prices: self.keeps_prices,
            following: following.map(Box::new),
        }
    }
}

/// The quantities after a switch. Where the fee was for each seat and is not any more, it
/// is charged once.
fn quantities(held: &Plan, plan: &Plan, seats: Option<u32>) -> Quantities {
    let after = Quantities::of(plan, seats);
    let was_each = held.licensed_seats();
    let was_each = was_each.is_some_and(|seats| seats.prices.is_empty());
    Quantities {
        fee: after.fee.or(was_each.then_some(1)),
        ..after
    }
}

fn later(
    subscription: &SubscriptionRow,
    target: Target,
) -> Result<StripeAction<'_>, ChangeRejection> {
    match subscription.ends_at() {
        Some(at) => Err(ChangeRejection::EndsBefore(at)),
        None => Ok(StripeAction::SwitchLater {
            subscription,
            plan: target.plan,
            version: target.version,
            quantities: target.quantities,
            keeps_prices: target.keeps_prices,
        }),
    }
}

fn migrate<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    terms: &Plan,
    version: i32,
    when: When,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    if let Some(at) = subscription.ends_at() {
        return Err(ChangeRejection::EndsAlready(at));
    }
    let (item, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    if current.tier != terms.tier {
        return Err(ChangeRejection::OtherPlan(current.tier.clone()));
    }
    if subscription.plan_version == Some(version) {
        return Ok(StripeAction::Nothing { subscription });
    }
    let interval = item.plan_interval();
    let held = held_terms(subscription, catalogue, current, interval);
    let seats = subscription.seats(catalogue, &held);
    // What the customer has chosen stays.
    let (interval, seats) = match &subscription.pending {
        None => (interval, seats),
        Some(pending) if pending.plan_tier.as_ref() != Some(&terms.tier) => match when {
            When::Now => (interval, seats),
            When::PeriodEnd => return Err(change_pending(pending)),
        },
        Some(pending) => match when {
            // It would have the former prices again.
            When::Now if pending.plan_version != Some(version) => {
                return Err(change_pending(pending));
            }
            When::Now => (interval, seats),
            When::PeriodEnd => (pending.interval.or(interval), pending.seats.or(seats)),
        },
    };
    // Nobody is moved to another interval than the customer has chosen.
    let selection = Selection {
        interval: Some(interval.ok_or(ChangeRejection::UnknownItems)?),
        ..Selection::from(terms.tier.as_str())
    };
    let plan = selection.choose(terms, subscription.currency.as_deref(), interval)?;
    let seats = selection.seats(&plan, seats)?;
    let target = Target {
        quantities: quantities(&held, &plan, seats),
        plan: Box::new(plan.with_seats(seats)),
        version: Some(version),
        keeps_prices: false,
    };
    match when {
        When::Now => Ok(target.now(subscription, None)),
        When::PeriodEnd => later(subscription, target),
    }
}
