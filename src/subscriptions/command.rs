//! What a command requires in Stripe. Pure, so that preview and change agree.

use jiff::Timestamp;

use super::state::{SubscriptionRow, SubscriptionState};
use crate::catalogue::{Catalogue, Plan, When};

/// What a customer may request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// A first subscription.
    Subscribe { tier: &'a str, trial_days: u16 },
    /// Another plan, including the first one and the free one; without a time, when
    /// the catalogue says.
    Change { tier: &'a str, when: Option<When> },
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

/// What Stripe is asked to do.
#[derive(Debug, Clone, Copy)]
pub enum StripeAction<'a> {
    Create {
        plan: &'a Plan,
        trial_days: u16,
    },
    /// Replace the price of the plan's item.
    Switch {
        subscription: &'a SubscriptionRow,
        plan: &'a Plan,
        /// The version of the plan; `None` for the one that is sold.
        version: Option<i32>,
    },
    /// The same, once the period has ended.
    SwitchLater {
        subscription: &'a SubscriptionRow,
        plan: &'a Plan,
        version: Option<i32>,
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

/// Why a command is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRejection {
    #[error("there is no plan {tier:?}; the plans are {}", .tiers.join(", "))]
    UnknownPlan { tier: String, tiers: Vec<String> },
    #[error("the plan {0:?} is not sold any more; GET /api/billing/plans lists those that are")]
    PlanRetired(String),
    #[error("the plan is {0:?} already")]
    SamePlan(String),
    #[error(
        "the plan is {0:?} already, and is to end with the period; to keep it, POST /api/billing/subscription/reactivate"
    )]
    SamePlanEnding(String),
    #[error(
        "the plan is {0:?} already, and a change of it is pending; to keep it, DELETE /api/billing/subscription/pending-change"
    )]
    SamePlanPending(String),
    #[error("the subscription is on the plan {0:?} by now")]
    OtherPlan(String),
    #[error(
        "the organization's plan is that of {counts}; `subscriptions reconcile` tells which of the two to end"
    )]
    Surplus { counts: String },
    #[error("there is a subscription already; PUT changes its plan")]
    SubscriptionExists,
    #[error("there is no subscription; POST makes one")]
    NoSubscription,
    #[error("the plan {0:?} needs no subscription")]
    NeedsNoSubscription(String),
    #[error(
        "its first payment has not succeeded yet: pay its invoice, or cancel it and subscribe anew"
    )]
    Incomplete,
    #[error("the subscription ends on {0} already")]
    EndsAlready(Timestamp),
    #[error(
        "the subscription ends on {0}, so no change can follow; POST /api/billing/subscription/reactivate keeps it"
    )]
    EndsBefore(Timestamp),
    #[error(
        "a plan that is not billed begins when the period ends that is paid for; DELETE /api/billing/subscription?immediately=true ends it now"
    )]
    NotAtOnce,
    #[error("there is no subscription, and so no period whose end a change could wait for")]
    NoPeriod,
    #[error("no change of the subscription is pending")]
    NothingPending,
    #[error(
        "a change to the plan {0:?} is pending; DELETE /api/billing/subscription/pending-change calls it off"
    )]
    ChangePending(String),
    #[error("the subscription is not about to end")]
    NotEnding,
    #[error("a trial of {plan:?} lasts at most {most} days")]
    TrialTooLong { plan: String, most: u16 },
    #[error("a trial is for the first subscription only")]
    TrialUsed,
    #[error(
        "the subscription is in {subscription}, and the plan is priced in {plan}; cancel it, and subscribe anew when it has ended"
    )]
    OtherCurrency { subscription: String, plan: String },
    #[error(
        "the subscription has no price of the catalogue, so its plan cannot be changed here; change it in Stripe, or add its price to the catalogue"
    )]
    UnknownItems,
}

/// The action that fulfils `command`, given the organization's `state`.
pub fn decide<'a>(
    state: &'a SubscriptionState,
    catalogue: &'a Catalogue,
    command: Command<'a>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let subscription = state.subscription.as_ref();
    match command {
        Command::Subscribe { tier, trial_days } => {
            let plan = plan(catalogue, tier)?;
            if subscription.is_some() {
                return Err(ChangeRejection::SubscriptionExists);
            }
            subscribe(state, plan, trial_days)
        }
        Command::Change { tier, when } => {
            let plan = plan(catalogue, tier)?;
            match subscription {
                Some(subscription) => change(subscription, catalogue, plan, when),
                None if state.plan_tier == plan.tier => {
                    Err(ChangeRejection::SamePlan(plan.tier.clone()))
                }
                None if !plan.is_billed() => Err(ChangeRejection::NoSubscription),
                None if when == Some(When::PeriodEnd) => Err(ChangeRejection::NoPeriod),
                None => subscribe(state, plan, 0),
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
    plan: &'a Plan,
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
    Ok(StripeAction::Create { plan, trial_days })
}

fn change<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    plan: &'a Plan,
    when: Option<When>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let details = CancellationDetails::default();
    if !plan.is_billed() {
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
    if current.tier == plan.tier {
        let tier = plan.tier.clone();
        return Err(if subscription.ends() {
            ChangeRejection::SamePlanEnding(tier)
        } else if subscription.pending.is_some() {
            ChangeRejection::SamePlanPending(tier)
        } else {
            ChangeRejection::SamePlan(tier)
        });
    }
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    // Stripe lets only the schedule itself take its end back.
    if let (Some(at), Some(_)) = (subscription.ends_at(), &subscription.schedule_id) {
        return Err(ChangeRejection::EndsBefore(at));
    }
    if let Some(currency) = &subscription.currency
        && !currency.eq_ignore_ascii_case(&plan.price.currency)
    {
        return Err(ChangeRejection::OtherCurrency {
            subscription: currency.clone(),
            plan: plan.price.currency.clone(),
        });
    }
    let when = when.unwrap_or_else(|| catalogue.when(&current.tier, &plan.tier));
    if when == When::PeriodEnd {
        return later(subscription, plan, None);
    }
    match &subscription.pending {
        // Stripe restarts no period beside a schedule, and one that was released for a
        // change that is then declined would be lost.
        Some(pending) if item.cadence() != Some(plan.price.interval.cadence()) => {
            let tier = pending.plan_tier.clone().unwrap_or_default();
            Err(ChangeRejection::ChangePending(tier))
        }
        _ => Ok(StripeAction::Switch {
            subscription,
            plan,
            version: None,
        }),
    }
}

fn later<'a>(
    subscription: &'a SubscriptionRow,
    plan: &'a Plan,
    version: Option<i32>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    match subscription.ends_at() {
        Some(at) => Err(ChangeRejection::EndsBefore(at)),
        None => Ok(StripeAction::SwitchLater {
            subscription,
            plan,
            version,
        }),
    }
}

fn migrate<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    terms: &'a Plan,
    version: i32,
    when: When,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    if let Some(at) = subscription.ends_at() {
        return Err(ChangeRejection::EndsAlready(at));
    }
    let (_, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    if current.tier != terms.tier {
        return Err(ChangeRejection::OtherPlan(current.tier.clone()));
    }
    match &subscription.currency {
        Some(currency) if !currency.eq_ignore_ascii_case(&terms.price.currency) => {
            Err(ChangeRejection::OtherCurrency {
                subscription: currency.clone(),
                plan: terms.price.currency.clone(),
            })
        }
        _ if subscription.plan_version == Some(version) => {
            Ok(StripeAction::Nothing { subscription })
        }
        _ if when == When::Now => Ok(StripeAction::Switch {
            subscription,
            plan: terms,
            version: Some(version),
        }),
        _ => match &subscription.pending {
            // What the customer has chosen stays.
            Some(pending) if pending.plan_tier.as_ref() != Some(&terms.tier) => {
                let tier = pending.plan_tier.clone().unwrap_or_default();
                Err(ChangeRejection::ChangePending(tier))
            }
            _ => later(subscription, terms, Some(version)),
        },
    }
}
