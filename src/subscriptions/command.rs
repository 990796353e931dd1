//! What a wish comes to: pure, so that the preview and the change agree.

use axum::http::StatusCode;
use jiff::Timestamp;

use super::state::{Held, Standing};
use crate::catalogue::{Catalogue, Plan};
use crate::server::problem::Problem;

/// What a customer may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'a> {
    /// A first subscription.
    Subscribe { tier: &'a str, trial_days: u16 },
    /// Another plan, whatever it takes.
    Change { tier: &'a str },
    /// The end of the subscription.
    Cancel { immediately: bool },
    /// To keep a subscription whose end is decided.
    Reactivate,
}

/// What is done about it in Stripe.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    Create {
        plan: &'a Plan,
        trial_days: u16,
    },
    /// The price of the plan's item is replaced.
    Switch {
        held: &'a Held,
        plan: &'a Plan,
    },
    EndWithPeriod {
        held: &'a Held,
    },
    EndNow {
        held: &'a Held,
    },
    Keep {
        held: &'a Held,
    },
    /// What was asked for holds already.
    Nothing {
        held: &'a Held,
    },
}

/// Why a wish cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no plan {tier:?}; the plans are {}", .tiers.join(", "))]
    UnknownPlan { tier: String, tiers: Vec<String> },
    #[error("the plan is {0:?} already")]
    SamePlan(String),
    #[error(
        "the plan is {0:?} already, and is to end with the period; to keep it, POST /api/billing/subscription/reactivate"
    )]
    SamePlanEnding(String),
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
        "the subscription is in {held}, and the plan is priced in {plan}; cancel it, and subscribe anew when it has ended"
    )]
    OtherCurrency { held: String, plan: String },
    #[error(
        "the subscription has no price of the catalogue, so its plan cannot be changed here; change it in Stripe, or add its price to the catalogue"
    )]
    UnknownItems,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::UnknownPlan { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_plan"),
            Refusal::SamePlan(_) | Refusal::SamePlanEnding(_) => {
                (StatusCode::CONFLICT, "same_plan")
            }
            Refusal::SubscriptionExists => (StatusCode::CONFLICT, "subscription_exists"),
            Refusal::NoSubscription => (StatusCode::NOT_FOUND, "no_subscription"),
            Refusal::NeedsNoSubscription(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "plan_needs_no_subscription",
            ),
            Refusal::Incomplete => (StatusCode::CONFLICT, "subscription_incomplete"),
            Refusal::EndsAlready(_) => (StatusCode::CONFLICT, "already_canceling"),
            Refusal::NotEnding => (StatusCode::CONFLICT, "not_canceling"),
            Refusal::TrialTooLong { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "trial_too_long"),
            Refusal::TrialUsed => (StatusCode::CONFLICT, "trial_used"),
            Refusal::OtherCurrency { .. } => (StatusCode::CONFLICT, "currency_mismatch"),
            Refusal::UnknownItems => (StatusCode::CONFLICT, "unknown_subscription_items"),
        };
        Self::new(status, code, refusal.to_string())
    }
}

/// What `wish` comes to for an organization that stands as it does.
pub fn decide<'a>(
    standing: &'a Standing,
    catalogue: &'a Catalogue,
    wish: Wish<'_>,
) -> Result<Step<'a>, Refusal> {
    let held = standing.subscription.as_ref();
    match wish {
        Wish::Subscribe { tier, trial_days } => {
            let plan = plan(catalogue, tier)?;
            if held.is_some() {
                return Err(Refusal::SubscriptionExists);
            }
            subscribe(standing, plan, trial_days)
        }
        Wish::Change { tier } => {
            let plan = plan(catalogue, tier)?;
            match held {
                Some(held) => change(held, catalogue, plan),
                None if standing.plan_tier == plan.tier => {
                    Err(Refusal::SamePlan(plan.tier.clone()))
                }
                None if !plan.is_billed() => Err(Refusal::NoSubscription),
                None => subscribe(standing, plan, 0),
            }
        }
        Wish::Cancel { immediately } => {
            let held = held.ok_or(Refusal::NoSubscription)?;
            // Nothing was paid yet, so there is no period to wait for.
            if immediately || held.status == "incomplete" {
                Ok(Step::EndNow { held })
            } else if held.ends() {
                Ok(Step::Nothing { held })
            } else {
                Ok(Step::EndWithPeriod { held })
            }
        }
        Wish::Reactivate => match held.ok_or(Refusal::NoSubscription)? {
            held if held.ends() => Ok(Step::Keep { held }),
            _ => Err(Refusal::NotEnding),
        },
    }
}

fn plan<'a>(catalogue: &'a Catalogue, tier: &str) -> Result<&'a Plan, Refusal> {
    catalogue.plan(tier).ok_or_else(|| Refusal::UnknownPlan {
        tier: tier.chars().take(64).collect(),
        tiers: catalogue.plans().iter().map(|p| p.tier.clone()).collect(),
    })
}

fn subscribe<'a>(
    standing: &Standing,
    plan: &'a Plan,
    trial_days: u16,
) -> Result<Step<'a>, Refusal> {
    if !plan.is_billed() {
        return Err(Refusal::NeedsNoSubscription(plan.tier.clone()));
    }
    if trial_days > plan.trial_days_max {
        return Err(Refusal::TrialTooLong {
            plan: plan.tier.clone(),
            most: plan.trial_days_max,
        });
    }
    if trial_days > 0 && standing.had_trial {
        return Err(Refusal::TrialUsed);
    }
    Ok(Step::Create { plan, trial_days })
}

fn change<'a>(
    held: &'a Held,
    catalogue: &'a Catalogue,
    plan: &'a Plan,
) -> Result<Step<'a>, Refusal> {
    if !plan.is_billed() {
        return match (held.status.as_str(), held.cancel_at.or(held.period_end)) {
            ("incomplete", _) => Ok(Step::EndNow { held }),
            (_, Some(at)) if held.ends() => Err(Refusal::EndsAlready(at)),
            _ => Ok(Step::EndWithPeriod { held }),
        };
    }
    if held.status == "incomplete" {
        return Err(Refusal::Incomplete);
    }
    let (_, current) = held.base_item(catalogue).ok_or(Refusal::UnknownItems)?;
    if current.tier == plan.tier {
        let tier = plan.tier.clone();
        return Err(if held.ends() {
            Refusal::SamePlanEnding(tier)
        } else {
            Refusal::SamePlan(tier)
        });
    }
    match &held.currency {
        Some(currency) if !currency.eq_ignore_ascii_case(&plan.price.currency) => {
            Err(Refusal::OtherCurrency {
                held: currency.clone(),
                plan: plan.price.currency.clone(),
            })
        }
        _ => Ok(Step::Switch { held, plan }),
    }
}
