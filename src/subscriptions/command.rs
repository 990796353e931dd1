//! What a command requires in Stripe. Pure, so that preview and change agree.

use jiff::Timestamp;

use super::state::{SubscriptionRow, SubscriptionState};
use crate::catalogue::{Catalogue, Plan};

/// What a customer may request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// A first subscription.
    Subscribe {
        tier: &'a str,
        trial_days: u16,
        /// A promotion code to redeem.
        promotion_code: Option<&'a str>,
    },
    /// Another plan, including the first one and the free one.
    Change {
        tier: &'a str,
        promotion_code: Option<&'a str>,
    },
    /// Another version of its plan. Only operators migrate.
    Migrate {
        subscription_id: &'a str,
        terms: &'a Plan,
        version: i32,
    },
    /// The end of the subscription.
    Cancel { immediately: bool },
    /// Keep a subscription that is set to end.
    Reactivate,
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
    /// Keep the plan, and redeem a promotion code.
    Redeem {
        subscription: &'a SubscriptionRow,
    },
    EndWithPeriod {
        subscription: &'a SubscriptionRow,
    },
    EndNow {
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

impl<'a> Command<'a> {
    /// The promotion code that it redeems.
    pub fn promotion_code(self) -> Option<&'a str> {
        match self {
            Self::Subscribe { promotion_code, .. } | Self::Change { promotion_code, .. } => {
                promotion_code
            }
            Self::Migrate { .. } | Self::Cancel { .. } | Self::Reactivate => None,
        }
    }

    /// The same command with the code that its preview was made with.
    pub fn with_code_of(self, quoted: Option<&'a str>) -> Self {
        match self {
            Self::Change {
                tier,
                promotion_code: None,
            } => Self::Change {
                tier,
                promotion_code: quoted,
            },
            other => other,
        }
    }
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
            tier, trial_days, ..
        } => {
            let plan = plan(catalogue, tier)?;
            if subscription.is_some() {
                return Err(ChangeRejection::SubscriptionExists);
            }
            subscribe(state, plan, trial_days)
        }
        Command::Change {
            tier,
            promotion_code,
        } => {
            let plan = plan(catalogue, tier)?;
            match subscription {
                Some(subscription) => match change(subscription, catalogue, plan) {
                    Err(ChangeRejection::SamePlan(_)) if promotion_code.is_some() => {
                        Ok(StripeAction::Redeem { subscription })
                    }
                    changed => changed,
                },
                None if state.plan_tier == plan.tier => {
                    Err(ChangeRejection::SamePlan(plan.tier.clone()))
                }
                None if !plan.is_billed() => Err(ChangeRejection::NoSubscription),
                None => subscribe(state, plan, 0),
            }
        }
        Command::Migrate {
            subscription_id,
            terms,
            version,
        } => {
            let subscription = subscription.ok_or(ChangeRejection::NoSubscription)?;
            if subscription.id != subscription_id {
                return Err(ChangeRejection::Surplus {
                    counts: subscription.id.clone(),
                });
            }
            migrate(subscription, catalogue, terms, version)
        }
        Command::Cancel { immediately } => {
            let subscription = subscription.ok_or(ChangeRejection::NoSubscription)?;
            // Nothing has been paid yet, so there is no period to wait for.
            if immediately || subscription.is_incomplete() {
                Ok(StripeAction::EndNow { subscription })
            } else if subscription.ends() {
                Ok(StripeAction::Nothing { subscription })
            } else {
                Ok(StripeAction::EndWithPeriod { subscription })
            }
        }
        Command::Reactivate => match subscription.ok_or(ChangeRejection::NoSubscription)? {
            subscription if subscription.ends() => Ok(StripeAction::Keep { subscription }),
            _ => Err(ChangeRejection::NotEnding),
        },
    }
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
) -> Result<StripeAction<'a>, ChangeRejection> {
    if !plan.is_billed() {
        if subscription.is_incomplete() {
            return Ok(StripeAction::EndNow { subscription });
        }
        let ends_at = subscription.cancel_at.or(subscription.period_end);
        return match ends_at.filter(|_| subscription.ends()) {
            Some(at) => Err(ChangeRejection::EndsAlready(at)),
            None => Ok(StripeAction::EndWithPeriod { subscription }),
        };
    }
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    let (_, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    if current.tier == plan.tier {
        let tier = plan.tier.clone();
        return Err(if subscription.ends() {
            ChangeRejection::SamePlanEnding(tier)
        } else {
            ChangeRejection::SamePlan(tier)
        });
    }
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    match &subscription.currency {
        Some(currency) if !currency.eq_ignore_ascii_case(&plan.price.currency) => {
            Err(ChangeRejection::OtherCurrency {
                subscription: currency.clone(),
                plan: plan.price.currency.clone(),
            })
        }
        _ => Ok(StripeAction::Switch {
            subscription,
            plan,
            version: None,
        }),
    }
}

fn migrate<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    terms: &'a Plan,
    version: i32,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    let ends_at = subscription.cancel_at.or(subscription.period_end);
    if let Some(at) = ends_at.filter(|_| subscription.ends()) {
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
        _ => Ok(StripeAction::Switch {
            subscription,
            plan: terms,
            version: Some(version),
        }),
    }
}
