//! What a command requires in Stripe. Pure, so that preview and change agree.

pub mod addons;
mod codes;
mod rejection;
mod seats;
mod switch;

use super::pending::Following;
use super::preview::token::Quote;
use super::selection::{Quantities, Selection};
use super::state::{SubscriptionRow, SubscriptionState};
use crate::catalogue::{Addons, Catalogue, Plan, When};
use addons::Unsaid;
pub use addons::{AddonItem, AddonPrice};
pub use rejection::ChangeRejection;
pub use switch::change_pending;

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
    /// No change after all, neither at the period's end nor once it is paid.
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
        addons: Vec<AddonItem>,
        trial_days: u16,
    },
    /// Replace the prices of the plan's items, or their quantities, or the add-ons.
    Switch {
        subscription: &'a SubscriptionRow,
        /// As it is bought.
        plan: Box<Plan>,
        /// The version of the plan; `None` for the one that is sold.
        version: Option<i32>,
        quantities: Quantities,
        addons: Vec<AddonItem>,
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
        addons: Vec<AddonItem>,
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
    /// Void the invoice whose payment would make a change.
    Withdraw {
        subscription: &'a SubscriptionRow,
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
            if let Some(subscription) = subscription {
                return Err(exists(subscription));
            }
            let action = subscribe(state, catalogue, plan, selection, trial_days)?;
            addons::check_trial(state, catalogue, action)
        }
        Command::Change {
            selection,
            when,
            promotion_code,
        } => {
            let plan = plan(catalogue, selection.tier)?;
            match subscription {
                Some(subscription) => {
                    let changed = switch::change(subscription, catalogue, plan, selection, when);
                    let changed = match promotion_code {
                        Some(_) => codes::redeeming(subscription, catalogue, changed),
                        None => changed,
                    };
                    addons::check_trial(state, catalogue, changed?)
                }
                None if !plan.is_billed() => {
                    addons::check_none(catalogue, plan, selection)?;
                    Err(match state.plan_tier == plan.tier {
                        true => ChangeRejection::SamePlan(plan.tier.clone()),
                        false => ChangeRejection::NoSubscription,
                    })
                }
                None if state.plan_tier == plan.tier => {
                    Err(ChangeRejection::SamePlan(plan.tier.clone()))
                }
                None if when == Some(When::PeriodEnd) => Err(ChangeRejection::NoPeriod),
                None => subscribe(state, catalogue, plan, selection, 0),
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
            switch::migrate(subscription, catalogue, terms, version, when)
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

fn exists(subscription: &SubscriptionRow) -> ChangeRejection {
    match subscription.is_incomplete() {
        true => ChangeRejection::Incomplete,
        false => ChangeRejection::SubscriptionExists,
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
    if let Some(awaited) = &subscription.awaited {
        return Ok(match awaited.is_first {
            false => StripeAction::Withdraw { subscription },
            // Without its first payment, there is nothing that stays.
            true => StripeAction::EndNow {
                subscription,
                details: CancellationDetails::default(),
            },
        });
    }
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
    catalogue: &Catalogue,
    plan: &Plan,
    selection: Selection<'_>,
    trial_days: u16,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    if !plan.is_billed() {
        addons::check_none(catalogue, plan, selection)?;
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
    let none = Addons::new();
    let addons = addons::after(None, catalogue, &none, &plan, selection, Unsaid::Stay)?;
    Ok(StripeAction::Create {
        quantities: Quantities::of(&plan, seats),
        addons,
        plan: Box::new(plan.with_seats(seats)),
        trial_days,
    })
}
